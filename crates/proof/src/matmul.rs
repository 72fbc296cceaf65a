//! Matrices of weights as multilinear polynomials: what matrix products (Thaler 2013, see [`crate::circuit::Contraction`]) ask of them.
//!
//! ```text
//! acc[j, i] = sum_c x[j, c] W[i, c]            j an example, i a row of W, c a column
//! acc~(r_j, r_i) = sum_c x~(r_j, c) W~(r_i, c)
//! ```
//!
//! Rows and columns lie where [`Placed`] puts them in a rectangle filled to powers of two, and the rest of it is zero: accumulators of added
//! rows are 0, and whatever x has in added columns does not count. The verifier of tier A holds W and evaluates `W~` at
//! the point where the sum-check ends, in one pass over the int8 codes.

use crate::circuit::Placed;
use crate::field::ProofField;
use crate::multilinear::eq_table;
#[cfg(feature = "prover")]
use crate::parallel;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use lockstep_base::weights::{Linear, TILE_COLS, WeightFormat};
use p3_field::{PrimeCharacteristicRing, PrimeField32};

/// Rows that are folded together.
const BLOCK: usize = 4;

/// An int8 matrix of the statement.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// Its codes.
    pub weights: &'a Linear,
    /// The tables of 4-bit codes.
    pub tables: &'a [[i8; 16]],
}

impl Matrix<'_> {
    /// Whether the weights are there, and not only what rows have besides them.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.weights.codes.len() >= self.weights.format.code_bytes(self.weights.rows, self.weights.cols)
    }

    /// One row, in column order; of the low parts, if `low`.
    #[must_use]
    pub fn row(&self, row: usize, low: bool) -> Vec<i8> {
        if low { self.weights.row_low_parts(row) } else { self.weights.row_weights(row, self.tables) }
    }

    /// Some columns of one row, in order; those that are not there are 0.
    fn row_part(&self, row: usize, low: bool, cols: Range<usize>) -> impl Iterator<Item = i8> {
        let mut part = Vec::with_capacity(cols.len());
        let end = cols.end.min(self.weights.cols);
        if self.weights.format == WeightFormat::Int8 {
            // Codes of one tile lie behind one another.
            let mut col = cols.start;
            while col < end {
                let next = end.min((col / TILE_COLS + 1) * TILE_COLS);
                let at = self.weights.code_offset(row, col);
                part.extend(self.weights.codes[at..at + next - col].iter().map(|byte| *byte as i8));
                col = next;
            }
        } else {
            part.extend_from_slice(&self.row(row, low)[cols.start..end]);
        }
        part.resize(cols.len(), 0);
        part.into_iter()
    }
}

/// `c -> W~(r_i, c)` over all columns of the rectangle.
///
/// Each coordinate of `eq(r_i, i)` is an integer below 2^31, and a code and 128 one below 2^8, so their products are added up as integers: 2^25 rows fit 64 bits.
#[must_use]
pub fn fold_rows<E: ProofField>(matrix: &Matrix<'_>, placed: &Placed, row_point: &[E]) -> Vec<E> {
    let count = placed.cols.len();
    let table = eq_table(row_point);
    let mut sums = vec![vec![0u64; count]; E::DIMENSION];
    let mut added = vec![0u64; E::DIMENSION];
    let cols = placed.first_col..placed.first_col + count;
    for (block, places) in placed.rows.chunks(BLOCK).enumerate() {
        // Several rows at a time, so that sums are read and written less often.
        let codes: [Vec<u32>; BLOCK] = core::array::from_fn(|at| match at < places.len() {
            true => matrix
                .row_part(placed.first_row + BLOCK * block + at, placed.low, cols.clone())
                .map(shifted)
                .collect(),
            false => vec![0; count],
        });
        let [a, b, c, d] = codes.each_ref().map(|codes| &codes[..count]);
        let weights: [E; BLOCK] =
            core::array::from_fn(|at| places.get(at).map_or(E::ZERO, |place| table[*place as usize]));
        for (at, (sums, added)) in sums.iter_mut().zip(&mut added).enumerate() {
            let weights = weights
                .each_ref()
                .map(|weight| u64::from(weight.as_basis_coefficients_slice()[at].as_canonical_u32()));
            *added += weights.iter().sum::<u64>() * u64::from(shifted(0));
            for (col, sum) in sums[..count].iter_mut().enumerate() {
                *sum += weights[0] * u64::from(a[col])
                    + weights[1] * u64::from(b[col])
                    + weights[2] * u64::from(c[col])
                    + weights[3] * u64::from(d[col]);
            }
        }
    }
    let order = u64::from(E::Base::ORDER_U32);
    let mut out = vec![E::ZERO; 1 << placed.log_cols];
    for (col, place) in placed.cols.iter().enumerate() {
        out[*place as usize] = E::from_basis_coefficients_fn(|at| {
            E::Base::from_u32(((sums[at][col] % order + order - added[at] % order) % order) as u32)
        });
    }
    out
}

/// A code as an integer that is not negative.
fn shifted(code: i8) -> u32 {
    (i32::from(code) + 128) as u32
}

/// `W~(r_i, r_c)`.
#[must_use]
pub fn weights_at<E: ProofField>(matrix: &Matrix<'_>, placed: &Placed, point: &[E]) -> E {
    let (row_point, col_point) = point.split_at(placed.log_rows);
    let folded = fold_rows(matrix, placed, row_point);
    folded.iter().zip(eq_table(col_point)).map(|(w, eq)| *w * eq).sum()
}

/// Rows of a matrix that one thread takes at once.
#[cfg(feature = "prover")]
const ROWS_AT_ONCE: usize = 64;

/// The products of `codes`, `(examples, 2^log_cols)`, with the rows of the matrix: `(examples, 2^log_rows)`, over the integers.
#[cfg(feature = "prover")]
#[must_use]
pub fn accumulate(matrix: &Matrix<'_>, placed: &Placed, codes: &[i64]) -> Vec<i64> {
    let examples = codes.len() >> placed.log_cols;
    let mut out = vec![0; examples << placed.log_rows];
    let gathered: Vec<Vec<i64>> = codes
        .chunks(1 << placed.log_cols)
        .map(|codes| placed.cols.iter().map(|place| codes[*place as usize]).collect())
        .collect();
    // Codes of 8 bits, or those of a liar.
    let narrow: Option<Vec<Vec<i16>>> = gathered
        .iter()
        .map(|codes| codes.iter().map(|code| Some(i16::from(i8::try_from(*code).ok()?))).collect())
        .collect();
    let cols = placed.first_col..placed.first_col + placed.cols.len();
    let product = |row: usize, sums: &mut [i64]| {
        let weights: Vec<i8> = matrix.row_part(placed.first_row + row, placed.low, cols.clone()).collect();
        for (example, sum) in sums.iter_mut().enumerate() {
            *sum = match &narrow {
                Some(codes) => {
                    let products = codes[example].iter().zip(&weights);
                    i64::from(products.map(|(x, w)| i32::from(*x) * i32::from(*w)).sum::<i32>())
                }
                None => gathered[example].iter().zip(&weights).map(|(x, w)| x * i64::from(*w)).sum(),
            };
        }
    };
    // Rows of the matrix, each with what it gives for all examples.
    let mut rows: Vec<(usize, Vec<i64>)> =
        (0..placed.rows.len()).step_by(ROWS_AT_ONCE).map(|first| (first, Vec::new())).collect();
    parallel::for_each(&mut rows, |(first, sums)| {
        let count = ROWS_AT_ONCE.min(placed.rows.len() - *first);
        *sums = vec![0; count * examples];
        sums.chunks_mut(examples.max(1)).enumerate().for_each(|(row, sums)| product(*first + row, sums));
    });
    for (first, sums) in rows {
        for (place, sums) in placed.rows[first..].iter().zip(sums.chunks(examples.max(1))) {
            for (example, sum) in sums.iter().enumerate() {
                out[(example << placed.log_rows) + *place as usize] = *sum;
            }
        }
    }
    out
}
