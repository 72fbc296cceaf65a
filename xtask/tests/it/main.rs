//! The tidy checks. Each names the rule, the file and the line that breaks it.

mod budget;
mod direction;
mod documents;
mod files;
mod sources;
mod unsafety;

/// Fails with every finding at once.
#[track_caller]
fn none(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
}
