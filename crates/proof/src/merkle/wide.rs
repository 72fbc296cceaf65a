//! BLAKE3 of sixteen short messages at once, in plain loops over lanes: what the hash crate does inside of long messages, for many.
//!
//! A message of at most 1024 bytes is one chunk: its blocks of 64 bytes are compressed one after the other, the first with the
//! flag of a chunk's start, the last with those of its end and of the root (BLAKE3, section 2.4 to 2.6). Keys are the initial chaining value.

use crate::lanes::{Base, Kernel, LANES, Task, vectorised};
use crate::transcript::Hash;

/// Bytes of a chunk: longer messages are trees.
pub(super) const CHUNK_BYTES: usize = 1024;
/// Words of a block.
pub(super) const BLOCK_WORDS: usize = 16;

const IV: [u32; 4] = [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a];
const PERMUTATION: [usize; 16] = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8];
const START: u32 = 1;
const END: u32 = 2;
const ROOT: u32 = 8;
const KEYED: u32 = 16;
const ROUNDS: usize = 7;

/// Sixteen messages: for each block its words, in lanes.
struct Messages<'a> {
    blocks: &'a [[Base; BLOCK_WORDS]],
    key: [u32; 8],
    /// Bytes of the last block.
    rest: u32,
}

#[inline(always)]
fn plus(a: &Base, b: &Base) -> Base {
    let mut out = Base::ZERO;
    for lane in 0..LANES {
        out.0[lane] = a.0[lane].wrapping_add(b.0[lane]);
    }
    out
}

/// `(a ^ b)` rotated to the right.
#[inline(always)]
fn mixed<const BITS: u32>(a: &Base, b: &Base) -> Base {
    let mut out = Base::ZERO;
    for lane in 0..LANES {
        out.0[lane] = (a.0[lane] ^ b.0[lane]).rotate_right(BITS);
    }
    out
}

#[inline(always)]
fn quarter(v: &mut [Base; 16], [a, b, c, d]: [usize; 4], x: &Base, y: &Base) {
    v[a] = plus(&plus(&v[a], &v[b]), x);
    v[d] = mixed::<16>(&v[d], &v[a]);
    v[c] = plus(&v[c], &v[d]);
    v[b] = mixed::<12>(&v[b], &v[c]);
    v[a] = plus(&plus(&v[a], &v[b]), y);
    v[d] = mixed::<8>(&v[d], &v[a]);
    v[c] = plus(&v[c], &v[d]);
    v[b] = mixed::<7>(&v[b], &v[c]);
}

/// Which word of a block each round reads where.
const SCHEDULE: [[usize; 16]; ROUNDS] = {
    let mut schedule = [[0; 16]; ROUNDS];
    let mut i = 0;
    while i < 16 {
        schedule[0][i] = i;
        i += 1;
    }
    let mut round = 1;
    while round < ROUNDS {
        let mut i = 0;
        while i < 16 {
            schedule[round][i] = schedule[round - 1][PERMUTATION[i]];
            i += 1;
        }
        round += 1;
    }
    schedule
};

impl Task for Messages<'_> {
    type Output = [Base; 8];

    #[inline(always)]
    fn run(self) -> [Base; 8] {
        let mut chain = [Base::ZERO; 8];
        for word in 0..8 {
            chain[word] = Base::splat(self.key[word]);
        }
        for (number, block) in self.blocks.iter().enumerate() {
            let last = number + 1 == self.blocks.len();
            let flags = KEYED | if number == 0 { START } else { 0 } | if last { END | ROOT } else { 0 };
            let mut v = [Base::ZERO; 16];
            v[..8].copy_from_slice(&chain);
            for word in 0..4 {
                v[8 + word] = Base::splat(IV[word]);
            }
            v[14] = Base::splat(if last { self.rest } else { 64 });
            v[15] = Base::splat(flags);
            for words in &SCHEDULE {
                quarter(&mut v, [0, 4, 8, 12], &block[words[0]], &block[words[1]]);
                quarter(&mut v, [1, 5, 9, 13], &block[words[2]], &block[words[3]]);
                quarter(&mut v, [2, 6, 10, 14], &block[words[4]], &block[words[5]]);
                quarter(&mut v, [3, 7, 11, 15], &block[words[6]], &block[words[7]]);
                quarter(&mut v, [0, 5, 10, 15], &block[words[8]], &block[words[9]]);
                quarter(&mut v, [1, 6, 11, 12], &block[words[10]], &block[words[11]]);
                quarter(&mut v, [2, 7, 8, 13], &block[words[12]], &block[words[13]]);
                quarter(&mut v, [3, 4, 9, 14], &block[words[14]], &block[words[15]]);
            }
            for word in 0..8 {
                for lane in 0..LANES {
                    chain[word].0[lane] = v[word].0[lane] ^ v[word + 8].0[lane];
                }
            }
        }
        chain
    }
}

/// The keyed hashes of sixteen messages of `bytes` bytes each, 1 to [`CHUNK_BYTES`], given as words in lanes, filled up with zeros.
pub(super) fn keyed(
    kernel: Kernel,
    key: &Hash,
    blocks: &[[Base; BLOCK_WORDS]],
    bytes: usize,
) -> [Hash; LANES] {
    debug_assert!(bytes.div_ceil(64) == blocks.len() && bytes <= CHUNK_BYTES);
    let mut words = [0; 8];
    words.iter_mut().zip(key.as_chunks::<4>().0).for_each(|(word, bytes)| *word = u32::from_le_bytes(*bytes));
    let rest = (bytes - 64 * (blocks.len() - 1)) as u32;
    let chain = vectorised(kernel, Messages { blocks, key: words, rest });
    let mut hashes = [[0; 32]; LANES];
    for (lane, hash) in hashes.iter_mut().enumerate() {
        for (bytes, word) in hash.as_chunks_mut::<4>().0.iter_mut().zip(&chain) {
            *bytes = word.0[lane].to_le_bytes();
        }
    }
    hashes
}
