//! LoRA adapters as `peft` writes them: the same logits beside the weights, inside the weights, and in `transformers`.

use std::fs;
use std::path::Path;

use lockstep_base::adapter::Target;
use lockstep_model::float::{Hooks, Runner};
use lockstep_model::source::{self, FloatAdapter, FloatModel, SourceError};

use crate::source_data::fixture;

const TOLERANCE: f32 = 1e-4;

#[derive(serde::Deserialize)]
struct Expected {
    tokens: Vec<u32>,
    logits: Vec<Vec<f32>>,
}

fn expected(name: &str) -> Expected {
    serde_json::from_slice(&fs::read(fixture(name).join("expected_logits.json")).unwrap()).unwrap()
}

fn open(name: &str, base: &str) -> (FloatModel, FloatAdapter) {
    let adapter = source::open_adapter(&fixture(name), &fixture(base)).unwrap();
    (source::open_weights(&fixture(base)).unwrap(), adapter)
}

fn largest_difference(got: &[Vec<f32>], expected: &[Vec<f32>]) -> f32 {
    let pairs = got.iter().flatten().zip(expected.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn beside(model: &FloatModel, adapter: &FloatAdapter, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut runner = Runner::with_adapter(model, adapter);
    tokens.iter().map(|&token| runner.step_observed(token, &mut Hooks::default()).unwrap()).collect()
}

/// Separate linears with rsLoRA's scale; fused linears, partial rotation and a gain; transposed and fused linears; fused
/// head by head.
const ADAPTERS: [(&str, &str); 4] =
    [("lora-llama", "llama-gqa"), ("lora-phi3", "phi3"), ("lora-gpt2", "gpt2"), ("lora-bloom", "bloom")];

#[test]
fn adapted_logits_equal_those_of_peft_beside_and_inside_the_weights() {
    for (name, base) in ADAPTERS {
        let (model, adapter) = open(name, base);
        let expected = expected(name);
        let got = largest_difference(&beside(&model, &adapter, &expected.tokens), &expected.logits);
        eprintln!("{name}: largest difference {got:.1e}");
        assert!(got < TOLERANCE, "{name}, beside: {got}");
        let plain = largest_difference(&model.logits_all(&expected.tokens).unwrap(), &expected.logits);
        assert!(plain > 1_000.0 * TOLERANCE, "{name}: the adapter changes only {plain}");
        let merged = model.merged(&adapter).unwrap().logits_all(&expected.tokens).unwrap();
        let got = largest_difference(&merged, &expected.logits);
        assert!(got < TOLERANCE, "{name}, inside: {got}");
    }
}

#[test]
fn the_comparison_notices_each_mutation() {
    for (name, base) in ADAPTERS {
        let expected = expected(name);
        let (model, adapter) = open(name, base);
        let targets: Vec<Target> =
            Target::ALL.into_iter().filter(|&target| adapter.get(1, target).is_some()).collect();
        assert_eq!(targets.len(), if name == "lora-llama" { 7 } else { targets.len() });
        for target in targets {
            let mut changed = adapter.clone();
            let mut part = changed.get(1, target).unwrap().clone();
            part.scale *= 1.3;
            changed.layers[1].set(target, part);
            let got = largest_difference(&beside(&model, &changed, &expected.tokens), &expected.logits);
            assert!(got > 5.0 * TOLERANCE, "{name}, scale of {target:?}: only {got}");
            let mut part = adapter.get(1, target).unwrap().clone();
            part.b = part.b.with_row_order(|row| row ^ 1);
            changed.layers[1].set(target, part);
            let got = largest_difference(&beside(&model, &changed, &expected.tokens), &expected.logits);
            assert!(got > 10.0 * TOLERANCE, "{name}, rows of {target:?}: only {got}");
        }
    }
}

/// The adapter of `lora-llama` with an edited config.
fn edited(edit: impl FnOnce(&mut serde_json::Value)) -> Result<FloatAdapter, SourceError> {
    let folder = tempfile::tempdir().unwrap();
    let copy = |name: &str| fs::copy(fixture("lora-llama").join(name), folder.path().join(name)).unwrap();
    copy("adapter_model.safetensors");
    let config = fixture("lora-llama").join("adapter_config.json");
    let mut json: serde_json::Value = serde_json::from_slice(&fs::read(config).unwrap()).unwrap();
    edit(&mut json);
    fs::write(folder.path().join("adapter_config.json"), serde_json::to_vec(&json).unwrap()).unwrap();
    source::open_adapter(folder.path(), &fixture("llama-gqa"))
}

#[test]
fn adapters_that_are_more_than_low_rank_are_refused_by_name() {
    assert!(edited(|_| {}).is_ok());
    for (field, value) in [
        ("peft_type", serde_json::json!("IA3")),
        ("use_dora", serde_json::json!(true)),
        ("lora_bias", serde_json::json!(true)),
        ("bias", serde_json::json!("lora_only")),
        ("modules_to_save", serde_json::json!(["lm_head"])),
        ("trainable_token_indices", serde_json::json!([3])),
        ("rank_pattern", serde_json::json!({"q_proj": 2})),
        ("alpha_pattern", serde_json::json!({"q_proj": 2})),
        ("layer_replication", serde_json::json!([[0, 1]])),
        ("init_lora_weights", serde_json::json!("pissa")),
        ("init_lora_weights", serde_json::json!("loftq")),
    ] {
        let error = edited(|json| json[field] = value.clone()).unwrap_err().to_string();
        assert!(error.contains(field), "{field} = {value}: {error}");
    }
    for (field, value) in [
        ("r", serde_json::json!(0)),
        ("r", serde_json::json!(5)),
        ("r", serde_json::json!(1_000_000)),
        ("r", serde_json::json!(null)),
        ("lora_alpha", serde_json::json!("ten")),
        ("lora_alpha", serde_json::json!(0)),
    ] {
        assert!(edited(|json| json[field] = value.clone()).is_err(), "{field} = {value}");
    }
}

#[test]
fn an_adapter_of_something_else_is_refused_with_the_tensor() {
    // Of another family: its module names mean nothing here.
    let error = source::open_adapter(&fixture("lora-llama"), &fixture("gpt2")).unwrap_err();
    assert!(matches!(&error, SourceError::AdapterTensor { name } if name.contains("layers.0")), "{error}");
    // Of the same family in another shape.
    let error = source::open_adapter(&fixture("lora-llama"), &fixture("mistral")).unwrap_err();
    assert!(matches!(&error, SourceError::Shape { .. }), "{error}");
    // Of a mixture: the names of dense blocks are not there.
    let error = source::open_adapter(&fixture("lora-llama"), &fixture("mixtral")).unwrap_err();
    assert!(matches!(&error, SourceError::AdapterTensor { name } if name.contains("mlp")), "{error}");
    assert!(source::open_adapter(Path::new("nowhere"), &fixture("gpt2")).is_err());
    let base = fixture("llama-gqa");
    assert!(source::open_adapter(&fixture("lora-llama"), &base.join("model.safetensors")).is_ok());
    assert!(source::open_adapter(&fixture("lora-llama"), &base.join("config.json")).is_err());
}
