//! `lockstep prove` and `lockstep verify-proof` with the built binary: what one writes the other accepts, for this model and these tokens
//! alone (docs/claims/proofs.md), and what cannot be proved says why.

use crate::cli::{json, run, stderr, stdout};
use crate::support::{TEMPLATE, config, vocabulary};
use lockstep_base::config::{ModelConfig, Positions};
use lockstep_base::weights::WeightFormat;
use lockstep_model::bundle::{Contents, TokenizerSection, write_file};
use lockstep_model::tokenizer::TokenizerKind;
use lockstep_proof::file::{AnswerFile, Claimed, FILE_TOKENS_MAX};
use lockstep_runtime::synthetic;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// A folder with bundles of random models and what was proved with them.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> Files {
        Files(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("a path").to_owned()
    }

    /// A bundle of `config` with weights from `seed`.
    fn bundle(&self, name: &str, config: &ModelConfig, seed: u64) -> String {
        let weights = synthetic::model(config, WeightFormat::Int8, seed);
        let kind = TokenizerKind::CharsBytes.as_str().into();
        let tokenizer = TokenizerSection { kind, file: vocabulary().into_bytes() };
        let contents = Contents { weights: &weights, tokenizer: &tokenizer, chat_template: Some(TEMPLATE) };
        write_file(&self.path(name), &contents).expect("a bundle");
        self.text(name)
    }

    fn run(&self, args: &[&str]) -> std::process::Output {
        run(self.0.path(), args)
    }

    /// Proves an answer of `tokens` tokens into `name`.
    fn prove(&self, name: &str, bundle: &str, tokens: &str) -> Value {
        let out = self.text(name);
        let args = ["prove", "--bundle", bundle, "--prompt", "a boat", "--max-tokens", tokens, "--json"];
        json(&self.run(&[&args[..], &["--out", &out]].concat()))
    }

    /// The message of a proof that is refused, with the exit status that it has.
    fn refusal(&self, file: &str, bundle: &str) -> String {
        let output = self.run(&["verify-proof", file, "--bundle", bundle]);
        assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
        assert!(output.stdout.is_empty(), "nothing of a refused file is printed");
        let told = self.run(&["verify-proof", file, "--bundle", bundle, "--json"]);
        assert_eq!(told.status.code(), Some(1));
        let value: Value = serde_json::from_slice(&told.stdout).expect("JSON");
        assert_eq!(value["verified"], false);
        let reason = value["reason"].as_str().expect("a reason");
        assert_eq!(stderr(&output).trim(), format!("error: {reason}"));
        reason.to_owned()
    }
}

/// A model of two layers: small enough for a proof in a test.
fn small() -> ModelConfig {
    ModelConfig { n_layers: 2, ..config() }
}

fn read(path: &Path) -> AnswerFile {
    AnswerFile::from_bytes(&std::fs::read(path).expect("a file")).expect("a proof")
}

/// The answer is that of `run --temperature 0`, and the file verifies without the prompt being told.
#[test]
fn a_greedy_answer_is_proved_and_its_file_verifies() {
    let files = Files::new();
    let bundle = files.bundle("small.lockstep", &small(), 7);
    let proved = files.prove("boat.proof", &bundle, "5");
    let args = ["run", &bundle, "--prompt", "a boat", "--max-tokens", "5", "--temperature", "0", "--json"];
    let answered = json(&files.run(&args));
    for key in ["text", "prompt_tokens", "completion_tokens", "finish_reason", "model", "model_root"] {
        assert_eq!(proved[key], answered[key], "{key}");
    }
    let size = std::fs::metadata(files.path("boat.proof")).expect("a file").len();
    assert_eq!(proved["proof_bytes"], size);
    for phase in ["witness", "commitment", "lookups", "constraints", "products", "opening"] {
        let cpu = proved["phases"][phase]["cpu_seconds"].as_f64();
        assert!(cpu.is_some_and(|cpu| cpu > 0.0), "{phase}: {}", proved["phases"]);
    }

    let file = files.text("boat.proof");
    let verified = json(&files.run(&["verify-proof", &file, "--bundle", &bundle, "--json"]));
    assert_eq!(verified["verified"], true);
    assert_eq!((&verified["prompt"], &verified["text"]), (&"a boat".into(), &answered["text"]));
    let said = stdout(&files.run(&["verify-proof", &file, "--bundle", &bundle]));
    for line in
        ["verified: 5 tokens after a prompt of 7", "not zero-knowledge", "holds the model", "greedily"]
    {
        assert!(said.contains(line), "{line:?} in {said}");
    }
    let text = answered["text"].as_str().expect("a text");
    assert!(said.contains(&format!("answer  {text:?}")), "{said}");

    // With a chat template, in words.
    let chat = ["prove", "--bundle", &bundle, "--chat", "--prompt", "hi", "--max-tokens", "2"];
    let said = stdout(&files.run(&[&chat[..], &["--out", &files.text("chat.proof")]].concat()));
    for line in ["prompt  \"user, hi. assistant, \"", "2 tokens, length", "lookups", "verified"] {
        assert!(said.contains(line), "{line:?} in {said}");
    }
}

/// A token that ends an answer is part of what is proved.
#[test]
fn an_answer_may_end_by_itself() {
    let files = Files::new();
    let bundle = files.bundle("endless.lockstep", &small(), 7);
    files.prove("endless.proof", &bundle, "2");
    let first = read(&files.path("endless.proof")).answer()[0];
    let bundle = files.bundle("ending.lockstep", &ModelConfig { eos: vec![first], ..small() }, 7);
    let proved = files.prove("ending.proof", &bundle, "9");
    assert_eq!((&proved["completion_tokens"], &proved["finish_reason"]), (&1.into(), &"stop".into()));
    assert_eq!(read(&files.path("ending.proof")).answer(), [first]);
    json(&files.run(&["verify-proof", &files.text("ending.proof"), "--bundle", &bundle, "--json"]));
}

/// Each way of being wrong has its message: another model, other tokens, a damaged, short, long or foreign file.
#[test]
fn everything_else_is_refused_and_named() {
    let files = Files::new();
    let bundle = files.bundle("small.lockstep", &small(), 7);
    let other = files.bundle("other.lockstep", &small(), 8);
    files.prove("boat.proof", &bundle, "3");
    let good = read(&files.path("boat.proof"));
    let file = files.text("boat.proof");
    let reason = files.refusal(&file, &other);
    assert!(reason.contains(&format!("is about model {}", good.root)), "{reason}");

    let refused = |name: &str, bytes: &[u8], expected: &str| {
        std::fs::write(files.path(name), bytes).expect("write");
        let reason = files.refusal(&files.text(name), &bundle);
        assert!(reason.contains(name) && reason.contains(expected), "{expected:?} in {reason}");
    };
    for (at, name) in [(1, "prompt.proof"), (good.tokens.len() - 2, "answer.proof")] {
        let mut changed = good.clone();
        changed.tokens[at] = (changed.tokens[at] + 1) % small().vocab;
        refused(name, &changed.to_bytes(), "does not hold");
    }
    let mut foreign = good.clone();
    foreign.tokens[0] = small().vocab;
    refused("token.proof", &foreign.to_bytes(), "expected one below");
    let shorter = AnswerFile { generated: good.generated - 1, ..good.clone() };
    refused("shorter.proof", &shorter.to_bytes(), "does not hold");

    let bytes = good.to_bytes();
    let mut damaged = bytes.clone();
    damaged[bytes.len() / 2] ^= 4;
    refused("damaged.proof", &damaged, "does not hold");
    refused("cut.proof", &bytes[..bytes.len() - 40], "not a valid proof of an answer");
    refused(
        "long.proof",
        &[&bytes[..], b"more"].concat(),
        "proof of an answer is not in deterministic encoding",
    );
    refused("head.proof", &bytes[..30], "not a valid proof of an answer");
    refused("empty.proof", b"", "not a proof of an answer");
    refused("readme.proof", b"# Lockstep\n", "not a proof of an answer");
    let missing = files.refusal(&files.text("nowhere.proof"), &bundle);
    assert!(missing.contains("nowhere.proof"), "{missing}");
    json(&files.run(&["verify-proof", &file, "--bundle", &bundle, "--json"]));
}

/// Models, prompts and places that no proof can be made for are named before anything is computed; nothing is written.
#[test]
fn what_cannot_be_proved_says_why() {
    let files = Files::new();
    let bundle = files.bundle("small.lockstep", &small(), 7);
    let out = files.text("none.proof");
    let refused = |args: &[&str], expected: &str| {
        let output = files.run(&[&["prove", "--out", &out], args].concat());
        assert_eq!(output.status.code(), Some(1), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(expected), "{expected:?} in {}", stderr(&output));
        assert!(!files.path("none.proof").exists(), "{args:?} wrote a file");
    };
    let long = "a".repeat(FILE_TOKENS_MAX);
    refused(&["--bundle", &bundle, "--prompt", &long], "expected at most");
    refused(&["--bundle", &bundle, "--prompt", "a", "--max-tokens", "0"], "expected at least 1");
    refused(&["--bundle", &bundle, "--prompt", "a", "--memory", "0"], "--memory 0, expected at least");

    let nowhere = files.text("no/such/folder/x.proof");
    let output = files.run(&["prove", "--bundle", &bundle, "--prompt", "a", "--out", &nowhere]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("x.proof"), "{}", stderr(&output));
}

/// Drawn tokens are those of `run` with the same numbers, and the file says how they were drawn.
#[test]
fn drawn_tokens_are_proved() {
    let files = Files::new();
    let bundle = files.bundle("small.lockstep", &small(), 7);
    let drawn =
        ["--prompt", "a boat", "--max-tokens", "6", "--temperature", "0.9", "--top-p", "0.8", "--seed", "3"];
    let answered = json(&files.run(&[&["run", &bundle, "--json"], &drawn[..]].concat()));
    let out = files.text("drawn.proof");
    let proved =
        json(&files.run(&[&["prove", "--bundle", &bundle, "--out", &out, "--json"], &drawn[..]].concat()));
    assert_eq!(proved["text"], answered["text"]);
    let said = stdout(&files.run(&["verify-proof", &out, "--bundle", &bundle]));
    for line in ["verified: 6 tokens", "chosen  drawn, temperature 0.9", "nobody chose the sampler seed"] {
        assert!(said.contains(line), "{line:?} in {said}");
    }
    let mut file = read(&files.path("drawn.proof"));
    file.claimed = Claimed::Greedy;
    std::fs::write(&out, file.to_bytes()).expect("write");
    assert!(files.refusal(&out, &bundle).contains("does not hold"));
}

/// Models of other families are proved by the same command: one with ALiBi; --memory chooses the stages.
#[test]
fn other_families_are_proved() {
    let files = Files::new();
    let alibi = ModelConfig { positions: Positions::Alibi, rope_dim: 0, rope_tables: 0, ..small() };
    let alibi = files.bundle("alibi.lockstep", &alibi, 7);
    let out = files.text("alibi.proof");
    let args = ["prove", "--bundle", &alibi, "--prompt", "a", "--max-tokens", "2", "--memory", "8", "--json"];
    let proved = json(&files.run(&[&args[..], &["--out", &out]].concat()));
    assert_eq!(proved["stages"], 1, "{proved}");
    json(&files.run(&["verify-proof", &out, "--bundle", &alibi, "--json"]));
}

/// Stages, a key, and a draw: each file verifies with what it was made for and with nothing else (proofs.md, 1).
#[test]
fn answers_are_proved_in_stages_and_for_keys() {
    let files = Files::new();
    let bundle = files.bundle("small.lockstep", &small(), 7);
    let prove = |name: &str, more: &[&str]| {
        let file = files.text(name);
        let args = [
            "prove",
            "--bundle",
            &bundle,
            "--prompt",
            "a boat",
            "--max-tokens",
            "4",
            "--json",
            "--out",
            &file,
        ];
        (json(&files.run(&[&args[..], more].concat())), file)
    };
    let (staged, file) = prove("stages.proof", &["--stages", "2"]);
    assert_eq!((&staged["stages"], &staged["proved_stages"]), (&2.into(), &2.into()));
    let verified = json(&files.run(&["verify-proof", &file, "--bundle", &bundle, "--json"]));
    assert_eq!((&verified["verified"], &verified["text"]), (&true.into(), &staged["text"]));

    let key = files.text("small.key");
    let made =
        json(&files.run(&["proof-key", "--bundle", &bundle, "--stages", "2", "--out", &key, "--json"]));
    let (keyed, with_key) = prove("keyed.proof", &["--key", &key]);
    assert_eq!((&keyed["key"], &keyed["stages"]), (&made["key"], &2.into()));
    let verified = json(&files.run(&["verify-proof", &with_key, "--key", &key, "--json"]));
    assert_eq!((&verified["verified"], &verified["key"]), (&true.into(), &made["key"]));
    let said = stdout(&files.run(&["verify-proof", &with_key, "--key", &key]));
    for line in ["verified: 4 tokens", "answer  [", "that this key is the model's"] {
        assert!(said.contains(line), "{line:?} in {said}");
    }
    assert!(files.refusal(&with_key, &bundle).contains("the proof is for key"));
    let told = stderr(&files.run(&["verify-proof", &file, "--key", &key]));
    assert!(told.contains("the proof is for who holds the model"), "{told}");
    let other = files.bundle("other.lockstep", &small(), 8);
    let out = files.text("x.proof");
    let told = files.run(&["prove", "--bundle", &other, "--prompt", "a", "--key", &key, "--out", &out]);
    assert!(stderr(&told).contains("a key of model"), "{}", stderr(&told));

    let beacon = "ab".repeat(32);
    let (drawn, file) = prove("drawn.proof", &["--stages", "2", "--sample", "1", "--beacon", &beacon]);
    assert_eq!((&drawn["stages"], &drawn["proved_stages"]), (&2.into(), &1.into()));
    let fixed =
        ["prove", "--bundle", &bundle, "--prompt", "a boat", "--max-tokens", "4", "--json", "--out", &out];
    let fixed = json(&files.run(&[&fixed[..], &["--stages", "2", "--commit"]].concat()));
    assert_eq!(fixed["commitment"], drawn["commitment"], "what is fixed before the draw");
    let said = stdout(&files.run(&["verify-proof", &file, "--bundle", &bundle, "--beacon", &beacon]));
    for line in ["verified: 1 of 2 stages of 4 tokens", "found out in 1 of 2 cases", "only with all layers"] {
        assert!(said.contains(line), "{line:?} in {said}");
    }
    // A beacon that only the file names shows nothing: a prover could have chosen it.
    assert!(files.refusal(&file, &bundle).contains("only 1 of 2 stages are proved: expected --beacon"));
    let told = files.run(&["verify-proof", &file, "--bundle", &bundle, "--beacon", &"cd".repeat(32)]);
    assert!(!told.status.success() && stderr(&told).contains("drawn by beacon abab"), "{}", stderr(&told));

    for (args, expected) in [
        (&["--stages", "3"][..], "--stages 3, expected 1 to 2"),
        (&["--stages", "0"], "--stages 0, expected 1 to 2"),
        (&["--stages", "2", "--sample", "2", "--beacon", &beacon], "--sample 2, expected 1 to 1"),
        (&["--stages", "2", "--sample", "1", "--beacon", "ab"], "no 32 bytes in hex"),
        (&["--stages", "2", "--sample", "1"], "--beacon"),
    ] {
        let base = ["prove", "--bundle", &bundle, "--prompt", "a", "--out", &out];
        let output = files.run(&[&base[..], args].concat());
        assert!(!output.status.success() && stderr(&output).contains(expected), "{}", stderr(&output));
    }
}

/// The benchmark ends with the figures that are promised, of a proof that it has checked.
#[test]
fn proofs_are_measured() {
    let files = Files::new();
    let args = [
        "bench",
        "prove",
        "--layers",
        "2",
        "--prompt",
        "3",
        "--generate",
        "2",
        "--stages",
        "2",
        "--key",
        "--json",
    ];
    let measured = json(&files.run(&args));
    for key in [
        "prove_seconds",
        "prove_cpu_seconds",
        "verify_seconds",
        "proof_bytes",
        "inference_cpu_seconds",
        "peak_memory_bytes",
        "key_bytes",
    ] {
        assert!(measured[key].as_f64().is_some_and(|figure| figure > 0.0), "{key}: {measured}");
    }
    let output = files.run(&["bench", "prove", "--prompt", "1000", "--generate", "50"]);
    assert!(stderr(&output).contains("a proof covers"), "{}", stderr(&output));
}

/// The embedded model, without a word about bundles.
#[test]
fn the_embedded_model_proves_its_answers() {
    let files = Files::new();
    let file = files.text("story.proof");
    let args = ["prove", "--prompt", "Once upon a time", "--max-tokens", "6", "--out", &file, "--json"];
    let proved = json(&files.run(&args));
    assert_eq!(proved["completion_tokens"], 6);
    let verified = json(&files.run(&["verify-proof", &file, "--json"]));
    assert_eq!((&verified["verified"], &verified["text"]), (&true.into(), &proved["text"]));
}
