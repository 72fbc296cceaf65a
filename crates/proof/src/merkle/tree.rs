//! The prover's trees, sixteen hashes at a time on two threads.

use super::wide::{BLOCK_WORDS, keyed};
use super::{LEAF, NODE, node};
use crate::lanes::{Base, Kernel, LANES};
use crate::parallel;
use crate::transcript::Hash;
use alloc::vec;
use alloc::vec::Vec;

/// Hashes of a piece of work: a quarter of a millisecond.
const PIECE: usize = 1024;

/// A whole tree: the leaves, then each layer above.
#[derive(Clone, Debug)]
pub struct Tree {
    layers: Vec<Vec<Hash>>,
}

/// The layer above.
fn above(kernel: Kernel, below: &[Hash]) -> Vec<Hash> {
    let mut out = vec![[0; 32]; below.len() / 2];
    let mut pieces: Vec<(&[Hash], &mut [Hash])> =
        below.chunks(2 * PIECE).zip(out.chunks_mut(PIECE)).collect();
    parallel::for_each(&mut pieces, |(below, out)| {
        for (below, out) in below.chunks(2 * LANES).zip(out.chunks_mut(LANES)) {
            if out.len() < LANES {
                let pairs = below.as_chunks::<2>().0;
                out.iter_mut().zip(pairs).for_each(|(out, [left, right])| *out = node(left, right));
                continue;
            }
            let mut block = [Base::ZERO; BLOCK_WORDS];
            for (lane, pair) in below.as_chunks::<2>().0.iter().enumerate() {
                for (word, bytes) in block.iter_mut().zip(pair.as_flattened().as_chunks::<4>().0) {
                    word.0[lane] = u32::from_le_bytes(*bytes);
                }
            }
            out.copy_from_slice(&keyed(kernel, NODE, &[block], 64));
        }
    });
    out
}

/// The leaves of `count` columns of `rows` integers each. `slabs` has sixteen rows at each place, and `place` says where a column lies.
pub(crate) fn leaves(
    slabs: &[Vec<Base>],
    rows: usize,
    count: usize,
    place: impl Fn(usize) -> usize,
) -> Vec<Hash> {
    let kernel = Kernel::detect();
    // In the order of places, in which every slab is read from its beginning to its end.
    let mut hashes = vec![[0; 32]; count];
    let mut pieces: Vec<(usize, &mut [Hash])> = hashes.chunks_mut(PIECE).enumerate().collect();
    parallel::for_each(&mut pieces, |(piece, out)| {
        let mut bytes = Vec::with_capacity(4 * rows);
        let mut blocks = vec![[Base::ZERO; BLOCK_WORDS]; slabs.len()];
        for (number, out) in out.chunks_mut(LANES).enumerate() {
            let first = *piece * PIECE + number * LANES;
            if out.len() < LANES {
                for (at, out) in out.iter_mut().enumerate() {
                    bytes.clear();
                    let integers = slabs.iter().flat_map(|slab| slab[first + at].0).take(rows);
                    integers.for_each(|x| bytes.extend_from_slice(&x.to_le_bytes()));
                    *out = *blake3::keyed_hash(LEAF, &bytes).as_bytes();
                }
                continue;
            }
            for (block, slab) in blocks.iter_mut().zip(slabs) {
                for (lane, column) in slab[first..first + LANES].iter().enumerate() {
                    for (word, x) in block.iter_mut().zip(column.0) {
                        word.0[lane] = x;
                    }
                }
            }
            out.copy_from_slice(&keyed(kernel, LEAF, &blocks, 4 * rows));
        }
    });
    (0..count).map(|i| hashes[place(i)]).collect()
}

impl Tree {
    /// The tree over `leaves`, a power of two of them.
    #[must_use]
    pub fn new(leaves: Vec<Hash>) -> Tree {
        debug_assert!(leaves.len().is_power_of_two());
        let kernel = Kernel::detect();
        let mut layers = vec![leaves];
        while layers[layers.len() - 1].len() > 1 {
            layers.push(above(kernel, &layers[layers.len() - 1]));
        }
        Tree { layers }
    }

    /// Its root.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.layers[self.layers.len() - 1][0]
    }

    /// The siblings that open `positions`, sorted and distinct.
    #[must_use]
    pub fn siblings(&self, positions: &[usize]) -> Vec<Hash> {
        let mut siblings = Vec::new();
        let mut known = positions.to_vec();
        for layer in &self.layers[..self.layers.len() - 1] {
            let missing = known.iter().filter(|at| known.binary_search(&(**at ^ 1)).is_err());
            siblings.extend(missing.map(|at| layer[at ^ 1]));
            known.iter_mut().for_each(|at| *at /= 2);
            known.dedup();
        }
        siblings
    }
}
