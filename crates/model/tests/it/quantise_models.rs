//! Tiny random models of both families, with shapes that divide badly: width 24 (Hadamard block 8, padded
//! to 32) and 20, feed-forward widths 44 and 72 (padded to 64 and 128).

use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::ModelWeights;
use lockstep_model::bundle::{Contents, TokenizerSection, write};
use lockstep_model::quantise::{ModelFacts, Progress, QuantiseOptions, Report, WeightFormat, quantise};
use lockstep_model::source::{
    Act, DenseFfn, Ffn, FloatConfig, FloatLayer, FloatModel, HeadKind, Linear, Matrix, NormKind, NormWeights,
    Positions, Sizes,
};

/// Uniform in [-1, 1).
fn uniform(rng: &mut SplitMix64) -> f32 {
    (rng.next_u64() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

fn matrix(rng: &mut SplitMix64, rows: usize, cols: usize, size: f32) -> Matrix {
    Matrix::new("random", rows, cols, (0..rows * cols).map(|_| size * uniform(rng)).collect()).unwrap()
}

fn vector(rng: &mut SplitMix64, len: usize, around: f32, size: f32) -> Vec<f32> {
    (0..len).map(|_| around + size * uniform(rng)).collect()
}

/// RMSNorm, RoPE, grouped heads, gate, tied head, no biases.
pub(crate) fn llama(seed: u64) -> FloatModel {
    random(
        FloatConfig::llama(Sizes {
            n_layers: 2,
            d_model: 24,
            n_heads: 4,
            n_kv_heads: 2,
            head_dim: 6,
            ffn_hidden: 44,
            vocab: 50,
            context: 32,
        }),
        seed,
    )
}

/// LayerNorm, learned positions, plain GELU block, biases everywhere.
pub(crate) fn gpt2(seed: u64) -> FloatModel {
    let sizes = Sizes {
        n_layers: 2,
        d_model: 20,
        n_heads: 2,
        n_kv_heads: 2,
        head_dim: 10,
        ffn_hidden: 72,
        vocab: 41,
        context: 32,
    };
    random(
        FloatConfig {
            norm: NormKind::Layer,
            activation: Act::GeluTanh,
            gated: false,
            positions: Positions::Learned,
            head: HeadKind::Own,
            qkv_bias: true,
            o_bias: true,
            ffn_bias: true,
            ..FloatConfig::llama(sizes)
        },
        seed,
    )
}

/// Llama with biases on q, k and v (which must survive RoPE) and a head of its own.
pub(crate) fn biased_llama(seed: u64) -> FloatModel {
    let config = FloatConfig { qkv_bias: true, head: HeadKind::Own, ..llama(seed).config };
    random(config, seed)
}

fn random(config: FloatConfig, seed: u64) -> FloatModel {
    let rng = &mut SplitMix64::new(seed);
    let (d, hidden) = (config.d_model, config.ffn_hidden);
    let norm = |rng: &mut SplitMix64| NormWeights {
        gamma: vector(rng, d, 1.0, 0.5),
        beta: (config.norm == NormKind::Layer).then(|| vector(rng, d, 0.0, 0.3)),
    };
    let linear = |rng: &mut SplitMix64, rows, cols: usize, biased: bool| Linear {
        weight: matrix(rng, rows, cols, 2.0 / (cols as f32).sqrt()),
        bias: biased.then(|| vector(rng, rows, 0.1, 0.4)),
    };
    let layers = (0..config.n_layers)
        .map(|_| FloatLayer {
            attn_norm: norm(rng),
            q: linear(rng, config.q_dim(), d, config.qkv_bias),
            k: linear(rng, config.kv_dim(), d, config.qkv_bias),
            v: linear(rng, config.kv_dim(), d, config.qkv_bias),
            o: linear(rng, d, config.q_dim(), config.o_bias),
            q_norm: None,
            k_norm: None,
            attn_post_norm: None,
            ffn_norm: norm(rng),
            ffn: Ffn::Dense(DenseFfn {
                gate: config.gated.then(|| linear(rng, hidden, d, config.ffn_bias)),
                up: linear(rng, hidden, d, config.ffn_bias),
                down: linear(rng, d, hidden, config.ffn_bias),
            }),
            ffn_post_norm: None,
        })
        .collect();
    let model = FloatModel {
        embed: matrix(rng, config.vocab, d, 1.0),
        positions: (config.positions == Positions::Learned).then(|| matrix(rng, config.context, d, 0.3)),
        embed_norm: None,
        layers,
        final_norm: Some(norm(rng)),
        head: (config.head == HeadKind::Own).then(|| matrix(rng, config.vocab, d, 0.5)),
        config,
    };
    model.checked().unwrap()
}

pub(crate) fn facts() -> ModelFacts {
    ModelFacts { name: "tiny".into(), bos: Some(1), eos: vec![2] }
}

pub(crate) fn options(weights: WeightFormat, seed: u64) -> QuantiseOptions {
    QuantiseOptions { weights, seed, calibration_tokens: 96, ..QuantiseOptions::default() }
}

pub(crate) fn integers(model: &FloatModel, weights: WeightFormat, seed: u64) -> (ModelWeights, Report) {
    quantise(model, &facts(), &options(weights, seed), &mut Progress::none()).unwrap()
}

/// A character vocabulary of as many tokens as the model has.
pub(crate) fn tokenizer(vocab: u32) -> TokenizerSection {
    let mut lines = vec!["<unk>".to_owned(), "<s>".into(), "</s>".into()];
    lines.extend((0..vocab - 3).map(|i| char::from_u32(0x100 + i).unwrap().to_string()));
    TokenizerSection { kind: "chars".into(), file: lines.join("\n").into_bytes() }
}

/// A whole bundle of a model.
pub(crate) fn bundle_of(weights: &ModelWeights) -> Vec<u8> {
    let tokenizer = tokenizer(weights.config.vocab);
    write(&Contents { weights, tokenizer: &tokenizer, chat_template: Some("{{ messages[0].content }}") })
        .unwrap()
}
