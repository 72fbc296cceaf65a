//! Models in: from somebody else's file to one architecture-neutral [`FloatModel`].
//!
//! Everything downstream (float reference, quantiser, bundle) knows one set of shapes and one RoPE convention; what a file
//! format does differently is undone here. Files come from strangers: lengths are compared with the file before anything
//! is allocated, every matrix is checked for shape and finiteness, limits are in [`limits`].
//!
//! ```text
//! llama2.c .bin ──────────────┐
//! safetensors + config.json ──┼─> FloatModel ─┐
//!   Llama, GPT-2              ┘               ├─> Source
//! tokenizer file, chat template, bos / eos ───┘
//! ```

mod act;
mod beside;
mod config;
mod config_json;
mod error;
mod files;
mod gpt2;
pub mod limits;
mod llama;
pub mod llama2c;
mod matrix;
mod model;
mod pairs;
mod positions;
mod tensor_store;

use std::path::{Path, PathBuf};

pub use act::Act;
pub use config::{
    Experts, FloatConfig, HeadKind, NormKind, NormPlace, PoolKind, Pooling, Sizes,
};
pub use error::SourceError;
pub use matrix::Matrix;
pub use model::{DenseFfn, Ffn, FloatLayer, FloatModel, Linear, NormWeights};
pub use positions::{Positions, Rope, RopeScaling, alibi_slopes};

use crate::tokenizer::Tokenizer;
use config_json::ConfigJson;
use tensor_store::TensorStore;

/// What `architectures` of a `config.json` may say.
pub const SUPPORTED_ARCHITECTURES: [&str; 2] = ["LlamaForCausalLM", "GPT2LMHeadModel"];

/// A model ready to be quantised: weights, tokenizer, template.
#[derive(Debug)]
pub struct Source {
    /// File or folder name without extension.
    pub name: String,
    /// The weights.
    pub model: FloatModel,
    /// The tokenizer; its bos and eos are the model's.
    pub tokenizer: Tokenizer,
    /// The template that came with the model.
    pub chat_template: Option<String>,
}

/// Reads a model of any supported format. `tokenizer` overrides what lies beside the weights.
pub fn open(path: &Path, tokenizer: Option<&Path>) -> Result<Source, SourceError> {
    let model = open_weights(path)?;
    let beside = beside::Beside::find(path);
    let tokenizer = beside.tokenizer(tokenizer, model.config.vocab)?;
    let chat_template = beside.chat_template()?;
    Ok(Source { name: name_of(path), model, tokenizer, chat_template })
}

/// Reads the weights alone.
pub fn open_weights(path: &Path) -> Result<FloatModel, SourceError> {
    if path.is_dir() {
        return open_hugging_face(path, None);
    }
    if path.extension().is_some_and(|extension| extension == "safetensors") {
        return open_hugging_face(path.parent().unwrap_or(Path::new("")), Some(path));
    }
    if path.extension().is_some_and(|extension| extension == "bin") {
        return llama2c::load(path);
    }
    files::file_len(path)?;
    let got =
        path.extension().map_or("a file without extension".into(), |e| format!(".{}", e.to_string_lossy()));
    Err(SourceError::UnknownFormat { path: path.into(), got })
}

fn open_hugging_face(folder: &Path, file: Option<&Path>) -> Result<FloatModel, SourceError> {
    let config_path = folder.join("config.json");
    if !config_path.is_file() {
        return Err(SourceError::UnknownFormat { path: folder.into(), got: "no config.json".into() });
    }
    let json = ConfigJson::read(&config_path)?;
    let load = match json.architecture()? {
        "LlamaForCausalLM" => llama::load,
        "GPT2LMHeadModel" => gpt2::load,
        other => return Err(SourceError::UnknownArchitecture { got: other.into() }),
    };
    load(&json, &open_store(folder, file)?)
}

fn open_store(folder: &Path, file: Option<&Path>) -> Result<TensorStore, SourceError> {
    if let Some(file) = file {
        return TensorStore::open_file(file);
    }
    let single = folder.join("model.safetensors");
    if single.is_file() {
        return TensorStore::open_file(&single);
    }
    let index = folder.join("model.safetensors.index.json");
    if index.is_file() {
        return TensorStore::open_index(&index);
    }
    let got = "no model.safetensors and no model.safetensors.index.json".into();
    Err(SourceError::UnknownFormat { path: folder.into(), got })
}

fn name_of(path: &Path) -> String {
    let absolute = path.canonicalize().unwrap_or_else(|_| PathBuf::from(path));
    let file = if absolute.is_dir() { absolute.file_name() } else { absolute.file_stem() };
    file.map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
}
