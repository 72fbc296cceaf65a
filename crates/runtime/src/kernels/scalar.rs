//! The specification of the linear kernel: exact dot products of int8 weights and int8 codes.

use core::ops::Range;
use lockstep_base::weights::Linear;

/// `acc[t][r] = sum_j W[rows.start + r][j] x[t][j]`; `acc` is `(tokens, width)`, W plane `plane` of
/// the weights: 1 is that of the low parts.
///
/// At most 127^2 * 65,536 < 2^30 in magnitude. Sums wrap, so that even weights that no importer
/// writes give the same bits on every kernel.
pub(super) fn accumulate(
    weights: &Linear,
    tables: &[[i8; 16]],
    x: &[i8],
    plane: usize,
    rows: Range<usize>,
    acc: &mut [i32],
    width: usize,
) {
    for (r, row) in rows.enumerate() {
        let row_weights =
            if plane == 0 { weights.row_weights(row, tables) } else { weights.row_low_parts(row) };
        for (t, codes) in x.chunks_exact(weights.cols).enumerate() {
            let products = row_weights.iter().zip(codes).map(|(w, x)| i32::from(*w) * i32::from(*x));
            acc[t * width + r] = products.fold(0, i32::wrapping_add);
        }
    }
}
