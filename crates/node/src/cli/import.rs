//! `lockstep import`: a float model in, a committed integer bundle out; or an adapter for one. Both may come from the hub
//! by name.

mod adapter;
mod report;
mod stories;

use super::CommandResult;
use crate::output::{Progress, bytes};
use lockstep_hub::{Fetched, Hub, HubError, ModelRef, Settings};
use lockstep_model::quantise::{self, ImportOptions, QuantiseOptions, Report, Stage, Update, WeightFormat};
use lockstep_model::source::{self, Source};
use lockstep_model::tokenizer::MAX_TEXT_BYTES;
use serde_json::{Value, json};
use std::error::Error;
use std::io::{Write as _, stdout};
use std::path::{Path, PathBuf};

/// Quantise a model into a bundle: one file under one model root.
///
/// SRC is a Hugging Face folder, a .safetensors file beside its config.json, a .gguf file, a llama2.c
/// .bin, or `hf:owner/name[@revision][:file.gguf]` to fetch a model from the hub first. The tokenizer is
/// taken from the GGUF file or from beside the weights (tokenizer.json, tokenizer.model,
/// tokenizer.bin) unless --tokenizer names one; a vocabulary with one character a line will do too.
///
/// Downloads are resumed where they broke off, checked against the hub's hashes and kept (--cache).
/// HF_TOKEN is sent to the hub alone, HF_ENDPOINT names another hub.
///
/// With --adapter-of SRC is a LoRA adapter: the folder that PyPI peft writes. It becomes a bundle of its own, which
/// fits that one base. The float base is needed again (--base-source), and --seed must be that of the
/// base's import. A base that is to carry large adapters is imported with --adapter-room.
///
/// Examples:
///   lockstep import TinyLlama-1.1B/ --out tinyllama.lockstep --weights int8
///   lockstep import hf:HuggingFaceTB/SmolLM2-135M-Instruct --out smollm2.lockstep
///   lockstep import all-MiniLM-L6-v2/ --out minilm.lockstep --weights int4 --calibration-text some.txt
///   lockstep import stories260K.bin --tokenizer tok512.bin --out stories.lockstep --weights int4 --report
///   lockstep import TinyLlama-1.1B/ --out tinyllama.lockstep --adapter-room 1 --report tinyllama.json
///   lockstep import poet-lora/ --adapter-of tinyllama.lockstep --base-source TinyLlama-1.1B/ --out poet.lockstep
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ImportArgs {
    /// Model (or adapter) to import: a file, a folder or hf:owner/name
    src: PathBuf,
    /// Tokenizer, if it does not lie beside the model
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Bundle to write
    #[arg(long, value_name = "BUNDLE")]
    out: PathBuf,
    /// Folder of models from the hub [default: lockstep/hub in the user's cache]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// How weights are stored
    #[arg(long, value_enum, default_value_t = Weights::Int8)]
    weights: Weights,
    /// How the output head is stored
    #[arg(long, value_enum, default_value_t = Weights::Int8)]
    head: Weights,
    /// Name for people and for the API [default: that of the source]
    #[arg(long)]
    name: Option<String>,
    /// Seed of the rotations and of the calibration text
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Tokens of text that the model writes to calibrate itself; 0 rounds to nearest
    #[arg(long, value_name = "N", default_value_t = QuantiseOptions::default().calibration_tokens)]
    calibration_tokens: usize,
    /// Calibrate by this text instead (UTF-8, blank lines between texts, which should be as long as those that will be
    /// read); for an encoder, which cannot write one, the embedded model does: stories in English
    #[arg(long, value_name = "FILE")]
    calibration_text: Option<PathBuf>,
    /// Bits of the 16-bit formats that stay free for what adapters add; each costs one bit of precision there
    #[arg(long, value_name = "BITS", default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=ADAPTER_ROOM_MAX))]
    adapter_room: u8,
    /// SRC is a LoRA adapter for this bundle
    #[arg(long, value_name = "BUNDLE", conflicts_with_all = ["tokenizer", "weights", "head", "adapter_room", "calibration_text"])]
    adapter_of: Option<PathBuf>,
    /// The float model that the bundle of --adapter-of was imported from
    #[arg(long, value_name = "SRC", requires = "adapter_of")]
    base_source: Option<PathBuf>,
    /// Say how well every matrix was rounded, what was seen at every site, how long the context is and why; as JSON
    /// into FILE where one is named
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    report: Option<Option<PathBuf>>,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Warnings that are printed: one matrix of a kind tells most about the others.
const WARNINGS_SHOWN: usize = 8;
/// Most bits of `--adapter-room`: half of a 16-bit format.
const ADAPTER_ROOM_MAX: i64 = 8;

/// `--weights`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Weights {
    /// One byte a weight.
    Int8,
    /// Four bits a weight, from tables.
    Int4,
    /// Two bytes a weight: the most accurate, and twice as slow to decode.
    Int16,
}

impl Weights {
    /// The storage format.
    #[must_use]
    pub fn format(self) -> WeightFormat {
        match self {
            Weights::Int8 => WeightFormat::Int8,
            Weights::Int4 => WeightFormat::Int4,
            Weights::Int16 => WeightFormat::Int16,
        }
    }

    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Weights::Int8 => "int8",
            Weights::Int4 => "int4",
            Weights::Int16 => "int16",
        }
    }
}

/// A model of the hub: its name, and the commit that its branch meant today.
struct FromHub {
    model: ModelRef,
    fetched: Fetched,
}

/// Fetches `hf:owner/name`; anything else is a path.
fn from_hub(src: &Path, cache: Option<&Path>, bar: &Progress) -> Result<Option<FromHub>, HubError> {
    let Some(name) = src.to_str().and_then(|src| src.strip_prefix("hf:")) else { return Ok(None) };
    let model: ModelRef = name.parse()?;
    let hub = Hub::new(Settings::from_env(cache, |name| std::env::var(name).ok())?)?;
    bar.label("fetching");
    bar.say(&model.to_string());
    let mut report = |progress: lockstep_hub::Progress<'_>| {
        bar.set_total(progress.total);
        bar.set(progress.done);
        let again =
            if progress.attempt > 1 { format!(", attempt {}", progress.attempt) } else { String::new() };
        bar.say(&format!("{} ({} of {}){again}", progress.file, bytes(progress.done), bytes(progress.total)));
    };
    let fetched = hub.fetch(&model, &mut report)?;
    Ok(Some(FromHub { model, fetched }))
}

/// Runs the command.
pub fn run(args: ImportArgs) -> CommandResult {
    if let Some(base) = &args.adapter_of {
        return adapter::run(&args, base);
    }
    let bar = Progress::new("reading", 1, args.json);
    let hub = from_hub(&args.src, args.cache.as_deref(), &bar)?;
    let path = hub.as_ref().map_or(args.src.as_path(), |hub| hub.fetched.path.as_path());
    if adapter::is_adapter(path) {
        return Err(adapter::refuse_alone(path).into());
    }
    // The folder of a model of the hub is called by its commit.
    let short =
        hub.as_ref().filter(|hub| hub.model.file().is_none()).map(|hub| hub.model.short_name().into());
    let mut options = ImportOptions {
        quantise: QuantiseOptions {
            weights: args.weights.format(),
            head: args.head.format(),
            seed: args.seed,
            calibration_tokens: args.calibration_tokens,
            adapter_bits: args.adapter_room,
            ..QuantiseOptions::default()
        },
        name: args.name.clone().or(short),
        calibration_text: None,
    };
    bar.label("reading");
    bar.say(&path.display().to_string());
    bar.wait();
    let source = source::open(path, args.tokenizer.as_deref())?;
    let given = args.calibration_text.as_deref();
    options.calibration_text = calibration_text(&source, given, args.calibration_tokens)?;
    bar.count();
    let mut sink = |update: Update<'_>| shown(&bar, update);
    let imported = quantise::import_source(&source, &options, &mut quantise::Progress::new(&mut sink))?;
    bar.finish();
    let about = json!({
        "model_root": imported.model_root.hex(),
        "bytes": imported.bytes.len(),
        "weights": args.weights.name(),
    });
    let lines = [format!("model root {}", imported.model_root.hex())];
    finish(&args, &imported.bytes, &imported.report, about, &lines, hub.as_ref())
}

/// The text to calibrate by: the one that is given, or what the embedded model writes for a model that cannot.
pub(super) fn calibration_text(
    source: &Source,
    given: Option<&Path>,
    tokens: usize,
) -> Result<Option<String>, Box<dyn Error>> {
    let Some(path) = given else { return stories::for_encoder(source, tokens) };
    let bytes = super::eval::read(path, MAX_TEXT_BYTES as u64)?;
    Ok(Some(String::from_utf8(bytes).map_err(|error| format!("{}: {error}", path.display()))?))
}

/// One step of an import on the bar.
fn shown(bar: &Progress, update: Update<'_>) {
    bar.label(match update.stage {
        Stage::Calibrate => "calibrating",
        Stage::Quantise => "quantising",
        Stage::Check => "checking",
    });
    bar.set_total(update.total as u64);
    bar.set(update.done as u64);
    bar.say(update.site);
}

/// Writes the bundle and says what became of it: `about` for programs, `lines` for people.
fn finish(
    args: &ImportArgs,
    content: &[u8],
    report: &Report,
    mut about: Value,
    lines: &[String],
    hub: Option<&FromHub>,
) -> CommandResult {
    about["calibration_tokens"] = json!(report.calibration_tokens);
    about["residual_max"] = json!(report.residual_max);
    about["residual_frac"] = json!(report.residual_frac);
    about["context"] = json!(report.context);
    about["warnings"] = json!(report.warnings);
    if let Some(FromHub { model, fetched }) = hub {
        about["hub"] = json!({
            "model": model.name(),
            "file": model.file().map(ToString::to_string),
            "commit": fetched.commit,
            "downloaded": fetched.downloaded,
        });
    }
    let file = args.report.as_ref().and_then(Option::as_ref);
    if let Some(file) = file {
        let mut value = about.clone();
        value["report"] = report::to_json(report);
        replace("--report", file, format!("{value:#}\n").as_bytes())?;
    }
    replace("--out", &args.out, content)?;
    if args.json {
        if args.report.is_some() {
            about["report"] = report::to_json(report);
        }
        writeln!(stdout(), "{about}")?;
        return Ok(());
    }
    for warning in report.warnings.iter().take(WARNINGS_SHOWN) {
        eprintln!("warning: {warning}");
    }
    let more = report.warnings.len().saturating_sub(WARNINGS_SHOWN);
    if more > 0 {
        eprintln!("warning: {more} more like these; --report FILE has all of them");
    }
    if args.report.is_some() && file.is_none() {
        writeln!(stdout(), "{}", report::to_text(report))?;
    }
    writeln!(stdout(), "{}  {}", args.out.display(), bytes(content.len() as u64))?;
    for line in lines {
        writeln!(stdout(), "{line}")?;
    }
    if let Some(context) = &report.context {
        writeln!(stdout(), "context {context}")?;
    }
    if let Some(FromHub { model, fetched }) = hub {
        writeln!(stdout(), "from {} at commit {}", model.name(), fetched.commit)?;
    }
    Ok(())
}

/// Writes beside `path` and renames, so that nobody ever opens half a bundle.
fn replace(flag: &str, path: &Path, bytes: &[u8]) -> CommandResult {
    let mut name = path
        .file_name()
        .ok_or_else(|| format!("{flag} {}, expected the name of a file", path.display()))?
        .to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let partial = path.with_file_name(name);
    let written = std::fs::write(&partial, bytes).and_then(|()| std::fs::rename(&partial, path));
    written.map_err(|error| {
        let _ = std::fs::remove_file(&partial);
        format!("cannot write {}: {error}", path.display()).into()
    })
}
