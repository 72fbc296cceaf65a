//! `lockstep bench prove`: what proofs of answers cost, on models of known shapes with random weights.

use super::super::CommandResult;
use super::super::compute::ComputeArgs;
use super::super::prove::stages::ends;
use super::super::prove::work::{Clock, Work, prove};
use super::{SEED, Shape, available, estimate, median};
use crate::cli::import::Weights;
use crate::output::bytes;
use crate::proving::between;
use lockstep_base::Digest;
use lockstep_base::config::ModelConfig;
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::WeightFormat;
use lockstep_proof::decoder::statement::Answer;
use lockstep_proof::file::FILE_TOKENS_MAX;
use lockstep_proof::file::make::Order;
use lockstep_proof::key::Key;
use lockstep_runtime::forward::{Engine, ForwardError};
use lockstep_runtime::observe::Silent;
use lockstep_runtime::sample::greedy;
use lockstep_runtime::synthetic;
use serde_json::json;
use std::path::PathBuf;
use std::sync::Arc;

/// Runs without --runs.
const RUNS: usize = 1;
/// Runs of inference: its time is small, and noisy.
const INFERENCE_RUNS: usize = 5;

/// Measure proving and verifying of a greedy answer on random int8 weights.
///
/// Ends with one JSON object: prove_seconds, prove_cpu_seconds, verify_seconds, proof_bytes and peak_memory_bytes of the run with the median of
/// prove_cpu_seconds, and inference_cpu_seconds, the median time of computing all positions in one pass. With --key the
/// proof is for who holds a key and no weights; committing to weights counts as proving, making the key does not.
///
/// Examples:
///   lockstep bench prove --shape gpt2-small --layers 1 --vocab 512 --json
///   lockstep bench prove --shape gpt2-small --prompt 8 --generate 8 --stages 12
///   lockstep bench prove --shape default --key
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct ProveArgs {
    /// Shape of the model
    #[arg(long, value_enum, default_value_t = Shape::Default)]
    shape: Shape,
    /// Layers, instead of all of the shape
    #[arg(long, value_name = "N")]
    layers: Option<u32>,
    /// Tokens of the vocabulary, instead of the shape's
    #[arg(long, value_name = "N")]
    vocab: Option<u32>,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 32)]
    prompt: usize,
    /// Tokens of the answer
    #[arg(long, value_name = "N", default_value_t = 32)]
    generate: usize,
    /// Stages that are proved one by one
    #[arg(long, value_name = "N", default_value_t = 1)]
    stages: u32,
    /// Prove for who has a key of the model and not its weights
    #[arg(long)]
    key: bool,
    /// The same, and keep the encoded weights in this folder: committing to weights does not count as proving then
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Runs
    #[arg(long, value_name = "N", default_value_t = RUNS)]
    runs: usize,
    #[command(flatten)]
    compute: ComputeArgs,
    /// The JSON object and nothing else
    #[arg(long)]
    json: bool,
}

impl ProveArgs {
    fn config(&self) -> Result<ModelConfig, Box<dyn std::error::Error>> {
        let mut config = self.shape.config()?;
        config.n_layers = self.layers.unwrap_or(config.n_layers);
        config.vocab = self.vocab.unwrap_or(config.vocab);
        config.validate()?;
        let (tokens, most) =
            (self.prompt.saturating_add(self.generate), FILE_TOKENS_MAX.min(config.context as usize));
        if self.prompt == 0 || self.generate == 0 || self.runs == 0 || tokens > most {
            return Err(format!(
                "--prompt {} --generate {} --runs {}, expected at least 1 each, and a proof covers {most} tokens",
                self.prompt, self.generate, self.runs
            )
            .into());
        }
        if let Some(free) = available().filter(|free| *free < estimate(&config, Weights::Int8)) {
            let free = bytes(free);
            return Err(format!("{}: {free} are free, too little: take fewer --layers", config.name).into());
        }
        Ok(config)
    }
}

/// Runs the command.
pub(super) fn run(args: ProveArgs) -> CommandResult {
    let config = args.config()?;
    let compute = args.compute.build()?;
    let ends = ends("--stages", args.stages, config.n_layers)?;
    let weights = Arc::new(synthetic::model(&config, WeightFormat::Int8, SEED));
    let engine = Engine::new(weights.clone(), compute.clone());
    let mut rng = SplitMix64::new(SEED);
    let mut tokens: Vec<u32> = (0..args.prompt).map(|_| rng.below(config.vocab.into()) as u32).collect();
    complete(&engine, &mut tokens, args.generate)?;
    let mut inference = Vec::with_capacity(INFERENCE_RUNS);
    for _ in 0..INFERENCE_RUNS {
        let mut clock = Clock::start();
        let mut x = engine.embed(&tokens[..tokens.len() - 1], 0, &mut Silent)?;
        engine.layers(&mut x, &mut engine.new_cache(), &mut Silent)?;
        let first = args.prompt - 1;
        let positions: Vec<usize> = (first..tokens.len() - 1).collect();
        engine.logits(&x[first * engine.width()..], &positions, &mut Silent)?;
        inference.push(clock.lap().cpu);
    }
    let inference = median(&inference);

    let root = Digest::tagged("lockstep/bench", &[config.name.as_bytes()]);
    let key = match &args.keep {
        Some(folder) => Some(Key::keeping(&weights, root, &ends, folder)?),
        None => args.key.then(|| Key::new(&weights, root, &ends)).transpose()?,
    };
    let answer = Answer::greedy(&weights, root, &tokens, args.generate);
    let rows = between(&weights, &compute, &tokens[..answer.positions()], None, &ends)?;
    let (between, kept) = (&*rows, args.keep.as_deref());
    let order = Order { answer, ends: &ends, between, sample: None, key: key.as_ref(), kept };
    let mut works: Vec<Work> = Vec::with_capacity(args.runs);
    for _ in 0..args.runs {
        works.push(prove(&order, args.json)?);
    }
    works.sort_by(|a, b| a.proving().cpu.total_cmp(&b.proving().cpu));
    let work = &works[works.len() / 2];
    let (size, spent) = (work.file.to_bytes().len(), work.proving());
    let mut result = json!({
        "shape": config.name,
        "layers": config.n_layers,
        "vocab": config.vocab,
        "prompt": args.prompt,
        "generate": args.generate,
        "stages": ends.len(),
        "key_bytes": key.map(|key| key.to_bytes().len()),
        "runs": args.runs,
        "inference_cpu_seconds": inference,
        "overhead": spent.cpu / inference,
        "cpu_seconds_per_token": spent.cpu / tokens.len() as f64,
        "proof_bytes": size,
    });
    work.add_to(&mut result);
    if !args.json {
        println!(
            "prove {:.2} s ({:.2} CPU s, {:.0} times inference, {:.3} a token), verify {:.1} ms, {}",
            spent.wall,
            spent.cpu,
            spent.cpu / inference,
            spent.cpu / tokens.len() as f64,
            1e3 * work.verify.wall,
            bytes(size as u64)
        );
        for (phase, seconds) in &work.phases {
            println!("  {:<12}{:>9.3} CPU s", phase.name(), seconds.cpu);
        }
    }
    println!("{result}");
    Ok(())
}

/// Appends `count` tokens, greedily.
fn complete(engine: &Engine, tokens: &mut Vec<u32>, count: usize) -> Result<(), ForwardError> {
    let mut cache = engine.new_cache();
    let mut fed = 0;
    for _ in 0..count {
        let mut x = engine.embed(&tokens[fed..], fed, &mut Silent)?;
        engine.layers(&mut x, &mut cache, &mut Silent)?;
        let last = tokens.len() - 1;
        let logits = engine.logits(&x[x.len() - engine.width()..], &[last], &mut Silent)?;
        fed = tokens.len();
        tokens.push(greedy(&logits));
    }
    Ok(())
}
