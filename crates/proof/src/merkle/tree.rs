//! The prover's trees, sixteen hashes at a time on two threads.

use super::wide::{BLOCK_WORDS, Format, Hashing};
use super::{LEAF, NODE, leaf_of_bytes, node};
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
    let format = Format::new(NODE, 64);
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
            let mut hashing = Hashing::NEW;
            hashing.more(kernel, &format, &[block]);
            out.copy_from_slice(&hashing.finish(&format));
        }
    });
    out
}

/// The leaves of many columns, which come slab by slab: sixteen integers at each place.
#[derive(Debug)]
pub(crate) struct Leaves {
    kernel: Kernel,
    format: Format,
    rows: usize,
    /// For each sixteen places.
    hashing: Vec<Hashing>,
    /// The columns themselves where they are fewer than sixteen.
    few: Vec<Vec<u8>>,
}

impl Leaves {
    /// Those of `count` columns of `rows` integers each.
    pub(crate) fn new(rows: usize, count: usize) -> Leaves {
        let few = if count < LANES { count } else { 0 };
        Leaves {
            kernel: Kernel::detect(),
            format: Format::new(LEAF, 4 * rows),
            rows,
            hashing: vec![Hashing::NEW; count / LANES],
            few: vec![Vec::new(); few],
        }
    }

    /// Goes on with `slabs`.
    pub(crate) fn more(&mut self, slabs: &[Vec<Base>]) {
        let (kernel, format) = (self.kernel, &self.format);
        for (place, column) in self.few.iter_mut().enumerate() {
            let integers = slabs.iter().flat_map(|slab| slab[place].0);
            integers.for_each(|x| column.extend_from_slice(&x.to_le_bytes()));
        }
        // In the order of places, in which every slab is read from its beginning to its end.
        let mut pieces: Vec<(usize, &mut [Hashing])> =
            self.hashing.chunks_mut(PIECE / LANES).enumerate().collect();
        parallel::for_each(&mut pieces, |(piece, hashing)| {
            let mut blocks = vec![[Base::ZERO; BLOCK_WORDS]; slabs.len()];
            for (number, hashing) in hashing.iter_mut().enumerate() {
                let first = *piece * PIECE + number * LANES;
                for (block, slab) in blocks.iter_mut().zip(slabs) {
                    for (lane, column) in slab[first..first + LANES].iter().enumerate() {
                        for (word, x) in block.iter_mut().zip(column.0) {
                            word.0[lane] = x;
                        }
                    }
                }
                hashing.more(kernel, format, &blocks);
            }
        });
    }

    /// The hashes in the order of columns, of which `place` says where they lie.
    pub(crate) fn finish(self, place: impl Fn(usize) -> usize) -> Vec<Hash> {
        let mut hashes: Vec<Hash> =
            self.hashing.iter().flat_map(|hashing| hashing.finish(&self.format)).collect();
        let bytes = 4 * self.rows;
        hashes.extend(self.few.iter().map(|column| leaf_of_bytes(&column[..bytes])));
        (0..hashes.len()).map(|i| hashes[place(i)]).collect()
    }
}

/// The siblings that open `positions`, sorted and distinct, of a tree with `depth` layers above the leaves: in which layer, and where there.
#[must_use]
pub(crate) fn siblings(positions: &[usize], depth: usize) -> Vec<(usize, usize)> {
    let mut siblings = Vec::new();
    let mut known = positions.to_vec();
    for layer in 0..depth {
        let missing = known.iter().filter(|at| known.binary_search(&(**at ^ 1)).is_err());
        siblings.extend(missing.map(|at| (layer, at ^ 1)));
        known.iter_mut().for_each(|at| *at /= 2);
        known.dedup();
    }
    siblings
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

    /// All hashes: the leaves, then each layer above, the root last.
    #[must_use]
    pub fn layers(&self) -> &[Vec<Hash>] {
        &self.layers
    }
}
