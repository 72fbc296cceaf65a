//! Which bundle a command means, and the model that is compiled in.

use crate::config::{Config, ConfigError, Key, Origin};
use lockstep_base::adapter::AdapterWeights;
use lockstep_model::bundle::{self, Bundle, BundleError, KIND_ADAPTER, KIND_MODEL};
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
    /// An adapter where a model is wanted.
    #[error("{path} is an adapter, expected a model; an adapter runs beside its model, given with --adapter")]
    Adapter {
        /// The file.
        path: PathBuf,
    },
    /// A model where an adapter is wanted.
    #[error("{path} is a model, expected an adapter as `lockstep import --adapter-of` makes them")]
    Model {
        /// The file.
        path: PathBuf,
    },
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
        Some(path) => Bundle::open(&path).map_err(|error| refused(path, error)),
        None => Bundle::from_bytes(EMBEDDED).map_err(|error| OpenError::Embedded(Box::new(error))),
    }
}

fn refused(path: PathBuf, error: BundleError) -> OpenError {
    match error {
        error @ BundleError::Io { .. } => OpenError::Unreadable(Box::new(error)),
        BundleError::HeaderField { field: "kind", got, expected } => {
            match (u32::try_from(got), u32::try_from(expected)) {
                (Ok(KIND_ADAPTER), Ok(KIND_MODEL)) => OpenError::Adapter { path },
                (Ok(KIND_MODEL), Ok(KIND_ADAPTER)) => OpenError::Model { path },
                _ => OpenError::File {
                    path,
                    error: Box::new(BundleError::HeaderField { field: "kind", got, expected }),
                },
            }
        }
        error => OpenError::File { path, error: Box::new(error) },
    }
}

/// Opens and verifies the adapter at `path`.
///
/// # Errors
/// [`OpenError`], naming the file.
pub fn open_adapter(path: &Path) -> Result<Arc<AdapterWeights>, OpenError> {
    bundle::open_adapter(path).map(Arc::new).map_err(|error| refused(path.to_owned(), error))
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
