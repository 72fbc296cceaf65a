//! Moving scale between queries and keys, where scores do not see it.
//!
//! All channels of a key head share one step, so a channel with a small range is rounded coarsely.
//! Key channels are divided by the square root of their spread around the K centre (of the exponents 0,
//! 0.5 and 1 the middle one measured best) and the queries multiplied by it. The factor is the same
//! inside a rotated pair, hence commutes with RoPE, and for all query heads that read the key head.

use super::calibrate::LayerMoments;
use super::folded::{FoldedLayer, FoldedLinear};
use crate::source::{FloatConfig, Positions};

/// Power of the spread that moves: 0 nothing, 1 all keys equally wide.
const EXPONENT: f64 = 0.5;
/// Factors stay within this of 1, so that dead channels do not blow up queries.
const FACTOR_MAX: f64 = 64.0;

/// How the factor of each pair is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// By the spread of the keys: least rounding error.
    Spread,
    /// Equal bounds of queries and keys in every pair: most fractional bits, for layers whose scores
    /// would not fit otherwise.
    Bound,
}

/// Sets the K centre to the mean key.
pub(super) fn set_center(layer: &mut FoldedLayer, seen: &LayerMoments) {
    layer.k_center.copy_from_slice(&seen.key_mean);
}

/// Equalises in place. `reach` is the bound of one row's output.
pub(super) fn equalise(
    layer: &mut FoldedLayer,
    seen: &LayerMoments,
    config: &FloatConfig,
    rule: Rule,
    reach: impl Fn(&FoldedLinear, usize) -> f64,
) {
    let unit = if config.positions == Positions::Learned { 1 } else { 2 };
    let dim = config.head_dim;
    let group = config.n_heads / config.n_kv_heads;
    for kv_head in 0..config.n_kv_heads {
        let key = |pair: usize| kv_head * dim + pair * unit;
        let spread = |pair: usize| {
            (seen.key_variance[key(pair)..key(pair) + unit].iter().sum::<f64>() / unit as f64).sqrt()
        };
        let pairs = dim / unit;
        let logs = (0..pairs).map(|pair| spread(pair).max(f64::MIN_POSITIVE).ln());
        let mean = (logs.sum::<f64>() / pairs as f64).exp();
        for pair in 0..pairs {
            let queries = || {
                (kv_head * group..(kv_head + 1) * group).flat_map(|head| {
                    let from = head * dim + pair * unit;
                    from..from + unit
                })
            };
            let factor = match rule {
                Rule::Spread => (spread(pair) / mean).powf(EXPONENT),
                Rule::Bound => {
                    let keys =
                        (key(pair)..key(pair) + unit).map(|row| reach(&layer.k, row)).fold(0.0, f64::max);
                    let queries = queries().map(|row| reach(&layer.q, row)).fold(0.0, f64::max);
                    (keys / queries.max(f64::MIN_POSITIVE)).sqrt()
                }
            };
            let factor = factor.clamp(1.0 / FACTOR_MAX, FACTOR_MAX);
            queries().for_each(|row| scale_row(&mut layer.q, row, factor));
            for row in key(pair)..key(pair) + unit {
                scale_row(&mut layer.k, row, 1.0 / factor);
                layer.k_center[row] /= factor;
            }
        }
    }
}

/// Balances the formats of q and k: inside each key head the largest outputs become equally large, and
/// then, for the whole layer, a factor below 2 moves so that as few fractional bits as possible are lost
/// to rounding down. `reach` is the bound of one row's output, `limit` that of the format.
pub(super) fn balance(
    layer: &mut FoldedLayer,
    config: &FloatConfig,
    limit: f64,
    reach: impl Fn(&FoldedLinear, usize) -> f64,
) {
    let dim = config.head_dim;
    let group = config.n_heads / config.n_kv_heads;
    let most = |linear: &FoldedLinear, rows: std::ops::Range<usize>| {
        rows.map(|row| reach(linear, row)).fold(f64::MIN_POSITIVE, f64::max)
    };
    for kv_head in 0..config.n_kv_heads {
        let keys = most(&layer.k, kv_head * dim..(kv_head + 1) * dim);
        let queries = most(&layer.q, kv_head * group * dim..(kv_head + 1) * group * dim);
        let factor = (keys / queries).sqrt().clamp(1.0 / BALANCE_MAX, BALANCE_MAX);
        move_to_queries(layer, config, kv_head, factor);
    }
    // Both have the same real number of fractional bits now. If rounding each down loses one bit of
    // their sum, q gets a whole number of bits.
    let bits = (limit / most(&layer.q, 0..layer.q.weight.rows)).log2() - FORMAT_SLACK_BITS;
    if bits.fract() >= 0.5 && bits.is_finite() {
        let factor = (bits.fract() - 1.0).exp2();
        (0..config.n_kv_heads).for_each(|kv_head| move_to_queries(layer, config, kv_head, factor));
    }
}

/// Largest factor that moves between a head's queries and keys.
const BALANCE_MAX: f64 = 1_048_576.0;
/// What rounding the weights may add to a bound, in bits.
const FORMAT_SLACK_BITS: f64 = 0.02;

/// Multiplies the queries of a key head by `factor` and divides its keys by it.
fn move_to_queries(layer: &mut FoldedLayer, config: &FloatConfig, kv_head: usize, factor: f64) {
    let dim = config.head_dim;
    let group = config.n_heads / config.n_kv_heads;
    (kv_head * group * dim..(kv_head + 1) * group * dim).for_each(|row| scale_row(&mut layer.q, row, factor));
    for row in kv_head * dim..(kv_head + 1) * dim {
        scale_row(&mut layer.k, row, 1.0 / factor);
        layer.k_center[row] /= factor;
    }
}

fn scale_row(linear: &mut FoldedLinear, row: usize, factor: f64) {
    linear.weight.row_mut(row).iter_mut().for_each(|w| *w *= factor);
    if let Some(bias) = &mut linear.bias {
        bias[row] *= factor;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quantise::linalg::{Dense, dot};
    use crate::source::Sizes;

    const HEADS: usize = 4;
    const KV_HEADS: usize = 2;
    const DIM: usize = 6;
    const WIDTH: usize = 8;

    fn config() -> FloatConfig {
        FloatConfig::llama(Sizes {
            n_layers: 1,
            d_model: WIDTH,
            n_heads: HEADS,
            n_kv_heads: KV_HEADS,
            head_dim: DIM,
            ffn_hidden: 8,
            vocab: 8,
            context: 8,
        })
    }

    fn linear(rows: usize, size: impl Fn(usize) -> f64) -> FoldedLinear {
        let mut weight = Dense::zeros(rows, WIDTH);
        for row in 0..rows {
            let waves = weight.row_mut(row).iter_mut().enumerate();
            waves.for_each(|(col, w)| *w = size(row) * ((row * 31 + col * 7) as f64).sin());
        }
        FoldedLinear { weight, bias: Some((0..rows).map(|row| size(row) * (row as f64).cos()).collect()) }
    }

    /// Keys are large in their first pair, queries in their second.
    fn layer() -> (FoldedLayer, LayerMoments) {
        let pair = |row: usize| row % DIM / 2;
        let small = |rows| linear(rows, |_| 1.0);
        let layer = FoldedLayer {
            q: linear(HEADS * DIM, |row| if pair(row) == 1 { 64.0 } else { 1.0 }),
            k: linear(KV_HEADS * DIM, |row| if pair(row) == 0 { 64.0 } else { 1.0 }),
            v: small(KV_HEADS * DIM),
            o: small(WIDTH),
            k_center: vec![0.0; KV_HEADS * DIM],
            gate: None,
            up: small(8),
            down: small(8),
        };
        let square = || Dense::zeros(WIDTH, WIDTH);
        let seen = LayerMoments {
            attn_in: square(),
            o_in: square(),
            ffn_in: square(),
            down_in: square(),
            key_mean: (0..KV_HEADS * DIM).map(|channel| 1.0 + channel as f64).collect(),
            key_variance: (0..KV_HEADS * DIM).map(|row| if pair(row) == 0 { 4096.0 } else { 1.0 }).collect(),
        };
        (layer, seen)
    }

    fn reach(linear: &FoldedLinear, row: usize) -> f64 {
        dot(linear.weight.row(row), linear.weight.row(row)).sqrt()
    }

    fn most(linear: &FoldedLinear) -> f64 {
        (0..linear.weight.rows).map(|row| reach(linear, row)).fold(0.0, f64::max)
    }

    /// Scores do not see what moves: for every query channel the product with its key channel (weights,
    /// biases, centre) stays, and the factor is the same inside a rotated pair.
    #[test]
    fn scores_do_not_see_equalisation() {
        for rule in [Rule::Spread, Rule::Bound] {
            let (before, seen) = layer();
            let mut after = before.clone();
            set_center(&mut after, &seen);
            equalise(&mut after, &seen, &config(), rule, reach);
            balance(&mut after, &config(), 32_767.0, reach);
            for head in 0..HEADS {
                for channel in 0..DIM {
                    let (query, key) = (head * DIM + channel, config().kv_head_of(head) * DIM + channel);
                    let factor = after.q.weight.row(query)[3] / before.q.weight.row(query)[3];
                    let same = |a: f64, b: f64| assert!((a - b).abs() < 1e-12 * b.abs().max(1.0), "{a} {b}");
                    for col in 0..WIDTH {
                        same(after.q.weight.row(query)[col], factor * before.q.weight.row(query)[col]);
                        same(after.k.weight.row(key)[col] * factor, before.k.weight.row(key)[col]);
                    }
                    same(
                        after.q.bias.as_ref().unwrap()[query],
                        factor * before.q.bias.as_ref().unwrap()[query],
                    );
                    same(after.k.bias.as_ref().unwrap()[key] * factor, before.k.bias.as_ref().unwrap()[key]);
                    same(after.k_center[key] * factor, seen.key_mean[key]);
                    let partner = query ^ 1;
                    same(after.q.weight.row(partner)[3] / before.q.weight.row(partner)[3], factor);
                }
            }
        }
    }

    /// The rule by bounds leaves more fractional bits in sum than the one by spread, where both differ.
    #[test]
    fn the_rule_by_bounds_saves_bits() {
        let product = |rule| {
            let (mut layer, seen) = layer();
            equalise(&mut layer, &seen, &config(), rule, reach);
            balance(&mut layer, &config(), 32_767.0, reach);
            most(&layer.q) * most(&layer.k)
        };
        let (spread, bound) = (product(Rule::Spread), product(Rule::Bound));
        assert!(bound < 0.3 * spread, "largest q times largest k: {bound} by bounds, {spread} by spread");
    }
}
