//! What the quantiser makes: deterministic, close to the float model, and meaning what its tables say.

use crate::quantise_models::{biased_llama, facts, gpt2, integers, llama, options};
use lockstep_base::weights::ModelWeights;
use lockstep_model::float::compare;
use lockstep_model::quantise::{Progress, QuantiseError, Stage, WeightFormat, int4, quantise};
use lockstep_model::source::{Ffn, FloatModel};
use lockstep_runtime::forward::Engine;
use lockstep_runtime::kernels::Compute;
use lockstep_runtime::observe::Silent;
use std::sync::Arc;

/// Logits of the integer model after each token of one text.
pub(crate) fn integer_logits(weights: ModelWeights, tokens: &[u32]) -> Vec<Vec<f32>> {
    let unit = (-f32::from(weights.head.as_ref().unwrap().out_frac)).exp2();
    let vocab = weights.config.vocab as usize;
    let engine = Engine::new(Arc::new(weights), Arc::new(Compute::new(1)));
    let mut x = engine.embed(tokens, 0, &mut Silent).unwrap();
    engine.layers(&mut x, &mut engine.new_cache(), &mut Silent).unwrap();
    let positions: Vec<usize> = (0..tokens.len()).collect();
    let logits = engine.logits(&x, &positions, &mut Silent).unwrap();
    logits.chunks(vocab).map(|row| row.iter().map(|x| *x as f32 * unit).collect()).collect()
}

fn tokens(model: &FloatModel) -> Vec<u32> {
    (0..model.config.context as u32).map(|i| (i * i * 7 + 3 * i + 1) % model.config.vocab as u32).collect()
}

/// Random weights leave logits with large spread, so the bounds are far above what a right pipeline gives
/// (measured KL 0.0002 to 0.0024 and 0.011 to 0.12) and far below what one wrong fold gives (above 1).
#[test]
fn integers_of_random_models_are_close_to_float() {
    for (name, model) in [("llama", llama(41)), ("biased llama", biased_llama(42)), ("gpt2", gpt2(43))] {
        let tokens = tokens(&model);
        let float = model.logits_all(&tokens).unwrap();
        for (format, most) in [(WeightFormat::Int8, 0.01), (WeightFormat::Int4, 0.4)] {
            let (weights, _) = integers(&model, format, 7);
            let fidelity = compare(&float, &integer_logits(weights, &tokens), &tokens);
            eprintln!("{name} {format:?}: {fidelity:?}");
            assert!(fidelity.mean_kl < most, "{name} {format:?}: {fidelity:?}");
        }
    }
}

/// Section 4: a nibble means its entry in its group's table, and the sums of the checker are those of the meaning.
#[test]
fn int4_codes_mean_entries_of_their_tables() {
    let (weights, report) = integers(&llama(51), WeightFormat::Int4, 3);
    let tables = int4::tables();
    assert_eq!(weights.tables.int4, tables);
    for linear in [&weights.layers[0].q, &weights.layers[1].ffn.networks()[0].down, &weights.layers[0].o] {
        for row in 0..linear.rows {
            let meaning = linear.row_weights(row, &tables);
            for (col, weight) in meaning.iter().enumerate() {
                assert!(tables[linear.table_id(row, col / 32)].contains(weight), "row {row}, column {col}");
            }
            let sums = lockstep_model::bundle::structure::row_sums(linear, row, &weights.tables);
            assert_eq!(sums.l1, meaning.iter().map(|w| u64::from(w.unsigned_abs())).sum::<u64>());
            assert_eq!(sums.squares, meaning.iter().map(|w| u64::from(w.unsigned_abs()).pow(2)).sum::<u64>());
        }
    }
    assert_eq!(
        report.matrices.last().map(|head| (head.tensor.as_str(), head.bits)),
        Some(("head", 8)),
        "the head is int8"
    );
}

/// GPTQ pays: smaller output errors than rounding to nearest on the same text, though larger weight errors.
#[test]
fn gptq_lowers_output_errors() {
    let model = llama(61);
    for format in [WeightFormat::Int8, WeightFormat::Int4] {
        let (_, solved) = integers(&model, format, 2);
        let mut nearest_options = options(format, 2);
        nearest_options.calibration_tokens = 0;
        let (_, nearest) = quantise(&model, &facts(), &nearest_options, &mut Progress::none()).unwrap();
        let mean = |errors: Vec<f64>| errors.iter().sum::<f64>() / errors.len() as f64;
        let solved_weight = mean(solved.matrices.iter().map(|m| m.weight_error).collect());
        let solved_output = mean(solved.matrices.iter().map(|m| m.output_error.unwrap()).collect());
        let nearest_weight = mean(nearest.matrices.iter().map(|m| m.weight_error).collect());
        assert!(nearest.matrices.iter().all(|m| m.output_error.is_none()));
        assert!(
            solved_output < 0.9 * solved_weight,
            "{format:?}: outputs {solved_output}, weights {solved_weight}"
        );
        assert!(solved_weight >= nearest_weight, "{format:?}: {solved_weight} {nearest_weight}");
    }
}

/// Progress names every matrix once, in order, and ends at its total.
#[test]
fn progress_counts_every_matrix() {
    let (mut sites, mut last) = (Vec::new(), None);
    let mut sink = |update: lockstep_model::quantise::Update<'_>| {
        if update.stage == Stage::Quantise {
            assert_eq!(update.done, sites.len());
            sites.push((update.site.to_owned(), update.total));
        }
        last = Some((update.stage, update.done, update.total));
    };
    quantise(&gpt2(71), &facts(), &options(WeightFormat::Int8, 0), &mut Progress::new(&mut sink)).unwrap();
    assert_eq!(sites.len(), sites[0].1);
    assert_eq!(sites.first().map(|s| s.0.as_str()), Some("layers.0000.q"));
    assert_eq!(sites.last().map(|s| s.0.as_str()), Some("head"));
    assert_eq!(last, Some((Stage::Check, 1, 1)));
}

/// Weights that no format can hold are refused by name, before anything wraps.
#[test]
fn absurd_weights_are_refused() {
    let mut model = llama(81);
    let Ffn::Dense(ffn) = &mut model.layers[1].ffn else { panic!("dense") };
    ffn.up.weight = ffn.up.weight.map_rows("up", |row| row[0] = 1e30).unwrap();
    let error =
        quantise(&model, &facts(), &options(WeightFormat::Int8, 0), &mut Progress::none()).unwrap_err();
    assert!(
        matches!(&error, QuantiseError::RowScale { tensor, .. } if tensor == "layers.0001.up"),
        "{error}"
    );
    let mut model = llama(82);
    model.layers[0].v.weight =
        model.layers[0].v.weight.map_rows("v", |row| row.iter_mut().for_each(|w| *w *= 2e4)).unwrap();
    let error =
        quantise(&model, &facts(), &options(WeightFormat::Int8, 0), &mut Progress::none()).unwrap_err();
    assert!(matches!(&error, QuantiseError::Format { .. } | QuantiseError::RowScale { .. }), "{error}");
    assert!(error.to_string().contains("layers.0000.v"), "{error}");
    let mut model = llama(83);
    model.config.context = 1 << 18;
    let (weights, _) =
        quantise(&model, &facts(), &options(WeightFormat::Int8, 0), &mut Progress::none()).unwrap();
    assert_eq!(weights.config.context, 131_072, "the context is cut to the specification's");
}
