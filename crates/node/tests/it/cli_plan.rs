//! `lockstep plan`: all layers are placed, nothing is over the limit, and what is assumed is said.

use crate::cli::{json, run, stderr, stdout};

#[test]
fn a_plan_places_every_layer() {
    let home = tempfile::tempdir().unwrap();
    let flags = ["plan", "--shape", "gpt2-small", "--memory", "0.12", "--sessions", "1", "--context", "64"];
    let text = stdout(&run(home.path(), &flags));
    assert!(text.contains("one session") && text.contains("assumed:"), "{text}");
    let plan = json(&run(home.path(), &[&flags[..], &["--json"]].concat()));
    let machines = plan["machines"].as_array().expect("machines");
    assert!(machines.len() > 1, "{plan}");
    let mut next = 0;
    for machine in machines {
        assert_eq!(machine["first_layer"], next, "{plan}");
        next = machine["end_layer"].as_u64().unwrap();
        let bytes = machine["weight_bytes"].as_f64().unwrap() + machine["kv_bytes"].as_f64().unwrap();
        assert!(bytes <= 0.9 * 0.12 * f64::from(1 << 30), "{plan}");
    }
    assert_eq!(next, 12, "{plan}");
    // One token waits for every stage, every hop between machines and two messages with the token.
    let stages: f64 = machines.iter().map(|machine| machine["decode_seconds"].as_f64().unwrap()).sum();
    let hops = (machines.len() - 1) as f64 * plan["hop_seconds"].as_f64().unwrap() + 0.020;
    let single = plan["single_stream_tokens_per_second"].as_f64().unwrap();
    assert!((single * (stages + hops) - 1.0).abs() < 1e-9, "{plan}");
}

#[test]
fn what_does_not_fit_is_named() {
    let home = tempfile::tempdir().unwrap();
    let text = stderr(&run(home.path(), &["plan", "--shape", "gpt2-small", "--memory", "0.01"]));
    assert!(text.contains("takes") && text.contains("more --memory"), "{text}");
    let text = stderr(&run(home.path(), &["plan", "--shape", "gpt2-small", "--context", "1025"]));
    assert!(text.contains("--context 1025, expected 1 to 1024"), "{text}");
    let text = stderr(&run(home.path(), &["plan", "--shape", "gpt2-small", "--latency=-1"]));
    assert!(text.contains("--latency -1, expected 0 to 100000"), "{text}");
}
