//! Models with random weights of any shape, for tests, simulations and benchmarks. They say
//! nothing sensible, but every operation runs at its real width and inside its bounds. Integers
//! only, like everything in this crate: the tables are close to the real ones, not equal.

use alloc::vec;
use alloc::vec::Vec;
use lockstep_base::Digest;
use lockstep_base::adapter::{AdapterConfig, AdapterWeights, LayerAdapter, LowRank, Target};
use lockstep_base::config::{Block, FeedForward, ModelConfig, OPSET, Positions, SOFT_CAP_ENTRIES};
use lockstep_base::limits::PRE_SHIFTED_BITS;
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::{
    DenseWeights, Embedding, FfnWeights, GROUP_COLS, Gain, LayerWeights, Linear, ModelWeights, Region, Slope,
    Tables, WeightFormat, code_offset,
};

/// Fractional bits of q, k, v and gate.
const PROJECTION_FRAC: i8 = 9;
/// Fractional bits of up in a gated block, whose range is half as wide.
const UP_FRAC: i8 = 8;
/// Fractional bits of the logits.
const LOGITS_FRAC: i8 = 10;
/// Fractional bits between the matrices of an adapter, which read more than the normed stream.
const ADAPTER_FRAC: i8 = 4;
/// Row multiplier of every row.
const MULTIPLIER: u8 = 24;
/// int4 tables of a synthetic model.
const INT4_TABLES: u64 = 64;

/// A small configuration for tests: grouped heads, padded widths.
#[must_use]
pub fn small_config() -> ModelConfig {
    ModelConfig {
        opset: OPSET.into(),
        name: "synthetic".into(),
        n_layers: 4,
        d_model: 48,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 16,
        d_ffn: 80,
        vocab: 97,
        context: 320,
        residual_frac: 16,
        norm_eps: 48 * 42_950,
        positions: Positions::Rope,
        feed_forward: FeedForward::Gated,
        bos: Some(1),
        eos: vec![2],
        rope_dim: 16,
        ..ModelConfig::decoder()
    }
}

/// A model of `config`'s shape with weights from `seed`.
#[must_use]
pub fn model(config: &ModelConfig, format: WeightFormat, seed: u64) -> ModelWeights {
    let mut rng = SplitMix64::new(seed);
    let (d, width) = (config.d_padded() as usize, config.d_model as usize);
    let (q_dim, kv_dim) = (config.q_dim() as usize, config.kv_dim() as usize);
    let residual = config.residual_frac as i8;
    let post = |rng: &mut SplitMix64| {
        (config.block != Block::PreNorm).then(|| gain(width, config.block == Block::PostNorm, residual, rng))
    };
    let layers = (0..config.n_layers as usize)
        .map(|index| LayerWeights {
            q: linear(format, q_dim, d, PROJECTION_FRAC, &mut rng),
            k: linear(format, kv_dim, d, PROJECTION_FRAC, &mut rng),
            v: linear(format, kv_dim, d, PROJECTION_FRAC, &mut rng),
            o: linear(format, width, config.o_cols() as usize, residual, &mut rng),
            k_center: (0..kv_dim).map(|_| rng.below(64) as i32 - 32).collect(),
            q_norm: config.qk_norm.then(|| gain(config.head_dim as usize, false, PROJECTION_FRAC, &mut rng)),
            k_norm: config.qk_norm.then(|| gain(config.head_dim as usize, false, PROJECTION_FRAC, &mut rng)),
            attn_post: post(&mut rng),
            ffn: match config.experts.filter(|_| config.layer_pattern(index).experts) {
                None => FfnWeights::Dense(dense(config, format, &mut rng)),
                Some(experts) => FfnWeights::Experts {
                    router: linear(WeightFormat::Int8, experts.count as usize, d, PROJECTION_FRAC, &mut rng),
                    experts: (0..experts.count).map(|_| dense(config, format, &mut rng)).collect(),
                },
            },
            ffn_post: post(&mut rng),
        })
        .collect();
    ModelWeights {
        tables: tables(config, &mut rng),
        embed: Some(embedding(config.vocab as usize, width, &mut rng)),
        positions: (config.positions == Positions::Learned)
            .then(|| embedding(config.context as usize, width, &mut rng)),
        embed_norm: (config.block == Block::PostNorm).then(|| gain(width, true, residual, &mut rng)),
        first_layer: 0,
        layers,
        head: config
            .pooling
            .is_none()
            .then(|| linear(WeightFormat::Int8, config.vocab as usize, d, LOGITS_FRAC, &mut rng)),
        config: config.clone(),
    }
}

/// An adapter of `rank` beside every dense matrix of `model`, whose root is `base`.
#[must_use]
pub fn adapter(model: &ModelWeights, base: Digest, rank: u32, seed: u64) -> AdapterWeights {
    let mut rng = SplitMix64::new(seed);
    let config = AdapterConfig { opset: OPSET.into(), name: "synthetic".into(), base, rank };
    let mut one = |matrix: &Linear| LowRank {
        a: linear(WeightFormat::Int8, rank as usize, matrix.cols, ADAPTER_FRAC, &mut rng),
        b: linear(WeightFormat::Int8, matrix.rows, config.rank_padded() as usize, matrix.out_frac, &mut rng),
    };
    let mut layers = Vec::with_capacity(model.layers.len());
    for layer in &model.layers {
        let mut parts = LayerAdapter::default();
        for target in Target::ALL {
            if let Some(matrix) = target.of(layer) {
                parts.set(target, one(matrix));
            }
        }
        layers.push(parts);
    }
    AdapterWeights {
        config,
        root: Digest::of(&[&seed.to_le_bytes()]),
        first_layer: model.first_layer,
        layers,
    }
}

fn dense(config: &ModelConfig, format: WeightFormat, rng: &mut SplitMix64) -> DenseWeights {
    let (d, ffn, residual) = (config.d_padded() as usize, config.d_ffn as usize, config.residual_frac as i8);
    DenseWeights {
        gate: (config.feed_forward == FeedForward::Gated)
            .then(|| linear(format, ffn, d, PROJECTION_FRAC, rng)),
        up: linear(format, ffn, d, UP_FRAC, rng),
        down: linear(format, config.d_model as usize, config.down_cols() as usize, residual, rng),
    }
}

/// Gains from 1/2 to 3/2, either sign; offsets of up to a quarter.
fn gain(width: usize, centred: bool, out_frac: i8, rng: &mut SplitMix64) -> Gain {
    let sign = |rng: &mut SplitMix64| 1 - 2 * rng.below(2) as i16;
    let quarter = 1i64 << (out_frac - 2);
    Gain {
        mantissas: (0..width).map(|_| sign(rng) * (512 + rng.below(1024) as i16)).collect(),
        shifts: vec![10; width],
        offsets: if centred {
            (0..width).map(|_| (rng.below(2 * quarter as u64) as i64 - quarter) as i32).collect()
        } else {
            Vec::new()
        },
        eps: width as u64,
        out_frac,
        centred,
    }
}

/// A matrix with uniform codes whose outputs are of the size of its inputs.
fn linear(format: WeightFormat, rows: usize, cols: usize, out_frac: i8, rng: &mut SplitMix64) -> Linear {
    let mut codes = vec![0u8; format.code_bytes(rows, cols)];
    rng.fill(&mut codes);
    let plane = format.code_bytes(rows, cols) / if format == WeightFormat::Int16 { 2 } else { 1 };
    if format != WeightFormat::Int4 {
        // -128 never occurs; low parts are small.
        codes.iter_mut().filter(|code| **code == 0x80).for_each(|code| *code = 0);
        codes[plane..].iter_mut().for_each(|code| *code = (*code as i8 / 2) as u8);
    }
    let mut table_ids = vec![0u8; format.id_bytes(rows, cols)];
    table_ids.chunks_mut(2).for_each(|id| id[0] = rng.below(INT4_TABLES) as u8);
    // The last panel is filled up with zero rows.
    for row in rows..rows.next_multiple_of(4) {
        let step = if format == WeightFormat::Int4 { GROUP_COLS } else { 16 };
        for start in (0..codes.len()).step_by(plane) {
            for col in (0..cols).step_by(step) {
                let at = start + code_offset(format, cols, row, col);
                codes[at..at + 16].fill(0);
            }
        }
    }
    // Uniform codes times 24 have an rms of about 2^10.8; sqrt(cols) columns add up.
    let shift = 11 + cols.ilog2().div_ceil(2) as u8;
    let sum_bits = (127 * 127 * cols as u64).ilog2() + 1;
    Linear {
        rows,
        cols,
        format,
        codes: Region::from(codes),
        table_ids: Region::from(table_ids),
        multipliers: vec![MULTIPLIER; rows],
        shifts: vec![shift; rows],
        bias: Vec::new(),
        pre_shift: sum_bits.saturating_sub(PRE_SHIFTED_BITS) as u8,
        out_frac,
    }
}

fn embedding(rows: usize, cols: usize, rng: &mut SplitMix64) -> Embedding {
    let mut codes = vec![0u8; rows * cols * 2];
    rng.fill(&mut codes);
    Embedding { rows, cols, frac: 14, codes: Region::from(codes) }
}

fn tables(config: &ModelConfig, rng: &mut SplitMix64) -> Tables {
    // 2^(-1/256) with 32 fractional bits.
    const ROOT: u64 = 4_283_353_744;
    let mut power = 1u64 << 32;
    let mut octaves: Vec<u64> = (0..4095)
        .map(|_| {
            let value = power;
            power = (power * ROOT) >> 32;
            value
        })
        .collect();
    octaves.push(0);
    let mut int4 = Vec::new();
    for _ in 0..INT4_TABLES {
        let mut table = [0i8; 16];
        table.iter_mut().for_each(|entry| *entry = (rng.below(255) as i32 - 127) as i8);
        table[0] = 0;
        int4.push(table);
    }
    let cap = |shift: Option<u8>| shift.map_or_else(Vec::new, soft_cap);
    Tables {
        rope: (0..i64::from(config.rope_tables)).map(|table| rope(config, table)).collect(),
        alibi: match config.positions {
            Positions::Alibi => (0..config.n_heads)
                .map(|head| Slope { a: 4095 - 100 * (head % 16) as u16, b: 4 + (head % 8) as u8 })
                .collect(),
            _ => Vec::new(),
        },
        score_cap: cap(config.score_cap),
        logit_cap: cap(config.logit_cap),
        exp2: octaves.iter().map(|v| (v >> 17) as u16).collect(),
        exp2_sample: octaves.iter().map(|v| (v >> 8) as u32).collect(),
        // x clamp(x + 3, 0, 6) / 6, the "hard" SiLU, steps of 2^-8, values of 2^-11.
        activation: (-4096i64..4096).map(|x| (x * (x + 768).clamp(0, 1536) / 192) as i16).collect(),
        int4,
    }
}

/// `x / (1 + |x| / c)` with c a quarter of the table: bends as a hyperbolic tangent does.
fn soft_cap(shift: u8) -> Vec<i32> {
    let cap = 1024i64 << shift;
    (0..SOFT_CAP_ENTRIES as i64)
        .map(|i| (i << shift) * cap / (cap + (i << shift)))
        .map(|y| y as i32)
        .collect()
}

/// Rotations by multiples of the angles of Pythagorean triangles: rational, so exact to rounding.
fn rope(config: &ModelConfig, table: i64) -> Vec<i16> {
    let pairs = config.rope_dim as usize / 2;
    let mut rows = Vec::new();
    let mut angles: Vec<(i64, i64)> = vec![(1 << 30, 0); pairs];
    for _ in 0..config.context {
        for (pair, (c, s)) in angles.iter_mut().enumerate() {
            rows.push((*c >> 16) as i16);
            rows.push((*s >> 16) as i16);
            // Pythagorean triple (m^2 - 1, 2m, m^2 + 1): smaller angles for later pairs.
            let m = 2 + table + 3 * pair as i64;
            let (a, b, h) = (m * m - 1, 2 * m, m * m + 1);
            (*c, *s) = ((*c * a - *s * b) / h, (*c * b + *s * a) / h);
        }
    }
    rows
}
