//! The interval checker accepts what the importer makes and refuses every change that could wrap, by name.

use crate::quantise_models::{gpt2, integers, llama};
use lockstep_base::weights::{ModelWeights, Region};
use lockstep_model::quantise::{BoundsError, WeightFormat, check};
use lockstep_runtime::forward::{Engine, ForwardError};
use lockstep_runtime::kernels::Compute;
use lockstep_runtime::observe::Silent;
use std::sync::Arc;

fn good() -> ModelWeights {
    integers(&llama(21), WeightFormat::Int8, 4).0
}

fn refused(change: impl Fn(&mut ModelWeights)) -> BoundsError {
    let mut weights = good();
    change(&mut weights);
    check(&weights).expect_err("the change must be refused")
}

fn with_byte(region: &Region, at: usize, byte: u8) -> Region {
    let mut bytes = region.to_vec();
    bytes[at] = byte;
    Region::from(bytes)
}

/// Section 9: every matrix of both families and storages is proved, with no slack wasted: one more
/// fractional bit anywhere (below the cap) is refused.
#[test]
fn formats_are_the_finest_that_are_proved() {
    for (name, model) in [("llama", llama(21)), ("gpt2", gpt2(22))] {
        for format in [WeightFormat::Int8, WeightFormat::Int4] {
            let (weights, report) = integers(&model, format, 4);
            let margins = check(&weights).unwrap();
            assert_eq!(margins.len(), report.matrices.len());
            assert!(
                margins
                    .iter()
                    .all(|margin| margin.accumulator <= 1.0 && margin.output.is_none_or(|o| o <= 1.0))
            );
            let layer = weights.layers[0].clone();
            for (part, frac, cap) in
                [("q", layer.q.out_frac, 14), ("k", layer.k.out_frac, 14), ("v", layer.v.out_frac, 14)]
            {
                let mut finer = weights.clone();
                let linear = match part {
                    "q" => &mut finer.layers[0].q,
                    "k" => &mut finer.layers[0].k,
                    _ => &mut finer.layers[0].v,
                };
                linear.out_frac += 1;
                linear.bias.iter_mut().for_each(|bias| *bias *= 2);
                let result = check(&finer);
                assert!(result.is_err(), "{name} {format:?} {part}: F = {frac} of at most {cap} leaves room");
            }
        }
    }
}

#[test]
fn every_bound_names_its_tensor() {
    let tensor = |error: BoundsError| error.to_string();
    assert_eq!(
        refused(|w| w.layers[1].up.pre_shift += 1),
        BoundsError::PreShift { tensor: "layers.0001.up".into(), got: 1, expected: 0 }
    );
    let error = refused(|w| w.layers[0].v.shifts[3] -= 2);
    assert!(
        matches!(&error, BoundsError::Output { tensor, row: 3, got, bound } if tensor == "layers.0000.v" && got > bound),
        "{error}"
    );
    let error = refused(|w| w.head.as_mut().unwrap().bias = vec![1 << 29; 50]);
    assert!(matches!(&error, BoundsError::Output { tensor, row: 0, .. } if tensor == "head"), "{error}");
    let error = refused(|w| {
        w.layers[1].q.out_frac = 1;
        w.layers[1].k.out_frac = 1;
        w.layers[1].q.bias.clear();
    });
    assert!(matches!(error, BoundsError::ScoreFrac { layer: 1, got: 2, .. }), "{error}");
    let error = refused(|w| w.embed.as_mut().unwrap().frac -= 16);
    assert!(matches!(&error, BoundsError::Embedding { tensor, .. } if tensor == "embed"), "{error}");
    let error = refused(|w| w.embed.as_mut().unwrap().frac += 9);
    assert!(matches!(&error, BoundsError::EmbeddingCoarse { tensor, .. } if tensor == "embed"), "{error}");
    assert_eq!(refused(|w| w.head = None), BoundsError::Missing { tensor: "head".into() });

    let text = tensor(refused(|w| w.layers[0].o.multipliers[7] = 32));
    assert_eq!(text, "layers.0000.o, row 7: multiplier is 32, expected 1 to 31");
    let text = tensor(refused(|w| w.layers[0].o.codes = with_byte(&w.layers[0].o.codes, 16, 0x80)));
    assert_eq!(text, "layers.0000.o, row 1: smallest weight is -128, expected -127 to 127");
    let text = tensor(refused(|w| w.layers[1].k_center[4] = -65_536));
    assert_eq!(text, "layers.0001.k_center, row 4: channel is -65536, expected -65535 to 65535");
    let text = tensor(refused(|w| w.tables.exp2[0] = 0));
    assert_eq!(text, "tables/exp2, row 0: entry is 0, expected 32768 to 32768");
}

/// The proof holds against inputs chosen to break it: residual vectors along each row, at every size, never
/// leave a 16-bit format. (Range errors of the residual stream itself are another matter, and end the run.)
#[test]
fn adversarial_inputs_stay_in_their_formats() {
    for model in [llama(31), gpt2(32)] {
        let (weights, _) = integers(&model, WeightFormat::Int8, 1);
        let tables = weights.tables.clone();
        let mut inputs = Vec::new();
        for layer in &weights.layers {
            for linear in
                [Some(&layer.q), Some(&layer.k), Some(&layer.v), layer.gate.as_ref(), Some(&layer.up)]
                    .into_iter()
                    .flatten()
            {
                inputs.extend((0..linear.rows).map(|row| linear.row_weights(row, &tables.int4)));
            }
        }
        let width = weights.config.d_model as usize;
        let engine = Engine::new(Arc::new(weights), Arc::new(Compute::new(1)));
        for (row, input) in inputs.iter().enumerate() {
            for size in [1, 37, 1 << 12, 1 << 21] {
                let mut x: Vec<i32> = input[..width].iter().map(|w| i32::from(*w) * size).collect();
                let result = engine.layers(&mut x, &mut engine.new_cache(), &mut Silent);
                if let Err(ForwardError::Range { place, error }) = &result {
                    let proved = ["q_proj", "k_proj", "v_proj", "gate_proj", "up_proj", "scores"];
                    assert!(!proved.contains(&place.op.name()), "row {row}, size {size}: {place}: {error}");
                }
            }
        }
    }
}
