//! Which files an import needs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::HubError;
use crate::api::{Entry, Listing};
use crate::limits::{MAX_SHARDS, MAX_SIDE_FILE_BYTES};
use crate::names::RepoPath;

/// The index of a model in several files.
pub(crate) const INDEX: &str = "model.safetensors.index.json";
/// Weights in one file: of a model, of an adapter.
const WEIGHTS: [&str; 2] = ["model.safetensors", "adapter_model.safetensors"];
/// What may lie beside them; the last three say how a sentence encoder pools.
const BESIDE: [&str; 11] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.txt",
    "adapter_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "chat_template.jinja",
];

/// Everything but the shards that an index names; small files first, so that errors come early.
pub(crate) fn files(listing: &Listing) -> Result<Vec<&Entry>, HubError> {
    let weights = WEIGHTS[..1].iter().chain([&INDEX]).chain(&WEIGHTS[1..]);
    let Some(weights) = weights.filter_map(|name| listing.entry(name)).next() else {
        return Err(HubError::NoModel {
            name: listing.name.clone(),
            expected: "model.safetensors and no model.safetensors.index.json",
            hint: hint(listing),
        });
    };
    let mut files: Vec<&Entry> = BESIDE.iter().filter_map(|name| listing.entry(name)).collect();
    let configs = ["config.json", "adapter_config.json"];
    if !files.iter().any(|entry| configs.contains(&entry.path.as_str())) {
        let (name, expected) = (listing.name.clone(), "config.json");
        return Err(HubError::NoModel { name, expected, hint: hint(listing) });
    }
    files.push(weights);
    Ok(files)
}

/// What the repository has instead.
fn hint(listing: &Listing) -> String {
    let with = |extension: &str| listing.entries.iter().filter(|e| e.path.has_extension(extension)).collect();
    let ggufs: Vec<&Entry> = with("gguf");
    if !ggufs.is_empty() {
        let names: Vec<&str> = ggufs.iter().take(8).map(|entry| entry.path.as_str()).collect();
        let more = if ggufs.len() > names.len() { ", …" } else { "" };
        return format!("; name one of its GGUF files with ':' ({}{more})", names.join(", "));
    }
    let pickles: Vec<&Entry> = with("bin");
    if pickles.is_empty() { String::new() } else { "; pickled .bin weights are not read".into() }
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// The shards that a downloaded index names, in order.
pub(crate) fn shards<'a>(index: &Path, listing: &'a Listing) -> Result<Vec<&'a Entry>, HubError> {
    let text = std::fs::read(index).map_err(HubError::io(index))?;
    let parsed: Index = serde_json::from_slice(&text)
        .map_err(|error| HubError::Answer { url: INDEX.into(), reason: error.to_string() })?;
    let names: BTreeSet<&String> = parsed.weight_map.values().collect();
    if names.len() > MAX_SHARDS {
        let (what, got) = (format!("shards of {INDEX}"), names.len() as u64);
        return Err(HubError::TooLarge { what, got, max: MAX_SHARDS as u64 });
    }
    let shard = |name: &&String| {
        let path = RepoPath::new(name)?;
        if !path.is_top() || !path.has_extension("safetensors") {
            let reason = "expected a .safetensors file beside its index";
            return Err(HubError::Path { got: path.to_string(), reason });
        }
        listing
            .entry(path.as_str())
            .ok_or_else(|| HubError::NoFile { name: listing.name.clone(), file: path.to_string() })
    };
    names.iter().map(shard).collect()
}

/// Largest size that is believed of a file, by what it is.
pub(crate) fn max_bytes(path: &RepoPath) -> u64 {
    let weights = path.has_extension("safetensors") || path.has_extension("gguf");
    if weights { crate::limits::MAX_FILE_BYTES } else { MAX_SIDE_FILE_BYTES }
}
