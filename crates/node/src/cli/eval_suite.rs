//! `lockstep eval-suite`: the table of accuracy. Each model is imported in each of our formats and judged, beside
//! llama.cpp's formats on the same weights and text, by how far it is from its own float weights.
//!
//! ```text
//! KL      = mean over positions of sum p ln(p / q), p the float model, in thousandths of a nat
//! top-1   = share of positions at which both prefer the same token
//! bits    = how many more bits a token of the text takes than under the float model, in percent
//! ```
//! The text is not what the models were calibrated on (they write that themselves, from another seed): a sample
//! of stories, and what the float model writes with the seed that is asked for. Public models are fetched
//! only if that is asked for; what could not be had is in the table as "not run", with the reason.
//!
//! Of encoders, vectors of the text's sentences are compared (`eval::encoder`), in a table of their own.

mod encoder;

use super::CommandResult;
use super::compute::ComputeArgs;
use super::eval::texts::TestSet;
use super::eval::{Judge, Rivals, Total, Totals};
use crate::output::{Progress, table};
use lockstep_base::part::Part;
use lockstep_hub::{Hub, ModelRef, Settings};
use lockstep_model::bundle::Bundle;
use lockstep_model::quantise::{self, ImportOptions, QuantiseOptions, WeightFormat};
use lockstep_model::source::{self, Source};
use lockstep_runtime::kernels::Compute;
use serde_json::{Value, json};
use std::error::Error;
use std::io::{Write as _, stdout};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where small public models and texts lie, when --data is not given.
const DATA_VARIABLE: &str = "LOCKSTEP_DATA";
/// The text that all models are judged on, in the data folder.
const TEXT: &str = "text-tinystories-sample/tinystories_sample.txt";
/// Small models in the data folder: name, weights, tokenizer.
const LOCAL: [(&str, &str, &str); 2] = [
    ("stories260K", "llama-stories260k/stories260K.bin", "llama-stories260k/tok512.bin"),
    ("BabyLlama", "llama-babyllama-tok361/tok361_model5000.bin", "llama-babyllama-tok361/tok105.vocab"),
];
/// Models of the hub.
const PUBLIC: [&str; 3] =
    ["TinyLlama/TinyLlama-1.1B-Chat-v1.0", "Qwen/Qwen2.5-1.5B", "meta-llama/Llama-3.2-1B"];

/// Import models in every format and compare each with its float weights and llama.cpp's formats.
///
/// Ends with one JSON object. Models: the small ones of --data, each --model, and with --public
/// TinyLlama-1.1B, Qwen2.5-1.5B and Llama-3.2-1B from the Hugging Face hub. An encoder is judged by the
/// vectors of the text's sentences, with --rival-python beside llama.cpp itself.
///
/// Examples:
///   lockstep eval-suite --data data/ --model default=models/default
///   lockstep eval-suite --public --tokens 500 --generated 0 --formats int8,int4
///   lockstep eval-suite --model minilm=all-MiniLM-L6-v2/ --text alice.txt --calibration-text moby-dick.txt
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct EvalSuiteArgs {
    /// Folder with the small models and the text [default: that of LOCKSTEP_DATA]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Another model: a name, and what `lockstep import` takes; may be repeated
    #[arg(long = "model", value_name = "NAME=SRC", value_parser = parse_model)]
    models: Vec<(String, PathBuf)>,
    /// Fetch and judge public models too
    #[arg(long)]
    public: bool,
    /// Folder of models from the hub [default: lockstep/hub in the user's cache]
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,
    /// Our formats
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Format::Int8, Format::Int4])]
    formats: Vec<Format>,
    /// Text to predict, UTF-8 [default: a sample of stories in the data folder]
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
    /// Use the first N tokens of the text only
    #[arg(long, value_name = "N")]
    tokens: Option<usize>,
    /// Add N tokens that each float model writes itself
    #[arg(long, value_name = "N", default_value_t = 2000)]
    generated: usize,
    /// Seed of the generated text
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Tokens of text that models write to calibrate themselves
    #[arg(long, value_name = "N", default_value_t = QuantiseOptions::default().calibration_tokens)]
    calibration_tokens: usize,
    /// Calibrate by this text instead, which is not that to be judged on; as for `lockstep import`
    #[arg(long, value_name = "FILE")]
    calibration_text: Option<PathBuf>,
    /// Judge llama.cpp itself, of encoders: a Python that has llama-cpp-python and gguf
    #[arg(long, value_name = "PATH")]
    rival_python: Option<PathBuf>,
    #[command(flatten)]
    compute: ComputeArgs,
    /// The JSON object and nothing else
    #[arg(long)]
    json: bool,
}

/// `--formats`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// Two bytes a weight.
    Int16,
    /// One byte a weight.
    Int8,
    /// Four bits a weight, from tables.
    Int4,
}

impl Format {
    fn weights(self) -> WeightFormat {
        match self {
            Format::Int16 => WeightFormat::Int16,
            Format::Int8 => WeightFormat::Int8,
            Format::Int4 => WeightFormat::Int4,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Format::Int16 => "int16",
            Format::Int8 => "int8",
            Format::Int4 => "int4",
        }
    }
}

fn parse_model(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok((name.into(), path.into())),
        _ => Err(format!("got {text:?}, expected NAME=SRC")),
    }
}

/// A model to judge.
struct Candidate {
    name: String,
    path: PathBuf,
    tokenizer: Option<PathBuf>,
}

/// Runs the command.
pub fn run(args: EvalSuiteArgs) -> CommandResult {
    let compute = args.compute.build()?;
    let data = args.data.clone().or_else(|| std::env::var_os(DATA_VARIABLE).map(PathBuf::from));
    let text = match (&args.text, &data) {
        (Some(text), _) => text.clone(),
        (None, Some(data)) => data.join(TEXT),
        (None, None) => return Err("no text to judge on: give --text, or --data (or LOCKSTEP_DATA)".into()),
    };
    let bar = Progress::new("suite", 1, args.json);
    let mut rows = Vec::new();
    for candidate in candidates(&args, data.as_deref()) {
        bar.label(&candidate.name);
        let judged = fetched(&candidate, args.cache.as_deref())
            .and_then(|path| judge(&candidate, &path, &text, &args, &compute, &bar));
        rows.push(match judged {
            Ok(row) => row,
            Err(error) => json!({ "model": candidate.name, "not_run": error.to_string() }),
        });
    }
    if !args.public {
        rows.extend(PUBLIC.map(|name| json!({ "model": name, "not_run": "not asked for: --public" })));
    }
    bar.finish();
    if !args.json {
        let (encoders, others): (Vec<Value>, Vec<Value>) = rows.iter().cloned().partition(encoder::is_row);
        for lines in [lines(&others), encoder::lines(&encoders)] {
            write!(stdout(), "{}", table(&lines))?;
        }
    }
    let judged = rows.iter().any(|row| row.get("not_run").is_none());
    writeln!(stdout(), "{}", json!({ "text": text.display().to_string(), "models": rows }))?;
    if judged { Ok(()) } else { Err("no model could be judged: the table says why".into()) }
}

fn candidates(args: &EvalSuiteArgs, data: Option<&Path>) -> Vec<Candidate> {
    let local = data.into_iter().flat_map(|data| {
        LOCAL.map(|(name, weights, tokenizer)| Candidate {
            name: name.into(),
            path: data.join(weights),
            tokenizer: Some(data.join(tokenizer)),
        })
    });
    let named = args.models.iter().map(|(name, path)| Candidate {
        name: name.clone(),
        path: path.clone(),
        tokenizer: None,
    });
    let public = PUBLIC.iter().filter(|_| args.public).map(|name| Candidate {
        name: (*name).into(),
        path: format!("hf:{name}").into(),
        tokenizer: None,
    });
    local.chain(named).chain(public).collect()
}

/// The path of a model, fetched first if it is one of the hub.
fn fetched(candidate: &Candidate, cache: Option<&Path>) -> Result<PathBuf, Box<dyn Error>> {
    let Some(name) = candidate.path.to_str().and_then(|path| path.strip_prefix("hf:")) else {
        return Ok(candidate.path.clone());
    };
    let model: ModelRef = name.parse()?;
    let hub = Hub::new(Settings::from_env(cache, |name| std::env::var(name).ok())?)?;
    Ok(hub.fetch(&model, &mut |_| {})?.path)
}

/// One model in all formats, beside the rivals.
fn judge(
    candidate: &Candidate,
    path: &Path,
    text: &Path,
    args: &EvalSuiteArgs,
    compute: &Compute,
    bar: &Progress,
) -> Result<Value, Box<dyn Error>> {
    let source = source::open(path, candidate.tokenizer.as_deref())?;
    let mut bundles = Vec::new();
    for format in &args.formats {
        bar.say(&format!("importing {}", format.name()));
        bundles.push(import(&source, *format, args)?);
    }
    if source.model.config.pooling.is_some() {
        let (name, bundles) = (candidate.name.as_str(), bundles.as_slice());
        return encoder::Encoder { name, path, source: &source, bundles }.judge(text, args, compute, bar);
    }
    let bundle = bundles.first().ok_or("no --formats, expected at least one")?;
    let (config, tokenizer) = (bundle.config().clone(), bundle.tokenizer()?);
    let mut set = TestSet::read(text, &tokenizer, &config, args.tokens)?;
    if args.generated > 0 {
        bar.say("writing a text");
        set.add_generated(&source.model, &tokenizer, &config, args.generated, args.seed)?;
    }
    if set.predicted == 0 {
        return Err(format!("{}: no token to predict, expected some text", text.display()).into());
    }
    let whole = Part::whole(config.n_layers);
    let weights: Vec<_> = bundles
        .iter()
        .map(|bundle| Ok(Arc::new(bundle.load(&whole)?)))
        .collect::<Result<_, Box<dyn Error>>>()?;
    let rivals = Rivals::new(&source.model)?;
    let judge = Judge { weights, kernel: compute.kernel, float: &source.model, rivals: &rivals };
    bar.say("judging");
    bar.set_total(set.windows.len() as u64);
    let totals = judge.all(&set.windows, compute.pool.threads(), bar)?;
    let sizes: Vec<u64> = bundles.iter().map(Bundle::file_bytes).collect();
    Ok(report(&candidate.name, &totals, &set, args, &sizes, &rivals))
}

fn import(source: &Source, format: Format, args: &EvalSuiteArgs) -> Result<Bundle, Box<dyn Error>> {
    let given = args.calibration_text.as_deref();
    let options = ImportOptions {
        quantise: QuantiseOptions {
            weights: format.weights(),
            calibration_tokens: args.calibration_tokens,
            ..QuantiseOptions::default()
        },
        calibration_text: super::import::calibration_text(source, given, args.calibration_tokens)?,
        ..ImportOptions::default()
    };
    let imported = quantise::import_source(source, &options, &mut quantise::Progress::none())?;
    Ok(Bundle::from_bytes(imported.bytes)?)
}

fn report(
    name: &str,
    totals: &Totals,
    set: &TestSet,
    args: &EvalSuiteArgs,
    sizes: &[u64],
    rivals: &Rivals,
) -> Value {
    let positions = set.windows.iter().map(Vec::len).sum::<usize>() as f64;
    let tokens = set.predicted as f64;
    let figures = |total: &Total| {
        json!({
            "bits_per_token": total.bits / tokens,
            "bits_over_float_percent": 100.0 * (total.bits / totals.float.bits - 1.0),
            "top1_agreement": total.agreeing / positions,
            "mean_kl": total.kl / positions,
        })
    };
    let mut formats = serde_json::Map::new();
    for ((format, total), size) in args.formats.iter().zip(&totals.ours).zip(sizes) {
        let mut value = figures(total);
        value["bundle_bytes"] = json!(size);
        formats.insert(format.name().into(), value);
    }
    for ((rival, ..), total) in rivals.0.iter().zip(&totals.rivals) {
        formats.insert((*rival).into(), figures(total));
    }
    let kl = |name: &str| formats.get(name).and_then(|format| format["mean_kl"].as_f64());
    let ratio = |ours: &str, theirs: &str| Some(kl(ours)? / kl(theirs)?);
    json!({
        "model": name,
        "tokens": set.predicted,
        "float_bits_per_token": totals.float.bits / tokens,
        "kl_ratio": {
            "int8_to_q8_0": ratio("int8", "q8_0"),
            "int4_to_q4_0": ratio("int4", "q4_0"),
            "int4_to_q4_k_m": ratio("int4", "q4_k_m"),
        },
        "formats": formats,
    })
}

fn lines(rows: &[Value]) -> Vec<Vec<String>> {
    let mut lines =
        vec![["model", "format", "KL e-3", "top-1", "bits", "KL ratio"].map(String::from).to_vec()];
    for row in rows {
        let name = row["model"].as_str().unwrap_or_default();
        if let Some(reason) = row["not_run"].as_str() {
            lines.push(vec![name.into(), "not run".into(), reason.into()]);
            continue;
        }
        for (format, figures) in row["formats"].as_object().into_iter().flatten() {
            let number = |key: &str| figures[key].as_f64().unwrap_or(f64::NAN);
            let prefix = format!("{format}_to_");
            let ratios = row["kl_ratio"].as_object().into_iter().flatten().filter_map(|(key, value)| {
                Some(format!("{:.2} x {}", value.as_f64()?, key.strip_prefix(&prefix)?))
            });
            lines.push(vec![
                name.into(),
                format.clone(),
                format!("{:.3}", 1e3 * number("mean_kl")),
                format!("{:.2} %", 100.0 * number("top1_agreement")),
                format!("{:+.2} %", number("bits_over_float_percent")),
                ratios.collect::<Vec<_>>().join(", "),
            ]);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What could not be had stands in the table with its reason.
    #[test]
    fn what_was_not_run_is_said() {
        let rows = [json!({ "model": "a", "not_run": "no network" })];
        assert_eq!(lines(&rows)[1], ["a", "not run", "no network"]);
        assert!(parse_model("x").unwrap_err().contains("expected NAME=SRC"));
    }
}
