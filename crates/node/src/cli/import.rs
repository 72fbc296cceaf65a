//! `lockstep import`: a float model in, a committed integer bundle out. A model may come from the hub by name.

use super::CommandResult;
use crate::output::{Progress, bytes, table};
use lockstep_hub::{Fetched, Hub, HubError, ModelRef, Settings};
use lockstep_model::quantise::{
    self, ImportOptions, Imported, QuantiseOptions, Report, Stage, Update, WeightFormat,
};
use lockstep_model::source;
use serde_json::{Value, json};
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
/// Examples:
///   lockstep import TinyLlama-1.1B/ --out tinyllama.lockstep --weights int8
///   lockstep import hf:HuggingFaceTB/SmolLM2-135M-Instruct --out smollm2.lockstep
///   lockstep import stories260K.bin --tokenizer tok512.bin --out stories.lockstep --weights int4 --report
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ImportArgs {
    /// Model to import: a file, a folder or hf:owner/name
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
    /// Say how well every matrix was rounded
    #[arg(long)]
    report: bool,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

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
    let bar = Progress::new("reading", 1, args.json);
    let hub = from_hub(&args.src, args.cache.as_deref(), &bar)?;
    let path = hub.as_ref().map_or(args.src.as_path(), |hub| hub.fetched.path.as_path());
    // The folder of a model of the hub is called by its commit.
    let short =
        hub.as_ref().filter(|hub| hub.model.file().is_none()).map(|hub| hub.model.short_name().into());
    let options = ImportOptions {
        quantise: QuantiseOptions {
            weights: args.weights.format(),
            head: args.head.format(),
            seed: args.seed,
            calibration_tokens: args.calibration_tokens,
            ..QuantiseOptions::default()
        },
        name: args.name.or(short),
    };
    bar.label("reading");
    bar.say(&path.display().to_string());
    bar.wait();
    let source = source::open(path, args.tokenizer.as_deref())?;
    bar.count();
    let mut sink = |update: Update<'_>| {
        bar.label(match update.stage {
            Stage::Calibrate => "calibrating",
            Stage::Quantise => "quantising",
            Stage::Check => "checking",
        });
        bar.set_total(update.total as u64);
        bar.set(update.done as u64);
        bar.say(update.site);
    };
    let imported = quantise::import_source(&source, &options, &mut quantise::Progress::new(&mut sink))?;
    bar.finish();
    replace(&args.out, &imported.bytes)?;
    if args.json {
        let mut value = to_json(&imported, args.weights, args.report);
        if let Some(FromHub { model, fetched }) = &hub {
            value["hub"] = json!({
                "model": model.name(),
                "file": model.file().map(ToString::to_string),
                "commit": fetched.commit,
                "downloaded": fetched.downloaded,
            });
        }
        writeln!(stdout(), "{value}")?;
        return Ok(());
    }
    for warning in &imported.report.warnings {
        eprintln!("warning: {warning}");
    }
    if args.report {
        write!(stdout(), "{}", table(&matrix_rows(&imported.report)))?;
    }
    writeln!(stdout(), "{}  {}", args.out.display(), bytes(imported.bytes.len() as u64))?;
    writeln!(stdout(), "model root {}", imported.model_root.hex())?;
    if let Some(FromHub { model, fetched }) = &hub {
        writeln!(stdout(), "from {} at commit {}", model.name(), fetched.commit)?;
    }
    Ok(())
}

/// Writes beside `path` and renames, so that nobody ever opens half a bundle.
fn replace(path: &Path, bytes: &[u8]) -> CommandResult {
    let mut name = path
        .file_name()
        .ok_or_else(|| format!("--out {}, expected the name of a file", path.display()))?
        .to_owned();
    name.push(format!(".{}.partial", std::process::id()));
    let partial = path.with_file_name(name);
    let written = std::fs::write(&partial, bytes).and_then(|()| std::fs::rename(&partial, path));
    written.map_err(|error| {
        let _ = std::fs::remove_file(&partial);
        format!("cannot write {}: {error}", path.display()).into()
    })
}

fn matrix_rows(report: &Report) -> Vec<Vec<String>> {
    let head =
        ["tensor", "shape", "bits", "weight error", "output error", "s1", "F"].map(String::from).to_vec();
    let percent = |share: f64| format!("{:.3} %", 100.0 * share);
    let row = |matrix: &quantise::MatrixReport| {
        vec![
            matrix.tensor.clone(),
            format!("{} x {}", matrix.shape.0, matrix.shape.1),
            matrix.bits.to_string(),
            percent(matrix.weight_error),
            matrix.output_error.map_or("-".into(), percent),
            matrix.pre_shift.to_string(),
            matrix.out_frac.to_string(),
        ]
    };
    std::iter::once(head).chain(report.matrices.iter().map(row)).collect()
}

fn to_json(imported: &Imported, weights: Weights, with_matrices: bool) -> Value {
    let report = &imported.report;
    let mut value = json!({
        "model_root": imported.model_root.hex(),
        "bytes": imported.bytes.len(),
        "weights": weights.name(),
        "calibration_tokens": report.calibration_tokens,
        "residual_max": report.residual_max,
        "residual_frac": report.residual_frac,
        "warnings": report.warnings,
    });
    if with_matrices {
        let matrix = |matrix: &quantise::MatrixReport| {
            json!({
                "tensor": matrix.tensor,
                "rows": matrix.shape.0,
                "cols": matrix.shape.1,
                "bits": matrix.bits,
                "weight_error": matrix.weight_error,
                "output_error": matrix.output_error,
                "pre_shift": matrix.pre_shift,
                "out_frac": matrix.out_frac,
            })
        };
        value["matrices"] = report.matrices.iter().map(matrix).collect();
    }
    value
}
