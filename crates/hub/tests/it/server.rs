//! A hub on a thread: repositories in memory, every request logged, faults on demand.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lockstep_hub::{Fetched, Hub, HubError, Retry, Settings, Timeouts};
use sha1::Digest as _;

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What a client asked for.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// With query.
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What it gets.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Bytes of the body that are sent before the connection breaks.
    pub(crate) cut: Option<usize>,
    /// Instead of breaking, it falls silent for so long.
    pub(crate) silence: Option<Duration>,
    /// No `Content-Length`: the body ends with the connection.
    pub(crate) no_length: bool,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self { status, body: body.into(), ..Self::default() }
    }

    pub(crate) fn with(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.headers.push((name.into(), value.to_string()));
        self
    }

    pub(crate) fn cut(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }
}

type Handler = dyn Fn(&Request, usize) -> Reply + Send + Sync;

/// Answers until it is dropped.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    log: Arc<Mutex<Vec<Request>>>,
    sent: Arc<Mutex<u64>>,
}

impl Server {
    /// `handler` gets a request and how many came before it for the same path.
    pub(crate) fn start(handler: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let log: Arc<Mutex<Vec<Request>>> = Arc::default();
        let sent: Arc<Mutex<u64>> = Arc::default();
        let handler: Arc<Handler> = Arc::new(handler);
        let server = Self { address, log: Arc::clone(&log), sent: Arc::clone(&sent) };
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (handler, log, sent) = (Arc::clone(&handler), Arc::clone(&log), Arc::clone(&sent));
                std::thread::spawn(move || drop(answer(stream, &*handler, &log, &sent)));
            }
        });
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    /// Requests whose path contains this.
    pub(crate) fn requests_for(&self, part: &str) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.path.contains(part)).collect()
    }

    /// Bytes of bodies.
    pub(crate) fn sent(&self) -> u64 {
        *self.sent.lock().unwrap()
    }
}

fn answer(
    stream: TcpStream,
    handler: &Handler,
    log: &Mutex<Vec<Request>>,
    sent: &Mutex<u64>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let Some(path) = lines.first().and_then(|line| line.split(' ').nth(1)) else { return Ok(()) };
    let header = |line: &String| {
        line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
    };
    let request = Request { path: path.into(), headers: lines[1..].iter().filter_map(header).collect() };
    let before = {
        let mut log = log.lock().unwrap();
        log.push(request.clone());
        log.iter().filter(|other| other.path == request.path).count() - 1
    };
    let reply = handler(&request, before);
    let mut head = format!("HTTP/1.1 {} Status\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !reply.no_length && !reply.headers.iter().any(|(name, _)| name == "Content-Length") {
        head.push_str(&format!("Content-Length: {}\r\n", reply.body.len()));
    }
    head.push_str("\r\n");
    let mut stream = stream;
    stream.write_all(head.as_bytes())?;
    let body = &reply.body[..reply.cut.unwrap_or(reply.body.len()).min(reply.body.len())];
    for piece in body.chunks(4_096) {
        *sent.lock().unwrap() += piece.len() as u64;
        stream.write_all(piece)?;
    }
    stream.flush()?;
    if let Some(silence) = reply.silence {
        std::thread::sleep(silence);
    }
    stream.shutdown(Shutdown::Write)?;
    // What the client still says is read, so that closing does not destroy what it has not read.
    let _ = reader.read_to_end(&mut Vec::new());
    Ok(())
}

/// A repository: path, content, whether it is kept as a large file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Repo {
    pub(crate) files: Vec<(String, Vec<u8>, bool)>,
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    sha2::Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn git_blob(bytes: &[u8]) -> String {
    let state = sha1::Sha1::new().chain_update(format!("blob {}\0", bytes.len())).chain_update(bytes);
    state.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes that differ everywhere.
pub(crate) fn content(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(|_| next()).collect()
}

impl Repo {
    /// A model in two shards, with files that nobody needs.
    pub(crate) fn sharded() -> Self {
        let index = r#"{"metadata":{},"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors","c":"model-00001-of-00002.safetensors"}}"#;
        let mut repo = Self::default();
        repo.add("config.json", br#"{"architectures":["LlamaForCausalLM"]}"#.to_vec(), false)
            .add("README.md", b"words".to_vec(), false)
            .add("tokenizer.json", content(5_000, 1), true)
            .add("model.safetensors.index.json", index.into(), false)
            .add("model-00001-of-00002.safetensors", content(300_000, 2), true)
            .add("model-00002-of-00002.safetensors", content(70_001, 3), true)
            .add("model-00003-of-00002.safetensors", content(100, 4), true)
            .add("pytorch_model.bin", content(100, 5), true)
            .add("onnx/config.json", b"{}".to_vec(), false);
        repo
    }

    /// A model in one file.
    pub(crate) fn single() -> Self {
        let mut repo = Self::default();
        repo.add("config.json", b"{}".to_vec(), false).add("model.safetensors", content(200_000, 6), true);
        repo
    }

    pub(crate) fn add(&mut self, path: &str, content: Vec<u8>, large: bool) -> &mut Self {
        self.files.push((path.into(), content, large));
        self
    }

    pub(crate) fn file(&self, path: &str) -> Option<&(String, Vec<u8>, bool)> {
        self.files.iter().find(|(other, _, _)| other == path)
    }

    pub(crate) fn tree(&self) -> serde_json::Value {
        let entry = |(path, content, large): &(String, Vec<u8>, bool)| {
            let mut entry = serde_json::json!({"type": "file", "path": path, "size": content.len(),
                "oid": git_blob(content)});
            if *large {
                let (oid, size) = (sha256(content), content.len());
                entry["lfs"] = serde_json::json!({"oid": oid, "size": size, "pointerSize": 134});
            }
            entry
        };
        let folder = serde_json::json!({"type": "directory", "path": "onnx", "size": 0, "oid": ""});
        self.files.iter().map(entry).chain([folder]).collect()
    }

    /// What an honest hub answers. Large files are sent from here too.
    pub(crate) fn reply(&self, request: &Request) -> Reply {
        let path = request.path.as_str();
        if path == "/api/models/o/m/revision/main" {
            return Reply::new(200, serde_json::json!({"id": "o/m", "sha": COMMIT}).to_string());
        }
        if path == format!("/api/models/o/m/tree/{COMMIT}?recursive=1") {
            return Reply::new(200, self.tree().to_string());
        }
        let Some(path) = path.strip_prefix(&format!("/o/m/resolve/{COMMIT}/")) else {
            return Reply::new(404, "no such thing");
        };
        let Some((_, content, large)) = self.file(path) else { return Reply::new(404, "no such file") };
        let tag = format!("\"{}\"", if *large { sha256(content) } else { git_blob(content) });
        ranged(request, content, &tag)
    }
}

/// A file as a server with ranges sends it.
pub(crate) fn ranged(request: &Request, content: &[u8], etag: &str) -> Reply {
    let start = request.header("range").map(|range| {
        range.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse::<usize>().unwrap()
    });
    let same = request.header("if-range").is_none_or(|tag| tag == etag);
    match start {
        Some(start) if same && start >= content.len() => Reply::new(416, ""),
        Some(start) if same => {
            let range = format!("bytes {start}-{}/{}", content.len() - 1, content.len());
            Reply::new(206, &content[start..]).with("Content-Range", range).with("ETag", etag)
        }
        _ => Reply::new(200, content).with("ETag", etag),
    }
}

/// Settings of tests: short waits, three attempts.
pub(crate) fn settings(server: &Server, cache: &Path) -> Settings {
    Settings {
        endpoint: server.url(),
        retry: Retry {
            attempts: 3,
            first_wait: Duration::from_millis(1),
            longest_wait: Duration::from_millis(4),
        },
        timeouts: Timeouts { silence: Duration::from_millis(500), ..Timeouts::default() },
        ..Settings::new(cache)
    }
}

pub(crate) fn fetch(settings: Settings, model: &str) -> Result<Fetched, HubError> {
    Hub::new(settings)?.fetch(&model.parse()?, &mut |_| {})
}

/// All files below a folder, relative, sorted.
pub(crate) fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(next) = open.pop() {
        for entry in std::fs::read_dir(&next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}
