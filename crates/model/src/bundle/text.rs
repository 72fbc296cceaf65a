//! The entries that are for people and gateways: tokenizer and chat template.

use super::entries::names;
use super::error::BundleError;
use super::open::{Bundle, find};
use crate::tokenizer::Tokenizer;
use lockstep_base::cbor;
use minicbor::{Decode, Encode};

/// A tokenizer's file and how it is to be read.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct TokenizerSection {
    /// Name of the kind, as in `tokenizer::TokenizerKind`.
    #[n(0)]
    pub kind: String,
    /// The file.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub file: Vec<u8>,
}

impl Bundle {
    /// The tokenizer's bytes, verified.
    ///
    /// # Errors
    /// [`BundleError`] if the entry was changed or is none.
    pub fn tokenizer_section(&self) -> Result<TokenizerSection, BundleError> {
        let bytes = self.blob(names::TOKENIZER)?;
        cbor::decode("tokenizer", &bytes)
            .map_err(|error| BundleError::Cbor { entry: names::TOKENIZER.into(), error })
    }

    /// The tokenizer, with the bos and eos of the configuration.
    ///
    /// # Errors
    /// [`BundleError`] if the entry was changed or does not parse.
    pub fn tokenizer(&self) -> Result<Tokenizer, BundleError> {
        let section = self.tokenizer_section()?;
        let parse = || {
            Tokenizer::from_bytes(section.kind.parse()?, &section.file)?
                .with_special(self.config.bos, self.config.eos.clone())
        };
        parse().map_err(BundleError::Tokenizer)
    }

    /// The chat template, verified; `None` if the model has none.
    ///
    /// # Errors
    /// [`BundleError`] if the entry was changed or is no text.
    pub fn chat_template(&self) -> Result<Option<String>, BundleError> {
        if find(&self.placed, names::CHAT_TEMPLATE).is_none() {
            return Ok(None);
        }
        let bytes = self.blob(names::CHAT_TEMPLATE)?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(Some(text.to_owned())),
            Err(error) => {
                Err(BundleError::Utf8 { entry: names::CHAT_TEMPLATE.into(), at: error.valid_up_to() })
            }
        }
    }
}
