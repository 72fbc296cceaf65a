//! Positions that the head does not read.

use super::ROOT;
use crate::decoder::config;
use lockstep_base::config::ModelConfig;
use lockstep_base::weights::{FfnWeights, ModelWeights, Region, WeightFormat};
use lockstep_proof::decoder::statement::Answer;
use lockstep_proof::decoder::{prove, verify};
use lockstep_runtime::forward::Engine;
use lockstep_runtime::observe::Silent;
use lockstep_runtime::synthetic;
use std::sync::Arc;

/// A model of one layer whose last addition leaves about 2^29 behind token 0, and nothing near it behind others.
fn overflowing(seed: u64) -> ModelWeights {
    let shape = ModelConfig { n_layers: 1, ..config(0) };
    let mut weights = synthetic::model(&shape, WeightFormat::Int8, seed);
    let width = shape.d_model as usize;
    let embed = weights.embed.as_mut().expect("a table");
    embed.frac = shape.residual_frac as i8 - 14;
    let code = |at: usize| -> i16 {
        match (at / width, at % width) {
            (0, 0) => 16_380,
            (_, 0) => -4_000,
            (token, col) => ((token * 31 + col * 17) % 101) as i16 * 20 - 1000,
        }
    };
    let codes = (0..embed.rows * width).flat_map(|at| code(at).to_le_bytes()).collect::<Vec<u8>>();
    embed.codes = Region::from(codes);
    let FfnWeights::Dense(dense) = &mut weights.layers[0].ffn else { panic!("a dense block") };
    dense.down.bias = vec![0; width];
    dense.down.bias[0] = 1 << 28;
    dense.down.shifts[0] -= dense.down.shifts[0].min(4);
    weights
}

/// proofs.md, 1: where the arithmetic has a range error there is no answer, so no token has a proof, also if the error is at a position whose logits nobody asked for.
#[test]
fn range_errors_where_nothing_is_read() {
    let mut errors = 0;
    for seed in 6..9 {
        let weights = Arc::new(overflowing(seed));
        let prompt = [3u32, 0, 5, 7];
        let engine = Engine::new(weights.clone(), Arc::new(crate::support::compute()));
        let mut x = engine.embed(&prompt, 0, &mut Silent).expect("tokens");
        if engine.layers(&mut x, &mut engine.new_cache(), &mut Silent).is_ok() {
            continue;
        }
        errors += 1;
        for answer in 0..weights.config.vocab {
            let tokens = [&prompt[..], &[answer]].concat();
            let claim = Answer::greedy(&weights, ROOT, &tokens, 1);
            let proved = prove(&claim).is_ok_and(|proof| verify(&claim, &proof).is_ok());
            assert!(!proved, "seed {seed}: token {answer} is proved");
        }
    }
    assert!(errors > 0, "no model has a range error");
}
