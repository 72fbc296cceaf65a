//! `lockstep prove`: an answer of a model with a proof that it is the model's.
//!
//! The answer is generated as `lockstep run` does it, or is that of a receipt file, then proved (docs/spec/proofs.md). The proof is checked
//! before it is written: a file that `lockstep verify-proof` would refuse is never there.

mod asked;
pub mod report;
pub mod stages;
pub mod work;

use super::CommandResult;
use super::compute::ComputeArgs;
use super::run::{load, random_seed};
use super::sampling::SamplingArgs;
use super::verify;
use crate::bundles;
use crate::proving::between;
use asked::Asked;
use lockstep_base::adapter::AdapterWeights;
use lockstep_base::config::ModelConfig;
use lockstep_base::params::Parameters;
use lockstep_base::part::Part;
use lockstep_model::bundle::Bundle;
use lockstep_model::tokenizer::Tokenizer;
use lockstep_proof::file::make::{Order, outline};
use lockstep_runtime::forward::Engine;
use lockstep_runtime::kernels::Compute;
use report::{Proved, texts};
use serde_json::json;
use stages::{StageArgs, check_writable};
use std::error::Error;
use std::path::PathBuf;
use std::sync::Arc;
use work::prove;

/// Tokens of an answer where nothing is said.
const DEFAULT_MAX_TOKENS: usize = 32;

/// Answer a prompt and prove that the answer is the model's.
///
/// The file holds prompt and answer as tokens, how they were chosen, the model root and the proof. Whoever has the model checks it with
/// `lockstep verify-proof`, without executing the model again. Nothing is hidden by it. Prompt and answer have 1,024 tokens
/// together at most; how many fit into a stage depends on the model: --stages and --memory make stages smaller. With a receipt
/// file the answer that its receipts are about is proved, whoever served it. An encoder's proof is of its vector for the prompt.
///
/// Examples:
///   lockstep prove --prompt "Once upon a time" --max-tokens 16 --out story.proof
///   lockstep prove --chat --prompt "Tell me a story about a dog." --bundle model.lockstep --out dog.proof --json
///   lockstep prove --prompt "Once upon a time" --temperature 0.8 --seed 7 --stages 2 --out stages.proof
///   lockstep prove hello.receipts --out hello.proof
///   lockstep verify-proof story.proof
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ProveArgs {
    /// Receipt file (`lockstep ask --receipts`) whose answer is proved
    #[arg(value_name = "RECEIPTS", conflicts_with_all = ["prompt", "chat", "max_tokens", "temperature", "top_p", "top_k", "seed"])]
    receipts: Option<PathBuf>,
    /// Bundle to run [default: the embedded model]
    #[arg(long, value_name = "BUNDLE")]
    bundle: Option<PathBuf>,
    /// Adapter to run the model under
    #[arg(long, value_name = "FILE")]
    adapter: Option<PathBuf>,
    /// Text to continue; with --chat a message to answer; to an encoder the text
    #[arg(long, required_unless_present = "receipts")]
    prompt: Option<String>,
    /// Put the prompt through the bundle's chat template
    #[arg(long)]
    chat: bool,
    /// Tokens of the answer at most; never more than the prompt leaves of 1,024
    #[arg(long, value_name = "N", default_value_t = DEFAULT_MAX_TOKENS)]
    max_tokens: usize,
    /// 0 always takes the most likely token; higher is bolder
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f64,
    /// Keep the most likely tokens that make up this share
    #[arg(long, value_name = "P", default_value_t = 1.0)]
    top_p: f64,
    /// Keep this many of the most likely tokens; 0 keeps all
    #[arg(long, value_name = "K", default_value_t = 0)]
    top_k: u32,
    /// The same seed and prompt give the same answer, on any machine [default: a random one]
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
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

/// How tokens are chosen.
struct SamplingChoice {
    parameters: Parameters,
    seed: u64,
}

impl ProveArgs {
    fn sampling(&self, config: &ModelConfig, max_tokens: u32) -> Result<SamplingChoice, Box<dyn Error>> {
        let ProveArgs { temperature, top_p, top_k, seed, .. } = *self;
        let args = SamplingArgs { max_tokens, temperature, top_p, top_k, seed, stop: Vec::new() };
        Ok(SamplingChoice { parameters: args.parameters(config)?, seed: seed.map_or_else(random_seed, Ok)? })
    }

    /// The answer, with the engine that computes it and the tokenizer that reads it.
    fn ask(
        &self,
        bundle: &Bundle,
        compute: &Arc<Compute>,
        adapter: Option<&Arc<AdapterWeights>>,
    ) -> Result<(Asked, Engine, Arc<Tokenizer>), Box<dyn Error>> {
        let receipts = self.receipts.as_deref().map(verify::read).transpose()?;
        let encodes = bundle.config().pooling.is_some();
        if encodes && (receipts.is_some() || self.chat || adapter.is_some()) {
            let name = &bundle.config().name;
            return Err(
                format!("{name} is an encoder: expected --prompt with its text, and no adapter").into()
            );
        }
        if encodes || receipts.is_some() {
            let weights = bundle.load(&Part::whole(bundle.config().n_layers))?;
            let engine = Engine::new(Arc::new(weights), compute.clone());
            let tokenizer = Arc::new(bundle.tokenizer()?);
            let asked = match &receipts {
                Some(file) => {
                    Asked::receipts(file, bundle.model_root(), &engine.weights, adapter.map(AsRef::as_ref))?
                }
                None => Asked::vector(self, &engine, &tokenizer)?,
            };
            return Ok((asked, engine, tokenizer));
        }
        let mut loaded = load(bundle, compute.clone(), self.json)?;
        if let Some(adapter) = adapter {
            loaded.generator = loaded.generator.adapted(&adapter.config.name.clone(), adapter.clone())?;
        }
        let asked = Asked::prompt(self, &loaded)?;
        Ok((asked, loaded.generator.engine().clone(), loaded.served().tokenizer))
    }
}

/// Runs the command.
pub fn run(args: ProveArgs) -> CommandResult {
    let compute = args.compute.build()?;
    let bundle = bundles::open(args.bundle.as_deref())?;
    let adapter = args.adapter.as_deref().map(bundles::open_adapter).transpose()?;
    check_writable(&args.out)?;
    let key = args.stages.key(bundle.model_root(), adapter.as_ref().map(|adapter| adapter.root))?;
    let ends = args.stages.ends(bundle.config().n_layers, key.as_ref())?;
    let sample = args.stages.sample(ends.len())?;
    let (asked, engine, tokenizer) = args.ask(&bundle, &compute, adapter.as_ref())?;
    let answer = asked.answer(&engine.weights, bundle.model_root(), adapter.as_deref());
    let ends = args.stages.fitting(&answer)?.unwrap_or(ends);
    let rows =
        between(&engine.weights, &compute, &asked.tokens[..answer.positions()], adapter.as_ref(), &ends)?;
    let (key, kept) = (key.as_ref(), args.stages.kept());
    let order = Order { answer, ends: &ends, between: &rows, sample, key, kept };
    if args.stages.commit {
        return commit(&order, args.json);
    }
    let work = prove(&order, args.json)?;
    let content = work.file.to_bytes();
    std::fs::write(&args.out, &content).map_err(|error| format!("{}: {error}", args.out.display()))?;
    let texts = texts(&tokenizer, &work.file);
    let (work, asked, out) = (&work, &asked, args.out.as_path());
    let proved = Proved { work, asked, out, config: bundle.config(), size: content.len(), texts };
    if args.json {
        println!("{}", proved.to_json());
    } else {
        proved.print();
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
