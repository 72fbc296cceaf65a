//! BERT encoders, and what a sentence-transformers folder says about making one vector of a text.
//!
//! `modules.json` lists the steps after the encoder: pooling (its folder's `config.json` says which) and perhaps
//! normalising. A folder without it is a plain BERT, which has no pooling.

use std::path::Path;

use super::super::SourceError;
use super::super::act::Act;
use super::super::config::{FloatConfig, HeadKind, NormPlace, PoolKind, Pooling, Sizes};
use super::super::config_json::ConfigJson;
use super::super::files::read_bounded;
use super::super::limits::MAX_JSON_BYTES;
use super::super::positions::Positions;
use super::describe::{Described, activation, even_heads, plain};

pub(super) fn bert(json: &ConfigJson) -> Result<Described, SourceError> {
    json.require_one_of("position_embedding_type", &["absolute"], "absolute")?;
    json.require_flag("is_decoder", false, "false")?;
    json.require_flag("add_cross_attention", false, "false")?;
    let (d_model, n_heads) = (json.size("hidden_size")?, json.size("num_attention_heads")?);
    let sizes = Sizes {
        n_layers: json.size("num_hidden_layers")?,
        d_model,
        n_heads,
        n_kv_heads: n_heads,
        head_dim: even_heads(d_model, n_heads)?,
        ffn_hidden: json.size("intermediate_size")?,
        vocab: json.size("vocab_size")?,
        context: json.size("max_position_embeddings")?,
    };
    let config = plain(json, sizes, "layer_norm_eps", 1e-12)?;
    Ok(FloatConfig {
        norm_place: NormPlace::Post,
        activation: activation(json, "hidden_act", Act::GeluErf)?,
        positions: Positions::Learned,
        causal: false,
        head: HeadKind::Absent,
        ..config
    }
    .into())
}

#[derive(serde::Deserialize)]
struct Module {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: String,
}

/// The modes that `1_Pooling/config.json` may switch on.
const MODES: [(&str, Option<PoolKind>); 7] = [
    ("pooling_mode_cls_token", Some(PoolKind::Cls)),
    ("pooling_mode_mean_tokens", Some(PoolKind::Mean)),
    ("pooling_mode_max_tokens", None),
    ("pooling_mode_mean_sqrt_len_tokens", None),
    ("pooling_mode_weightedmean_tokens", None),
    ("pooling_mode_lasttoken", None),
    ("pooling_mode_weightedmean_tokens_with_prompt", None),
];

/// Reads `modules.json` and what it names, if it is there.
pub(super) fn pooling(folder: &Path, d_model: usize) -> Result<Option<Pooling>, SourceError> {
    let path = folder.join("modules.json");
    let modules: Vec<Module> = if path.is_file() {
        let bytes = read_bounded(&path, MAX_JSON_BYTES)?;
        serde_json::from_slice(&bytes).map_err(|error| SourceError::Json { path, error })?
    } else if folder.join("1_Pooling/config.json").is_file() {
        vec![Module { kind: "Pooling".into(), path: "1_Pooling".into() }]
    } else {
        return Ok(None);
    };
    let (mut kind, mut normalise) = (None, false);
    for module in modules {
        match module.kind.rsplit('.').next() {
            Some("Transformer") => {}
            Some("Pooling") if is_plain_folder(&module.path) => {
                kind = Some(pool_kind(&folder.join(&module.path).join("config.json"), d_model)?);
            }
            Some("Normalize") => normalise = true,
            _ => {
                return Err(SourceError::Unsupported {
                    field: "modules.json",
                    got: module.kind,
                    expected: "Transformer, Pooling and Normalize",
                });
            }
        }
    }
    Ok(kind.map(|kind| Pooling { kind, normalise }))
}

fn is_plain_folder(path: &str) -> bool {
    !path.is_empty() && path.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

fn pool_kind(path: &Path, d_model: usize) -> Result<PoolKind, SourceError> {
    let json = ConfigJson::read(path)?;
    if let Some(got) = json.size_or_none("word_embedding_dimension")?.filter(|&got| got != d_model) {
        return Err(SourceError::Shape {
            name: "word_embedding_dimension".into(),
            got: vec![got],
            expected: vec![d_model],
        });
    }
    let mut on = Vec::new();
    for (field, kind) in MODES {
        if json.flag_or(field, false)? {
            on.push((field, kind));
        }
    }
    match on[..] {
        [(_, Some(kind))] => Ok(kind),
        _ => Err(SourceError::Unsupported {
            field: "pooling",
            got: on.iter().map(|(field, _)| *field).collect::<Vec<_>>().join(" and "),
            expected: "pooling_mode_cls_token or pooling_mode_mean_tokens alone",
        }),
    }
}
