//! Limits on what the repository costs: crates to build, lines to read.

use crate::none;
use lockstep_xtask::packages::linux_crates;
use lockstep_xtask::repo;

/// Crates of a Linux build of the workspace with its tests.
const LINUX_CRATES_MAX: usize = 650;
/// Lines of a Rust file: one concept each.
const FILE_LINES_MAX: usize = 600;
/// Files that may be longer, each with the reason.
const LONGER: &[(&str, &str)] = &[];

#[test]
fn a_linux_build_takes_at_most_650_crates() {
    let crates = linux_crates();
    assert!(crates.len() > 20, "cargo metadata names {} crates", crates.len());
    assert!(crates.len() <= LINUX_CRATES_MAX, "{} crates, expected at most {LINUX_CRATES_MAX}", crates.len());
}

#[test]
fn no_rust_file_has_more_than_600_lines() {
    let mut findings = Vec::new();
    for path in repo::files_in(&[""], "rs") {
        let lines = repo::text(&path).expect("Rust is text").lines().count();
        let excepted = LONGER.iter().any(|(longer, _)| *longer == path);
        if lines > FILE_LINES_MAX && !excepted {
            findings.push(format!("{path}: {lines} lines"));
        }
        if lines <= FILE_LINES_MAX && excepted {
            findings.push(format!("{path}: {lines} lines, no longer an exception"));
        }
    }
    none("files with more than 600 lines", &findings);
}
