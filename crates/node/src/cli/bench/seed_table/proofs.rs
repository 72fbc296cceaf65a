//! What a proof of a small network's run costs, and what EZKL takes for the same network.

use super::super::rival::PYTHON_VARIABLE;
use super::super::{Spent, Stopwatch, median};
use lockstep_base::net::Net;
use lockstep_proof::net::{prove, verify};
use lockstep_runtime::kernels::Compute;
use serde_json::{Value, json};
use std::error::Error;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// benches/rivals/prove_ezkl.py.
const SCRIPT: &str = include_str!("../../../../../../benches/rivals/prove_ezkl.py");

/// A proof of one run, checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Proved {
    pub(super) inputs: usize,
    /// Seconds, the median: of running the network and proving it, and of verifying.
    pub(super) prove: f64,
    pub(super) prove_cpu: f64,
    pub(super) verify: f64,
    pub(super) bytes: usize,
}

impl Proved {
    /// Proves what `net` gives for `inputs` inputs, `runs` times.
    pub(super) fn measure(
        net: &Net,
        compute: &Compute,
        input: &[i32],
        inputs: usize,
        runs: usize,
    ) -> Result<Proved, Box<dyn Error>> {
        let (mut proving, mut verifying, mut bytes) = (Spent::default(), Spent::default(), 0);
        for _ in 0..runs {
            let watch = Stopwatch::start();
            let (output, proof) = prove(compute, net, input)?;
            watch.stop(&mut proving);
            let watch = Stopwatch::start();
            verify(net, input, &output, &proof)?;
            watch.stop(&mut verifying);
            bytes = proof.as_bytes().len();
        }
        let (prove, prove_cpu) = (median(&proving.wall), median(&proving.cpu));
        Ok(Proved { inputs, prove, prove_cpu, verify: median(&verifying.wall), bytes })
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "inputs": self.inputs,
            "prove_seconds": self.prove,
            "prove_cpu_seconds": self.prove_cpu,
            "verify_seconds": self.verify,
            "proof_bytes": self.bytes,
        })
    }
}

/// EZKL's proof of the same network on the same input, and ours.
#[derive(Debug)]
pub(super) struct Beside {
    pub(super) ours: Proved,
    pub(super) ezkl: Value,
}

impl Beside {
    /// EZKL's CPU seconds over ours.
    pub(super) fn ratio(&self) -> f64 {
        self.ezkl["prove_cpu_seconds"].as_f64().unwrap_or(f64::NAN) / self.ours.prove_cpu
    }

    pub(super) fn json(&self) -> Value {
        json!({ "lockstep": self.ours.json(), "ezkl": self.ezkl, "prove_cpu_ratio": self.ratio() })
    }
}

/// A Python with EZKL.
#[derive(Debug)]
pub(super) struct Ezkl {
    python: PathBuf,
}

impl Ezkl {
    /// The interpreter that a flag or the environment names.
    pub(super) fn find(python: Option<PathBuf>) -> Result<Ezkl, Box<dyn Error>> {
        let python = python.or_else(|| std::env::var_os(PYTHON_VARIABLE).map(PathBuf::from));
        let python = python.ok_or_else(|| {
            format!(
                "--vs ezkl needs a Python with ezkl: name it with --rival-python PATH or {PYTHON_VARIABLE}"
            )
        })?;
        let ezkl = Ezkl { python };
        ezkl.run(&["-c", "import ezkl; print('{}')"])?;
        Ok(ezkl)
    }

    /// One proof of `model` (ONNX) on `input`, one input.
    pub(super) fn prove(&self, model: &[u8], input: &[f64]) -> Result<Value, Box<dyn Error>> {
        let folder = tempfile::Builder::new().prefix("lockstep-rival-").tempdir()?;
        let [script, onnx, numbers] =
            ["prove_ezkl.py", "model.onnx", "input.json"].map(|name| folder.path().join(name));
        std::fs::write(&script, SCRIPT)?;
        std::fs::write(&onnx, model)?;
        std::fs::write(&numbers, serde_json::to_string(input)?)?;
        let [script, onnx, numbers] = [&script, &onnx, &numbers].map(|path| path.to_string_lossy());
        self.run(&[&script, "--model", &onnx, "--input", &numbers, "--inputs", "1"])
    }

    /// The JSON of the last line.
    fn run(&self, args: &[&str]) -> Result<Value, Box<dyn Error>> {
        let done = Command::new(&self.python).args(args).stdin(Stdio::null()).output();
        let named = |text: &str| format!("--rival-python {}: {text}", self.python.display());
        let done = done.map_err(|error| named(&error.to_string()))?;
        let answer = String::from_utf8_lossy(&done.stdout);
        let parsed = answer.trim().lines().last().and_then(|line| serde_json::from_str(line).ok());
        parsed.filter(|_| done.status.success()).ok_or_else(|| {
            let text = String::from_utf8_lossy(&done.stderr);
            named(text.trim().lines().last().unwrap_or("it failed without a word")).into()
        })
    }
}
