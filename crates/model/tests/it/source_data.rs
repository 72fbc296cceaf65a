//! Where the tests find data that is not in the repository.
//!
//! `LOCKSTEP_DATA` names the folder. Without it a test says so and returns; in CI (`CI=true`) that is a failure, so that a
//! misspelt variable cannot pass as success.

use std::path::{Path, PathBuf};

/// A file of the data folder, or `None` after a loud skip.
pub(crate) fn data(relative: &str) -> Option<PathBuf> {
    let path = std::env::var_os("LOCKSTEP_DATA").map(|folder| Path::new(&folder).join(relative));
    match path {
        Some(path) if path.exists() => Some(path),
        Some(path) => panic!("LOCKSTEP_DATA is set, but {} is not there", path.display()),
        None if std::env::var("CI").is_ok_and(|ci| ci == "true") => {
            panic!("LOCKSTEP_DATA is not set: {relative}")
        }
        None => {
            eprintln!("SKIP {relative}: LOCKSTEP_DATA is not set");
            None
        }
    }
}

/// A file of the repository's fixtures.
pub(crate) fn fixture(relative: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(relative)
}
