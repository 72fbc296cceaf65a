//! What the sources of the cores never contain, and what every source contains.

use crate::none;
use lockstep_xtask::code::{code_only, is_float, std_modules, tokens};
use lockstep_xtask::repo;

/// Crates whose arithmetic is exact, and the protocol between them.
const EXACT: &[&str] = &["crates/base/src/", "crates/runtime/src/", "crates/mesh/src/"];
/// Crates without IO, and the simulator, whose runs are fixed by one seed.
const CORES: &[&str] = &["crates/base/src/", "crates/runtime/src/", "crates/mesh/src/", "sim/src/"];
/// Modules of `std` that the cores do not touch.
const OUTSIDE: &[&str] = &["env", "fs", "net", "os", "process", "thread", "time"];
/// Crates that would bring the same.
const RANDOM: &[&str] = &["rand", "getrandom", "fastrand", "OsRng", "thread_rng"];
/// Where threads live: nothing else in the runtime knows that there are any.
const THREADS: &[&str] = &["crates/runtime/src/pool.rs", "crates/runtime/src/pool/"];

fn floats(path: &str, source: &str) -> Vec<String> {
    tokens(&code_only(source))
        .into_iter()
        .filter(|(_, token)| is_float(token))
        .map(|(line, token)| format!("{path}:{line}: {token}"))
        .collect()
}

fn outside(path: &str, source: &str) -> Vec<String> {
    let code = code_only(source);
    let threads = THREADS.iter().any(|allowed| path.starts_with(allowed));
    let modules = std_modules(&code)
        .into_iter()
        .filter(|(_, name)| OUTSIDE.contains(&name.as_str()) && !(threads && name == "thread"))
        .map(|(line, name)| format!("{path}:{line}: std::{name}"));
    let random = tokens(&code)
        .into_iter()
        .filter(|(_, token)| RANDOM.contains(&token.as_str()))
        .map(|(line, token)| format!("{path}:{line}: {token}"));
    modules.chain(random).collect()
}

fn read(path: &str) -> String {
    repo::text(path).unwrap_or_else(|| panic!("{path} is not text"))
}

fn in_all(folders: &[&str], check: impl Fn(&str, &str) -> Vec<String>) -> Vec<String> {
    let files = repo::files_in(folders, "rs");
    assert!(!files.is_empty(), "no sources in {folders:?}");
    files.iter().flat_map(|path| check(path, &read(path))).collect()
}

#[test]
fn exact_crates_have_no_float() {
    none("floats where arithmetic is exact", &in_all(EXACT, floats));
    assert_eq!(floats("x", "let y = 0.5 as f32;").len(), 2, "the check finds floats");
}

#[test]
fn the_cores_have_no_clock_socket_file_thread_or_randomness() {
    none("the outside world in the cores", &in_all(CORES, outside));
    let broken = "use std::{time::Instant, collections};\nstd::thread::spawn(|| rand::random());";
    assert_eq!(outside("x", broken).len(), 3, "the check finds them");
    assert_eq!(outside("crates/runtime/src/pool.rs", "std::thread::scope").len(), 0);
}

#[test]
fn shipped_crates_build_without_std_where_they_say_so() {
    for path in ["crates/base/src/lib.rs", "crates/runtime/src/lib.rs"] {
        assert!(code_only(&read(path)).contains("no_std"), "{path} is no longer no_std");
    }
}

/// The first thing in a file is what it is for.
#[test]
fn every_source_begins_with_its_documentation() {
    let undocumented = |path: &str, source: &str| match source.starts_with("//!") {
        true => vec![],
        false => vec![path.to_owned()],
    };
    none("sources that do not begin with //!", &in_all(&[""], undocumented));
}

#[test]
fn nothing_is_left_to_do_in_the_sources() {
    let unfinished = |path: &str, source: &str| -> Vec<String> {
        let words = ["todo", "unimplemented", "dbg"];
        let code = code_only(source);
        let macros = tokens(&code).into_iter().filter(|(line, token)| {
            words.contains(&token.as_str())
                && code.lines().nth(line - 1).is_some_and(|l| l.contains(&format!("{token}!")))
        });
        macros.map(|(line, token)| format!("{path}:{line}: {token}!")).collect()
    };
    none("unfinished code", &in_all(&[""], unfinished));
    assert_eq!(unfinished("x", "fn f() { todo!() }").len(), 1, "the check finds them");
}

/// A test that is never run shows nothing.
#[test]
fn no_test_is_ignored_without_a_reason() {
    let ignored = |path: &str, source: &str| -> Vec<String> {
        let lines = (1..).zip(source.lines());
        lines.filter(|(_, line)| line.trim() == "#[ignore]").map(|(n, _)| format!("{path}:{n}")).collect()
    };
    none("#[ignore] without a reason", &in_all(&[""], ignored));
}

#[test]
fn every_crate_takes_lints_versions_and_licence_from_the_workspace() {
    let mut findings = Vec::new();
    let manifests: Vec<String> = repo::files_in(&["crates/", "sim/", "xtask/"], "toml")
        .into_iter()
        .filter(|path| path.ends_with("/Cargo.toml"))
        .collect();
    assert!(manifests.len() >= 7, "{manifests:?}");
    for path in manifests {
        let manifest = read(&path);
        for line in [
            "[lints]\nworkspace = true",
            "version.workspace = true",
            "license.workspace = true",
            "publish.workspace = true",
        ] {
            if !manifest.contains(line) {
                findings.push(format!("{path}: no {line:?}"));
            }
        }
        let mut dependencies = false;
        for (number, line) in (1..).zip(manifest.lines()) {
            if line.starts_with('[') {
                dependencies = line.contains("dependencies]");
            } else if dependencies && line.contains('=') && !line.contains("workspace = true") {
                findings.push(format!("{path}:{number}: {line}: versions are set in the root's Cargo.toml"));
            }
        }
    }
    none("manifests", &findings);
}
