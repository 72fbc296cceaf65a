//! llama.cpp's own vectors of the sentences, from the same float weights in its own formats.
//!
//! A Python that has llama-cpp-python (benches/rivals/README.md says how to get it) runs the script that is in this
//! binary: it writes the weights as GGUF, lets llama.cpp's quantiser make each format, and embeds.

use super::encoder::{Sentences, Vectors};
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::error::Error;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// benches/rivals/llama_cpp_embed.py.
const SCRIPT: &str = include_str!("../../../../../benches/rivals/llama_cpp_embed.py");
/// Its formats: f32 says that it is the same model.
const FORMATS: [&str; 4] = ["f32", "q8_0", "q4_0", "q4_k_m"];

/// What the script answers.
#[derive(Deserialize)]
struct Answer {
    version: String,
    #[serde(flatten)]
    formats: BTreeMap<String, Format>,
}

#[derive(Deserialize)]
struct Format {
    bytes: u64,
    vectors: Vec<Vec<f64>>,
}

/// How to run llama.cpp.
pub(in crate::cli) struct LlamaCpp<'a> {
    /// The interpreter.
    pub(in crate::cli) python: &'a Path,
    /// The Hugging Face folder of the float model.
    pub(in crate::cli) folder: &'a Path,
    /// Whether vectors are those of the first token.
    pub(in crate::cli) cls: bool,
    /// Threads.
    pub(in crate::cli) threads: usize,
}

impl LlamaCpp<'_> {
    /// The figures of each format's vectors.
    pub(in crate::cli) fn figures(
        &self,
        sentences: &Sentences,
        reference: &Vectors,
    ) -> Result<Value, Box<dyn Error>> {
        let answer = self.answer(sentences)?;
        let mut figures = json!({ "version": answer.version });
        for (name, format) in answer.formats {
            let (got, expected) = (format.vectors.len(), sentences.ids().len());
            if got != expected {
                return Err(format!("llama.cpp gave {got} vectors in {name}, expected {expected}").into());
            }
            let mut value = Vectors::new(format.vectors).figures(reference);
            value["bytes"] = json!(format.bytes);
            figures[name] = value;
        }
        Ok(figures)
    }

    fn answer(&self, sentences: &Sentences) -> Result<Answer, Box<dyn Error>> {
        let named = |text: &str| format!("--rival-python {}: {text}", self.python.display());
        let folder = tempfile::Builder::new().prefix("lockstep-rival-").tempdir()?;
        // Not `llama_cpp.py`: a script's folder comes first where Python looks for modules.
        let script: PathBuf = folder.path().join("rival.py");
        std::fs::write(&script, SCRIPT)?;
        let mut child = Command::new(self.python)
            .arg(&script)
            .arg("--model")
            .arg(self.folder)
            .args(["--formats", &FORMATS.join(","), "--pooling", if self.cls { "cls" } else { "mean" }])
            .args(["--threads", &self.threads.to_string()])
            // Its threads wait in a loop otherwise, which takes for ever where something else runs. Nothing is timed.
            .env("OMP_WAIT_POLICY", "passive")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| named(&error.to_string()))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A script that ends early says why on standard error.
            let _ = stdin.write_all(json!({ "texts": sentences.ids() }).to_string().as_bytes());
        }
        let done = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&done.stdout);
        let parsed = text.trim().lines().last().map(serde_json::from_str::<Answer>);
        match parsed {
            Some(Ok(answer)) if done.status.success() => Ok(answer),
            _ => {
                let text = String::from_utf8_lossy(&done.stderr);
                Err(named(text.trim().lines().last().unwrap_or("it failed without a word")).into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_model::tokenizer::{Tokenizer, TokenizerKind};

    /// An interpreter that is missing, and one that is none, are named with what they say.
    #[test]
    fn what_is_missing_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("text");
        std::fs::write(&text, "a b a b a b.\n\nb a b a b a.\n").unwrap();
        let tokenizer = Tokenizer::from_bytes(TokenizerKind::Chars, b"a\nb\n \n.\n").unwrap();
        let sentences = Sentences::read(&text, &tokenizer, 64, None).unwrap();
        assert_eq!(sentences.tokens(), 24);
        let run = |python: &str| {
            let rival = LlamaCpp { python: Path::new(python), folder: folder.path(), cls: false, threads: 1 };
            rival.figures(&sentences, &Vectors::new([])).unwrap_err().to_string()
        };
        assert!(run("/nonexistent/python").starts_with("--rival-python /nonexistent/python: "));
        assert!(run("false").ends_with("it failed without a word"));
    }
}
