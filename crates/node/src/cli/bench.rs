//! `lockstep bench`: speed on models of known shapes with random weights, with and without
//! receipts.
//!
//! Speed depends on shapes and formats, not on what weights say, so weights are random; each
//! layer has its own memory, so that they are really streamed. Prefill and decode are timed as a
//! node serves them: prompts in chunks, then one token at a time. With `--trace` every run without
//! receipts is followed by one of the same tokens with them, through as many stages as asked for,
//! signatures included; the overhead is the ratio of the medians.

use super::CommandResult;
use super::compute::ComputeArgs;
use super::import::Weights;
use crate::bundles;
use crate::local::PREFILL_CHUNK;
use crate::output::Progress;
use crate::p2p::random_key;
use lockstep_base::Digest;
use lockstep_base::config::{FeedForward, ModelConfig, OPSET, Positions};
use lockstep_base::keys::NodeKey;
use lockstep_base::leaf::TaskSecret;
use lockstep_base::limits::{SPAN_TOKENS, STAGES_MAX};
use lockstep_base::params::Parameters;
use lockstep_base::part::Part;
use lockstep_base::receipt::{FLAG_FULL_TRACE, Receipt, SignedReceipt, state_root};
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::{LayerWeights, Linear, ModelWeights};
use lockstep_runtime::forward::{Engine, ForwardError};
use lockstep_runtime::observe::Silent;
use lockstep_runtime::sample::greedy;
use lockstep_runtime::stage::{StageRun, StepInput, StepOutput, Task};
use lockstep_runtime::synthetic;
use lockstep_runtime::trace::TraceMode;
use serde_json::{Value, json};
use std::error::Error;
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

/// `--shape`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// TinyLlama 1.1B: 22 layers of 2048, 32 heads on 4, feed-forward 5632.
    #[value(name = "llama-1.1b")]
    Llama,
    /// GPT-2 XL: 48 layers of 1600, 25 heads, feed-forward 6400.
    #[value(name = "gpt2-xl")]
    Gpt2,
    /// That of the embedded model.
    Default,
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

impl Shape {
    fn config(self) -> Result<ModelConfig, Box<dyn Error>> {
        let base = |name: &str, d_model: u32| ModelConfig {
            opset: OPSET.into(),
            name: name.into(),
            n_layers: 22,
            d_model,
            n_heads: 32,
            n_kv_heads: 4,
            head_dim: 64,
            d_ffn: 5632,
            vocab: 32_000,
            context: 2048,
            residual_frac: 16,
            // d * 1e-5 * 2^32
            norm_eps: u64::from(d_model) * 42_950,
            positions: Positions::Rope,
            feed_forward: FeedForward::Gated,
            bos: None,
            eos: Vec::new(),
        };
        match self {
            Shape::Llama => Ok(base("llama-1.1b", 2048)),
            Shape::Gpt2 => Ok(ModelConfig {
                n_layers: 48,
                n_heads: 25,
                n_kv_heads: 25,
                d_ffn: 6400,
                vocab: 50_257,
                context: 1024,
                positions: Positions::Learned,
                feed_forward: FeedForward::Plain,
                ..base("gpt2-xl", 1600)
            }),
            Shape::Default => Ok(bundles::open(None)?.config().clone()),
        }
    }
}

/// Runs the command.
pub fn run(args: BenchArgs) -> CommandResult {
    let config = args.shape.config()?;
    let tokens = args.prompt + args.generate;
    if args.prompt == 0 || args.generate == 0 || args.runs == 0 {
        return Err("--prompt, --generate and --runs are at least 1".into());
    }
    if tokens > config.context as usize {
        return Err(format!("--prompt + --generate = {tokens}, expected at most the context of {}: {}", config.name, config.context).into());
    }
    if args.stages == 0 || args.stages as usize > STAGES_MAX.min(config.n_layers as usize) {
        return Err(format!("--stages {}, expected 1 to {}", args.stages, STAGES_MAX.min(config.n_layers as usize)).into());
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
        print_text(&result);
    }
    println!("{result}");
    Ok(())
}

fn print_text(result: &Value) {
    let speeds = |of: &Value| {
        let speed = |key: &str| of[key].as_f64().unwrap_or_default();
        format!("prefill {:.1} tokens/s, decode {:.1} tokens/s", speed("prefill_tokens_per_second"), speed("decode_tokens_per_second"))
    };
    println!("{}", speeds(result));
    if let Some(trace) = result.get("trace") {
        let percent = |key: &str| trace[key].as_f64().unwrap_or_default();
        println!(
            "with receipts: {} ({:+.2} % and {:+.2} %)",
            speeds(trace),
            percent("prefill_overhead_percent"),
            percent("decode_overhead_percent")
        );
    }
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
fn plain_run(engine: &Engine, prompt: &[u32], generate: usize, times: &mut Times) -> Result<Vec<u32>, ForwardError> {
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

/// The loop that both kinds of runs time: `step` computes tokens and gives the next one.
fn run_timed(
    prompt: &[u32],
    generate: usize,
    times: &mut Times,
    step: &mut dyn FnMut(&[u32], bool) -> Result<u32, ForwardError>,
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

/// A route in one process: every stage hashes and signs as a node does.
struct Stages {
    stages: Vec<(Part, Engine, NodeKey)>,
    mode: TraceMode,
}

impl Stages {
    fn new(engine: &Engine, trace: Trace, count: u32) -> Stages {
        let stage = |part: Part| {
            let weights = Arc::new(engine.weights.restrict(&part));
            (part, Engine::new(weights, engine.compute.clone()), random_key())
        };
        let stages = Part::split(engine.weights.config.n_layers, count).into_iter().map(stage).collect();
        Stages { stages, mode: if trace == Trace::Full { TraceMode::Full } else { TraceMode::Boundary } }
    }

    /// The answer, and the receipts that were signed.
    fn run(&self, prompt: &[u32], generate: usize, times: &mut Times) -> Result<(Vec<u32>, usize), ForwardError> {
        let parameters = Parameters::greedy(generate as u32);
        let secret = TaskSecret(Digest::of(&[b"bench"]).0);
        let mut route: Vec<Signer<'_>> = (0u16..)
            .zip(&self.stages)
            .map(|(index, stage)| Signer::new(index, stage, self.mode, &secret, &parameters))
            .collect();
        let sample_from = prompt.len() as u32 - 1;
        let answer = run_timed(prompt, generate, times, &mut |tokens, _| step(&mut route, tokens, sample_from))?;
        Ok((answer, route.iter().map(|signer| signer.receipts.len()).sum()))
    }
}

/// One step through all stages; the sampled token, if one was.
fn step(route: &mut [Signer<'_>], tokens: &[u32], sample_from: u32) -> Result<u32, ForwardError> {
    let mut rows = Vec::new();
    for signer in route {
        let input = if signer.run.part().embed { StepInput::Tokens(tokens) } else { StepInput::Rows(&rows) };
        let output = signer.run.step(input, sample_from, &mut Silent)?;
        signer.sign_spans();
        match output {
            StepOutput::Rows(next) => rows = next,
            StepOutput::Sampled(sampled) => return Ok(sampled.last().map_or(0, |last| last.token)),
        }
    }
    Ok(0)
}

/// A stage that signs each span of 32 tokens when it is full.
struct Signer<'a> {
    run: StageRun,
    key: &'a NodeKey,
    blank: Receipt,
    closed: u32,
    receipts: Vec<SignedReceipt>,
}

impl<'a> Signer<'a> {
    fn new(index: u16, stage: &'a (Part, Engine, NodeKey), mode: TraceMode, secret: &TaskSecret, parameters: &Parameters) -> Signer<'a> {
        let (part, engine, key) = stage;
        let task = Task {
            secrets: secret.stage(index),
            parameters: parameters.clone(),
            sampler_seed: Digest::ZERO,
            mode,
            keep_leaves: false,
            top_logprobs: None,
        };
        let blank = Receipt {
            task: Digest::of(&[b"bench task"]),
            model_root: Digest::ZERO,
            opset: OPSET.into(),
            part: *part,
            stage: index,
            first_token: 0,
            token_count: 0,
            parameters: parameters.digest(),
            masks: Digest::ZERO,
            adapters: Digest::ZERO,
            sampler_seed: Digest::ZERO,
            in_root: Digest::ZERO,
            out_root: Digest::ZERO,
            state_root: Digest::ZERO,
            code: Digest::ZERO,
            previous: Digest::ZERO,
            audit_class: Digest::ZERO,
            flags: if mode == TraceMode::Full { FLAG_FULL_TRACE } else { 0 },
            commit_in: Digest::ZERO,
            commit_out: Digest::ZERO,
        };
        Signer { run: StageRun::new(engine.clone(), *part, task), key, blank, closed: 0, receipts: Vec::new() }
    }

    fn sign_spans(&mut self) {
        while self.run.position() - self.closed >= SPAN_TOKENS {
            let span = self.closed..self.closed + SPAN_TOKENS;
            let roots = self.run.close_span(span.clone());
            self.receipts.push(
                Receipt {
                    first_token: span.start,
                    token_count: SPAN_TOKENS,
                    in_root: roots.in_root,
                    out_root: roots.out_root,
                    state_root: state_root(&roots.kv_root, &roots.trace_root),
                    previous: self.receipts.last().map_or(Digest::ZERO, |last| last.receipt.struct_hash()),
                    ..self.blank.clone()
                }
                .sign(self.key),
            );
            self.closed = span.end;
        }
    }
}

/// Bytes that decoding one token reads: all matrices.
fn weight_bytes(weights: &ModelWeights) -> usize {
    let linear = |linear: &Linear| linear.codes.len() + linear.table_ids.len();
    let layer = |layer: &LayerWeights| {
        let all = [Some(&layer.q), Some(&layer.k), Some(&layer.v), Some(&layer.o), layer.gate.as_ref(), Some(&layer.up), Some(&layer.down)];
        all.into_iter().flatten().map(linear).sum::<usize>()
    };
    weights.layers.iter().map(layer).sum::<usize>() + weights.head.as_ref().map_or(0, linear)
}
