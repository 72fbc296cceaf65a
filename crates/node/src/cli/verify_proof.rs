//! `lockstep verify-proof`: checks the proof of an answer, from files alone.

use super::CommandResult;
use super::prove::texts;
use crate::bundles;
use lockstep_base::part::Part;
use lockstep_model::bundle::Bundle;
use lockstep_proof::file::{AnswerFile, FILE_BYTES_MAX};
use serde_json::{Value, json};
use std::error::Error;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What a proof that verifies shows.
const SHOWN: &str = "the model with this root, given these tokens, gives the answer greedily: each token has the \
                     largest logit, the first of equal ones, in exact arithmetic";
/// And what it does not.
const NOT_SHOWN: [&str; 3] = [
    "nothing is hidden: the file holds prompt and answer, and the proof is succinct, not zero-knowledge",
    "the verifier holds the model: its weights are evaluated here",
    "sampling, who computed the answer, and when",
];

/// Check the proof of an answer without executing the model again.
///
/// Needs the file that `lockstep prove` wrote and the model's bundle, nothing else. Prompt and answer are printed as this model's tokenizer
/// reads the tokens of the file, and only if the proof holds.
/// Exit status: 0 verified, 1 not.
///
/// Examples:
///   lockstep verify-proof story.proof
///   lockstep verify-proof dog.proof --bundle model.lockstep --json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct VerifyProofArgs {
    /// File with the answer and its proof
    file: PathBuf,
    /// Bundle that the proof speaks about [default: the embedded model]
    #[arg(long, value_name = "BUNDLE")]
    bundle: Option<PathBuf>,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: VerifyProofArgs) -> CommandResult {
    let began = Instant::now();
    let result = check(&args);
    if args.json {
        println!("{}", to_json(&result, began.elapsed().as_secs_f64()));
    }
    let verified = result?;
    if !args.json {
        print(&verified);
    }
    Ok(())
}

/// A proof that holds.
struct Verified {
    file: AnswerFile,
    bundle: Bundle,
    texts: [String; 2],
    bytes: usize,
    /// Of the proof alone: the bundle is loaded and hashed before.
    seconds: f64,
}

fn check(args: &VerifyProofArgs) -> Result<Verified, Box<dyn Error>> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", args.file.display());
    let content = read(&args.file).map_err(|error| named(&error))?;
    let file = AnswerFile::from_bytes(&content).map_err(|error| named(&error))?;
    let bundle = bundles::open_decoder(args.bundle.as_deref())?;
    // Before the weights are read: a file about another model is the usual mistake.
    file.check_model(bundle.model_root()).map_err(|error| named(&error))?;
    let weights = bundle.load(&Part::whole(bundle.config().n_layers))?;
    let began = Instant::now();
    file.verify(&weights, bundle.model_root()).map_err(|error| named(&error))?;
    let seconds = began.elapsed().as_secs_f64();
    let texts = texts(&bundle.tokenizer()?, &file);
    Ok(Verified { file, bundle, texts, bytes: content.len(), seconds })
}

/// A file with a limit on its size. A pipe or a device tells no length: one byte more than is allowed is read, at most.
fn read(path: &Path) -> Result<Vec<u8>, std::io::Error> {
    let mut content = Vec::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut content)?;
    Ok(content)
}

fn print(verified: &Verified) {
    let Verified { file, bundle, texts: [prompt, answer], .. } = verified;
    println!("verified: {} tokens after a prompt of {}", file.generated, file.prompt().len());
    println!("  model   {} ({})", bundle.config().name, file.root);
    // Quoted, so that no character of a stranger's prompt does anything to a terminal.
    println!("  prompt  {prompt:?}");
    println!("  answer  {answer:?}");
    println!("shown:     {SHOWN} (opset {})", bundle.config().opset);
    NOT_SHOWN.iter().for_each(|line| println!("not shown: {line}"));
    let seconds = 1e3 * verified.seconds;
    println!("[{} bytes, {seconds:.1} ms for the proof alone]", verified.bytes);
}

fn to_json(result: &Result<Verified, Box<dyn Error>>, seconds: f64) -> Value {
    match result {
        Err(error) => json!({ "verified": false, "reason": error.to_string() }),
        Ok(Verified { file, bundle, texts: [prompt, answer], bytes, seconds: verify }) => json!({
            "verified": true,
            "model": bundle.config().name,
            "model_root": file.root.hex(),
            "opset": bundle.config().opset,
            "prompt": prompt,
            "text": answer,
            "prompt_tokens": file.prompt().len(),
            "completion_tokens": file.generated,
            "proof_bytes": bytes,
            "verify_seconds": verify,
            "seconds": seconds,
            "shown": SHOWN,
            "not_shown": NOT_SHOWN,
        }),
    }
}
