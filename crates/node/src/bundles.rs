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
    /// The settings cannot be read.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// This build has no model.
    #[error("no bundle was named and this build has none embedded; name one: lockstep import makes them")]
    NoneEmbedded,
}

/// The embedded model: `assets/default.lockstep`, made by `lockstep import models/default`.
#[must_use]
pub fn embedded() -> Option<&'static [u8]> {
    #[cfg(lockstep_default_model)]
    {
        Some(include_bytes!("../assets/default.lockstep"))
    }
    #[cfg(not(lockstep_default_model))]
    {
        None
    }
}

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
        None => {
            let bytes = embedded().ok_or(OpenError::NoneEmbedded)?;
            Bundle::from_bytes(bytes).map_err(|error| OpenError::Embedded(Box::new(error)))
        }
    }
}
