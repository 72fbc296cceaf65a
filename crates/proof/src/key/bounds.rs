//! What the numbers of a key may be. Whoever loads a bundle checks the same of it (docs/spec/arithmetic.md, section 9); who has a key alone never
//! sees the bundle, and circuits and tables are built from these numbers.

use super::{Body, KeyError, LayerKey, MatrixKey};
use alloc::format;
use alloc::string::String;
use core::ops::RangeInclusive;
use lockstep_base::config::{FeedForward, ModelConfig};

/// Multipliers of rows.
const MULTIPLIERS: RangeInclusive<i64> = 1..=31;
/// Shifts of rows.
const SHIFTS: RangeInclusive<i64> = 0..=60;
/// Static shifts of accumulators.
const PRE_SHIFTS: RangeInclusive<i64> = 0..=30;
/// Largest magnitude of a bias: LIMIT.
const BIAS_MAX: i64 = 127 << 23;
/// Largest magnitude of what is subtracted from keys.
const CENTRE_MAX: i64 = 65_535;
/// The first of the powers of 2, none of which is above the one in front of it.
const EXP2_FIRST: u16 = 1 << 15;
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

fn layer(number: usize, key: &LayerKey, config: &ModelConfig) -> Result<(), KeyError> {
    let residual = i64::from(config.residual_frac);
    let up = if config.feed_forward == FeedForward::Plain { 0..=11 } else { 0..=14 };
    let gate = key.gate.as_ref().map(|gate| ("gate", gate, 0..=11));
    let matrices = [
        ("q", &key.q, 0..=14),
        ("k", &key.k, 0..=14),
        ("v", &key.v, 0..=14),
        ("o", &key.o, residual..=residual),
        ("up", &key.up, up),
        ("down", &key.down, residual..=residual),
    ];
    for (what, key, fracs) in matrices.into_iter().chain(gate) {
        matrix(&format!("layer {number}, {what}"), key, fracs)?;
    }
    let centre = || format!("a centre of layer {number}");
    within(centre, &key.k_center, &(-CENTRE_MAX..=CENTRE_MAX))
}

/// All numbers of a key that has what its configuration says.
pub(super) fn check(body: &Body) -> Result<(), KeyError> {
    for table in &body.rope {
        within(|| "a cosine or sine".into(), table, &(-ANGLE_MAX..=ANGLE_MAX))?;
    }
    let activation = || "a value of the activation".into();
    within(activation, &body.activation, &(-ACTIVATION_MAX..=ACTIVATION_MAX))?;
    let first = i64::from(EXP2_FIRST);
    within(|| "the first power of 2".into(), &body.exp2[..body.exp2.len().min(1)], &(first..=first))?;
    if let Some(pair) = body.exp2.windows(2).find(|pair| pair[1] > pair[0]) {
        return Err(KeyError::Bounds { what: "a power of 2".into(), got: pair[1].into() });
    }
    for (number, key) in body.layers.iter().enumerate() {
        layer(number, key, &body.config)?;
    }
    matrix("head", &body.head, 6..=16)
}
