//! The built binary: exit status, standard output, standard error.

use crate::http;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

/// The binary with an environment of its own: no settings of whoever runs the tests.
pub(crate) fn lockstep(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockstep"));
    for name in ["LOCKSTEP_BUNDLE", "LOCKSTEP_THREADS", "LOCKSTEP_KERNEL", "LOCKSTEP_LISTEN"] {
        command.env_remove(name);
    }
    command.env("LOCKSTEP_HOME", home).stdin(Stdio::null());
    command
}

pub(crate) fn run(home: &Path, args: &[&str]) -> Output {
    lockstep(home).args(args).output().expect("the binary runs")
}

pub(crate) fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The last line as JSON.
pub(crate) fn json(output: &Output) -> Value {
    let text = stdout(output);
    serde_json::from_str(text.lines().last().expect("a line")).expect("JSON")
}

fn home() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[test]
fn help_teaches_and_wrong_usage_has_its_own_status() {
    let home = home();
    let commands = "run serve node gateway ask demo verify prove verify-proof import inspect eval bench";
    for command in commands.split(' ') {
        let help = stdout(&run(home.path(), &[command, "--help"]));
        assert!(help.contains("Usage: lockstep"), "{command}: {help}");
    }
    let help = stdout(&run(home.path(), &["--help"]));
    assert!(help.contains("Exit status") && help.contains("Examples"), "{help}");
    for args in
        [&["no-such-command"][..], &["run", "--no-such-flag"], &["import"], &["bench", "--shape", "cube"]]
    {
        assert_eq!(run(home.path(), args).status.code(), Some(64), "{args:?}");
    }
}

#[test]
fn the_embedded_model_runs_and_standard_output_is_the_text_only() {
    let home = home();
    let args = ["run", "--prompt", "Once upon a time", "--max-tokens", "24", "--seed", "3"];
    let plain = run(home.path(), &args);
    let told = run(home.path(), &[&args[..], &["--json"]].concat());
    let value = json(&told);
    assert_eq!(stdout(&plain), format!("{}\n", value["text"].as_str().expect("text")));
    let says = stderr(&plain);
    assert!(
        says.contains(&format!("kernel {}", value["kernel"].as_str().expect("kernel")))
            && says.contains("seed 3"),
        "{says}"
    );
    assert!(value["text"].as_str().is_some_and(|text| text.len() > 20), "{value}");
    assert_eq!((&value["completion_tokens"], &value["finish_reason"]), (&24.into(), &"length".into()));
}

/// The same prompt and seed give the same bytes with every kernel of this machine and 1 or 2
/// threads, and the run says which kernel it used.
#[test]
fn kernels_and_threads_do_not_show() {
    let home = home();
    let text = |kernel: &str, threads: &str| {
        let args = [
            "run",
            "--prompt",
            "One day",
            "--max-tokens",
            "30",
            "--seed",
            "9",
            "--json",
            "--kernel",
            kernel,
            "--threads",
            threads,
        ];
        let value = json(&run(home.path(), &args));
        assert_eq!(
            (&value["kernel"], &value["threads"]),
            (&kernel.into(), &threads.parse::<u64>().expect("number").into())
        );
        value["text"].clone()
    };
    let expected = text("scalar", "1");
    for kernel in lockstep_runtime::kernels::Kernel::available() {
        for threads in ["1", "2"] {
            assert_eq!(text(kernel.name(), threads), expected, "{kernel}, {threads} threads");
        }
    }
}

#[test]
fn a_kernel_that_is_unknown_or_lacking_is_an_error() {
    let home = home();
    let refused = run(home.path(), &["run", "--prompt", "x", "--kernel", "gpu"]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        stderr(&refused).contains("\"gpu\"") && stderr(&refused).contains("expected scalar, neon, avx2"),
        "{}",
        stderr(&refused)
    );
    let available: Vec<&str> =
        lockstep_runtime::kernels::Kernel::available().iter().map(|kernel| kernel.name()).collect();
    for lacking in ["neon", "avx2", "avx512"].into_iter().filter(|name| !available.contains(name)) {
        let refused = run(home.path(), &["run", "--prompt", "x", "--kernel", lacking]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(stderr(&refused).contains("not available"), "{}", stderr(&refused));
    }
}

#[test]
fn a_prompt_may_come_from_standard_input() {
    let home = home();
    let args = ["--max-tokens", "8", "--temperature", "0"];
    let direct = stdout(&run(home.path(), &[&["run", "--prompt", "Once upon a time"], &args[..]].concat()));
    let mut child = lockstep(home.path())
        .arg("run")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary runs");
    child.stdin.take().expect("stdin").write_all(b"Once upon a time\n").expect("write");
    let piped = child.wait_with_output().expect("it ends");
    assert_eq!(stdout(&piped), direct);
}

#[test]
fn numbers_out_of_range_are_refused_with_what_was_expected() {
    let home = home();
    let cases = [
        (&["--temperature", "17"][..], "expected 0 to 16"),
        (&["--temperature", "nan"], "expected 0 to 16"),
        (&["--top-p", "1.5"], "expected 0 to 1"),
        (&["--max-tokens", "0"], "at least 1"),
        (&["--threads", "0"], "expected 1 to 1024"),
    ];
    for (flags, expected) in cases {
        let refused = run(home.path(), &[&["run", "--prompt", "x"], flags].concat());
        assert_eq!(refused.status.code(), Some(1), "{flags:?}");
        assert!(stderr(&refused).contains(expected), "{flags:?}: {}", stderr(&refused));
    }
    let long = "word ".repeat(2000);
    let refused = run(home.path(), &["run", "--prompt", &long]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(stderr(&refused).contains("the context is"), "{}", stderr(&refused));
}

#[test]
fn files_that_are_no_bundles_are_refused_by_name() {
    let home = home();
    let path = home.path().join("foreign.lockstep");
    std::fs::write(&path, b"this is no bundle, and long enough for a header of sixty-four bytes, surely")
        .expect("write");
    for command in ["inspect", "run"] {
        let refused = run(home.path(), &[command, path.to_str().expect("path")]);
        assert_eq!(refused.status.code(), Some(1));
        assert!(
            stderr(&refused).contains("foreign.lockstep") && stderr(&refused).contains("expected"),
            "{}",
            stderr(&refused)
        );
    }
    let absent = run(home.path(), &["inspect", "/no/such/file.lockstep"]);
    assert!(stderr(&absent).contains("/no/such/file.lockstep"), "{}", stderr(&absent));
}

/// File, then environment, then flag; each value says where it came from.
#[test]
fn settings_know_their_origin() {
    let home = home();
    let show = |environment: &[(&str, &str)], args: &[&str]| {
        let mut command = lockstep(home.path());
        command.args(["config", "show", "--json"]).args(args).envs(environment.iter().copied());
        command.output().expect("the binary runs")
    };
    assert_eq!(json(&show(&[], &[]))["kernel"], serde_json::json!({ "value": "auto", "origin": "default" }));
    let file = home.path().join("config.toml");
    std::fs::write(&file, "threads = 3\nkernel = \"scalar\"\n").expect("write");
    let value = json(&show(&[("LOCKSTEP_KERNEL", "avx2")], &["--threads", "5"]));
    assert_eq!(value["threads"], serde_json::json!({ "value": "5", "origin": "flag" }));
    assert_eq!(
        value["kernel"],
        serde_json::json!({ "value": "avx2", "origin": "environment LOCKSTEP_KERNEL" })
    );
    let value = json(&show(&[], &[]));
    assert_eq!(
        value["threads"],
        serde_json::json!({ "value": "3", "origin": format!("file {}", file.display()) })
    );
    // What is shown is what counts.
    let used = json(&run(home.path(), &["run", "--prompt", "x", "--max-tokens", "1", "--json"]));
    assert_eq!((&used["threads"], &used["kernel"]), (&3.into(), &"scalar".into()));
    for (text, expected) in [
        ("thread = 3", "unknown key \"thread\""),
        ("threads = [1]", "expected a string or an integer"),
        ("threads = ", "config.toml"),
    ] {
        std::fs::write(&file, text).expect("write");
        let refused = show(&[], &[]);
        assert_eq!(refused.status.code(), Some(1), "{text}");
        assert!(stderr(&refused).contains(expected), "{text}: {}", stderr(&refused));
    }
}

#[test]
fn bench_ends_with_its_figures() {
    let home = home();
    let args = [
        "bench",
        "--prompt",
        "40",
        "--generate",
        "4",
        "--runs",
        "1",
        "--trace",
        "full",
        "--stages",
        "2",
        "--weights",
        "int4",
        "--json",
    ];
    let value = json(&run(home.path(), &args));
    for key in ["prefill_tokens_per_second", "decode_tokens_per_second"] {
        assert!(value[key].as_f64().is_some_and(|speed| speed > 0.0), "{key} of {value}");
        assert!(value["trace"][key].as_f64().is_some_and(|speed| speed > 0.0), "{key} of {value}");
    }
    // 44 positions are one whole span, signed by each of two stages.
    assert_eq!(value["trace"]["receipts"], 2);
    let refused = run(home.path(), &["bench", "--prompt", "100000"]);
    assert!(stderr(&refused).contains("expected at most the context"), "{}", stderr(&refused));
}

/// Whoever closes the pipe has seen enough: no panic, no error.
#[test]
fn a_closed_pipe_is_not_an_error() {
    let home = home();
    for args in [&["inspect"][..], &["run", "--prompt", "Once", "--max-tokens", "200"]] {
        let mut command = lockstep(home.path());
        let mut child = command
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("it ends");
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
    }
}

/// A running `lockstep serve`, killed with the value.
pub(crate) struct Serving {
    child: Child,
    pub(crate) url: String,
}

impl Serving {
    pub(crate) fn start(home: &Path) -> Serving {
        Serving::with(home, &[])
    }

    pub(crate) fn with(home: &Path, args: &[&str]) -> Serving {
        let serve = ["serve", "--listen", "127.0.0.1:0", "--threads", "1"];
        Serving::command(home, &[&serve[..], args].concat())
    }

    /// Any command that prints the base URL first.
    pub(crate) fn command(home: &Path, args: &[&str]) -> Serving {
        let mut child = lockstep(home)
            .args(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary runs");
        let mut url = String::new();
        BufReader::new(child.stdout.take().expect("stdout")).read_line(&mut url).expect("the base URL");
        Serving { child, url: url.trim().to_owned() }
    }

    pub(crate) fn address(&self) -> std::net::SocketAddr {
        let rest = self.url.strip_prefix("http://").and_then(|rest| rest.strip_suffix("/v1"));
        rest.and_then(|address| address.parse().ok())
            .unwrap_or_else(|| panic!("not a base URL: {:?}", self.url))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn serve_answers_and_a_port_in_use_is_a_clear_error() {
    let home = home();
    let serving = Serving::start(home.path());
    let address = serving.address();
    assert_eq!(http::get(address, "/v1/models").json()["data"][0]["id"], "default");
    let second = run(home.path(), &["serve", "--listen", &address.to_string()]);
    assert_eq!(second.status.code(), Some(1));
    let says = stderr(&second);
    assert!(
        says.contains(&address.to_string()) && says.contains("in use") && says.contains("--listen"),
        "{says}"
    );
}

/// Ctrl-C and SIGTERM end the service cleanly, even while an answer is running.
#[cfg(unix)]
#[test]
fn signals_end_the_service() {
    for signal in ["-INT", "-TERM"] {
        let home = home();
        let mut serving = Serving::start(home.path());
        assert_eq!(http::get(serving.address(), "/healthz").status, 200);
        let killed =
            Command::new("kill").args([signal, &serving.child.id().to_string()]).status().expect("kill runs");
        assert!(killed.success());
        assert_eq!(serving.child.wait().expect("it ends").code(), Some(0), "{signal}");
    }
}
