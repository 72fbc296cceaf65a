//! Integers of every family next to the float reference, position by position, and mutations that must show.
//!
//! Fixtures are the tiny checkpoints whose logits PyPI `transformers` recorded: the integers are compared with those
//! records. Bounds are cosines of one position's logits (or, of an encoder, of its output rows): the mean and the least over
//! all positions. What remains is the rounding of activations to 8 bits, in vectors of 32 that leave it little to average over.

use crate::quantise_integers::integer_logits;
use crate::quantise_models::{facts, families, integers};
use crate::source_data::fixture;
use lockstep_base::op::{Op, Place};
use lockstep_base::weights::{FfnWeights, Gain, Linear, ModelWeights};
use lockstep_model::quantise::{Progress, QuantiseOptions, WeightFormat, quantise};
use lockstep_model::source::{self, FloatModel, HeadKind};
use lockstep_runtime::forward::Engine;
use lockstep_runtime::kernels::Compute;
use lockstep_runtime::observe::{Observer, Silent, Values};
use std::sync::Arc;

/// What integers keep of the float model on average over positions.
const MEAN_COSINE: f64 = 0.999;
/// What two planes of weights keep at every position; one plane keeps [`LEAST_COSINE_INT8`] of such small models.
const LEAST_COSINE: f64 = 0.999;
/// What one plane keeps at every position.
const LEAST_COSINE_INT8: f64 = 0.998;

/// The rows of an encoder's last layer.
fn integer_rows(weights: ModelWeights, tokens: &[u32]) -> Vec<Vec<f32>> {
    let unit = (-f32::from(weights.config.residual_frac)).exp2();
    let width = weights.config.d_model as usize;
    let engine = Engine::new(Arc::new(weights), Arc::new(Compute::new(1)));
    let mut x = engine.embed(tokens, 0, &mut Silent).unwrap();
    engine.layers(&mut x, &mut engine.new_cache(), &mut Silent).unwrap();
    x.chunks(width).map(|row| row.iter().map(|x| *x as f32 * unit).collect()).collect()
}

fn outputs(weights: ModelWeights, tokens: &[u32]) -> Vec<Vec<f32>> {
    if weights.head.is_some() { integer_logits(weights, tokens) } else { integer_rows(weights, tokens) }
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

/// The mean and the least cosine over positions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Kept {
    pub(crate) mean: f64,
    pub(crate) least: f64,
}

pub(crate) fn kept(got: &[Vec<f32>], wanted: &[Vec<f32>]) -> Kept {
    assert_eq!(got.len(), wanted.len());
    let cosines: Vec<f64> = got.iter().zip(wanted).map(|(got, wanted)| cosine(got, wanted)).collect();
    let mean = cosines.iter().sum::<f64>() / cosines.len() as f64;
    Kept { mean, least: cosines.iter().copied().fold(1.0, f64::min) }
}

/// Notes the positions where a choice of experts is close: the last that is chosen and the first that is not are less than a sixteenth of an
/// octave apart. Rounding activations to 8 bits moves logits as far; either choice is right, and they give other outputs.
struct CloseChoices<'a> {
    weights: &'a ModelWeights,
    positions: Vec<usize>,
}

impl Observer for CloseChoices<'_> {
    fn output(&mut self, place: Place, _: u32, values: Values<'_>) {
        let Values::I32(logits) = values else { return };
        let FfnWeights::Experts { router, .. } = &self.weights.layers[usize::from(place.layer)].ffn else {
            return;
        };
        let chosen = self.weights.config.experts.expect("experts").per_token as usize;
        let mut sorted = logits.to_vec();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        if (sorted[chosen - 1] - sorted[chosen]) << 4 < 1 << router.out_frac {
            self.positions.push(place.position as usize);
        }
    }

    fn wants(&self, _: u16, op: Op) -> bool {
        op == Op::RouterLogits
    }

    fn alters(&self) -> bool {
        false
    }
}

/// Outputs without those of the positions `but`.
fn others(rows: Vec<Vec<f32>>, but: &[usize]) -> Vec<Vec<f32>> {
    rows.into_iter().enumerate().filter(|(at, _)| !but.contains(at)).map(|(_, row)| row).collect()
}

/// Positions where a choice of experts is close; few, or a comparison would say little.
fn close_choices(weights: &ModelWeights, tokens: &[u32]) -> Vec<usize> {
    if weights.config.experts.is_none() {
        return Vec::new();
    }
    let engine = Engine::new(Arc::new(weights.clone()), Arc::new(Compute::new(1)));
    let mut close = CloseChoices { weights, positions: Vec::new() };
    let mut x = engine.embed(tokens, 0, &mut Silent).unwrap();
    engine.layers(&mut x, &mut engine.new_cache(), &mut close).unwrap();
    assert!(
        close.positions.len() * 5 < tokens.len(),
        "close choices at {:?} of {}",
        close.positions,
        tokens.len()
    );
    close.positions
}

pub(crate) fn float_outputs(model: &FloatModel, tokens: &[u32]) -> Vec<Vec<f32>> {
    match model.config.head {
        HeadKind::Absent => model.hidden_all(tokens).unwrap(),
        _ => model.logits_all(tokens).unwrap(),
    }
}

/// Every fixture.
const FIXTURES: [&str; 16] = [
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
    "bert",
];

#[derive(serde::Deserialize)]
struct Expected {
    tokens: Vec<u32>,
    #[serde(alias = "hidden")]
    logits: Vec<Vec<f32>>,
}

/// A fixture's model, tokens, and what transformers makes of them.
fn open(name: &str) -> (FloatModel, Expected) {
    let model = source::open_weights(&fixture(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let file = if name == "bert" { "expected_hidden.json" } else { "expected_logits.json" };
    (model, serde_json::from_slice(&std::fs::read(fixture(name).join(file)).unwrap()).unwrap())
}

fn imported(model: &FloatModel, format: WeightFormat) -> ModelWeights {
    let options = QuantiseOptions {
        weights: format,
        head: format,
        calibration_tokens: 400,
        ..QuantiseOptions::default()
    };
    quantise(model, &facts(), &options, &mut Progress::none()).unwrap().0
}

/// Every checkpoint keeps its outputs in both storages.
#[test]
fn fixtures_keep_their_outputs() {
    let mut missed = Vec::new();
    for name in FIXTURES {
        let (model, expected) = open(name);
        for format in [WeightFormat::Int8, WeightFormat::Int16] {
            let weights = imported(&model, format);
            let close = close_choices(&weights, &expected.tokens);
            let got = others(outputs(weights, &expected.tokens), &close);
            let kept = kept(&got, &others(expected.logits.clone(), &close));
            eprintln!("{name} {format:?}: cosine {:.6}, at least {:.6}", kept.mean, kept.least);
            let least = if format == WeightFormat::Int16 { LEAST_COSINE } else { LEAST_COSINE_INT8 };
            if kept.mean < MEAN_COSINE || kept.least < least {
                missed.push((name, format, kept));
            }
        }
    }
    assert!(missed.is_empty(), "{missed:?}");
}

/// Random models of every family, wide weights and biases: a wrong fold leaves a mean below 0.9.
#[test]
fn random_models_of_every_family_keep_their_outputs() {
    for (name, model) in families(91) {
        let tokens: Vec<u32> =
            (0..30u32).map(|i| (i * i * 7 + 3 * i + 1) % model.config.vocab as u32).collect();
        let wanted = float_outputs(&model, &tokens);
        for (format, bound) in
            [(WeightFormat::Int8, 0.998), (WeightFormat::Int16, 0.998), (WeightFormat::Int4, 0.92)]
        {
            let kept = kept(&outputs(integers(&model, format, 7).0, &tokens), &wanted);
            eprintln!("{name} {format:?}: cosine {:.6}, at least {:.6}", kept.mean, kept.least);
            assert!(kept.mean > bound, "{name} {format:?}: {kept:?}");
        }
    }
}

fn plain_gain(gain: &mut Option<Gain>) {
    let gain = gain.as_mut().expect("a gain");
    gain.mantissas.fill(1024);
    gain.shifts.fill(10);
}

fn without_bias(linear: &mut Linear) {
    assert!(!linear.bias.is_empty(), "a bias");
    linear.bias.clear();
}

/// One wrong part of any family is seen: both cosines fall below their bounds.
#[test]
fn each_mutation_falls_below_the_bound() {
    type Mutation = fn(&mut ModelWeights);
    let mutations: [(&str, &str, Mutation); 22] = [
        ("llama-gqa", "no rotation", |w| turn_off(&mut w.tables.rope[0])),
        ("llama-bias-bf16", "no bias of q", |w| without_bias(&mut w.layers[0].q)),
        ("mistral", "no window", |w| w.config.pattern[0].window = 0),
        ("qwen2", "no bias of q", |w| without_bias(&mut w.layers[1].q)),
        ("qwen2", "no window", |w| w.config.pattern.iter_mut().for_each(|kind| kind.window = 0)),
        ("qwen3", "no gain of q", |w| plain_gain(&mut w.layers[1].q_norm)),
        ("qwen3", "no norm of k", |w| plain_gain(&mut w.layers[0].k_norm)),
        ("phi3", "no rotation", |w| turn_off(&mut w.tables.rope[0])),
        ("gemma2", "no cap of logits", |w| w.tables.logit_cap = line(w.config.logit_cap)),
        ("gemma2", "no cap of scores", |w| w.tables.score_cap = line(w.config.score_cap)),
        ("gemma2", "no gain behind attention", |w| plain_gain(&mut w.layers[0].attn_post)),
        ("gemma2", "no window", |w| w.config.pattern[0].window = 0),
        ("gemma3", "the local rotation everywhere", |w| w.tables.rope[1] = w.tables.rope[0].clone()),
        ("gemma3", "no gain behind the block", |w| plain_gain(&mut w.layers[1].ffn_post)),
        ("gpt2", "no positions", |w| {
            let table = w.positions.as_mut().expect("positions");
            table.codes = vec![0; table.codes.len()].into();
        }),
        ("bloom", "no slopes", |w| w.tables.alibi.iter_mut().for_each(|slope| slope.a = 0)),
        ("opt", "no bias of up", |w| without_bias(&mut w.layers[0].ffn.dense_mut().unwrap().up)),
        ("mixtral", "one expert of two", |w| w.config.experts.as_mut().unwrap().per_token = 1),
        ("mixtral", "another expert", |w| {
            let FfnWeights::Experts { experts, .. } = &mut w.layers[1].ffn else { panic!("experts") };
            experts.rotate_left(1);
        }),
        ("qwen3-moe", "other weights of experts", |w| {
            let experts = w.config.experts.as_mut().unwrap();
            experts.normalise = !experts.normalise;
        }),
        ("bert", "no offset", |w| w.layers[0].attn_post.as_mut().unwrap().offsets.fill(0)),
        ("bert", "no gain", |w| plain_gain(&mut w.embed_norm)),
    ];
    let mut missed = Vec::new();
    for (name, what, change) in mutations {
        let (model, expected) = open(name);
        let good = imported(&model, WeightFormat::Int16);
        let mut bad = good.clone();
        change(&mut bad);
        let close = close_choices(&good, &expected.tokens);
        let wanted = others(expected.logits.clone(), &close);
        let of = |weights| kept(&others(outputs(weights, &expected.tokens), &close), &wanted);
        let (good, bad) = (of(good), of(bad));
        eprintln!("{name}, {what}: {bad:?} in place of {good:?}");
        if bad.least >= LEAST_COSINE || bad.mean >= MEAN_COSINE || good.least < LEAST_COSINE {
            missed.push((name, what));
        }
    }
    assert!(missed.is_empty(), "{missed:?}");
}

/// Turns by nothing: cosines one, sines zero.
fn turn_off(table: &mut [i16]) {
    table.chunks_exact_mut(2).for_each(|cs| cs.copy_from_slice(&[16_384, 0]));
}

/// A soft-capping table that caps nothing.
fn line(shift: Option<u8>) -> Vec<i32> {
    let shift = shift.expect("a soft cap");
    (0..4097).map(|i| i << shift).collect()
}
