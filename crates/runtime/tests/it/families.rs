//! Every family of models that the configuration can describe, over random weights: same bits
//! whatever the batch, the kernel, the threads, the company of other sequences, and whether somebody looks.

use crate::pipeline::{engine_over, logits};
use lockstep_base::Digest;
use lockstep_base::config::{
    Activation, Block, Experts, FeedForward, LayerPattern, ModelConfig, Pooling, Positions,
};
use lockstep_base::leaf::TaskSecret;
use lockstep_base::op::{Op, Place};
use lockstep_base::params::Parameters;
use lockstep_base::part::Part;
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::{ModelWeights, WeightFormat};
use lockstep_runtime::forward::{Engine, ForwardError, Segment};
use lockstep_runtime::kernels::Kernel;
use lockstep_runtime::observe::{Observer, Silent, Values};
use lockstep_runtime::stage::{BatchStep, SpanSummary, StageRun, StepInput, StepOutput, Task};
use lockstep_runtime::synthetic::{self, small_config};
use lockstep_runtime::trace::TraceMode;

/// Decoders by name.
pub(crate) fn decoders() -> Vec<(&'static str, ModelConfig)> {
    let sandwich = ModelConfig {
        block: Block::Sandwich,
        qk_norm: true,
        rope_tables: 2,
        rope_dim: 12,
        score_cap: Some(2),
        logit_cap: Some(3),
        pattern: vec![
            LayerPattern { window: 9, rope: 0, experts: false },
            LayerPattern { window: 0, rope: 1, experts: false },
        ],
        ..small_config()
    };
    let alibi = ModelConfig {
        positions: Positions::Alibi,
        rope_dim: 0,
        rope_tables: 0,
        feed_forward: FeedForward::Plain,
        n_kv_heads: 4,
        ..small_config()
    };
    let experts = ModelConfig {
        experts: Some(Experts { count: 6, per_token: 2, normalise: true }),
        pattern: vec![LayerPattern::default(), LayerPattern { experts: true, ..LayerPattern::default() }],
        ..small_config()
    };
    let relu = ModelConfig {
        positions: Positions::Learned,
        rope_dim: 0,
        rope_tables: 0,
        feed_forward: FeedForward::Plain,
        activation: Activation::Relu,
        d_model: 40,
        d_ffn: 70,
        ..small_config()
    };
    let windows = ModelConfig {
        pattern: vec![LayerPattern { window: 5, ..LayerPattern::default() }],
        ..small_config()
    };
    let loose = ModelConfig {
        block: Block::Sandwich,
        experts: Some(Experts { count: 5, per_token: 3, normalise: false }),
        pattern: vec![LayerPattern { experts: true, ..LayerPattern::default() }],
        ..small_config()
    };
    vec![
        ("sandwich, two ropes, windows, caps, norms of heads", sandwich),
        ("ALiBi", alibi),
        ("experts", experts),
        ("rectifier, learned positions", relu),
        ("windows everywhere", windows),
        ("sandwich of experts, weights not normalised", loose),
    ]
}

/// Encoders by name.
fn encoders() -> Vec<(&'static str, ModelConfig)> {
    let mean = ModelConfig {
        block: Block::PostNorm,
        pooling: Some(Pooling::Mean),
        positions: Positions::Learned,
        rope_dim: 0,
        rope_tables: 0,
        feed_forward: FeedForward::Plain,
        n_kv_heads: 4,
        ..small_config()
    };
    let first = ModelConfig { pooling: Some(Pooling::First), ..mean.clone() };
    vec![("encoder, mean", mean), ("encoder, first token", first)]
}

pub(crate) fn weights(config: &ModelConfig, seed: u64) -> ModelWeights {
    config.validate().expect("a configuration");
    synthetic::model(config, WeightFormat::Int8, seed)
}

fn tokens(count: usize, seed: u64) -> Vec<u32> {
    let mut rng = SplitMix64::new(seed);
    (0..count).map(|_| rng.below(97) as u32).collect()
}

/// arithmetic.md 1: prefill in any chunks, on any kernel and number of threads, equals decoding.
#[test]
fn every_decoder_gives_one_answer() {
    for (name, config) in decoders() {
        let weights = weights(&config, 11);
        let tokens = tokens(60, 3);
        let scalar = engine_over(weights.clone(), Kernel::Scalar, 1);
        let expected = logits(&scalar, &tokens, &[1; 60], &mut Silent);
        assert!(expected.iter().any(|logit| *logit != expected[0]), "{name}: all logits are equal");
        for kernel in Kernel::available() {
            for threads in [1, 3] {
                let engine = engine_over(weights.clone(), kernel, threads);
                for steps in [vec![60], vec![1, 31, 28], vec![7, 7, 7, 7, 7, 7, 7, 11]] {
                    let got = logits(&engine, &tokens, &steps, &mut Silent);
                    assert!(got == expected, "{name}: {kernel}, {threads} threads, {steps:?}");
                }
            }
        }
    }
}

/// Leaves things as they are, but might not: every step waits for it.
struct Bystander(usize);

impl Observer for Bystander {
    fn output(&mut self, _: Place, _: u32, _: Values<'_>) {
        self.0 += 1;
    }
}

/// Looking changes nothing: not the logits, and an observer that may alter gets the ops step by
/// step with the same leaves as one that may not.
#[test]
fn observers_change_nothing() {
    for (name, config) in decoders() {
        let engine = engine_over(weights(&config, 12), Kernel::detect(), 2);
        let tokens = tokens(40, 4);
        let silent = logits(&engine, &tokens, &[33, 7], &mut Silent);
        let mut bystander = Bystander(0);
        assert!(logits(&engine, &tokens, &[33, 7], &mut bystander) == silent, "{name}");
        assert!(bystander.0 > 40 * 60, "{name}: {} outputs", bystander.0);
        let (mut traced, mut drilled) = (run(&engine, 1), run(&engine, 1));
        traced.step(StepInput::Tokens(&tokens), 39, &mut Silent).unwrap();
        for token in &tokens {
            drilled.step(StepInput::Tokens(&[*token]), 39, &mut Bystander(0)).unwrap();
        }
        assert_same(&traced.close_span(0..40), &drilled.close_span(0..40), name);
    }
}

/// A task of its own secret.
fn run(engine: &Engine, secret: u8) -> StageRun {
    let task = Task {
        secrets: TaskSecret([secret; 32]).stage(0),
        parameters: Parameters { temperature_q16: 1 << 16, ..Parameters::greedy(99) },
        sampler_seed: Digest([secret; 32]),
        mode: TraceMode::Full,
        keep_leaves: true,
        top_logprobs: None,
        adapter: None,
    };
    StageRun::new(engine.clone(), Part::whole(engine.weights.config.n_layers), task)
}

fn assert_same(a: &SpanSummary, b: &SpanSummary, name: &str) {
    let roots = |span: &SpanSummary| [span.in_root, span.out_root, span.kv_root, span.trace_root];
    assert!(a.leaves == b.leaves, "{name}: other leaves");
    assert_eq!(roots(a), roots(b), "{name}");
}

/// Sequences that are computed together get the tokens and roots that each gets alone, in random mixes
/// of prompts in chunks and single tokens.
#[test]
fn a_batch_is_its_sequences_alone() {
    for (name, config) in decoders() {
        let engine = engine_over(weights(&config, 13), Kernel::detect(), 2);
        for seed in 0..3 {
            let mut rng = SplitMix64::new(seed);
            let mut together: Vec<StageRun> = (0..5).map(|secret| run(&engine, secret)).collect();
            let mut alone: Vec<StageRun> = (0..5).map(|secret| run(&engine, secret)).collect();
            let mut next: Vec<Vec<u32>> = (0..5).map(|i| tokens(1 + rng.below(20) as usize, i)).collect();
            for _ in 0..6 {
                // Some sit out; the others take a chunk of their prompt, or the token they sampled.
                let members: Vec<bool> = (0..5).map(|_| rng.below(4) > 0).collect();
                let chunks: Vec<Vec<u32>> = next
                    .iter()
                    .map(|next| next[..1 + rng.below(next.len() as u64) as usize].to_vec())
                    .collect();
                let mut silent = [Silent; 5];
                let mut steps: Vec<BatchStep<'_, Silent>> = together
                    .iter_mut()
                    .zip(&chunks)
                    .zip(&mut silent)
                    .zip(&members)
                    .filter(|(_, member)| **member)
                    .map(|(((run, chunk), drill), _)| {
                        let sample_from = run.position() + chunk.len() as u32 - 1;
                        BatchStep { run, input: StepInput::Tokens(chunk), sample_from, drill }
                    })
                    .collect();
                let mut outputs = StageRun::step_batch(&mut steps).into_iter();
                for i in (0..5).filter(|i| members[*i]) {
                    let from = alone[i].position() + chunks[i].len() as u32 - 1;
                    let expected = alone[i].step(StepInput::Tokens(&chunks[i]), from, &mut Silent).unwrap();
                    assert_eq!(outputs.next().unwrap().unwrap(), expected, "{name}, seed {seed}, run {i}");
                    next[i].drain(..chunks[i].len());
                    let StepOutput::Sampled(sampled) = expected else { panic!("a whole model samples") };
                    if next[i].is_empty() {
                        next[i].push(sampled[0].token);
                    }
                }
            }
            for (a, b) in together.iter_mut().zip(&mut alone) {
                let end = a.position();
                assert_same(&a.close_span(0..end), &b.close_span(0..end), name);
            }
        }
    }
}

/// One sequence's error is its own: the others get what they would get without it.
#[test]
fn an_error_in_a_batch_stays_with_its_sequence() {
    let engine = engine_over(weights(&small_config(), 14), Kernel::detect(), 1);
    let (mut good, mut bad, mut alone) = (run(&engine, 1), run(&engine, 2), run(&engine, 1));
    let (mut a, mut b) = (Silent, Silent);
    let good_step =
        BatchStep { run: &mut good, input: StepInput::Tokens(&[5, 6, 7]), sample_from: 2, drill: &mut a };
    let bad_step =
        BatchStep { run: &mut bad, input: StepInput::Tokens(&[5, 97]), sample_from: 1, drill: &mut b };
    let results = StageRun::step_batch(&mut [good_step, bad_step]);
    let expected = alone.step(StepInput::Tokens(&[5, 6, 7]), 2, &mut Silent);
    assert_eq!(results[0], expected);
    assert_eq!(results[1], Err(ForwardError::Token { got: 97, position: 1, vocab: 97 }));
    assert_eq!((good.position(), bad.position()), (3, 0));
    assert_same(&good.close_span(0..3), &alone.close_span(0..3), "the good one");
}

/// A token of an encoder sees those behind it, its vector does not depend on kernels, threads or
/// company, and a sequence is not computed in pieces.
#[test]
fn encoders_see_all_of_their_sequence() {
    for (name, config) in encoders() {
        let weights = weights(&config, 15);
        let tokens = tokens(21, 5);
        let expected = engine_over(weights.clone(), Kernel::Scalar, 1).encode(&tokens).unwrap();
        assert_eq!(expected.len(), 48);
        for kernel in Kernel::available() {
            for threads in [1, 3] {
                let engine = engine_over(weights.clone(), kernel, threads);
                assert_eq!(engine.encode(&tokens).unwrap(), expected, "{name}: {kernel}, {threads}");
            }
        }
        let engine = engine_over(weights, Kernel::detect(), 2);
        let mut other = tokens.clone();
        other[20] = (other[20] + 1) % 97;
        let changed = engine.encode(&other).unwrap();
        assert_ne!(changed, expected, "{name}: the first row sees the last token");
        let pooled = |rows: &[i32]| {
            let mean = |col: usize| {
                let sum: i64 = rows.iter().skip(col).step_by(48).map(|v| i64::from(*v)).sum();
                (2 * sum + 21).div_euclid(42) as i32
            };
            match config.pooling {
                Some(Pooling::First) => rows[..48].to_vec(),
                _ => (0..48).map(mean).collect(),
            }
        };

        let (mut a, mut b) = (engine.new_cache(), engine.new_cache());
        let mut rows = engine.embed(&tokens, 0, &mut Silent).unwrap();
        rows.extend(engine.embed(&other, 0, &mut Silent).unwrap());
        let (mut x, mut y) = (Silent, Silent);
        let first = Segment { cache: &mut a, rows: 21, observer: &mut x };
        let second = Segment { cache: &mut b, rows: 21, observer: &mut y };
        engine.layers_batch(&mut rows, &mut [first, second]).unwrap();
        assert_eq!(pooled(&rows[..21 * 48]), expected, "{name}: in a batch");
        assert_eq!(pooled(&rows[21 * 48..]), changed, "{name}: in a batch");
        let mut more = engine.embed(&tokens[..1], 0, &mut Silent).unwrap();
        let error = engine.layers(&mut more, &mut a, &mut Silent).unwrap_err();
        assert_eq!(error, ForwardError::Encoder { got: 21 });
    }
}

/// arithmetic.md 6: a window of W forgets what lies further back. With one layer, tokens before the window
/// change nothing, and the last one inside it does.
#[test]
fn windows_end_where_they_say() {
    let pattern = vec![LayerPattern { window: 5, ..LayerPattern::default() }];
    let config = ModelConfig { n_layers: 1, pattern, ..small_config() };
    let engine = engine_over(weights(&config, 16), Kernel::detect(), 1);
    let tokens = tokens(300, 6);
    let last = |tokens: &[u32]| {
        let all = logits(&engine, tokens, &[tokens.len()], &mut Silent);
        all[all.len() - 97..].to_vec()
    };
    let expected = last(&tokens);
    let changed = |at: usize| {
        let mut tokens = tokens.clone();
        tokens[at] = (tokens[at] + 1) % 97;
        last(&tokens)
    };
    assert_eq!(changed(294), expected);
    assert_ne!(changed(295), expected);
}

/// Section 7: the router's choice decides which experts run, each once, and with them the output.
#[test]
fn experts_run_where_they_are_chosen() {
    struct Count(Vec<(Place, u32, Vec<i32>)>);
    impl Observer for Count {
        fn output(&mut self, place: Place, run: u32, values: Values<'_>) {
            if let (Op::RouterChoice | Op::DownProj, Values::I32(x)) = (place.op, values) {
                self.0.push((place, run, x.to_vec()));
            }
        }
    }
    let (_, config) = decoders().swap_remove(2);
    let engine = engine_over(weights(&config, 17), Kernel::detect(), 1);
    let mut count = Count(Vec::new());
    logits(&engine, &tokens(30, 7), &[30], &mut count);
    let choices: Vec<_> = count.0.iter().filter(|(place, ..)| place.op == Op::RouterChoice).collect();
    assert_eq!(choices.len(), 2 * 30, "layers 1 and 3 have experts");
    let mut used = [0; 6];
    for (place, _, choice) in &choices {
        let slots: Vec<&[i32]> = choice.chunks(3).filter(|slot| slot[0] >= 0).collect();
        let downs = count
            .0
            .iter()
            .filter(|(at, ..)| (at.op, at.position, at.layer) == (Op::DownProj, place.position, place.layer));
        let mut runs: Vec<u32> = downs.map(|(_, run, _)| *run).collect();
        // In the order of the experts' numbers, each the run of its slot.
        let mut order: Vec<u32> = (0..slots.len() as u32).collect();
        order.sort_by_key(|slot| slots[*slot as usize][0]);
        assert_eq!(runs, order, "{place}");
        runs.sort_unstable();
        slots.iter().for_each(|slot| used[slot[0] as usize] += 1);
    }
    assert!(used.iter().filter(|count| **count > 0).count() >= 3, "the router chose {used:?}");
}
