//! SHA-256 of many messages at once (FIPS 180-4). A trace is megabytes of leaves a token; one after another, even
//! with the SHA instructions, they cost more than the rounding of everything that they commit to. Where
//! there are vectors of 16 words, 16 messages are hashed side by side, one a lane: each line below is
//! then one instruction or two.

use crate::kernels::{Kernel, multiversion, words};
use lockstep_base::Digest;

/// Messages side by side.
pub(super) const LANES: usize = 16;
/// Bytes of a block.
const BLOCK: usize = 64;
/// Fewer messages than this are faster one by one.
const LANES_MIN: usize = 6;

/// A word of every message.
type Words = [u32; LANES];

/// FIPS 180-4, section 4.2.2.
#[rustfmt::skip]
const K: [u32; 64] = [
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
];
/// FIPS 180-4, section 5.3.3.
#[rustfmt::skip]
const INITIAL: [u32; 8] = [
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
];

/// The hash of each of `messages` into its place of `digests`. It is fastest where neighbours have
/// about the same length.
///
/// # Panics
/// If there are not as many digests as messages.
pub(super) fn sha256_many<M: AsRef<[u8]>>(kernel: Kernel, messages: &[M], digests: &mut [Digest]) {
    assert_eq!(messages.len(), digests.len(), "one digest a message");
    for (messages, digests) in messages.chunks(LANES).zip(digests.chunks_mut(LANES)) {
        if matches!(kernel, Kernel::Avx512(_)) && messages.len() >= LANES_MIN {
            side_by_side(kernel, messages, digests);
        } else {
            for (message, digest) in messages.iter().zip(digests) {
                *digest = Digest::of(&[message.as_ref()]);
            }
        }
    }
}

/// At most 16 messages, a lane each.
fn side_by_side<M: AsRef<[u8]>>(kernel: Kernel, messages: &[M], digests: &mut [Digest]) {
    // What does not fill a block, and the padding: one or two blocks.
    let mut tails = [[0u8; 2 * BLOCK]; LANES];
    let mut counts = [0; LANES];
    for ((message, tail), count) in messages.iter().zip(&mut tails).zip(&mut counts) {
        let message = message.as_ref();
        let rest = &message[message.len() / BLOCK * BLOCK..];
        *count = (message.len() + 9).div_ceil(BLOCK);
        let end = (*count - message.len() / BLOCK) * BLOCK;
        tail[..rest.len()].copy_from_slice(rest);
        tail[rest.len()] = 0x80;
        tail[end - 8..end].copy_from_slice(&(8 * message.len() as u64).to_be_bytes());
    }
    let mut state = INITIAL.map(|word| [word; LANES]);
    let mut w = [[0; LANES]; 16];
    for number in 0..counts.iter().copied().max().unwrap_or(0) {
        let mut blocks = [&[0; BLOCK]; LANES];
        let mut present = [0; LANES];
        for (lane, (message, tail)) in messages.iter().zip(&tails).enumerate() {
            if number < counts[lane] {
                let whole = message.as_ref().as_chunks::<BLOCK>().0;
                let tail = tail.as_chunks::<BLOCK>().0;
                blocks[lane] = whole.get(number).unwrap_or_else(|| &tail[number - whole.len()]);
                present[lane] = u32::MAX;
            }
        }
        words(kernel, &blocks, &mut w);
        compress(kernel, &mut state, &w, &present);
    }
    for (lane, digest) in digests.iter_mut().enumerate() {
        for (word, bytes) in state.iter().zip(digest.0.as_chunks_mut::<4>().0) {
            *bytes = word[lane].to_be_bytes();
        }
    }
}

multiversion! {
    /// The compression function (FIPS 180-4, section 6.2.2) over the `words` of a block of each lane whose
    /// `present` is all ones.
    fn compress(state: &mut [Words; 8], words: &[Words; 16], present: &Words) = compress_body
}

/// Loops over lanes become vectors, and only if they are long enough to stay loops till then: so a round is one.
macro_rules! round {
    ($s:ident, $w:ident, $k:expr, $($i:literal)*) => {$({
        const I: usize = $i;
        // Where a, b, ... h stand after I rounds, without moving them.
        const fn at(word: usize) -> usize {
            (word + 8 - I % 8) % 8
        }
        let k = $k[I];
        let words = $s;
        for lane in 0..LANES {
            let [a, b, c] = [words[at(0)][lane], words[at(1)][lane], words[at(2)][lane]];
            let [e, f, g] = [words[at(4)][lane], words[at(5)][lane], words[at(6)][lane]];
            let s1 = e.rotate_right(6) ^ e.rotate_right(11) ^ e.rotate_right(25);
            let choice = (e & f) ^ (!e & g);
            let kw = $w[I][lane].wrapping_add(k);
            let t1 = words[at(7)][lane].wrapping_add(kw).wrapping_add(s1.wrapping_add(choice));
            let s0 = a.rotate_right(2) ^ a.rotate_right(13) ^ a.rotate_right(22);
            let majority = (a & b) ^ (a & c) ^ (b & c);
            $s[at(3)][lane] = words[at(3)][lane].wrapping_add(t1);
            $s[at(7)][lane] = t1.wrapping_add(s0).wrapping_add(majority);
        }
    })*};
}

/// The words 16 rounds after those of `w`, in their places.
macro_rules! schedule {
    ($w:ident, $($i:literal)*) => {$({
        const I: usize = $i;
        let words = $w;
        for lane in 0..LANES {
            let (old, new) = (words[(I + 1) % 16][lane], words[(I + 14) % 16][lane]);
            let s0 = old.rotate_right(7) ^ old.rotate_right(18) ^ (old >> 3);
            let s1 = new.rotate_right(17) ^ new.rotate_right(19) ^ (new >> 10);
            $w[I][lane] = words[I][lane].wrapping_add(s0).wrapping_add(words[(I + 9) % 16][lane].wrapping_add(s1));
        }
    })*};
}

#[inline(always)]
fn compress_body(state: &mut [Words; 8], words: &[Words; 16], present: &Words) {
    let mut w = *words;
    let mut s = *state;
    for (turn, k) in K.as_chunks::<16>().0.iter().enumerate() {
        if turn > 0 {
            schedule!(w, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
        }
        round!(s, w, k, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    }
    macro_rules! keep {
        ($($i:literal)*) => {$( state[$i] = sum(&state[$i], &s[$i], present); )*};
    }
    keep!(0 1 2 3 4 5 6 7);
}

/// `before + after` where `present`, `before` elsewhere.
#[inline(always)]
fn sum(before: &Words, after: &Words, present: &Words) -> Words {
    let mut out = *before;
    for lane in 0..LANES {
        out[lane] = before[lane].wrapping_add(after[lane] & present[lane]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;
    use lockstep_base::rng::SplitMix64;

    /// Every kernel agrees with one message after another: all numbers of lanes, equal and mixed lengths, around
    /// every border of the padding.
    #[test]
    fn many_messages_hash_as_each_alone() {
        for kernel in Kernel::available() {
            for seed in 0..60u64 {
                let mut rng = SplitMix64::new(seed);
                let count = seed as usize % 40;
                let (equal, first) = (rng.below(2) == 0, rng.below(300) as usize);
                let messages: Vec<Vec<u8>> = (0..count)
                    .map(|_| {
                        let mut message = vec![0; if equal { first } else { rng.below(2300) as usize }];
                        rng.fill(&mut message);
                        message
                    })
                    .collect();
                let expected: Vec<Digest> = messages.iter().map(|message| Digest::of(&[message])).collect();
                let mut digests = vec![Digest::ZERO; count];
                sha256_many(kernel, &messages, &mut digests);
                assert_eq!(digests, expected, "{kernel}, seed {seed}");
            }
            // FIPS 180-4 pads to 56 modulo 64.
            let messages: Vec<Vec<u8>> = (40..140).map(|len| vec![0xa5; len]).collect();
            let mut digests = vec![Digest::ZERO; messages.len()];
            sha256_many(kernel, &messages, &mut digests);
            for (message, digest) in messages.iter().zip(digests) {
                assert_eq!(digest, Digest::of(&[message]), "{kernel}, {} bytes", message.len());
            }
        }
    }
}
