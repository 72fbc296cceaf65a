//! Where files are kept: `CACHE/owner--name/COMMIT/path`, one folder per commit.

use std::path::{Path, PathBuf};

use crate::HubError;
use crate::names::{ModelRef, RepoPath};

/// The folder of one commit.
#[derive(Debug)]
pub(crate) struct Snapshot {
    folder: PathBuf,
}

impl Snapshot {
    /// `commit` is known to be hexadecimal.
    pub(crate) fn create(cache: &Path, model: &ModelRef, commit: &str) -> Result<Self, HubError> {
        let folder = cache.join(model.name().replace('/', "--")).join(commit);
        std::fs::create_dir_all(&folder).map_err(HubError::io(&folder))?;
        Ok(Self { folder })
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn place(&self, path: &RepoPath) -> PathBuf {
        path.under(&self.folder)
    }
}
