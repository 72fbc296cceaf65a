//! What the numbers of a key may be. Whoever loads a bundle checks the same of it (docs/spec/arithmetic.md, section 9); who has a key alone never
//! sees the bundle, and circuits and tables are built from these numbers.

use super::adapter::LowRankKey;
use super::parts::{GainKey, LayerKey, MatrixKey, NetworkKey};
use super::{Body, KeyError};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::RangeInclusive;
use lockstep_base::config::{FeedForward, ModelConfig};

/// Multipliers of rows.
const MULTIPLIERS: RangeInclusive<i64> = 1..=31;
/// Shifts of rows.
const SHIFTS: RangeInclusive<i64> = 0..=60;
/// Static shifts of accumulators.
const PRE_SHIFTS: RangeInclusive<i64> = 0..=11;
/// Largest magnitude of a bias; plans allow the head less.
const BIAS_MAX: i64 = 1 << 28;
/// Largest magnitude of what is subtracted from keys.
const CENTRE_MAX: i64 = 65_535;
/// Largest mantissa of a gain.
const GAIN_MAX: i64 = 2047;
/// Largest shift of a gain, either way.
const GAIN_SHIFT_MAX: i64 = 40;
/// Largest offset of a norm.
const OFFSET_MAX: i64 = 1 << 28;
/// Largest mantissa of a slope.
const SLOPE_MAX: i64 = 4095;
/// Shifts of slopes.
const SLOPE_SHIFTS: RangeInclusive<i64> = 0..=31;
/// The first of the powers of 2, none of which is above the one in front of it.
const EXP2_FIRST: u32 = 1 << 15;
/// The first of those by which tokens are drawn.
const EXP2_SAMPLE_FIRST: u32 = 1 << 24;
/// Largest magnitude of an entry of the activation's table.
const ACTIVATION_MAX: i64 = 32_767;
/// Largest magnitude of a cosine or sine.
const ANGLE_MAX: i64 = 1 << 14;

fn within<T: Copy + Into<i64>>(
    what: impl Fn() -> String,
    numbers: &[T],
    bounds: &RangeInclusive<i64>,
) -> Result<(), KeyError> {
    match numbers.iter().map(|number| (*number).into()).find(|number| !bounds.contains(number)) {
        None => Ok(()),
        Some(got) => Err(KeyError::Bounds { what: what(), got }),
    }
}

fn matrix(name: &str, key: &MatrixKey, fracs: RangeInclusive<i64>) -> Result<(), KeyError> {
    let of = |what: &'static str| move || format!("{what} of {name}");
    within(of("a multiplier"), &key.multipliers, &MULTIPLIERS)?;
    within(of("a shift"), &key.shifts, &SHIFTS)?;
    within(of("a bias"), &key.bias, &(-BIAS_MAX..=BIAS_MAX))?;
    within(of("the static shift"), &[key.pre_shift], &PRE_SHIFTS)?;
    within(of("the fractional bits"), &[key.out_frac], &fracs)
}

fn gain(name: &str, key: &GainKey, fracs: RangeInclusive<i64>) -> Result<(), KeyError> {
    let of = |what: &'static str| move || format!("{what} of {name}");
    within(of("a gain"), &key.mantissas, &(-GAIN_MAX..=GAIN_MAX))?;
    within(of("a shift"), &key.shifts, &(-GAIN_SHIFT_MAX..=GAIN_SHIFT_MAX))?;
    within(of("an offset"), &key.offsets, &(-OFFSET_MAX..=OFFSET_MAX))?;
    within(of("the fractional bits"), &[key.out_frac], &fracs)
}

/// A cap begins with 0 and rises by no more than its steps.
fn cap(name: &str, ends: &[i32], shift: Option<u8>) -> Result<(), KeyError> {
    within(|| format!("the first end of {name}"), &ends[..ends.len().min(1)], &(0..=0))?;
    let rises: Vec<i64> = ends.windows(2).map(|ends| i64::from(ends[1]) - i64::from(ends[0])).collect();
    within(|| format!("a step of {name}"), &rises, &(0..=1 << shift.unwrap_or(0)))
}

fn layer(number: usize, key: &LayerKey, config: &ModelConfig) -> Result<(), KeyError> {
    let residual = i64::from(config.residual_frac);
    let up = if config.feed_forward == FeedForward::Plain { 0..=11 } else { 0..=14 };
    let router = key.router.as_ref().map(|router| ("router", router, 0..=12));
    let matrices = [
        ("q", &key.q, 0..=14),
        ("k", &key.k, 0..=14),
        ("v", &key.v, 0..=14),
        ("o", &key.o, residual..=residual),
    ];
    let network = |key: &'_ NetworkKey| {
        let gate = key.gate.clone().map(|gate| ("gate", gate, 0..=11));
        let rest = [("up", key.up.clone(), up.clone()), ("down", key.down.clone(), residual..=residual)];
        gate.into_iter().chain(rest)
    };
    for (what, key, fracs) in key.networks.iter().flat_map(network) {
        matrix(&format!("layer {number}, {what}"), &key, fracs)?;
    }
    for (what, key, fracs) in matrices.into_iter().chain(router) {
        matrix(&format!("layer {number}, {what}"), key, fracs)?;
    }
    for (what, key) in key.norms() {
        // Those of heads are what becomes codes of queries and keys.
        let fracs = if what.ends_with("queries") || what.ends_with("keys") { 0..=14 } else { 0..=24 };
        key.as_ref().map_or(Ok(()), |key| gain(&format!("layer {number}, {what}"), key, fracs))?;
    }
    let centre = || format!("a centre of layer {number}");
    within(centre, &key.k_center, &(-CENTRE_MAX..=CENTRE_MAX))
}

/// Powers begin with `first` and do not rise.
fn falling(name: &str, powers: &[u32], first: u32) -> Result<(), KeyError> {
    within(|| format!("the first {name}"), &powers[..powers.len().min(1)], &(first.into()..=first.into()))?;
    match powers.windows(2).find(|pair| pair[1] > pair[0]) {
        None => Ok(()),
        Some(pair) => Err(KeyError::Bounds { what: format!("a {name}"), got: pair[1].into() }),
    }
}

/// All numbers of a key that has what its configuration says.
pub(super) fn check(body: &Body) -> Result<(), KeyError> {
    for table in &body.rope {
        within(|| "a cosine or sine".into(), table, &(-ANGLE_MAX..=ANGLE_MAX))?;
    }
    let activation = || "a value of the activation".into();
    within(activation, &body.activation, &(-ACTIVATION_MAX..=ACTIVATION_MAX))?;
    let exp2: Vec<u32> = body.exp2.iter().map(|power| u32::from(*power)).collect();
    falling("power of 2", &exp2, EXP2_FIRST)?;
    falling("power of 2 of a weight", &body.exp2_sample, EXP2_SAMPLE_FIRST)?;
    let [mantissas, shifts]: [Vec<i64>; 2] =
        [|slope: &(u16, u8)| slope.0.into(), |slope: &(u16, u8)| i64::from(slope.1)]
            .map(|of| body.slopes.iter().map(of).collect());
    within(|| "the mantissa of a slope".into(), &mantissas, &(0..=SLOPE_MAX))?;
    within(|| "the shift of a slope".into(), &shifts, &SLOPE_SHIFTS)?;
    cap("the cap of scores", &body.score_cap, body.config.score_cap)?;
    cap("the cap of logits", &body.logit_cap, body.config.logit_cap)?;
    body.embed_norm.as_ref().map_or(Ok(()), |key| gain("the norm behind the embedding", key, 0..=24))?;
    for (number, key) in body.layers.iter().enumerate() {
        layer(number, key, &body.config)?;
    }
    let adapted = body.adapter.iter().flat_map(|adapter| &adapter.layers).flat_map(|layer| &layer.parts);
    for LowRankKey { a, b } in adapted.flatten() {
        matrix("A of an adapter", a, 0..=14)?;
        matrix("B of an adapter", b, 0..=24)?;
    }
    body.head.as_ref().map_or(Ok(()), |head| matrix("head", head, 6..=10))
}
