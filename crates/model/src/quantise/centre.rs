//! What attention does not see, and codes need not carry: constants in keys and values.
//!
//! ```text
//! softmax_j q . (k_j - c_k) = softmax_j q . k_j
//! sum_j p_j (v_j - c_v) + c_v = sum_j p_j v_j,   since the p_j sum to 1
//! ```
//! c_k, the mean key after RoPE, is subtracted at run time (docs/spec/arithmetic.md, section 6). c_v, the mean value,
//! becomes a bias of v, and `W_o c_v` one of o: nothing at run time, and finer steps for the codes of values and of what
//! attention gives, since what most positions have in common is most of what their average is.

use super::calibrate::LayerInputs;
use super::folded::FoldedLayer;
use super::linalg::{Dense, axpy, dot};
use crate::source::FloatConfig;

/// Sets the K centre to the mean key.
pub(super) fn keys(layer: &mut FoldedLayer, seen: &LayerInputs) {
    layer.k_center.copy_from_slice(&seen.key_mean);
}

/// Moves the mean value from v to the bias of o.
pub(super) fn values(layer: &mut FoldedLayer, seen: &LayerInputs, config: &FloatConfig) {
    let mean = &seen.value_mean;
    let bias = layer.v.bias.get_or_insert_with(|| vec![0.0; mean.len()]);
    axpy(bias, -1.0, mean);
    let (attended, rows) = (attended(mean, config), layer.o.weight.rows);
    let weight = layer.o.weight.padded_cols(layer.o.weight.cols);
    let bias = layer.o.bias.get_or_insert_with(|| vec![0.0; rows]);
    bias.iter_mut().enumerate().for_each(|(row, bias)| *bias += dot(weight.row(row), &attended));
}

/// What attention gives if every value is `value`: `(n_kv_heads * head_dim,)` to `(n_heads * head_dim,)`.
pub(super) fn attended(value: &[f64], config: &FloatConfig) -> Vec<f64> {
    let dim = config.head_dim;
    let heads = (0..config.n_heads).map(|head| config.kv_head_of(head) * dim);
    heads.flat_map(|from| &value[from..from + dim]).copied().collect()
}

/// `rows` without `constant`.
pub(super) fn without(rows: &Dense, constant: &[f64]) -> Dense {
    let mut rows = rows.clone();
    rows.for_rows(|row| axpy(row, -1.0, constant));
    rows
}
