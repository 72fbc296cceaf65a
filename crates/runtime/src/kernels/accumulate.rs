//! One front for the accumulators of all kernels: shapes are checked here, once, and the kernels
//! behind it rely on them.

use super::kernel::Kernel;
use super::scalar;
use alloc::vec::Vec;
use core::ops::Range;
use lockstep_base::weights::{GROUP_COLS, Linear, PANEL_ROWS};

/// The codes of some tokens, prepared for one kernel.
#[derive(Debug)]
pub struct Activations<'a> {
    pub(super) kernel: Kernel,
    /// `(tokens, cols)`.
    pub(super) codes: &'a [i8],
    pub(super) tokens: usize,
    pub(super) cols: usize,
}

impl<'a> Activations<'a> {
    /// Prepares `codes`, `(tokens, cols)`, for `kernel`.
    ///
    /// # Panics
    /// If `codes` is not a whole number of tokens, or `cols` not a positive multiple of 32.
    #[must_use]
    pub fn new(kernel: Kernel, codes: &'a [i8], cols: usize) -> Activations<'a> {
        assert!(
            cols > 0 && cols.is_multiple_of(GROUP_COLS),
            "{cols} columns, expected a multiple of {GROUP_COLS}"
        );
        assert!(
            codes.len().is_multiple_of(cols),
            "{} codes, expected a multiple of {cols}",
            codes.len()
        );
        Activations {
            kernel,
            codes,
            tokens: codes.len() / cols,
            cols,
        }
    }
}

/// Memory that a kernel unpacks weights into; kept by the caller so that it is allocated once.
#[derive(Debug, Default)]
pub struct Scratch {}

/// `acc[t][r] = sum_j W[rows.start + r][j] x[t][j]`, exact; `acc` is `(tokens, rows.len())`, token
/// after token. All kernels give the same bits for all weights and codes, -128 included.
///
/// # Panics
/// If `rows` does not start at a multiple of 4 or exceeds the matrix, if a length does not fit the
/// shape, or if a table id has no table.
pub fn accumulate(
    x: &Activations<'_>,
    weights: &Linear,
    tables: &[[i8; 16]],
    rows: Range<usize>,
    acc: &mut [i32],
    _scratch: &mut Scratch,
) {
    let (format, all) = (weights.format, weights.rows);
    assert!(
        rows.start.is_multiple_of(PANEL_ROWS) && rows.end <= all,
        "rows {rows:?} of {all}"
    );
    assert_eq!(weights.cols, x.cols, "columns of weights and codes");
    assert_eq!(acc.len(), x.tokens * rows.len(), "accumulators");
    assert_eq!(
        weights.codes.len(),
        format.code_bytes(all, x.cols),
        "bytes of packed weights"
    );
    assert_eq!(
        weights.table_ids.len(),
        format.id_bytes(all, x.cols),
        "bytes of table ids"
    );
    scalar::accumulate(weights, tables, x.codes, rows, acc);
}
