//! `lockstep serve`: the HTTP API over a model in this process.

use super::CommandResult;
use super::compute::ComputeArgs;
use super::config::invalid;
use super::run::load;
use crate::api::{self, ApiConfig};
use crate::bundles;
use crate::config::{Config, Key};
use std::net::SocketAddr;
use std::path::PathBuf;

/// Serve the OpenAI-compatible API from this process.
///
/// Prints the base URL, then serves until it is interrupted. Nothing is logged, and neither
/// prompts nor answers are written anywhere.
///
/// Examples:
///   lockstep serve
///   lockstep serve model.lockstep --listen 127.0.0.1:8080
///   curl http://127.0.0.1:8080/v1/models
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ServeArgs {
    /// Bundle to serve [default: the embedded model]
    bundle: Option<PathBuf>,
    /// Address of the HTTP API; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<SocketAddr>,
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
    let compute = args.compute.build()?;
    eprintln!("kernel {}, {} threads", compute.kernel, compute.pool.threads());
    let served = load(&bundle, compute, false)?;
    let runtime = super::runtime()?;
    let result =
        runtime.block_on(super::serve_http(api::router(vec![served], &ApiConfig::default()), address));
    runtime.shutdown_background();
    result
}
