//! `lockstep run`: generates in this process, for a prompt or in a chat.

use super::compute::ComputeArgs;
use super::sampling::SamplingArgs;
use super::{CommandResult, Interrupted};
use crate::api::Served;
use crate::bundles;
use crate::local::LocalGenerator;
use crate::output::Progress;
use crate::service::GenerateRequest;
use crate::text::{AnswerEnd, AnswerEvent, Beginning, answer};
use lockstep_base::params::Parameters;
use lockstep_base::part::Part;
use lockstep_model::bundle::Bundle;
use lockstep_model::chat::{ChatTemplate, Message};
use lockstep_model::tokenizer::Tokenizer;
use lockstep_runtime::forward::Engine;
use lockstep_runtime::kernels::Compute;
use serde_json::json;
use std::error::Error;
use std::io::{self, IsTerminal as _, Read as _, Write as _, stdout};
use std::path::PathBuf;
use std::sync::Arc;

/// Bytes of a prompt from standard input.
const PROMPT_BYTES_MAX: u64 = 1 << 20;
/// Tokens of the context that a chat keeps for the next answer; older turns make room.
const CHAT_ANSWER_TOKENS: usize = 64;

/// Generate text in this process.
///
/// Standard output is the text and nothing else; the kernel and the seed are told on standard
/// error. Without --prompt: on a terminal a chat, else the prompt is read from standard input.
///
/// Examples:
///   lockstep run --prompt "Once upon a time" --max-tokens 100
///   lockstep run model.lockstep --prompt "Once" --temperature 0 --kernel scalar --json
///   lockstep run base.lockstep --adapter poet.lockstep --prompt "Once upon a time"
///   echo "Once upon a time" | lockstep run --seed 7
///   lockstep run
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct RunArgs {
    /// Bundle to run [default: the embedded model]
    bundle: Option<PathBuf>,
    /// Adapter to run the model under, as `lockstep import --adapter-of` makes them
    #[arg(long, value_name = "FILE")]
    adapter: Option<PathBuf>,
    /// Text to continue; with --chat a message to answer
    #[arg(long)]
    prompt: Option<String>,
    /// Put the prompt through the bundle's chat template
    #[arg(long)]
    chat: bool,
    #[command(flatten)]
    sampling: SamplingArgs,
    #[command(flatten)]
    compute: ComputeArgs,
    /// One JSON object instead of the text
    #[arg(long)]
    json: bool,
}

/// A whole model in this process with what turns text into its tokens.
#[derive(Debug)]
pub struct Loaded {
    /// Continues prompts.
    pub generator: LocalGenerator,
    tokenizer: Arc<Tokenizer>,
    chat: ChatTemplate,
}

impl Loaded {
    /// The model as the API serves it.
    #[must_use]
    pub fn served(&self) -> Served {
        Served::new(Arc::new(self.generator.clone()), self.tokenizer.clone(), self.chat.clone())
    }
}

/// The whole model of a bundle, ready to answer.
///
/// # Errors
/// If an entry of the bundle is broken; it is named.
pub fn load(bundle: &Bundle, compute: Arc<Compute>, quiet: bool) -> Result<Loaded, Box<dyn Error>> {
    let progress = Progress::new("loading", 2, quiet);
    progress.say(&bundle.config().name);
    let (weights, verification) =
        bundle.load_unverified(&Part::whole(bundle.config().n_layers))?.unverified();
    progress.set(1);
    let tokenizer = Arc::new(bundle.tokenizer()?);
    let chat = ChatTemplate::of_model(bundle.chat_template()?.as_deref())?;
    let engine = Engine::new(Arc::new(weights), compute);
    let generator = LocalGenerator::new(engine, bundle.model_root())?.awaiting(verification);
    progress.finish();
    Ok(Loaded { generator, tokenizer, chat })
}

/// Runs the command.
pub fn run(args: RunArgs) -> CommandResult {
    let compute = args.compute.build()?;
    let bundle = bundles::open_decoder(args.bundle.as_deref())?;
    let parameters = args.sampling.parameters(bundle.config())?;
    let seed = match args.sampling.seed {
        Some(seed) => seed,
        None => random_seed()?,
    };
    let about = format!("kernel {}, {} threads, seed {seed}", compute.kernel, compute.pool.threads());
    let (kernel, threads) = (compute.kernel.name(), compute.pool.threads());
    let adapter = args.adapter.as_deref().map(bundles::open_adapter).transpose()?;
    let mut loaded = load(&bundle, compute, args.json)?;
    if let Some(adapter) = adapter {
        loaded.generator = loaded.generator.adapted(&adapter.config.name.clone(), adapter)?;
    }
    let served = loaded.served();
    let runtime = super::runtime()?;
    let result = runtime.block_on(async {
        let prompt = match args.prompt {
            Some(prompt) => prompt,
            None if io::stdin().is_terminal() && !args.json => {
                eprintln!("{about}; an empty line or Ctrl-D ends the chat");
                return chat(&served, &parameters, seed).await;
            }
            None => read_prompt()?,
        };
        let tokens = if args.chat {
            served.encode_messages(&[Message::new("user", &prompt)])?
        } else {
            served.encode_text(&prompt)?
        };
        let beginning =
            if args.chat || prompt.is_empty() { Beginning::Fresh } else { Beginning::Continuation };
        let mut request = GenerateRequest::new(tokens, parameters);
        request.seed = Some(seed);
        let (text, end) = show(&served, request, beginning, !args.json).await?;
        if !args.json {
            writeln!(stdout())?;
            eprintln!("{about}; {}", summary(&end));
            return Ok(());
        }
        let mut result = json!({
            "text": text,
            "finish_reason": end.done.reason.as_str(),
            "prompt_tokens": end.prompt_tokens,
            "completion_tokens": end.tokens.len(),
            "kernel": kernel,
            "threads": threads,
            "seed": seed,
            "model": served.generator.model().id,
            "model_root": served.generator.model().root.hex(),
            "prompt_seconds": end.done.timings.prompt_seconds,
            "generate_seconds": end.done.timings.generate_seconds,
        });
        if let Some(adapter) = &served.generator.model().adapter {
            result["adapter_root"] = json!(adapter.root.hex());
        }
        writeln!(stdout(), "{result}")?;
        Ok(())
    });
    // A thread that reads the terminal, or computes an abandoned step, need not be waited for.
    runtime.shutdown_background();
    result
}

/// Generates; with `print` the text appears as it comes.
async fn show(
    served: &Served,
    request: GenerateRequest,
    beginning: Beginning,
    print: bool,
) -> Result<(String, Box<AnswerEnd>), Box<dyn Error>> {
    let mut events = answer(served.generator.as_ref(), served.tokenizer.clone(), request, beginning);
    let mut text = String::new();
    loop {
        let event = tokio::select! {
            event = events.recv() => event,
            _ = tokio::signal::ctrl_c() => return Err(Interrupted.into()),
        };
        match event {
            Some(AnswerEvent::Piece(piece)) => {
                if print {
                    write!(stdout(), "{}", piece.text)?;
                    stdout().flush()?;
                }
                text.push_str(&piece.text);
            }
            Some(AnswerEvent::Stage(_)) => {}
            Some(AnswerEvent::Done(end)) => return Ok((text, end)),
            Some(AnswerEvent::Failed(failure)) => return Err(failure.into()),
            None => return Err("the answer ended without a result".into()),
        }
    }
}

/// Questions from the terminal, answers with everything said so far in view.
async fn chat(served: &Served, parameters: &Parameters, seed: u64) -> CommandResult {
    let mut messages: Vec<Message> = Vec::new();
    for turn in 0u64.. {
        eprint!("> ");
        let line = tokio::select! {
            line = tokio::task::spawn_blocking(read_line) => line??,
            _ = tokio::signal::ctrl_c() => return Err(Interrupted.into()),
        };
        if line.is_empty() {
            return Ok(());
        }
        messages.push(Message::new("user", line));
        let mut request = GenerateRequest::new(fitting(served, &mut messages)?, parameters.clone());
        request.seed = Some(seed.wrapping_add(turn));
        let (text, _) = show(served, request, Beginning::Fresh, true).await?;
        writeln!(stdout())?;
        messages.push(Message::new("assistant", text));
    }
    Ok(())
}

/// The prompt of a chat. The oldest turns are forgotten where the context is too short.
fn fitting(served: &Served, messages: &mut Vec<Message>) -> Result<Vec<u32>, Box<dyn Error>> {
    let context = served.generator.model().config.context as usize;
    loop {
        let tokens = served.encode_messages(messages)?;
        if tokens.len() + CHAT_ANSWER_TOKENS.min(context / 2) <= context || messages.len() == 1 {
            return Ok(tokens);
        }
        messages.remove(0);
    }
}

fn read_line() -> io::Result<String> {
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

fn read_prompt() -> Result<String, Box<dyn Error>> {
    let mut bytes = Vec::new();
    io::stdin().take(PROMPT_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > PROMPT_BYTES_MAX {
        return Err(format!("the prompt on standard input is longer than {PROMPT_BYTES_MAX} bytes").into());
    }
    let text = String::from_utf8(bytes).map_err(|error| format!("the prompt on standard input: {error}"))?;
    Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned())
}

/// A seed for who gave none.
///
/// # Errors
/// If the system has no randomness.
pub fn random_seed() -> Result<u64, Box<dyn Error>> {
    use rand::TryRngCore as _;
    // 53 bits, so that the seed survives programs that read JSON numbers as floats.
    let seed = rand::rngs::OsRng
        .try_next_u64()
        .map_err(|error| format!("no random seed from the system: {error}"))?;
    Ok(seed >> 11)
}

fn summary(end: &AnswerEnd) -> String {
    let timings = end.done.timings;
    format!(
        "{} + {} tokens in {:.2} + {:.2} s ({})",
        end.prompt_tokens,
        end.tokens.len(),
        timings.prompt_seconds,
        timings.generate_seconds,
        end.done.reason.as_str()
    )
}
