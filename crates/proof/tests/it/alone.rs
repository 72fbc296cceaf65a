//! The verifier as a program of its own, in a process of its own (proofs.md, 1, tier B): it has files, and neither the runtime nor weights.

use crate::stages::{Chain, ROOT, made};
use lockstep_base::Digest;
use lockstep_base::weights::WeightFormat;
use lockstep_proof::file::Sample;
use lockstep_proof::key::Key;
use std::path::Path;
use std::process::{Command, Output};

fn run(folder: &Path, arguments: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_lockstep-verify");
    Command::new(program).args(arguments).current_dir(folder).env_clear().output().expect("it runs")
}

/// A file for the key holds; damaged, of other tokens, for another key, drawn or for who holds the model it does not, and the exit status says so.
#[test]
fn files_are_verified_in_another_process() {
    let chain = Chain::new(0, WeightFormat::Int8);
    let key = Key::new(&chain.weights, ROOT, &[1, 2]).expect("a key");
    let other = Key::new(&chain.weights, ROOT, &[2]).expect("a key");
    let file = made(&chain, Some(&key), None);
    let folder = std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("alone");
    std::fs::create_dir_all(&folder).expect("a folder");
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.join(name), bytes).expect("write");
    write("key", &key.to_bytes());
    write("other", &other.to_bytes());
    let bytes = file.to_bytes();
    write("proof", &bytes);
    let output = run(&folder, &["key", "proof"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout).expect("UTF-8");
    assert!(said.contains(&format!("answer  {:?}, greedily", file.answer())), "{said}");

    let mut changed = file.clone();
    changed.tokens[1] ^= 1;
    write("changed", &changed.to_bytes());
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2] ^= 1;
    write("damaged", &damaged);
    write("held", &made(&chain, None, None).to_bytes());
    write("drawn", &made(&chain, Some(&key), Some(Sample { stages: 1, beacon: Digest([1; 32]) })).to_bytes());
    for (key, proof, expected) in [
        ("key", "changed", "changed: "),
        ("key", "damaged", "damaged: "),
        ("key", "held", "who holds the model"),
        ("key", "drawn", "only some stages"),
        ("key", "key", "not a proof"),
        ("key", "nowhere", "nowhere: "),
        ("other", "proof", "the proof is for key"),
        ("proof", "proof", "proof: "),
    ] {
        let output = run(&folder, &[key, proof]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{key} {proof}: {said}");
        assert!(said.starts_with("NOT verified: ") && said.contains(expected), "{key} {proof}: {said}");
        assert!(output.stdout.is_empty());
    }
    assert_eq!(run(&folder, &["key"]).status.code(), Some(2));
}
