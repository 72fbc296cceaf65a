//! The codes of a batch, reordered so that a register tile reads one stream: tokens are divided
//! into tiles of at most as many as fit the registers, and a tile holds 16 columns of each of its
//! tokens, then the next 16 columns.
//!
//! ```text
//! tile of T tokens: [[16 columns; T]; cols / 16]
//! ```

use super::super::Compute;
use super::super::kernel::multiversion;
use alloc::borrow::Cow;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt::Debug;
use core::mem::MaybeUninit;
use core::ops::Range;
use lockstep_base::weights::{GROUP_COLS, TILE_COLS};

/// Codes below which reordering them is not worth waking threads.
const PARALLEL_CODES_MIN: usize = 1 << 17;

/// 16 columns of a token as a kernel multiplies them.
pub(in super::super) trait Columns: Copy + Debug + Send + Sync {
    fn new(codes: &[i8; TILE_COLS]) -> Self;
}

impl Columns for [i8; TILE_COLS] {
    fn new(codes: &[i8; TILE_COLS]) -> Self {
        *codes
    }
}

/// The codes of a batch in tiles.
#[derive(Debug)]
pub(in super::super) struct Tiled<'a, C: Columns> {
    columns: Cow<'a, [C]>,
    /// `-128 sum_j x_j` of each token: what undoes the offset of the weights.
    corrections: Vec<i32>,
    pub(super) cols: usize,
    tokens: usize,
    tile_tokens: usize,
}

/// The codes of some tokens, at least one.
#[derive(Clone, Copy)]
pub(super) struct Tile<'a, C> {
    /// The first of them.
    pub(super) first: usize,
    /// How many.
    pub(super) tokens: usize,
    /// One a token.
    pub(super) corrections: &'a [i32],
    columns: &'a [C],
}

impl<'a, C: Columns> Tiled<'a, C> {
    /// Reorders `codes`, `(tokens, cols)`, into tiles of at most `tile_tokens`.
    pub(in super::super) fn new(
        compute: &Compute,
        codes: &[i8],
        cols: usize,
        tile_tokens: usize,
    ) -> Tiled<'a, C> {
        let (tokens, steps) = (codes.len() / cols, cols / TILE_COLS);
        let mut corrections = vec![0; tokens];
        let mut columns = Vec::with_capacity(tokens * steps);
        let mut work = Vec::with_capacity(tokens.div_ceil(tile_tokens));
        let mut rest = &mut columns.spare_capacity_mut()[..tokens * steps];
        let mut corrections_rest = &mut corrections[..];
        for range in tile_ranges(tokens, tile_tokens) {
            let (tile, later) = rest.split_at_mut(range.len() * steps);
            let (sums, later_sums) = corrections_rest.split_at_mut(range.len());
            work.push((&codes[range.start * cols..range.end * cols], tile, sums));
            (rest, corrections_rest) = (later, later_sums);
        }
        let reorder = |(codes, tile, sums): &mut (&[i8], &mut [MaybeUninit<C>], &mut [i32])| {
            let count = sums.len();
            for (t, codes) in codes.chunks_exact(cols).enumerate() {
                sums[t] = correction(compute.kernel, codes);
                for (columns, codes) in tile.chunks_exact_mut(count).zip(codes.as_chunks().0) {
                    columns[t].write(C::new(codes));
                }
            }
        };
        if codes.len() < PARALLEL_CODES_MIN {
            work.iter_mut().for_each(reorder);
        } else {
            compute.pool.for_each(&mut work, reorder);
        }
        // SAFETY: the ranges are all tokens, and the columns of each were written.
        unsafe { columns.set_len(tokens * steps) };
        Tiled { columns: columns.into(), corrections, cols, tokens, tile_tokens }
    }
}

impl<'a> Tiled<'a, [i8; TILE_COLS]> {
    /// The codes of one token: they need no reordering.
    pub(in super::super) fn single(compute: &Compute, codes: &'a [i8], tile_tokens: usize) -> Self {
        let corrections = vec![correction(compute.kernel, codes)];
        let columns = codes.as_chunks().0.into();
        Tiled { columns, corrections, cols: codes.len(), tokens: 1, tile_tokens }
    }
}

impl<C: Columns> Tiled<'_, C> {
    /// How many tiles there are.
    pub(in super::super) fn count(&self) -> usize {
        self.tokens.div_ceil(self.tile_tokens)
    }

    /// The tiles `range`, in the order of their tokens.
    pub(super) fn tiles(&self, range: Range<usize>) -> impl Iterator<Item = Tile<'_, C>> {
        let steps = self.cols / TILE_COLS;
        tile_ranges(self.tokens, self.tile_tokens).take(range.end).skip(range.start).map(move |range| Tile {
            first: range.start,
            tokens: range.len(),
            corrections: &self.corrections[range.clone()],
            columns: &self.columns[range.start * steps..range.end * steps],
        })
    }
}

impl<'a, C> Tile<'a, C> {
    /// The codes, 16 columns at a time; `T` is the number of tokens.
    #[inline(always)]
    pub(super) fn steps<const T: usize>(&self) -> &'a [[C; T]] {
        assert_eq!(T, self.tokens, "tokens of a tile");
        self.columns.as_chunks().0
    }
}

multiversion! {
    fn correction(codes: &[i8]) -> i32 = correction_body
}

#[inline(always)]
fn correction_body(codes: &[i8]) -> i32 {
    codes.iter().map(|code| i32::from(*code)).sum::<i32>().wrapping_mul(-128)
}

/// The tokens of tile `index` of `count`.
pub(in super::super) fn tile_tokens(tokens: usize, count: usize, index: usize) -> Range<usize> {
    index * tokens / count..(index + 1) * tokens / count
}

/// `tokens` divided as evenly as possible into the fewest ranges of at most `most`.
fn tile_ranges(tokens: usize, most: usize) -> impl Iterator<Item = Range<usize>> {
    let count = tokens.div_ceil(most);
    (0..count).map(move |index| tile_tokens(tokens, count, index))
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

    /// Tiles and chunks cover everything once, in order, none too large and none empty; and where
    /// there are several tiles, none has fewer tokens than half a tile.
    #[test]
    fn ranges_partition() {
        for most in [1, 3, 6, 12] {
            for tokens in 1..60 {
                let mut next = 0;
                for range in tile_ranges(tokens, most) {
                    assert!(
                        range.start == next && !range.is_empty() && range.len() <= most,
                        "{tokens} {most} {range:?}"
                    );
                    assert!(tokens <= most || range.len() >= most / 2, "{tokens} {most} {range:?}");
                    next = range.end;
                }
                assert_eq!(next, tokens);
            }
        }
        let chunks: Vec<_> = chunk_steps(5632, 2048).collect();
        assert_eq!(chunks, [0..116, 116..234, 234..352]);
    }
}
