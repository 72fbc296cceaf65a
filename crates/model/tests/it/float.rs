//! The float reference: its hooks, its sampling, and the simulated rival.

use lockstep_model::float::ggml::{self, WeightFormat};
use lockstep_model::float::{
    Activations, FloatError, Hooks, Rng, Runner, Sampling, Site, argmax, compare, generate, logits_all,
};
use lockstep_model::source::{self, FloatModel};
use proptest::prelude::*;

use crate::source_data::{data, fixture};

fn llama() -> FloatModel {
    source::open_weights(&fixture("llama-gqa")).unwrap()
}

#[test]
fn hooks_see_every_linear_input_once_in_order_and_every_key() {
    let model = llama();
    let (mut seen, mut keys) = (Vec::new(), Vec::new());
    let mut input = |layer: usize, site: Site, x: &[f32]| seen.push((layer, site, x.len()));
    let mut key = |layer: usize, head: usize, k: &[f32]| keys.push((layer, head, k.len()));
    let mut hooks = Hooks { input: Some(&mut input), key: Some(&mut key) };
    let mut runner = Runner::new(&model);
    let observed = runner.step_observed(3, &mut hooks).unwrap();
    let layer = |l| [(l, Site::AttnIn, 32), (l, Site::OIn, 32), (l, Site::FfnIn, 32), (l, Site::DownIn, 48)];
    let mut expected = [layer(0), layer(1)].concat();
    expected.push((2, Site::HeadIn, 32));
    assert_eq!(seen, expected);
    assert_eq!(keys, [(0, 0, 8), (0, 1, 8), (1, 0, 8), (1, 1, 8)]);
    assert_eq!(observed, Runner::new(&model).step(3).unwrap());
}

/// A mixture shows the input of every expert that a token runs through, and of no other.
#[test]
fn hooks_see_the_experts_that_are_used() {
    let model = source::open_weights(&fixture("qwen3-moe")).unwrap();
    let mut seen = Vec::new();
    let mut input = |layer: usize, site: Site, x: &[f32]| {
        if matches!(site, Site::DownIn | Site::ExpertDownIn(_)) {
            seen.push((layer, site, x.len()));
        }
    };
    Runner::new(&model).step_observed(3, &mut Hooks { input: Some(&mut input), key: None }).unwrap();
    let layers: Vec<usize> = seen.iter().map(|seen| seen.0).collect();
    assert_eq!(layers, [0, 0, 1, 2, 2], "two of four experts, a dense layer, two experts");
    assert_eq!(seen[2], (1, Site::DownIn, 24));
    assert!(seen[0].1 != seen[1].1 && seen.iter().all(|seen| seen.0 == 1 || seen.2 == 20), "{seen:?}");
}

#[test]
fn encoders_have_vectors_and_decoders_have_logits() {
    let encoder = source::open_weights(&fixture("bert")).unwrap();
    assert_eq!(encoder.logits_all(&[1, 2]), Err(FloatError::NoHead));
    assert_eq!(Runner::new(&encoder).step(1), Err(FloatError::NoHead));
    assert_eq!(encoder.embedding(&[]), Err(FloatError::NoTokens));
    assert_eq!(encoder.embedding(&[64]), Err(FloatError::UnknownToken { got: 64, vocab: 64 }));
    assert_eq!(encoder.embedding(&[1; 33]), Err(FloatError::ContextFull { got: 32, context: 32 }));
    let mut runner = Runner::new(&encoder);
    runner.run(&[1, 2, 3], &mut Hooks::default()).unwrap();
    assert_eq!(runner.run(&[4], &mut Hooks::default()), Err(FloatError::TextInPortions { got: 3 }));
    assert_eq!(llama().embedding(&[1]), Err(FloatError::NoPooling));
}

/// The vector a hook sees is the one the linear multiplies: q of it, turned back by RoPE at position 0, is k.
#[test]
fn an_observed_input_gives_the_observed_key() {
    let model = llama();
    let (mut at_input, mut at_key) = (Vec::new(), Vec::new());
    let mut input = |layer: usize, site: Site, x: &[f32]| {
        if (layer, site) == (0, Site::AttnIn) {
            at_input = x.to_vec();
        }
    };
    let mut key = |layer: usize, _: usize, k: &[f32]| {
        if layer == 0 {
            at_key.extend_from_slice(k);
        }
    };
    Runner::new(&model)
        .step_observed(7, &mut Hooks { input: Some(&mut input), key: Some(&mut key) })
        .unwrap();
    let weight = &model.layers[0].k.weight;
    for (row, got) in at_key.iter().enumerate() {
        let wanted: f32 = weight.row(row).iter().zip(&at_input).map(|(w, x)| w * x).sum();
        assert!((wanted - got).abs() < 1e-5);
    }
}

#[test]
fn decoding_with_a_cache_forgets_on_reset_and_stops_at_the_context() {
    let model = llama();
    let mut runner = Runner::new(&model);
    let first = runner.step(5).unwrap();
    runner.step(6).unwrap();
    assert_ne!(runner.step(5).unwrap(), first);
    runner.reset();
    assert_eq!(runner.step(5).unwrap(), first);
    assert_eq!(runner.step(96), Err(FloatError::UnknownToken { got: 96, vocab: 96 }));
    for _ in 1..64 {
        runner.step(1).unwrap();
    }
    assert_eq!(runner.step(1), Err(FloatError::ContextFull { got: 64, context: 64 }));
}

#[test]
fn sampling_is_seeded_and_greedy_takes_the_lowest_of_equals() {
    let model = llama();
    let text =
        |seed| generate(&model, &[1], 100, &[2], Sampling::Temperature(1.0), &mut Rng::new(seed)).unwrap();
    assert_eq!(text(1), text(1));
    assert_ne!(text(1), text(2));
    assert_eq!(text(1).len(), 100); // beyond the context of 64
    assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
    assert_eq!(Sampling::Temperature(0.0).pick(&[1.0, 3.0], &mut Rng::new(0)), 1);
    assert!(generate(&model, &[], 1, &[], Sampling::Greedy, &mut Rng::new(0)).is_err());
    let picks = |token| {
        (0..10_000u64)
            .filter(|&s| Sampling::Temperature(1.0).pick(&[0.0, 1.0], &mut Rng::new(s)) == token)
            .count()
    };
    assert!((7_100..7_500).contains(&picks(1)), "{}", picks(1)); // 1 / (1 + 1/e) = 0.731
}

#[test]
fn comparing_a_model_with_itself_costs_nothing() {
    let model = llama();
    let tokens: Vec<u32> = (0..30).collect();
    let logits = model.logits_all(&tokens).unwrap();
    let same = compare(&logits, &logits, &tokens);
    assert_eq!((same.mean_kl, same.top1_agreement, same.positions), (0.0, 1.0, 30));
    let uniform = vec![vec![0.0; 96]; 30];
    assert!((compare(&logits, &uniform, &tokens).bits_per_token - 96f64.log2()).abs() < 1e-9);
}

/// Worked by hand after ggml-quants.c; the scales are powers of two, hence exact in f16.
#[test]
fn ggml_blocks_round_as_in_ggml() {
    let mut row = vec![127.0, -3.4, 2.5, 0.0];
    ggml::round_row(&mut row, WeightFormat::Q8_0);
    assert_eq!(row, [127.0, -3.0, 3.0, 0.0]);
    let mut row = vec![-8.0, 7.9, 3.4, -0.6, 0.0];
    ggml::round_row(&mut row, WeightFormat::Q4_0);
    assert_eq!(row, [-8.0, 7.0, 3.0, -1.0, 0.0]);
    let mut zeros = [0.0; 40];
    ggml::round_activations(&mut zeros);
    assert_eq!(zeros, [0.0; 40]);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Every block has its own scale, short last block included, and the error stays within half a step (and f16's rounding).
    #[test]
    fn q8_0_error_is_bounded_by_the_block(row in prop::collection::vec(-4.0f32..4.0, 1..80)) {
        let mut rounded = row.clone();
        ggml::round_row(&mut rounded, WeightFormat::Q8_0);
        for (before, after) in row.chunks(32).zip(rounded.chunks(32)) {
            let max = before.iter().fold(0f32, |max, x| max.max(x.abs()));
            for (x, y) in before.iter().zip(after) {
                prop_assert!((x - y).abs() <= max / 127.0 * 0.5 + max / 2_000.0);
            }
        }
    }
}

/// On a real model: Q8_0 costs almost nothing, Q4_0 clearly more. These are the rival's figures.
#[test]
fn the_simulated_rival_loses_little_at_8_bits_and_more_at_4() {
    let Some(folder) = data("llama-stories260k") else { return };
    let source = source::open(&folder.join("stories260K.bin"), Some(&folder.join("tok512.bin"))).unwrap();
    let text = std::fs::read_to_string(folder.join("expected_greedy_200.txt")).unwrap();
    let tokens = source.tokenizer.encode(&text, true).unwrap();
    let reference = source.model.logits_all(&tokens).unwrap();
    let float = compare(&reference, &reference, &tokens);
    let rival = |format| {
        let model = ggml::quantise_weights(&source.model, format).unwrap();
        compare(&reference, &logits_all(&model, Activations::Q8_0, &tokens).unwrap(), &tokens)
    };
    let (q8, q4) = (rival(WeightFormat::Q8_0), rival(WeightFormat::Q4_0));
    eprintln!("float {float:?}\nQ8_0 {q8:?}\nQ4_0 {q4:?}");
    assert!(q8.mean_kl > 0.0 && q8.mean_kl < 0.01 && q8.top1_agreement > 0.95);
    assert!(q4.mean_kl > 3.0 * q8.mean_kl && q4.mean_kl < 1.0);
    assert!((q8.bits_per_token / float.bits_per_token - 1.0).abs() < 0.02);
}
