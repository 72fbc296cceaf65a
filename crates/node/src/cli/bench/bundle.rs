//! `lockstep bench write-bundle` and `lockstep bench open`: how fast a bundle is ready, and how much memory it takes.
//!
//! Opening is measured from the path to weights that may be computed with; verification goes on in the
//! background and is timed to its end, before which no receipt is signed. The file should be in the page cache:
//! from a cold disk one measures the disk.

use super::super::CommandResult;
use super::super::compute::ComputeArgs;
use super::batch::step;
use super::median;
use super::memory::peak_resident;
use super::shape::Shape;
use crate::bundles;
use crate::cli::import::Weights;
use crate::output::bytes;
use lockstep_base::part::Part;
use lockstep_model::bundle::{Contents, TokenizerSection, write_file};
use lockstep_runtime::forward::Engine;
use lockstep_runtime::sample::greedy;
use lockstep_runtime::synthetic;
use serde_json::json;
use std::io::{Write as _, stdout};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

/// Write a bundle of random weights, to measure with.
#[derive(Debug, clap::Args)]
pub(super) struct WriteArgs {
    /// File to write
    out: PathBuf,
    /// Shape of the model
    #[arg(long, value_enum, default_value_t = Shape::Llama1)]
    shape: Shape,
    /// How weights are stored
    #[arg(long, value_enum, default_value_t = Weights::Int8)]
    weights: Weights,
    /// Layers, instead of all
    #[arg(long, value_name = "N")]
    layers: Option<u32>,
}

/// Measure how long a bundle takes to be ready, and how much memory.
///
/// Example:
///   lockstep bench write-bundle /tmp/1g.lockstep --shape llama-1.1b --weights int8
///   lockstep bench open /tmp/1g.lockstep --runs 5 --generate 8 --json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub(super) struct OpenArgs {
    /// Bundle to open
    bundle: PathBuf,
    /// Runs; figures are medians
    #[arg(long, value_name = "N", default_value_t = 5)]
    runs: usize,
    /// Tokens to decode at the end, so that memory is used as in serving
    #[arg(long, value_name = "N", default_value_t = 8)]
    generate: usize,
    #[command(flatten)]
    compute: ComputeArgs,
    /// The JSON object and nothing else
    #[arg(long)]
    json: bool,
}

/// Runs `bench write-bundle`.
pub(super) fn write(args: WriteArgs) -> CommandResult {
    let mut config = args.shape.config()?;
    config.n_layers = args.layers.unwrap_or(config.n_layers);
    config.validate()?;
    let weights = synthetic::model(&config, args.weights.format(), super::SEED);
    // Nobody writes text with random weights.
    let tokenizer = TokenizerSection { kind: "none".into(), file: Vec::new() };
    let contents = Contents { weights: &weights, tokenizer: &tokenizer, chat_template: None };
    let root = write_file(&args.out, &contents)?;
    let size = std::fs::metadata(&args.out)?.len();
    writeln!(stdout(), "{}  {}  model root {}", args.out.display(), bytes(size), root.hex())?;
    Ok(())
}

/// Runs `bench open`.
pub(super) fn open(args: OpenArgs) -> CommandResult {
    if args.runs == 0 {
        return Err("--runs 0, expected at least 1".into());
    }
    let compute = args.compute.build()?;
    let (mut opened, mut verified) = (Vec::new(), Vec::new());
    let mut size = 0;
    let (mut kv_bytes, mut peak) = (0, None);
    for run in 0..args.runs {
        let began = Instant::now();
        let bundle = bundles::open(Some(&args.bundle))?;
        let part = Part::whole(bundle.config().n_layers);
        let (weights, verification) = bundle.load_unverified(&part)?.unverified();
        opened.push(began.elapsed().as_secs_f64());
        verification.wait()?;
        verified.push(began.elapsed().as_secs_f64());
        size = bundle.file_bytes();
        if run == 0 && weights.head.is_some() {
            let engine = Engine::new(Arc::new(weights), compute.clone());
            let mut cache = engine.new_cache();
            let mut token = 0;
            for _ in 0..args.generate {
                token = greedy(&step(&engine, &[token], &mut [&mut cache])?);
            }
            let config = bundle.config();
            let per_token = config.kv_dim() as usize * 3 + config.n_kv_heads as usize * 2;
            kv_bytes = args.generate * config.n_layers as usize * per_token;
        }
        // Later runs may map the file while a thread of the run before still lets go of it.
        peak = peak.or_else(peak_resident);
    }
    let ratio = peak.map(|peak| peak as f64 / (size + kv_bytes as u64) as f64);
    let result = json!({
        "bundle_bytes": size,
        "kv_bytes": kv_bytes,
        "open_seconds": median(&opened),
        "verified_seconds": median(&verified),
        "peak_resident_bytes": peak,
        "peak_to_bundle_and_kv": ratio,
        "open_runs": opened,
        "verified_runs": verified,
    });
    if !args.json {
        let memory = peak.zip(ratio).map_or("unknown".into(), |(peak, ratio)| {
            format!("{} ({ratio:.3} x bundle and KV)", bytes(peak))
        });
        writeln!(
            stdout(),
            "{}: ready in {:.3} s, verified in {:.3} s, peak memory {memory}",
            bytes(size),
            median(&opened),
            median(&verified)
        )?;
    }
    writeln!(stdout(), "{result}")?;
    Ok(())
}
