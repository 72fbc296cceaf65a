//! `lockstep serve`: the HTTP API over a model in this process.

use super::CommandResult;
use super::adapters::AdapterArgs;
use super::compute::ComputeArgs;
use super::config::invalid;
use super::prove::stages::ends;
use super::run::load;
use crate::api::{self, ApiConfig, Served};
use crate::bundles;
use crate::config::{Config, Key};
use crate::proving::Prover;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// Serve the OpenAI-compatible API from this process.
///
/// Prints the base URL, then serves until it is interrupted. Nothing is logged, and neither
/// prompts nor answers are written anywhere. With --adapter the model is served under adapters as
/// well: each is a model of its own name, and all answers run in one batch.
///
/// Examples:
///   lockstep serve
///   lockstep serve model.lockstep --listen 127.0.0.1:8080
///   lockstep serve --proofs
///   lockstep serve base.lockstep --adapter poet=poet.lockstep --adapter clerk=clerk.lockstep
///   curl http://127.0.0.1:8080/v1/models
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ServeArgs {
    /// Bundle to serve [default: the embedded model]
    bundle: Option<PathBuf>,
    /// Address of the HTTP API; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
    /// Prove answers whose requests ask for it (`"lockstep": {"proof": "on-request"}`), under GET /v1/proofs/ID
    #[arg(long)]
    proofs: bool,
    /// Stages that are proved one by one: less memory, larger proofs
    #[arg(long, value_name = "N", default_value_t = 1, requires = "proofs")]
    proof_stages: u32,
    #[command(flatten)]
    adapters: AdapterArgs,
    #[command(flatten)]
    compute: ComputeArgs,
}

/// Runs the command.
pub fn run(args: ServeArgs) -> CommandResult {
    let listen = Config::load()?.get(Key::Listen, args.listen.map(|listen| listen.to_string()));
    let address = listen
        .value
        .parse()
        .map_err(|_| invalid(Key::Listen, &listen, "an address such as 127.0.0.1:8080"))?;
    let bundle = bundles::open_decoder(args.bundle.as_deref())?;
    let adapters = args.adapters.open(&bundle.config().name)?;
    let compute = args.compute.build()?;
    eprintln!("kernel {}, {} threads", compute.kernel, compute.pool.threads());
    let loaded = load(&bundle, compute.clone(), false)?;
    let mut base = loaded.served();
    let mut prover = None;
    if args.proofs {
        let weights = loaded.generator.engine().weights.clone();
        let ends = ends("--proof-stages", args.proof_stages, bundle.config().n_layers)?;
        let made = Prover::new(weights, compute, bundle.model_root(), ends)
            .map_err(|error| format!("--proofs: this model has no proofs: {error}"))?;
        base = base.proving(Arc::new(made.clone()));
        prover = Some(made);
    }
    let mut models: Vec<Served> = vec![base.clone()];
    for (id, adapter) in adapters {
        let generator = loaded
            .generator
            .adapted(&id, adapter.clone())
            .map_err(|error| format!("--adapter {id}: {error}"))?;
        let mut served = base.with_generator(Arc::new(generator));
        if let Some(prover) = &prover {
            served = served.proving(Arc::new(prover.adapted(adapter)));
        }
        models.push(served);
    }
    let runtime = super::runtime()?;
    let result = runtime.block_on(super::serve_http(api::router(models, &ApiConfig::default()), address));
    runtime.shutdown_background();
    result
}
