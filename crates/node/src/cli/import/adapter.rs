//! `lockstep import ADAPTER --adapter-of BUNDLE`: a LoRA adapter in the folder that PyPI `peft` writes, beside a bundle
//! that was imported before. Its matrices are folded as those of the base were, so the float base is
//! needed once more; the bundle says whether it is the right one.

use super::{FromHub, ImportArgs, finish, from_hub, shown};
use crate::bundles;
use crate::cli::CommandResult;
use crate::output::Progress;
use lockstep_base::part::Part;
use lockstep_model::quantise::{self, AdapterImportError, AdapterOptions};
use lockstep_model::source;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// What makes a folder one of `peft`.
const CONFIG: &str = "adapter_config.json";
const WEIGHTS: &str = "adapter_model.safetensors";

/// Whether `path` is an adapter, and no model.
pub(super) fn is_adapter(path: &Path) -> bool {
    let folder = folder_of(path);
    folder.join(CONFIG).is_file() && !(path.is_dir() && folder.join("config.json").is_file())
}

/// The folder of an adapter: `path`, or where the file that it names lies.
fn folder_of(path: &Path) -> PathBuf {
    let names_file = path.file_name().is_some_and(|name| name == CONFIG || name == WEIGHTS);
    if names_file { path.parent().unwrap_or(Path::new("")).to_owned() } else { path.to_owned() }
}

/// What is missing on the command line for the adapter at `path`.
pub(super) fn refuse_alone(path: &Path) -> String {
    format!(
        "{} is a LoRA adapter ({CONFIG}), expected a model; import it beside its base: --adapter-of BUNDLE --base-source {}",
        path.display(),
        base_hint(path)
    )
}

/// The float base as the adapter itself names it.
fn base_hint(path: &Path) -> String {
    let config = std::fs::read(folder_of(path).join(CONFIG)).ok();
    let config = config.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    let name = config.as_ref().and_then(|config| config["base_model_name_or_path"].as_str());
    match name.filter(|name| !name.is_empty() && !name.chars().any(char::is_control)) {
        Some(name) if Path::new(name).is_dir() => name.to_owned(),
        Some(name) if name.split('/').count() == 2 && !name.starts_with(['.', '/']) => format!("hf:{name}"),
        Some(name) => format!("MODEL (the adapter names {name})"),
        None => "MODEL".into(),
    }
}

/// Runs the command for an adapter of the bundle `base`.
pub(super) fn run(args: &ImportArgs, base: &Path) -> CommandResult {
    let bar = Progress::new("reading", 1, args.json);
    let hub = from_hub(&args.src, args.cache.as_deref(), &bar)?;
    let path = hub.as_ref().map_or(args.src.as_path(), |hub| hub.fetched.path.as_path());
    let folder = folder_of(path);
    if !folder.join(CONFIG).is_file() {
        let shown = path.display();
        return Err(format!(
            "{shown} has no {CONFIG}, expected the folder of a LoRA adapter as peft writes it"
        )
        .into());
    }
    let Some(base_source) = &args.base_source else {
        let hint = base_hint(path);
        return Err(format!(
            "--adapter-of needs the float model that the bundle was made of: --base-source {hint}"
        )
        .into());
    };
    let bundle = bundles::open(Some(base))?;
    let base_hub = from_hub(base_source, args.cache.as_deref(), &bar)?;
    let source_path = base_hub.as_ref().map_or(base_source.as_path(), |hub| hub.fetched.path.as_path());
    bar.label("reading");
    bar.say(&source_path.display().to_string());
    bar.wait();
    let adapter = source::open_adapter(&folder, source_path)?;
    let model = source::open_weights(source_path)?;
    let weights = bundle.load(&Part::whole(bundle.config().n_layers))?;
    bar.count();
    let options = AdapterOptions {
        name: args.name.clone().unwrap_or_else(|| name_of(hub.as_ref(), &folder)),
        seed: args.seed,
        calibration_tokens: args.calibration_tokens,
        ..AdapterOptions::default()
    };
    let mut sink = |update: quantise::Update<'_>| shown(&bar, update);
    let mut progress = quantise::Progress::new(&mut sink);
    let root = bundle.model_root();
    let imported = quantise::import_adapter(&model, &weights, root, &adapter, &options, &mut progress)
        .map_err(|error| explained(error, base, source_path))?;
    bar.finish();
    let config = &imported.weights.config;
    let about = json!({
        "adapter_root": imported.weights.root.hex(),
        "base": root.hex(),
        "name": config.name,
        "rank": config.rank,
        "bytes": imported.bytes.len(),
    });
    let lines = [
        format!("adapter root {}", imported.weights.root.hex()),
        format!("rank {}, for {} ({})", config.rank, bundle.config().name, root.hex()),
    ];
    finish(args, &imported.bytes, &imported.report, about, &lines, hub.as_ref())
}

/// The folder's name, or the repository's.
fn name_of(hub: Option<&FromHub>, folder: &Path) -> String {
    if let Some(hub) = hub {
        return hub.model.short_name().into();
    }
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    folder.file_name().map_or_else(|| "adapter".into(), |name| name.to_string_lossy().into_owned())
}

/// Says which files do not belong together.
fn explained(error: AdapterImportError, base: &Path, source: &Path) -> String {
    match error {
        error @ (AdapterImportError::Base { .. } | AdapterImportError::Shape { .. }) => {
            format!("{} was not made of {} with this --seed: {error}", base.display(), source.display())
        }
        error => error.to_string(),
    }
}
