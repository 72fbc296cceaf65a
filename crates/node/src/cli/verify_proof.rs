//! `lockstep verify-proof`: checks the proof of an answer, from files alone.

use super::CommandResult;
use super::prove::report::{claim, texts};
use super::prove::stages::{digest, read_key};
use crate::bundles;
use lockstep_base::Digest;
use lockstep_base::config::ModelConfig;
use lockstep_base::part::Part;
use lockstep_proof::file::{AnswerFile, Claimed, FILE_BYTES_MAX};
use serde_json::{Value, json};
use std::error::Error;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What a proof that verifies shows.
const SHOWN: &str = "the model with this root, given these tokens, gives the answer greedily: each token has the \
                     largest logit, the first of equal ones, in exact arithmetic";
/// The same of tokens that were drawn.
const SHOWN_DRAWN: &str = "the model with this root, given these tokens, gives the answer: each token is the one that its \
                           distribution, these numbers and this sampler seed choose, in exact arithmetic";
/// The same of an encoder.
const SHOWN_VECTOR: &str = "the model with this root gives this vector for these tokens, in exact arithmetic";
/// What one shows that has only some stages.
const SHOWN_OF_SOME: &str = "of some layers of the model with this root, those that the beacon drew: they give what the file says that they give; an answer \
                             follows only with all layers";
/// And what it does not.
const NOT_SHOWN: [&str; 2] = [
    "nothing is hidden: the file holds prompt and answer, and the proof is succinct, not zero-knowledge",
    "who computed the answer, and when",
];
/// What a verifier with the model relies on.
const HOLDS: &str = "the verifier holds the model: its weights are evaluated here";
/// What a verifier with a key relies on.
const TRUSTS: &str =
    "that this key is the model's: whoever has the bundle makes it again with `lockstep proof-key`";

/// Check the proof of an answer without executing the model again.
///
/// Needs the file that `lockstep prove` wrote and the model's bundle, nothing else; or, if it was written for one, the model's key. Prompt and
/// answer are printed as the model's tokenizer reads the tokens of the file (with a key alone, as token numbers), and only if the proof holds.
/// A file with proofs of only some stages needs --beacon: the number that drew them, from where you know that it is younger than the
/// file's commitment. Without it a prover could have chosen both.
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
    /// Key of the model (`lockstep proof-key`), for proofs that were made for it: the weights are not needed
    #[arg(long, value_name = "KEY", conflicts_with = "bundle")]
    key: Option<PathBuf>,
    /// Adapter that the answer was given under
    #[arg(long, value_name = "FILE", conflicts_with = "key")]
    adapter: Option<PathBuf>,
    /// Beacon that drew the stages, for files that have not all of them
    #[arg(long, value_name = "HEX", value_parser = digest)]
    beacon: Option<Digest>,
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
    config: ModelConfig,
    /// Prompt and answer.
    texts: [String; 2],
    bytes: usize,
    /// Of the proof alone: what it is checked with is loaded before.
    seconds: f64,
}

impl Verified {
    fn shown(&self) -> &'static str {
        match (self.file.sample, &self.file.claimed) {
            (Some(_), _) => SHOWN_OF_SOME,
            (None, Claimed::Greedy) => SHOWN,
            (None, Claimed::Sampled(_)) => SHOWN_DRAWN,
            (None, Claimed::Pooled(_)) => SHOWN_VECTOR,
        }
    }

    fn not_shown(&self) -> Vec<String> {
        let relies = if self.file.keyed.is_some() { TRUSTS } else { HOLDS };
        let mut lines = NOT_SHOWN.map(String::from).to_vec();
        lines.insert(1, relies.into());
        if matches!(self.file.claimed, Claimed::Sampled(_)) {
            lines
                .push("that nobody chose the sampler seed after looking at the answers that it gives".into());
        }
        let (all, proved) = (self.file.stages.len(), self.file.proved());
        if let Some(sample) = self.file.sample {
            lines.push(format!(
                "the other {} of {all} stages: who is wrong in one stage is found out in {proved} of {all} cases, if beacon {} is younger than commitment {}",
                all - proved,
                sample.beacon,
                self.file.commitment()
            ));
        }
        lines
    }
}

fn check(args: &VerifyProofArgs) -> Result<Verified, Box<dyn Error>> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", args.file.display());
    let content = read(&args.file).map_err(|error| named(&error))?;
    let file = AnswerFile::from_bytes(&content).map_err(|error| named(&error))?;
    check_beacon(&file, args.beacon).map_err(|error| named(&error))?;
    let bytes = content.len();
    if let Some(path) = &args.key {
        let key = read_key(path)?;
        let began = Instant::now();
        file.verify_with_key(&key).map_err(|error| named(&error))?;
        let seconds = began.elapsed().as_secs_f64();
        let texts = [file.prompt(), file.answer()].map(|tokens| format!("{tokens:?}"));
        return Ok(Verified { config: key.weights().config.clone(), file, texts, bytes, seconds });
    }
    let bundle = bundles::open(args.bundle.as_deref())?;
    let adapter = args.adapter.as_deref().map(bundles::open_adapter).transpose()?;
    // Before the weights are read: a file about another model is the usual mistake.
    file.check_model(bundle.model_root()).map_err(|error| named(&error))?;
    file.check_adapter(adapter.as_ref().map(|adapter| adapter.root)).map_err(|error| named(&error))?;
    let weights = bundle.load(&Part::whole(bundle.config().n_layers))?;
    let began = Instant::now();
    file.verify_adapted(&weights, bundle.model_root(), adapter.as_deref()).map_err(|error| named(&error))?;
    let seconds = began.elapsed().as_secs_f64();
    let texts = texts(&bundle.tokenizer()?, &file);
    Ok(Verified { config: bundle.config().clone(), file, texts, bytes, seconds })
}

/// Whether the stages were drawn by the beacon that the verifier knows.
fn check_beacon(file: &AnswerFile, known: Option<Digest>) -> Result<(), String> {
    let (all, proved) = (file.stages.len(), file.proved());
    match (file.sample, known) {
        (None, None) => Ok(()),
        (None, Some(_)) => Err("all stages are proved, expected no --beacon".into()),
        (Some(sample), Some(known)) if sample.beacon == known => Ok(()),
        (Some(sample), Some(known)) => {
            Err(format!("the stages were drawn by beacon {}, expected {known}", sample.beacon))
        }
        (Some(_), None) => Err(format!(
            "only {proved} of {all} stages are proved: expected --beacon with what drew them, known from elsewhere and younger than commitment {}",
            file.commitment()
        )),
    }
}

/// A file with a limit on its size. A pipe or a device tells no length: one byte more than is allowed is read, at most.
fn read(path: &Path) -> Result<Vec<u8>, std::io::Error> {
    let mut content = Vec::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut content)?;
    Ok(content)
}

fn print(verified: &Verified) {
    let Verified { file, config, texts: [prompt, answer], .. } = verified;
    let (all, proved) = (file.stages.len(), file.proved());
    let part = if all == proved { String::new() } else { format!("{proved} of {all} stages of ") };
    match file.claimed {
        Claimed::Pooled(_) => println!("verified: {part}the vector of {} tokens", file.tokens.len()),
        _ => println!("verified: {part}{} tokens after a prompt of {}", file.generated, file.prompt().len()),
    }
    println!("  model   {:?} ({})", config.name, file.root);
    if let Some(keyed) = &file.keyed {
        println!("  key     {}", keyed.digest);
    }
    // Quoted, so that no character of a stranger's prompt does anything to a terminal; token numbers need not be.
    let quoted = |text: &str| if file.keyed.is_some() { text.to_owned() } else { format!("{text:?}") };
    if let Some(adapter) = file.adapter {
        println!("  adapter {adapter}");
    }
    println!("  prompt  {}", quoted(prompt));
    match file.claimed {
        Claimed::Pooled(_) => println!("  answer  {}", claim(file)),
        _ => println!("  answer  {}\n  chosen  {}", quoted(answer), claim(file)),
    }
    println!("shown:     {} (opset {:?})", verified.shown(), config.opset);
    verified.not_shown().iter().for_each(|line| println!("not shown: {line}"));
    let seconds = 1e3 * verified.seconds;
    println!("[{} bytes, {seconds:.1} ms for the proof alone]", verified.bytes);
}

fn to_json(result: &Result<Verified, Box<dyn Error>>, seconds: f64) -> Value {
    match result {
        Err(error) => json!({ "verified": false, "reason": error.to_string() }),
        Ok(verified @ Verified { file, config, texts: [prompt, answer], bytes, seconds: verify }) => json!({
            "verified": true,
            "model": config.name,
            "model_root": file.root.hex(),
            "opset": config.opset,
            "prompt": prompt,
            "text": answer,
            "claim": claim(file),
            "vector": match &file.claimed { Claimed::Pooled(vector) => json!(vector), _ => Value::Null },
            "adapter_root": file.adapter.map(|root| root.hex()),
            "prompt_tokens": file.prompt().len(),
            "completion_tokens": file.generated,
            "proof_bytes": bytes,
            "verify_seconds": verify,
            "seconds": seconds,
            "shown": verified.shown(),
            "commitment": file.commitment().hex(),
            "stages": file.stages.len(),
            "proved_stages": file.proved(),
            "key": file.keyed.as_ref().map(|keyed| keyed.digest.hex()),
            "not_shown": verified.not_shown(),
        }),
    }
}
