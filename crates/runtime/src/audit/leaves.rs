//! Served leaves: whether they are those of the receipt, and where they differ from honest ones.
//!
//! Nobody signed the *list*; the signed roots fix the hashes of the KV leaves in order and of the
//! trace leaves in order, position by position, each hash with its place. How the two kinds are
//! interleaved is free, and a liar may have committed to places twice, or to places that do not
//! exist: so leaves are compared place by place, in the order of an honest execution.

use super::{AuditError, Located};
use crate::observe::Silent;
use crate::stage::{Checkpoint, StageRun, StepInput};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;
use lockstep_base::Digest;
use lockstep_base::leaf::{self, LeafIndex};
use lockstep_base::limits::LEAF_BYTES_MAX;
use lockstep_base::merkle::{self, Accumulator};
use lockstep_base::op::Op;
use lockstep_base::receipt::state_root;
use lockstep_base::receipt_file::ServedLeaf;

/// Whether `served`, hashed under `secret`, leads from the KV cache `before` to the signed `root`.
pub(super) fn lead_to(
    served: &[ServedLeaf],
    secret: &Digest,
    before: &Accumulator,
    span: &Range<u32>,
    root: &Digest,
) -> bool {
    let mut kv = before.clone();
    let mut trace = Accumulator::default();
    let mut rest = served;
    for position in span.clone() {
        let count = rest.iter().take_while(|leaf| leaf.position == position).count();
        let (here, after) = rest.split_at(count);
        rest = after;
        let mut kv_leaves = Vec::new();
        for served in here {
            let Some(index) = served.index() else { return false };
            if served.bytes.len() > LEAF_BYTES_MAX {
                return false;
            }
            let hash = leaf::leaf_hash(secret, &index, &served.bytes);
            match index.place.op {
                Op::KCodes | Op::VCodes => kv_leaves.push(hash),
                _ => trace.push(hash),
            }
        }
        kv.push(merkle::root(&kv_leaves));
    }
    rest.is_empty() && *root == state_root(&kv.root(), &trace.root())
}

/// The leaves of the same span again, as an honest stage has them.
pub(super) fn honest(
    run: &mut StageRun,
    before: Checkpoint,
    input: StepInput<'_>,
    span: &Range<u32>,
    sample_from: u32,
) -> Result<Vec<ServedLeaf>, AuditError> {
    run.restore(before);
    run.keep_leaves(true);
    if !span.is_empty() {
        run.step(input, sample_from, &mut Silent)?;
    }
    Ok(run.close_span(span.clone()).leaves)
}

/// The first place, in the order of an honest execution, that was not served once and with the
/// same bytes; then the first place that an honest stage does not have. `None` if only the order
/// of the leaves is wrong.
pub(super) fn first_difference(served: &[ServedLeaf], honest: &[ServedLeaf]) -> Option<Located> {
    let mut places: BTreeMap<LeafIndex, Vec<&[u8]>> = BTreeMap::new();
    for leaf in served {
        places.entry(leaf.index()?).or_default().push(&leaf.bytes);
    }
    for leaf in honest {
        let index = leaf.index()?;
        let got = places.remove(&index).unwrap_or_default();
        if got != [leaf.bytes.as_slice()] {
            let other = got.into_iter().find(|bytes| *bytes != leaf.bytes).unwrap_or_default();
            return Some(located(index, other, &leaf.bytes));
        }
    }
    let (index, got) = places.into_iter().next()?;
    Some(located(index, got.first().copied().unwrap_or_default(), &[]))
}

/// The first element of a leaf in which `got` differs; a missing one is empty.
fn located(index: LeafIndex, got: &[u8], expected: &[u8]) -> Located {
    let size = index.place.op.output().element_bytes();
    let common = got.iter().zip(expected).take_while(|(a, b)| a == b).count();
    let element = common / size;
    let bytes = |bytes: &[u8]| bytes.chunks(size).nth(element).map(<[u8]>::to_vec).unwrap_or_default();
    Located {
        place: index.place,
        row: index.chunk as usize * LEAF_BYTES_MAX / size + element,
        got: bytes(got),
        expected: bytes(expected),
    }
}
