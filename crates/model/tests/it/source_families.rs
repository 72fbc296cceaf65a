//! Every family: logits within 1e-4 of those of PyPI `transformers` on a tiny random checkpoint, and a comparison that
//! notices what could go wrong.
//!
//! Texts are longer than the sliding windows. `fixtures/make_fixtures.py` makes the checkpoints and records the logits.

use std::fs;

use lockstep_model::source::{
    self, Act, Ffn, FloatModel, HeadKind, Linear, Matrix, NormKind, NormPlace, PoolKind, Positions, Rope,
    RopeScaling,
};

use crate::source_data::fixture;

const TOLERANCE: f32 = 1e-4;
/// A mutation must be at least this many times the tolerance away.
const NOTICED: f32 = 10.0;

#[derive(serde::Deserialize)]
struct Expected {
    tokens: Vec<u32>,
    logits: Vec<Vec<f32>>,
}

fn largest_difference(got: &[Vec<f32>], expected: &[Vec<f32>]) -> f32 {
    assert_eq!(got.len(), expected.len());
    let pairs = got.iter().flatten().zip(expected.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn difference_to(model: &FloatModel, name: &str, file: &str) -> f32 {
    let expected: Expected = serde_json::from_slice(&fs::read(fixture(name).join(file)).unwrap()).unwrap();
    largest_difference(&model.logits_all(&expected.tokens).unwrap(), &expected.logits)
}

/// Largest difference between our logits and those of transformers.
fn difference(model: &FloatModel, name: &str) -> f32 {
    difference_to(model, name, "expected_logits.json")
}

fn open(name: &str) -> FloatModel {
    source::open_weights(&fixture(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

const DECODERS: [&str; 15] = [
    "llama-gqa",
    "llama-bias-bf16",
    "llama-fp8",
    "mistral",
    "qwen2",
    "qwen3",
    "phi3",
    "gemma2",
    "gemma3",
    "gemma3-images",
    "gpt2",
    "bloom",
    "opt",
    "mixtral",
    "qwen3-moe",
];

#[test]
fn logits_of_every_family_equal_those_of_transformers() {
    for name in DECODERS {
        let got = difference(&open(name), name);
        eprintln!("{name}: largest difference {got:.1e}");
        assert!(got < TOLERANCE, "{name}: {got}");
    }
}

#[test]
fn long_rope_uses_the_short_factors_up_to_the_first_context() {
    let short = open("phi3").with_context(16);
    let got = difference_to(&short, "phi3", "expected_short.json");
    assert!(got < TOLERANCE, "{got}");
    let got = difference_to(&open("phi3"), "phi3", "expected_short.json");
    assert!(got > NOTICED * TOLERANCE, "the long factors on a short text: only {got}");
}

fn rope(model: &mut FloatModel) -> &mut Rope {
    match &mut model.config.positions {
        Positions::Rope(rope) => rope,
        other => panic!("{other:?}"),
    }
}

/// Rows of one head back in the order of halves: what an importer without the permutation would deliver.
fn in_halves(matrix: &Matrix, head_dim: usize, dim: usize) -> Matrix {
    matrix.with_row_order(|row| {
        let (head, place) = (row / head_dim, row % head_dim);
        let place = if place < dim { (place % (dim / 2)) * 2 + place / (dim / 2) } else { place };
        head * head_dim + place
    })
}

fn unpaired(model: &mut FloatModel) {
    let (head_dim, dim) = (model.config.head_dim, rope(model).dim);
    for layer in &mut model.layers {
        layer.q.weight = in_halves(&layer.q.weight, head_dim, dim);
        layer.k.weight = in_halves(&layer.k.weight, head_dim, dim);
    }
}

fn less_one(gain: &mut [f32]) {
    gain.iter_mut().for_each(|gain| *gain -= 1.0);
}

fn without_bias(linear: &mut Linear) {
    linear.bias.as_mut().unwrap().fill(0.0);
}

type Mutation = (&'static str, &'static str, fn(&mut FloatModel));

const MUTATIONS: [Mutation; 47] = [
    ("mistral", "no window", |m| m.config.windows.fill(None)),
    ("mistral", "a window that is one too wide", |m| m.config.windows.fill(Some(6))),
    ("mistral", "theta", |m| rope(m).theta = 10_000.0),
    ("mistral", "q and k rows not permuted", unpaired),
    ("qwen2", "a window in the first layer", |m| m.config.windows[0] = Some(6)),
    ("qwen2", "no window in the last layer", |m| m.config.windows[2] = None),
    ("qwen2", "k bias dropped", |m| without_bias(&mut m.layers[1].k)),
    ("qwen2", "v bias dropped", |m| without_bias(&mut m.layers[0].v)),
    ("qwen3", "norms of heads dropped", |m| {
        m.config.qk_norm = false;
        m.layers.iter_mut().for_each(|layer| (layer.q_norm, layer.k_norm) = (None, None));
    }),
    ("qwen3", "gain of q's norm not permuted", |m| m.layers[0].q_norm.as_mut().unwrap().swap(1, 8)),
    ("qwen3", "norm after the rotation, that is another theta", |m| rope(m).theta = 400.0),
    ("phi3", "long factors dropped", |m| rope(m).scaling = RopeScaling::None),
    ("phi3", "no window", |m| m.config.windows.fill(None)),
    ("phi3", "gain of the rotated part dropped", |m| m.config.attn_scale *= 0.9),
    ("phi3", "q and k rows not permuted", unpaired),
    ("phi3", "gate and up exchanged", |m| {
        let Ffn::Dense(ffn) = &mut m.layers[1].ffn else { panic!("dense") };
        std::mem::swap(ffn.gate.as_mut().unwrap(), &mut ffn.up);
    }),
    ("gemma2", "no soft cap of scores", |m| m.config.attn_softcap = None),
    ("gemma2", "no soft cap of logits", |m| m.config.logit_softcap = None),
    ("gemma2", "embedding not scaled", |m| m.config.embed_scale = 1.0),
    ("gemma2", "the usual scale of scores", |m| m.config.attn_scale = 12f64.powf(-0.5)),
    ("gemma2", "windows of the other layers", |m| m.config.windows.swap(0, 1)),
    ("gemma2", "SiLU", |m| m.config.activation = Act::Silu),
    ("gemma2", "a gain without its 1", |m| less_one(&mut m.layers[1].ffn_norm.gamma)),
    ("gemma2", "no norm behind attention", |m| {
        m.config.norm_place = NormPlace::Pre;
        m.layers.iter_mut().for_each(|layer| (layer.attn_post_norm, layer.ffn_post_norm) = (None, None));
    }),
    ("gemma3", "one theta for all layers", |m| m.config.local_rope = None),
    ("gemma3", "global factor dropped", |m| rope(m).scaling = RopeScaling::None),
    ("gemma3", "global factor in local layers too", |m| {
        m.config.local_rope.as_mut().unwrap().scaling = RopeScaling::Linear { factor: 4.0 };
    }),
    ("gemma3", "no window", |m| m.config.windows[1] = Some(60)),
    ("gemma3", "gain of k's norm without its 1", |m| less_one(m.layers[0].k_norm.as_mut().unwrap())),
    ("gpt2", "attention output bias dropped", |m| without_bias(&mut m.layers[0].o)),
    ("gpt2", "beta dropped", |m| m.layers[1].ffn_norm.beta.as_mut().unwrap().fill(0.0)),
    ("bloom", "no ALiBi", |m| m.config.positions = Positions::Rope(Rope::plain(1e30, 6))),
    ("bloom", "slopes of eight heads", |m| {
        let layer = &mut m.layers[0];
        layer.q.weight = layer.q.weight.with_row_order(|row| (row + 6) % 36);
    }),
    ("bloom", "the head from the normed table", |m| m.head = Some(m.embed.clone())),
    ("bloom", "GELU by the error function", |m| m.config.activation = Act::GeluErf),
    ("bloom", "k and v exchanged", |m| {
        let layer = &mut m.layers[0];
        std::mem::swap(&mut layer.k, &mut layer.v);
    }),
    ("opt", "positions without the offset", |m| {
        let table = m.positions.take().unwrap();
        m.positions = Some(table.with_row_order(|row| row.saturating_sub(2)));
    }),
    ("opt", "GELU", |m| m.config.activation = Act::GeluTanh),
    ("opt", "fc1 bias dropped", |m| {
        let Ffn::Dense(ffn) = &mut m.layers[0].ffn else { panic!("dense") };
        without_bias(&mut ffn.up);
    }),
    ("mixtral", "one expert less", |m| m.config.experts.as_mut().unwrap().per_token = 1),
    ("mixtral", "one expert more", |m| m.config.experts.as_mut().unwrap().per_token = 3),
    ("mixtral", "weights that do not sum to one", |m| m.config.experts.as_mut().unwrap().normalise = false),
    ("mixtral", "up and gate exchanged in one expert", |m| {
        let Ffn::Experts { experts, .. } = &mut m.layers[1].ffn else { panic!("experts") };
        let expert = &mut experts[2];
        std::mem::swap(expert.gate.as_mut().unwrap(), &mut expert.up);
    }),
    ("qwen3-moe", "weights that sum to one", |m| m.config.experts.as_mut().unwrap().normalise = true),
    ("qwen3-moe", "router rows exchanged", |m| {
        let Ffn::Experts { router, .. } = &mut m.layers[2].ffn else { panic!("experts") };
        router.weight = router.weight.with_row_order(|row| row ^ 1);
    }),
    ("qwen3-moe", "norms of heads dropped", |m| m.layers[1].q_norm.as_mut().unwrap().fill(1.0)),
    ("llama-fp8", "one scale of a block off", |m| {
        let weight = &m.layers[0].o.weight;
        m.layers[0].o.weight =
            weight.map_rows("o", |row| row[12..24].iter_mut().for_each(|w| *w *= 1.5)).unwrap();
    }),
];

#[test]
fn the_comparison_notices_each_mutation() {
    for (name, what, mutate) in MUTATIONS {
        let mut model = open(name);
        mutate(&mut model);
        let got = difference(&model, name);
        assert!(got > NOTICED * TOLERANCE, "{name}, {what}: only {got}");
    }
}

#[derive(serde::Deserialize)]
struct ExpectedHidden {
    tokens: Vec<u32>,
    hidden: Vec<Vec<f32>>,
    mean: Vec<f32>,
    cls: Vec<f32>,
}

fn expected_hidden() -> ExpectedHidden {
    serde_json::from_slice(&fs::read(fixture("bert").join("expected_hidden.json")).unwrap()).unwrap()
}

#[test]
fn an_encoder_gives_the_vectors_and_the_embedding_of_transformers() {
    let expected = expected_hidden();
    let mut model = open("bert");
    let got = largest_difference(&model.hidden_all(&expected.tokens).unwrap(), &expected.hidden);
    eprintln!("bert: largest difference {got:.1e}");
    assert!(got < TOLERANCE, "{got}");
    let mean = model.embedding(&expected.tokens).unwrap();
    assert!(largest_difference(&[mean], &[expected.mean]) < TOLERANCE);
    model.config.pooling.as_mut().unwrap().kind = PoolKind::Cls;
    let cls = model.embedding(&expected.tokens).unwrap();
    assert!(largest_difference(&[cls], &[expected.cls]) < TOLERANCE);
}

#[test]
fn the_comparison_of_encoders_notices_each_mutation() {
    type EncoderMutation = (&'static str, fn(&mut FloatModel));
    let mutations: [EncoderMutation; 7] = [
        ("seeing only what came before", |m| m.config.causal = true),
        ("GELU by tanh with another argument", |m| m.config.activation = Act::Silu),
        ("no norm of the embedding", |m| m.embed_norm = None),
        ("positions without the token type", |m| {
            let table = m.positions.as_ref().unwrap();
            m.positions = Some(table.map_rows("positions", |row| row[3] += 0.1).unwrap());
        }),
        ("norms in front", |m| m.config.norm_place = NormPlace::Pre),
        ("query bias dropped", |m| without_bias(&mut m.layers[0].q)),
        ("beta of a norm dropped", |m| m.layers[1].attn_norm.beta.as_mut().unwrap().fill(0.0)),
    ];
    let expected = expected_hidden();
    for (what, mutate) in mutations {
        let mut model = open("bert");
        mutate(&mut model);
        let got = largest_difference(&model.hidden_all(&expected.tokens).unwrap(), &expected.hidden);
        assert!(got > NOTICED * TOLERANCE, "{what}: only {got}");
    }
}

#[test]
fn configs_mean_what_they_should() {
    let bloom = open("bloom").config;
    assert_eq!((bloom.norm, bloom.context, bloom.head), (NormKind::Layer, 2_048, HeadKind::Own));
    // Press et al.: the slopes of 4 heads, then every other one of 8.
    let slopes = bloom.alibi_slopes().unwrap();
    assert_eq!(slopes, [0.25, 0.0625, 0.015_625, 0.003_906_25, 0.5, 0.125]);
    let qwen2 = open("qwen2").config;
    assert_eq!(qwen2.windows, [None, Some(6), Some(6)]);
    let gemma3 = open("gemma3").config;
    assert_eq!(gemma3.windows, [Some(6), Some(6), None]);
    assert_eq!((gemma3.rope_of(0).unwrap().theta, gemma3.rope_of(2).unwrap().theta), (50.0, 5_000.0));
    let moe = open("qwen3-moe");
    assert_eq!(moe.config.experts.as_ref().unwrap().sparse, [true, false, true]);
    assert!(moe.layers[1].ffn.dense().is_some() && moe.layers[2].ffn.dense().is_none());
    let phi3 = open("phi3").config;
    assert_eq!((phi3.rope_of(0).unwrap().dim, phi3.head_dim, phi3.inv_freq().unwrap().len()), (6, 8, 3));
    let bert = open("bert").config;
    assert!(!bert.causal && bert.pooling.unwrap().normalise && bert.norm_place == NormPlace::Post);
}

/// Since transformers 5 all numbers of rotations stand in `rope_parameters`, by kind of layer where they differ.
#[test]
fn configs_of_transformers_5_mean_the_same() {
    use serde_json::json;
    for (name, old, parameters) in [
        ("qwen2", &["rope_theta"][..], json!({"rope_type": "default", "rope_theta": 500.0})),
        (
            "gemma3",
            &["rope_theta", "rope_scaling", "rope_local_base_freq"],
            json!({
                "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
            }),
        ),
        (
            "phi3",
            &["rope_theta", "rope_scaling", "partial_rotary_factor", "original_max_position_embeddings"],
            json!({
                "rope_type": "longrope", "rope_theta": 500.0, "partial_rotary_factor": 0.75,
                "original_max_position_embeddings": 16,
                "short_factor": [1.0, 1.2, 1.5], "long_factor": [1.1, 2.5, 4.0],
            }),
        ),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let weights = "model.safetensors";
        fs::copy(fixture(name).join(weights), folder.path().join(weights)).unwrap();
        let config = fs::read(fixture(name).join("config.json")).unwrap();
        let mut config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        for field in old {
            config.as_object_mut().unwrap().remove(*field);
        }
        config["rope_parameters"] = parameters;
        fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
        assert!(source::open_weights(folder.path()).unwrap() == open(name), "{name}");
    }
}

/// A prompt in portions gives the same as token by token: the window moves with the positions.
#[test]
fn portions_do_not_matter() {
    use lockstep_model::float::{Hooks, Runner};
    for name in ["gemma3", "bloom", "qwen3-moe"] {
        let model = open(name);
        let tokens: Vec<u32> = (0..20).map(|i| i * 7 % 60).collect();
        let together = Runner::new(&model).run(&tokens, &mut Hooks::default()).unwrap();
        let mut runner = Runner::new(&model);
        let mut portions = Vec::new();
        for part in tokens.chunks(7) {
            portions.extend(runner.run(part, &mut Hooks::default()).unwrap());
        }
        assert_eq!(together, portions, "{name}");
    }
}
