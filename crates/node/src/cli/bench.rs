//! `lockstep bench`: speed on models of known shapes with random weights, with and without
//! receipts.
//!
//! Speed depends on shapes and formats, not on what weights say, so weights are random; each
//! layer has its own memory, so that they are really streamed. Prefill and decode are timed as a
//! node serves them: prompts in chunks, then one token at a time. With `--trace` every run without
//! receipts is followed by one of the same tokens with them, through as many stages as asked for,
//! signatures included; the overhead is the ratio of the medians.

mod route;
mod shape;

use super::CommandResult;
use super::compute::ComputeArgs;
use super::import::Weights;
use crate::local::PREFILL_CHUNK;
use crate::output::Progress;
use lockstep_base::limits::STAGES_MAX;
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::{LayerWeights, Linear, ModelWeights};
use lockstep_runtime::forward::{Engine, ForwardError};
use lockstep_runtime::observe::Silent;
use lockstep_runtime::sample::greedy;
use lockstep_runtime::synthetic;
use route::Stages;
use serde_json::{Value, json};
pub use shape::Shape;
use std::io::{Write as _, stdout};
use std::sync::Arc;
use std::time::Instant;

/// Seed of weights and prompt.
const SEED: u64 = 1;

/// Measure prefill and decode on random weights.
///
/// Ends with one JSON object: prefill_tokens_per_second and decode_tokens_per_second are medians
/// over the runs. With --trace also those with receipts, and what these cost in percent.
///
/// Examples:
///   lockstep bench --shape llama-1.1b --weights int4 --threads 2 --prompt 512 --generate 64 --json
///   lockstep bench --shape gpt2-xl --weights int8 --trace full --stages 3 --runs 5
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct BenchArgs {
    /// Shape of the model
    #[arg(long, value_enum, default_value_t = Shape::Default)]
    shape: Shape,
    /// How weights are stored
    #[arg(long, value_enum, default_value_t = Weights::Int8)]
    weights: Weights,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 128)]
    prompt: usize,
    /// Tokens to decode after it
    #[arg(long, value_name = "N", default_value_t = 64)]
    generate: usize,
    /// Runs; figures are medians
    #[arg(long, value_name = "N", default_value_t = 3)]
    runs: usize,
    /// Receipts to measure against none
    #[arg(long, value_enum, default_value_t = Trace::Off)]
    trace: Trace,
    /// Stages that sign receipts, with --trace
    #[arg(long, value_name = "N", default_value_t = 3)]
    stages: u32,
    #[command(flatten)]
    compute: ComputeArgs,
    /// The JSON object and nothing else
    #[arg(long)]
    json: bool,
}

/// `--trace`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Trace {
    /// No receipts.
    Off,
    /// Boundaries and KV cache.
    Boundary,
    /// Every op output.
    Full,
}

/// Runs the command.
pub fn run(args: BenchArgs) -> CommandResult {
    let config = args.shape.config()?;
    let tokens = args.prompt + args.generate;
    if args.prompt == 0 || args.generate == 0 || args.runs == 0 {
        return Err("--prompt, --generate and --runs are at least 1".into());
    }
    if tokens > config.context as usize {
        return Err(format!(
            "--prompt + --generate = {tokens}, expected at most the context of {}: {}",
            config.name, config.context
        )
        .into());
    }
    if args.stages == 0 || args.stages as usize > STAGES_MAX.min(config.n_layers as usize) {
        return Err(format!(
            "--stages {}, expected 1 to {}",
            args.stages,
            STAGES_MAX.min(config.n_layers as usize)
        )
        .into());
    }
    let compute = args.compute.build()?;
    let bar = Progress::new("weights", args.runs as u64, args.json);
    let weights = Arc::new(synthetic::model(&config, args.weights.format(), SEED));
    let engine = Engine::new(weights, compute.clone());
    let mut rng = SplitMix64::new(SEED);
    let prompt: Vec<u32> = (0..args.prompt).map(|_| rng.below(config.vocab.into()) as u32).collect();
    let stages = (args.trace != Trace::Off).then(|| Stages::new(&engine, args.trace, args.stages));

    bar.label("running");
    let (mut plain, mut traced) = (Times::default(), Times::default());
    let mut receipts = 0;
    for run in 0..args.runs {
        let answer = plain_run(&engine, &prompt, args.generate, &mut plain)?;
        if let Some(stages) = &stages {
            let (same, count) = stages.run(&prompt, args.generate, &mut traced)?;
            if same != answer {
                return Err("the answer with receipts differs from the one without: this is a defect".into());
            }
            receipts = count;
        }
        bar.set(run as u64 + 1);
    }
    bar.finish();

    let (prompt, generate) = (args.prompt as f64, args.generate as f64);
    let mut result = json!({
        "shape": config.name,
        "weights": args.weights.name(),
        "weight_bytes": weight_bytes(&engine.weights),
        "kernel": compute.kernel.name(),
        "threads": compute.pool.threads(),
        "prompt": args.prompt,
        "generate": args.generate,
        "runs": args.runs,
        "prefill_tokens_per_second": prompt / median(&plain.prefill),
        "decode_tokens_per_second": generate / median(&plain.decode),
        "prefill_seconds": plain.prefill,
        "decode_seconds": plain.decode,
    });
    if stages.is_some() {
        let percent = |traced: &[f64], plain: &[f64]| 100.0 * (median(traced) / median(plain) - 1.0);
        result["trace"] = json!({
            "mode": if args.trace == Trace::Full { "full" } else { "boundary" },
            "stages": args.stages,
            "receipts": receipts,
            "prefill_tokens_per_second": prompt / median(&traced.prefill),
            "decode_tokens_per_second": generate / median(&traced.decode),
            "prefill_overhead_percent": percent(&traced.prefill, &plain.prefill),
            "decode_overhead_percent": percent(&traced.decode, &plain.decode),
            "prefill_seconds": traced.prefill,
            "decode_seconds": traced.decode,
        });
    }
    if !args.json {
        print_text(&result)?;
    }
    writeln!(stdout(), "{result}")?;
    Ok(())
}

fn print_text(result: &Value) -> std::io::Result<()> {
    let speeds = |of: &Value| {
        let speed = |key: &str| of[key].as_f64().unwrap_or_default();
        format!(
            "prefill {:.1} tokens/s, decode {:.1} tokens/s",
            speed("prefill_tokens_per_second"),
            speed("decode_tokens_per_second")
        )
    };
    writeln!(stdout(), "{}", speeds(result))?;
    if let Some(trace) = result.get("trace") {
        let percent = |key: &str| trace[key].as_f64().unwrap_or_default();
        writeln!(
            stdout(),
            "with receipts: {} ({:+.2} % and {:+.2} %)",
            speeds(trace),
            percent("prefill_overhead_percent"),
            percent("decode_overhead_percent")
        )?;
    }
    Ok(())
}

/// Seconds of each run.
#[derive(Default)]
struct Times {
    prefill: Vec<f64>,
    decode: Vec<f64>,
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

/// Without receipts; the greedy answer.
fn plain_run(
    engine: &Engine,
    prompt: &[u32],
    generate: usize,
    times: &mut Times,
) -> Result<Vec<u32>, ForwardError> {
    let mut cache = engine.new_cache();
    let mut step = |tokens: &[u32], sampled: bool| -> Result<u32, ForwardError> {
        let mut x = engine.embed(tokens, cache.len(), &mut Silent)?;
        engine.layers(&mut x, &mut cache, &mut Silent)?;
        if !sampled {
            return Ok(0);
        }
        let last = &x[x.len() - engine.width()..];
        Ok(greedy(&engine.logits(last, &[cache.len() - 1], &mut Silent)?))
    };
    run_timed(prompt, generate, times, &mut step)
}

/// Computes tokens; gives the next one where that is asked for.
type Step<'a> = dyn FnMut(&[u32], bool) -> Result<u32, ForwardError> + 'a;

/// The loop that both kinds of runs time.
fn run_timed(
    prompt: &[u32],
    generate: usize,
    times: &mut Times,
    step: &mut Step<'_>,
) -> Result<Vec<u32>, ForwardError> {
    let began = Instant::now();
    let chunks = prompt.chunks(PREFILL_CHUNK);
    let last = chunks.len() - 1;
    let mut token = 0;
    for (index, chunk) in chunks.enumerate() {
        token = step(chunk, index == last)?;
    }
    let first = Instant::now();
    let mut answer = Vec::with_capacity(generate);
    for _ in 0..generate {
        token = step(&[token], true)?;
        answer.push(token);
    }
    times.prefill.push((first - began).as_secs_f64());
    times.decode.push(first.elapsed().as_secs_f64());
    Ok(answer)
}

/// Bytes that decoding one token reads: all matrices.
fn weight_bytes(weights: &ModelWeights) -> usize {
    let linear = |linear: &Linear| linear.codes.len() + linear.table_ids.len();
    let layer = |layer: &LayerWeights| {
        let all = [Some(&layer.q), Some(&layer.k), Some(&layer.v), Some(&layer.o)];
        let ffn =
            layer.ffn.networks().iter().flat_map(|one| [one.gate.as_ref(), Some(&one.up), Some(&one.down)]);
        all.into_iter().chain(ffn).flatten().map(linear).sum::<usize>()
    };
    weights.layers.iter().map(layer).sum::<usize>() + weights.head.as_ref().map_or(0, linear)
}
