//! Models in: from somebody else's file to one architecture-neutral [`FloatModel`].
//!
//! Everything downstream (float reference, quantiser, bundle) knows one set of shapes and one RoPE convention; what a file
//! format does differently is undone here. Files come from strangers: lengths are compared with the file before anything
//! is allocated, every matrix is checked for shape and finiteness, limits are in [`limits`].
//!
//! ```text
//! llama2.c .bin ──────────────┐
//! safetensors + config.json ──┼─> FloatModel ─┐
//!   families: hugging_face    ┤               ├─> Source
//! GGUF ───────────────────────┘               │   (a GGUF file brings the rest too)
//! tokenizer file, chat template, bos / eos ───┘
//! ```

mod act;
mod adapter;
mod beside;
mod config;
mod config_json;
mod error;
mod files;
mod fp8;
pub mod gguf;
mod hugging_face;
pub mod limits;
pub mod llama2c;
mod matrix;
mod model;
mod pairs;
mod positions;
mod tensor_store;

use std::path::{Path, PathBuf};

pub use act::Act;
pub use adapter::{FloatAdapter, FloatLayerAdapter, FloatLowRank};
pub use config::{Experts, FloatConfig, HeadKind, NormKind, NormPlace, PoolKind, Pooling, Sizes};
pub use error::SourceError;
pub use matrix::Matrix;
pub use model::{DenseFfn, Ffn, FloatLayer, FloatModel, Linear, NormWeights};
pub use positions::{Positions, Rope, RopeScaling, alibi_slopes};

use crate::tokenizer::Tokenizer;

/// What `architectures` of a `config.json` may say.
pub fn supported_architectures() -> Vec<&'static str> {
    hugging_face::FAMILIES.iter().map(|family| family.architecture).collect()
}

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
    if is_gguf(path) {
        return gguf::open(path, tokenizer);
    }
    let model = open_weights(path)?;
    let beside = beside::Beside::find(path);
    let tokenizer = beside.tokenizer(tokenizer, model.config.vocab)?;
    let chat_template = beside.chat_template()?;
    Ok(Source { name: name_of(path), model, tokenizer, chat_template })
}

/// Reads the weights alone.
pub fn open_weights(path: &Path) -> Result<FloatModel, SourceError> {
    if path.is_dir() {
        return hugging_face::open(path, None);
    }
    if path.extension().is_some_and(|extension| extension == "safetensors") {
        return hugging_face::open(path.parent().unwrap_or(Path::new("")), Some(path));
    }
    if path.extension().is_some_and(|extension| extension == "bin") {
        return llama2c::load(path);
    }
    if is_gguf(path) {
        return gguf::load(path);
    }
    files::file_len(path)?;
    let got =
        path.extension().map_or("a file without extension".into(), |e| format!(".{}", e.to_string_lossy()));
    Err(SourceError::UnknownFormat { path: path.into(), got })
}

/// Reads the LoRA adapter in folder `path` (as PyPI `peft` writes it) for the Hugging Face model at `base`, of which only
/// the config is read.
pub fn open_adapter(path: &Path, base: &Path) -> Result<FloatAdapter, SourceError> {
    if base.is_dir() {
        return hugging_face::peft::open(path, base);
    }
    if base.extension().is_none_or(|extension| extension != "safetensors") {
        // What lies beside another file may belong to another model.
        let got = "no folder and no .safetensors as the adapter's base".into();
        return Err(SourceError::UnknownFormat { path: base.into(), got });
    }
    hugging_face::peft::open(path, base.parent().unwrap_or(Path::new("")))
}

fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gguf") && !path.is_dir()
}

fn name_of(path: &Path) -> String {
    let absolute = path.canonicalize().unwrap_or_else(|_| PathBuf::from(path));
    let file = if absolute.is_dir() { absolute.file_name() } else { absolute.file_stem() };
    file.map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned())
}
