//! Encoders on the command line: import by a text, vectors, and how far they are from the float model's.

use crate::cli::{json, run, stderr, stdout};
use lockstep_proof::file::{AnswerFile, Claimed};
use std::path::PathBuf;

/// Sentences of words of the fixture's vocabulary; one comes twice, and one is too short to count.
const TEXT: &str = "the boat was a small boat of the sea.\nthe keeper rang the bell in the night!\n\nno bell.\n\n\
                    a light came to the sea of the night. the keeper rang the bell in the night!\n\
                    was the keeper of the bell in a small boat?\n";

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Files {
        let files = Files { folder: tempfile::tempdir().expect("a folder") };
        std::fs::write(files.path("text.txt"), TEXT).expect("write");
        std::fs::write(files.path("empty.txt"), "\n \n").expect("write");
        files
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    fn run(&self, args: &[&str]) -> std::process::Output {
        run(self.folder.path(), args)
    }
}

/// The fixture of `lockstep-model`: a tiny BERT with random weights, mean pooling.
fn source() -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/bert");
    path.to_str().expect("UTF-8").to_owned()
}

/// Formats differ in the order of their bits, the figures do not depend on threads, and rivals are there.
#[test]
fn vectors_are_judged_against_the_float_model() {
    let files = Files::new();
    let (text, source) = (files.path("text.txt"), source());
    let mut means = Vec::new();
    for weights in ["int16", "int8", "int4"] {
        let bundle = files.path(&format!("{weights}.lockstep"));
        let import = ["import", &source, "--out", &bundle, "--weights", weights, "--calibration-text", &text];
        let imported = json(&files.run(&[&import[..], &["--json"]].concat()));
        assert_eq!(imported["warnings"].as_array().map(Vec::len), Some(0), "{imported}");
        let args = ["eval", &bundle, "--text", &text, "--float", &source, "--rival", "--json"];
        let one = json(&files.run(&[&args[..], &["--threads", "1"]].concat()));
        assert_eq!(one, json(&files.run(&[&args[..], &["--threads", "3"]].concat())), "threads do not show");
        assert_eq!(one["sentences"], 4, "{one}");
        let figure = |key: &str| one[key].as_f64().unwrap_or_else(|| panic!("{key} in {one}"));
        assert!(figure("cosine_least") <= figure("cosine_low"), "{one}");
        assert!(figure("cosine_low") <= figure("cosine_mean") && figure("cosine_mean") < 1.0, "{one}");
        assert!((0.0..=1.0).contains(&figure("nearest_agreement")), "{one}");
        let rival = |name: &str| one["rival"][name]["cosine_mean"].as_f64().expect("a rival");
        assert!(rival("q8_0") > rival("q4_0"), "{one}");
        assert!(one["rival"].get("q4_k_m").is_none(), "256 does not divide 32: {one}");
        means.push(figure("cosine_mean"));
    }
    assert!(means[0] > 0.9999 && means[1] > 0.999 && means[2] > 0.9, "{means:?}");
    assert!(means.is_sorted_by(|better, worse| better > worse), "{means:?}");
}

/// The vector that `embed` prints is proved, with the model and with a key; another one is refused (docs/claims/proofs.md).
#[test]
fn vectors_are_proved() {
    let files = Files::new();
    let [bundle, proof, key] = ["bert.lockstep", "bert.proof", "bert.key"].map(|name| files.path(name));
    json(&files.run(&["import", &source(), "--out", &bundle, "--weights", "int8", "--json"]));
    let embedded = json(&files.run(&["embed", &bundle, "--text", "a small boat", "--integers"]));
    let prove = ["prove", "--bundle", &bundle, "--prompt", "a small boat", "--out", &proof, "--json"];
    let proved = json(&files.run(&[&prove[..], &["--stages", "2"]].concat()));
    assert!(proved["claim"].as_str().is_some_and(|claim| claim.starts_with("a vector of 32")), "{proved}");
    let verified = json(&files.run(&["verify-proof", &proof, "--bundle", &bundle, "--json"]));
    assert_eq!((&verified["vector"], &verified["verified"]), (&embedded["integers"], &true.into()));

    let mut file = AnswerFile::from_bytes(&std::fs::read(&proof).expect("a file")).expect("a proof");
    let Claimed::Pooled(vector) = &mut file.claimed else { panic!("a vector") };
    vector[3] += 1;
    std::fs::write(&proof, file.to_bytes()).expect("write");
    let output = files.run(&["verify-proof", &proof, "--bundle", &bundle]);
    assert!(!output.status.success() && stderr(&output).contains("does not hold"), "{}", stderr(&output));

    json(&files.run(&["proof-key", "--bundle", &bundle, "--out", &key, "--json"]));
    json(&files.run(&[&prove[..], &["--key", &key]].concat()));
    let verified = json(&files.run(&["verify-proof", &proof, "--key", &key, "--json"]));
    assert_eq!(verified["vector"], embedded["integers"]);
    let output = files.run(&[&prove[..], &["--chat"]].concat());
    assert!(stderr(&output).contains("is an encoder"), "{}", stderr(&output));
}

/// Without a text the embedded model writes one, always the same; a text without words is refused.
#[test]
fn an_encoder_is_calibrated_by_a_text() {
    let files = Files::new();
    let (bundle, source, empty) = (files.path("plain.lockstep"), source(), files.path("empty.txt"));
    let import = |more: &[&str]| {
        files.run(
            &[&["import", &source, "--out", &bundle, "--calibration-tokens", "200", "--json"], more].concat(),
        )
    };
    let (one, two) = (json(&import(&[])), json(&import(&[])));
    assert_eq!(one, two);
    assert!(one["calibration_tokens"].as_u64().is_some_and(|got| (200..=232).contains(&got)), "{one}");
    assert_eq!(one["warnings"].as_array().map(Vec::len), Some(0), "{one}");
    assert_ne!(
        json(&import(&["--calibration-text", &files.path("text.txt")]))["model_root"],
        one["model_root"]
    );
    let refused = import(&["--calibration-text", &empty]);
    assert!(stderr(&refused).contains("the calibration text is empty"), "{}", stderr(&refused));
}

/// What an encoder cannot do is refused with the reason, and the suite names what it could not run.
#[test]
fn what_an_encoder_cannot_do_is_said() {
    let files = Files::new();
    let (bundle, text, source) = (files.path("b.lockstep"), files.path("text.txt"), source());
    stdout(&files.run(&["import", &source, "--out", &bundle, "--calibration-tokens", "50"]));
    let eval = ["eval", &bundle, "--float", &source, "--json"];
    let with = |more: &[&str]| stderr(&files.run(&[&eval[..], more].concat()));
    let said = with(&["--text", &text, "--generated", "9"]);
    assert!(said.contains("--generated 9: an encoder writes no text, expected 0"), "{said}");
    let said = with(&["--text", &files.path("empty.txt")]);
    assert!(said.contains("0 sentences, expected at least 2"), "{said}");
    let said = with(&["--text", &text, "--rival-python", "/nonexistent/python"]);
    assert!(said.contains("--rival-python /nonexistent/python: "), "{said}");

    let model = format!("tiny={source}");
    let suite = ["eval-suite", "--model", &model, "--text", &text, "--calibration-text", &text];
    let table = stdout(&files.run(&[&suite[..], &["--formats", "int8", "--threads", "1"]].concat()));
    let row = |first: &str, second: &str| {
        table.lines().any(|line| line.split_whitespace().take(2).eq([first, second]))
    };
    assert!(row("encoder", "format") && row("tiny", "int8") && row("tiny", "q4_0"), "{table}");
}
