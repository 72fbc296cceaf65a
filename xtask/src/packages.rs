//! The workspace's crates and what they depend on, from `cargo metadata`.

use serde_json::Value;
use std::collections::BTreeSet;
use std::process::Command;

/// One dependency as a manifest declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    /// Name of the package.
    pub name: String,
    /// `normal`, `build` or `dev`.
    pub kind: String,
}

/// One crate of the workspace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// What it declares.
    pub dependencies: Vec<Dependency>,
}

fn metadata(arguments: &[&str]) -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1"])
        .args(arguments)
        .current_dir(crate::repo::root())
        .output()
        .expect("cargo can be started");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata writes JSON")
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// The crates of the workspace.
#[must_use]
pub fn workspace() -> Vec<Package> {
    let metadata = metadata(&["--no-deps"]);
    list(&metadata["packages"])
        .iter()
        .map(|package| Package {
            name: text(&package["name"]),
            dependencies: list(&package["dependencies"])
                .iter()
                .map(|dependency| Dependency {
                    name: text(&dependency["name"]),
                    kind: dependency["kind"].as_str().unwrap_or("normal").to_owned(),
                })
                .collect(),
        })
        .collect()
}

/// Names and versions of every crate that a Linux build of the whole workspace takes, tests included.
#[must_use]
pub fn linux_crates() -> BTreeSet<String> {
    let metadata = metadata(&["--filter-platform", "x86_64-unknown-linux-gnu"]);
    list(&metadata["resolve"]["nodes"]).iter().map(|node| text(&node["id"])).collect()
}
