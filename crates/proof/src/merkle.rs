//! Hash trees over the columns of a codeword, and openings of many leaves with shared paths.
//!
//! ```text
//! leaf = BLAKE3(key LEAF, elements as canonical little-endian integers),   node = BLAKE3(key NODE, left ‖ right)
//! ```
//!
//! The depth is part of the parameters, so a node can never pass for a leaf; the keys would forbid it, too. An opening at
//! sorted distinct positions has, from the leaves up, each sibling that cannot be computed: which these are follows from the
//! positions, so an opening has no lengths of its own.

#[cfg(feature = "prover")]
pub(crate) mod tree;
#[cfg(feature = "prover")]
mod wide;

use crate::error::VerifyError;
use crate::transcript::{Hash, VerifierTranscript};
use alloc::vec::Vec;
#[cfg(feature = "prover")]
pub use tree::Tree;

const LEAF: &[u8; 32] = b"lockstep proof v0 leaf of column";
const NODE: &[u8; 32] = b"lockstep proof v0 node of a tree";

/// The hash of one column, whose elements are these bytes.
pub(crate) fn leaf_of_bytes(column: &[u8]) -> Hash {
    *blake3::keyed_hash(LEAF, column).as_bytes()
}

fn node(left: &Hash, right: &Hash) -> Hash {
    let mut both = [0; 64];
    both[..32].copy_from_slice(left);
    both[32..].copy_from_slice(right);
    *blake3::keyed_hash(NODE, &both).as_bytes()
}

/// Reads the siblings of `leaves` (sorted distinct positions of a tree of `depth` layers) and computes the root.
///
/// # Errors
/// If the proof ends before.
pub fn root_of(
    transcript: &mut VerifierTranscript<'_>,
    leaves: Vec<(usize, Hash)>,
    depth: usize,
) -> Result<Hash, VerifyError> {
    let mut known = leaves;
    for _ in 0..depth {
        let mut above = Vec::with_capacity(known.len());
        let mut at = 0;
        while at < known.len() {
            let (position, hash) = known[at];
            let pair = known.get(at + 1).filter(|(next, _)| position % 2 == 0 && *next == position + 1);
            let parent = match pair {
                Some((_, right)) => {
                    at += 1;
                    node(&hash, right)
                }
                None => {
                    let sibling = transcript.hint_hash()?;
                    if position % 2 == 0 { node(&hash, &sibling) } else { node(&sibling, &hash) }
                }
            };
            above.push((position / 2, parent));
            at += 1;
        }
        known = above;
    }
    known.first().map(|(_, root)| *root).ok_or(VerifyError::Root)
}
