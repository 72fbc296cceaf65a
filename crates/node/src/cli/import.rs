//! `lockstep import`: a float model in, a committed integer bundle out.

use super::CommandResult;
use crate::output::{Progress, bytes, table};
use lockstep_model::quantise::{
    self, ImportOptions, Imported, QuantiseOptions, Report, Stage, Update, WeightFormat,
};
use serde_json::{Value, json};
use std::io::{Write as _, stdout};
use std::path::{Path, PathBuf};

/// Quantise a model into a bundle: one file under one model root.
///
/// SRC is a llama2.c .bin, a .safetensors file beside its config.json, or a Hugging Face folder
/// (Llama family, GPT-2). The tokenizer is taken from beside it (tokenizer.json, tokenizer.model,
/// tokenizer.bin) unless --tokenizer names one; a vocabulary with one character a line will do too.
///
/// Examples:
///   lockstep import TinyLlama-1.1B/ --out tinyllama.lockstep --weights int8
///   lockstep import stories260K.bin --tokenizer tok512.bin --out stories.lockstep --weights int4 --report
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ImportArgs {
    /// Model to import: a file or a folder
    src: PathBuf,
    /// Tokenizer, if it does not lie beside the model
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Bundle to write
    #[arg(long, value_name = "BUNDLE")]
    out: PathBuf,
    /// How weights are stored
    #[arg(long, value_enum, default_value_t = Weights::Int8)]
    weights: Weights,
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
}

impl Weights {
    /// The storage format.
    #[must_use]
    pub fn format(self) -> WeightFormat {
        match self {
            Weights::Int8 => WeightFormat::Int8,
            Weights::Int4 => WeightFormat::Int4,
        }
    }

    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Weights::Int8 => "int8",
            Weights::Int4 => "int4",
        }
    }
}

/// Runs the command.
pub fn run(args: ImportArgs) -> CommandResult {
    let options = ImportOptions {
        quantise: QuantiseOptions {
            weights: args.weights.format(),
            seed: args.seed,
            calibration_tokens: args.calibration_tokens,
            ..QuantiseOptions::default()
        },
        name: args.name,
    };
    let bar = Progress::new("reading", 1, args.json);
    bar.say(&args.src.display().to_string());
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
    let imported = quantise::import(
        &args.src,
        args.tokenizer.as_deref(),
        &options,
        &mut quantise::Progress::new(&mut sink),
    )?;
    bar.finish();
    replace(&args.out, &imported.bytes)?;
    if args.json {
        writeln!(stdout(), "{}", to_json(&imported, args.weights, args.report))?;
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
