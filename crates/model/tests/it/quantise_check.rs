//! The interval checker accepts what the importer makes and refuses every change that could wrap, by name.

use crate::quantise_models::{bert, families, gemma, integers, llama, mixtral, qwen3};
use lockstep_base::weights::{FfnWeights, LayerWeights, Linear, ModelWeights, Region};
use lockstep_model::quantise::hadamard::hadamard_blocks;
use lockstep_model::quantise::{BoundsError, WeightFormat, check};
use lockstep_runtime::forward::{Engine, ForwardError};
use lockstep_runtime::kernels::Compute;
use lockstep_runtime::observe::Silent;
use std::sync::Arc;

fn good() -> ModelWeights {
    integers(&llama(21), WeightFormat::Int8, 4).0
}

fn refused(change: impl Fn(&mut ModelWeights)) -> BoundsError {
    refused_of(good(), change)
}

fn refused_of(mut weights: ModelWeights, change: impl Fn(&mut ModelWeights)) -> BoundsError {
    check(&weights).expect("what the importer makes");
    change(&mut weights);
    check(&weights).expect_err("the change must be refused")
}

/// The matrices of a layer's networks that read the residual stream.
fn readers(layer: &LayerWeights) -> impl Iterator<Item = &Linear> {
    let networks = layer.ffn.networks().iter();
    let networks = networks.flat_map(|network| network.gate.iter().chain([&network.up]));
    let router = match &layer.ffn {
        FfnWeights::Experts { router, .. } => Some(router),
        FfnWeights::Dense(_) => None,
    };
    networks.chain(router).chain([&layer.q, &layer.k, &layer.v])
}

fn with_byte(region: &Region, at: usize, byte: u8) -> Region {
    let mut bytes = region.to_vec();
    bytes[at] = byte;
    Region::from(bytes)
}

/// Section 9: every matrix of all families and storages is proved, with no slack wasted: one more
/// fractional bit anywhere (below the cap) is refused.
#[test]
fn formats_are_the_finest_that_are_proved() {
    for (name, model) in families(21) {
        for format in [WeightFormat::Int8, WeightFormat::Int4, WeightFormat::Int16] {
            let (weights, report) = integers(&model, format, 4);
            let margins = check(&weights).unwrap();
            assert_eq!(margins.len(), report.matrices.len());
            let named = margins.iter().zip(&report.matrices).all(|(m, r)| m.tensor == r.tensor);
            assert!(named || model.config.experts.is_some(), "{name}: in execution order");
            assert!(
                margins
                    .iter()
                    .all(|margin| margin.accumulator <= 1.0 && margin.output.is_none_or(|o| o <= 1.0))
            );
            type Part = fn(&mut LayerWeights) -> &mut Linear;
            let parts: [(&str, Part); 3] = [("q", |l| &mut l.q), ("k", |l| &mut l.k), ("v", |l| &mut l.v)];
            for (part, linear) in parts {
                let mut finer = weights.clone();
                let linear = linear(&mut finer.layers[0]);
                let frac = linear.out_frac;
                linear.out_frac += 1;
                linear.bias.iter_mut().for_each(|bias| *bias *= 2);
                assert!(check(&finer).is_err(), "{name} {format:?} {part}: F = {frac} leaves room");
            }
            if let Some(gain) = weights.layers[0].q_norm.clone() {
                let mut finer = weights.clone();
                finer.layers[0].q_norm.as_mut().unwrap().out_frac += 1;
                assert!(
                    check(&finer).is_err(),
                    "{name} {format:?} q_norm: F = {} leaves room",
                    gain.out_frac
                );
            }
        }
    }
}

/// What other families add is checked as well, by name.
#[test]
fn bounds_of_gains_and_experts_name_their_tensors() {
    let of = |model: &lockstep_model::source::FloatModel| integers(model, WeightFormat::Int8, 4).0;
    let error = refused_of(of(&qwen3(5)), |w| w.layers[1].k_norm.as_mut().unwrap().shifts[2] -= 4);
    assert!(matches!(&error, BoundsError::Gain { tensor, .. } if tensor == "layers.0001.k_norm"), "{error}");
    let error = refused_of(of(&qwen3(5)), |w| w.layers[0].q_norm = None);
    assert_eq!(error, BoundsError::Missing { tensor: "layers.0000.q_norm".into() });
    let error = refused_of(of(&gemma(5)), |w| w.layers[0].ffn_post.as_mut().unwrap().out_frac += 1);
    assert!(
        error.to_string().starts_with("layers.0000.ffn_post: fractional bits of the output is "),
        "{error}"
    );
    let error = refused_of(of(&gemma(5)), |w| w.tables.score_cap[7] += 99);
    assert!(error.to_string().starts_with("tables/score_cap, row 6: rise is "), "{error}");
    // A norm behind a block bounds what the next block reads: twice the gains, and q could leave its format.
    let error = refused_of(of(&bert(5)), |w| {
        w.layers[0].ffn_post.as_mut().unwrap().shifts.iter_mut().for_each(|shift| *shift -= 2);
    });
    assert!(
        matches!(&error, BoundsError::Output { tensor, .. } if tensor.starts_with("layers.0001.")),
        "{error}"
    );
    let error = refused_of(of(&bert(5)), |w| w.embed_norm = None);
    assert_eq!(error, BoundsError::Missing { tensor: "embed_norm".into() });
    let experts = |w: &mut ModelWeights, change: fn(&mut Vec<lockstep_base::weights::DenseWeights>)| {
        let FfnWeights::Experts { experts, .. } = &mut w.layers[1].ffn else { panic!("experts") };
        change(experts);
    };
    let error = refused_of(of(&mixtral(5)), |w| experts(w, |experts| experts[2].up.out_frac -= 1));
    let (tensor, first) = ("layers.0001.expert_up[2]".into(), "layers.0001.expert_up[0]".into());
    assert_eq!(error, BoundsError::Formats { tensor, first });
    let error = refused_of(of(&mixtral(5)), |w| experts(w, |experts| drop(experts.pop())));
    assert_eq!(error.to_string(), "layers.0001.expert_up has 3 experts, expected 4");
    let error = refused_of(of(&mixtral(5)), |w| {
        let FfnWeights::Experts { router, .. } = &mut w.layers[1].ffn else { panic!("experts") };
        router.shifts[1] -= 3;
    });
    assert!(
        matches!(&error, BoundsError::Output { tensor, row: 1, .. } if tensor == "layers.0001.router"),
        "{error}"
    );
}

#[test]
fn every_bound_names_its_tensor() {
    let tensor = |error: BoundsError| error.to_string();
    assert_eq!(
        refused(|w| w.layers[1].ffn.dense_mut().unwrap().up.pre_shift += 1),
        BoundsError::PreShift { tensor: "layers.0001.up".into(), got: 1, expected: 0 }
    );
    let error = refused(|w| w.layers[0].v.shifts[3] -= 2);
    assert!(
        matches!(&error, BoundsError::Output { tensor, row: 3, got, bound } if tensor == "layers.0000.v" && got > bound),
        "{error}"
    );
    let error = refused(|w| w.head.as_mut().unwrap().bias = vec![1 << 29; 50]);
    assert_eq!(tensor(error), "head, row 0: bias is 536870912, expected -1048576 to 1048576");
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

/// The proof holds against inputs chosen to break it: residual vectors along each row (turned back, where they
/// are rotated at run time), at every size, never leave a 16-bit format. (Range errors of the residual stream itself are another
/// matter, and end the run. In an encoder the stream is not free: norms make it.)
#[test]
fn adversarial_inputs_stay_in_their_formats() {
    for (name, model) in families(31).into_iter().filter(|(name, _)| *name != "bert") {
        let (weights, _) = integers(&model, WeightFormat::Int8, 1);
        let (tables, config) = (weights.tables.clone(), weights.config.clone());
        let width = config.d_model as usize;
        let mut inputs = Vec::new();
        for layer in &weights.layers {
            for linear in readers(layer) {
                inputs.extend((0..linear.rows).map(|row| {
                    let mut input: Vec<f64> =
                        linear.row_weights(row, &tables.int4).into_iter().map(f64::from).collect();
                    if config.rotates_online() {
                        hadamard_blocks(&mut input, config.stream_block() as usize);
                    }
                    input
                }));
            }
        }
        let engine = Engine::new(Arc::new(weights), Arc::new(Compute::new(1)));
        for (row, input) in inputs.iter().enumerate() {
            for size in [1.0, 37.0, 4096.0, 65_536.0] {
                let mut x: Vec<i32> = input[..width].iter().map(|w| (*w * size) as i32).collect();
                let result = engine.layers(&mut x, &mut engine.new_cache(), &mut Silent);
                if let Err(ForwardError::Range { place, error }) = &result {
                    let unproved = ["o_proj", "down_proj", "attn_residual", "ffn_residual"];
                    assert!(
                        unproved.contains(&place.op.name()),
                        "{name}, row {row}, {size}: {place}: {error}"
                    );
                }
            }
        }
    }
}
