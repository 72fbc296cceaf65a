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
use crate::field::{ProofField, residue};
use crate::multilinear::eq_table;
use alloc::vec;
use alloc::vec::Vec;
use lockstep_base::weights::Linear;

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

    /// One row, in column order.
    #[must_use]
    pub fn row(&self, row: usize) -> Vec<i8> {
        self.weights.row_weights(row, self.tables)
    }
}

/// `c -> W~(r_i, c)` over all columns of the rectangle.
#[must_use]
pub fn fold_rows<E: ProofField>(matrix: &Matrix<'_>, placed: &Placed, row_point: &[E]) -> Vec<E> {
    let mut sums = vec![E::ZERO; placed.cols.len()];
    let table = eq_table(row_point);
    for (row, place) in placed.rows.iter().enumerate() {
        let weight = table[*place as usize];
        let codes = matrix.row(placed.first_row + row);
        for (sum, code) in sums.iter_mut().zip(&codes[placed.first_col..]) {
            *sum += weight * residue::<E::Base>((*code).into());
        }
    }
    let mut out = vec![E::ZERO; 1 << placed.log_cols];
    for (sum, place) in sums.into_iter().zip(&placed.cols) {
        out[*place as usize] = sum;
    }
    out
}

/// `W~(r_i, r_c)`.
#[must_use]
pub fn weights_at<E: ProofField>(matrix: &Matrix<'_>, placed: &Placed, point: &[E]) -> E {
    let (row_point, col_point) = point.split_at(placed.log_rows);
    let folded = fold_rows(matrix, placed, row_point);
    folded.iter().zip(eq_table(col_point)).map(|(w, eq)| *w * eq).sum()
}

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
    for (row, place) in placed.rows.iter().enumerate() {
        let weights = &matrix.row(placed.first_row + row)[placed.first_col..];
        for example in 0..examples {
            out[(example << placed.log_rows) + *place as usize] = match &narrow {
                Some(codes) => {
                    let products = codes[example].iter().zip(weights);
                    i64::from(products.map(|(x, w)| i32::from(*x) * i32::from(*w)).sum::<i32>())
                }
                None => gathered[example].iter().zip(weights).map(|(x, w)| x * i64::from(*w)).sum(),
            };
        }
    }
    out
}
