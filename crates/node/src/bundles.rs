//! Which bundle a command means, and the model that is compiled in.

use crate::config::{Config, ConfigError, Key, Origin};
use lockstep_model::bundle::{Bundle, BundleError};
use std::path::{Path, PathBuf};

/// Why there is no bundle.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The file is no bundle that can be used.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: Box<BundleError>,
    },
    /// The file cannot be read; the message names it.
    #[error(transparent)]
    Unreadable(Box<BundleError>),
    /// The embedded one is broken.
    #[error("the embedded model: {0}")]
    Embedded(Box<BundleError>),
    /// The model gives vectors, not text.
    #[error("{name} is an encoder, expected a decoder; `lockstep embed` makes vectors with it")]
    Encoder {
        /// Its name.
        name: String,
    },
    /// The settings cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// The embedded model: made by `lockstep import models/default`, see `models/default/MODEL_CARD.md`.
pub const EMBEDDED: &[u8] = include_bytes!("../assets/default.lockstep");

/// Opens the bundle at `path`; without one, that of the settings, else the embedded one.
///
/// # Errors
/// [`OpenError`], naming the file.
pub fn open(path: Option<&Path>) -> Result<Bundle, OpenError> {
    let setting = match path {
        Some(path) => Some(path.to_owned()),
        None => {
            let setting = Config::load()?.get(Key::Bundle, None);
            (setting.origin != Origin::Default).then(|| setting.value.into())
        }
    };
    match setting {
        Some(path) => Bundle::open(&path).map_err(|error| match error {
            error @ BundleError::Io { .. } => OpenError::Unreadable(Box::new(error)),
            error => OpenError::File { path, error: Box::new(error) },
        }),
        None => Bundle::from_bytes(EMBEDDED).map_err(|error| OpenError::Embedded(Box::new(error))),
    }
}

/// As [`open`], for a model that generates text.
///
/// # Errors
/// [`OpenError`], naming the file or the model.
pub fn open_decoder(path: Option<&Path>) -> Result<Bundle, OpenError> {
    let bundle = open(path)?;
    if bundle.config().pooling.is_some() {
        return Err(OpenError::Encoder { name: bundle.config().name.clone() });
    }
    Ok(bundle)
}
