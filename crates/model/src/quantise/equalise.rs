//! Moving scale between queries and keys, where scores do not see it.
//!
//! All channels of a key head share one step, so a channel with a small range is rounded coarsely.
//! Key channels are divided by the square root of their spread around the K centre (of the exponents 0,
//! 0.5 and 1 the middle one measured best) and the queries multiplied by it. The factor is the same
//! inside a rotated pair, hence commutes with RoPE, and for all query heads that read the key head. Where heads are
//! normed, it moves between the gains of the two norms, which all heads share.

use super::calibrate::LayerInputs;
use super::folded::{FoldedLayer, FoldedLinear};
use super::gains;
use crate::source::FloatConfig;
use std::ops::Range;

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

/// Equalises in place. `reach` is the bound of one row's output.
pub(super) fn equalise(
    layer: &mut FoldedLayer,
    seen: &LayerInputs,
    config: &FloatConfig,
    rule: Rule,
    reach: impl Fn(&FoldedLinear, usize) -> f64,
) {
    let units = units(config);
    for group in groups(config) {
        let spread = |unit: &Range<usize>| {
            let channels = group.keys(unit, config);
            let count = (group.kv_heads.len() * unit.len()) as f64;
            (channels.map(|channel| seen.key_variance[channel]).sum::<f64>() / count).sqrt()
        };
        let logs = units.iter().map(|unit| spread(unit).max(f64::MIN_POSITIVE).ln());
        let mean = (logs.sum::<f64>() / units.len() as f64).exp();
        for unit in &units {
            let factor = match rule {
                Rule::Spread => (spread(unit) / mean).powf(EXPONENT),
                Rule::Bound => {
                    let (queries, keys) = group.reach(layer, unit, config, &reach);
                    (keys / queries.max(f64::MIN_POSITIVE)).sqrt()
                }
            };
            group.move_to_queries(layer, unit, config, factor.clamp(1.0 / FACTOR_MAX, FACTOR_MAX));
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
    let head = 0..config.head_dim;
    let mut most = f64::MIN_POSITIVE;
    for group in groups(config) {
        let (queries, keys) = group.reach(layer, &head, config, &reach);
        let factor = (keys.max(f64::MIN_POSITIVE) / queries.max(f64::MIN_POSITIVE)).sqrt();
        group.move_to_queries(layer, &head, config, factor.clamp(1.0 / BALANCE_MAX, BALANCE_MAX));
        most = most.max(group.reach(layer, &head, config, &reach).0);
    }
    // Both have the same real number of fractional bits now. If rounding each down loses one bit of
    // their sum, q gets a whole number of bits.
    let bits = (limit / most).log2() - FORMAT_SLACK_BITS;
    if bits.fract() >= 0.5 && bits.is_finite() {
        let factor = (bits.fract() - 1.0).exp2();
        groups(config).iter().for_each(|group| group.move_to_queries(layer, &head, config, factor));
    }
}

/// Largest factor that moves between a head's queries and keys.
const BALANCE_MAX: f64 = 1_048_576.0;
/// What rounding the weights may add to a bound, in bits.
const FORMAT_SLACK_BITS: f64 = 0.02;

/// Channels of a head that share a factor: rotated pairs, and single channels where nothing rotates.
fn units(config: &FloatConfig) -> Vec<Range<usize>> {
    let rotated = config.rope_of(0).map_or(0, |rope| rope.dim);
    let pairs = (0..rotated).step_by(2).map(|channel| channel..channel + 2);
    pairs.chain((rotated..config.head_dim).map(|channel| channel..channel + 1)).collect()
}

/// Key heads that share factors: each its own, or all where gains are shared.
struct Group {
    kv_heads: Range<usize>,
}

fn groups(config: &FloatConfig) -> Vec<Group> {
    let heads = config.n_kv_heads;
    if config.qk_norm {
        vec![Group { kv_heads: 0..heads }]
    } else {
        (0..heads).map(|head| Group { kv_heads: head..head + 1 }).collect()
    }
}

impl Group {
    /// The key channels (rows of k) of `unit`.
    fn keys(&self, unit: &Range<usize>, config: &FloatConfig) -> impl Iterator<Item = usize> + use<> {
        let (dim, unit) = (config.head_dim, unit.clone());
        self.kv_heads.clone().flat_map(move |head| unit.clone().map(move |channel| head * dim + channel))
    }

    /// The rows of q of `unit`.
    fn queries(&self, unit: &Range<usize>, config: &FloatConfig) -> impl Iterator<Item = usize> + use<> {
        let (dim, unit, per_head) = (config.head_dim, unit.clone(), config.n_heads / config.n_kv_heads);
        let heads = self.kv_heads.start * per_head..self.kv_heads.end * per_head;
        heads.flat_map(move |head| unit.clone().map(move |channel| head * dim + channel))
    }

    /// Largest magnitudes of queries and keys in `unit`.
    fn reach(
        &self,
        layer: &FoldedLayer,
        unit: &Range<usize>,
        config: &FloatConfig,
        reach: &impl Fn(&FoldedLinear, usize) -> f64,
    ) -> (f64, f64) {
        if let (Some(q), Some(k)) = (&layer.q_norm, &layer.k_norm) {
            let most = |gain: &[f64]| gain[unit.clone()].iter().fold(0.0f64, |most, g| most.max(g.abs()));
            let size = gains::normalised(config.head_dim);
            return (most(q) * size, most(k) * size);
        }
        let queries = self.queries(unit, config).map(|row| reach(&layer.q, row)).fold(0.0, f64::max);
        (queries, self.keys(unit, config).map(|row| reach(&layer.k, row)).fold(0.0, f64::max))
    }

    /// Multiplies the queries of `unit` by `factor` and divides its keys by it.
    fn move_to_queries(
        &self,
        layer: &mut FoldedLayer,
        unit: &Range<usize>,
        config: &FloatConfig,
        factor: f64,
    ) {
        self.keys(unit, config).for_each(|channel| layer.k_center[channel] /= factor);
        if let (Some(q), Some(k)) = (&mut layer.q_norm, &mut layer.k_norm) {
            q[unit.clone()].iter_mut().for_each(|gain| *gain *= factor);
            k[unit.clone()].iter_mut().for_each(|gain| *gain /= factor);
            return;
        }
        self.queries(unit, config).for_each(|row| scale_row(&mut layer.q, row, factor));
        self.keys(unit, config).for_each(|row| scale_row(&mut layer.k, row, 1.0 / factor));
    }
}

/// The rows of q (or of k), by the factor that they share.
pub(super) fn shared_rows(config: &FloatConfig, queries: bool) -> Vec<Vec<usize>> {
    let units = units(config);
    let rows = |group: &Group, unit: &Range<usize>| -> Vec<usize> {
        if queries { group.queries(unit, config).collect() } else { group.keys(unit, config).collect() }
    };
    groups(config)
        .iter()
        .flat_map(|group| units.iter().map(|unit| rows(group, unit)).collect::<Vec<_>>())
        .collect()
}

fn scale_row(linear: &mut FoldedLinear, row: usize, factor: f64) {
    linear.weight.row_mut(row).iter_mut().for_each(|w| *w = (f64::from(*w) * factor) as f32);
    if let Some(bias) = &mut linear.bias {
        bias[row] *= factor;
    }
}

#[cfg(test)]
mod tests {
    use super::super::centre;
    use super::*;
    use crate::quantise::folded::{FoldedDense, FoldedFfn};
    use crate::quantise::linalg::Dense;
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
        FoldedLinear {
            weight: weight.into(),
            bias: Some((0..rows).map(|row| size(row) * (row as f64).cos()).collect()),
        }
    }

    /// Keys are large in their first pair, queries in their second.
    fn layer() -> (FoldedLayer, LayerInputs) {
        let pair = |row: usize| row % DIM / 2;
        let small = |rows| linear(rows, |_| 1.0);
        let layer = FoldedLayer {
            q: linear(HEADS * DIM, |row| if pair(row) == 1 { 64.0 } else { 1.0 }),
            k: linear(KV_HEADS * DIM, |row| if pair(row) == 0 { 64.0 } else { 1.0 }),
            v: small(KV_HEADS * DIM),
            o: small(WIDTH),
            k_center: vec![0.0; KV_HEADS * DIM],
            q_norm: None,
            k_norm: None,
            attn_post: None,
            ffn: FoldedFfn::Dense(FoldedDense { gate: None, up: small(8), down: small(8) }),
            ffn_post: None,
        };
        let none = || Dense::zeros(0, 0);
        let seen = LayerInputs {
            attn_in: none(),
            o_in: none(),
            ffn_in: none(),
            down_in: vec![none()],
            key_mean: (0..KV_HEADS * DIM).map(|channel| 1.0 + channel as f64).collect(),
            key_variance: (0..KV_HEADS * DIM).map(|row| if pair(row) == 0 { 4096.0 } else { 1.0 }).collect(),
            value_mean: vec![0.0; KV_HEADS * DIM],
        };
        (layer, seen)
    }

    fn reach(linear: &FoldedLinear, row: usize) -> f64 {
        linear.weight.row_norm(row)
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
            centre::keys(&mut after, &seen);
            equalise(&mut after, &seen, &config(), rule, reach);
            balance(&mut after, &config(), 32_767.0, reach);
            for head in 0..HEADS {
                for channel in 0..DIM {
                    let (query, key) = (head * DIM + channel, config().kv_head_of(head) * DIM + channel);
                    let bias = |layer: &FoldedLayer, row: usize| layer.q.bias.as_ref().unwrap()[row];
                    let factor = bias(&after, query) / bias(&before, query);
                    // Weights have the rounding of single precision.
                    let same = |a: f64, b: f64| assert!((a - b).abs() < 1e-6 * b.abs().max(1e-3), "{a} {b}");
                    let at = |linear: &FoldedLinear, row: usize, col| f64::from(linear.weight.row(row)[col]);
                    for col in 0..WIDTH {
                        same(at(&after.q, query, col), factor * at(&before.q, query, col));
                        same(at(&after.k, key, col) * factor, at(&before.k, key, col));
                    }
                    same(
                        after.q.bias.as_ref().unwrap()[query],
                        factor * before.q.bias.as_ref().unwrap()[query],
                    );
                    same(after.k.bias.as_ref().unwrap()[key] * factor, before.k.bias.as_ref().unwrap()[key]);
                    same(after.k_center[key] * factor, seen.key_mean[key]);
                    let partner = query ^ 1;
                    same(bias(&after, partner) / bias(&before, partner), factor);
                }
            }
        }
    }

    /// Where heads are normed, the product of the two gains of a channel stays, a pair has one factor, and no
    /// projection changes.
    #[test]
    fn gains_take_the_factors_of_normed_heads() {
        let config = FloatConfig { qk_norm: true, ..config() };
        for rule in [Rule::Spread, Rule::Bound] {
            let (mut before, seen) = layer();
            before.q_norm = Some((0..DIM).map(|c| 1.0 + c as f64).collect());
            before.k_norm = Some((0..DIM).map(|c| 9.0 - c as f64).collect());
            let mut after = before.clone();
            centre::keys(&mut after, &seen);
            equalise(&mut after, &seen, &config, rule, reach);
            balance(&mut after, &config, 32_767.0, reach);
            assert_eq!((&after.q.weight, &after.k.weight), (&before.q.weight, &before.k.weight));
            let gains = |layer: &FoldedLayer| (layer.q_norm.clone().unwrap(), layer.k_norm.clone().unwrap());
            let ((q, k), (old_q, old_k)) = (gains(&after), gains(&before));
            for channel in 0..DIM {
                let factor = q[channel] / old_q[channel];
                let same = |a: f64, b: f64| assert!((a - b).abs() < 1e-12 * b.abs(), "{a} {b}");
                same(q[channel] * k[channel], old_q[channel] * old_k[channel]);
                same(q[channel ^ 1] / old_q[channel ^ 1], factor);
                for head in 0..KV_HEADS {
                    same(after.k_center[head * DIM + channel] * factor, seen.key_mean[head * DIM + channel]);
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
