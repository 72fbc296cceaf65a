//! Whether the signed roots are one chain from the file's tokens to the file's tokens.

use super::AuditError;
use crate::trace::Edge;
use alloc::vec::Vec;
use core::ops::Range;
use lockstep_base::Digest;
use lockstep_base::limits::SPAN_TOKENS;
use lockstep_base::merkle;
use lockstep_base::receipt_file::ReceiptFile;

/// Checks every span of a file whose statements were checked.
pub(super) fn check(file: &ReceiptFile, positions: u32) -> Result<(), AuditError> {
    for index in 0..file.stages[0].receipts.len() {
        let first = index as u32 * SPAN_TOKENS;
        check_span(file, index, first..positions.min(first + SPAN_TOKENS))?;
    }
    Ok(())
}

fn check_span(file: &ReceiptFile, index: usize, span: Range<u32>) -> Result<(), AuditError> {
    let broken = |stage, root, got, expected, of| {
        let (first_token, end_token) = (span.start, span.end);
        Err(AuditError::Chain { stage, first_token, end_token, root, got, expected, of })
    };
    let mut expected = token_root(file, span.clone());
    for (stage, record) in file.stages.iter().enumerate() {
        let receipt = &record.receipts[index].receipt;
        if receipt.in_root != expected {
            let of = if stage == 0 { "the tokens of the file" } else { "what the stage before signed" };
            return broken(stage, "in", receipt.in_root, expected, of);
        }
        expected = receipt.out_root;
    }
    let sampled = sample_root(file, span.clone());
    if expected != sampled {
        return broken(file.stages.len() - 1, "out", expected, sampled, "the tokens of the file");
    }
    Ok(())
}

/// Root over the tokens that entered the first stage.
fn token_root(file: &ReceiptFile, span: Range<u32>) -> Digest {
    let secrets = file.secret.stage(0);
    let leaf = |at: u32| Edge::token(&secrets, at).token_leaf(Some(file.tokens[at as usize]));
    merkle::root(&span.map(leaf).collect::<Vec<_>>())
}

/// Root over the tokens that left the last stage.
fn sample_root(file: &ReceiptFile, span: Range<u32>) -> Digest {
    let secrets = file.secret.stage(file.stages.len() as u16 - 1);
    let leaf = |at: u32| {
        let sampled = at + 1 >= file.prompt_tokens;
        Edge::sample(&secrets, at).token_leaf(sampled.then(|| file.tokens[at as usize + 1]))
    };
    merkle::root(&span.map(leaf).collect::<Vec<_>>())
}
