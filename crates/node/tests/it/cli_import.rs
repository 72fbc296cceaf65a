//! From somebody's file to a bundle and back to text, with the built binary.

use crate::cli::{json, run, stderr, stdout};
use crate::support::{VOCAB, vocabulary};
use lockstep_base::rng::SplitMix64;
use std::path::{Path, PathBuf};

/// A llama2.c checkpoint (legacy layout) with small random weights.
fn checkpoint(seed: u64) -> Vec<u8> {
    let (dim, hidden, layers, heads, kv_heads, context) = (32, 64, 2, 4, 2, 64);
    let (vocab, head_dim) = (VOCAB as usize, dim / heads);
    let kv_dim = kv_heads * head_dim;
    let mut file: Vec<u8> = Vec::new();
    for word in [dim, hidden, layers, heads, kv_heads, vocab, context] {
        file.extend_from_slice(&(word as i32).to_le_bytes());
    }
    let mut rng = SplitMix64::new(seed);
    let mut random = |count: usize, size: f32| {
        for _ in 0..count {
            let unit = rng.below(1 << 20) as f32 / (1 << 19) as f32 - 1.0;
            file.extend_from_slice(&(unit * size).to_le_bytes());
        }
    };
    random(vocab * dim, 1.0);
    random(layers * dim, 1.0);
    random(layers * dim * dim, 0.3);
    random(layers * kv_dim * dim, 0.3);
    random(layers * kv_dim * dim, 0.3);
    random(layers * dim * dim, 0.3);
    random(layers * dim, 1.0);
    random(layers * hidden * dim, 0.3);
    random(layers * dim * hidden, 0.3);
    random(layers * hidden * dim, 0.3);
    random(dim, 1.0);
    random(context * head_dim, 0.0);
    file
}

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Files {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("model.bin"), checkpoint(1)).expect("write");
        std::fs::write(folder.path().join("vocabulary.txt"), vocabulary()).expect("write");
        std::fs::write(folder.path().join("text.txt"), "a cat sat.<|endoftext|>the dog ran, and ran.\n")
            .expect("write");
        Files { folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("a path").to_owned()
    }

    fn home(&self) -> &Path {
        self.folder.path()
    }

    fn import(&self, weights: &str) -> String {
        let out = self.path(&format!("{weights}.lockstep"));
        let tokenizer = self.path("vocabulary.txt");
        let args = [
            "import",
            &self.path("model.bin"),
            "--tokenizer",
            &tokenizer,
            "--out",
            &out,
            "--weights",
            weights,
            "--calibration-tokens",
            "100",
            "--name",
            "tiny",
            "--json",
        ];
        let value = json(&run(self.home(), &args));
        assert_eq!(value["weights"], *weights);
        let inspected = json(&run(self.home(), &["inspect", &out, "--verify", "--json"]));
        assert_eq!((&inspected["model_root"], &inspected["verified"]), (&value["model_root"], &true.into()));
        assert_eq!(
            (&inspected["config"]["name"], &inspected["config"]["vocab"]),
            (&"tiny".into(), &VOCAB.into())
        );
        out
    }
}

#[test]
fn a_model_imports_inspects_runs_and_is_judged() {
    let files = Files::new();
    for weights in ["int8", "int4"] {
        let bundle = files.import(weights);
        let run = |seed: &str| {
            json(&run(
                files.home(),
                &["run", &bundle, "--prompt", "a cat", "--max-tokens", "20", "--seed", seed, "--json"],
            ))
        };
        assert_eq!(run("1")["text"], run("1")["text"]);
        assert_ne!(run("1")["text"], run("2")["text"]);
        let args = [
            "eval",
            &bundle,
            "--text",
            &files.path("text.txt"),
            "--float",
            &files.path("model.bin"),
            "--generated",
            "150",
            "--rival",
            "--json",
        ];
        let one = json(&crate::cli::run(files.home(), &[&args[..], &["--threads", "1"]].concat()));
        let two = json(&crate::cli::run(files.home(), &[&args[..], &["--threads", "2"]].concat()));
        assert_eq!(one, two, "threads do not show");
        // Two documents of 10 and 21 characters, and what the model wrote.
        assert_eq!(one["tokens"], 10 + 21 + 150);
        let figure = |key: &str| one[key].as_f64().unwrap_or_else(|| panic!("{key} in {one}"));
        assert!(figure("bits_per_token") > 0.0 && figure("float_bits_per_token") > 0.0);
        assert!(
            figure("bits_per_byte") <= figure("bits_per_token") + 1e-9,
            "a token is at least a byte here: {one}"
        );
        // Quantised weights stay near their model: random ones of this size lose little.
        let (kl, agreement) = if weights == "int8" { (0.05, 0.85) } else { (1.0, 0.4) };
        assert!((0.0..kl).contains(&figure("mean_kl")), "{one}");
        assert!((agreement..=1.0).contains(&figure("top1_agreement")), "{one}");
        for rival in ["q8_0", "q4_0"] {
            for key in ["bits_per_token", "bits_per_byte", "top1_agreement", "mean_kl"] {
                assert!(one["rival"][rival][key].as_f64().is_some_and(|value| value >= 0.0), "{rival} {key}");
            }
        }
    }
}

#[test]
fn the_report_names_every_matrix() {
    let files = Files::new();
    let tokenizer = files.path("vocabulary.txt");
    let args = [
        "import",
        &files.path("model.bin"),
        "--tokenizer",
        &tokenizer,
        "--out",
        &files.path("out.lockstep"),
        "--calibration-tokens",
        "50",
        "--report",
    ];
    let text = stdout(&run(files.home(), &args));
    for tensor in ["layers.0000.q", "layers.0001.down", "head", "model root"] {
        assert!(text.contains(tensor), "{tensor} in {text}");
    }
}

#[test]
fn what_cannot_be_imported_is_refused_by_name_and_leaves_no_file() {
    let files = Files::new();
    let model = std::fs::read(files.path("model.bin")).expect("read");
    std::fs::write(files.path("short.bin"), &model[..model.len() - 4]).expect("write");
    std::fs::write(files.path("foreign.bin"), b"PK\x03\x04 something else").expect("write");
    let mut infinite = model.clone();
    infinite[40..44].copy_from_slice(&f32::INFINITY.to_le_bytes());
    std::fs::write(files.path("infinite.bin"), infinite).expect("write");
    let tokenizer = files.path("vocabulary.txt");
    let out = files.path("never.lockstep");
    let cases = [
        ("short.bin", "expected"),
        ("foreign.bin", "foreign.bin"),
        ("infinite.bin", "inf"),
        ("absent.bin", "absent.bin"),
    ];
    for (name, expected) in cases {
        let refused =
            run(files.home(), &["import", &files.path(name), "--tokenizer", &tokenizer, "--out", &out]);
        assert_eq!(refused.status.code(), Some(1), "{name}");
        assert!(stderr(&refused).contains(expected), "{name}: {}", stderr(&refused));
        assert!(!PathBuf::from(&out).exists());
    }
    let refused = run(files.home(), &["import", &files.path("model.bin"), "--out", &out]);
    assert!(stderr(&refused).contains("no tokenizer found"), "{}", stderr(&refused));
}

/// One changed byte anywhere in a bundle is refused, and the entry is named.
#[test]
fn a_changed_byte_is_found() {
    let files = Files::new();
    let bundle = files.import("int8");
    let mut bytes = std::fs::read(&bundle).expect("read");
    let at = bytes.len() * 3 / 4;
    bytes[at] ^= 1;
    let changed = files.path("changed.lockstep");
    std::fs::write(&changed, bytes).expect("write");
    let refused = run(files.home(), &["inspect", &changed, "--verify"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        stderr(&refused).contains("entry ") && stderr(&refused).contains("changed"),
        "{}",
        stderr(&refused)
    );
    assert_eq!(run(files.home(), &["run", &changed, "--prompt", "a"]).status.code(), Some(1));
}
