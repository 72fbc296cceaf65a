//! Tiny random models of all families, with shapes that divide badly: widths 24 (padded to 32) and 20,
//! feed-forward widths 44 and 72 (padded to 64 and 128).

use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::ModelWeights;
use lockstep_model::bundle::{Contents, TokenizerSection, write};
use lockstep_model::quantise::{ModelFacts, Progress, QuantiseOptions, Report, WeightFormat, quantise};
use lockstep_model::source::{
    Act, DenseFfn, Experts, Ffn, FloatConfig, FloatLayer, FloatModel, HeadKind, Linear, Matrix, NormKind,
    NormPlace, NormWeights, PoolKind, Pooling, Positions, Rope, Sizes,
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

/// Norms of queries and keys, heads wider together than the stream.
pub(crate) fn qwen3(seed: u64) -> FloatModel {
    let config = llama(seed).config;
    random(FloatConfig { qk_norm: true, attn_scale: 0.3, ..config }, seed)
}

/// Norms on both sides, windows with a rotation of their own in every other layer, soft caps, a scaled embedding,
/// a rotation of a part of each head.
pub(crate) fn gemma(seed: u64) -> FloatModel {
    let config = llama(seed).config;
    let rope = |theta, dim| Rope { dim, ..Rope::plain(theta, 6) };
    random(
        FloatConfig {
            n_layers: 4,
            norm_place: NormPlace::PreAndPost,
            activation: Act::GeluTanh,
            positions: Positions::Rope(rope(10_000.0, 4)),
            local_rope: Some(rope(100.0, 4)),
            windows: vec![Some(5), None, Some(5), None],
            attn_scale: 0.5,
            attn_softcap: Some(2.0),
            logit_softcap: Some(3.0),
            embed_scale: 4.9,
            ..config
        },
        seed,
    )
}

/// Four experts, of which two run, in every second layer.
pub(crate) fn mixtral(seed: u64) -> FloatModel {
    let config = llama(seed).config;
    let experts = Experts { count: 4, per_token: 2, normalise: true, hidden: 44, sparse: vec![false, true] };
    random(FloatConfig { experts: Some(experts), windows: vec![Some(7); 2], ..config }, seed)
}

/// ALiBi over a number of heads that is no power of two, layer norms, biases everywhere.
pub(crate) fn bloom(seed: u64) -> FloatModel {
    let config = gpt2(seed).config;
    let heads = FloatConfig { n_heads: 6, n_kv_heads: 3, head_dim: 4, attn_scale: 0.5, ..config };
    random(FloatConfig { positions: Positions::Alibi, ..heads }, seed)
}

/// Learned positions, layer norms and the rectifier.
pub(crate) fn opt(seed: u64) -> FloatModel {
    let config = gpt2(seed).config;
    random(FloatConfig { activation: Act::Relu, head: HeadKind::Tied, ..config }, seed)
}

/// An encoder: norms behind, no head.
pub(crate) fn bert(seed: u64) -> FloatModel {
    let config = gpt2(seed).config;
    random(
        FloatConfig {
            norm_place: NormPlace::Post,
            activation: Act::GeluErf,
            causal: false,
            head: HeadKind::Absent,
            pooling: Some(Pooling { kind: PoolKind::Mean, normalise: true }),
            ..config
        },
        seed,
    )
}

/// One model of every family, by name.
pub(crate) fn families(seed: u64) -> Vec<(&'static str, FloatModel)> {
    vec![
        ("llama", llama(seed)),
        ("biased llama", biased_llama(seed)),
        ("gpt2", gpt2(seed)),
        ("qwen3", qwen3(seed)),
        ("gemma", gemma(seed)),
        ("mixtral", mixtral(seed)),
        ("bloom", bloom(seed)),
        ("opt", opt(seed)),
        ("bert", bert(seed)),
    ]
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
    let dense = |rng: &mut SplitMix64, hidden: usize| DenseFfn {
        gate: config.gated.then(|| linear(rng, hidden, d, config.ffn_bias)),
        up: linear(rng, hidden, d, config.ffn_bias),
        down: linear(rng, d, hidden, config.ffn_bias),
    };
    let both = config.norm_place == NormPlace::PreAndPost;
    let behind = config.norm_place == NormPlace::Post;
    let layers = (0..config.n_layers)
        .map(|index| FloatLayer {
            attn_norm: norm(rng),
            q: linear(rng, config.q_dim(), d, config.qkv_bias),
            k: linear(rng, config.kv_dim(), d, config.qkv_bias),
            v: linear(rng, config.kv_dim(), d, config.qkv_bias),
            o: linear(rng, d, config.q_dim(), config.o_bias),
            q_norm: config.qk_norm.then(|| vector(rng, config.head_dim, 1.5, 0.7)),
            k_norm: config.qk_norm.then(|| vector(rng, config.head_dim, 1.5, 0.7)),
            attn_post_norm: both.then(|| norm(rng)),
            ffn_norm: norm(rng),
            ffn: match config.experts.as_ref().filter(|_| config.is_sparse(index)) {
                None => Ffn::Dense(dense(rng, hidden)),
                Some(experts) => Ffn::Experts {
                    router: linear(rng, experts.count, d, false),
                    experts: (0..experts.count).map(|_| dense(rng, experts.hidden)).collect(),
                },
            },
            ffn_post_norm: both.then(|| norm(rng)),
        })
        .collect();
    let model = FloatModel {
        embed: matrix(rng, config.vocab, d, 1.0),
        positions: (config.positions == Positions::Learned).then(|| matrix(rng, config.context, d, 0.3)),
        embed_norm: behind.then(|| norm(rng)),
        layers,
        final_norm: (!behind).then(|| norm(rng)),
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
