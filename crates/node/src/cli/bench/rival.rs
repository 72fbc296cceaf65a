//! llama.cpp on the same shapes, in turn with us, so that whatever else the machine does falls on both.
//!
//! The rival is a Python that has llama-cpp-python (benches/rivals/README.md says how to get it); the script
//! that drives it is in this binary. It makes a GGUF file of the shape with random weights once, then every
//! round loads it, warms up and measures. llama.cpp's threads wait for each other in a loop; on a machine that
//! is never quite idle they do better asleep; and its flash attention helps prefill and hurts decode. So each
//! round runs it under several settings, and the best median of each figure counts.

use super::median;
use serde_json::{Value, json};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// benches/rivals/llama_cpp.py.
const SCRIPT: &str = include_str!("../../../../../benches/rivals/llama_cpp.py");
/// Where the interpreter is named when the flag is not given.
pub(super) const PYTHON_VARIABLE: &str = "LOCKSTEP_RIVAL_PYTHON";
/// A way to run llama.cpp.
struct Setting {
    name: &'static str,
    /// OMP_WAIT_POLICY: OpenMP's own where there is none.
    wait: Option<&'static str>,
    /// `--flash` of the script.
    flash: &'static str,
}

/// Those that are tried.
const SETTINGS: [Setting; 3] = [
    Setting { name: "flash", wait: None, flash: "on" },
    Setting { name: "no_flash", wait: None, flash: "off" },
    Setting { name: "no_flash_passive_wait", wait: Some("passive"), flash: "off" },
];
/// What is compared.
pub(super) const FIGURES: [&str; 2] = ["prefill_tokens_per_second", "decode_tokens_per_second"];

/// `--vs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Rival {
    /// llama.cpp through llama-cpp-python.
    #[value(name = "llama.cpp")]
    LlamaCpp,
}

/// What the rival is to run.
pub(super) struct Run<'a> {
    pub(super) shape: &'a str,
    pub(super) weights: &'a str,
    pub(super) threads: usize,
    pub(super) prompt: usize,
    pub(super) generate: usize,
}

/// A rival that was found.
pub(super) struct LlamaCpp {
    python: PathBuf,
    script: tempfile::TempDir,
    cache: Option<PathBuf>,
    /// For each setting, for each figure, the rounds.
    figures: [[Vec<f64>; 2]; SETTINGS.len()],
    last: Value,
}

impl LlamaCpp {
    /// Looks for the packages that the script needs.
    pub(super) fn find(python: Option<PathBuf>, cache: Option<PathBuf>) -> Result<LlamaCpp, Box<dyn Error>> {
        let python = python.or_else(|| std::env::var_os(PYTHON_VARIABLE).map(PathBuf::from)).ok_or_else(|| {
            format!(
                "--vs llama.cpp needs a Python with llama-cpp-python and gguf: name it with --rival-python PATH or \
                 {PYTHON_VARIABLE} (benches/rivals/README.md says how to make one)"
            )
        })?;
        let named = |text: &str| format!("--rival-python {}: {text}", python.display());
        let probe = Command::new(&python)
            .args(["-c", "import gguf, llama_cpp, numpy"])
            .stdin(Stdio::null())
            .output()
            .map_err(|error| named(&error.to_string()))?;
        if !probe.status.success() {
            let text = String::from_utf8_lossy(&probe.stderr);
            let last = text.trim().lines().last().unwrap_or("it failed without a word").to_owned();
            return Err(named(&format!("{last}; expected gguf, llama_cpp and numpy")).into());
        }
        let script = tempfile::Builder::new().prefix("lockstep-rival-").tempdir()?;
        std::fs::write(script_path(script.path()), SCRIPT)?;
        Ok(LlamaCpp { python, script, cache, figures: Default::default(), last: Value::Null })
    }

    /// One run under each setting.
    pub(super) fn round(&mut self, run: &Run<'_>) -> Result<(), Box<dyn Error>> {
        for (setting, figures) in SETTINGS.iter().zip(&mut self.figures) {
            let cache = self.cache.as_deref().unwrap_or_else(|| self.script.path());
            let number = |value: usize| value.to_string();
            let mut command = Command::new(&self.python);
            command
                .arg(script_path(self.script.path()))
                .args(["--shape", run.shape, "--weights", run.weights, "--runs", "1", "--json"])
                .args(["--threads", &number(run.threads), "--prompt", &number(run.prompt)])
                .args(["--generate", &number(run.generate), "--flash", setting.flash])
                .arg("--cache")
                .arg(cache)
                .stdin(Stdio::null())
                .env_remove("OMP_WAIT_POLICY");
            if let Some(policy) = setting.wait {
                command.env("OMP_WAIT_POLICY", policy);
            }
            let done = command.output()?;
            let answer = String::from_utf8_lossy(&done.stdout);
            let parsed =
                answer.trim().lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok());
            let Some(answer) = parsed.filter(|_| done.status.success()) else {
                let text = String::from_utf8_lossy(&done.stderr);
                let last = text.trim().lines().last().unwrap_or("no output").to_owned();
                return Err(format!("llama.cpp on {}: {last}", run.shape).into());
            };
            for (figure, rounds) in FIGURES.iter().zip(figures) {
                let value = answer[*figure].as_f64();
                rounds.push(value.ok_or_else(|| format!("llama.cpp's answer has no {figure}: {answer}"))?);
            }
            self.last = answer;
        }
        Ok(())
    }

    /// The rival's figures and the ratios of `ours`, medians both, in the order of [`FIGURES`]; what was not measured of
    /// ours is left out.
    pub(super) fn report(&self, ours: [Option<f64>; 2]) -> Value {
        let mut value = json!({
            "engine": "llama.cpp",
            "version": self.last["version"],
            "commit": self.last["commit"],
            "weights": self.last["weights"],
            "rounds": self.figures[0][0].len(),
        });
        for (index, figure) in FIGURES.iter().enumerate() {
            let Some(own) = ours[index] else { continue };
            let medians = self.figures.each_ref().map(|figures| median(&figures[index]));
            let best = medians.into_iter().fold(0.0, f64::max);
            value[*figure] = json!(best);
            let by_setting =
                SETTINGS.iter().zip(medians).map(|(setting, median)| (setting.name.into(), json!(median)));
            value[format!("{figure}_by_setting")] = Value::Object(by_setting.collect());
            value[figure.replace("tokens_per_second", "ratio")] = json!(own / best);
        }
        value
    }
}

/// Not `llama_cpp.py`: a script's folder comes first where Python looks for modules.
fn script_path(folder: &Path) -> PathBuf {
    folder.join("rival.py")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An interpreter that lacks the packages is named, with what it says.
    #[test]
    fn what_is_missing_is_said() {
        let missing = LlamaCpp::find(Some("/nonexistent/python".into()), None).err().unwrap().to_string();
        assert!(missing.starts_with("--rival-python /nonexistent/python: "), "{missing}");
        let lacking = LlamaCpp::find(Some("false".into()), None).err().unwrap().to_string();
        assert!(lacking.contains("expected gguf, llama_cpp and numpy"), "{lacking}");
    }

    /// The best setting counts, and ratios are ours by theirs.
    #[test]
    fn ratios_are_to_the_best_setting() {
        let mut rival = LlamaCpp {
            python: PathBuf::new(),
            script: tempfile::tempdir().unwrap(),
            cache: None,
            figures: Default::default(),
            last: json!({}),
        };
        rival.figures = [[vec![1.0, 9.0, 2.0], vec![10.0]], [vec![4.0], vec![5.0]], [vec![3.0], vec![2.0]]];
        let report = rival.report([Some(8.0), Some(5.0)]);
        assert_eq!(report["prefill_tokens_per_second"], 4.0);
        assert_eq!((&report["prefill_ratio"], &report["decode_ratio"]), (&json!(2.0), &json!(0.5)));
        assert!(rival.report([Some(8.0), None]).get("decode_ratio").is_none());
    }
}
