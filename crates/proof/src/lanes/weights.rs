//! Rows of int8 matrices, folded: `c -> sum over rows i of eq(r, i) W[i, c]`, the prover's [`matmul::fold_rows`].
//!
//! A code and 128 is an integer below 2^8 and a coordinate of eq one below 2^31, so sums over 2^24 rows fit 64 bits. Sixteen columns of four rows are one line of
//! memory (`lockstep_base::weights`): it is read once for all five coordinates, whose sums stay in registers while rows pass.

use super::arithmetic::LongSums;
use super::vectors::elements;
use super::{Ext, Kernel, LANES, ONE, Plain, Task, Wide, raw, vectorised};
use crate::circuit::Placed;
use crate::field::ProofField;
use crate::matmul::{self, Matrix};
use crate::multilinear::eq_table;
use crate::parallel;
use alloc::vec;
use alloc::vec::Vec;
use lockstep_base::weights::{PANEL_ROWS, TILE_COLS, WeightFormat};
use p3_field::PrimeCharacteristicRing;

/// Tiles of a piece of work.
const TILES: usize = 8;
/// What is added to a code.
const CODE_OFFSET: u32 = 128;

/// Some tiles of all panels of rows.
struct Tiles<'a> {
    /// From the first tile of the first panel on.
    codes: &'a [u8],
    /// Bytes of a panel.
    panel: usize,
    /// Coordinates of eq times `2^32`, row after row, in whole panels.
    weights: &'a [[u32; 5]],
    out: &'a mut [Ext],
}

impl Task for Tiles<'_> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        self.run_wide(Plain);
    }

    #[inline(always)]
    fn run_wide<W: Wide>(self, w: W) {
        for (tile, out) in self.out.iter_mut().enumerate() {
            let mut sums = LongSums::zero(w);
            let panels = self.codes[tile * PANEL_ROWS * TILE_COLS..].chunks(self.panel);
            for (codes, weights) in panels.zip(self.weights.as_chunks::<PANEL_ROWS>().0) {
                for row in 0..PANEL_ROWS {
                    let mut words = [0; LANES];
                    let codes = &codes[row * TILE_COLS..(row + 1) * TILE_COLS];
                    for lane in 0..LANES {
                        words[lane] = u32::from(codes[lane] ^ CODE_OFFSET as u8);
                    }
                    sums.add(w, &weights[row], &words);
                }
            }
            *out = sums.reduce(w);
        }
    }
}

/// [`matmul::fold_rows`].
pub(crate) fn fold_rows<E: ProofField>(matrix: &Matrix<'_>, placed: &Placed, row_point: &[E]) -> Vec<E> {
    let (linear, count) = (matrix.weights, placed.cols.len());
    let whole = placed.first_row.is_multiple_of(PANEL_ROWS) && placed.first_col.is_multiple_of(TILE_COLS);
    if linear.format != WeightFormat::Int8 || !whole || !matrix.is_held() || count == 0 {
        return matmul::fold_rows(matrix, placed, row_point);
    }
    let table = eq_table(row_point);
    let radix = E::Base::from_u32(ONE);
    let of_row = |place: &u32| raw(table[*place as usize] * radix);
    let mut weights: Vec<[u32; 5]> = placed.rows.iter().map(of_row).collect();
    weights.resize(weights.len().next_multiple_of(PANEL_ROWS), [0; 5]);
    let all: E = placed.rows.iter().map(|place| table[*place as usize]).sum();
    let added = Ext::splat(&raw(all * E::Base::from_u32(CODE_OFFSET)));
    let tiles = count.div_ceil(TILE_COLS);
    let mut sums = vec![Ext::ZERO; tiles];
    let mut pieces: Vec<(usize, &mut [Ext])> = sums.chunks_mut(TILES).enumerate().collect();
    let kernel = Kernel::detect();
    parallel::for_each(&mut pieces, |(piece, out)| {
        let first_col = placed.first_col + *piece * TILES * TILE_COLS;
        let codes = &linear.codes[linear.code_offset(placed.first_row, first_col)..];
        let panel = PANEL_ROWS * linear.cols;
        vectorised(kernel, Tiles { codes, panel, weights: &weights, out });
        out.iter_mut().for_each(|sum| *sum = sum.sub(&added));
    });
    let sums: Vec<E> = elements(&sums, count);
    let mut out = vec![E::ZERO; 1 << placed.log_cols];
    placed.cols.iter().zip(sums).for_each(|(place, sum)| out[*place as usize] = sum);
    out
}
