//! `lockstep node`: serves a layer range of a bundle.

use super::CommandResult;
use super::compute::ComputeArgs;
use super::drill;
use crate::bundles;
use crate::p2p::{self, Network};
use crate::proving::stage::PartProver;
use crate::verified::Gated;
use lockstep_base::keys::NodeKey;
use lockstep_base::part::Part;
use lockstep_mesh::engine::EngineFactory;
use lockstep_mesh::node::{Node, NodeLimits, Served};
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
/// Prints the address that gateways need, then serves until it is interrupted. With --adapter it serves the
/// same layers under adapters as well, to whoever asks for one.
///
/// Examples:
///   lockstep node --layers 0..2
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
    /// Address to listen at; port 0 takes a free one
    #[arg(long, value_name = "MULTIADDR", default_value = "/ip4/127.0.0.1/tcp/0")]
    listen: libp2p::Multiaddr,
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
    let key = match &args.key {
        Some(path) => p2p::load_or_create_key(path)?,
        None => p2p::random_key(),
    };
    let served = Served {
        model_root: bundle.model_root(),
        opset: config.opset.clone(),
        model: config.name.clone(),
        part,
        n_layers: config.n_layers,
        d_model: config.d_model,
        vocab: config.vocab,
        context: config.context,
        adapters: adapters.iter().map(|adapter| adapter.root).collect(),
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
    let mut node = Node::new(served, NodeLimits::default(), agent, key.clone(), Box::new(factory));
    if let Some(prover) = prover {
        node = node.proving(Arc::new(prover));
    }
    super::runtime()?.block_on(serve(node, key, part, args.listen, args.until_eof, args.json))
}

async fn serve(
    node: Node,
    key: NodeKey,
    part: Part,
    listen: libp2p::Multiaddr,
    until_eof: bool,
    json: bool,
) -> CommandResult {
    let model = node.info().model;
    let root = node.info().model_root;
    let signalled = super::stopped()?;
    let (network, listening) = Network::listen(&key, listen).await?;
    let address = &network.addresses[0];
    if json {
        println!(
            "{}",
            json!({
                "address": address.to_string(), "node": key.id().to_string(), "part": part.to_string(),
                "model": model, "model_root": root.hex(),
            })
        );
    } else {
        println!("node     {}", key.id());
        println!("serves   {part} of {model} ({})", &root.hex()[..16]);
        println!("address  {address}");
    }
    let (stop, stopped) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            () = signalled => {}
            () = end_of_input(), if until_eof => {}
        }
        let _ = stop.send(true);
    });
    p2p::serve(node, (network, listening), stopped).await;
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
