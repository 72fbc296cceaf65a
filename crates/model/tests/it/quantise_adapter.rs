//! Adapters in integers beside integer models: close to what `peft` computes, in every family, and never beside the wrong base.

use crate::quantise_families::{float_outputs, kept};
use crate::quantise_models::{bundle_of, facts, families, llama, options};
use crate::source_data::fixture;
use lockstep_base::adapter::{AdapterWeights, Target};
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::ModelWeights;
use lockstep_model::bundle::Bundle;
use lockstep_model::quantise::{
    AdapterImportError, AdapterOptions, ImportedAdapter, Progress, QuantiseOptions, WeightFormat,
    import_adapter, quantise,
};
use lockstep_model::source::{self, FloatAdapter, FloatLayerAdapter, FloatLowRank, FloatModel, Matrix};
use lockstep_runtime::forward::Engine;
use lockstep_runtime::kernels::Compute;
use lockstep_runtime::observe::Silent;
use std::sync::Arc;

const SEED: u64 = 6;

/// Outputs of an integer model under an adapter: logits, or the rows of an encoder.
fn adapted(weights: &ModelWeights, adapter: Option<&AdapterWeights>, tokens: &[u32]) -> Vec<Vec<f32>> {
    let engine = Engine::new(Arc::new(weights.clone()), Arc::new(Compute::new(1)));
    let mut cache = engine.new_cache().with_adapter(adapter.cloned().map(Arc::new));
    let mut x = engine.embed(tokens, 0, &mut Silent).unwrap();
    engine.layers(&mut x, &mut cache, &mut Silent).unwrap();
    let (rows, frac, width) = match &weights.head {
        None => (x, weights.config.residual_frac as i8, weights.config.d_model),
        Some(head) => {
            let positions: Vec<usize> = (0..tokens.len()).collect();
            (engine.logits(&x, &positions, &mut Silent).unwrap(), head.out_frac, weights.config.vocab)
        }
    };
    let unit = (-f32::from(frac)).exp2();
    rows.chunks(width as usize).map(|row| row.iter().map(|x| *x as f32 * unit).collect()).collect()
}

/// A base in integers, and the adapter beside it.
fn imported(
    model: &FloatModel,
    adapter: &FloatAdapter,
    format: WeightFormat,
) -> (ModelWeights, ImportedAdapter) {
    // Vectors of 32 nearly reach what is proved; an adapter larger than its base needs room.
    let base_options = QuantiseOptions { adapter_bits: 4, ..options(format, SEED) };
    let (base, _) = quantise(model, &facts(), &base_options, &mut Progress::none()).unwrap();
    let root = Bundle::from_bytes(bundle_of(&base)).unwrap().model_root();
    let options = AdapterOptions { seed: SEED, ..AdapterOptions::default() };
    let adapter = import_adapter(model, &base, root, adapter, &options, &mut Progress::none()).unwrap();
    adapter.weights.check_fits(root, &base.config, 0, &base.layers).unwrap();
    assert_eq!(adapter.report.warnings, Vec::<String>::new());
    (base, adapter)
}

/// Adapters as `peft` writes them, beside the bases that they were made for: as close to the float reference (which
/// `source_adapter` compares with `peft`) as the base is; without the adapter it is far away. An int4 base loses what
/// it loses anyway, and its rows tell the adapter enough. (Two
/// adapters make residual values of thousands, and softmax of one word; they are scaled down.)
#[test]
fn adapters_of_peft_keep_their_effect() {
    let tokens: Vec<u32> = (0..20u32).map(|i| (i * i * 5 + 2 * i + 3) % 60).collect();
    for (name, base, scale) in [
        ("lora-llama", "llama-gqa", 0.05),
        ("lora-phi3", "phi3", 0.1),
        ("lora-gpt2", "gpt2", 1.0),
        ("lora-bloom", "bloom", 1.0),
    ] {
        let mut adapter = source::open_adapter(&fixture(name), &fixture(base)).unwrap();
        for layer in &mut adapter.layers {
            for target in Target::ALL {
                let part = layer.get(target).cloned();
                part.into_iter().for_each(|part| {
                    layer.set(target, FloatLowRank { scale: scale * part.scale, ..part });
                });
            }
        }
        let model = source::open_weights(&fixture(base)).unwrap();
        let wanted = float_outputs(&model.clone().merged(&adapter).unwrap(), &tokens);
        for (format, bound) in [(WeightFormat::Int8, 0.998), (WeightFormat::Int4, 0.96)] {
            let (base, adapter) = imported(&model, &adapter, format);
            let of = |adapter| kept(&adapted(&base, adapter, &tokens), &wanted);
            let (with, without) = (of(Some(&adapter.weights)), of(None));
            eprintln!("{name} {format:?}: {with:?}, without {without:?}");
            assert!(with.mean > bound, "{name} {format:?}: {with:?}");
            assert!(without.mean < 0.95, "{name} {format:?} changes only {without:?}");
        }
    }
}

/// A random adapter beside every dense matrix of a model.
fn random_adapter(model: &FloatModel, rank: usize, seed: u64) -> FloatAdapter {
    let mut rng = SplitMix64::new(seed);
    let mut uniform = |size: f32| size * ((rng.next_u64() >> 40) as f32 / (1u64 << 23) as f32 - 1.0);
    let layers = model
        .layers
        .iter()
        .map(|layer| {
            let mut parts = FloatLayerAdapter::default();
            let mut layer = layer.clone();
            for target in Target::ALL {
                let Some(linear) = layer.linear_mut(target) else { continue };
                let (rows, cols) = (linear.weight.rows(), linear.weight.cols());
                let mut matrix = |rows: usize, cols: usize| {
                    let size = 1.5 / (cols as f32).sqrt();
                    Matrix::new("random", rows, cols, (0..rows * cols).map(|_| uniform(size)).collect())
                        .unwrap()
                };
                let (a, b) = (matrix(rank, cols), matrix(rows, rank));
                parts.set(target, FloatLowRank { a, b, scale: 0.8 });
            }
            parts
        })
        .collect();
    FloatAdapter { rank, layers }
}

/// Folding an adapter follows the folding of every family: gains, offsets, rotations, moved scales, padding.
#[test]
fn adapters_of_every_family_follow_their_base() {
    for (name, model) in families(93) {
        let adapter = random_adapter(&model, 3, 17);
        let merged = model.clone().merged(&adapter).unwrap();
        let tokens: Vec<u32> =
            (0..30u32).map(|i| (i * i * 7 + 3 * i + 1) % model.config.vocab as u32).collect();
        let wanted = float_outputs(&merged, &tokens);
        let (base, adapter) = imported(&model, &adapter, WeightFormat::Int8);
        let with = kept(&adapted(&base, Some(&adapter.weights), &tokens), &wanted);
        let without = kept(&adapted(&base, None, &tokens), &wanted);
        eprintln!("{name}: {with:?}, without {without:?}");
        assert!(with.mean > 0.99 && without.mean < 0.9, "{name}: {with:?}, without {without:?}");
        let halves = adapter.report.matrices.len();
        assert_eq!(halves, adapter.weights.layers.iter().map(|layer| 2 * parts(layer)).sum::<usize>());
    }
}

fn parts(layer: &lockstep_base::adapter::LayerAdapter) -> usize {
    Target::ALL.into_iter().filter(|target| layer.get(*target).is_some()).count()
}

/// Without room in the base's formats, an adapter that is larger than its base is warned of, matrix by matrix.
#[test]
fn adapters_beyond_the_formats_are_warned_of() {
    let model = llama(3);
    let (base, _) =
        quantise(&model, &facts(), &options(WeightFormat::Int8, SEED), &mut Progress::none()).unwrap();
    let root = Bundle::from_bytes(bundle_of(&base)).unwrap().model_root();
    let options = AdapterOptions { seed: SEED, ..AdapterOptions::default() };
    let warnings = |adapter: &FloatAdapter| {
        let imported = import_adapter(&model, &base, root, adapter, &options, &mut Progress::none()).unwrap();
        imported.report.warnings
    };
    let large = warnings(&random_adapter(&model, 3, 17));
    for part in ["q", "k", "v", "up"] {
        assert!(large.iter().any(|warning| warning.contains(&format!(".{part} with "))), "{part}: {large:?}");
    }
    assert!(large[0].starts_with("layers.0000.q with its adapter can reach "), "{}", large[0]);
    let mut none = random_adapter(&model, 3, 17);
    none.layers.iter_mut().for_each(|layer| *layer = FloatLayerAdapter::default());
    assert!(warnings(&none).is_empty());
}

/// A base of other rotations, of other weights or of another shape is refused by name.
#[test]
fn the_wrong_base_is_refused() {
    let model = llama(3);
    let adapter = random_adapter(&model, 2, 1);
    let (base, good) = imported(&model, &adapter, WeightFormat::Int4);
    let root = good.weights.config.base;
    let beside = |model: &FloatModel, base: &ModelWeights, seed| {
        let options = AdapterOptions { seed, ..AdapterOptions::default() };
        import_adapter(model, base, root, &adapter, &options, &mut Progress::none())
    };
    assert_eq!(
        beside(&model, &base, SEED).unwrap().bytes,
        good.bytes,
        "the same import gives the same bytes"
    );
    for error in [beside(&model, &base, SEED + 1).unwrap_err(), beside(&llama(4), &base, SEED).unwrap_err()] {
        assert!(
            matches!(&error, AdapterImportError::Base { tensor, .. } if tensor == "layers.0000.q"),
            "{error}"
        );
    }
    let mut short = base;
    short.layers.pop();
    let error = beside(&model, &short, SEED).unwrap_err();
    assert_eq!(error.to_string(), "the base has 1 layers, the float model 2");
}
