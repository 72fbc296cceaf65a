//! `lockstep gateway` and `lockstep ask`: requests over a route of nodes.

use super::adapters::AdapterArgs;
use super::join::JoinArgs;
use super::prove::stages::{check_writable, read_key};
use super::{CommandResult, sampling::SamplingArgs};
use crate::api::{self, ApiConfig, Served};
use crate::bundles;
use crate::gateway::{Checked, Gateway, Options, ReceiptStore, RouteProver, RoutedGenerator, StoreError};
use crate::output::{Progress, bytes};
use crate::p2p::{self, PeerAddress};
use crate::service::{GenerateRequest, ModelInfo};
use crate::swarm::Swarm;
use crate::text::{AnswerEvent, Beginning, answer};
use lockstep_base::adapter::AdapterWeights;
use lockstep_base::part::Part;
use lockstep_base::receipt_file::ReceiptFile;
use lockstep_model::bundle::Bundle;
use lockstep_model::chat::ChatTemplate;
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// The nodes of a route.
#[derive(Debug, clap::Args)]
pub struct RouteArgs {
    /// Bundle that the nodes serve: tokenizer, shapes and model root [default: the embedded model]
    bundle: Option<PathBuf>,
    /// Address of a node, as `lockstep node` prints it; once for each stage, in any order
    #[arg(
        long = "node",
        value_name = "ADDRESS",
        required_unless_present_any = ["addresses", "invite"],
        conflicts_with_all = ["addresses", "invite"]
    )]
    nodes: Vec<PeerAddress>,
    #[command(flatten)]
    join: JoinArgs,
    /// File of the gateway's key, made if it does not exist [default: a fresh key]
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Ask the nodes to commit to every op output, so that a fault is located to its row
    #[arg(long)]
    full_trace: bool,
    /// Keep receipts in this database (signed roots only: no text, no tokens)
    #[arg(long, value_name = "FILE")]
    store: Option<PathBuf>,
}

/// Serve the OpenAI-compatible API over a route of nodes.
///
/// With --adapter the model is served under adapters as well, each under its own name; the nodes must
/// have been given the same files.
///
/// Examples:
///   lockstep gateway --node /ip4/127.0.0.1/tcp/4001/p2p/16Uiu2... --listen 127.0.0.1:8080
///   lockstep gateway --join ADDRESS
///   lockstep gateway base.lockstep --node ADDRESS --adapter poet=poet.lockstep
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct GatewayArgs {
    #[command(flatten)]
    route: RouteArgs,
    #[command(flatten)]
    adapters: AdapterArgs,
    /// Have the nodes prove answers whose requests ask for it (`"lockstep": {"proof": "on-request"}`), under GET /v1/proofs/ID; they must run with --prove
    #[arg(long)]
    proofs: bool,
    /// Address of the HTTP API
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
}

/// Ask one question over a route of nodes, being your own gateway.
///
/// Prints the answer. With --receipts the signed receipts, which `lockstep verify` re-executes,
/// go to a file; whoever has that file can read prompt and answer.
///
/// Examples:
///   lockstep ask --join ADDRESS --prompt "Tell me a story"
///   lockstep ask --node ADDRESS --node ADDRESS --prompt "Tell me a story" --receipts answer.receipts
///   lockstep ask --node ADDRESS --node ADDRESS --prompt "Once" --max-tokens 32 --proof answer.proof
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct AskArgs {
    #[command(flatten)]
    route: RouteArgs,
    /// What to continue; with --chat a message to answer
    #[arg(long)]
    prompt: String,
    /// Answer under this adapter, which the nodes serve
    #[arg(long, value_name = "FILE")]
    adapter: Option<PathBuf>,
    /// Put the prompt through the bundle's chat template
    #[arg(long)]
    chat: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Write the receipt file here
    #[arg(long, value_name = "FILE")]
    receipts: Option<PathBuf>,
    /// Ask every stage for the leaves of every span and add them to the receipt file
    #[arg(long, requires = "receipts")]
    leaves: bool,
    #[command(flatten)]
    proof: ProofArgs,
}

/// A proof by the nodes.
#[derive(Debug, clap::Args)]
pub struct ProofArgs {
    /// Have each node prove its layers of the answer, and write the proof here; they must run with --prove
    #[arg(long, value_name = "FILE")]
    proof: Option<PathBuf>,
    /// Key of the model (`lockstep proof-key --stages`), in stages as the nodes have them: the proof is for who has it and no weights
    #[arg(long, value_name = "KEY", requires = "proof")]
    proof_key: Option<PathBuf>,
}

/// A gateway, and the swarm that ends with the value.
type Connected = (Arc<Gateway>, Option<Arc<Swarm>>);

impl RouteArgs {
    /// A gateway over the given nodes or over those that are found, and the swarm in which they are.
    async fn connect(self, bundle: &Bundle) -> Result<Connected, Box<dyn std::error::Error>> {
        let key = match &self.key {
            Some(path) => p2p::load_or_create_key(path)?,
            None => p2p::random_key(),
        };
        let model = ModelInfo::new(bundle.config().clone(), bundle.model_root());
        let options = || {
            let store = self.store.as_deref().map(ReceiptStore::open).transpose()?;
            Ok(Options { full_trace: self.full_trace, store, spares: None })
        };
        if self.join.joins() {
            let swarm = self.join.joining(&key)?.visit(&key).await?;
            let gateway = swarm.gateway(key, model, options).await?;
            return Ok((gateway, Some(swarm)));
        }
        let options: Result<Options, StoreError> = options();
        Ok((Gateway::connect(key, model, self.nodes, options?).await?, None))
    }
}

/// A bundle's tokenizer and chat template behind `gateway`.
pub fn served(bundle: &Bundle, gateway: Arc<Gateway>) -> Result<Served, Box<dyn std::error::Error>> {
    let tokenizer = Arc::new(bundle.tokenizer()?);
    let chat = ChatTemplate::of_model(bundle.chat_template()?.as_deref())?;
    Ok(Served::new(Arc::new(RoutedGenerator::new(gateway)), tokenizer, chat))
}

/// Runs `lockstep gateway`.
pub fn run(args: GatewayArgs) -> CommandResult {
    let bundle = bundles::open_decoder(args.route.bundle.as_deref())?;
    let adapters = args.adapters.open(&bundle.config().name)?;
    super::runtime()?.block_on(async {
        let (gateway, _swarm) = args.route.connect(&bundle).await?;
        for (stage, peer, part) in gateway.nodes() {
            eprintln!("stage {stage}  {}  {part}", peer.node);
        }
        let mut base = served(&bundle, gateway.clone())?;
        let prover = match args.proofs {
            true => Some(route_prover(&bundle, gateway.clone())?),
            false => None,
        };
        if let Some(prover) = &prover {
            base = base.proving(Arc::new(prover.clone()));
        }
        let routed = RoutedGenerator::new(gateway);
        let mut models = vec![base.clone()];
        for (id, adapter) in adapters {
            let generator = routed.adapted(&id, &adapter).map_err(|error| format!("{id}: {error}"))?;
            let mut served = base.with_generator(Arc::new(generator));
            if let Some(prover) = &prover {
                served = served.proving(Arc::new(RouteProver { adapter: Some(adapter), ..prover.clone() }));
            }
            models.push(served);
        }
        let router = api::router(models, &ApiConfig::default());
        super::serve_http(router, args.listen).await
    })
}

/// The nodes of a route as provers, if all of them are.
fn route_prover(bundle: &Bundle, gateway: Arc<Gateway>) -> Result<RouteProver, Box<dyn std::error::Error>> {
    check_proving(&gateway, "--proofs")?;
    let weights = Arc::new(bundle.load(&Part::whole(bundle.config().n_layers))?);
    let runtime = tokio::runtime::Handle::current();
    Ok(RouteProver { gateway, weights, adapter: None, runtime })
}

/// Whether all nodes prove what they computed.
fn check_proving(gateway: &Gateway, flag: &str) -> CommandResult {
    match gateway.not_proving() {
        None => Ok(()),
        Some(node) => Err(format!("{flag}: node {node} proves nothing: start it with --prove").into()),
    }
}

/// Has the nodes prove what was answered, and writes the proof.
async fn prove(
    gateway: &Gateway,
    bundle: &Bundle,
    adapter: Option<&AdapterWeights>,
    receipts: &[u8],
    args: &ProofArgs,
) -> CommandResult {
    let Some(path) = &args.proof else { return Ok(()) };
    let receipts = ReceiptFile::from_bytes(receipts)?;
    let layers = bundle.config().n_layers;
    let key = args.proof_key.as_deref().map(read_key).transpose()?;
    // Who has a key needs the embedding's rows alone.
    let part = if key.is_some() { Part::layers(0..1, layers) } else { Part::whole(layers) };
    let weights = bundle.load(&part)?;
    let bar = Progress::new("the nodes prove", gateway.stage_count() as u64, false);
    let checked = match &key {
        Some(key) => Checked::Key(key, &weights),
        None => Checked::Model(&weights, adapter),
    };
    let file = gateway.prove(&receipts, checked, &mut |_, _| bar.count()).await;
    bar.finish();
    let content = file?.to_bytes();
    std::fs::write(path, &content).map_err(|error| format!("{}: {error}", path.display()))?;
    eprintln!(
        "{}: {} by {} nodes, verified",
        path.display(),
        bytes(content.len() as u64),
        gateway.stage_count()
    );
    Ok(())
}

/// Runs `lockstep ask`.
pub fn ask(args: AskArgs) -> CommandResult {
    let bundle = bundles::open_decoder(args.route.bundle.as_deref())?;
    let adapter = args.adapter.as_deref().map(bundles::open_adapter).transpose()?;
    super::runtime()?.block_on(async {
        let (gateway, _swarm) = args.route.connect(&bundle).await?;
        let mut served = served(&bundle, gateway.clone())?;
        if let Some(adapter) = &adapter {
            let generator = RoutedGenerator::new(gateway.clone()).adapted(&adapter.config.name, adapter)?;
            served = served.with_generator(Arc::new(generator));
        }
        let prompt = if args.chat {
            served.encode_messages(&[lockstep_model::chat::Message::new("user", &args.prompt)])?
        } else {
            served.encode_text(&args.prompt)?
        };
        let mut request = GenerateRequest::new(prompt, args.sampling.parameters(bundle.config())?);
        request.seed = args.sampling.seed;
        request.receipt_file = args.receipts.is_some();
        if let Some(path) = &args.proof.proof {
            check_proving(&gateway, "--proof")?;
            check_writable(path)?;
            request.provable = true;
        }
        let mut events =
            answer(&*served.generator, served.tokenizer.clone(), request, Beginning::Continuation);
        let mut end = None;
        while let Some(event) = events.recv().await {
            match event {
                AnswerEvent::Piece(piece) => {
                    print!("{}", piece.text);
                    std::io::stdout().flush()?;
                }
                AnswerEvent::Stage(_) => {}
                AnswerEvent::Done(done) => end = Some(done.done),
                AnswerEvent::Failed(failure) => return Err(failure.into()),
            }
        }
        println!();
        let receipts = end.and_then(|done| done.receipts).ok_or("the answer came without receipts")?;
        prove(&gateway, &bundle, adapter.as_deref(), &receipts.file, &args.proof).await?;
        if let Some(path) = &args.receipts {
            let mut bytes = receipts.file;
            if args.leaves {
                let mut file = ReceiptFile::from_bytes(&bytes)?;
                reveal_all(&gateway, &mut file).await?;
                bytes = file.to_bytes();
            }
            std::fs::write(path, bytes).map_err(|error| format!("{}: {error}", path.display()))?;
        }
        eprintln!("{}", receipts.summary);
        Ok(())
    })
}

async fn reveal_all(gateway: &Gateway, file: &mut ReceiptFile) -> CommandResult {
    for stage in 0..file.stages.len() {
        let spans: Vec<u32> =
            file.stages[stage].receipts.iter().map(|signed| signed.receipt.first_token).collect();
        for first_token in spans {
            gateway.reveal(file, stage, first_token).await?;
        }
    }
    Ok(())
}
