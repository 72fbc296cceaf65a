//! The residual stream between two layers as a commitment: what one stage of a pipeline leaves is what the next one enters.
//!
//! ```text
//! cells   x[t][c] at t 2^s + c,   t < 2^tokens, c < 2^s: both axes are filled to powers of two
//! ```
//!
//! Channels that are added are 0, and positions that are added are copies of the first one ([`super::statement`]), so the commitment follows from the rows
//! alone: who computes the layers, who proves them and who only compares two roots mean the same 32 bytes.

use crate::integer::log2_ceil;
use alloc::vec;
use alloc::vec::Vec;
#[cfg(feature = "prover")]
use {
    crate::commitment::Committed,
    crate::field::{ProofField, residue},
};

/// The cells of `positions` rows of `width` values.
///
/// # Panics
/// If there are fewer values.
#[must_use]
pub fn cells(rows: &[i64], width: usize, positions: usize) -> Vec<i64> {
    let stream = 1usize << log2_ceil(width);
    let mut cells = vec![0; stream << log2_ceil(positions)];
    for (position, cells) in cells.chunks_mut(stream).enumerate() {
        let row = if position < positions { position } else { 0 };
        cells[..width].copy_from_slice(&rows[row * width..][..width]);
    }
    cells
}

/// The commitment to `positions` rows of `width` values.
///
/// # Panics
/// If there are fewer values.
#[cfg(feature = "prover")]
#[must_use]
pub fn commit<E: ProofField>(rows: &[i32], width: usize, positions: usize) -> Committed<E> {
    let rows: Vec<i64> = rows.iter().map(|x| i64::from(*x)).collect();
    let cells: Vec<E::Base> = cells(&rows, width, positions).into_iter().map(residue).collect();
    Committed::new(cells)
}
