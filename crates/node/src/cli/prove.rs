//! `lockstep prove`: a greedy answer of a model with a proof that it is the model's.
//!
//! The answer is generated as `lockstep run --temperature 0` does it, then proved (docs/spec/proofs.md). The proof is checked before it
//! is written: a file that `lockstep verify-proof` would refuse is never there.

pub mod stages;
pub mod work;

use super::CommandResult;
use super::bench::peak_resident;
use super::compute::ComputeArgs;
use super::run::load;
use crate::api::Served;
use crate::bundles;
use crate::output::bytes;
use crate::proving::between;
use crate::service::{FinishReason, GenerateEvent, GenerateRequest};
use lockstep_base::config::ModelConfig;
use lockstep_base::params::Parameters;
use lockstep_base::weights::ModelWeights;
use lockstep_model::chat::Message;
use lockstep_model::tokenizer::Tokenizer;
use lockstep_proof::decoder::plan::Plan;
use lockstep_proof::decoder::statement::Answer;
use lockstep_proof::file::make::{Order, outline};
use lockstep_proof::file::{AnswerFile, FILE_TOKENS_MAX};
use serde_json::{Value, json};
use stages::{StageArgs, check_writable};
use std::error::Error;
use std::path::{Path, PathBuf};
use work::{Clock, Seconds, Work, prove};

/// Tokens of an answer where nothing is said.
const DEFAULT_MAX_TOKENS: usize = 32;

/// Answer a prompt greedily and prove that the answer is the model's.
///
/// The file holds prompt and answer as tokens, the model root and the proof. Whoever has the model checks it with
/// `lockstep verify-proof`, without executing the model again. Nothing is hidden by it. Prompt and answer have 128 tokens
/// together at most; this command proves greedy answers of decoders without adapters.
///
/// Examples:
///   lockstep prove --prompt "Once upon a time" --max-tokens 16 --out story.proof
///   lockstep prove --chat --prompt "Tell me a story about a dog." --bundle model.lockstep --out dog.proof --json
///   lockstep prove --prompt "Once upon a time" --stages 2 --out stages.proof
///   lockstep verify-proof story.proof
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ProveArgs {
    /// Bundle to run [default: the embedded model]
    #[arg(long, value_name = "BUNDLE")]
    bundle: Option<PathBuf>,
    /// Text to continue; with --chat a message to answer
    #[arg(long)]
    prompt: String,
    /// Put the prompt through the bundle's chat template
    #[arg(long)]
    chat: bool,
    /// Tokens of the answer at most; never more than the prompt leaves of 128
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_TOKENS)]
    max_tokens: usize,
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    stages: StageArgs,
    #[command(flatten)]
    compute: ComputeArgs,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// A proved answer, and what it took.
struct Proved {
    work: Work,
    reason: FinishReason,
    inference: Seconds,
}

/// Runs the command.
pub fn run(args: ProveArgs) -> CommandResult {
    let compute = args.compute.build()?;
    let bundle = bundles::open_decoder(args.bundle.as_deref())?;
    check_writable(&args.out)?;
    let key = args.stages.key(bundle.model_root())?;
    let ends = args.stages.ends(bundle.config().n_layers, key.as_ref())?;
    let sample = args.stages.sample(ends.len())?;
    let loaded = load(&bundle, compute.clone(), args.json)?;
    let served = loaded.served();
    let prompt = if args.chat {
        served.encode_messages(&[Message::new("user", &args.prompt)])?
    } else {
        served.encode_text(&args.prompt)?
    };
    let weights = &loaded.generator.engine().weights;
    let max_tokens = budget(weights, prompt.len(), args.max_tokens)?;
    let mut clock = Clock::start();
    let (tokens, generated, reason) = generate(&served, prompt, max_tokens)?;
    let inference = clock.lap();
    let answer = Answer::greedy(weights, bundle.model_root(), &tokens, generated);
    let ends = args.stages.fitting(&answer)?.unwrap_or(ends);
    let rows = between(weights, &compute, &tokens, &ends)?;
    let (key, kept) = (key.as_ref(), args.stages.kept());
    let order = Order { answer, ends: &ends, between: &rows, sample, key, kept };
    if args.stages.commit {
        return commit(&order, args.json);
    }
    let proved = Proved { work: prove(&order, args.json)?, reason, inference };
    let content = proved.work.file.to_bytes();
    std::fs::write(&args.out, &content).map_err(|error| format!("{}: {error}", args.out.display()))?;
    let texts = texts(&served.tokenizer, &proved.work.file);
    if args.json {
        println!("{}", to_json(&proved, &args.out, bundle.config(), content.len(), &texts));
    } else {
        print(&proved, &args.out, bundle.config(), content.len(), &texts);
    }
    Ok(())
}

/// Says what is fixed before a beacon is drawn.
fn commit(order: &Order<'_>, json: bool) -> CommandResult {
    let commitment = outline(order)?.commitment();
    if json {
        println!("{}", json!({ "commitment": commitment.hex(), "stages": order.ends.len() }));
    } else {
        println!("commitment {commitment}, {} stages", order.ends.len());
    }
    Ok(())
}

/// Tokens of the answer, at most; whether the model can be proved at all is known before it runs.
fn budget(weights: &ModelWeights, prompt: usize, asked: usize) -> Result<usize, Box<dyn Error>> {
    let limit = FILE_TOKENS_MAX.min(weights.config.context as usize);
    if prompt == 0 {
        return Err("the prompt has no tokens, expected at least 1".into());
    }
    let room = limit.saturating_sub(prompt);
    if room == 0 {
        let most = limit - 1;
        return Err(format!(
            "the prompt has {prompt} tokens, expected at most {most}: a proof covers {limit} with the answer"
        )
        .into());
    }
    if asked == 0 {
        return Err("--max-tokens 0, expected at least 1".into());
    }
    let tokens = asked.min(room);
    Plan::new(weights, None, prompt + tokens - 1, 0..weights.config.n_layers as usize)
        .map_err(|error| format!("this model has no proof: {error}"))?;
    Ok(tokens)
}

/// Prompt and greedy answer, the length of the answer, why it ended.
fn generate(
    served: &Served,
    prompt: Vec<u32>,
    max_tokens: usize,
) -> Result<(Vec<u32>, usize, FinishReason), Box<dyn Error>> {
    let stop_tokens = served.generator.model().config.eos.clone();
    let parameters = Parameters { stop_tokens, ..Parameters::greedy(max_tokens as u32) };
    let (mut tokens, before) = (prompt.clone(), prompt.len());
    let mut events = served.generator.generate(GenerateRequest::new(prompt, parameters));
    loop {
        match events.blocking_recv() {
            Some(GenerateEvent::Token { token, .. }) => tokens.push(token),
            Some(GenerateEvent::Stage(_)) => {}
            Some(GenerateEvent::Done(done)) => {
                let generated = tokens.len() - before;
                return Ok((tokens, generated, done.reason));
            }
            Some(GenerateEvent::Failed(failure)) => return Err(failure.into()),
            None => return Err("the answer ended without a result".into()),
        }
    }
}

/// What the tokens of a file mean to a tokenizer: prompt and answer.
pub(super) fn texts(tokenizer: &Tokenizer, file: &AnswerFile) -> [String; 2] {
    let mut stream = tokenizer.decode_continuation();
    let mut answer: String = file.answer().iter().map(|token| stream.push(*token)).collect();
    answer.push_str(&stream.finish());
    [tokenizer.decode(file.prompt()), answer]
}

fn overhead(proved: &Proved) -> f64 {
    proved.work.proving().cpu / proved.inference.cpu.max(1e-9)
}

fn print(proved: &Proved, out: &Path, config: &ModelConfig, size: usize, [prompt, answer]: &[String; 2]) {
    let (work, file) = (&proved.work, &proved.work.file);
    let row = |name: &str, seconds: Seconds| println!("  {name:<12}{:>9.3} s", seconds.cpu);
    println!("model   {} ({})", config.name, file.root);
    // Quoted, so that no character of a text does anything to a terminal.
    println!("prompt  {prompt:?} ({} tokens)", file.prompt().len());
    println!("answer  {answer:?} ({} tokens, {})", file.generated, proved.reason.as_str());
    println!("CPU time:");
    row("inference", proved.inference);
    work.phases.iter().for_each(|(phase, seconds)| row(phase.name(), *seconds));
    row("all proving", work.proving());
    row("verifying", work.verify);
    println!("proving took {:.0} times the CPU time of inference", overhead(proved));
    if let Some(peak) = peak_resident() {
        println!("peak memory {}", bytes(peak));
    }
    let stages = match (file.stages.len(), file.proved()) {
        (1, _) => String::new(),
        (all, proved) if all == proved => format!(", {all} stages"),
        (all, proved) => format!(", {proved} of {all} stages, as the beacon drew"),
    };
    println!("{}: {} ({} tokens{stages}), verified", out.display(), bytes(size as u64), file.tokens.len());
}

fn to_json(
    proved: &Proved,
    out: &Path,
    config: &ModelConfig,
    size: usize,
    [prompt, answer]: &[String; 2],
) -> Value {
    let file = &proved.work.file;
    let mut result = json!({
        "file": out.display().to_string(),
        "model": config.name,
        "model_root": file.root.hex(),
        "prompt": prompt,
        "text": answer,
        "prompt_tokens": file.prompt().len(),
        "completion_tokens": file.generated,
        "finish_reason": proved.reason.as_str(),
        "inference_cpu_seconds": proved.inference.cpu,
        "overhead": overhead(proved),
        "commitment": file.commitment().hex(),
        "stages": file.stages.len(),
        "proved_stages": file.proved(),
        "key": file.keyed.as_ref().map(|keyed| keyed.digest.hex()),
        "proof_bytes": size,
    });
    proved.work.add_to(&mut result);
    result
}
