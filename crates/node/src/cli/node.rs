//! `lockstep node`: serves a layer range of a bundle.

use super::CommandResult;
use super::compute::ComputeArgs;
use super::drill;
use super::join::{JoinArgs, Joining};
use crate::bundles;
use crate::p2p::{self, Network, NetworkConfig};
use crate::proving::stage::PartProver;
use crate::swarm::{Measured, Serving, Swarm, measure};
use crate::verified::Gated;
use lockstep_base::keys::NodeKey;
use lockstep_base::part::Part;
use lockstep_mesh::engine::EngineFactory;
use lockstep_mesh::limits::TASK_POSITIONS_MAX;
use lockstep_mesh::node::{Node, NodeLimits, Served};
use lockstep_mesh::swarm::State;
use lockstep_runtime::forward::Engine;
use serde_json::json;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::watch;

/// GiB of a proof where nothing is said.
const PROVE_GIB: f64 = 8.0;

/// Serve a range of layers of a bundle to gateways.
///
/// Prints the address that gateways need, then serves until it is interrupted. With --join it becomes part of a swarm: gateways that
/// join the same swarm find it by themselves, and so do those who join at this node. With --adapter it serves the
/// same layers under adapters as well, to whoever asks for one.
///
/// Examples:
///   lockstep node --layers 0..2
///   lockstep node --layers 2..4 --join /ip4/192.0.2.1/tcp/4001/p2p/16Uiu2...
///   lockstep node model.lockstep --layers 2..4 --listen /ip4/0.0.0.0/tcp/4001
///   lockstep node --layers 0..2 --prove
///   lockstep node base.lockstep --adapter poet.lockstep --adapter clerk.lockstep
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct NodeArgs {
    /// Bundle to serve from [default: the embedded model]
    bundle: Option<PathBuf>,
    /// Layers to serve, first and one past the last; the first range embeds, the last has the head
    /// [default: all]
    #[arg(long, value_name = "A..B", value_parser = parse_layers)]
    layers: Option<Range<u32>>,
    /// Address to listen at; port 0 takes a free one; may be given several times [default: this machine only;
    /// with --join every interface, by TCP and QUIC]
    #[arg(long, value_name = "MULTIADDR")]
    listen: Vec<libp2p::Multiaddr>,
    #[command(flatten)]
    join: JoinArgs,
    /// Address at which others reach this node, where a router or a name leads to it; may be given several times
    #[arg(long, value_name = "MULTIADDR")]
    external: Vec<libp2p::Multiaddr>,
    /// File of the node's key, made if it does not exist [default: a fresh key]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Adapter to serve the layers under, too; may be given several times
    #[arg(long = "adapter", value_name = "FILE")]
    adapters: Vec<PathBuf>,
    /// Prove what was computed for whoever asked for it, in tasks that are opened as provable: takes memory and minutes of both cores
    #[arg(long)]
    prove: bool,
    /// Refuse to prove what may take more than so many GiB beside the model
    #[arg(long, value_name = "GIB", requires = "prove", default_value_t = PROVE_GIB)]
    prove_memory: f64,
    /// Folder with the encoded weights of keys (`lockstep proof-key --keep`): they need not be committed to again
    #[arg(long, value_name = "DIR", requires = "prove")]
    kept: Option<PathBuf>,
    #[command(flatten)]
    compute: ComputeArgs,
    /// Lie once per task: flip one bit of one activation, at a random place, and write the place
    /// to FILE. For drills: whoever verifies the receipts finds it
    #[arg(long, value_name = "FILE")]
    drill: Option<PathBuf>,
    /// End when standard input is closed
    #[arg(long)]
    until_eof: bool,
    /// One JSON object with the address instead of text
    #[arg(long)]
    json: bool,
}

/// Reads `A..B`.
fn parse_layers(text: &str) -> Result<Range<u32>, String> {
    let expected = || format!("got {text:?}, expected FIRST..END with FIRST below END, such as 0..2");
    let (first, end) = text.split_once("..").ok_or_else(expected)?;
    let number = |text: &str| text.trim().parse::<u32>().map_err(|_| expected());
    let range = number(first)?..number(end)?;
    if range.is_empty() { Err(expected()) } else { Ok(range) }
}

/// Runs the command.
pub fn run(args: NodeArgs) -> CommandResult {
    let bundle = bundles::open_decoder(args.bundle.as_deref())?;
    let config = bundle.config().clone();
    let layers = args.layers.unwrap_or(0..config.n_layers);
    if layers.end > config.n_layers {
        return Err(format!(
            "layers {}..{}, expected at most 0..{}: the model has {} layers",
            layers.start, layers.end, config.n_layers, config.n_layers
        )
        .into());
    }
    let part = Part::layers(layers, config.n_layers);
    let (weights, verification) = bundle.load_unverified(&part)?.unverified();
    let adapters = super::adapters::of_part(&args.adapters, bundle.model_root(), &weights, &part)?;
    let engine = Engine::new(Arc::new(weights), args.compute.build()?);
    let measured = (engine.clone(), verification.clone());
    let key = match &args.key {
        Some(path) => p2p::load_or_create_key(path)?,
        None => p2p::random_key(),
    };
    let served = Served {
        adapters: adapters.iter().map(|adapter| adapter.root).collect(),
        ..Served::new(bundle.model_root(), &config, part)
    };
    let drill = args.drill.map(drill::factory);
    let prover = args.prove.then(|| {
        let (weights, root) = (engine.weights.clone(), bundle.model_root());
        PartProver::new(weights, root, part, adapters.clone(), args.kept, args.prove_memory)
    });
    let prover =
        prover.transpose().map_err(|error| format!("--prove: these layers have no proofs: {error}"))?;
    let factory = EngineFactory { engine, part, adapters, keep_leaves: true, drill };
    let factory = Gated::new(factory, verification);
    let agent = concat!("lockstep/", env!("CARGO_PKG_VERSION"));
    let proves = prover.is_some();
    let mut node = Node::new(served, NodeLimits::default(), agent, key.clone(), Box::new(factory));
    if let Some(prover) = prover {
        node = node.proving(Arc::new(prover));
    }
    let (engine, verification) = measured;
    let ready = move || {
        // Weights that are not those of the model serve nobody.
        verification.wait().map_err(|error| error.to_string())?;
        measure(&engine, part).ok_or_else(|| "these layers could not be measured".to_owned())
    };
    let joining = args.join.joining(&key)?;
    let listen = listening(args.listen, &args.join);
    let network = NetworkConfig { listen, external: args.external, private: joining.private.clone() };
    let shell = Shell { network, joining, proves, until_eof: args.until_eof, json: args.json };
    super::runtime()?.block_on(serve(node, key, shell, ready))
}

/// Where to listen: where it was said, else where those can come from with whom it joins.
fn listening(given: Vec<libp2p::Multiaddr>, join: &JoinArgs) -> Vec<libp2p::Multiaddr> {
    if !given.is_empty() {
        return given;
    }
    let host = if join.joins() && !join.only_this_machine() { "0.0.0.0" } else { "127.0.0.1" };
    let transports: &[&str] = match join.joins() && join.invite.is_none() {
        true => &["tcp/0", "udp/0/quic-v1"],
        // A private swarm speaks TCP only.
        false => &["tcp/0"],
    };
    let address = |transport: &&str| format!("/ip4/{host}/{transport}").parse().expect("an address");
    transports.iter().map(address).collect()
}

/// What is around a node.
struct Shell {
    network: NetworkConfig,
    joining: Joining,
    proves: bool,
    until_eof: bool,
    json: bool,
}

async fn serve(
    node: Node,
    key: NodeKey,
    shell: Shell,
    ready: impl FnOnce() -> Result<Measured, String> + Send + 'static,
) -> CommandResult {
    let info = node.info();
    let signalled = super::stopped()?;
    let (network, listening) = Network::with(&key, &shell.network).await?;
    let address = network.addresses.first().ok_or("no address to listen at")?.clone();
    let (swarm, joined) = Swarm::start(network.clone(), shell.joining.config()).await?;
    if let Err(error) = joined {
        // The swarm may be back later: this node can be joined meanwhile.
        eprintln!("{error}; trying again");
    }
    let serving = Serving {
        model_root: info.model_root,
        part: info.part,
        state: State::Joining,
        decode_milli: 1,
        prefill_milli: 1,
        free_positions: TASK_POSITIONS_MAX,
        queue_depth: 0,
        adapters: info.adapters.clone(),
        price_micro: 0,
        proves: shell.proves,
    };
    let announcing = Arc::new(swarm.announce(key.clone(), serving).await?);
    let online = announcing.clone();
    tokio::spawn(async move {
        match tokio::task::spawn_blocking(ready).await {
            Ok(Ok(measured)) => online.change(|serving| {
                (serving.decode_milli, serving.prefill_milli) =
                    (measured.decode_milli, measured.prefill_milli);
                serving.state = State::Online;
            }),
            Ok(Err(error)) => eprintln!("this node is not announced: {error}"),
            Err(_) => {}
        }
    });
    if shell.json {
        println!(
            "{}",
            json!({
                "address": address.to_string(), "node": key.id().to_string(), "part": info.part.to_string(),
                "addresses": network.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "model": info.model, "model_root": info.model_root.hex(),
            })
        );
    } else {
        println!("node     {}", key.id());
        println!("serves   {} of {} ({})", info.part, info.model, &info.model_root.hex()[..16]);
        for address in &network.addresses {
            println!("address  {address}");
        }
    }
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            () = signalled => {}
            () = end_of_input(), if shell.until_eof => {}
        }
        let _ = stop.send(true);
    });
    p2p::serve(node, (network, listening), stopped).await;
    announcing.leave().await;
    Ok(())
}

/// Waits for the end of standard input: the parent process is gone.
async fn end_of_input() {
    // A thread of its own: nothing waits for it when the process ends for another reason.
    let (sender, ended) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        let _ = sender.send(());
    });
    let _ = ended.await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A layer range says what was got and expected.
    #[test]
    fn layer_ranges() {
        assert_eq!(parse_layers("2..5"), Ok(2..5));
        for bad in ["", "3", "5..2", "2..2", "a..b", "-1..2"] {
            assert!(parse_layers(bad).unwrap_err().contains("expected FIRST..END"), "{bad}");
        }
    }
}
