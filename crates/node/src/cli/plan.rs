//! `lockstep plan`: how many machines a model takes, what each of them holds, and what speed to expect.
//!
//! ```text
//! stage time   = layers * seconds of one layer, measured here at real width (+ the head, by its bytes)
//! hop          = latency + bytes of a residual row (4 a channel) / bandwidth
//! single       = 1 / (sum of stage times + (machines - 1) hops + 2 latencies for the token)
//! aggregated   = min(sessions / the same sum at batch b, b / largest stage time at batch b),
//!                b = sessions / machines, at most 8: while one batch is in a machine, others are in the others
//! prefill      = chunk / largest stage time of a chunk, or what the network lets through
//! ```
//! Beside the largest models stand the published figures of Petals (Borzunov et al., ACL 2023, table of BLOOM-176B
//! in 8 bits, sequence length 128).

mod measure;
mod place;
mod sizes;

use super::CommandResult;
use super::bench::Shape;
use super::compute::ComputeArgs;
use super::import::Weights;
use crate::bundles;
use crate::output::table;
use lockstep_base::config::ModelConfig;
use lockstep_base::manifest::EntryKind;
use lockstep_base::weights::WeightFormat;
use lockstep_model::bundle::Bundle;
use measure::{BATCH, CHUNK, Speed};
use place::Machine;
use serde_json::{Value, json};
pub(super) use sizes::Sizes;
use std::error::Error;
use std::io::{Write as _, stdout};
use std::path::PathBuf;

/// Share of a machine's memory that is left to its system.
const RESERVED_SHARE: f64 = 0.1;
/// Most memory of a machine, in GiB.
const MEMORY_GIB_MAX: f64 = 65_536.0;
const GIB: f64 = (1u64 << 30) as f64;

/// Say how many machines a model takes, what each holds, and what speed to expect.
///
/// One layer of the shape is run here at its real width with random weights; the machines of the plan
/// are taken to be like this one.
///
/// Examples:
///   lockstep plan --shape bloom-176b --memory 16
///   lockstep plan --shape llama-3-70b --weights int4 --memory 32 --sessions 16 --latency 20 --bandwidth 100
///   lockstep plan --bundle model.lockstep --memory 4 --json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct PlanArgs {
    /// Shape of the model
    #[arg(long, value_enum, required_unless_present = "bundle", conflicts_with = "bundle")]
    shape: Option<Shape>,
    /// Bundle to serve, instead of a shape
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// How weights are stored, with --shape
    #[arg(long, value_enum, default_value_t = Weights::Int4)]
    weights: Weights,
    /// Memory of each machine in GiB
    #[arg(long, value_name = "GIB", default_value_t = 16.0)]
    memory: f64,
    /// Positions of each session [default: 2048, or the context where that is less]
    #[arg(long, value_name = "N")]
    context: Option<u32>,
    /// Sessions at the same time
    #[arg(long, value_name = "N", default_value_t = 8)]
    sessions: u32,
    /// Milliseconds that a message takes from one machine to the next
    #[arg(long, value_name = "MS", default_value_t = 10.0)]
    latency: f64,
    /// Megabits per second between machines
    #[arg(long, value_name = "MBIT", default_value_t = 100.0)]
    bandwidth: f64,
    #[command(flatten)]
    compute: ComputeArgs,
    /// The JSON object and nothing else
    #[arg(long)]
    json: bool,
}

/// The model that is placed.
struct Model {
    config: ModelConfig,
    format: WeightFormat,
    sizes: Sizes,
}

impl PlanArgs {
    fn model(&self) -> Result<Model, Box<dyn Error>> {
        if let Some(path) = &self.bundle {
            let bundle = bundles::open(Some(path))?;
            let (config, sizes) = (bundle.config().clone(), Sizes::of_bundle(&bundle));
            return Ok(Model { config, format: format_of(&bundle), sizes });
        }
        let shape = self.shape.unwrap_or(Shape::Default);
        let (config, format) = (shape.config()?, self.weights.format());
        let sizes = Sizes::new(&config, format, shape.biased());
        Ok(Model { config, format, sizes })
    }

    fn check(&self, config: &ModelConfig) -> Result<u32, Box<dyn Error>> {
        let context = self.context.unwrap_or(config.context.min(2048));
        if !(1..=config.context).contains(&context) {
            return Err(format!("--context {context}, expected 1 to {}", config.context).into());
        }
        let positive = |name: &str, value: f64, max: f64| {
            if value > 0.0 && value <= max {
                Ok(())
            } else {
                Err(format!("{name} {value}, expected above 0, at most {max}"))
            }
        };
        positive("--memory", self.memory, MEMORY_GIB_MAX)?;
        positive("--bandwidth", self.bandwidth, 1e7)?;
        positive("--sessions", self.sessions.into(), 1e6)?;
        if !(0.0..=1e5).contains(&self.latency) {
            return Err(format!("--latency {}, expected 0 to 100000", self.latency).into());
        }
        Ok(context)
    }
}

/// The format of a bundle's first matrix stands for all.
fn format_of(bundle: &Bundle) -> WeightFormat {
    let bits = bundle.entries().iter().find_map(|placed| match placed.entry.kind {
        EntryKind::Linear { bits, .. } if placed.entry.name.starts_with("layers.") => Some(bits),
        _ => None,
    });
    match bits {
        Some(4) => WeightFormat::Int4,
        Some(16) => WeightFormat::Int16,
        _ => WeightFormat::Int8,
    }
}

/// Runs the command.
pub fn run(args: PlanArgs) -> CommandResult {
    let model = args.model()?;
    let context = args.check(&model.config)?;
    let compute = args.compute.build()?;
    let speed = measure::measure(&model.config, model.format, &model.sizes, &compute)?;
    let usable = (args.memory * GIB * (1.0 - RESERVED_SHARE)) as u64;
    let positions = u64::from(context) * u64::from(args.sessions);
    let head_layers = model.sizes.head as f64 / model.sizes.layer_read.max(1) as f64;
    let machines = place::place(&model.sizes, model.config.n_layers, positions, usable, head_layers)?;
    let network = Network { latency: args.latency / 1e3, bytes_per_second: args.bandwidth * 1e6 / 8.0 };
    let expected = Expected::new(&model, &machines, speed, &network, args.sessions);
    let (kernel, threads) = (compute.kernel.name(), compute.pool.threads());
    let result = to_json(&args, &model, context, &machines, speed, &expected, kernel, threads);
    if !args.json {
        print(&args, &model, context, &machines, speed, &expected, kernel, threads)?;
    }
    writeln!(stdout(), "{result}")?;
    Ok(())
}

/// Between machines.
struct Network {
    latency: f64,
    bytes_per_second: f64,
}

/// What comes out.
struct Expected {
    /// Seconds of each stage for one token.
    stages: Vec<f64>,
    hop: f64,
    single: f64,
    aggregated: f64,
    batch: u32,
    prefill: f64,
}

impl Expected {
    fn new(model: &Model, machines: &[Machine], speed: Speed, network: &Network, sessions: u32) -> Expected {
        let head = speed.decode * model.sizes.head as f64 / model.sizes.layer_read.max(1) as f64;
        let times = |layer: f64, head: f64| -> Vec<f64> {
            let stage = |machine: &Machine| {
                layer * f64::from(machine.layers.end - machine.layers.start)
                    + if machine.head { head } else { 0.0 }
            };
            machines.iter().map(stage).collect()
        };
        let row = 4.0 * f64::from(model.config.d_model);
        let hop = |rows: f64| network.latency + rows * row / network.bytes_per_second;
        let around = |stages: &[f64], rows: f64| {
            stages.iter().sum::<f64>() + (stages.len() - 1) as f64 * hop(rows) + 2.0 * network.latency
        };
        let largest = |stages: &[f64]| stages.iter().copied().fold(0.0, f64::max);
        let stages = times(speed.decode, head);

        let batch = sessions.div_ceil(machines.len() as u32).clamp(1, BATCH as u32);
        let share = f64::from(batch - 1) / (BATCH - 1) as f64;
        let layer = speed.decode + (speed.batch - speed.decode) * share;
        let batched = times(layer, head * layer / speed.decode);
        let rows = f64::from(batch);
        let by_sessions = f64::from(sessions) / around(&batched, rows);
        let by_machine = rows / largest(&batched);
        let by_network = if machines.len() > 1 { network.bytes_per_second / row } else { f64::INFINITY };

        let chunk = CHUNK as f64;
        let prefill = (chunk / largest(&times(speed.prefill, 0.0))).min(by_network);
        Expected {
            hop: hop(1.0),
            single: 1.0 / around(&stages, 1.0),
            stages,
            aggregated: by_sessions.min(by_machine).min(by_network),
            batch,
            prefill,
        }
    }
}

/// Published figures for the same model: who, where, steps per second.
fn published(config: &ModelConfig) -> &'static [(&'static str, f64)] {
    match config.name.as_str() {
        "bloom-176b" => &[
            ("Petals, 3 A100, 1 Gbit/s, below 5 ms", 1.71),
            ("Petals, 3 A100, 100 Mbit/s, 100 ms", 1.23),
            ("Petals, 14 servers in Europe and America", 0.83),
        ],
        _ => &[],
    }
}

fn assumptions(
    args: &PlanArgs,
    model: &Model,
    context: u32,
    speed: Speed,
    kernel: &str,
    threads: usize,
) -> Vec<String> {
    let row = 4 * model.config.d_model;
    let mut all = vec![
        format!(
            "every machine is like this one: {threads} threads, kernel {kernel}; {} of {} layers were run here at real width with random weights, {CHUNK} positions in the cache",
            speed.layers, model.config.n_layers
        ),
        format!("a layer takes {:.2} ms for a token, {:.2} for {BATCH} tokens of {BATCH} sequences, {:.0} for a chunk of {CHUNK}; the head by its bytes", 1e3 * speed.decode, 1e3 * speed.batch, 1e3 * speed.prefill),
        format!("{:.0} % of --memory is left to the system; the cache holds {} sessions of {context} positions", 100.0 * RESERVED_SHARE, args.sessions),
        format!("between machines {} ms and {} Mbit/s; a token's row has {row} bytes", args.latency, args.bandwidth),
        "no machine fails or waits for another's work; no speculation; receipts cost what `lockstep bench --trace` says".into(),
    ];
    if !published(&model.config).is_empty() {
        all.push("Petals: published, BLOOM-176B in 8 bits on GPUs, sequences of 128 (Borzunov et al. 2023); its steps per second are single-stream tokens per second".into());
    }
    all
}

fn to_json(
    args: &PlanArgs,
    model: &Model,
    context: u32,
    machines: &[Machine],
    speed: Speed,
    expected: &Expected,
    kernel: &str,
    threads: usize,
) -> Value {
    let machine = |(machine, seconds): (&Machine, &f64)| {
        json!({
            "first_layer": machine.layers.start,
            "end_layer": machine.layers.end,
            "embedding": machine.embed,
            "head": machine.head,
            "weight_bytes": machine.weight_bytes,
            "kv_bytes": machine.kv_bytes,
            "decode_seconds": seconds,
        })
    };
    json!({
        "model": model.config.name,
        "layers": model.config.n_layers,
        "bits": match model.format { WeightFormat::Int4 => 4, WeightFormat::Int8 => 8, WeightFormat::Int16 => 16 },
        "memory_gib": args.memory,
        "context": context,
        "sessions": args.sessions,
        "machines": machines.iter().zip(&expected.stages).map(machine).collect::<Vec<_>>(),
        "measured": {
            "kernel": kernel,
            "threads": threads,
            "layers": speed.layers,
            "layer_decode_seconds": speed.decode,
            "layer_batch_seconds": speed.batch,
            "batch": BATCH,
            "layer_prefill_seconds": speed.prefill,
            "chunk": CHUNK,
        },
        "hop_seconds": expected.hop,
        "single_stream_tokens_per_second": expected.single,
        "aggregated_tokens_per_second": expected.aggregated,
        "aggregated_batch": expected.batch,
        "prefill_tokens_per_second": expected.prefill,
        "published": published(&model.config).iter().map(|(who, steps)| json!({ "who": who, "steps_per_second": steps })).collect::<Vec<_>>(),
        "assumptions": assumptions(args, model, context, speed, kernel, threads),
    })
}

fn print(
    args: &PlanArgs,
    model: &Model,
    context: u32,
    machines: &[Machine],
    speed: Speed,
    expected: &Expected,
    kernel: &str,
    threads: usize,
) -> std::io::Result<()> {
    let mut rows =
        vec![["machine", "layers", "weights", "cache", "together", "a token"].map(String::from).to_vec()];
    let gib = |bytes: u64| format!("{:.2} GiB", bytes as f64 / GIB);
    for (index, (machine, seconds)) in machines.iter().zip(&expected.stages).enumerate() {
        let ends = match (machine.embed, machine.head) {
            (true, true) => " + embedding, head",
            (true, false) => " + embedding",
            (false, true) => " + head",
            (false, false) => "",
        };
        rows.push(vec![
            (index + 1).to_string(),
            format!("{}..{}{ends}", machine.layers.start, machine.layers.end),
            gib(machine.weight_bytes),
            gib(machine.kv_bytes),
            gib(machine.weight_bytes + machine.kv_bytes),
            format!("{:.0} ms", 1e3 * seconds),
        ]);
    }
    let mut out = stdout();
    let total: u64 = machines.iter().map(|machine| machine.weight_bytes).sum();
    writeln!(
        out,
        "{}: {} of weights on {} machines of {} GiB",
        model.config.name,
        gib(total),
        machines.len(),
        args.memory
    )?;
    write!(out, "{}", table(&rows))?;
    writeln!(out, "one session      {:.2} tokens/s", expected.single)?;
    let sessions = format!("{} sessions", args.sessions);
    writeln!(
        out,
        "{sessions:15}  {:.2} tokens/s together, {} at a time",
        expected.aggregated, expected.batch
    )?;
    writeln!(out, "prefill          {:.1} tokens/s", expected.prefill)?;
    for (who, steps) in published(&model.config) {
        writeln!(out, "{steps:.2} steps/s      {who}")?;
    }
    writeln!(out, "assumed:")?;
    for assumption in assumptions(args, model, context, speed, kernel, threads) {
        writeln!(out, "- {assumption}")?;
    }
    Ok(())
}
