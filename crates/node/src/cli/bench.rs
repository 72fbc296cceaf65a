//! `lockstep bench`: speed on models of known shapes with random weights, with and without
//! receipts, and beside llama.cpp.
//!
//! Speed depends on shapes and formats, not on what weights say, so weights are random; each
//! layer has its own memory, so that they are really streamed. Prefill and decode are timed as a
//! node serves them: prompts in chunks, then one token at a time (or one for each sequence of a batch). With `--trace`
//! every run without receipts is followed by one of the same tokens with them, through as many stages as asked for,
//! signatures included; the overhead is the ratio of the medians. With `--vs` every run is followed by one of
//! the rival. `seed-table` is another measurement.

mod batch;
mod bundle;
mod memory;
mod prove;
mod rival;
mod route;
pub mod seed_table;
mod shape;
mod times;

use super::CommandResult;
use super::compute::ComputeArgs;
use super::import::Weights;
use crate::local::PREFILL_CHUNK;
use crate::output::Progress;
use batch::Sequences;
use lockstep_base::config::ModelConfig;
use lockstep_base::limits::STAGES_MAX;
use lockstep_base::rng::SplitMix64;
use lockstep_runtime::forward::{Engine, ForwardError};
use lockstep_runtime::observe::Silent;
use lockstep_runtime::sample::greedy;
use lockstep_runtime::synthetic;
pub(super) use memory::{available, peak_resident, token_bytes};
use rival::{LlamaCpp, Rival};
use route::Stages;
use serde_json::{Value, json};
pub use shape::Shape;
use std::io::{Write as _, stdout};
use std::path::PathBuf;
use std::sync::Arc;
pub(super) use times::{Spent, Stopwatch, Times, cpu_seconds, median};

/// Seed of weights and prompt.
const SEED: u64 = 1;
/// Runs without --runs.
const RUNS: usize = 3;
/// The same beside a rival.
const RUNS_BESIDE: usize = 5;
/// Sequences of a batch without --batch.
const BATCH: usize = 8;

/// Measure prefill, decode and batches on random weights.
///
/// Ends with one JSON object: prefill_tokens_per_second and decode_tokens_per_second are medians
/// over the runs; decode_share_of_ceiling is the share of the memory bandwidth measured in the same
/// runs that decoding reaches. With --batch N also N sequences at once, each compared bit for bit with
/// computing it alone; with --trace the speeds with receipts, and what these cost in percent;
/// with --vs llama.cpp the rival's figures and the ratios.
///
/// Examples:
///   lockstep bench --shape llama-1.1b --weights int4 --threads 2 --prompt 512 --generate 64 --json
///   lockstep bench --shape llama-1.1b --mode batch --batch 8
///   lockstep bench --shape llama-1.1b --weights int4 --prompt 512 --vs llama.cpp --rival-python VENV/bin/python
///   lockstep bench --shape gpt2-xl --weights int8 --trace full --stages 3 --runs 5
///   lockstep bench prove --shape gpt2-small --layers 1
///   lockstep bench open model.lockstep
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, args_conflicts_with_subcommands = true)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: Option<BenchCommand>,
    #[command(flatten)]
    speed: SpeedArgs,
}

#[derive(Debug, clap::Subcommand)]
enum BenchCommand {
    SeedTable(seed_table::SeedTableArgs),
    Prove(prove::ProveArgs),
    Open(bundle::OpenArgs),
    #[command(hide = true)]
    WriteBundle(bundle::WriteArgs),
}

#[derive(Debug, clap::Args)]
struct SpeedArgs {
    /// Shape of the model
    #[arg(long, value_enum, default_value_t = Shape::Default)]
    shape: Shape,
    /// How weights are stored
    #[arg(long, value_enum, default_value_t = Weights::Int8)]
    weights: Weights,
    /// Layers, instead of all of the shape
    #[arg(long, value_name = "N")]
    layers: Option<u32>,
    /// What to measure [default: prefill and decode, and batch with --batch]
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// Tokens of the prompt
    #[arg(long, value_name = "N", default_value_t = 128)]
    prompt: usize,
    /// Tokens to decode after it
    #[arg(long, value_name = "N", default_value_t = 64)]
    generate: usize,
    /// Sequences to decode at once [default: 8 with --mode batch]
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Runs; figures are medians [default: 3, beside a rival 5]
    #[arg(long, value_name = "N")]
    runs: Option<usize>,
    /// Receipts to measure against none
    #[arg(long, value_enum, default_value_t = Trace::Off)]
    trace: Trace,
    /// Stages that sign receipts, with --trace
    #[arg(long, value_name = "N", default_value_t = 3)]
    stages: u32,
    /// Engine to run in turn with this one
    #[arg(long, value_enum, value_name = "ENGINE")]
    vs: Option<Rival>,
    /// Python with llama-cpp-python [default: that of LOCKSTEP_RIVAL_PYTHON]
    #[arg(long, value_name = "PATH")]
    rival_python: Option<PathBuf>,
    /// The rival's type of weights [default: q8_0 beside int8, q4_0 beside int4]
    #[arg(long, value_name = "TYPE")]
    rival_weights: Option<String>,
    /// Folder that keeps the rival's model files [default: a temporary one]
    #[arg(long, value_name = "FOLDER")]
    rival_cache: Option<PathBuf>,
    #[command(flatten)]
    compute: ComputeArgs,
    /// The JSON object and nothing else
    #[arg(long)]
    json: bool,
}

/// `--mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Mode {
    /// The prompt only.
    Prefill,
    /// One token at a time, after the prompt.
    Decode,
    /// One token for each of many sequences at a time.
    Batch,
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
    match args.command {
        Some(BenchCommand::SeedTable(args)) => seed_table::run(args),
        Some(BenchCommand::Prove(args)) => prove::run(args),
        Some(BenchCommand::Open(args)) => bundle::open(args),
        Some(BenchCommand::WriteBundle(args)) => bundle::write(args),
        None => speed(args.speed),
    }
}

/// What is measured, from flags that fit each other.
struct Plan {
    config: ModelConfig,
    runs: usize,
    prefill: bool,
    decode: bool,
    batch: Option<usize>,
}

impl SpeedArgs {
    fn plan(&self) -> Result<Plan, Box<dyn std::error::Error>> {
        let mut config = self.shape.config()?;
        config.n_layers = self.layers.unwrap_or(config.n_layers);
        config.validate()?;
        let tokens = self.prompt.saturating_add(self.generate);
        let runs = self.runs.unwrap_or(if self.vs.is_some() { RUNS_BESIDE } else { RUNS });
        let batch = self.batch.or((self.mode == Some(Mode::Batch)).then_some(BATCH));
        if self.prompt == 0 || self.generate == 0 || runs == 0 || batch == Some(0) {
            return Err("--prompt, --generate, --batch and --runs are at least 1".into());
        }
        if tokens > config.context as usize {
            let (name, context) = (&config.name, config.context);
            return Err(format!(
                "--prompt + --generate = {tokens}, expected at most the context of {name}: {context}"
            )
            .into());
        }
        let stages_max = STAGES_MAX.min(config.n_layers as usize);
        if self.trace != Trace::Off && (self.stages == 0 || self.stages as usize > stages_max) {
            return Err(format!("--stages {}, expected 1 to {stages_max}", self.stages).into());
        }
        let one_by_one = matches!(self.mode, None | Some(Mode::Prefill | Mode::Decode));
        if !one_by_one && (self.vs.is_some() || self.trace != Trace::Off) {
            return Err("--vs and --trace measure prefill and decode: leave out --mode batch".into());
        }
        if self.vs.is_some() && self.layers.is_some() {
            return Err("--vs measures whole shapes: leave out --layers".into());
        }
        let needed = estimate(&config, self.weights);
        if let Some(free) = available().filter(|free| *free < needed) {
            let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
            return Err(format!(
                "{} in {} takes {:.1} GiB, {:.1} are free: take fewer --layers",
                config.name,
                self.weights.name(),
                gib(needed),
                gib(free)
            )
            .into());
        }
        Ok(Plan {
            config,
            runs,
            prefill: matches!(self.mode, None | Some(Mode::Prefill)),
            decode: matches!(self.mode, None | Some(Mode::Decode)),
            batch,
        })
    }

    fn rival_weights(&self) -> &str {
        let own = if self.weights == Weights::Int4 { "q4_0" } else { "q8_0" };
        self.rival_weights.as_deref().unwrap_or(own)
    }
}

/// Bytes of a model's weights.
fn estimate(config: &ModelConfig, weights: Weights) -> u64 {
    let sizes = super::plan::Sizes::new(config, weights.format(), false);
    sizes.embed + sizes.head + u64::from(config.n_layers) * sizes.layer
}

fn speed(args: SpeedArgs) -> CommandResult {
    let plan = args.plan()?;
    let compute = args.compute.build()?;
    let mut rival = match args.vs {
        Some(Rival::LlamaCpp) => Some(LlamaCpp::find(args.rival_python.clone(), args.rival_cache.clone())?),
        None => None,
    };
    let bar = Progress::new("weights", plan.runs as u64, args.json);
    let weights = Arc::new(synthetic::model(&plan.config, args.weights.format(), SEED));
    let engine = Engine::new(weights, compute.clone());
    let mut rng = SplitMix64::new(SEED);
    let prompt: Vec<u32> = (0..args.prompt).map(|_| rng.below(plan.config.vocab.into()) as u32).collect();
    let stages = (args.trace != Trace::Off).then(|| Stages::new(&engine, args.trace, args.stages));
    let mut batch = match plan.batch {
        Some(count) => Some(Sequences::new(&engine, count, args.prompt, args.generate, SEED)?),
        None => None,
    };
    let generate = if plan.decode { args.generate } else { 0 };
    let alone = plan.prefill || plan.decode;

    bar.label("running");
    let (mut plain, mut traced, mut ceiling) = (Times::default(), Times::default(), 0f64);
    let mut receipts = 0;
    if rival.is_some() {
        // The rival warms up too.
        plain_run(&engine, &prompt, generate.min(1), &mut Times::default())?;
    }
    for run in 0..plan.runs {
        if alone {
            let answer = plain_run(&engine, &prompt, generate, &mut plain)?;
            if let Some(stages) = &stages {
                let (same, count) = stages.run(&prompt, generate, &mut traced)?;
                if same != answer {
                    return Err(
                        "the answer with receipts differs from the one without: this is a defect".into()
                    );
                }
                receipts = count;
            }
        }
        if let Some(batch) = &mut batch {
            batch.round()?;
        }
        ceiling = ceiling.max(memory::ceiling(&engine.weights, &compute));
        if let Some(rival) = &mut rival {
            rival.round(&rival::Run {
                shape: &plan.config.name,
                weights: args.rival_weights(),
                threads: compute.pool.threads(),
                prompt: args.prompt,
                generate: args.generate,
            })?;
        }
        bar.set(run as u64 + 1);
    }
    bar.finish();

    let bytes = token_bytes(&engine.weights);
    let mut result = json!({
        "shape": plan.config.name,
        "layers": plan.config.n_layers,
        "weights": args.weights.name(),
        "weight_bytes": bytes,
        "kernel": compute.kernel.name(),
        "threads": compute.pool.threads(),
        "prompt": args.prompt,
        "generate": args.generate,
        "runs": plan.runs,
        "memory_ceiling_bytes_per_second": ceiling,
        "peak_resident_bytes": memory::peak_resident(),
    });
    let speeds =
        [args.prompt as f64 / median(&plain.prefill.wall), generate as f64 / median(&plain.decode.wall)];
    if plan.prefill {
        result["prefill_tokens_per_second"] = json!(speeds[0]);
        result["prefill_seconds"] = json!(plain.prefill.wall);
    }
    if plan.decode {
        result["decode_tokens_per_second"] = json!(speeds[1]);
        result["decode_bytes_per_second"] = json!(speeds[1] * bytes as f64);
        result["decode_share_of_ceiling"] = json!(speeds[1] * bytes as f64 / ceiling);
        result["decode_seconds"] = json!(plain.decode.wall);
    }
    if let Some(batch) = &batch {
        result["batch"] = batch.report();
    }
    if stages.is_some() && alone {
        result["trace"] = trace_report(&args, &plain, &traced, generate, receipts);
    }
    if let Some(rival) = &rival {
        let measured = [plan.prefill.then_some(speeds[0]), plan.decode.then_some(speeds[1])];
        result["rival"] = rival.report(measured);
    }
    if !args.json {
        print_text(&result)?;
    }
    writeln!(stdout(), "{result}")?;
    Ok(())
}

fn trace_report(args: &SpeedArgs, plain: &Times, traced: &Times, generate: usize, receipts: usize) -> Value {
    let percent = |traced: &[f64], plain: &[f64]| 100.0 * (median(traced) / median(plain) - 1.0);
    let wall = |traced: &Spent, plain: &Spent| percent(&traced.wall, &plain.wall);
    let cpu = |traced: &Spent, plain: &Spent| percent(&traced.cpu, &plain.cpu);
    json!({
        "mode": if args.trace == Trace::Full { "full" } else { "boundary" },
        "stages": args.stages,
        "receipts": receipts,
        "prefill_tokens_per_second": args.prompt as f64 / median(&traced.prefill.wall),
        "decode_tokens_per_second": generate as f64 / median(&traced.decode.wall),
        "prefill_overhead_percent": wall(&traced.prefill, &plain.prefill),
        "decode_overhead_percent": wall(&traced.decode, &plain.decode),
        "prefill_cpu_overhead_percent": cpu(&traced.prefill, &plain.prefill),
        "decode_cpu_overhead_percent": cpu(&traced.decode, &plain.decode),
        "prefill_seconds": traced.prefill.wall,
        "decode_seconds": traced.decode.wall,
        "prefill_cpu_seconds": traced.prefill.cpu,
        "decode_cpu_seconds": traced.decode.cpu,
    })
}

fn print_text(result: &Value) -> std::io::Result<()> {
    let number = |of: &Value, key: &str| of[key].as_f64();
    let speeds = |of: &Value| {
        let named = [("prefill", "prefill_tokens_per_second"), ("decode", "decode_tokens_per_second")];
        let known =
            named.iter().filter_map(|(name, key)| Some(format!("{name} {:.1} tokens/s", number(of, key)?)));
        known.collect::<Vec<_>>().join(", ")
    };
    let mut out = stdout();
    let alone = speeds(result);
    if !alone.is_empty() {
        writeln!(out, "{alone}")?;
    }
    if let Some(rate) = number(result, "decode_bytes_per_second") {
        let ceiling = number(result, "memory_ceiling_bytes_per_second").unwrap_or_default();
        let (share, giga) = (100.0 * rate / ceiling, 1e9);
        let (rate, ceiling) = (rate / giga, ceiling / giga);
        writeln!(
            out,
            "decode reads {rate:.1} GB/s of weights, {share:.0} % of the {ceiling:.1} GB/s of a plain read"
        )?;
    }
    if let Some(batch) = result.get("batch") {
        let figure = |key: &str| number(batch, key).unwrap_or_default();
        writeln!(
            out,
            "batch of {}: {:.1} tokens/s, {:.2} x one sequence ({:.1}); every sequence has the bits of computing it alone",
            batch["sequences"],
            figure("tokens_per_second"),
            figure("ratio_to_one_sequence"),
            figure("one_sequence_tokens_per_second")
        )?;
    }
    if let Some(trace) = result.get("trace") {
        let percent = |key: &str| number(trace, key).unwrap_or_default();
        writeln!(
            out,
            "with receipts: {} ({:+.2} % and {:+.2} % time, {:+.2} % and {:+.2} % computing)",
            speeds(trace),
            percent("prefill_overhead_percent"),
            percent("decode_overhead_percent"),
            percent("prefill_cpu_overhead_percent"),
            percent("decode_cpu_overhead_percent")
        )?;
    }
    if let Some(rival) = result.get("rival") {
        let keys = ["prefill_ratio", "decode_ratio"];
        let ratios = keys.iter().filter_map(|key| Some(format!("{:.2} x", number(rival, key)?)));
        writeln!(
            out,
            "llama.cpp {}: {} ({})",
            rival["weights"].as_str().unwrap_or_default(),
            speeds(rival),
            ratios.collect::<Vec<_>>().join(" and ")
        )?;
    }
    Ok(())
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
    let watch = Stopwatch::start();
    let chunks = prompt.chunks(PREFILL_CHUNK);
    let last = chunks.len() - 1;
    let mut token = 0;
    for (index, chunk) in chunks.enumerate() {
        token = step(chunk, index == last)?;
    }
    watch.stop(&mut times.prefill);
    let watch = Stopwatch::start();
    let mut answer = Vec::with_capacity(generate);
    for _ in 0..generate {
        token = step(&[token], true)?;
        answer.push(token);
    }
    watch.stop(&mut times.decode);
    Ok(answer)
}
