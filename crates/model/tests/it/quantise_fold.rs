//! Folding and rotating change nothing but the basis: checked in float, before any rounding.

use crate::quantise_models::{biased_llama, gpt2, llama};
use lockstep_model::quantise::fold::{Rotations, fold};
use lockstep_model::source::FloatModel;

const TOKENS: [u32; 20] = [1, 7, 33, 2, 2, 40, 0, 19, 8, 8, 25, 39, 3, 11, 30, 5, 17, 29, 36, 4];

fn models() -> [(&'static str, FloatModel); 3] {
    [("llama", llama(11)), ("biased llama", biased_llama(12)), ("gpt2", gpt2(13))]
}

fn largest(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |most, x| x.abs().max(most))
}

/// The folded and rotated model computes the float model's logits, up to that reference's own f32 vectors.
#[test]
fn folded_logits_are_those_of_the_float_model() {
    for (name, model) in models() {
        let wanted: Vec<f64> =
            model.logits_all(&TOKENS).unwrap().concat().into_iter().map(f64::from).collect();
        for rotations in [
            Rotations { residual: false, values: false },
            Rotations { residual: true, values: false },
            Rotations::default(),
        ] {
            let got = fold(&model, rotations, 5).logits_all(&TOKENS).data;
            let error = got.iter().zip(&wanted).fold(0.0f64, |most, (a, b)| most.max((a - b).abs()));
            assert!(
                error < 3e-6 * largest(&wanted),
                "{name}, {rotations:?}: {error:e} of {}",
                largest(&wanted)
            );
        }
    }
}

/// In double precision a rotation is exact: any two seeds agree to 1e-11.
#[test]
fn rotations_do_not_change_logits() {
    for (name, model) in models() {
        let plain = fold(&model, Rotations { residual: false, values: false }, 0).logits_all(&TOKENS).data;
        for seed in 0..4 {
            let rotated = fold(&model, Rotations::default(), seed).logits_all(&TOKENS).data;
            let error = rotated.iter().zip(&plain).fold(0.0f64, |most, (a, b)| most.max((a - b).abs()));
            assert!(error < 1e-11 * largest(&plain), "{name}, seed {seed}: {error:e}");
        }
    }
}

/// The rotation is really there: embeddings differ, and their largest value shrinks where one channel stood out.
#[test]
fn rotation_spreads_an_outlier_channel() {
    let mut model = llama(3);
    model.embed = model.embed.map_rows("embed", |row| row[5] *= 40.0).unwrap();
    let most = |rotations| {
        let folded = fold(&model, rotations, 1);
        largest(&folded.embed.data)
    };
    let (plain, rotated) = (most(Rotations { residual: false, values: false }), most(Rotations::default()));
    assert!(rotated < 0.6 * plain, "largest embedding value {plain} before, {rotated} after");
}
