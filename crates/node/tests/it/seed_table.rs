//! `lockstep bench seed-table`: what it says it measured, it measured; what is missing it names.

use crate::cli::{json, lockstep, run, stderr, stdout};
use lockstep_model::tokenizer::{Tokenizer, TokenizerKind};
use lockstep_node::cli::bench::seed_table::{PROMPT, PROMPT_TOKENS};
use serde_json::Value;
use std::path::{Path, PathBuf};

fn home() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

/// The data folder, or `None` after a loud skip.
fn data(test: &str) -> Option<PathBuf> {
    let found = std::env::var_os("LOCKSTEP_DATA").map(PathBuf::from);
    if found.is_none() {
        assert!(std::env::var_os("CI").is_none_or(|ci| ci != "true"), "LOCKSTEP_DATA is not set: {test}");
        eprintln!("SKIP {test}: LOCKSTEP_DATA is not set");
    }
    found
}

/// Without data: Iris runs, on random inputs and saying so, LeNet is skipped and says what it needs.
fn without_data(home: &Path, args: &[&str]) -> std::process::Output {
    let mut command = lockstep(home);
    command.env_remove("LOCKSTEP_DATA").args(["bench", "seed-table", "--rows", "iris-ols,iris-nn,lenet"]);
    command.args(args).output().expect("the binary runs")
}

fn row<'a>(table: &'a Value, id: &str) -> &'a Value {
    let rows = table["rows"].as_array().expect("rows");
    rows.iter().find(|row| row["id"] == id).unwrap_or_else(|| panic!("{id}: {table}"))
}

#[test]
fn the_iris_rows_need_no_data_and_lenet_says_what_it_needs() {
    let home = home();
    let table = json(&without_data(home.path(), &["--runs", "3", "--threads", "1", "--json"]));
    assert_eq!((&table["runs"], &table["threads"]), (&3.into(), &1.into()));
    for (id, oyster) in [("iris-ols", 0.047), ("iris-nn", 0.045)] {
        let row = row(&table, id);
        let seconds: Vec<f64> =
            row["serve"]["seconds"].as_array().expect("runs").iter().filter_map(Value::as_f64).collect();
        assert!(seconds.len() == 3 && seconds.iter().all(|s| *s > 0.0), "{row}");
        let mut sorted = seconds.clone();
        sorted.sort_by(f64::total_cmp);
        assert_eq!(row["serve"]["median_seconds"].as_f64(), Some(sorted[1]));
        let ratio = row["times_oyster"].as_f64().expect("a ratio");
        assert!((ratio * sorted[1] / oyster - 1.0).abs() < 1e-9, "{row}");
        let prove = &row["prove"];
        for figure in ["prove_seconds", "verify_seconds", "proof_bytes"] {
            assert!(prove[figure].as_f64().is_some_and(|figure| figure > 0.0), "{figure}: {row}");
        }
        assert_eq!(row["attest"], "not yet");
        assert!(row["notes"].to_string().contains("random inputs"), "{row}");
    }
    assert!(row(&table, "lenet")["skipped"].as_str().is_some_and(|why| why.contains("--data")), "{table}");

    let text = stdout(&without_data(home.path(), &["--runs", "1"]));
    for part in ["RisQ 32 s", "EZKL 212 s", "DDKang 3.33 s", "0.056 s", "skipped", "not yet", "random inputs"]
    {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

/// With data the networks that were timed are those that are right: Iris 145 and 148 of 150, LeNet 9,815 of 10,000.
#[test]
fn with_data_the_timed_networks_are_right() {
    let Some(data) = data("with_data_the_timed_networks_are_right") else { return };
    let home = home();
    let args = ["bench", "seed-table", "--rows", "iris-ols,iris-nn,lenet", "--runs", "1", "--json", "--data"];
    let table = json(&run(home.path(), &[&args[..], &[data.to_str().expect("UTF-8")]].concat()));
    for (id, least, of) in [("iris-ols", 143, 150), ("iris-nn", 146, 150), ("lenet", 9750, 10_000)] {
        let right = &row(&table, id)["right"];
        assert_eq!(right["of"], of, "{id}");
        assert!(right["right"].as_u64().is_some_and(|right| (least..=of).contains(&right)), "{id}: {right}");
    }
}

/// The random prompt has as many tokens as the published one.
#[test]
fn the_prompt_has_eight_tokens_in_gpt2s_vocabulary() {
    let Some(data) = data("the_prompt_has_eight_tokens_in_gpt2s_vocabulary") else { return };
    let file = std::fs::read(data.join("tokenizer-gpt2/tokenizer.json")).expect("a tokenizer");
    let tokenizer = Tokenizer::from_bytes(TokenizerKind::HfJson, &file).expect("a tokenizer");
    assert_eq!(tokenizer.encode(PROMPT, false).expect("tokens").len(), PROMPT_TOKENS);
}

#[test]
fn wrong_arguments_are_named() {
    let home = home();
    let none = run(home.path(), &["bench", "seed-table", "--runs", "0"]);
    assert!(!none.status.success() && stderr(&none).contains("--runs 0, expected 1 to"), "{}", stderr(&none));
    let nowhere = run(
        home.path(),
        &["bench", "seed-table", "--rows", "lenet", "--runs", "1", "--data", "no-such-folder"],
    );
    assert!(stderr(&nowhere).contains("no-such-folder"), "{}", stderr(&nowhere));
    let both = run(home.path(), &["bench", "--shape", "default", "seed-table"]);
    assert_eq!(both.status.code(), Some(64), "{}", stderr(&both));
    // Both forms of the command are explained.
    assert!(stdout(&run(home.path(), &["bench", "--help"])).contains("seed-table"));
    assert!(stdout(&run(home.path(), &["bench", "seed-table", "--help"])).contains("Usage: lockstep"));
}
