//! `lockstep gateway` and `lockstep ask`: requests over a route of nodes.

use super::adapters::AdapterArgs;
use super::{CommandResult, sampling::SamplingArgs};
use crate::api::{self, ApiConfig, Served};
use crate::bundles;
use crate::gateway::{Gateway, Options, ReceiptStore, RoutedGenerator};
use crate::p2p::{self, PeerAddress};
use crate::service::{GenerateRequest, ModelInfo};
use crate::text::{AnswerEvent, Beginning, answer};
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
    #[arg(long = "node", value_name = "ADDRESS", required = true)]
    nodes: Vec<PeerAddress>,
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
///   lockstep gateway base.lockstep --node ADDRESS --adapter poet=poet.lockstep
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct GatewayArgs {
    #[command(flatten)]
    route: RouteArgs,
    #[command(flatten)]
    adapters: AdapterArgs,
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
///   lockstep ask --node ADDRESS --node ADDRESS --prompt "Tell me a story" --receipts answer.receipts
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
}

impl RouteArgs {
    async fn connect(self, bundle: &Bundle) -> Result<Arc<Gateway>, Box<dyn std::error::Error>> {
        let key = match &self.key {
            Some(path) => p2p::load_or_create_key(path)?,
            None => p2p::random_key(),
        };
        let store = self.store.as_deref().map(ReceiptStore::open).transpose()?;
        let model = ModelInfo::new(bundle.config().clone(), bundle.model_root());
        let options = Options { full_trace: self.full_trace, store };
        Ok(Gateway::connect(key, model, self.nodes, options).await?)
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
        let gateway = args.route.connect(&bundle).await?;
        for (stage, (peer, part)) in gateway.stages().iter().enumerate() {
            eprintln!("stage {stage}  {}  {part}", peer.node);
        }
        let base = served(&bundle, gateway.clone())?;
        let routed = RoutedGenerator::new(gateway);
        let mut models = vec![base.clone()];
        for (id, adapter) in adapters {
            let generator = routed.adapted(&id, &adapter).map_err(|error| format!("{id}: {error}"))?;
            models.push(base.with_generator(Arc::new(generator)));
        }
        let router = api::router(models, &ApiConfig::default());
        super::serve_http(router, args.listen).await
    })
}

/// Runs `lockstep ask`.
pub fn ask(args: AskArgs) -> CommandResult {
    let bundle = bundles::open_decoder(args.route.bundle.as_deref())?;
    let adapter = args.adapter.as_deref().map(bundles::open_adapter).transpose()?;
    super::runtime()?.block_on(async {
        let gateway = args.route.connect(&bundle).await?;
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
