//! The command line: one file a command. Commands return errors with what was got and expected;
//! the exit status says what happened.
//!
//! | status | meaning |
//! |---|---|
//! | 0 | done |
//! | 1 | it failed; standard error says why |
//! | 2 | `verify`, `demo`: a receipt was refuted |
//! | 64 | the command line is wrong |
//! | 130 | interrupted |
// A command owns its arguments, whether it takes them apart or not.
#![allow(clippy::needless_pass_by_value)]

pub mod adapters;
pub mod bench;
pub mod compute;
pub mod config;
pub mod demo;
pub mod drill;
pub mod embed;
pub mod eval;
pub mod eval_suite;
pub mod gateway;
pub mod import;
pub mod inspect;
pub mod join;
pub mod net;
pub mod node;
pub mod plan;
pub mod proof_key;
pub mod prove;
pub mod run;
pub mod sampling;
pub mod serve;
pub mod verify;
pub mod verify_proof;

use clap::{Parser, Subcommand};
use std::net::SocketAddr;
use std::process::ExitCode;

/// What a command ends with.
pub type CommandResult = Result<(), Box<dyn std::error::Error>>;

/// Exit status of a refuted receipt.
const STATUS_REFUTED: u8 = 2;
/// Exit status of a wrong command line (EX_USAGE of sysexits.h).
const STATUS_USAGE: u8 = 64;
/// Exit status after Ctrl-C (128 + SIGINT).
const STATUS_INTERRUPTED: u8 = 130;

/// A receipt does not hold. The command has said so already.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("a receipt was refuted")]
pub struct Refuted;

/// Ctrl-C.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Run a language model on machines you do not trust, and know that the answer is right.
///
/// All computation is exact integer arithmetic: the same prompt and seed give the same bytes on
/// any machine, with any kernel and any number of threads and nodes.
///
/// Examples:
///   lockstep demo
///   lockstep run --prompt "Once upon a time" --seed 1
///   lockstep import tinyllama/ --out tinyllama.lockstep --weights int8
///   lockstep serve tinyllama.lockstep --listen 127.0.0.1:8080
///
/// Exit status: 0 done, 1 failed, 2 a receipt was refuted, 64 wrong usage, 130 interrupted.
#[derive(Debug, Parser)]
#[command(name = "lockstep", version, verbatim_doc_comment, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::RunArgs),
    Serve(serve::ServeArgs),
    Node(node::NodeArgs),
    Gateway(gateway::GatewayArgs),
    Ask(gateway::AskArgs),
    Demo(demo::DemoArgs),
    Verify(verify::VerifyArgs),
    Prove(prove::ProveArgs),
    ProofKey(proof_key::ProofKeyArgs),
    VerifyProof(verify_proof::VerifyProofArgs),
    Embed(embed::EmbedArgs),
    Import(import::ImportArgs),
    Inspect(inspect::InspectArgs),
    Eval(eval::EvalArgs),
    EvalSuite(eval_suite::EvalSuiteArgs),
    Bench(bench::BenchArgs),
    Plan(plan::PlanArgs),
    #[command(subcommand)]
    Net(net::NetCommand),
    /// Show settings and where each of them came from
    #[command(subcommand)]
    Config(config::ConfigCommand),
}

/// Parses the command line, runs the command, says what went wrong.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are errors to clap, but not to anybody else.
            let status = if error.use_stderr() { STATUS_USAGE } else { 0 };
            let _ = error.print();
            return ExitCode::from(status);
        }
    };
    match dispatch(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Refuted>() => ExitCode::from(STATUS_REFUTED),
        Err(error) if error.is::<Interrupted>() => {
            eprintln!("interrupted");
            ExitCode::from(STATUS_INTERRUPTED)
        }
        // Whoever read standard output has seen enough (`lockstep inspect | head`).
        Err(error) if is_broken_pipe(error.as_ref()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &(dyn std::error::Error + 'static)) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn dispatch(command: Command) -> CommandResult {
    match command {
        Command::Run(args) => run::run(args),
        Command::Serve(args) => serve::run(args),
        Command::Node(args) => node::run(args),
        Command::Gateway(args) => gateway::run(args),
        Command::Ask(args) => gateway::ask(args),
        Command::Demo(args) => demo::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Prove(args) => prove::run(args),
        Command::ProofKey(args) => proof_key::run(args),
        Command::VerifyProof(args) => verify_proof::run(args),
        Command::Embed(args) => embed::run(args),
        Command::Import(args) => import::run(args),
        Command::Inspect(args) => inspect::run(args),
        Command::Eval(args) => eval::run(args),
        Command::EvalSuite(args) => eval_suite::run(args),
        Command::Bench(args) => bench::run(args),
        Command::Plan(args) => plan::run(args),
        Command::Net(command) => net::run(command),
        Command::Config(command) => config::run(command),
    }
}

/// The runtime of commands that talk to a network or a terminal.
///
/// # Errors
/// If the system refuses its threads.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// Waits for the signal that asks a service to end.
async fn terminated() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut signal) = signal(SignalKind::terminate()) {
            signal.recv().await;
            return;
        }
    }
    std::future::pending::<()>().await;
}

/// Ends with Ctrl-C or SIGTERM. Both are heard from this call on, not from when the future is first asked: whoever
/// was told that the service is there may end it at once.
fn stopped() -> std::io::Result<impl Future<Output = ()>> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        Ok(async move {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        })
    }
    #[cfg(not(unix))]
    Ok(async {
        let _ = tokio::signal::ctrl_c().await;
    })
}

/// Serves `router` at `listen` until Ctrl-C or SIGTERM, then lets running answers end.
async fn serve_http(router: axum::Router, listen: SocketAddr) -> CommandResult {
    let listener = tokio::net::TcpListener::bind(listen).await.map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!("{listen} is in use: another program listens there; choose another --listen, port 0 takes a free one")
        }
        _ => format!("cannot listen at {listen}: {error}"),
    })?;
    let stop = stopped()?;
    println!("http://{}/v1", listener.local_addr()?);
    // A client that never ends must not keep the process: dropping the server closes connections.
    let (stopping, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = axum::serve(listener, router).with_graceful_shutdown(async {
        stop.await;
        let _ = stopping.send(());
    });
    let patience = async {
        if stopped.await.is_ok() {
            tokio::time::sleep(SHUTDOWN_PATIENCE).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        result = async { server.await } => result?,
        () = patience => {}
    }
    Ok(())
}

/// How long running answers may go on after the signal to end.
const SHUTDOWN_PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);
