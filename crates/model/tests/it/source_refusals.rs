//! What the importer of Hugging Face folders refuses, by name; and that nothing in a folder makes it panic.

use std::fs;
use std::path::Path;

use lockstep_base::rng::SplitMix64;
use lockstep_model::source::{self, FloatModel, SourceError};
use serde_json::{Value, json};

use crate::source_data::fixture;

/// A copy of a fixture that can be damaged.
fn copy(name: &str) -> tempfile::TempDir {
    fn into(from: &Path, to: &Path) {
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
            let target = to.join(entry.file_name());
            if entry.path().is_dir() {
                fs::create_dir(&target).unwrap();
                into(&entry.path(), &target);
            } else {
                fs::copy(entry.path(), target).unwrap();
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    into(&fixture(name), folder.path());
    folder
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut json = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    edit(&mut json);
    fs::write(path, serde_json::to_vec(&json).unwrap()).unwrap();
}

fn with_config(name: &str, edit: impl FnOnce(&mut Value)) -> Result<FloatModel, SourceError> {
    let folder = copy(name);
    edit_json(&folder.path().join("config.json"), edit);
    source::open_weights(folder.path())
}

#[test]
fn what_the_forward_pass_does_not_have_is_refused_by_its_field() {
    for (name, field, value) in [
        ("opt", "do_layer_norm_before", json!(false)),
        ("opt", "_remove_final_layer_norm", json!(true)),
        ("opt", "word_embed_proj_dim", json!(16)),
        ("opt", "layer_norm_elementwise_affine", json!(false)),
        ("bloom", "apply_residual_connection_post_layernorm", json!(true)),
        ("bert", "position_embedding_type", json!("relative_key")),
        ("bert", "is_decoder", json!(true)),
        ("bert", "hidden_act", json!("mish")),
        ("gemma3", "use_bidirectional_attention", json!(true)),
        ("gemma3", "layer_types", json!(["chunked_attention", "full_attention", "full_attention"])),
        ("gemma2", "layer_types", json!(["sliding_attention", 5])),
        ("gpt2", "scale_attn_by_inverse_layer_idx", json!(true)),
        ("gpt2", "add_cross_attention", json!(true)),
        ("qwen3-moe", "decoder_sparse_step", json!(0)),
        ("llama-gqa", "partial_rotary_factor", json!("half")),
    ] {
        let error = with_config(name, |json| json[field] = value.clone()).unwrap_err().to_string();
        assert!(error.contains(field), "{name}, {field} = {value}: {error}");
    }
    for (kind, what) in [("yarn", "rope_type"), ("dynamic", "rope_type"), ("llama3", "factor")] {
        let scaling = json!({"rope_type": kind});
        let error = with_config("qwen2", |json| json["rope_scaling"] = scaling).unwrap_err().to_string();
        assert!(error.contains(what), "{kind}: {error}");
    }
    let gptq = json!({"quant_method": "gptq", "bits": 4});
    let error = with_config("qwen2", |json| json["quantization_config"] = gptq).unwrap_err().to_string();
    assert!(error.contains("gptq") && error.contains("fp8"), "{error}");
}

#[test]
fn long_rope_needs_a_factor_for_every_pair() {
    for factors in
        [json!([1.0, 2.0]), json!([1.0, 2.0, 0.0]), json!([1.0, 2.0, -1.0]), json!("none"), json!(null)]
    {
        let result = with_config("phi3", |json| json["rope_scaling"]["long_factor"] = factors.clone());
        assert!(result.is_err(), "{factors}");
    }
    assert!(with_config("phi3", |json| json["original_max_position_embeddings"] = json!(0)).is_err());
}

/// The tensors of a safetensors file under other names: `rename` gets header and name.
fn renamed(name: &str, from: &str, to: &str) -> Result<FloatModel, SourceError> {
    let folder = copy(name);
    let path = folder.path().join("model.safetensors");
    let bytes = fs::read(&path).unwrap();
    let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header = String::from_utf8(bytes[8..8 + header_len].to_vec()).unwrap();
    assert!(header.contains(from), "{from}");
    let header = header.replacen(from, to, 1);
    let len = (header.len() as u64).to_le_bytes();
    fs::write(&path, [&len, header.as_bytes(), &bytes[8 + header_len..]].concat()).unwrap();
    source::open_weights(folder.path())
}

#[test]
fn no_tensor_is_dropped_in_silence() {
    // The expert of a layer that the config calls dense, a shared expert, a bias that nobody announced.
    let result = with_config("qwen3-moe", |json| json["mlp_only_layers"] = json!([1, 2]));
    assert!(matches!(result, Err(SourceError::MissingTensor { .. })), "{result:?}");
    for (from, to) in [
        ("model.layers.0.mlp.gate.weight", "model.layers.0.mlp.shared_expert_gate.weight"),
        ("lm_head.weight", "model.layers.9.mlp.down_proj.weight"),
    ] {
        let error = renamed("qwen3-moe", from, to).unwrap_err();
        assert!(
            matches!(&error, SourceError::MissingTensor { .. } | SourceError::UnexpectedTensor { .. }),
            "{error}"
        );
    }
    let error = with_config("opt", |json| json["num_hidden_layers"] = json!(1)).unwrap_err();
    assert!(
        matches!(&error, SourceError::UnexpectedTensor { name } if name.starts_with("model.decoder.layers.1.")),
        "{error}"
    );
    let error = with_config("qwen3", |json| json["architectures"] = json!(["LlamaForCausalLM"])).unwrap_err();
    assert!(matches!(&error, SourceError::UnexpectedTensor { name } if name.contains("_norm")), "{error}");
    let error = with_config("mixtral", |json| json["num_local_experts"] = json!(3)).unwrap_err();
    assert!(matches!(&error, SourceError::Shape { name, .. } if name.ends_with("gate.weight")), "{error}");
}

#[test]
fn scales_of_8_bit_floats_must_fit() {
    let refused = |block: Value| {
        with_config("llama-fp8", |json| json["quantization_config"]["weight_block_size"] = block).unwrap_err()
    };
    assert!(
        matches!(refused(json!([16, 8])), SourceError::Shape { name, .. } if name.ends_with("_scale_inv"))
    );
    for block in [json!([0, 12]), json!([20]), json!([20, 12, 1]), json!(128)] {
        assert!(matches!(refused(block), SourceError::ConfigField { field: "weight_block_size", .. }));
    }
    // A scale that belongs to nothing is a tensor without meaning.
    let error = renamed("llama-fp8", "k_proj.weight_scale_inv", "k_proj.weight_scale_two").unwrap_err();
    assert!(matches!(&error, SourceError::UnexpectedTensor { name } if name.ends_with("_two")), "{error}");
}

#[test]
fn a_code_that_is_no_number_is_refused() {
    let folder = copy("llama-fp8");
    let path = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + header_len]).unwrap();
    let name = "model.layers.0.self_attn.q_proj.weight";
    let start = header[name]["data_offsets"][0].as_u64().unwrap() as usize;
    bytes[8 + header_len + start + 5] = 0x7f;
    fs::write(&path, bytes).unwrap();
    match source::open_weights(folder.path()).unwrap_err() {
        SourceError::NotFinite { name: got, index: 5, .. } => assert_eq!(got, name),
        other => panic!("{other}"),
    }
}

#[test]
fn pooling_that_is_not_understood_is_refused() {
    let with_pooling = |edit: &dyn Fn(&mut Value)| {
        let folder = copy("bert");
        edit_json(&folder.path().join("1_Pooling/config.json"), edit);
        source::open_weights(folder.path())
    };
    assert!(with_pooling(&|_| {}).is_ok());
    for (field, value) in [
        ("pooling_mode_cls_token", json!(true)), // beside the mean
        ("pooling_mode_max_tokens", json!(true)),
        ("pooling_mode_mean_tokens", json!(false)), // then none is left
        ("pooling_mode_mean_tokens", json!("yes")),
        ("word_embedding_dimension", json!(31)),
    ] {
        assert!(with_pooling(&|json| json[field] = value.clone()).is_err(), "{field} = {value}");
    }
    for (field, value) in [
        ("type", json!("sentence_transformers.models.Dense")),
        ("path", json!("../1_Pooling")),
        ("path", json!("/1_Pooling")),
        ("path", json!("")),
    ] {
        let folder = copy("bert");
        edit_json(&folder.path().join("modules.json"), |json| json[1][field] = value.clone());
        assert!(source::open_weights(folder.path()).is_err(), "{field} = {value}");
    }
    let folder = copy("bert");
    fs::remove_file(folder.path().join("modules.json")).unwrap();
    assert!(!source::open_weights(folder.path()).unwrap().config.pooling.unwrap().normalise);
    fs::remove_dir_all(folder.path().join("1_Pooling")).unwrap();
    assert_eq!(source::open_weights(folder.path()).unwrap().config.pooling, None);
}

/// Every number of every config becomes something absurd: an error or a model, never a panic, never a huge allocation
/// (the test would be killed).
#[test]
fn absurd_configs_never_panic() {
    let absurd = [
        json!(0),
        json!(-1),
        json!(3),
        json!(1e308),
        json!(u64::MAX),
        json!(1u64 << 40),
        json!(null),
        json!("x"),
        json!([[]]),
    ];
    let mut accepted = 0;
    for name in [
        "llama-bias-bf16",
        "mistral",
        "qwen2",
        "qwen3",
        "phi3",
        "gemma2",
        "gemma3",
        "gemma3-images",
        "gpt2",
        "bloom",
        "opt",
        "mixtral",
        "qwen3-moe",
        "bert",
        "llama-fp8",
    ] {
        let folder = copy(name);
        let path = folder.path().join("config.json");
        let good: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let fields: Vec<Vec<String>> = paths(&good);
        for (index, field) in fields.into_iter().enumerate() {
            // Every other value, in turn.
            for value in absurd.iter().skip(index % 2).step_by(2) {
                let mut json = good.clone();
                let place = field.iter().fold(&mut json, |json, key| &mut json[key]);
                *place = value.clone();
                fs::write(&path, serde_json::to_vec(&json).unwrap()).unwrap();
                accepted += usize::from(source::open_weights(folder.path()).is_ok());
            }
        }
    }
    assert!(
        accepted > 100,
        "only {accepted} variants were accepted: fields without meaning should not matter"
    );
}

/// All fields of an object, those of objects inside it too.
fn paths(json: &Value) -> Vec<Vec<String>> {
    let mut all = Vec::new();
    for (key, value) in json.as_object().into_iter().flatten() {
        all.push(vec![key.clone()]);
        all.extend(paths(value).into_iter().map(|mut path| {
            path.insert(0, key.clone());
            path
        }));
    }
    all
}

/// Bytes of headers and adapters changed at random: an error or a model.
#[test]
fn damaged_headers_never_panic() {
    let seed = 0x5eed_0003;
    let mut rng = SplitMix64::new(seed);
    for name in ["llama-fp8", "bert", "qwen3-moe"] {
        let folder = copy(name);
        let path = folder.path().join("model.safetensors");
        let good = fs::read(&path).unwrap();
        let header_len = u64::from_le_bytes(good[..8].try_into().unwrap());
        for round in 0..300 {
            let mut bytes = good.clone();
            for _ in 0..1 + rng.below(4) {
                let at = if round % 3 == 0 { rng.below(8) } else { 8 + rng.below(header_len) };
                bytes[at as usize] = rng.next_u64() as u8;
            }
            fs::write(&path, bytes).unwrap();
            let result = std::panic::catch_unwind(|| source::open_weights(folder.path()).is_ok());
            assert!(result.is_ok(), "{name}, seed {seed:#x}, round {round}");
        }
    }
}
