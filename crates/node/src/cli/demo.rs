//! `lockstep demo`: the main job in one command. Three node processes on loopback answer a
//! question, every receipt is re-executed, then one node lies and is found.

mod nodes;
mod prove;
mod report;

use super::CommandResult;
use super::gateway::served;
use crate::api::Served;
use crate::bundles;
use crate::gateway::{Gateway, Options};
use crate::p2p::{self, PeerAddress};
use crate::service::{GenerateRequest, ModelInfo};
use crate::text::{AnswerEvent, Beginning, answer};
use lockstep_base::params::Parameters;
use lockstep_base::part::Part;
use lockstep_base::receipt_file::ReceiptFile;
use lockstep_model::bundle::Bundle;
use lockstep_model::chat::Message;
use nodes::NodeProcess;
use report::Report;
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Instant;

type Error = Box<dyn std::error::Error>;

/// Nodes of the demonstration.
const STAGES: u32 = 3;
/// Temperature of the answer: 0.6 with 16 fractional bits.
const TEMPERATURE_Q16: u32 = 39_322;

/// Watch three nodes answer a question, verify every receipt, and catch one that lies.
///
/// Starts three node processes and a gateway on loopback with the embedded model, streams the
/// answer, re-executes all receipts in a separate process, then lets one node flip a single bit
/// of one activation (at a place that only the node knows) and finds that place.
/// With --prove the nodes prove the answer as well, each its own layers; the proof is verified in a separate process, and there is none of the lie.
/// Exit status: 0 only if the honest answer verified and the lie was found where it was told.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct DemoArgs {
    /// What to ask
    #[arg(long, default_value = "Tell me a story about Tom and a big tree.")]
    prompt: String,
    /// Tokens of the answer at most
    #[arg(long, default_value_t = 160)]
    max_tokens: u32,
    /// Seed of the answer
    #[arg(long, default_value_t = 38)]
    seed: u64,
    /// Have the nodes prove the answer, and verify the proof
    #[arg(long)]
    prove: bool,
    /// End with one JSON object; everything else goes to standard error
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: DemoArgs) -> CommandResult {
    let began = Instant::now();
    let bundle = bundles::open_decoder(None)?;
    let folder = tempfile::tempdir().map_err(|error| format!("no place for the receipts: {error}"))?;
    let report = Report::new(args.json);
    super::runtime()?.block_on(async {
        tokio::select! {
            result = demonstrate(&args, &bundle, folder.path(), &report) => {
                let mut result = result?;
                let seconds = (began.elapsed().as_secs_f64() * 100.0).round() / 100.0;
                result["seconds"] = json!(seconds);
                let sound = report::sound(&result);
                report.end(&result, seconds);
                if sound { Ok(()) } else { Err("the demonstration did not show what it promises".into()) }
            }
            // Dropping the demonstration ends its processes and the folder goes.
            _ = tokio::signal::ctrl_c() => Err(super::Interrupted.into()),
            () = super::terminated() => Err(super::Interrupted.into()),
        }
    })
}

async fn demonstrate(
    args: &DemoArgs,
    bundle: &Bundle,
    folder: &Path,
    report: &Report,
) -> Result<Value, Error> {
    let config = bundle.config();
    let parts = Part::split(config.n_layers, STAGES);

    report.step("Starting three nodes");
    let mut nodes = Vec::new();
    for part in &parts {
        nodes.push(NodeProcess::start(part, None, args.prove).await?);
    }
    let (gateway, server) = connect(bundle, &nodes).await?;
    for (stage, peer, part) in gateway.nodes() {
        report.line(&format!("stage {stage}  {}  {part}", peer.node));
    }
    report.took();

    report.step(&format!("Asking: {}", args.prompt));
    let (text, file) = ask(args, &server, report, &parts).await?;
    let receipts: usize = file.stages.iter().map(|stage| stage.receipts.len()).sum();
    report.line(&format!("{} tokens, {receipts} receipts: signatures hold, roots chain", file.tokens.len()));
    report.took();

    report.step("Verifying by re-execution, in a separate process, from files alone");
    let verdict = verify(&file, folder).await?;
    let verified = verdict["verified"] == true;
    report.line(if verified { "verified" } else { "NOT verified" });
    report.took();

    // Proofs are checked with the model, as receipts are.
    let weights = match args.prove {
        true => Some(bundle.load(&Part::whole(config.n_layers))?),
        false => None,
    };
    let mut proof = match &weights {
        Some(weights) => prove::prove(&gateway, weights, &file, folder, report).await?,
        None => Value::Null,
    };

    let liar = (rand::random::<u32>() % STAGES) as usize;
    report.step(&format!("Replacing stage {liar} by a node that flips one bit of one activation, somewhere"));
    let note = folder.join("liar.json");
    nodes[liar] = NodeProcess::start(&parts[liar], Some(&note), args.prove).await?;
    let (gateway, server) = connect(bundle, &nodes).await?;
    let (_, mut file) = ask(args, &server, report, &parts).await?;
    report.line("its receipts are signed and chained as well: nothing is visible yet");
    report.took();

    report.step("Verifying again");
    let named = verify(&file, folder).await?;
    let caught = named["verified"] == false;
    let mut located = Value::Null;
    if caught {
        let stage = named["stage"].as_u64().ok_or("the verdict names no stage")? as usize;
        let first_token = named["first_token"].as_u64().ok_or("the verdict names no span")? as u32;
        report.line(&format!(
            "stage {stage} differs in tokens {first_token}..{}; asking it for the leaves",
            named["end_token"]
        ));
        gateway.reveal(&mut file, stage, first_token).await?;
        located = verify(&file, folder).await?["located"].clone();
        report.line(&format!(
            "found: stage {stage}, token {}, layer {}, op {}, row {}: got {}, expected {}",
            located["token"],
            plain(&located["layer"]),
            plain(&located["op"]),
            located["row"],
            located["got"],
            located["expected"]
        ));
    }
    let truth: Value =
        serde_json::from_str(&std::fs::read_to_string(&note).map_err(|_| "the drill did not strike")?)?;
    let same = ["token", "layer", "op", "row"].iter().all(|key| truth[key] == located[key]);
    let right = caught && same && named["stage"] == json!(liar);
    report.line(if right {
        "the liar's own note says the same"
    } else {
        "the liar's own note says otherwise"
    });
    report.took();

    if let Some(weights) = &weights {
        proof["lie_refused"] = json!(prove::refuse(&gateway, weights, &file, report).await);
    }
    Ok(json!({
        "answer": text,
        "stages": STAGES,
        "receipts": receipts,
        "verified": verified,
        "tamper": {
            "caught": right,
            "stage": named["stage"],
            "token": located["token"],
            "layer": located["layer"],
            "op": located["op"],
            "row": located["row"],
        },
        "proof": proof,
    }))
}

/// A value without the quotes of JSON.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A gateway of our own over `nodes`, with full traces.
async fn connect(bundle: &Bundle, nodes: &[NodeProcess]) -> Result<(Arc<Gateway>, Served), Error> {
    let model = ModelInfo::new(bundle.config().clone(), bundle.model_root());
    let peers: Vec<PeerAddress> = nodes.iter().map(|node| node.address.clone()).collect();
    let options = Options { full_trace: true, store: None, spares: None };
    let gateway = Gateway::connect(p2p::random_key(), model, peers, options).await?;
    let server = served(bundle, gateway.clone())?;
    Ok((gateway, server))
}

/// Asks the question: the text and the receipts.
async fn ask(
    args: &DemoArgs,
    server: &Served,
    report: &Report,
    parts: &[Part],
) -> Result<(String, ReceiptFile), Error> {
    let prompt = server.encode_messages(&[Message::new("user", &args.prompt)])?;
    let parameters = Parameters {
        temperature_q16: TEMPERATURE_Q16,
        stop_tokens: server.generator.model().config.eos.clone(),
        ..Parameters::greedy(args.max_tokens)
    };
    let mut request = GenerateRequest::new(prompt, parameters);
    request.seed = Some(args.seed);
    request.receipt_file = true;
    request.provable = args.prove;
    let mut events = answer(&*server.generator, server.tokenizer.clone(), request, Beginning::Continuation);
    let mut view = report.answer(parts);
    let mut text = String::new();
    while let Some(event) = events.recv().await {
        match event {
            AnswerEvent::Piece(piece) => {
                view.text(&piece.text);
                text.push_str(&piece.text);
            }
            AnswerEvent::Stage(progress) => view.stage(&progress),
            AnswerEvent::Done(end) => {
                view.finish();
                let receipts = end.done.receipts.ok_or("the answer came without receipts")?;
                return Ok((text.trim().to_owned(), ReceiptFile::from_bytes(&receipts.file)?));
            }
            AnswerEvent::Failed(failure) => return Err(failure.into()),
        }
    }
    Err("the answer ended without a result".into())
}

/// Runs `lockstep verify` on `file` in a process of its own.
async fn verify(file: &ReceiptFile, folder: &Path) -> Result<Value, Error> {
    let path = folder.join("answer.receipts");
    std::fs::write(&path, file.to_bytes())?;
    command(&["verify".as_ref(), path.as_os_str()]).await
}

/// Runs `lockstep` with `args` in a process of its own: the JSON object that it ends with.
async fn command(args: &[&OsStr]) -> Result<Value, Error> {
    let output = tokio::process::Command::new(std::env::current_exe()?)
        .args(args)
        .arg("--json")
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await?;
    let name = args.first().map(|name| name.to_string_lossy()).unwrap_or_default();
    Ok(serde_json::from_slice(&output.stdout).map_err(|_| format!("{name} ended with {}", output.status))?)
}
