//! Hugging Face checkpoints: logits equal those of `transformers`, and the comparison notices what could go wrong.
//!
//! The checkpoints are tiny and random; `fixtures/make_fixtures.py` makes them and records the logits.

use std::fs;
use std::path::Path;

use lockstep_model::source::{self, Ffn, FloatModel, HeadKind, Matrix, Rope, RopeScaling, SourceError};

use crate::source_data::fixture;

const TOLERANCE: f32 = 1e-4;

#[derive(serde::Deserialize)]
struct Expected {
    tokens: Vec<u32>,
    logits: Vec<Vec<f32>>,
}

/// Largest difference between our logits and those of transformers.
fn difference(model: &FloatModel, name: &str) -> f32 {
    let text = fs::read_to_string(fixture(name).join("expected_logits.json")).unwrap();
    let expected: Expected = serde_json::from_str(&text).unwrap();
    let got = model.logits_all(&expected.tokens).unwrap();
    let pairs = got.iter().flatten().zip(expected.logits.iter().flatten());
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

fn open(name: &str) -> FloatModel {
    source::open_weights(&fixture(name)).unwrap()
}

#[test]
fn logits_equal_transformers() {
    for name in ["llama-gqa", "llama-bias-bf16", "gpt2"] {
        let got = difference(&open(name), name);
        assert!(got < TOLERANCE, "{name}: {got}");
    }
}

#[test]
fn configs_are_understood() {
    let llama = open("llama-bias-bf16").config;
    let source::Positions::Rope(rope) = &llama.positions else { panic!("rope") };
    assert!(matches!(rope.scaling, RopeScaling::Llama3 { factor: 4.0, original_context: 16.0, .. }));
    assert_eq!((llama.head_dim, llama.n_kv_heads, llama.head), (16, 2, HeadKind::Tied));
    assert!(llama.qkv_bias && llama.o_bias && llama.ffn_bias);
    assert_eq!(llama.inv_freq().unwrap().len(), 8);
    let gpt2 = open("gpt2").config;
    assert_eq!((gpt2.ffn_hidden, gpt2.inv_freq()), (128, None));
}

/// Rows of one head back in the order of halves: what an importer without the permutation would deliver.
fn in_halves(matrix: &Matrix, head_dim: usize) -> Matrix {
    matrix.with_row_order(|row| {
        let (head, place) = (row / head_dim, row % head_dim);
        head * head_dim + (place % (head_dim / 2)) * 2 + place / (head_dim / 2)
    })
}

#[test]
fn the_comparison_notices_each_mutation() {
    type Mutation = fn(&mut FloatModel);
    let mutations: [(&str, &str, Mutation); 9] = [
        ("llama-gqa", "q and k rows not permuted", |m| {
            let head_dim = m.config.head_dim;
            for layer in &mut m.layers {
                layer.q.weight = in_halves(&layer.q.weight, head_dim);
                layer.k.weight = in_halves(&layer.k.weight, head_dim);
            }
        }),
        ("llama-gqa", "eps", |m| m.config.norm_eps = 1e-5),
        ("llama-gqa", "theta", |m| {
            m.config.positions = source::Positions::Rope(Rope::plain(10_000.0, m.config.head_dim));
        }),
        ("llama-gqa", "gate and up exchanged", |m| {
            let Ffn::Dense(ffn) = &mut m.layers[1].ffn else { panic!("dense") };
            std::mem::swap(ffn.gate.as_mut().unwrap(), &mut ffn.up);
        }),
        ("llama-bias-bf16", "k bias dropped", |m| m.layers[1].k.bias = None),
        ("llama-bias-bf16", "q bias not permuted", |m| {
            let bias = m.layers[0].q.bias.as_mut().unwrap();
            bias.swap(1, 2);
        }),
        ("llama-bias-bf16", "rope scaling dropped", |m| {
            m.config.positions = source::Positions::Rope(Rope::plain(500.0, m.config.head_dim));
        }),
        ("gpt2", "attention output bias dropped", |m| m.layers[0].o.bias = None),
        ("gpt2", "q and k exchanged", |m| {
            let layer = &mut m.layers[0];
            std::mem::swap(&mut layer.q, &mut layer.k);
            layer.q.bias.as_mut().unwrap()[0] += 1.0;
        }),
    ];
    for (name, what, mutate) in mutations {
        let mut model = open(name);
        mutate(&mut model);
        let got = difference(&model, name);
        assert!(got > 10.0 * TOLERANCE, "{name}, {what}: only {got}");
    }
}

/// A copy of a fixture that can be damaged.
fn copy(name: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for entry in fs::read_dir(fixture(name)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
    }
    folder
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut serde_json::Value)) {
    let mut json = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    edit(&mut json);
    fs::write(path, serde_json::to_vec(&json).unwrap()).unwrap();
}

fn edited_config(name: &str, edit: impl FnOnce(&mut serde_json::Value)) -> SourceError {
    let folder = copy(name);
    edit_json(&folder.path().join("config.json"), edit);
    source::open_weights(folder.path()).unwrap_err()
}

#[test]
fn unknown_architectures_are_refused_with_the_list() {
    let error = edited_config("gpt2", |json| json["architectures"] = serde_json::json!(["MambaForCausalLM"]));
    let text = error.to_string();
    assert!(
        text.contains("MambaForCausalLM")
            && text.contains("LlamaForCausalLM, Mistral")
            && text.contains("BertModel)"),
        "{text}"
    );
}

#[test]
fn configs_that_ask_for_something_else_are_refused() {
    for (field, value) in [
        ("hidden_act", serde_json::json!("mish")),
        ("rope_scaling", serde_json::json!({"rope_type": "yarn", "factor": 2.0})),
        ("num_key_value_heads", serde_json::json!(3)),
        ("num_key_value_heads", serde_json::json!(0)),
        ("hidden_size", serde_json::json!(-1)),
        ("hidden_size", serde_json::json!(u64::MAX)),
        ("rms_norm_eps", serde_json::json!(0.0)),
        ("max_position_embeddings", serde_json::json!(null)),
        ("num_hidden_layers", serde_json::json!(1_000_000_000)),
        ("num_hidden_layers", serde_json::json!(3)),
        ("attention_bias", serde_json::json!(true)),
    ] {
        edited_config("llama-gqa", |json| json[field] = value);
    }
    let error = edited_config("llama-bias-bf16", |json| json["mlp_bias"] = serde_json::json!(false));
    assert!(matches!(error, SourceError::UnexpectedTensor { .. }), "{error}");
}

#[test]
fn wrong_shapes_are_reported_with_both_shapes_and_the_name() {
    match edited_config("llama-gqa", |json| json["intermediate_size"] = serde_json::json!(40)) {
        SourceError::Shape { name, got, expected } => {
            assert_eq!(name, "model.layers.0.mlp.gate_proj.weight");
            assert_eq!((got, expected), (vec![48, 32], vec![40, 32]));
        }
        other => panic!("{other}"),
    }
}

#[test]
fn an_index_cannot_name_files_outside_its_folder() {
    for shard in ["../model.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "c:\\x", "./x"] {
        let folder = copy("gpt2");
        let index = folder.path().join("model.safetensors.index.json");
        edit_json(&index, |json| json["weight_map"]["transformer.wpe.weight"] = serde_json::json!(shard));
        let error = source::open_weights(folder.path()).unwrap_err();
        assert!(matches!(error, SourceError::ShardPath { .. }), "{shard:?}: {error}");
    }
}

#[test]
fn an_index_that_lists_a_tensor_no_shard_holds_is_refused() {
    let folder = copy("gpt2");
    let index = folder.path().join("model.safetensors.index.json");
    edit_json(&index, |json| {
        json["weight_map"]["ghost"] = serde_json::json!("model-00001-of-00003.safetensors");
    });
    let error = source::open_weights(folder.path()).unwrap_err();
    assert!(matches!(&error, SourceError::MissingTensor { name } if name == "ghost"), "{error}");
}

#[test]
fn damaged_safetensors_are_refused() {
    let folder = copy("llama-gqa");
    let path = folder.path().join("model.safetensors");
    let good = fs::read(&path).unwrap();
    let refuse = |bytes: &[u8], what: &str| {
        fs::write(&path, bytes).unwrap();
        assert!(source::open_weights(&path).is_err(), "{what}");
        assert!(source::open_weights(folder.path()).is_err(), "{what}");
    };
    for len in [0, 1, 7, 8, 9, 100, 2_000, good.len() - 1] {
        refuse(&good[..len], &format!("{len} bytes"));
    }
    refuse(&[&good[..], &[0]].concat(), "an extra byte");
    for header_len in [0u64, 1, 1 << 20, 1 << 40, u64::MAX - 7, u64::MAX] {
        refuse(&[&header_len.to_le_bytes(), &good[8..]].concat(), &format!("header of {header_len}"));
    }
    let header_len = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(good[8..8 + header_len].to_vec()).unwrap();
    for (from, to) in [("\"F32\"", "\"I32\""), ("[96,32]", "[32,96]"), ("\"shape\"", "\"shade\"")] {
        refuse(&[&good[..8], header.replace(from, to).as_bytes(), &good[8 + header_len..]].concat(), to);
    }
    let mut infinite = good.clone();
    let end = infinite.len();
    infinite[end - 4..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    fs::write(&path, infinite).unwrap();
    assert!(matches!(source::open_weights(&path), Err(SourceError::NotFinite { .. })));
}

#[test]
fn foreign_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["model.bin", "model.safetensors", "model.gguf", "model"] {
        let path = folder.path().join(name);
        assert!(source::open_weights(&path).is_err(), "{name} is absent");
        fs::write(&path, b"GIF89a, certainly not a model").unwrap();
        assert!(source::open_weights(&path).is_err(), "{name}");
    }
    assert!(source::open_weights(folder.path()).is_err());
}
