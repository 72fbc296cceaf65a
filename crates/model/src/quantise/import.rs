//! `lockstep import`: a path in, the bytes of a bundle and a report out.

use super::{ModelFacts, Progress, QuantiseError, QuantiseOptions, Report, calibration_texts, quantise};
use crate::bundle::{self, BundleError, Contents, TokenizerSection};
use crate::source::{self, Source, SourceError};
use crate::tokenizer::TokenizerError;
use lockstep_base::digest::Digest;
use std::path::Path;

/// How to import.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ImportOptions {
    /// How to quantise.
    pub quantise: QuantiseOptions,
    /// A name for people instead of that of the file.
    pub name: Option<String>,
    /// A text to calibrate by, instead of what the model writes; about as many tokens of it as are asked for.
    pub calibration_text: Option<String>,
}

/// A finished import.
#[derive(Clone, Debug)]
pub struct Imported {
    /// The bundle.
    pub bytes: Vec<u8>,
    /// Its model root.
    pub model_root: Digest,
    /// How it went.
    pub report: Report,
}

/// Why an import ended without a bundle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// The source.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The arithmetic.
    #[error(transparent)]
    Quantise(#[from] QuantiseError),
    /// The bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The calibration text, in the model's vocabulary.
    #[error("the calibration text: {0}")]
    Text(#[from] TokenizerError),
    /// The calibration text has no words.
    #[error("the calibration text is empty, expected paragraphs of words")]
    NoText,
}

/// Reads, quantises and packs the model at `path`.
///
/// # Errors
/// [`ImportError`].
pub fn import(
    path: &Path,
    tokenizer: Option<&Path>,
    options: &ImportOptions,
    progress: &mut Progress<'_>,
) -> Result<Imported, ImportError> {
    import_source(&source::open(path, tokenizer)?, options, progress)
}

/// Quantises and packs a model that was read already.
///
/// # Errors
/// [`ImportError`].
pub fn import_source(
    source: &Source,
    options: &ImportOptions,
    progress: &mut Progress<'_>,
) -> Result<Imported, ImportError> {
    let facts = ModelFacts {
        name: options.name.clone().unwrap_or_else(|| source.name.clone()),
        bos: source.tokenizer.bos(),
        eos: source.tokenizer.eos().to_vec(),
    };
    let mut how = options.quantise.clone();
    if let Some(text) = &options.calibration_text {
        how.calibration_texts = calibration_texts(text, source, how.calibration_tokens)?;
        if how.calibration_texts.is_empty() && how.calibration_tokens > 0 {
            return Err(ImportError::NoText);
        }
    }
    let (weights, report) = quantise(&source.model, &facts, &how, progress)?;
    let tokenizer = TokenizerSection {
        kind: source.tokenizer.kind().to_string(),
        file: source.tokenizer.to_bytes().to_vec(),
    };
    let bytes = bundle::write(&Contents {
        weights: &weights,
        tokenizer: &tokenizer,
        chat_template: source.chat_template.as_deref(),
    })?;
    let model_root = bundle::Bundle::from_bytes(bytes.clone())?.model_root(); // what was written opens
    Ok(Imported { bytes, model_root, report })
}
