//! The built binary in a swarm of processes: nodes that know one address, questions without a list of nodes, `kill -9` of the first
//! node, and what `lockstep net` says of it.

use crate::cli::{json, run, stderr, stdout};
use crate::mesh_cli::NodeProcess;
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(90);

fn layers(home: &Path) -> u64 {
    json(&run(home, &["inspect", "--json"]))["config"]["n_layers"].as_u64().expect("layers")
}

/// Asks over the swarm at `join` until nodes that are gone are no longer announced; the text of the answer.
fn ask(home: &Path, join: &str, more: &[&str]) -> String {
    let args = ["ask", "--join", join, "--prompt", "Once", "--max-tokens", "8", "--seed", "7"];
    stdout(&run(home, &[&args[..], more].concat()))
}

fn map(home: &Path, join: &str) -> Value {
    json(&run(home, &["net", "map", "--join", join, "--json"]))
}

/// The sentence: `lockstep node --join ADDR` is all that it takes; and a swarm goes on when the node that everybody joined at is
/// killed.
#[test]
fn processes_find_each_other_and_outlive_the_first() {
    let home = tempfile::tempdir().expect("a folder");
    let home = home.path();
    let (end, middle) = (layers(home), layers(home) / 2);
    let (first, second) = (format!("0..{middle}"), format!("{middle}..{end}"));
    let a = NodeProcess::start(home, &["--layers", &first]);
    let b = NodeProcess::start(home, &["--layers", &second, "--join", &a.address]);
    let expected = ask(home, &a.address, &[]);
    assert_eq!(
        expected,
        stdout(&run(
            home,
            &[
                "ask",
                "--node",
                &a.address,
                "--node",
                &b.address,
                "--prompt",
                "Once",
                "--max-tokens",
                "8",
                "--seed",
                "7"
            ]
        ))
    );
    assert_eq!(ask(home, &b.address, &[]), expected);
    let c = NodeProcess::start(home, &["--layers", &first, "--join", &a.address]);
    let began = Instant::now();
    loop {
        let found = map(home, &c.address);
        let model = &found["models"][0];
        let online = |node: &Value| node["state"] == "online";
        let nodes = model["nodes"].as_array().expect("nodes");
        if nodes.len() == 3 && nodes.iter().all(online) && model["missing"] == Value::Array(Vec::new()) {
            break;
        }
        assert!(began.elapsed() < PATIENCE, "three nodes are announced: {found}");
    }
    let text = stdout(&run(home, &["net", "status", "--join", &c.address]));
    assert!(text.contains("complete, 1 on the rarest layer"), "{text}");
    drop(a);
    let receipts = home.join("answer.receipts");
    let answer = ask(home, &c.address, &["--receipts", receipts.to_str().expect("UTF-8")]);
    assert_eq!(answer, expected);
    assert!(run(home, &["verify", receipts.to_str().expect("UTF-8")]).status.success());
    // Peers of before lead back without any address.
    assert_eq!(ask(home, "known", &[]), expected);
}

/// A doctor tells clock, distance and throughput, and that this machine can be reached on this machine.
#[test]
fn a_doctor_examines_the_machine() {
    let home = tempfile::tempdir().expect("a folder");
    let node = NodeProcess::start(home.path(), &[]);
    let args = ["net", "doctor", "--join", &node.address, "--listen", "/ip4/127.0.0.1/tcp/0", "--json"];
    let report = json(&run(home.path(), &args));
    assert_eq!(report["reachable"], "yes", "{report}");
    assert!(report["clock_ahead_ms"].as_i64().is_some_and(|ahead| ahead.abs() < 2_000), "{report}");
    assert!(report["peers"][0]["bytes_per_second"].as_u64().is_some_and(|rate| rate > 0), "{report}");
    assert!(report["peers"][0]["rtt_us"].as_u64().is_some(), "{report}");
}

/// What is no address, and a swarm that nobody answers for, is said in one line.
#[test]
fn joining_says_what_is_wrong() {
    let home = tempfile::tempdir().expect("a folder");
    for bad in ["nonsense", "/ip4/1.2.3.4", "host:0"] {
        let output = run(home.path(), &["ask", "--join", bad, "--prompt", "x"]);
        assert_eq!(output.status.code(), Some(64), "{bad}");
        assert!(stderr(&output).contains("no address to join at, expected"), "{}", stderr(&output));
    }
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("its address");
    let output = run(home.path(), &["ask", "--join", &free.to_string(), "--prompt", "x"]);
    let says = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{says}");
    assert!(says.contains("cannot join") && says.contains("none of 0 peers known"), "{says}");
    let output = run(home.path(), &["ask", "--prompt", "x"]);
    assert_eq!(output.status.code(), Some(64), "neither --node nor --join");
    let output = run(home.path(), &["ask", "--node", "x", "--join", "known", "--prompt", "x"]);
    assert_eq!(output.status.code(), Some(64), "--node and --join");
}
