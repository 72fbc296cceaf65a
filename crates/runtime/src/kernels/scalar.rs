//! The specification of the linear kernel: exact dot products of int8 weights and int8 codes.

use core::ops::Range;
use lockstep_base::weights::Linear;

/// `acc[t][r] = sum_j W[rows.start + r][j] x[t][j]`; `acc` is `(tokens, rows.len())`.
///
/// At most 127^2 * 65,536 < 2^30 in magnitude. Sums wrap, so that even weights that no importer
/// writes give the same bits on every kernel.
pub(super) fn accumulate(
    weights: &Linear,
    tables: &[[i8; 16]],
    x: &[i8],
    rows: Range<usize>,
    acc: &mut [i32],
) {
    let count = rows.len();
    for (r, row) in rows.enumerate() {
        let row_weights = weights.row_weights(row, tables);
        for (t, codes) in x.chunks_exact(weights.cols).enumerate() {
            let products = row_weights.iter().zip(codes).map(|(w, x)| i32::from(*w) * i32::from(*x));
            acc[t * count + r] = products.fold(0, i32::wrapping_add);
        }
    }
}
