//! CONTRIBUTING.md, unsafe code: in few files, every place with its reason.

use crate::none;
use lockstep_xtask::code::{code_only, tokens};
use lockstep_xtask::repo;

/// Files (or folders) that may contain `unsafe`, and what for.
const ALLOWED: &[(&str, &str)] = &[
    ("crates/runtime/src/kernels/", "SIMD intrinsics; disjoint columns written by several threads"),
    ("crates/runtime/src/pool.rs", "disjoint items handed to several threads"),
    (
        "crates/runtime/src/pool/",
        "a borrowed task handed to threads that outlive it; settings of the allocator",
    ),
    ("crates/model/src/bundle/open.rs", "the memory map of a bundle"),
];
/// A reason stands at most so many lines above.
const REASON_LINES: usize = 12;

fn findings(path: &str, source: &str) -> Vec<String> {
    let lines: Vec<&str> = source.lines().collect();
    let mut places: Vec<usize> = tokens(&code_only(source))
        .into_iter()
        .filter(|(_, word)| word == "unsafe")
        .map(|(line, _)| line)
        .collect();
    places.dedup();
    let allowed = ALLOWED.iter().any(|(place, _)| path.starts_with(place));
    let mut findings = Vec::new();
    for line in places {
        let above = &lines[line.saturating_sub(REASON_LINES + 1)..line];
        let reason = above.iter().any(|text| text.contains("SAFETY") || text.contains("# Safety"));
        if !allowed {
            findings.push(format!("{path}:{line}: unsafe is not allowed here"));
        } else if !reason {
            findings.push(format!("{path}:{line}: unsafe without a SAFETY comment"));
        }
    }
    findings
}

#[test]
fn unsafe_code_stands_in_the_listed_files_and_gives_its_reason() {
    let mut all = Vec::new();
    for path in repo::files_in(&["crates/", "sim/", "xtask/"], "rs") {
        all.extend(findings(&path, &repo::text(&path).expect("Rust is text")));
    }
    none("unsafe code", &all);
}

#[test]
fn unsafe_code_without_reason_would_be_found() {
    let source = "fn f() { unsafe { g() } }";
    assert_eq!(findings("crates/base/src/x.rs", source).len(), 1);
    assert_eq!(findings("crates/runtime/src/kernels/x.rs", source).len(), 1);
    assert_eq!(
        findings("crates/runtime/src/kernels/x.rs", &format!("// SAFETY: g is fine\n{source}")).len(),
        0
    );
    assert_eq!(findings("crates/base/src/x.rs", "#![forbid(unsafe_code)] // unsafe").len(), 0);
}
