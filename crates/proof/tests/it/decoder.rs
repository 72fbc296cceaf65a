//! Decoders: what the runtime answers is proved and accepted, and nothing else (proofs.md).

use crate::harness::Case;
use lockstep_base::Digest;
use lockstep_base::config::{Activation, Block, Experts, FeedForward, LayerPattern, ModelConfig, Positions};
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::{ModelWeights, WeightFormat};
use lockstep_proof::decoder::statement::Answer;
use lockstep_proof::decoder::{prove, verify};
use lockstep_proof::gadget::Lie;
use lockstep_runtime::forward::Engine;
use lockstep_runtime::observe::Silent;
use lockstep_runtime::synthetic;
use p3_field::Field;
use std::sync::Arc;

const ROOT: Digest = Digest([7; 32]);

/// How many of them there are.
pub(crate) const KINDS: usize = 8;

/// A small model of one of the shapes that can be proved.
pub(crate) fn config(kind: usize) -> ModelConfig {
    let gated = ModelConfig {
        n_layers: 2,
        d_model: 24,
        n_heads: 4,
        n_kv_heads: 2,
        head_dim: 6,
        d_ffn: 40,
        vocab: 37,
        context: 32,
        rope_dim: 6,
        norm_eps: 1 << 20,
        ..ModelConfig::decoder()
    };
    match kind {
        0 => gated,
        // GPT-2's: learned positions, a plain block.
        1 => ModelConfig {
            positions: Positions::Learned,
            rope_dim: 0,
            rope_tables: 0,
            n_kv_heads: 4,
            feed_forward: FeedForward::Plain,
            ..gated
        },
        // Qwen 3's norms of queries and keys; every other layer has a window.
        3 => ModelConfig {
            qk_norm: true,
            pattern: vec![LayerPattern { window: 2, ..LayerPattern::default() }, LayerPattern::default()],
            ..gated
        },
        // Gemma 2's: norms behind sublayers, a stream that is rotated, caps.
        4 => ModelConfig { block: Block::Sandwich, score_cap: Some(5), logit_cap: Some(1), ..gated },
        // BLOOM's.
        5 => ModelConfig {
            positions: Positions::Alibi,
            rope_dim: 0,
            rope_tables: 0,
            feed_forward: FeedForward::Plain,
            score_cap: Some(9),
            ..gated
        },
        // Mixtral's experts, and those whose weights are parts of all.
        6 => ModelConfig {
            experts: Some(Experts { count: 5, per_token: 2, normalise: true }),
            pattern: vec![LayerPattern { experts: true, ..LayerPattern::default() }],
            ..gated
        },
        7 => ModelConfig {
            experts: Some(Experts { count: 4, per_token: 3, normalise: false }),
            pattern: vec![LayerPattern { experts: true, ..LayerPattern::default() }],
            block: Block::Sandwich,
            ..gated
        },
        // OPT's rectifier; part of a head rotates.
        _ => ModelConfig {
            activation: Activation::Relu,
            feed_forward: FeedForward::Plain,
            rope_dim: 4,
            n_layers: 1,
            ..gated
        },
    }
}

/// A prompt and its greedy answer.
pub(crate) fn answered(weights: &Arc<ModelWeights>, seed: u64, prompt: usize, generated: usize) -> Vec<u32> {
    let engine = Engine::new(weights.clone(), Arc::new(crate::support::compute()));
    let mut rng = SplitMix64::new(seed);
    let mut tokens: Vec<u32> = (0..prompt).map(|_| rng.below(weights.config.vocab.into()) as u32).collect();
    for _ in 0..generated {
        let mut cache = engine.new_cache();
        let mut x = engine.embed(&tokens, 0, &mut Silent).expect("tokens");
        engine.layers(&mut x, &mut cache, &mut Silent).expect("in range");
        let last = &x[x.len() - engine.width()..];
        let logits = engine.logits(last, &[tokens.len() - 1], &mut Silent).expect("in range");
        let best = (0..logits.len()).max_by_key(|at| (logits[*at], core::cmp::Reverse(*at)));
        tokens.push(best.expect("a vocabulary") as u32);
    }
    tokens
}

/// proofs.md, 1: greedy answers of small models of each shape, in int8 and int4.
#[test]
fn answers_are_proved() {
    for kind in 0..KINDS {
        for (format, seed) in [(WeightFormat::Int8, 1), (WeightFormat::Int4, 2)] {
            let weights = Arc::new(synthetic::model(&config(kind), format, seed));
            let tokens = answered(&weights, seed, 5, 4);
            let answer = Answer::greedy(&weights, ROOT, &tokens, 4);
            let began = std::time::Instant::now();
            let proof = prove(&answer).unwrap_or_else(|error| panic!("kind {kind}, seed {seed}: {error}"));
            eprintln!("kind {kind}: {:?}, {} bytes", began.elapsed(), proof.as_bytes().len());
            verify(&answer, &proof).unwrap_or_else(|error| panic!("kind {kind}, seed {seed}: {error}"));
        }
    }
}

/// Values that a true statement leaves open: the sign of 0, which of equal elements is chosen, and how often each of the equal entries
/// that fill a table up is counted.
pub(crate) fn is_open(name: &str) -> bool {
    name.ends_with("sign")
        || name.ends_with("chosen")
        || name.ends_with("nearest")
        || name.starts_with("tables")
}

/// Positions of the prompts and answers that are lied about, as a logarithm: no position is filling.
const LOG_POSITIONS: usize = 2;

/// Besides, the score of a position that is not seen, its shift, and how far away it is, where its probability stays 0.
pub(crate) fn is_open_here(truth: &Case<'_>, lying: &Case<'_>, name: &str, at: usize) -> bool {
    if name.ends_with(": score") || name.ends_with(": weight shift") {
        let cells = truth.values.iter().find(|(value, _)| value == name).map_or(1, |(_, cells)| *cells);
        let looks = at / (cells >> LOG_POSITIONS);
        return at % (1 << LOG_POSITIONS) > looks;
    }
    let Some(scope) = name.strip_suffix(": distance").or(name.strip_suffix(": distance beyond")) else {
        return is_open(name);
    };
    let column = (0..truth.witness.columns.len()).find(|c| truth.name(*c) == format!("{scope}: probability"));
    let zero = |case: &Case<'_>| column.is_some_and(|c| case.witness.columns[c][at].is_zero());
    zero(truth) && zero(lying)
}

/// Lies about each value, and every how many values are lied about: fifty and all with `LOCKSTEP_SLOW`.
fn cases() -> (u64, usize) {
    if std::env::var_os("LOCKSTEP_SLOW").is_some() { (50, 1) } else { (1, 8) }
}

/// proofs.md, 6: every value of every operator, wrong by little, by much, or beyond its range, with everything behind it computed from the lie.
#[test]
fn no_lie_about_a_decoder_is_believed() {
    let (mut tried, mut accepted) = (0, Vec::new());
    for kind in 0..2 {
        let seed = 40 + kind as u64;
        let config = ModelConfig { n_layers: 1, vocab: 9, ..config(kind) };
        let weights = Arc::new(synthetic::model(&config, WeightFormat::Int8, seed));
        let tokens = answered(&weights, seed, 3, 2);
        let answer = Answer::greedy(&weights, ROOT, &tokens, 2);
        let truth = Case::answered(answer, None, None);
        assert_eq!(truth.check(&truth.witness), Ok(()));
        let mut rng = SplitMix64::new(seed);
        let (cases, step) = cases();
        for (value, (name, cells)) in truth.values.iter().enumerate().skip(kind).step_by(step) {
            for case in 0..cases {
                let by = match (case + value as u64) % 4 {
                    0 => 1,
                    1 => -1,
                    2 => 1 << 16,
                    _ => (1 << rng.below(20)) + 1,
                };
                let lie = Lie { value, at: rng.below(*cells as u64) as usize, by };
                // Every other liar declares what the lie needs, the others what the truth does.
                let declared = (case + value as u64 / 2).is_multiple_of(2).then_some(&truth.declared[..]);
                let lying = Case::answered(answer, Some(lie), declared);
                if lying.says_the_same_as(&truth) {
                    continue;
                }
                tried += 1;
                if lying.check(&lying.witness).is_ok() && !is_open_here(&truth, &lying, name, lie.at) {
                    accepted.push(format!("kind {kind}: {name}: {lie:?}"));
                }
            }
        }
    }
    eprintln!("{tried} lies");
    assert!(accepted.is_empty(), "{} of {tried} accepted:\n{}", accepted.len(), accepted.join("\n"));
    assert!(tried > 100, "only {tried} lies");
}
