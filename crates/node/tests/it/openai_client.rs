//! The real `openai` Python client against the built binary.
//!
//! `LOCKSTEP_PEERS` says what may be used: `off` nothing; `use` (default) what is installed, in the
//! system's Python or in `target/peers`; `install` makes `target/peers` with pip first.

use crate::cli::Serving;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The version that is installed on request.
const OPENAI: &str = "openai==3.51.0";

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/openai_client.py")
}

/// `target/peers`, beside the profile folder that the binary lies in.
fn peers() -> PathBuf {
    let target =
        Path::new(env!("CARGO_BIN_EXE_lockstep")).ancestors().nth(2).expect("target/profile/lockstep");
    target.join("peers")
}

fn imports(python: &Path) -> bool {
    Command::new(python).args(["-c", "import openai"]).output().is_ok_and(|output| output.status.success())
}

fn succeed(command: &mut Command) {
    let output = command.output().expect("the command runs");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A Python that has the client, or why there is none.
fn python() -> Result<PathBuf, String> {
    let mode = std::env::var("LOCKSTEP_PEERS").unwrap_or_else(|_| "use".into());
    let venv = peers();
    let inside = venv.join("bin/python");
    match mode.as_str() {
        "off" => return Err("LOCKSTEP_PEERS=off".into()),
        "use" => {}
        "install" if !imports(&inside) => {
            succeed(Command::new("python3").args(["-m", "venv"]).arg(&venv));
            succeed(Command::new(&inside).args(["-m", "pip", "install", "--quiet", OPENAI]));
        }
        "install" => {}
        other => panic!("LOCKSTEP_PEERS={other:?}, expected off, use or install"),
    }
    let found = [inside, PathBuf::from("python3")].into_iter().find(|python| imports(python));
    found.ok_or_else(|| "no Python with the openai client; LOCKSTEP_PEERS=install makes one".into())
}

#[test]
fn the_openai_python_client_is_content() {
    let python = match python() {
        Ok(python) => python,
        Err(why) => {
            eprintln!("SKIP the_openai_python_client_is_content: {why}");
            return;
        }
    };
    let home = tempfile::tempdir().expect("a folder");
    let serving = Serving::start(home.path());
    let output = Command::new(python).arg(script()).arg(&serving.url).output().expect("python runs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.trim_end().ends_with("all checks passed"), "{text}");
}
