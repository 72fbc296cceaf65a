//! What the repository holds: no large files, no traces of a machine.

use crate::none;
use lockstep_xtask::repo;

/// Where large or binary files are meant to be.
const LARGE: &[&str] = &["models/default/", "crates/node/assets/"];
/// Bytes of a text file.
const TEXT_BYTES_MAX: usize = 1 << 20;
/// Bytes of a binary file: small fixtures only.
const BINARY_BYTES_MAX: usize = 256 << 10;

/// Paths, hosts and phrases that belong to a machine or a way of working, not to the project.
/// (Written in two pieces, so that this list does not find itself.)
const TRACES: &[&str] = &[
    concat!("/wo", "rk/"),
    concat!("/tmp/", "target"),
    concat!("/ro", "ot/"),
    concat!("/ho", "me/"),
    concat!("static.crates", ".io"),
    concat!("index.crates", ".io"),
    concat!("files.python", "hosted.org"),
    concat!("pypi.org", "/simple"),
    concat!("helper ", "agent"),
    concat!("sub", "agent"),
    concat!("session ", "ends"),
    concat!("this ", "session"),
    concat!("the ", "brief"),
];

fn traces(path: &str, text: &str) -> Vec<String> {
    let mut findings = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let lower = line.to_lowercase();
        for trace in TRACES.iter().filter(|trace| lower.contains(**trace)) {
            findings.push(format!("{path}:{number}: {trace:?}"));
        }
    }
    findings
}

#[test]
fn no_file_speaks_of_a_machine() {
    let mut all = Vec::new();
    for path in repo::files() {
        if let Some(text) = repo::text(&path) {
            all.extend(traces(&path, &text));
        }
    }
    none("traces", &all);
    assert_eq!(traces("x", concat!("cd /wo", "rk/main")).len(), 1, "the check finds them");
}

#[test]
fn no_file_is_large() {
    let mut findings = Vec::new();
    for path in repo::files() {
        if LARGE.iter().any(|folder| path.starts_with(folder)) {
            continue;
        }
        let bytes = repo::bytes(&path).len();
        let limit = if repo::text(&path).is_some() { TEXT_BYTES_MAX } else { BINARY_BYTES_MAX };
        if bytes > limit {
            findings.push(format!("{path}: {bytes} bytes, expected at most {limit}"));
        }
    }
    none("large files", &findings);
}

#[test]
fn licences_and_front_matter_are_there() {
    for path in [
        "LICENSE-MIT",
        "LICENSE-APACHE",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
        "deny.toml",
        ".ci/run",
    ] {
        assert!(repo::root().join(path).is_file(), "{path} is missing");
    }
}
