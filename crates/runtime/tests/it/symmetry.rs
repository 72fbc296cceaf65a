//! The symmetries of docs/spec/arithmetic.md, section 11: weights that are moved about in these ways
//! give the same logits bit for bit, and one that is not on the list does not.

use crate::pack::Plain;
use crate::pipeline::{engine_over, logits};
use lockstep_base::config::ModelConfig;
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::{
    DenseWeights, Embedding, LayerWeights, Linear, ModelWeights, Region, WeightFormat,
};
use lockstep_runtime::kernels::Kernel;
use lockstep_runtime::observe::Silent;
use lockstep_runtime::synthetic::{self, small_config};

const FORMATS: [WeightFormat; 2] = [WeightFormat::Int8, WeightFormat::Int4];
const SEEDS: [u64; 3] = [1, 2, 3];

/// Heads and widths are whole groups of 32 columns; three Hadamard blocks of 64; 4 heads on 2 kv heads.
fn model(format: WeightFormat, seed: u64) -> ModelWeights {
    let config =
        ModelConfig { n_layers: 2, d_model: 64, head_dim: 32, rope_dim: 32, d_ffn: 192, ..small_config() };
    assert_eq!(config.hadamard_block(), 64);
    synthetic::model(&config, format, seed)
}

fn tokens(seed: u64) -> Vec<u32> {
    let mut rng = SplitMix64::new(seed + 100);
    (0..24).map(|_| rng.below(97) as u32).collect()
}

fn logits_of(weights: &ModelWeights, tokens: &[u32]) -> Vec<i32> {
    logits(&engine_over(weights.clone(), Kernel::detect(), 1), tokens, &[tokens.len()], &mut Silent)
}

/// Checks `change` on both formats and some seeds.
fn holds(change: impl Fn(&mut ModelWeights, &mut SplitMix64)) {
    for format in FORMATS {
        for seed in SEEDS {
            let weights = model(format, seed);
            let expected = logits_of(&weights, &tokens(seed));
            let mut changed = weights.clone();
            change(&mut changed, &mut SplitMix64::new(seed));
            assert!(differs(&weights.layers[0], &changed.layers[0]), "seed {seed}: nothing was changed");
            assert_eq!(logits_of(&changed, &tokens(seed)), expected, "{format:?} seed {seed}");
        }
    }
}

fn differs(a: &LayerWeights, b: &LayerWeights) -> bool {
    let codes = |layer: &LayerWeights| {
        let ffn = layer.ffn.dense().unwrap();
        let all = [&layer.q, &layer.k, &layer.v, &layer.o, &ffn.up, &ffn.down];
        all.map(|linear| linear.codes.to_vec())
    };
    codes(a) != codes(b)
}

/// A permutation of `0..n` that is not the identity.
fn permutation(n: usize, rng: &mut SplitMix64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    while order.is_sorted() {
        for i in (1..n).rev() {
            order.swap(i, rng.below(i as u64 + 1) as usize);
        }
    }
    order
}

/// `order` of blocks of `size`, written out for their elements.
fn blocks(order: &[usize], size: usize) -> Vec<usize> {
    order.iter().flat_map(|block| block * size..(block + 1) * size).collect()
}

fn rows(linear: &mut Linear, from: &[usize]) {
    let mut plain = Plain::of(linear);
    plain.permute_rows(from);
    *linear = plain.pack();
}

fn cols(linear: &mut Linear, from: &[usize]) {
    let mut plain = Plain::of(linear);
    plain.permute_cols(from);
    *linear = plain.pack();
}

fn embedding(table: &mut Embedding, change: impl Fn(usize, usize) -> i16) {
    let codes = (0..table.rows).flat_map(|row| (0..table.cols).map(move |col| (row, col)));
    let bytes: Vec<u8> = codes.flat_map(|(row, col)| change(row, col).to_le_bytes()).collect();
    table.codes = Region::from(bytes);
}

/// The matrices that read the residual stream, of all layers and the head.
fn readers<'a>(weights: &'a mut ModelWeights) -> Vec<&'a mut Linear> {
    let ModelWeights { layers, head, .. } = weights;
    let of_layer = |layer: &'a mut LayerWeights| {
        let LayerWeights { q, k, v, ffn, .. } = layer;
        let DenseWeights { gate, up, .. } = ffn.dense_mut().unwrap();
        [q, k, v, up].into_iter().chain(gate)
    };
    layers.iter_mut().flat_map(of_layer).chain(head).collect()
}

/// Groups of heads that share a kv head, with the columns of o.
#[test]
fn kv_head_groups() {
    holds(|weights, rng| {
        let dim = weights.config.head_dim as usize;
        let per_kv = (weights.config.n_heads / weights.config.n_kv_heads) as usize;
        for layer in &mut weights.layers {
            let order = permutation(weights.config.n_kv_heads as usize, rng);
            let (kv, heads) = (blocks(&order, dim), blocks(&order, per_kv * dim));
            rows(&mut layer.q, &heads);
            rows(&mut layer.k, &kv);
            rows(&mut layer.v, &kv);
            layer.k_center = kv.iter().map(|channel| layer.k_center[*channel]).collect();
            cols(&mut layer.o, &heads);
        }
    });
}

/// Heads inside the group of one kv head, with the columns of o.
#[test]
fn heads_inside_a_group() {
    holds(|weights, rng| {
        let dim = weights.config.head_dim as usize;
        let (n_kv, per_kv) = (2, 2);
        assert_eq!((weights.config.n_kv_heads, weights.config.n_heads), (n_kv, n_kv * per_kv));
        for layer in &mut weights.layers {
            let order: Vec<usize> = (0..n_kv as usize)
                .flat_map(|group| {
                    let inside = permutation(per_kv as usize, rng);
                    inside.into_iter().map(move |head| group * per_kv as usize + head)
                })
                .collect();
            rows(&mut layer.q, &blocks(&order, dim));
            cols(&mut layer.o, &blocks(&order, dim));
        }
    });
}

/// Whole Hadamard blocks of the feed-forward width.
#[test]
fn hadamard_blocks() {
    holds(|weights, rng| {
        let block = weights.config.hadamard_block() as usize;
        for layer in &mut weights.layers {
            let from = blocks(&permutation(layer.ffn.dense().unwrap().up.rows / block, rng), block);
            let layer = layer.ffn.dense_mut().unwrap();
            layer.gate.iter_mut().for_each(|gate| rows(gate, &from));
            rows(&mut layer.up, &from);
            cols(&mut layer.down, &from);
        }
    });
}

/// Residual channels: inside groups of 32 columns and whole groups, for either storage.
#[test]
fn residual_channels() {
    holds(|weights, rng| {
        let groups = permutation(weights.config.d_model as usize / 32, rng);
        let from: Vec<usize> = groups
            .iter()
            .flat_map(|group| permutation(32, rng).into_iter().map(move |col| group * 32 + col))
            .collect();
        permute_residual(weights, &from);
    });
}

/// Residual channels across groups of 32 columns: int8 alone, also where columns are padded.
#[test]
fn residual_channels_across_groups() {
    for seed in SEEDS {
        let weights = synthetic::model(&small_config(), WeightFormat::Int8, seed);
        let mut changed = weights.clone();
        permute_residual(&mut changed, &permutation(48, &mut SplitMix64::new(seed)));
        assert_eq!(logits_of(&changed, &tokens(seed)), logits_of(&weights, &tokens(seed)), "seed {seed}");
    }
}

fn permute_residual(weights: &mut ModelWeights, from: &[usize]) {
    readers(weights).into_iter().for_each(|reader| cols(reader, from));
    for layer in &mut weights.layers {
        rows(&mut layer.o, from);
        rows(&mut layer.ffn.dense_mut().unwrap().down, from);
    }
    let table = weights.embed.as_mut().expect("an embedding");
    let old = table.clone();
    embedding(table, |row, col| old.code(row, from[col]));
}

/// Channels of v and the columns of o, inside every head.
#[test]
fn value_channels_inside_a_head() {
    holds(|weights, rng| {
        let dim = weights.config.head_dim as usize;
        let (n_heads, n_kv) = (weights.config.n_heads as usize, weights.config.n_kv_heads as usize);
        for layer in &mut weights.layers {
            let orders: Vec<Vec<usize>> = (0..n_kv).map(|_| permutation(dim, rng)).collect();
            let of = |head: usize, kv: usize| orders[kv].iter().map(move |channel| head * dim + channel);
            rows(&mut layer.v, &(0..n_kv).flat_map(|kv| of(kv, kv)).collect::<Vec<_>>());
            let heads = (0..n_heads).flat_map(|head| of(head, head * n_kv / n_heads));
            cols(&mut layer.o, &heads.collect::<Vec<_>>());
        }
    });
}

/// The vocabulary: the logits move with the tokens.
#[test]
fn vocabulary() {
    for format in FORMATS {
        for seed in SEEDS {
            let weights = model(format, seed);
            let from = permutation(97, &mut SplitMix64::new(seed));
            let mut to = vec![0u32; 97];
            from.iter().zip(0..).for_each(|(old, new)| to[*old] = new);
            let mut changed = weights.clone();
            let table = changed.embed.as_mut().expect("an embedding");
            embedding(table, |row, col| weights.embed.as_ref().expect("one").code(from[row], col));
            rows(changed.head.as_mut().expect("a head"), &from);
            let renamed: Vec<u32> = tokens(seed).iter().map(|token| to[*token as usize]).collect();
            let (old, new) = (logits_of(&weights, &tokens(seed)), logits_of(&changed, &renamed));
            for (old, new) in old.chunks(97).zip(new.chunks(97)) {
                assert!((0..97).all(|token| new[token] == old[from[token]]), "{format:?} seed {seed}");
            }
        }
    }
}

/// A sign flip is *not* one: rounding half up is not odd. The flipped model is the same in real
/// numbers, and its logits differ, though by little.
#[test]
fn a_sign_flip_is_not_a_symmetry() {
    let mut different = 0;
    for seed in SEEDS {
        let mut weights = model(WeightFormat::Int8, seed);
        let table = weights.embed.as_mut().expect("an embedding");
        let old = table.clone();
        // The negative of -2^15 is no i16.
        embedding(table, |row, col| old.code(row, col).max(-i16::MAX));
        let mut flipped = weights.clone();
        let negate = |cell: &mut u8| *cell = (*cell as i8).wrapping_neg() as u8;
        for reader in readers(&mut flipped) {
            let mut plain = Plain::of(reader);
            plain.rows.iter_mut().flat_map(|row| &mut row.cells).for_each(negate);
            *reader = plain.pack();
        }
        for layer in &mut flipped.layers {
            for writer in [&mut layer.o, &mut layer.ffn.dense_mut().unwrap().down] {
                let mut plain = Plain::of(writer);
                plain.rows.iter_mut().flat_map(|row| &mut row.cells).for_each(negate);
                *writer = plain.pack();
            }
        }
        let table = flipped.embed.as_mut().expect("an embedding");
        embedding(table, |row, col| -weights.embed.as_ref().expect("one").code(row, col));
        let (a, b) = (logits_of(&weights, &tokens(seed)), logits_of(&flipped, &tokens(seed)));
        different += usize::from(a != b);
        let far = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).max().expect("logits");
        let scale = a.iter().map(|a| a.abs()).max().expect("logits");
        assert!(far < scale / 2, "seed {seed}: the flip is one in real numbers: {far} of {scale}");
    }
    assert_eq!(different, SEEDS.len(), "sign flips changed something for every seed");
}
