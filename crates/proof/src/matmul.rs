//! A matrix product by one sum-check (Thaler 2013): the accumulators are never committed.
//!
//! ```text
//! acc[j, i] = sum_c x[j, c] W[i, c]            j an example, i a row of W, c a column
//! acc~(r_j, r_i) = sum_c x~(r_j, c) W~(r_i, c)
//! ```
//!
//! Padding: examples, rows and columns are filled to powers of two; W has zeros in added rows and columns, so accumulators of added rows
//! are 0, whatever x has in added columns does not count, and an added example is an example like the others. The verifier of tier A holds
//! W and evaluates `W~` at the point where the sum-check ends, in one pass over the int8 codes.

use crate::field::{ProofField, residue};
use crate::multilinear::eq_table;
use alloc::vec;
use alloc::vec::Vec;
use lockstep_base::weights::Linear;

/// `c -> W~(r_i, c)` for all columns that are not filling; `cols` of them.
#[must_use]
pub fn fold_weights<E: ProofField>(weights: &Linear, cols: usize, row_point: &[E]) -> Vec<E> {
    let mut out = vec![E::ZERO; cols];
    for (row, weight) in (0..weights.rows).zip(eq_table(row_point)) {
        for (out, code) in out.iter_mut().zip(weights.row_weights(row, &[])) {
            *out += weight * residue::<E::Base>(code.into());
        }
    }
    out
}

/// `W~(r_i, r_c)`.
#[must_use]
pub fn weights_at<E: ProofField>(weights: &Linear, cols: usize, row_point: &[E], col_point: &[E]) -> E {
    let folded = fold_weights(weights, cols, row_point);
    folded.iter().zip(eq_table(col_point)).map(|(w, eq)| *w * eq).sum()
}

/// The accumulators, `(examples, rows)` with rows filled to `2^log_rows`, over the integers.
#[cfg(feature = "prover")]
#[must_use]
pub fn accumulate(weights: &Linear, cols: usize, codes: &[i64], stride: usize, log_rows: usize) -> Vec<i64> {
    let matrix: Vec<Vec<i8>> = (0..weights.rows).map(|row| weights.row_weights(row, &[])).collect();
    let mut out = vec![0; (codes.len() / stride) << log_rows];
    for (codes, out) in codes.chunks(stride).zip(out.chunks_mut(1 << log_rows)) {
        for (out, row) in out.iter_mut().zip(&matrix) {
            *out = codes[..cols].iter().zip(row).map(|(x, w)| x * i64::from(*w)).sum();
        }
    }
    out
}
