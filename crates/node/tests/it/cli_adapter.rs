//! Adapters with the built binary, as a user has them: a folder of `peft`, the float base, the imported base. Import,
//! run, serve, a route of nodes, receipts; and everything that does not belong together.

use crate::adapters::direct;
use crate::cli::{Serving, json, lockstep, run, stderr, stdout};
use crate::cli_import_hub::hub_of;
use crate::http;
use crate::mesh_cli::NodeProcess;
use crate::support::{VOCAB, vocabulary};
use lockstep_base::params::Parameters;
use lockstep_base::part::Part;
use lockstep_base::rng::SplitMix64;
use lockstep_model::bundle::{Bundle, open_adapter};
use lockstep_runtime::forward::Engine;
use lockstep_runtime::kernels::Compute;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

const WIDTH: usize = 32;
const HIDDEN: usize = 64;
const KV: usize = 16;
const LAYERS: usize = 2;

/// A safetensors file of random F32 tensors: (name, shape, size of values).
fn safetensors(path: &Path, seed: u64, tensors: &[(String, Vec<usize>, f32)]) {
    let mut rng = SplitMix64::new(seed);
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, shape, size) in tensors {
        let start = data.len();
        for _ in 0..shape.iter().product() {
            let unit = rng.below(1 << 20) as f32 / (1 << 19) as f32 - 1.0;
            data.extend_from_slice(&(unit * size).to_le_bytes());
        }
        let offsets = [start, data.len()];
        header.insert(name.clone(), json!({ "dtype": "F32", "shape": shape, "data_offsets": offsets }));
    }
    let header = Value::Object(header).to_string();
    let length = (header.len() as u64).to_le_bytes();
    std::fs::write(path, [&length[..], header.as_bytes(), &data].concat()).expect("write");
}

/// Rows and columns of the matrices of a layer, by their names in Llama.
const MATRICES: [(&str, usize, usize); 7] = [
    ("self_attn.q_proj", WIDTH, WIDTH),
    ("self_attn.k_proj", KV, WIDTH),
    ("self_attn.v_proj", KV, WIDTH),
    ("self_attn.o_proj", WIDTH, WIDTH),
    ("mlp.gate_proj", HIDDEN, WIDTH),
    ("mlp.up_proj", HIDDEN, WIDTH),
    ("mlp.down_proj", WIDTH, HIDDEN),
];

/// A Llama with random weights, in the form of the hub.
fn write_model(folder: &Path, seed: u64) {
    std::fs::create_dir(folder).expect("a folder");
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "bos_token_id": 1,
        "eos_token_id": 2, "hidden_size": WIDTH, "intermediate_size": HIDDEN, "num_hidden_layers": LAYERS,
        "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCAB, "max_position_embeddings": 96,
        "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": false,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).expect("write");
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCAB as usize, WIDTH], 1.0),
        ("lm_head.weight".to_owned(), vec![VOCAB as usize, WIDTH], 0.5),
        ("model.norm.weight".to_owned(), vec![WIDTH], 1.0),
    ];
    for layer in 0..LAYERS {
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            tensors.push((format!("model.layers.{layer}.{norm}.weight"), vec![WIDTH], 1.0));
        }
        for (name, rows, cols) in MATRICES {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), vec![rows, cols], 0.3));
        }
    }
    safetensors(&folder.join("model.safetensors"), seed, &tensors);
}

/// A random adapter as `peft` writes one, beside attention and the feed-forward block.
fn write_adapter(folder: &Path, seed: u64, rank: usize) {
    std::fs::create_dir(folder).expect("a folder");
    let config = json!({
        "peft_type": "LORA", "r": rank, "lora_alpha": 2 * rank, "bias": "none", "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "someone/tiny-llama", "target_modules": ["q_proj", "v_proj", "down_proj"],
    });
    std::fs::write(folder.join("adapter_config.json"), config.to_string()).expect("write");
    let mut tensors = Vec::new();
    for layer in 0..LAYERS {
        for (name, rows, cols) in MATRICES.into_iter().filter(|(name, ..)| !name.contains("k_proj")) {
            let module = format!("base_model.model.model.layers.{layer}.{name}");
            tensors.push((format!("{module}.lora_A.weight"), vec![rank, cols], 0.2));
            tensors.push((format!("{module}.lora_B.weight"), vec![rows, rank], 0.2));
        }
    }
    safetensors(&folder.join("adapter_model.safetensors"), seed, &tensors);
}

/// Everything imported once: a base, two adapters of it, and another base.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn get() -> &'static Files {
        static FILES: OnceLock<Files> = OnceLock::new();
        FILES.get_or_init(|| {
            let files = Files { folder: tempfile::tempdir().expect("a folder") };
            std::fs::write(files.path("vocabulary.txt"), vocabulary()).expect("write");
            for (name, seed) in [("base", 1), ("other", 2)] {
                write_model(&files.path(name), seed);
                files.import_model(name, &["--adapter-room", "2", "--report", &files.text("report.json")]);
            }
            for (name, seed, rank) in [("poet", 11, 4), ("clerk", 12, 6)] {
                write_adapter(&files.path(name), seed, rank);
                let imported = files.import_adapter(name, &[]);
                assert_eq!((&imported["rank"], &imported["name"]), (&rank.into(), &name.into()));
            }
            files
        })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("a path").to_owned()
    }

    fn bundle(&self, name: &str) -> String {
        self.text(&format!("{name}.lockstep"))
    }

    fn run(&self, args: &[&str]) -> std::process::Output {
        run(self.folder.path(), args)
    }

    fn import_model(&self, name: &str, more: &[&str]) -> Value {
        let (source, tokenizer, out) = (self.text(name), self.text("vocabulary.txt"), self.bundle(name));
        let args = ["import", &source, "--tokenizer", &tokenizer, "--out", &out, "--name", name, "--json"];
        json(&self.run(&[&args[..], &["--calibration-tokens", "100"], more].concat()))
    }

    fn import_adapter(&self, name: &str, more: &[&str]) -> Value {
        let (source, base, float) = (self.text(name), self.bundle("base"), self.text("base"));
        let out = self.bundle(name);
        let args =
            ["import", &source, "--adapter-of", &base, "--base-source", &float, "--out", &out, "--json"];
        json(&self.run(&[&args[..], &["--calibration-tokens", "100"], more].concat()))
    }

    /// What `run` gives at temperature 1.
    fn answer(&self, adapter: Option<&str>) -> Value {
        let base = self.bundle("base");
        let adapter = adapter.map(|name| self.bundle(name));
        let mut args =
            vec!["run", &base, "--prompt", "a cat sat", "--max-tokens", "24", "--temperature", "1"];
        args.extend(["--top-p", "1", "--seed", "5", "--threads", "1", "--json"]);
        if let Some(adapter) = &adapter {
            args.extend(["--adapter", adapter]);
        }
        json(&self.run(&args))
    }

    /// What a command that must succeed says with --json.
    fn json(&self, args: &[&str]) -> Value {
        json(&self.run(args))
    }

    /// What a command that must fail says.
    fn refused(&self, status: i32, args: &[&str]) -> String {
        let output = self.run(args);
        let says = stderr(&output);
        assert_eq!(output.status.code(), Some(status), "{args:?}: {says}");
        assert!(!says.contains("panicked"), "{args:?}: {says}");
        says
    }
}

/// An answer under an adapter is the runtime's own, and another one than the base's.
#[test]
fn run_under_an_adapter_is_the_runtime_under_it() {
    let files = Files::get();
    let bundle = Bundle::open(&files.path("base.lockstep")).expect("it opens");
    let weights = bundle.load(&Part::whole(2)).expect("it loads");
    let tokenizer = bundle.tokenizer().expect("a tokenizer");
    let engine = Engine::new(Arc::new(weights), Arc::new(Compute::new(1)));
    let mut texts = Vec::new();
    for name in [None, Some("poet"), Some("clerk")] {
        let adapter = name
            .map(|name| Arc::new(open_adapter(&files.path(&format!("{name}.lockstep"))).expect("it opens")));
        let value = files.answer(name);
        let root = adapter.as_ref().map_or(json!(null), |adapter| json!(adapter.root.hex()));
        assert_eq!(value["adapter_root"], root);
        let parameters = Parameters {
            temperature_q16: 1 << 16,
            stop_tokens: bundle.config().eos.clone(),
            ..Parameters::greedy(24)
        };
        let prompt = tokenizer.encode("a cat sat", tokenizer.bos().is_some()).expect("text");
        let tokens = direct(&engine, adapter.as_ref(), &prompt, &parameters, 5);
        let shown: Vec<u32> =
            tokens.into_iter().filter(|token| !parameters.stop_tokens.contains(token)).collect();
        let mut stream = tokenizer.decode_continuation();
        let mut expected: String = shown.iter().map(|token| stream.push(*token)).collect();
        expected.push_str(&stream.finish());
        assert_eq!(value["text"], json!(expected), "{name:?}");
        texts.push(expected);
    }
    assert!(texts[0] != texts[1] && texts[1] != texts[2] && texts[0] != texts[2], "{texts:?}");
}

/// `serve --adapter name=FILE`: three models by name, asked at once, each with the text of `run`.
#[test]
fn serve_has_a_model_for_every_adapter() {
    let files = Files::get();
    let adapter = |name: &str| format!("{name}={}", files.bundle(name));
    let (base, clerk) = (files.bundle("base"), files.bundle("clerk"));
    let poet = adapter("poet");
    let serving = Serving::with(files.folder.path(), &[&base, "--adapter", &poet, "--adapter", &clerk]);
    let list = http::get(serving.address(), "/v1/models").json();
    let ids: Vec<&Value> =
        list["data"].as_array().expect("a list").iter().map(|model| &model["id"]).collect();
    assert_eq!(ids, ["base", "poet", "clerk"]);
    assert_eq!(list["data"][1]["lockstep"]["parent"], "base");
    let ask = |model: &str| {
        let body =
            json!({ "model": model, "prompt": "a cat sat", "max_tokens": 24, "seed": 5, "temperature": 1 });
        http::post(serving.address(), "/v1/completions", &body).json()["choices"][0]["text"].clone()
    };
    let names = ["base", "poet", "clerk", "poet", "base", "clerk"];
    let texts: Vec<Value> = std::thread::scope(|scope| {
        let clients: Vec<_> = names.map(|name| scope.spawn(move || ask(name))).into();
        clients.into_iter().map(|client| client.join().expect("a client")).collect()
    });
    for (name, text) in names.iter().zip(texts) {
        assert_eq!(text, files.answer(Some(*name).filter(|name| *name != "base"))["text"], "{name}");
    }
}

/// A node serves under adapters, `ask` names one, the receipts name it, and `verify` wants exactly that file.
#[test]
fn a_node_answers_under_an_adapter_and_verify_wants_its_file() {
    let files = Files::get();
    let [base, poet, clerk] = ["base", "poet", "clerk"].map(|name| files.bundle(name));
    let node = |layers: &str, more: &[&str]| {
        let args = [&[base.as_str(), "--layers", layers][..], more].concat();
        NodeProcess::start(files.folder.path(), &args)
    };
    let first = node("0..1", &["--adapter", &poet, "--adapter", &clerk]);
    let second = node("1..2", &["--adapter", &poet]);
    let receipts = files.text("poet.receipts");
    let ask = |more: &[&str]| {
        let args =
            ["ask", &base, "--node", &first.address, "--node", &second.address, "--prompt", "a cat sat"];
        let sampling = ["--max-tokens", "24", "--temperature", "1", "--top-p", "1", "--seed", "5"];
        files.run(&[&args[..], &sampling, more].concat())
    };
    let text = stdout(&ask(&["--adapter", &poet, "--receipts", &receipts]));
    assert_eq!(json!(text.strip_suffix('\n')), files.answer(Some("poet"))["text"]);
    let verify = ["verify", &receipts, "--bundle", &base];
    let verified = stdout(&files.run(&[&verify[..], &["--adapter", &poet]].concat()));
    assert!(verified.contains("verified: "), "{verified}");
    let root = open_adapter(Path::new(&poet)).expect("it opens").root.to_string();
    let says = files.refused(1, &verify);
    assert!(says.contains(&root) && says.contains("--adapter"), "{says}");
    let says = files.refused(1, &[&verify[..], &["--adapter", &clerk]].concat());
    assert!(says.contains(&root) && says.contains("expected adapter"), "{says}");

    // What was served is proved from its receipts, drawn tokens and adapter included, with the model and with a key.
    let (proof, key) = (files.text("poet.proof"), files.text("poet.key"));
    let prove = ["prove", &receipts, "--bundle", &base, "--out", &proof];
    let says = files.refused(1, &prove);
    assert!(says.contains(&root) && says.contains("--adapter"), "{says}");
    let says = files.refused(1, &[&prove[..], &["--adapter", &clerk]].concat());
    assert!(says.contains("the receipts name adapter"), "{says}");
    let proved = files.json(&[&prove[..], &["--adapter", &poet, "--stages", "2", "--json"]].concat());
    assert_eq!(json!(text.strip_suffix('\n')), proved["text"]);
    assert!(
        proved["claim"].as_str().is_some_and(|claim| claim.starts_with("drawn, temperature 1,")),
        "{proved}"
    );
    let verify_proof = ["verify-proof", &proof, "--bundle", &base];
    let verified = files.json(&[&verify_proof[..], &["--adapter", &poet, "--json"]].concat());
    assert_eq!((&verified["text"], &verified["adapter_root"]), (&proved["text"], &json!(root.clone())));
    let says = files.refused(1, &verify_proof);
    assert!(says.contains(&root) && says.contains("expected the model without an adapter"), "{says}");
    let says = files.refused(1, &[&verify_proof[..], &["--adapter", &clerk]].concat());
    assert!(says.contains("expected adapter"), "{says}");
    files.json(&["proof-key", "--bundle", &base, "--adapter", &poet, "--out", &key, "--json"]);
    let says = files.refused(1, &[&prove[..], &["--adapter", &clerk, "--key", &key]].concat());
    assert!(says.contains("a key of answers under adapter"), "{says}");
    files.json(&[&prove[..], &["--adapter", &poet, "--key", &key, "--json"]].concat());
    let verified = files.json(&["verify-proof", &proof, "--key", &key, "--json"]);
    assert_eq!(verified["adapter_root"], json!(root.clone()));

    let output = ask(&["--adapter", &clerk]);
    let says = stderr(&output);
    assert!(!output.status.success() && says.contains("does not serve adapter"), "{says}");
    let plain = files.text("plain.receipts");
    assert!(ask(&["--receipts", &plain]).status.success(), "the base is served as before");
    let says = files.refused(1, &["verify", &plain, "--bundle", &base, "--adapter", &poet]);
    assert!(says.contains("under no adapter, expected adapter"), "{says}");
}

/// What does not belong together is refused by name, and no bundle is left behind.
#[test]
fn what_does_not_belong_together_is_refused() {
    let files = Files::get();
    let [base, other, poet, clerk] = ["base", "other", "poet", "clerk"].map(|name| files.bundle(name));
    let (float, adapter, out) = (files.text("base"), files.text("poet"), files.text("never.lockstep"));
    let import = |args: &[&str], expected: &[&str]| {
        let says = files.refused(1, &[&["import"], args, &["--out", &out]].concat());
        for expected in expected {
            assert!(says.contains(expected), "{args:?}: {expected:?} is not in {says}");
        }
        assert!(!Path::new(&out).exists());
    };
    import(&[&adapter], &["poet is a LoRA adapter", "--adapter-of", "--base-source hf:someone/tiny-llama"]);
    import(&[&adapter, "--adapter-of", &base], &["--base-source hf:someone/tiny-llama"]);
    import(&[&float, "--adapter-of", &base, "--base-source", &float], &["no adapter_config.json"]);
    import(&[&adapter, "--adapter-of", &poet, "--base-source", &float], &["poet.lockstep is an adapter"]);
    let foreign = files.text("other");
    import(
        &[&adapter, "--adapter-of", &base, "--base-source", &foreign],
        &["was not made of", "layers.0000.q"],
    );
    import(&[&adapter, "--adapter-of", &other, "--base-source", &float], &["other.lockstep was not made of"]);
    let seed = ["--seed", "3"];
    let wrong = [&[adapter.as_str(), "--adapter-of", &base, "--base-source", &float][..], &seed].concat();
    import(&wrong, &["with this --seed", "another seed"]);
    let rank = files.path("rank");
    write_adapter(&rank, 3, 4);
    let text = std::fs::read_to_string(rank.join("adapter_config.json")).expect("read");
    std::fs::write(rank.join("adapter_config.json"), text.replace("\"r\":4", "\"r\":5")).expect("write");
    let rank = files.text("rank");
    import(&[&rank, "--adapter-of", &base, "--base-source", &float], &["lora_A", "[4, 32]", "[5, 32]"]);
    let usage = ["import", &adapter, "--adapter-of", &base, "--weights", "int4", "--out", &out];
    assert!(files.refused(64, &usage).contains("cannot be used with"));
    files.refused(64, &["import", &float, "--adapter-room", "9", "--out", &out]);

    let run = |args: &[&str], expected: &[&str]| {
        let says = files.refused(1, &[args, &["--prompt", "a"]].concat());
        for expected in expected {
            assert!(says.contains(expected), "{args:?}: {expected:?} is not in {says}");
        }
    };
    run(&["run", &poet], &["poet.lockstep is an adapter, expected a model"]);
    run(&["run", &base, "--adapter", &other], &["other.lockstep is a model, expected an adapter"]);
    run(&["run", &other, "--adapter", &poet], &["the adapter fits the model "]);
    run(&["run", &base, "--adapter", "/no/such.lockstep"], &["/no/such.lockstep"]);
    let whole = std::fs::read(&poet).expect("read");
    let cut = files.text("cut.lockstep");
    for length in [0, 40, 64, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&cut, &whole[..length]).expect("write");
        run(&["run", &base, "--adapter", &cut], &["cut.lockstep", "the file has "]);
    }
    let mut changed = whole.clone();
    changed[whole.len() - 9] ^= 1;
    std::fs::write(&cut, changed).expect("write");
    run(&["run", &base, "--adapter", &cut], &["cut.lockstep", "entry layers.0001"]);

    let serve = |args: &[&str], expected: &str| {
        let says = files.refused(1, &[&["serve", &base, "--listen", "127.0.0.1:0"], args].concat());
        assert!(says.contains(expected), "{args:?}: {says}");
    };
    let named = |name: &str, path: &str| format!("{name}={path}");
    serve(
        &["--adapter", &named("x", &poet), "--adapter", &named("x", &clerk)],
        "two models are called \"x\"",
    );
    serve(&["--adapter", &named("base", &poet)], "two models are called \"base\"");
    serve(&["--adapter", &named("", &poet)], "expected 1 to 256 bytes");
    serve(&["--adapter", &named("x", &base)], "base.lockstep is a model");
    let says = files.refused(1, &["serve", &other, "--listen", "127.0.0.1:0", "--adapter", &poet]);
    assert!(says.contains("--adapter poet: the adapter fits the model"), "{says}");
    let says = files.refused(1, &["node", &base, "--adapter", &poet, "--adapter", &poet]);
    assert!(says.contains("is given twice"), "{says}");
    let says = files.refused(1, &["node", &other, "--adapter", &poet]);
    assert!(says.contains("poet.lockstep: the adapter fits the model"), "{says}");
}

/// The adapter and its float base by their names on the hub: the bytes of the import from folders.
#[test]
fn adapter_and_base_may_come_from_the_hub() {
    let files = Files::get();
    let hub = hub_of(vec![("someone/tiny-llama", files.path("base")), ("someone/poet", files.path("poet"))]);
    let (base, out) = (files.bundle("base"), files.text("fetched.lockstep"));
    let mut command = lockstep(files.folder.path());
    command.env_remove("HF_TOKEN").env("HF_ENDPOINT", format!("http://{hub}"));
    command.args(["import", "hf:someone/poet", "--adapter-of", &base, "--out", &out, "--json"]);
    command.args(["--base-source", "hf:someone/tiny-llama", "--calibration-tokens", "100"]);
    let imported = json(&command.args(["--cache", &files.text("cache")]).output().expect("it runs"));
    assert_eq!((&imported["name"], &imported["hub"]["model"]), (&"poet".into(), &"someone/poet".into()));
    let [fetched, local] = [&out, &files.bundle("poet")].map(|path| std::fs::read(path).expect("read"));
    assert!(fetched == local, "the same files, wherever they come from");
}

/// `inspect` shows an adapter, and the longest context of a model with what limits it.
#[test]
fn inspect_shows_adapters_and_contexts() {
    let files = Files::get();
    let value = json(&files.run(&["inspect", &files.bundle("poet"), "--json"]));
    let base = json(&files.run(&["inspect", &files.bundle("base"), "--json"]));
    assert_eq!((&value["base"], &value["rank"]), (&base["model_root"], &4.into()));
    assert_eq!(value["layers"][1], json!({ "layer": 1, "matrices": ["q", "v", "o", "gate", "up", "down"] }));
    let text = stdout(&files.run(&["inspect", &files.bundle("poet")]));
    assert!(text.contains("adapter root") && text.contains("q v o gate up down"), "{text}");
    let text = stdout(&files.run(&["inspect", &files.bundle("base")]));
    assert!(text.contains("96 positions (all that the model was made for)"), "{text}");
}

/// `import --report`: JSON in a file, tables on standard output, both about every matrix and site.
#[test]
fn reports_name_matrices_sites_and_context() {
    let files = Files::get();
    let file = std::fs::read_to_string(files.path("report.json")).expect("the report of the import");
    let value: Value = serde_json::from_str(&file).expect("JSON");
    let report = &value["report"];
    assert_eq!(report["context"], json!({ "positions": 96, "limit": "model" }));
    assert_eq!(report["matrices"].as_array().map(Vec::len), Some(7 * LAYERS + 1));
    assert_eq!(report["sites"].as_array().map(Vec::len), Some(4 * LAYERS + 1));
    for (key, count) in [("matrices", 7 * LAYERS + 1), ("margins", 7 * LAYERS + 1)] {
        assert_eq!(report[key].as_array().map(Vec::len), Some(count), "{key}");
    }
    for site in report["sites"].as_array().expect("sites") {
        let number = |key: &str| site[key].as_f64().unwrap_or_else(|| panic!("{key} of {site}"));
        assert!(number("tokens") >= 100.0 && number("rms") > 0.0, "{site}");
        assert!(number("largest") >= number("rms") && number("crest") >= 1.0, "{site}");
    }
    for margin in report["margins"].as_array().expect("margins") {
        assert!(margin["accumulator"].as_f64().is_some_and(|share| (0.0..=1.0).contains(&share)), "{margin}");
    }
    // The room that was asked for is there: no proved output comes near its bound.
    let outputs = report["margins"].as_array().expect("margins").iter();
    let adaptable = outputs.filter(|margin| margin["tensor"] != "head");
    let most = adaptable.filter_map(|margin| margin["output"].as_f64()).fold(0.0, f64::max);
    assert!(most > 0.05 && most <= 0.26, "two bits of room: {most}");

    let (poet, base, float) = (files.text("poet"), files.bundle("base"), files.text("base"));
    let out = files.text("again.lockstep");
    let args = ["import", &poet, "--adapter-of", &base, "--base-source", &float, "--out", &out];
    let text = stdout(&files.run(&[&args[..], &["--calibration-tokens", "100", "--report"]].concat()));
    for word in [
        "layers.0000.q.a",
        "layers.0001.down.b",
        "layers.0001.ffn_in",
        "crest",
        "96 positions",
        "adapter root",
    ] {
        assert!(text.contains(word), "{word} in {text}");
    }
    let again = std::fs::read(&out).expect("read");
    assert!(
        again == std::fs::read(files.bundle("poet")).expect("read"),
        "the same import gives the same bytes"
    );
    let says = stderr(&lockstep(files.folder.path()).args(["import", "--report"]).output().expect("it runs"));
    assert!(says.contains("<SRC>"), "{says}");
}
