//! What `lockstep demo --prove` adds: the nodes prove the answer that they served, the file is checked in a process that executes nothing of the model, and the node that
//! lied has nothing to show.

use super::report::Report;
use super::{Error, command};
use crate::gateway::{Checked, Gateway};
use crate::output::bytes;
use lockstep_base::receipt_file::ReceiptFile;
use lockstep_base::weights::ModelWeights;
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::path::Path;
use std::time::Instant;

/// Has the nodes prove what the receipts are about, and verifies the file.
pub(super) async fn prove(
    gateway: &Gateway,
    weights: &ModelWeights,
    receipts: &ReceiptFile,
    folder: &Path,
    report: &Report,
) -> Result<Value, Error> {
    let path = folder.join("answer.proof");
    report.step("Proving: each node its own layers, all at once");
    let began = Instant::now();
    let mut came = |stage: usize, size: usize| report.line(&format!("stage {stage}: {}", bytes(size as u64)));
    let file = gateway.prove(receipts, Checked::Model(weights, None), &mut came).await?;
    let seconds = began.elapsed().as_secs_f64();
    let content = file.to_bytes();
    std::fs::write(&path, &content)?;
    report.line(&format!("{} tokens, {} in all", file.tokens.len(), bytes(content.len() as u64)));
    report.took();

    report.step("Verifying the proof, in a separate process, without executing the model");
    let checked = command(&[OsStr::new("verify-proof"), path.as_os_str()]).await?;
    let verified = checked["verified"] == true;
    report.line(if verified { "verified: the model gives this answer" } else { "NOT verified" });
    report.line("the proof is succinct, not hiding: prompt and answer are in the file");
    report.took();
    Ok(json!({
        "verified": verified,
        "answer": checked["text"],
        "prompt_tokens": checked["prompt_tokens"],
        "completion_tokens": checked["completion_tokens"],
        "proof_bytes": checked["proof_bytes"],
        "prove_seconds": seconds,
        "verify_seconds": checked["verify_seconds"],
    }))
}

/// Asks the nodes, one of which lied, for the same: whether there is no proof. There is one where what left the stages is right all the same.
pub(super) async fn refuse(
    gateway: &Gateway,
    weights: &ModelWeights,
    receipts: &ReceiptFile,
    report: &Report,
) -> bool {
    report.step("Asking these nodes for a proof");
    let refused = match gateway.prove(receipts, Checked::Model(weights, None), &mut |_, _| {}).await {
        Ok(_) => {
            // A low bit may be rounded away: then receipts show the lie, and the answer is right.
            report
                .line("there is one: the flipped bit was rounded away, and the answer is right all the same");
            false
        }
        Err(error) => {
            report.line(&format!("there is none: {error}"));
            true
        }
    };
    report.took();
    refused
}
