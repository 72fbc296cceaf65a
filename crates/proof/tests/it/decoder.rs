//! Decoders: what the runtime answers is proved and accepted, and nothing else (proofs.md).

use lockstep_base::Digest;
use lockstep_base::config::{Activation, FeedForward, ModelConfig, Positions};
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::{ModelWeights, WeightFormat};
use lockstep_proof::decoder::statement::Answer;
use lockstep_proof::decoder::{prove, verify};
use lockstep_runtime::forward::Engine;
use lockstep_runtime::observe::Silent;
use lockstep_runtime::synthetic;
use std::sync::Arc;

const ROOT: Digest = Digest([7; 32]);

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
        // OPT's rectifier; part of a head rotates.
        _ => ModelConfig { activation: Activation::Relu, feed_forward: FeedForward::Plain, rope_dim: 4, n_layers: 1, ..gated },
    }
}

/// A prompt and its greedy answer.
pub(crate) fn answered(weights: &Arc<ModelWeights>, seed: u64, prompt: usize, generated: usize) -> Vec<u32> {
    let engine = Engine::new(weights.clone(), Arc::new(crate::support::compute()));
    let mut rng = SplitMix64::new(seed);
    let mut tokens: Vec<u32> =
        (0..prompt).map(|_| rng.below(weights.config.vocab.into()) as u32).collect();
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
    for kind in 0..3 {
        for (format, seed) in [(WeightFormat::Int8, 1), (WeightFormat::Int4, 2)] {
            let weights = Arc::new(synthetic::model(&config(kind), format, seed));
            let tokens = answered(&weights, seed, 5, 4);
            let answer = Answer { weights: &weights, root: ROOT, tokens: &tokens, generated: 4 };
            let began = std::time::Instant::now();
            let proof = prove(&answer).unwrap_or_else(|error| panic!("kind {kind}, seed {seed}: {error}"));
            eprintln!("kind {kind}: {:?}, {} bytes", began.elapsed(), proof.as_bytes().len());
            verify(&answer, &proof).unwrap_or_else(|error| panic!("kind {kind}, seed {seed}: {error}"));
        }
    }
}
