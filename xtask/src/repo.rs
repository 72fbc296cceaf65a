//! The files of the repository, as git sees them: tracked, and new ones that are not ignored.

use std::path::PathBuf;
use std::process::Command;

/// The repository's root folder.
#[must_use]
pub fn root() -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    root.canonicalize().expect("the folder above xtask exists")
}

/// Paths of all files, relative to the root, with `/`.
///
/// # Panics
/// If git cannot list them.
#[must_use]
pub fn files() -> Vec<String> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git can be started");
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let mut files: Vec<String> = String::from_utf8(output.stdout)
        .expect("paths are UTF-8")
        .split_terminator('\0')
        .filter(|path| root().join(path).is_file())
        .map(str::to_owned)
        .collect();
    files.sort();
    files.dedup();
    files
}

/// Files under one of `folders` (`""` is all) whose name ends with `.extension`.
#[must_use]
pub fn files_in(folders: &[&str], extension: &str) -> Vec<String> {
    let ending = format!(".{extension}");
    files()
        .into_iter()
        .filter(|path| path.ends_with(&ending) && folders.iter().any(|folder| path.starts_with(folder)))
        .collect()
}

/// The bytes of a file.
///
/// # Panics
/// If it cannot be read.
#[must_use]
pub fn bytes(path: &str) -> Vec<u8> {
    std::fs::read(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The text of a file; `None` for a binary file.
#[must_use]
pub fn text(path: &str) -> Option<String> {
    String::from_utf8(bytes(path)).ok().filter(|text| !text.contains('\0'))
}
