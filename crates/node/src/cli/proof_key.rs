//! `lockstep proof-key`: a model without its weights, for who verifies proofs of its answers.

use super::CommandResult;
use super::prove::stages::{check_writable, ends};
use crate::bundles;
use crate::output::bytes;
use lockstep_base::part::Part;
use lockstep_proof::key::Key;
use serde_json::json;
use std::path::PathBuf;

/// Make the key of a model: what a verifier needs who does not hold the weights.
///
/// The key has the model's configuration, tables and scales, and a commitment to the weights of each stage. Whoever has the bundle can
/// make it again and gets the same bytes; its digest says which model is meant. `lockstep prove --key` proves for who has
/// the key, `lockstep verify-proof --key` needs nothing else.
///
/// Examples:
///   lockstep proof-key --out default.key
///   lockstep prove --prompt "Once upon a time" --key default.key --out story.proof
///   lockstep verify-proof story.proof --key default.key
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct ProofKeyArgs {
    /// Bundle whose key is made [default: the embedded model]
    #[arg(long, value_name = "BUNDLE")]
    bundle: Option<PathBuf>,
    /// Commit to the layers' weights in N stages, which are then proved one by one
    #[arg(long, value_name = "N", default_value_t = 1)]
    stages: u32,
    /// Folder for the encoded weights, about 16 bytes each: `lockstep prove --kept` opens commitments with them instead of making them again
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Key of answers under this adapter, instead of answers without one
    #[arg(long, value_name = "FILE", conflicts_with = "keep")]
    adapter: Option<PathBuf>,
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: ProofKeyArgs) -> CommandResult {
    let bundle = bundles::open(args.bundle.as_deref())?;
    let adapter = args.adapter.as_deref().map(bundles::open_adapter).transpose()?;
    check_writable(&args.out)?;
    let ends = ends("--stages", args.stages, bundle.config().n_layers)?;
    let weights = bundle.load(&Part::whole(bundle.config().n_layers))?;
    if let Some(adapter) = &adapter {
        adapter.check_fits(bundle.model_root(), bundle.config(), 0, &weights.layers)?;
    }
    let key = match (&args.keep, &adapter) {
        (Some(folder), _) => {
            std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
            Key::keeping(&weights, bundle.model_root(), &ends, folder)
        }
        (None, Some(adapter)) => Key::adapted(&weights, adapter, bundle.model_root(), &ends),
        (None, None) => Key::new(&weights, bundle.model_root(), &ends),
    }
    .map_err(|error| format!("this model has no key: {error}"))?;
    let content = key.to_bytes();
    std::fs::write(&args.out, &content).map_err(|error| format!("{}: {error}", args.out.display()))?;
    let (out, digest) = (args.out.display().to_string(), key.digest());
    if args.json {
        let result = json!({
            "file": out,
            "key": digest.hex(),
            "key_bytes": content.len(),
            "model": bundle.config().name,
            "model_root": bundle.model_root().hex(),
            "bundle_bytes": bundle.file_bytes(),
            "stages": ends,
            "adapter_root": adapter.map(|adapter| adapter.root.hex()),
        });
        println!("{result}");
    } else {
        println!("model   {} ({})", bundle.config().name, bundle.model_root());
        println!("key     {digest}");
        let (size, of) = (bytes(content.len() as u64), bytes(bundle.file_bytes()));
        println!("{out}: {size} of a model of {of}, {} stage(s)", ends.len());
        if let Some(folder) = &args.keep {
            println!("{}: encoded weights, for `lockstep prove --key {out} --kept`", folder.display());
        }
    }
    Ok(())
}
