//! The codes of a batch, reordered so that a register tile reads one stream: tokens are divided
//! into tiles of at most as many as fit the registers, and a tile holds 16 columns of each of its
//! tokens, then the next 16 columns.
//!
//! ```text
//! tile of T tokens: [[[code; 16]; T]; cols / 16]
//! ```

use crate::pool::Pool;
use alloc::borrow::Cow;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use lockstep_base::weights::{GROUP_COLS, TILE_COLS};

/// Codes below which reordering them is not worth waking threads.
const PARALLEL_CODES_MIN: usize = 1 << 17;

/// The codes of a batch in tiles; `C` is i8, or i16 where the kernel multiplies i16.
#[derive(Debug)]
pub(in super::super) struct Tiled<'a, C: Copy> {
    codes: Cow<'a, [C]>,
    /// `-128 sum_j x_j` of each token: what undoes the offset of the weights.
    corrections: Vec<i32>,
    pub(super) cols: usize,
    tokens: usize,
    tile_tokens: usize,
}

/// The codes of some tokens, at least one.
pub(super) struct Tile<'a, C> {
    /// The first of them.
    pub(super) first: usize,
    /// How many.
    pub(super) tokens: usize,
    /// One a token.
    pub(super) corrections: &'a [i32],
    codes: &'a [C],
}

impl<'a, C: Copy + Default + From<i8> + Send> Tiled<'a, C> {
    /// Reorders `codes`, `(tokens, cols)`, into tiles of at most `tile_tokens`.
    pub(in super::super) fn new(pool: &Pool, codes: &[i8], cols: usize, tile_tokens: usize) -> Tiled<'a, C> {
        let tokens = codes.len() / cols;
        let (mut tiled, mut corrections) = (vec![C::default(); codes.len()], vec![0; tokens]);
        let mut work = Vec::new();
        let (mut rest, mut corrections_rest) = (&mut tiled[..], &mut corrections[..]);
        for range in tile_ranges(tokens, tile_tokens) {
            let (tile, later) = rest.split_at_mut(range.len() * cols);
            let (sums, later_sums) = corrections_rest.split_at_mut(range.len());
            work.push((&codes[range.start * cols..range.end * cols], tile, sums));
            (rest, corrections_rest) = (later, later_sums);
        }
        let reorder = |(codes, tile, sums): &mut (&[i8], &mut [C], &mut [i32])| {
            let count = sums.len();
            for (t, codes) in codes.chunks_exact(cols).enumerate() {
                sums[t] = correction(codes);
                let columns = tile.chunks_exact_mut(TILE_COLS).skip(t).step_by(count);
                for (out, codes) in columns.zip(codes.chunks_exact(TILE_COLS)) {
                    out.iter_mut().zip(codes).for_each(|(out, code)| *out = C::from(*code));
                }
            }
        };
        if codes.len() < PARALLEL_CODES_MIN {
            work.iter_mut().for_each(reorder);
        } else {
            pool.for_each(&mut work, reorder);
        }
        Tiled { codes: tiled.into(), corrections, cols, tokens, tile_tokens }
    }
}

impl<'a> Tiled<'a, i8> {
    /// The codes of one token: they need no reordering.
    pub(in super::super) fn single(codes: &'a [i8], tile_tokens: usize) -> Tiled<'a, i8> {
        let corrections = vec![correction(codes)];
        Tiled { codes: codes.into(), corrections, cols: codes.len(), tokens: 1, tile_tokens }
    }
}

impl<C: Copy> Tiled<'_, C> {
    /// The tiles, in the order of their tokens.
    pub(super) fn tiles(&self) -> impl Iterator<Item = Tile<'_, C>> {
        tile_ranges(self.tokens, self.tile_tokens).map(|range| Tile {
            first: range.start,
            tokens: range.len(),
            corrections: &self.corrections[range.clone()],
            codes: &self.codes[range.start * self.cols..range.end * self.cols],
        })
    }
}

impl<'a, C> Tile<'a, C> {
    /// The codes, 16 columns at a time; `T` is the number of tokens.
    #[inline(always)]
    pub(super) fn steps<const T: usize>(&self) -> &'a [[[C; TILE_COLS]; T]] {
        assert_eq!(T, self.tokens, "tokens of a tile");
        self.codes.as_chunks().0.as_chunks().0
    }
}

fn correction(codes: &[i8]) -> i32 {
    codes.iter().map(|code| i32::from(*code)).sum::<i32>().wrapping_mul(-128)
}

/// `tokens` divided as evenly as possible into the fewest ranges of at most `most`.
fn tile_ranges(tokens: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let count = tokens.div_ceil(most);
    (0..count).map(move |i| i * tokens / count..(i + 1) * tokens / count)
}

/// The columns of a matrix in the fewest chunks of at most `most`, whole groups each; counted in
/// steps of 16 columns.
pub(super) fn chunk_steps(cols: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    const STEPS: usize = GROUP_COLS / TILE_COLS;
    tile_ranges(cols / GROUP_COLS, most / GROUP_COLS).map(|groups| groups.start * STEPS..groups.end * STEPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Tiles and chunks cover everything once, in order, none too large and none empty.
    #[test]
    fn ranges_partition() {
        for most in [1, 3, 6] {
            for tokens in 1..40 {
                let mut next = 0;
                for range in tile_ranges(tokens, most) {
                    assert!(
                        range.start == next && !range.is_empty() && range.len() <= most,
                        "{tokens} {most} {range:?}"
                    );
                    next = range.end;
                }
                assert_eq!(next, tokens);
            }
        }
        let chunks: Vec<_> = chunk_steps(5632, 2048).collect();
        assert_eq!(chunks, [0..116, 116..234, 234..352]);
    }
}
