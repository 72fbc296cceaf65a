//! `lockstep verify`: re-executes a receipt file, from files alone.

use super::compute::ComputeArgs;
use super::{CommandResult, Refuted};
use crate::bundles;
use crate::output::Progress;
use crate::proving::stage::commit;
use lockstep_base::Digest;
use lockstep_base::limits::RECEIPT_FILE_BYTES_MAX;
use lockstep_base::op::{LAYER_EMBED, LAYER_HEAD, Place};
use lockstep_base::part::Part;
use lockstep_base::receipt_file::ReceiptFile;
use lockstep_runtime::audit::{Fault, Verdict, adapter_of, audit_committed};
use lockstep_runtime::forward::Engine;
use serde_json::{Value, json};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Re-execute the receipts of an answer and say "verified", or exactly where they differ.
///
/// Needs the receipt file, the bundle, and the adapter of an answer that was given under one; nothing
/// else: no network, no trust in who made them.
/// Exit status: 0 verified, 2 a stage signed something else, 1 the file cannot be checked.
///
/// Examples:
///   lockstep verify answer.receipts
///   lockstep verify answer.receipts --bundle model.lockstep --json
///   lockstep verify answer.receipts --bundle base.lockstep --adapter poet.lockstep
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment)]
pub struct VerifyArgs {
    /// Receipt file
    file: PathBuf,
    /// Bundle that the receipts speak about [default: the embedded model]
    #[arg(long, value_name = "BUNDLE")]
    bundle: Option<PathBuf>,
    /// Adapter that the receipts name
    #[arg(long, value_name = "FILE")]
    adapter: Option<PathBuf>,
    #[command(flatten)]
    compute: ComputeArgs,
    /// One JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// Reads a receipt file with a limit on its size.
pub fn read(path: &Path) -> Result<ReceiptFile, Box<dyn std::error::Error>> {
    let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let mut content = Vec::new();
    let file = std::fs::File::open(path).map_err(|error| named(&error))?;
    // A pipe or a device tells no length: read one byte more than is allowed, at most.
    file.take(RECEIPT_FILE_BYTES_MAX + 1).read_to_end(&mut content).map_err(|error| named(&error))?;
    if content.len() as u64 > RECEIPT_FILE_BYTES_MAX {
        return Err(named(&format!("more than {RECEIPT_FILE_BYTES_MAX} bytes, expected at most that")).into());
    }
    Ok(ReceiptFile::from_bytes(&content).map_err(|error| named(&error))?)
}

/// Runs the command.
pub fn run(args: VerifyArgs) -> CommandResult {
    let file = read(&args.file)?;
    let bundle = bundles::open(args.bundle.as_deref())?;
    let adapter = args.adapter.as_deref().map(bundles::open_adapter).transpose()?;
    let named = adapter_of(&file);
    if adapter.is_none() && named != Digest::ZERO {
        return Err(
            format!("the answer was given under adapter {named}: give its file with --adapter").into()
        );
    }
    let part = Part::whole(bundle.config().n_layers);
    let weights = bundle.load(&part)?;
    if let Some(adapter) = &adapter {
        adapter.check_fits(bundle.model_root(), bundle.config(), 0, &weights.layers)?;
    }
    let engine = Engine::new(Arc::new(weights), args.compute.build()?);
    let progress = Progress::new("re-executing", file.tokens.len() as u64, args.json);
    let root = bundle.model_root();
    let mut done = |done: usize, _| progress.set(done as u64);
    let width = bundle.config().d_model as usize;
    let commit = |rows: &[i32]| commit(width, rows);
    let verdict = audit_committed(&file, &root, &engine, (adapter.as_ref(), Some(&commit)), &mut done)?;
    progress.finish();
    if args.json {
        println!("{}", to_json(&verdict));
    } else {
        print(&verdict, &file);
    }
    match verdict {
        Verdict::Verified { .. } => Ok(()),
        Verdict::Fault(_) => Err(Refuted.into()),
    }
}

fn print(verdict: &Verdict, file: &ReceiptFile) {
    match verdict {
        Verdict::Verified { receipts, tokens } => {
            println!(
                "verified: {receipts} receipts of {} stages, {tokens} tokens re-executed",
                file.stages.len()
            );
        }
        Verdict::Fault(fault) => {
            println!(
                "NOT verified: stage {} (node {}) signed a wrong {}",
                fault.stage, fault.node, fault.what
            );
            println!("  tokens {}..{}", fault.first_token, fault.end_token);
            match &fault.located {
                Some(located) => {
                    println!("  at {}, row {}", located.place, located.row);
                    println!("  got {}, expected {}", number(&located.got), number(&located.expected));
                }
                None if has_leaves(file, fault) => {}
                None => println!(
                    "  the file holds no leaves of this span: ask the node for them; refusing is a fault"
                ),
            }
        }
    }
}

fn has_leaves(file: &ReceiptFile, fault: &Fault) -> bool {
    file.stages[fault.stage].served.iter().any(|span| span.first_token == fault.first_token)
}

/// The verdict for programs.
pub fn to_json(verdict: &Verdict) -> Value {
    match verdict {
        Verdict::Verified { receipts, tokens } => {
            json!({ "verified": true, "receipts": receipts, "tokens": tokens })
        }
        Verdict::Fault(Fault { stage, node, first_token, end_token, what, located }) => json!({
            "verified": false,
            "stage": stage,
            "node": node.to_string(),
            "first_token": first_token,
            "end_token": end_token,
            "what": what.to_string(),
            "located": located.as_ref().map(|located| json!({
                "token": located.place.position,
                "layer": layer(&located.place),
                "op": located.place.op.name(),
                "row": located.row,
                "got": number(&located.got),
                "expected": number(&located.expected),
            })),
        }),
    }
}

/// The layer of a place for programs: its number, or `"embed"` or `"head"`.
pub fn layer(place: &Place) -> Value {
    match place.layer {
        LAYER_EMBED | LAYER_HEAD => json!(place.layer_name()),
        layer => json!(layer),
    }
}

/// A little-endian two's complement number of any width.
fn number(bytes: &[u8]) -> i64 {
    let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
    let mut word = if negative { [0xff; 8] } else { [0; 8] };
    word[..bytes.len().min(8)].copy_from_slice(&bytes[..bytes.len().min(8)]);
    i64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Differing elements are shown as the numbers that they are.
    #[test]
    fn elements_are_numbers() {
        assert_eq!([number(&[0xff]), number(&[0x80, 0x01]), number(&[0, 0, 0, 0x80])], [-1, 384, -(1 << 31)]);
        assert_eq!(number(&[]), 0);
    }
}
