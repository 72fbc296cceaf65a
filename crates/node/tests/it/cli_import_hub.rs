//! `lockstep import` of a GGUF file, from a path and from a hub by name, with the built binary.

use crate::cli::{json, lockstep, run, stderr, stdout};
use crate::support::CHARACTERS;
use lockstep_base::Digest;
use lockstep_base::rng::SplitMix64;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Arc, Mutex};

const COMMIT: &str = "00112233445566778899aabbccddeeff00112233";
const NAME: &str = "tiny.F32.gguf";

/// The front of a GGUF file: texts and entries one after the other.
struct Header(Vec<u8>);

impl Header {
    fn text(&mut self, text: &str) {
        self.0.extend((text.len() as u64).to_le_bytes());
        self.0.extend(text.as_bytes());
    }

    fn entry(&mut self, key: &str, kind: u32, value: &[u8]) {
        self.text(key);
        self.0.extend(kind.to_le_bytes());
        self.0.extend(value);
    }

    fn string(&mut self, key: &str, value: &str) {
        self.entry(key, 8, &[]);
        self.text(value);
    }

    fn array(&mut self, key: &str, kind: u32, len: usize, values: &[u8]) {
        self.entry(key, 9, &kind.to_le_bytes());
        self.0.extend((len as u64).to_le_bytes());
        self.0.extend(values);
    }
}

/// A Llama with small random weights and a scored vocabulary of bytes and characters.
fn gguf() -> Vec<u8> {
    let mut pieces: Vec<(String, i32)> =
        [("<unk>", 2), ("<s>", 3), ("</s>", 3)].map(|(name, kind)| (name.into(), kind)).into();
    pieces.extend((0..256).map(|byte| (format!("<0x{byte:02X}>"), 6)));
    pieces.extend(CHARACTERS.chars().map(|c| (c.to_string().replace(' ', "\u{2581}"), 1)));
    let (vocab, d, hidden) = (pieces.len() as u64, 32, 64);
    let mut tensors = vec![("token_embd.weight".to_owned(), vec![d, vocab], 1.0)];
    for layer in 0..2 {
        for (part, shape, size) in [
            ("attn_norm", vec![d], 1.0),
            ("attn_q", vec![d, d], 0.3),
            ("attn_k", vec![d, d / 2], 0.3),
            ("attn_v", vec![d, d / 2], 0.3),
            ("attn_output", vec![d, d], 0.3),
            ("ffn_norm", vec![d], 1.0),
            ("ffn_gate", vec![d, hidden], 0.3),
            ("ffn_up", vec![d, hidden], 0.3),
            ("ffn_down", vec![hidden, d], 0.3),
        ] {
            tensors.push((format!("blk.{layer}.{part}.weight"), shape, size));
        }
    }
    tensors.push(("output_norm.weight".into(), vec![d], 1.0));
    let mut header = Header(b"GGUF\x03\0\0\0".to_vec());
    header.0.extend((tensors.len() as u64).to_le_bytes());
    header.0.extend(15u64.to_le_bytes());
    header.string("general.architecture", "llama");
    for (key, value) in [
        ("block_count", 2),
        ("embedding_length", d as u32),
        ("feed_forward_length", hidden as u32),
        ("attention.head_count", 4),
        ("attention.head_count_kv", 2),
        ("context_length", 64),
    ] {
        header.entry(&format!("llama.{key}"), 4, &value.to_le_bytes());
    }
    header.entry("llama.attention.layer_norm_rms_epsilon", 6, &1e-5f32.to_le_bytes());
    header.string("tokenizer.ggml.model", "llama");
    header.array("tokenizer.ggml.tokens", 8, pieces.len(), &[]);
    pieces.iter().for_each(|(name, _)| header.text(name));
    let zeros = vec![0; 4 * pieces.len()];
    header.array("tokenizer.ggml.scores", 6, pieces.len(), &zeros);
    let kinds: Vec<u8> = pieces.iter().flat_map(|(_, kind)| kind.to_le_bytes()).collect();
    header.array("tokenizer.ggml.token_type", 5, pieces.len(), &kinds);
    header.entry("tokenizer.ggml.bos_token_id", 4, &1u32.to_le_bytes());
    header.entry("tokenizer.ggml.eos_token_id", 4, &2u32.to_le_bytes());
    header.string("tokenizer.chat_template", "{{ messages[0].content }}");
    let (mut data, mut rng) = (Vec::new(), SplitMix64::new(5));
    for (name, dims, size) in &tensors {
        header.text(name);
        header.0.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|dim: &u64| header.0.extend(dim.to_le_bytes()));
        header.0.extend(0u32.to_le_bytes());
        header.0.extend((data.len() as u64).to_le_bytes());
        for _ in 0..dims.iter().product::<u64>() {
            let unit = rng.below(1 << 20) as f32 / (1 << 19) as f32 - 1.0;
            data.extend((unit * size).to_le_bytes());
        }
        data.resize(data.len().next_multiple_of(32), 0);
    }
    header.0.resize(header.0.len().next_multiple_of(32), 0);
    [header.0, data].concat()
}

fn import(home: &Path, src: &str, hub: Option<SocketAddr>, extra: &[&str]) -> Output {
    let out = home.join("out.lockstep");
    let mut command = lockstep(home);
    for name in ["HF_TOKEN", "HF_ENDPOINT"] {
        command.env_remove(name);
    }
    if let Some(hub) = hub {
        command.env("HF_ENDPOINT", format!("http://{hub}"));
    }
    let args = ["import", src, "--out", out.to_str().expect("a path"), "--calibration-tokens", "50"];
    command.args(args).args(extra).output().expect("the binary runs")
}

#[test]
fn a_gguf_file_needs_nothing_beside_it() {
    let home = tempfile::tempdir().expect("a folder");
    let path = home.path().join(NAME);
    std::fs::write(&path, gguf()).expect("write");
    let imported = json(&import(home.path(), path.to_str().expect("a path"), None, &["--json"]));
    assert_eq!(imported.get("hub"), None);
    let out = home.path().join("out.lockstep");
    let out = out.to_str().expect("a path");
    let inspected = json(&run(home.path(), &["inspect", out, "--verify", "--json"]));
    assert_eq!(inspected["model_root"], imported["model_root"]);
    assert_eq!(inspected["config"]["name"], "tiny.F32");
    let answer = json(&run(home.path(), &["run", out, "--prompt", "a cat", "--max-tokens", "5", "--json"]));
    assert!(answer["text"].is_string(), "{answer}");
    // A file that lies about itself is refused by name and leaves nothing.
    std::fs::remove_file(out).expect("remove");
    std::fs::write(&path, &gguf()[..20_000]).expect("write");
    let refused = import(home.path(), path.to_str().expect("a path"), None, &[]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains(NAME), "{}", stderr(&refused));
    assert!(!Path::new(out).exists());
}

/// A hub with one file, on threads; returns its address and the paths that are asked for.
fn hub(content: Vec<u8>, sha256: String) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = Arc::clone(&asked);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = answer(stream, &content, &sha256, &log);
        }
    });
    (address, asked)
}

fn answer(
    mut stream: TcpStream,
    content: &[u8],
    sha256: &str,
    log: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
    let body = if path.contains("/revision/main") {
        format!("{{\"sha\":\"{COMMIT}\"}}").into_bytes()
    } else if path.contains("/tree/") {
        let file = serde_json::json!({"type": "file", "path": NAME, "size": 1, "oid": "",
            "lfs": {"oid": sha256, "size": content.len()}});
        serde_json::json!([file]).to_string().into_bytes()
    } else {
        content.to_vec()
    };
    log.lock().expect("no panics").push(path);
    write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len())?;
    stream.write_all(&body)
}

/// A hub whose repositories are folders, on threads; returns its address.
pub(crate) fn hub_of(repositories: Vec<(&'static str, PathBuf)>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let _ = answer_from(stream, &repositories);
        }
    });
    address
}

fn answer_from(mut stream: TcpStream, repositories: &[(&'static str, PathBuf)]) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let first = lines.next().transpose()?.unwrap_or_default();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let path = first.split(' ').nth(1).unwrap_or_default();
    let Some((_, folder)) = repositories.iter().find(|(name, _)| path.contains(&format!("/{name}/"))) else {
        return write!(stream, "HTTP/1.1 404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    };
    let body = if path.contains("/revision/main") {
        format!("{{\"sha\":\"{COMMIT}\"}}").into_bytes()
    } else if path.contains("/tree/") {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let content = std::fs::read(entry.path())?;
            let lfs = serde_json::json!({ "oid": Digest::of(&[&content]).hex(), "size": content.len() });
            let name = entry.file_name().to_string_lossy().into_owned();
            files.push(serde_json::json!({ "type": "file", "path": name, "size": 1, "oid": "", "lfs": lfs }));
        }
        serde_json::Value::from(files).to_string().into_bytes()
    } else {
        std::fs::read(folder.join(path.rsplit('/').next().unwrap_or_default()))?
    };
    write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len())?;
    stream.write_all(&body)
}

#[test]
fn a_model_of_the_hub_is_fetched_once_and_imported() {
    let home = tempfile::tempdir().expect("a folder");
    let content = gguf();
    let sha256 = Digest::of(&[&content]).hex();
    let (address, asked) = hub(content, sha256);
    let cache = home.path().join("cache");
    let cache = ["--cache", cache.to_str().expect("a path")];
    let src = format!("hf:owner/model:{NAME}");
    let first = json(&import(home.path(), &src, Some(address), &[&cache[..], &["--json"]].concat()));
    assert_eq!((&first["hub"]["model"], &first["hub"]["commit"]), (&"owner/model".into(), &COMMIT.into()));
    assert!(first["hub"]["downloaded"].as_u64().is_some_and(|bytes| bytes > 10_000), "{first}");
    let second = json(&import(home.path(), &src, Some(address), &[&cache[..], &["--json"]].concat()));
    assert_eq!((&second["hub"]["downloaded"], &second["model_root"]), (&0.into(), &first["model_root"]));
    let files = asked.lock().expect("no panics").iter().filter(|path| path.contains("/resolve/")).count();
    assert_eq!(files, 1);
    let text = stdout(&import(home.path(), &src, Some(address), &cache));
    assert!(text.contains(&format!("from owner/model at commit {COMMIT}")), "{text}");
}

#[test]
fn what_the_hub_cannot_give_is_an_error_with_a_name() {
    let home = tempfile::tempdir().expect("a folder");
    let (address, _) = hub(gguf(), "0".repeat(64));
    let cache = home.path().join("cache");
    let cache = ["--cache", cache.to_str().expect("a path")];
    for (src, expected) in [
        (format!("hf:owner/model:{NAME}"), "SHA-256"),
        ("hf:owner/model".into(), NAME),
        ("hf:owner/model:other.gguf".into(), "other.gguf"),
        ("hf:owner/../model".into(), "expected owner/name"),
        ("hf:".into(), "expected owner/name"),
    ] {
        let refused = import(home.path(), &src, Some(address), &cache);
        assert_eq!(refused.status.code(), Some(1), "{src}");
        assert!(stderr(&refused).contains(expected), "{src}: {}", stderr(&refused));
    }
    assert!(!home.path().join("out.lockstep").exists());
}
