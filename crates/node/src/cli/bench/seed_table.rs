//! `lockstep bench seed-table`: the table of small networks and GPT-2 XL that verifiable inference is compared by, with
//! our column measured in this run.
//!
//! The others' figures are the published ones, on their machines: RisQ, EZKL and DDKang are proofs, Oyster is a
//! trusted execution environment (GPT-2 XL on 12 and 16 vCPUs). Ours are exact integers without receipts on this
//! machine, and for the small networks what a succinct proof of the same run costs; with `--vs ezkl` EZKL proves the same
//! networks in the same run. There is no proof of GPT-2 XL here, and no attestation yet.

mod proofs;
mod row;
mod small;

use super::shape::Shape;
use super::{Times, median, plain_run};
use crate::cli::CommandResult;
use crate::cli::compute::ComputeArgs;
use crate::cli::import::Weights;
use crate::output::Progress;
use lockstep_base::rng::SplitMix64;
use lockstep_runtime::forward::Engine;
use lockstep_runtime::kernels::Compute;
use lockstep_runtime::synthetic;
use proofs::Ezkl;
use row::{Measured, Row, Theirs};
use serde_json::json;
use std::io::{Write as _, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Seed of weights, prompts and inputs that are random.
const SEED: u64 = 1;
/// Runs at most: figures are medians, and GPT-2 XL takes seconds.
const RUNS_MAX: usize = 1000;
/// The prompt of the published figure.
pub const PROMPT: &str = "Ethereum is the community-run technology";
/// Its tokens in GPT-2's vocabulary: E|thereum| is| the| community|-|run| technology.
pub const PROMPT_TOKENS: usize = 8;
/// Oyster's figures for GPT-2 XL: tokens generated, tokens per second, vCPUs.
const GPT2_XL: [(usize, f64, u32); 2] = [(36, 1.63, 12), (50, 4.30, 16)];

/// Measure the small networks and GPT-2 XL of the published comparison.
///
/// Iris models are part of this program. Iris data and LeNet-5 come from --data; without it Iris
/// inputs are random and LeNet-5 is left out. GPT-2 XL has random weights and a random prompt of as
/// many tokens as the published one: speed depends on shapes, not on what weights say.
///
/// Examples:
///   lockstep bench seed-table
///   lockstep bench seed-table --runs 5 --threads 2 --data ../shared/data --json
///   lockstep bench seed-table --rows iris-ols,iris-nn,lenet --vs ezkl --rival-python VENV/bin/python
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct SeedTableArgs {
    /// Runs; figures are medians
    #[arg(long, value_name = "N", default_value_t = 5)]
    runs: usize,
    /// Rows to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Which::IrisOls, Which::IrisNn, Which::Lenet, Which::Gpt2Xl])]
    rows: Vec<Which>,
    /// How the weights of GPT-2 XL are stored
    #[arg(long, value_enum, default_value_t = Weights::Int4)]
    weights: Weights,
    /// Folder with iris/iris.csv, mnist-models/lenet5-32x32.onnx and mnist-t10k/
    #[arg(long, value_name = "DIR", env = "LOCKSTEP_DATA")]
    data: Option<PathBuf>,
    /// Prover to run on one input of each small network, beside ours
    #[arg(long, value_enum, value_name = "PROVER")]
    vs: Option<Prover>,
    /// Python with ezkl [default: that of LOCKSTEP_RIVAL_PYTHON]
    #[arg(long, value_name = "PATH")]
    rival_python: Option<PathBuf>,
    #[command(flatten)]
    compute: ComputeArgs,
    /// One JSON object and nothing else
    #[arg(long)]
    json: bool,
}

/// `--vs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Prover {
    /// EZKL (PyPI).
    Ezkl,
}

/// What the small networks are measured with.
struct Bench<'a> {
    compute: &'a Compute,
    runs: usize,
    data: Option<&'a Path>,
    ezkl: Option<Ezkl>,
}

/// `--rows`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Which {
    /// Least squares on Iris.
    IrisOls,
    /// A small network on Iris.
    IrisNn,
    /// LeNet-5 on MNIST.
    Lenet,
    /// GPT-2 XL, random weights.
    Gpt2Xl,
}

/// Runs the command.
pub fn run(args: SeedTableArgs) -> CommandResult {
    if !(1..=RUNS_MAX).contains(&args.runs) {
        return Err(format!("--runs {}, expected 1 to {RUNS_MAX}", args.runs).into());
    }
    let compute = args.compute.build()?;
    let ezkl = args.vs.map(|Prover::Ezkl| Ezkl::find(args.rival_python.clone())).transpose()?;
    let bench = Bench { compute: &compute, runs: args.runs, data: args.data.as_deref(), ezkl };
    let bar = Progress::new("measuring", args.rows.len() as u64, args.json);
    let mut rows = Vec::new();
    for (index, which) in args.rows.iter().enumerate() {
        match which {
            Which::IrisOls => rows.push(small::iris_ols(&bench)?),
            Which::IrisNn => rows.push(small::iris_nn(&bench)?),
            Which::Lenet => rows.push(small::lenet(&bench)?),
            Which::Gpt2Xl => rows.extend(gpt2_xl(&compute, args.runs, args.weights)?),
        }
        bar.set(index as u64 + 1);
    }
    bar.finish();
    if args.json {
        let result = json!({
            "kernel": compute.kernel.name(),
            "threads": compute.pool.threads(),
            "runs": args.runs,
            "rows": rows.iter().map(Row::json).collect::<Vec<_>>(),
        });
        writeln!(stdout(), "{result}")?;
    } else {
        let head = format!(
            "kernel {}, {} thread(s), median of {}; the others' figures as published, on their machines",
            compute.kernel.name(),
            compute.pool.threads(),
            args.runs
        );
        row::print(&head, &rows, &mut stdout())?;
    }
    Ok(())
}

/// GPT-2 XL with random weights: tokens generated over all seconds, those of the prompt included.
fn gpt2_xl(
    compute: &Arc<Compute>,
    runs: usize,
    weights: Weights,
) -> Result<Vec<Row>, Box<dyn std::error::Error>> {
    let config = Shape::Gpt2.config()?;
    let model = Arc::new(synthetic::model(&config, weights.format(), SEED));
    let engine = Engine::new(model, compute.clone());
    let mut rng = SplitMix64::new(SEED);
    let prompt: Vec<u32> = (0..PROMPT_TOKENS).map(|_| rng.below(config.vocab.into()) as u32).collect();
    GPT2_XL
        .into_iter()
        .map(|(tokens, theirs, cpus)| {
            let mut times = Times::default();
            for _ in 0..runs {
                plain_run(&engine, &prompt, tokens, &mut times)?;
            }
            let seconds = times.prefill.wall.iter().zip(&times.decode.wall).map(|(a, b)| a + b).collect();
            Ok(Row {
                id: format!("gpt2-xl-{tokens}"),
                name: format!("GPT-2 XL, {tokens} tokens"),
                proofs: &[],
                tee: Theirs::TokensPerSecond { value: theirs, tokens, cpus },
                serve: Measured::Seconds(seconds),
                prove: None,
                beside: None,
                right: None,
                notes: vec![
                    format!("random {} weights", weights.name()),
                    format!(
                        "{PROMPT_TOKENS} random prompt tokens, as many as in \"{PROMPT}\"; their time counts"
                    ),
                ],
            })
        })
        .collect()
}
