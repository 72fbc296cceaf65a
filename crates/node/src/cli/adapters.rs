//! Which adapters a service has, and under which names: `--adapter NAME=FILE`.

use crate::bundles::{self, OpenError};
use lockstep_base::Digest;
use lockstep_base::adapter::{AdapterError, AdapterWeights};
use lockstep_base::part::Part;
use lockstep_base::weights::ModelWeights;
use lockstep_mesh::limits::ADAPTERS_MAX;
use std::convert::Infallible;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

/// Bytes of a model's name in the API.
const NAME_BYTES_MAX: usize = 256;

/// Adapters of `serve` and `gateway`.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct AdapterArgs {
    /// Serve the model under this adapter, too, as a model of this name; may be given several times
    /// [default name: the one in the file]
    #[arg(long = "adapter", value_name = "NAME=FILE")]
    adapters: Vec<AdapterSpec>,
}

/// `NAME=FILE`, or `FILE` alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterSpec {
    /// The model's name in the API.
    pub name: Option<String>,
    /// The bundle.
    pub path: PathBuf,
}

impl FromStr for AdapterSpec {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<AdapterSpec, Infallible> {
        Ok(match text.split_once('=') {
            Some((name, path)) => AdapterSpec { name: Some(name.into()), path: path.into() },
            None => AdapterSpec { name: None, path: text.into() },
        })
    }
}

/// Why adapters cannot be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdaptersError {
    /// A file.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// An adapter of another model.
    #[error("{path}: {error}")]
    Misfit {
        /// The file.
        path: PathBuf,
        /// Why.
        error: AdapterError,
    },
    /// A name that no client could ask for.
    #[error("--adapter: the name {got:?}, expected 1 to {NAME_BYTES_MAX} bytes without control characters")]
    Name {
        /// The name.
        got: String,
    },
    /// A name that is taken.
    #[error("--adapter: two models are called {name:?}, expected a name for each: --adapter NAME={path}")]
    SameName {
        /// The name.
        name: String,
        /// The file that comes second.
        path: PathBuf,
    },
    /// The same adapter again.
    #[error("--adapter {path}: adapter {root} is given twice")]
    Twice {
        /// The file that comes second.
        path: PathBuf,
        /// Its root.
        root: Digest,
    },
    /// Too many.
    #[error("{got} adapters, expected at most {ADAPTERS_MAX}")]
    Count {
        /// How many.
        got: usize,
    },
}

impl AdapterArgs {
    /// Opens all of them, each with its name; `base` is the name of the model without adapters.
    ///
    /// # Errors
    /// [`AdaptersError`], naming the file or the name.
    pub fn open(&self, base: &str) -> Result<Vec<(String, Arc<AdapterWeights>)>, AdaptersError> {
        check_count(self.adapters.len())?;
        let mut all: Vec<(String, Arc<AdapterWeights>)> = Vec::with_capacity(self.adapters.len());
        for AdapterSpec { name, path } in &self.adapters {
            let adapter = bundles::open_adapter(path)?;
            let name = name.clone().unwrap_or_else(|| adapter.config.name.clone());
            if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
                return Err(AdaptersError::Name { got: name });
            }
            if name == base || all.iter().any(|(taken, _)| *taken == name) {
                return Err(AdaptersError::SameName { name, path: path.clone() });
            }
            all.push((name, adapter));
        }
        Ok(all)
    }
}

fn check_count(got: usize) -> Result<(), AdaptersError> {
    if got > ADAPTERS_MAX { Err(AdaptersError::Count { got }) } else { Ok(()) }
}

/// Adapters of a node that serves `part`, whose `weights` are those of the model with root `model_root`: only
/// the layers of the part are kept.
///
/// # Errors
/// [`AdaptersError`], naming the file.
pub fn of_part(
    paths: &[PathBuf],
    model_root: Digest,
    weights: &ModelWeights,
    part: &Part,
) -> Result<Vec<Arc<AdapterWeights>>, AdaptersError> {
    check_count(paths.len())?;
    let mut all: Vec<Arc<AdapterWeights>> = Vec::with_capacity(paths.len());
    for path in paths {
        let adapter = bundles::open_adapter(path)?;
        adapter
            .check_fits(model_root, &weights.config, weights.first_layer, &weights.layers)
            .map_err(|error| AdaptersError::Misfit { path: path.clone(), error })?;
        if all.iter().any(|known| known.root == adapter.root) {
            return Err(AdaptersError::Twice { path: path.clone(), root: adapter.root });
        }
        all.push(Arc::new(adapter.restrict(part)));
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first equals sign ends the name.
    #[test]
    fn names_and_files() {
        let spec = |text: &str| text.parse::<AdapterSpec>().unwrap();
        assert_eq!(
            spec("poet=a/b.lockstep"),
            AdapterSpec { name: Some("poet".into()), path: "a/b.lockstep".into() }
        );
        assert_eq!(spec("b.lockstep"), AdapterSpec { name: None, path: "b.lockstep".into() });
        assert_eq!(spec("x=a=b"), AdapterSpec { name: Some("x".into()), path: "a=b".into() });
    }
}
