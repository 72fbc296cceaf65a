//! ARCHITECTURE.md, dependency direction: which crate may know which.

use crate::none;
use lockstep_xtask::packages::{Dependency, Package, workspace};

/// Crate -> crates of the workspace that it may use. A new crate gets a line here and in
/// ARCHITECTURE.md.
const TABLE: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("runtime", &["base"]),
    ("model", &["base"]),
    ("mesh", &["base", "runtime"]),
    ("hub", &[]),
    // The runtime is for its prover only.
    ("proof", &["base", "runtime"]),
    ("node", &["base", "runtime", "model", "mesh", "hub", "proof"]),
];
/// What the tests of a crate may use besides: an importer is checked by running what it imported, proofs by proving it.
const TESTS: &[(&str, &[&str])] = &[("model", &["runtime"]), ("proof", &["model"])];
/// Development only: may use anything, and nothing may use them (but for tests).
const FREE: &[&str] = &["sim", "xtask"];
/// What the cores may take from outside. Sockets, clocks, files and threads come by crates, too.
const CORES: &[(&str, &[&str])] = &[
    ("base", &["k256", "minicbor", "sha2", "sha3", "thiserror", "zeroize"]),
    ("runtime", &["thiserror"]),
    ("mesh", &["minicbor", "thiserror"]),
];

fn short(name: &str) -> Option<&str> {
    name.strip_prefix("lockstep-")
}

fn wrong_directions(packages: &[Package]) -> Vec<String> {
    let mut findings = Vec::new();
    for package in packages {
        let name = short(&package.name).unwrap_or(&package.name);
        if FREE.contains(&name) {
            continue;
        }
        let Some((_, allowed)) = TABLE.iter().find(|(row, _)| *row == name) else {
            findings.push(format!("{name} is not in the table of dependency directions"));
            continue;
        };
        for dependency in &package.dependencies {
            let Some(other) = short(&dependency.name) else { continue };
            let row = TESTS.iter().find(|(row, _)| *row == name).map_or(&[][..], |(_, tests)| *tests);
            let tests = dependency.kind == "dev" && (FREE.contains(&other) || row.contains(&other));
            if !allowed.contains(&other) && !tests {
                findings.push(format!("{name} uses {other} ({}), allowed: {allowed:?}", dependency.kind));
            }
        }
    }
    findings
}

fn foreign_in_cores(packages: &[Package]) -> Vec<String> {
    let mut findings = Vec::new();
    for package in packages {
        let name = short(&package.name).unwrap_or(&package.name);
        let Some((_, allowed)) = CORES.iter().find(|(row, _)| *row == name) else { continue };
        for dependency in &package.dependencies {
            let foreign = dependency.kind != "dev" && short(&dependency.name).is_none();
            if foreign && !allowed.contains(&dependency.name.as_str()) {
                findings.push(format!("{name} uses {}, allowed: {allowed:?}", dependency.name));
            }
        }
    }
    findings
}

#[test]
fn crates_use_only_what_the_table_allows() {
    let packages = workspace();
    assert!(packages.len() >= TABLE.len(), "cargo metadata names {} crates", packages.len());
    none("dependency direction", &wrong_directions(&packages));
}

#[test]
fn the_cores_take_little_from_outside() {
    none("foreign crates in the cores", &foreign_in_cores(&workspace()));
}

#[test]
fn a_wrong_direction_would_be_found() {
    let package = |name: &str, dependency: &str, kind: &str| Package {
        name: format!("lockstep-{name}"),
        dependencies: vec![Dependency { name: dependency.into(), kind: kind.into() }],
    };
    assert_eq!(wrong_directions(&[package("base", "lockstep-runtime", "normal")]).len(), 1);
    assert_eq!(wrong_directions(&[package("mesh", "lockstep-node", "dev")]).len(), 1);
    assert_eq!(wrong_directions(&[package("mesh", "lockstep-sim", "normal")]).len(), 1);
    assert_eq!(wrong_directions(&[package("new", "serde", "normal")]).len(), 1);
    assert_eq!(wrong_directions(&[package("mesh", "lockstep-sim", "dev")]).len(), 0);
    assert_eq!(wrong_directions(&[package("model", "lockstep-runtime", "dev")]).len(), 0);
    assert_eq!(wrong_directions(&[package("model", "lockstep-runtime", "normal")]).len(), 1);
    assert_eq!(foreign_in_cores(&[package("mesh", "tokio", "normal")]).len(), 1);
    assert_eq!(foreign_in_cores(&[package("mesh", "proptest", "dev")]).len(), 0);
}
