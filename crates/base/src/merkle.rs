//! Binary Merkle trees over SHA-256, and the cumulative tree of the KV cache.
//!
//! The shape is that of RFC 6962, section 2.1: leaves and inner nodes are hashed with different
//! prefixes (a node can never be passed off as a leaf) and a tree of n leaves splits at the
//! largest power of two below n. With that shape the tree over a prefix of positions shares its
//! full subtrees with the longer tree, so one append-only structure ([`Accumulator`], a Merkle
//! mountain range) gives the root after every position.

use crate::digest::Digest;
use alloc::vec::Vec;

const LEAF: u8 = 0;
const NODE: u8 = 1;

/// The root of a tree without leaves: SHA-256 of nothing (RFC 6962).
#[must_use]
pub fn empty_root() -> Digest {
    Digest::of(&[])
}

/// Hash of a leaf's content.
#[must_use]
pub fn leaf(content: &[u8]) -> Digest {
    Digest::of(&[&[LEAF], content])
}

/// Hash of an inner node.
#[must_use]
pub fn node(left: &Digest, right: &Digest) -> Digest {
    Digest::of(&[&node_message(left, right)])
}

/// What is hashed to an inner node: for whoever hashes many at once. Pairing the nodes of a level from
/// the left, and passing on a last one that has no partner, gives the tree of [`root`] level by level.
#[must_use]
pub fn node_message(left: &Digest, right: &Digest) -> [u8; 65] {
    let mut message = [NODE; 65];
    message[1..33].copy_from_slice(&left.0);
    message[33..].copy_from_slice(&right.0);
    message
}

/// Root over leaf hashes, in order.
#[must_use]
pub fn root(leaves: &[Digest]) -> Digest {
    let mut accumulator = Accumulator::default();
    for leaf in leaves {
        accumulator.push(*leaf);
    }
    accumulator.root()
}

/// The siblings that lead from leaf `index` to the root, lowest first; `None` out of range.
#[must_use]
pub fn path(leaves: &[Digest], index: usize) -> Option<Vec<Digest>> {
    if index >= leaves.len() {
        return None;
    }
    if leaves.len() == 1 {
        return Some(Vec::new());
    }
    let split = split_of(leaves.len());
    let (left, right) = leaves.split_at(split);
    let mut siblings = if index < split { path(left, index)? } else { path(right, index - split)? };
    siblings.push(if index < split { root(right) } else { root(left) });
    Some(siblings)
}

/// The root that `leaf` at `index` of `count` leaves and its `siblings` lead to; `None` if the
/// path has the wrong length.
#[must_use]
pub fn root_of_path(leaf: Digest, index: usize, count: usize, siblings: &[Digest]) -> Option<Digest> {
    if index >= count {
        return None;
    }
    if count == 1 {
        return siblings.is_empty().then_some(leaf);
    }
    let (last, rest) = siblings.split_last()?;
    let split = split_of(count);
    if index < split {
        Some(node(&root_of_path(leaf, index, split, rest)?, last))
    } else {
        Some(node(last, &root_of_path(leaf, index - split, count - split, rest)?))
    }
}

/// Largest power of two below `count` (RFC 6962's k).
fn split_of(count: usize) -> usize {
    debug_assert!(count >= 2);
    1 << (usize::BITS - 1 - (count - 1).leading_zeros())
}

/// An append-only tree: the roots of its full subtrees, largest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Accumulator {
    peaks: Vec<Digest>,
    count: u64,
}

impl Accumulator {
    /// Appends a leaf hash.
    pub fn push(&mut self, leaf: Digest) {
        let mut carry = leaf;
        let mut rest = self.count;
        while rest & 1 == 1 {
            let left = self.peaks.pop().expect("one peak for each set bit of count");
            carry = node(&left, &carry);
            rest >>= 1;
        }
        self.peaks.push(carry);
        self.count += 1;
    }

    /// Leaves so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Root over the leaves so far; [`empty_root`] if there are none.
    #[must_use]
    pub fn root(&self) -> Digest {
        let mut peaks = self.peaks.iter().rev();
        let Some(mut root) = peaks.next().copied() else { return empty_root() };
        for peak in peaks {
            root = node(peak, &root);
        }
        root
    }
}
