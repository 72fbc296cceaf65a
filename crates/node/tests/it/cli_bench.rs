//! `lockstep bench`: what it reports it measured; what it lacks it names.

use crate::cli::{json, lockstep, run, stderr};
use std::path::Path;

/// A shape that is quickly made.
const SMALL: [&str; 5] = ["bench", "--shape", "gpt2-small", "--layers", "1"];

fn bench(home: &Path, more: &[&str]) -> std::process::Output {
    run(home, &[&SMALL[..], more].concat())
}

#[test]
fn batches_are_measured_beside_one_sequence() {
    let home = tempfile::tempdir().unwrap();
    let flags =
        ["--mode", "batch", "--batch", "3", "--prompt", "8", "--generate", "3", "--runs", "2", "--json"];
    let value = json(&bench(home.path(), &flags));
    let batch = &value["batch"];
    assert_eq!((&batch["sequences"], &batch["bit_equal_to_alone"]), (&3.into(), &true.into()), "{value}");
    // All three sequences are computed alone in the first round, one of them in the second.
    assert_eq!(batch["one_sequence_seconds"].as_array().map(Vec::len), Some(4), "{value}");
    assert_eq!(batch["seconds"].as_array().map(Vec::len), Some(2), "{value}");
    let number = |key: &str| batch[key].as_f64().unwrap_or_default();
    let ratio = number("tokens_per_second") / number("one_sequence_tokens_per_second");
    assert!((number("ratio_to_one_sequence") - ratio).abs() < 1e-9, "{value}");
    assert!(value.get("prefill_tokens_per_second").is_none(), "not measured: {value}");
}

#[test]
fn decoding_is_set_beside_the_memory() {
    let home = tempfile::tempdir().unwrap();
    let flags = ["--mode", "decode", "--prompt", "4", "--generate", "3", "--runs", "1", "--json"];
    let value = json(&bench(home.path(), &flags));
    let number = |key: &str| value[key].as_f64().unwrap_or_else(|| panic!("{key} of {value}"));
    // 12 * 768^2 weights of a layer and 50,257 * 768 of the head, in bytes.
    assert_eq!(value["weight_bytes"], 12 * 768 * 768 + 50_260 * 768);
    let rate = number("decode_tokens_per_second") * number("weight_bytes");
    assert!((number("decode_bytes_per_second") / rate - 1.0).abs() < 1e-9, "{value}");
    let share = rate / number("memory_ceiling_bytes_per_second");
    assert!((number("decode_share_of_ceiling") / share - 1.0).abs() < 1e-9, "{value}");
    assert!(value.get("prefill_tokens_per_second").is_none(), "not measured: {value}");
}

#[test]
fn a_missing_rival_is_named() {
    let home = tempfile::tempdir().unwrap();
    let mut command = lockstep(home.path());
    let output = command.env_remove("LOCKSTEP_RIVAL_PYTHON").args([
        "bench",
        "--shape",
        "gpt2-small",
        "--vs",
        "llama.cpp",
    ]);
    let text = stderr(&output.output().unwrap());
    assert!(text.contains("--rival-python") && text.contains("LOCKSTEP_RIVAL_PYTHON"), "{text}");
    let text = stderr(&run(
        home.path(),
        &["bench", "--shape", "gpt2-small", "--vs", "llama.cpp", "--rival-python", "/nowhere"],
    ));
    assert!(text.starts_with("error: --rival-python /nowhere: "), "{text}");
}

/// Opening is timed to the first use and to the end of verification, and a changed byte is an error, not a figure.
#[test]
fn opening_is_measured() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("b.lockstep");
    let name = path.to_str().unwrap();
    assert!(
        run(home.path(), &["bench", "write-bundle", name, "--shape", "gpt2-small", "--layers", "1"])
            .status
            .success()
    );
    let value = json(&run(home.path(), &["bench", "open", name, "--runs", "2", "--generate", "2", "--json"]));
    assert_eq!(value["bundle_bytes"], std::fs::metadata(&path).unwrap().len());
    let number = |key: &str| value[key].as_f64().unwrap_or_else(|| panic!("{key} of {value}"));
    assert!(0.0 < number("open_seconds") && number("open_seconds") <= number("verified_seconds"), "{value}");

    let mut bytes = std::fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let text = stderr(&run(home.path(), &["bench", "open", name, "--runs", "1"]));
    assert!(text.contains(" was changed: its root is "), "{text}");
}
