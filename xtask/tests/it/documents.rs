//! Documents that stay true: links, paths and commands in them exist.

use crate::none;
use lockstep_xtask::{code, markdown, repo};
use std::path::Path;

/// Folders whose files documents name in backticks.
const FOLDERS: &[&str] =
    &["crates/", "docs/", "sim/", "xtask/", "models/", "recipes/", "benches/", "fuzz/", ".ci/"];

fn dead_links(path: &str, document: &str) -> Vec<String> {
    let folder = Path::new(path).parent().unwrap_or(Path::new(""));
    let mut findings = Vec::new();
    for (line, link) in markdown::links(document) {
        if link.contains("://") || link.starts_with("mailto:") {
            continue;
        }
        let (file, anchor) =
            link.split_once('#').map_or((link.as_str(), None), |(file, anchor)| (file, Some(anchor)));
        let target = if file.is_empty() { path.into() } else { folder.join(file) };
        if !repo::root().join(&target).exists() {
            findings.push(format!("{path}:{line}: {link} does not exist"));
        } else if let Some(anchor) = anchor.filter(|_| target.extension().is_some_and(|e| e == "md")) {
            let text = if file.is_empty() {
                Some(document.to_owned())
            } else {
                target.to_str().and_then(repo::text)
            };
            if !text.is_some_and(|text| markdown::anchors(&text).iter().any(|a| a == anchor)) {
                findings.push(format!("{path}:{line}: {link}: no such heading"));
            }
        }
    }
    findings
}

/// Paths in backticks (documents) or after `docs/` (sources) that lead nowhere.
fn dead_path(span: &str) -> Option<&str> {
    let path = span.trim_end_matches(['.', ',', ')', ':']).split(['#', ' ']).next().unwrap_or_default();
    let plain = path.chars().all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
    let named = FOLDERS.iter().any(|folder| path.starts_with(folder)) && plain;
    (named && !repo::root().join(path).exists()).then_some(path)
}

#[test]
fn every_link_leads_somewhere() {
    let mut findings = Vec::new();
    for path in repo::files_in(&[""], "md") {
        findings.extend(dead_links(&path, &repo::text(&path).expect("Markdown is text")));
    }
    none("dead links", &findings);
    assert_eq!(dead_links("x.md", "[a](no-such-file.md) [b](#no-such-heading) [c](xtask)").len(), 2);
}

#[test]
fn every_path_that_a_document_names_exists() {
    let mut findings = Vec::new();
    for path in repo::files_in(&[""], "md") {
        for (line, span) in markdown::code(&repo::text(&path).expect("Markdown is text")) {
            findings.extend(dead_path(&span).map(|dead| format!("{path}:{line}: {dead}")));
        }
    }
    for path in repo::files_in(&["crates/", "sim/", "xtask/"], "rs") {
        let source = repo::text(&path).expect("Rust is text");
        for (number, line) in (1..).zip(source.lines()) {
            for (at, _) in line.match_indices("docs/").filter(|(at, _)| !line[..*at].ends_with(['/', '"'])) {
                let named = line[at..].split(['`', ',', ' ', ')', '"']).next().unwrap_or_default();
                findings.extend(dead_path(named).map(|dead| format!("{path}:{number}: {dead}")));
            }
        }
    }
    none("paths that do not exist", &findings);
    assert_eq!(dead_path("crates/no-such/"), Some("crates/no-such/"));
    assert_eq!(dead_path("xtask/src"), None);
}

/// Names of the variants of the enums that derive `Subcommand`, as clap spells them.
fn subcommands(source: &str) -> Vec<String> {
    let code = code::code_only(source);
    let mut names = Vec::new();
    for (at, _) in code.match_indices("Subcommand") {
        let Some(body) = code[at..].split_once(")]").and_then(|(_, rest)| rest.split_once('{')) else {
            continue;
        };
        if !body.0.contains("enum") {
            continue;
        }
        let (mut depth, mut fresh) = (1, true);
        for (at, c) in body.1.char_indices() {
            match c {
                '{' | '(' | '[' => depth += 1,
                '}' | ')' | ']' => depth -= 1,
                ',' if depth == 1 => fresh = true,
                c if c.is_uppercase() && depth == 1 && fresh => {
                    let name: String = body.1[at..].chars().take_while(|c| c.is_alphanumeric()).collect();
                    names.push(kebab(&name));
                    fresh = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    names
}

fn kebab(name: &str) -> String {
    let mut text = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !text.is_empty() {
            text.push('-');
        }
        text.extend(c.to_lowercase());
    }
    text
}

/// The subcommand that a command line calls: after `lockstep`, or after `cargo run … --`.
fn command_of(line: &str) -> Option<&str> {
    let line = line.trim_start_matches("$ ");
    let mut words = line.split_whitespace();
    match words.next()? {
        "lockstep" | "./target/release/lockstep" | "target/release/lockstep" => words.next(),
        "cargo" => words
            .next()
            .filter(|word| *word == "run")
            .and_then(|_| words.find(|word| *word == "--"))
            .and_then(|_| words.next()),
        _ => None,
    }
}

#[test]
fn every_command_of_the_readme_is_a_subcommand() {
    let Some(readme) = repo::root().join("README.md").is_file().then(|| repo::text("README.md")).flatten()
    else {
        eprintln!("SKIP every_command_of_the_readme_is_a_subcommand: there is no README.md yet");
        return;
    };
    let known: Vec<String> = repo::files_in(&["crates/node/src/"], "rs")
        .iter()
        .flat_map(|path| subcommands(&repo::text(path).expect("Rust is text")))
        .collect();
    assert!(!known.is_empty(), "no enum under crates/node/src derives Subcommand");
    let mut findings = Vec::new();
    for (line, span) in markdown::code(&readme) {
        let Some(command) = command_of(&span) else { continue };
        let plain = command.chars().all(|c| c.is_ascii_lowercase() || c == '-') && !command.starts_with('-');
        if plain && !known.iter().any(|name| name == command) {
            findings.push(format!("README.md:{line}: lockstep {command}; known: {known:?}"));
        }
    }
    none("commands that do not exist", &findings);
}

#[test]
fn commands_are_read_from_command_lines() {
    assert_eq!(command_of("lockstep demo --json"), Some("demo"));
    assert_eq!(command_of("$ cargo run --release -- demo"), Some("demo"));
    assert_eq!(command_of("cargo test --workspace"), None);
}

#[test]
fn subcommands_are_read_from_the_enum() {
    let source = "#[derive(Debug, clap::Subcommand)]\nenum Command {\n  /// Doc, with Comma\n  #[command(name = \"x\")]\n  Run(Run),\n  ConfigShow { A: u8 },\n  Demo,\n}";
    assert_eq!(subcommands(source), ["run", "config-show", "demo"]);
}
