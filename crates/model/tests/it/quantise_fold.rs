//! Folding and rotating change nothing but the basis: checked in float, before any rounding.

use crate::quantise_models::{families, llama};
use lockstep_model::quantise::fold::{Rotations, fold};
use lockstep_model::quantise::folded::FoldedModel;
use lockstep_model::source::{FloatModel, HeadKind};

const TOKENS: [u32; 20] = [1, 7, 33, 2, 2, 40, 0, 19, 8, 8, 25, 39, 3, 11, 30, 5, 17, 29, 36, 4];

fn largest(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |most, x| x.abs().max(most))
}

/// Logits, or the last layer's output of an encoder.
fn float_outputs(model: &FloatModel) -> Vec<f64> {
    let rows = match model.config.head {
        HeadKind::Absent => model.hidden_all(&TOKENS),
        _ => model.logits_all(&TOKENS),
    };
    rows.unwrap().concat().into_iter().map(f64::from).collect()
}

fn outputs(model: &FoldedModel) -> Vec<f64> {
    match model.head {
        None => model.hidden_all(&TOKENS).data,
        Some(_) => model.logits_all(&TOKENS).data,
    }
}

/// The folded and rotated model computes the float model's logits, up to that reference's own f32 vectors.
#[test]
fn folded_logits_are_those_of_the_float_model() {
    for (name, model) in families(11) {
        let wanted = float_outputs(&model);
        for rotations in [
            Rotations { residual: false, values: false },
            Rotations { residual: true, values: false },
            Rotations::default(),
        ] {
            let got = outputs(&fold(&model, rotations, 5));
            let error = got.iter().zip(&wanted).fold(0.0f64, |most, (a, b)| most.max((a - b).abs()));
            assert!(
                error < 3e-6 * largest(&wanted),
                "{name}, {rotations:?}: {error:e} of {}",
                largest(&wanted)
            );
        }
    }
}

/// A rotation changes nothing but the last bits of folded weights: any two seeds agree to 1e-6.
#[test]
fn rotations_do_not_change_logits() {
    for (name, model) in families(12) {
        let plain = outputs(&fold(&model, Rotations { residual: false, values: false }, 0));
        for seed in 0..4 {
            let rotated = outputs(&fold(&model, Rotations::default(), seed));
            let error = rotated.iter().zip(&plain).fold(0.0f64, |most, (a, b)| most.max((a - b).abs()));
            assert!(error < 1e-6 * largest(&plain), "{name}, seed {seed}: {error:e}");
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
        folded.embed.data.iter().fold(0.0f64, |most, x| most.max(f64::from(x.abs())))
    };
    let (plain, rotated) = (most(Rotations { residual: false, values: false }), most(Rotations::default()));
    assert!(rotated < 0.6 * plain, "largest embedding value {plain} before, {rotated} after");
}
