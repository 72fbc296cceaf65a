//! The last step of `lockstep demo --prove`: a greedy answer is proved in one process, and the file checked in another that executes
//! nothing of the model.

use super::report::Report;
use super::{Error, command};
use crate::output::bytes;
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::path::Path;

/// Tokens of the answer at most: as many as a proof covers with the prompt.
const MAX_TOKENS: &str = "128";

/// Proves a greedy answer to `prompt` and verifies the file.
pub(super) async fn prove(prompt: &str, folder: &Path, report: &Report) -> Result<Value, Error> {
    let path = folder.join("answer.proof");
    report.step("Proving a greedy answer to the same question");
    let args = ["prove", "--chat", "--max-tokens", MAX_TOKENS, "--prompt", prompt, "--out"].map(OsStr::new);
    let proved = command(&[&args[..], &[path.as_os_str()]].concat()).await?;
    report.text(proved["text"].as_str().unwrap_or_default());
    report.line(&format!(
        "{} tokens after a prompt of {}, {}: {:.2} s of CPU time, {:.0} times that of inference",
        proved["completion_tokens"],
        proved["prompt_tokens"],
        bytes(proved["proof_bytes"].as_u64().unwrap_or_default()),
        proved["prove_cpu_seconds"].as_f64().unwrap_or_default(),
        proved["overhead"].as_f64().unwrap_or_default(),
    ));
    report.took();

    report.step("Verifying the proof, in a separate process, without executing the model");
    let checked = command(&[OsStr::new("verify-proof"), path.as_os_str()]).await?;
    let verified = checked["verified"] == true && checked["text"] == proved["text"];
    report.line(if verified { "verified: the model gives this answer" } else { "NOT verified" });
    report.line("the proof is succinct, not hiding: prompt and answer are in the file");
    report.took();
    Ok(json!({
        "verified": verified,
        "answer": checked["text"],
        "prompt_tokens": checked["prompt_tokens"],
        "completion_tokens": checked["completion_tokens"],
        "finish_reason": proved["finish_reason"],
        "proof_bytes": checked["proof_bytes"],
        "prove_cpu_seconds": proved["prove_cpu_seconds"],
        "inference_cpu_seconds": proved["inference_cpu_seconds"],
        "verify_seconds": checked["verify_seconds"],
    }))
}
