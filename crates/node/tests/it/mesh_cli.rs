//! The built binary as a node, a verifier and a demonstration, given what it should not be given:
//! one line that says got and expected, the right exit status, no process left behind.

use crate::cli::{lockstep, run, stderr};
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longer than anything here takes; what does hangs.
const PATIENCE: Duration = Duration::from_secs(60);

fn home() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Runs `args`, which must fail with `status`; what it says.
fn refused(home: &Path, status: i32, args: &[&str]) -> String {
    let output = run(home, args);
    let says = stderr(&output);
    assert_eq!(output.status.code(), Some(status), "{args:?}: {says}");
    assert!(!says.contains("panicked"), "{args:?}: {says}");
    assert!(!says.chars().any(|c| c.is_control() && c != '\n'), "{args:?}: {says:?}");
    says
}

#[test]
fn a_node_refuses_what_is_no_bundle() {
    let home = home();
    let path = home.path().join("given.lockstep");
    for (content, expected) in [(&b""[..], "0 bytes"), (b"hello", "5 bytes"), (&[b'x'; 4096], "expected")] {
        std::fs::write(&path, content).expect("write");
        let says = refused(home.path(), 1, &["node", text(&path)]);
        assert!(says.contains("given.lockstep") && says.contains(expected), "{says}");
    }
    let says = refused(home.path(), 1, &["node", text(home.path())]);
    assert!(says.contains(text(home.path())), "{says}");
    let says = refused(home.path(), 1, &["node", "/no/such/bundle"]);
    assert!(says.contains("/no/such/bundle"), "{says}");
}

#[test]
fn a_node_refuses_layers_and_addresses_that_are_not_there() {
    let home = home();
    let says = refused(home.path(), 1, &["node", "--layers", "0..4096"]);
    assert!(says.contains("layers 0..4096, expected at most 0.."), "{says}");
    for layers in ["3..3", "4..1", "x", "0..99999999999"] {
        let says = refused(home.path(), 64, &["node", "--layers", layers]);
        assert!(says.contains("expected FIRST..END"), "{says}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = format!("/ip4/127.0.0.1/tcp/{}", taken.local_addr().expect("its address").port());
    let says = refused(home.path(), 1, &["node", "--listen", &address]);
    assert!(says.contains(&address) && says.contains("in use"), "{says}");
    let says = refused(home.path(), 1, &["node", "--listen", "/ip4/203.0.113.1/tcp/4001"]);
    assert!(says.contains("/ip4/203.0.113.1/tcp/4001"), "{says}");
    refused(home.path(), 64, &["node", "--listen", "127.0.0.1:4001"]);
}

#[test]
fn key_files_that_are_none_are_refused_by_name() {
    let home = home();
    let key = home.path().join("node.key");
    std::fs::write(&key, "secret").expect("write");
    let says = refused(home.path(), 1, &["node", "--key", text(&key)]);
    assert!(says.contains("node.key") && says.contains("got 6 bytes") && says.contains("64 hex"), "{says}");
    let says = refused(home.path(), 1, &["node", "--key", text(home.path())]);
    assert!(says.contains(text(home.path())), "{says}");
    let says = refused(home.path(), 1, &["node", "--key", "/dev/zero"]);
    assert!(says.contains("/dev/zero"), "{says}");
    let says = refused(home.path(), 1, &["node", "--key", "/dev/null/node.key"]);
    assert!(says.contains("/dev/null"), "{says}");
    let says = refused(home.path(), 1, &["node", "--key", "/proc/no/such.key"]);
    assert!(says.contains("/proc/no"), "{says}");
}

#[test]
fn verify_refuses_what_is_no_receipt_file() {
    let home = home();
    let path = home.path().join("given.receipts");
    for (content, expected) in [
        (&b""[..], "not a receipt file"),
        (b"Dear sir", "not a receipt file"),
        (b"LSRCPT\x01\n", "not a valid receipt file"),
        (b"LSRCPT\x01\n\x9b\xff\xff\xff\xff\xff\xff\xff\xff\x00", "not a valid receipt file"),
        (b"LSRCPT\x01\n\x89\x01\x5b\x7f\xff\xff\xff\xff\xff\xff\xff", "not a valid receipt file"),
    ] {
        std::fs::write(&path, content).expect("write");
        let says = refused(home.path(), 1, &["verify", text(&path)]);
        assert!(says.contains("given.receipts") && says.contains(expected), "{content:?}: {says}");
    }
    for absent in ["/no/such.receipts", text(home.path())] {
        let says = refused(home.path(), 1, &["verify", absent]);
        assert!(says.contains(absent), "{says}");
    }
}

/// A running `lockstep node`, killed with the value.
pub(crate) struct NodeProcess {
    child: Child,
    pub(crate) address: String,
}

impl NodeProcess {
    pub(crate) fn start(home: &Path, args: &[&str]) -> NodeProcess {
        let mut child = lockstep(home)
            .args(["node", "--json", "--threads", "1"])
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut line).expect("a line");
        let told: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        NodeProcess { child, address: told["address"].as_str().expect("an address").into() }
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A receipt file that was cut, changed in any byte, or belongs to another bundle is an error; one
/// that was not is verified.
#[test]
fn verify_refuses_changed_files() {
    let home = home();
    let node = NodeProcess::start(home.path(), &[]);
    let path = home.path().join("answer.receipts");
    let ask = ["ask", "--node", &node.address, "--prompt", "Once", "--max-tokens", "6", "--receipts"];
    assert!(run(home.path(), &[&ask[..], &[text(&path), "--leaves"]].concat()).status.success());
    assert!(run(home.path(), &["verify", text(&path)]).status.success());
    let whole = std::fs::read(&path).expect("read");
    let changed = home.path().join("changed.receipts");
    for length in [9, 40, whole.len() / 2, whole.len() - 1] {
        std::fs::write(&changed, &whole[..length]).expect("write");
        let says = refused(home.path(), 1, &["verify", text(&changed)]);
        assert!(says.contains("not a valid receipt file"), "{length}: {says}");
    }
    std::fs::write(&changed, [&whole[..], b"more"].concat()).expect("write");
    refused(home.path(), 1, &["verify", text(&changed)]);
    for at in [12, 60, 100, 140] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&changed, bytes).expect("write");
        refused(home.path(), 1, &["verify", text(&changed)]);
    }
}

fn wait(child: &mut Child) -> Option<i32> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("wait") {
            return status.code();
        }
        assert!(began.elapsed() < PATIENCE, "it does not end");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Processes whose parent is `parent`, as Linux tells.
#[cfg(target_os = "linux")]
fn children(parent: u32) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").expect("proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent_of = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
        parent_of == Some(&parent.to_string())
    })
    .collect()
}

#[cfg(target_os = "linux")]
fn signal(name: &str, pid: u32) {
    assert!(Command::new("kill").args([name, &pid.to_string()]).status().expect("kill runs").success());
}

/// However a demonstration ends, its nodes end with it and its folder goes: killed nodes, Ctrl-C,
/// the signal of a service manager; and where it is killed itself.
#[cfg(target_os = "linux")]
#[test]
fn a_demonstration_leaves_nothing_behind() {
    for (name, to_node, status) in [
        ("-KILL", true, Some(1)),
        ("-INT", false, Some(130)),
        ("-TERM", false, Some(130)),
        ("-KILL", false, None),
    ] {
        let (home, temporary) = (home(), home());
        let mut demo = lockstep(home.path())
            .args(["demo", "--json", "--max-tokens", "96"])
            .env("TMPDIR", temporary.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let began = Instant::now();
        let mut nodes = Vec::new();
        while nodes.len() < 3 {
            nodes = children(demo.id());
            assert!(began.elapsed() < PATIENCE, "{name}: the nodes did not start");
            std::thread::sleep(Duration::from_millis(20));
        }
        signal(name, if to_node { nodes[1] } else { demo.id() });
        assert_eq!(wait(&mut demo), status, "{name}, to a node: {to_node}");
        let began = Instant::now();
        while nodes.iter().any(|pid| alive(*pid)) {
            assert!(began.elapsed() < PATIENCE, "{name}: nodes were left behind");
            std::thread::sleep(Duration::from_millis(20));
        }
        if status.is_some() {
            assert_eq!(std::fs::read_dir(temporary.path()).expect("folder").count(), 0, "{name}");
        }
    }
}

/// Whether a process runs (a zombie that nobody has waited for does not).
#[cfg(target_os = "linux")]
fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    command.contains("lockstep") && !stat.rsplit(')').next().is_some_and(|rest| rest.trim().starts_with('Z'))
}

#[test]
fn a_demonstration_says_where_it_cannot_write() {
    let home = home();
    let output = lockstep(home.path())
        .args(["demo", "--max-tokens", "1"])
        .env("TMPDIR", "/no/such/folder")
        .output()
        .expect("the binary runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("/no/such/folder"), "{}", stderr(&output));
}
