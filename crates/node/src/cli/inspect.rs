//! `lockstep inspect`: what a bundle says about itself, and whether it is true; models and adapters.

use super::CommandResult;
use crate::bundles::{self, OpenError};
use crate::output::{Progress, bytes, table};
use lockstep_base::adapter::{AdapterWeights, Target};
use lockstep_base::config::ModelConfig;
use lockstep_base::limits::CONTEXT_MAX;
use lockstep_base::manifest::{Entry, EntryKind};
use lockstep_model::bundle::Bundle;
use serde_json::{Value, json};
use std::io::{Write as _, stdout};
use std::path::{Path, PathBuf};

/// Show a bundle's configuration, model root, longest context and entries; or what an adapter changes.
///
/// Examples:
///   lockstep inspect model.lockstep
///   lockstep inspect model.lockstep --verify --json
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct InspectArgs {
    /// Bundle to look at [default: the embedded model]
    bundle: Option<PathBuf>,
    /// Check every byte against the model root
    #[arg(long)]
    verify: bool,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: InspectArgs) -> CommandResult {
    let bundle = match bundles::open(args.bundle.as_deref()) {
        Err(OpenError::Adapter { path }) => return adapter(&path, args.json),
        opened => opened?,
    };
    if args.verify {
        let bar = Progress::new("verifying", bundle.file_bytes(), args.json);
        bundle.verify_all(&mut |entry, done, total| {
            bar.set_total(total);
            bar.set(done);
            bar.say(entry);
        })?;
        bar.finish();
    }
    if args.json {
        writeln!(stdout(), "{}", to_json(&bundle, args.verify))?;
    } else {
        print(&bundle, args.verify)?;
    }
    Ok(())
}

/// An adapter is small: all of it is verified when it is opened.
fn adapter(path: &Path, json: bool) -> CommandResult {
    let adapter = bundles::open_adapter(path)?;
    let file_bytes = std::fs::metadata(path)?.len();
    if json {
        writeln!(stdout(), "{}", adapter_to_json(&adapter, file_bytes))?;
        return Ok(());
    }
    let config = &adapter.config;
    let fields = [
        ("adapter root", adapter.root.hex()),
        ("verified", "every byte".into()),
        ("file", bytes(file_bytes)),
        ("name", config.name.escape_debug().to_string()),
        ("opset", config.opset.clone()),
        ("base", config.base.hex()),
        ("rank", config.rank.to_string()),
    ];
    let fields: Vec<_> = fields.map(|(name, value)| vec![name.into(), value]).into();
    writeln!(stdout(), "{}", table(&fields))?;
    let mut rows = vec![["layer", "matrices"].map(String::from).to_vec()];
    rows.extend(adapted(&adapter).into_iter().map(|(layer, names)| vec![layer.to_string(), names.join(" ")]));
    write!(stdout(), "{}", table(&rows))?;
    Ok(())
}

/// What is adapted, layer by layer.
fn adapted(adapter: &AdapterWeights) -> Vec<(usize, Vec<&'static str>)> {
    let of_layer = |layer: &lockstep_base::adapter::LayerAdapter| {
        Target::ALL.into_iter().filter(|target| layer.get(*target).is_some()).map(Target::name).collect()
    };
    (adapter.first_layer..).zip(adapter.layers.iter().map(of_layer)).collect()
}

fn adapter_to_json(adapter: &AdapterWeights, file_bytes: u64) -> Value {
    let layers = adapted(adapter).into_iter();
    json!({
        "adapter_root": adapter.root.hex(),
        "base": adapter.config.base.hex(),
        "name": adapter.config.name,
        "opset": adapter.config.opset,
        "rank": adapter.config.rank,
        "verified": true,
        "bytes": file_bytes,
        "layers": layers.map(|(layer, matrices)| json!({ "layer": layer, "matrices": matrices })).collect::<Vec<_>>(),
    })
}

/// The longest sequence in words: what it ends with is said by the bundle's number itself.
fn context(config: &ModelConfig) -> String {
    let why = if config.context == CONTEXT_MAX {
        "the bound of the exact softmax"
    } else {
        "all that the model was made for"
    };
    format!("{} positions ({why})", config.context)
}

fn print(bundle: &Bundle, verified: bool) -> CommandResult {
    let config = bundle.config();
    let mut rows = vec![
        vec!["model root".into(), bundle.model_root().hex()],
        vec![
            "verified".into(),
            if verified { "every byte" } else { "manifest and configuration (--verify checks all)" }.into(),
        ],
        vec!["file".into(), bytes(bundle.file_bytes())],
    ];
    rows.extend(config_fields(config).into_iter().map(|(name, value)| match value {
        _ if name == "context" => vec![name.into(), context(config)],
        Value::String(text) => vec![name.into(), text],
        other => vec![name.into(), other.to_string()],
    }));
    writeln!(stdout(), "{}", table(&rows))?;
    let entry = |entry: &Entry| {
        vec![entry.name.clone(), kind(&entry.kind), bytes(entry.bytes), entry.root.hex()[..16].into()]
    };
    let head = ["entry", "kind", "size", "root"].map(String::from).to_vec();
    let entries = bundle.entries().iter().map(|placed| entry(&placed.entry));
    write!(stdout(), "{}", table(&std::iter::once(head).chain(entries).collect::<Vec<_>>()))?;
    Ok(())
}

fn to_json(bundle: &Bundle, verified: bool) -> Value {
    let entry = |entry: &Entry| json!({ "name": entry.name, "kind": kind(&entry.kind), "bytes": entry.bytes, "root": entry.root.hex() });
    json!({
        "model_root": bundle.model_root().hex(),
        "verified": verified,
        "bytes": bundle.file_bytes(),
        "config": config_fields(bundle.config()).into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<serde_json::Map<_, _>>(),
        "entries": bundle.entries().iter().map(|placed| entry(&placed.entry)).collect::<Vec<_>>(),
    })
}

/// The configuration, field by field.
fn config_fields(config: &ModelConfig) -> Vec<(&'static str, Value)> {
    vec![
        ("name", json!(config.name)),
        ("opset", json!(config.opset)),
        ("n_layers", json!(config.n_layers)),
        ("d_model", json!(config.d_model)),
        ("n_heads", json!(config.n_heads)),
        ("n_kv_heads", json!(config.n_kv_heads)),
        ("head_dim", json!(config.head_dim)),
        ("d_ffn", json!(config.d_ffn)),
        ("vocab", json!(config.vocab)),
        ("context", json!(config.context)),
        ("residual_frac", json!(config.residual_frac)),
        ("norm_eps", json!(config.norm_eps)),
        ("positions", json!(format!("{:?}", config.positions).to_lowercase())),
        ("feed_forward", json!(format!("{:?}", config.feed_forward).to_lowercase())),
        ("bos", json!(config.bos)),
        ("eos", json!(config.eos)),
    ]
}

fn kind(kind: &EntryKind) -> String {
    match kind {
        EntryKind::Blob => "bytes".into(),
        EntryKind::Embedding { rows, cols, .. } => format!("embedding {rows} x {cols}"),
        EntryKind::Linear { rows, cols, bits, bias, .. } => {
            format!("int{bits} {rows} x {cols}{}", if *bias { " + bias" } else { "" })
        }
    }
}
