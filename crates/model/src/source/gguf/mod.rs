//! GGUF files, the format of llama.cpp: weights, numbers and tokenizer in one file.
//!
//! ```text
//! header ──> metadata ──config──> FloatConfig ─┐
//!        └─> tensors ──dequantise──> f32 ──────┴─weights──> FloatModel
//!            metadata ──vocabulary──> tokenizer, chat template
//! ```
//! Quantised weights become the floats that ggml would compute with; our own formats are made from those. Source:
//! github.com/ggml-org/ggml (`gguf.md` of its documentation, `ggml-quants.c`) and llama.cpp (what architectures mean).

mod blocks;
mod bpe;
mod config;
mod error;
mod family;
mod header;
mod k_quants;
pub mod limits;
mod scored_bpe;
mod spm;
mod store;
mod types;
mod value;
mod vocabulary;
mod weights;

use std::path::Path;

pub use error::GgufError;
pub use family::SUPPORTED_ARCHITECTURES;
pub use header::TensorInfo;
pub use store::Gguf;
pub use types::TensorType;
pub use value::{Metadata, Number, NumberType, Texts, Value};

use super::beside::Beside;
use super::{FloatModel, Source, SourceError, name_of};
use crate::tokenizer::Tokenizer;

/// Reads the weights.
pub fn load(path: &Path) -> Result<FloatModel, SourceError> {
    Gguf::open(path)?.model()
}

/// Reads everything. A tokenizer that the caller names goes before the file's own, and that before what lies beside it.
pub fn open(path: &Path, tokenizer: Option<&Path>) -> Result<Source, SourceError> {
    let gguf = Gguf::open(path)?;
    let model = gguf.model()?;
    let own = if tokenizer.is_none() { gguf.tokenizer()? } else { None };
    let tokenizer = match own {
        Some(own) if own.vocab_size() > model.config.vocab => {
            let (got, expected) = (own.vocab_size(), model.config.vocab);
            return Err(SourceError::TokenizerTooLarge { got, expected });
        }
        Some(own) => own,
        None => Beside::find(path).tokenizer(tokenizer, model.config.vocab)?,
    };
    let chat_template = gguf.chat_template()?;
    Ok(Source { name: name_of(path), model, tokenizer, chat_template })
}

impl Gguf {
    /// The weights, as one of [`SUPPORTED_ARCHITECTURES`].
    pub fn model(&self) -> Result<FloatModel, SourceError> {
        let family = self.family().map_err(|error| self.error(error))?;
        weights::load(self, family)
    }

    fn family(&self) -> Result<&'static family::Family, GgufError> {
        let metadata = self.metadata();
        match metadata.unsigned("split.count")? {
            Some(got) if got > 1 => return Err(GgufError::Split { got }),
            _ => {}
        }
        match metadata.text("general.type")? {
            None | Some("model") => {}
            Some(other) => {
                let (key, got) = ("general.type".into(), format!("{other:?}"));
                return Err(GgufError::Value { key, got, expected: "model" });
            }
        }
        let key = "general.architecture";
        family::find(metadata.text(key)?.ok_or(GgufError::MissingKey { key: key.into() })?)
    }

    /// The tokenizer with the file's bos and eos; `None` if the file brings none.
    pub fn tokenizer(&self) -> Result<Option<Tokenizer>, SourceError> {
        if !vocabulary::is_there(self) {
            return Ok(None);
        }
        vocabulary::tokenizer(self.metadata()).map(Some).map_err(|error| self.error(error))
    }

    /// `tokenizer.chat_template`.
    pub fn chat_template(&self) -> Result<Option<String>, SourceError> {
        vocabulary::chat_template(self.metadata()).map_err(|error| self.error(error))
    }
}
