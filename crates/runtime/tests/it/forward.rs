//! The forward pass: same bits whatever the batch, the kernel, the threads, the stages.

use crate::pipeline::{Job, answer, engine, engine_over, logits};
use lockstep_base::config::{FeedForward, ModelConfig, Positions};
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::WeightFormat;
use lockstep_runtime::forward::ForwardError;
use lockstep_runtime::kernels::Kernel;
use lockstep_runtime::observe::Silent;
use lockstep_runtime::stage::StepInput;
use lockstep_runtime::synthetic::{self, small_config};

fn tokens(count: usize, seed: u64) -> Vec<u32> {
    let mut rng = SplitMix64::new(seed);
    (0..count).map(|_| rng.below(97) as u32).collect()
}

fn shapes() -> Vec<ModelConfig> {
    let gated = small_config();
    let plain = ModelConfig {
        positions: Positions::Learned,
        rope_dim: 0,
        rope_tables: 0,
        feed_forward: FeedForward::Plain,
        n_kv_heads: 4,
        ..small_config()
    };
    vec![gated, plain]
}

/// arithmetic.md 1: no scale is shared by two tokens, so prefill in any batch equals decoding.
#[test]
fn batched_prefill_equals_token_by_token_decode() {
    let tokens = tokens(70, 1);
    for config in shapes() {
        for format in [WeightFormat::Int8, WeightFormat::Int4, WeightFormat::Int16] {
            let engine = engine(&config, format, Kernel::detect(), 1);
            let decoded = logits(&engine, &tokens, &[1; 70], &mut Silent);
            assert!(decoded.iter().any(|v| *v != 0));
            for steps in [vec![70], vec![1, 31, 38], vec![33, 1, 1, 35], vec![7; 10]] {
                assert_eq!(logits(&engine, &tokens, &steps, &mut Silent), decoded, "{steps:?} {format:?}");
            }
        }
    }
}

/// arithmetic.md: every faster path gives the bits of the scalar specification, on any number of threads.
#[test]
fn kernels_and_threads_change_nothing() {
    let tokens = tokens(40, 2);
    for config in shapes() {
        for format in [WeightFormat::Int8, WeightFormat::Int4, WeightFormat::Int16] {
            let weights = synthetic::model(&config, format, 5);
            let expected =
                logits(&engine_over(weights.clone(), Kernel::Scalar, 1), &tokens, &[30, 10], &mut Silent);
            for kernel in Kernel::available() {
                for threads in [1, 2, 3] {
                    let engine = engine_over(weights.clone(), kernel, threads);
                    assert_eq!(engine.compute.kernel, kernel);
                    let got = logits(&engine, &tokens, &[30, 10], &mut Silent);
                    assert_eq!(got, expected, "{kernel} on {threads} threads, {format:?}");
                }
            }
        }
    }
}

/// interfaces.md, parts: cutting the layers into stages changes no token and no root.
#[test]
fn stages_change_nothing() {
    let engine = engine(&small_config(), WeightFormat::Int8, Kernel::detect(), 1);
    let prompt = tokens(45, 3);
    let (whole, _) = answer(&engine, Job::new(&prompt, 30, 1));
    for stages in 2..=4 {
        let (split, _) = answer(&engine, Job::new(&prompt, 30, stages));
        assert_eq!(split.tokens, whole.tokens, "{stages} stages");
        // The edges are the same leaves under the same secrets only at the first stage's input.
        let first = |file: &lockstep_base::receipt_file::ReceiptFile| {
            file.stages[0].receipts.iter().map(|r| r.receipt.in_root).collect::<Vec<_>>()
        };
        assert_eq!(first(&split), first(&whole));
        // Roots chain: what leaves a stage is what enters the next.
        for pair in split.stages.windows(2) {
            for (left, right) in pair[0].receipts.iter().zip(&pair[1].receipts) {
                assert_eq!(left.receipt.out_root, right.receipt.in_root);
            }
        }
    }
}

/// Sequences end at the context, tokens at the vocabulary; both say what was got and expected,
/// and the cache is as before.
#[test]
fn bounds_of_the_input_are_errors() {
    let config = small_config();
    let engine = engine(&config, WeightFormat::Int8, Kernel::detect(), 1);
    let error = engine.embed(&[5, 97], 0, &mut Silent).unwrap_err();
    assert_eq!(error, ForwardError::Token { got: 97, position: 1, vocab: 97 });
    let mut cache = engine.new_cache();
    let mut rows = engine.embed(&vec![3; 320], 0, &mut Silent).unwrap();
    engine.layers(&mut rows, &mut cache, &mut Silent).unwrap();
    let mut one = engine.embed(&[3], 0, &mut Silent).unwrap();
    let error = engine.layers(&mut one, &mut cache, &mut Silent).unwrap_err();
    assert_eq!(error, ForwardError::Context { got: 321, context: 320 });
    assert_eq!(cache.len(), 320);
    assert_eq!(
        engine.layers(&mut [], &mut cache, &mut Silent).unwrap_err(),
        ForwardError::Width { got: 0, width: 48 }
    );
}

/// arithmetic.md 5: a residual value out of range is a range error, and the step is undone.
#[test]
fn a_range_error_is_a_defined_result() {
    let config = small_config();
    let engine = engine(&config, WeightFormat::Int8, Kernel::detect(), 1);
    let mut cache = engine.new_cache();
    let mut rows = vec![(1 << 29) - 1; 48];
    let error = engine.layers(&mut rows, &mut cache, &mut Silent).unwrap_err();
    assert!(matches!(error, ForwardError::Range { .. }), "{error}");
    assert_eq!(cache.len(), 0);
    let good = engine.embed(&[4], 0, &mut Silent).unwrap();
    let mut first = good.clone();
    engine.layers(&mut first, &mut cache, &mut Silent).unwrap();
    let mut fresh = engine.new_cache();
    let mut second = good;
    engine.layers(&mut second, &mut fresh, &mut Silent).unwrap();
    assert_eq!(first, second, "the failed step left nothing behind");
}

/// Protocol: `truncate(pos)` and going on gives the bits of never having gone there.
#[test]
fn truncation_forgets() {
    let engine = engine(&small_config(), WeightFormat::Int8, Kernel::detect(), 1);
    let part = lockstep_base::part::Part::whole(4);
    let task = || lockstep_runtime::stage::Task {
        secrets: lockstep_base::leaf::TaskSecret([1; 32]).stage(0),
        parameters: lockstep_base::params::Parameters::greedy(9),
        sampler_seed: lockstep_base::Digest::ZERO,
        mode: lockstep_runtime::trace::TraceMode::Full,
        keep_leaves: true,
        top_logprobs: Some(3),
        adapter: None,
    };
    let mut straight = lockstep_runtime::stage::StageRun::new(engine.clone(), part, task());
    let mut winding = lockstep_runtime::stage::StageRun::new(engine, part, task());
    let tokens = tokens(20, 9);
    let a = straight.step(StepInput::Tokens(&tokens), 19, &mut Silent).unwrap();
    winding.step(StepInput::Tokens(&tokens[..12]), 99, &mut Silent).unwrap();
    winding.step(StepInput::Tokens(&[1, 2, 3]), 99, &mut Silent).unwrap();
    winding.truncate(12);
    let b = winding.step(StepInput::Tokens(&tokens[12..]), 19, &mut Silent).unwrap();
    assert_eq!(a, b);
    let (x, y) = (straight.close_span(0..20), winding.close_span(0..20));
    assert_eq!(
        (x.in_root, x.out_root, x.kv_root, x.trace_root),
        (y.in_root, y.out_root, y.kv_root, y.trace_root)
    );
    assert_eq!(x.leaves, y.leaves);
}
