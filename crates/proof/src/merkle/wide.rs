//! BLAKE3 of sixteen messages at once, in plain loops over lanes: what the hash crate does inside of long messages, for many.
//!
//! A chunk is up to 1024 bytes: its blocks of 64 bytes are compressed one after the other, the first with the flag of a chunk's
//! start, the last with that of its end. Longer messages are trees: the left child has the largest power of two of chunks that leaves
//! one for the right. The last compression has the flag of the root (BLAKE3, section 2.1 to 2.6). Keys are the initial chaining value.

use crate::lanes::{Base, Kernel, LANES, Task, vectorised};
use crate::transcript::Hash;
use alloc::vec::Vec;

/// Blocks of a chunk: longer messages are trees.
const CHUNK_BLOCKS: usize = 16;
/// Words of a block.
pub(super) const BLOCK_WORDS: usize = 16;

const IV: [u32; 4] = [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a];
const PERMUTATION: [usize; 16] = [2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8];
const START: u32 = 1;
const END: u32 = 2;
const PARENT: u32 = 4;
const ROOT: u32 = 8;
const KEYED: u32 = 16;
const ROUNDS: usize = 7;

/// What all messages have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    key: [u32; 8],
    /// Blocks of a message.
    blocks: usize,
    /// Bytes of the last block.
    rest: u32,
}

impl Format {
    /// Messages of `bytes` bytes, at least 1, with this key.
    pub(super) fn new(key: &Hash, bytes: usize) -> Format {
        let (blocks, mut words) = (bytes.div_ceil(64), [0; 8]);
        let bytes_of_words = key.as_chunks::<4>().0;
        words.iter_mut().zip(bytes_of_words).for_each(|(word, bytes)| *word = u32::from_le_bytes(*bytes));
        Format { key: words, blocks, rest: (bytes - 64 * (blocks - 1)) as u32 }
    }
}

/// Chaining values in lanes.
type Chain = [Base; 8];

/// Sixteen messages of which some blocks were hashed.
#[derive(Clone, Debug)]
pub(super) struct Hashing {
    /// Of the chunk that is being hashed.
    chain: Chain,
    /// Of whole subtrees, largest first, and how many chunks each has.
    stack: Vec<(Chain, usize)>,
    /// Blocks so far.
    blocks: usize,
}

/// Some more blocks of sixteen messages: for each its words, in lanes.
struct More<'a> {
    format: &'a Format,
    hashing: &'a mut Hashing,
    blocks: &'a [[Base; BLOCK_WORDS]],
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

/// One compression.
#[inline(always)]
fn compressed(chain: &Chain, block: &[Base; BLOCK_WORDS], counter: u32, length: u32, flags: u32) -> Chain {
    let mut v = [Base::ZERO; 16];
    v[..8].copy_from_slice(chain);
    for word in 0..4 {
        v[8 + word] = Base::splat(IV[word]);
    }
    v[12] = Base::splat(counter);
    v[14] = Base::splat(length);
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
    let mut out = [Base::ZERO; 8];
    for word in 0..8 {
        for lane in 0..LANES {
            out[word].0[lane] = v[word].0[lane] ^ v[word + 8].0[lane];
        }
    }
    out
}

impl Task for More<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let More { format, hashing, blocks } = self;
        let mut key = [Base::ZERO; 8];
        for word in 0..8 {
            key[word] = Base::splat(format.key[word]);
        }
        let chunks = format.blocks.div_ceil(CHUNK_BLOCKS);
        for block in blocks {
            let (counter, number) = (hashing.blocks / CHUNK_BLOCKS, hashing.blocks % CHUNK_BLOCKS);
            hashing.blocks += 1;
            let ends = hashing.blocks == format.blocks;
            let last = ends || number + 1 == CHUNK_BLOCKS;
            let root = if chunks == 1 { ROOT } else { 0 };
            let flags = KEYED | if number == 0 { START } else { 0 } | if last { END | root } else { 0 };
            let length = if ends { format.rest } else { 64 };
            let chain = if number == 0 { &key } else { &hashing.chain };
            hashing.chain = compressed(chain, block, counter as u32, length, flags);
            if last && chunks > 1 {
                hashing.stack.push((hashing.chain, 1));
            }
            // Equal subtrees become one; behind the last chunk, whatever is left.
            while last && hashing.stack.len() > 1 {
                let top = hashing.stack.len();
                let ((left, many), (right, few)) = (hashing.stack[top - 2], hashing.stack[top - 1]);
                if many != few && !ends {
                    break;
                }
                let mut block = [Base::ZERO; BLOCK_WORDS];
                block[..8].copy_from_slice(&left);
                block[8..].copy_from_slice(&right);
                hashing.stack.truncate(top - 2);
                let root = if hashing.stack.is_empty() && many + few == chunks { ROOT } else { 0 };
                let parent = compressed(&key, &block, 0, 64, KEYED | PARENT | root);
                hashing.stack.push((parent, many + few));
            }
        }
    }
}

impl Hashing {
    /// Nothing yet.
    pub(super) const NEW: Hashing = Hashing { chain: [Base::ZERO; 8], stack: Vec::new(), blocks: 0 };

    /// Goes on with `blocks`, given as words in lanes, the last block of a message filled up with zeros.
    pub(super) fn more(&mut self, kernel: Kernel, format: &Format, blocks: &[[Base; BLOCK_WORDS]]) {
        vectorised(kernel, More { format, hashing: self, blocks });
    }

    /// The hashes, all blocks being hashed.
    pub(super) fn finish(&self, format: &Format) -> [Hash; LANES] {
        debug_assert_eq!(self.blocks, format.blocks);
        let chain = self.stack.last().map_or(&self.chain, |(chain, _)| chain);
        let mut hashes = [[0; 32]; LANES];
        for (lane, hash) in hashes.iter_mut().enumerate() {
            for (bytes, word) in hash.as_chunks_mut::<4>().0.iter_mut().zip(chain) {
                *bytes = word.0[lane].to_le_bytes();
            }
        }
        hashes
    }
}
