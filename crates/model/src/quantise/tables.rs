//! The tables of docs/spec/arithmetic.md, section 10, computed once, offline, in f64.
//!
//! At run time they are data under the model root; nobody ever recomputes them.

use super::int4;
use crate::source::{Act, FloatConfig, Positions, Rope};
use lockstep_base::config::{ModelConfig, SOFT_CAP_ENTRIES, SOFT_CAP_SHIFT_MAX};
use lockstep_base::weights::{Slope, Tables};
use std::f64::consts::LOG2_E;

/// Entries of the two exponential tables: 16 octaves in steps of 2^-8.
pub(super) const EXP2_ENTRIES: usize = 4096;
/// Entries of the activation table: [-16, 16) in steps of 2^-8.
pub(super) const ACTIVATION_ENTRIES: usize = 8192;
/// Units of scores: Q8 octaves.
const SCORE_UNIT: f64 = 256.0;
/// A soft-capping table goes at least this many caps far: tanh(7) = 1 - 2e-6.
const CAPS_COVERED: f64 = 7.0;
/// Bits of a slope's mantissa.
const SLOPE_BITS: i32 = 12;
/// Largest shift of a slope.
const SLOPE_SHIFT_MAX: i32 = 31;

/// All tables of a model that becomes one of `shape`; `logit_cap` in units of the logits; int4 tables only if `with_int4`.
#[must_use]
pub(super) fn tables(
    config: &FloatConfig,
    shape: &ModelConfig,
    logit_cap: Option<f64>,
    with_int4: bool,
) -> Tables {
    let context = shape.context as usize;
    let ropes = match &config.positions {
        Positions::Rope(rope) => std::iter::once(rope).chain(config.local_rope.as_ref()).collect(),
        Positions::Learned | Positions::Alibi => Vec::new(),
    };
    let capped = |cap: Option<f64>, shift: Option<u8>| match (cap, shift) {
        (Some(cap), Some(shift)) => soft_cap(cap, shift),
        _ => Vec::new(),
    };
    Tables {
        rope: ropes.into_iter().map(|table| rope(table, config.context, context)).collect(),
        alibi: config.alibi_slopes().unwrap_or_default().into_iter().map(slope).collect(),
        score_cap: capped(score_cap(config), shape.score_cap),
        logit_cap: capped(logit_cap, shape.logit_cap),
        exp2: exp2(15).map(|value| value as u16).collect(),
        exp2_sample: exp2(24).collect(),
        activation: activation_table(config.activation),
        int4: if with_int4 { int4::tables() } else { Vec::new() },
    }
}

/// The cap of scores in Q8 octaves.
pub(super) fn score_cap(config: &FloatConfig) -> Option<f64> {
    config.attn_softcap.map(|cap| cap * LOG2_E * SCORE_UNIT)
}

/// Log2 of the finest step with which a soft-capping table covers `cap`; `None` if no step does.
#[must_use]
pub(super) fn soft_cap_shift(cap: f64) -> Option<u8> {
    let steps = (SOFT_CAP_ENTRIES - 1) as f64;
    (0..=SOFT_CAP_SHIFT_MAX as u8).find(|shift| steps * f64::from(*shift).exp2() >= CAPS_COVERED * cap)
}

/// `round(cap tanh(i 2^shift / cap))`.
fn soft_cap(cap: f64, shift: u8) -> Vec<i32> {
    let step = f64::from(shift).exp2();
    (0..SOFT_CAP_ENTRIES).map(|i| (cap * (i as f64 * step / cap).tanh()).round() as i32).collect()
}

/// A slope, natural units a position, as `a 2^-b` Q8 octaves.
fn slope(slope: f64) -> Slope {
    let value = slope * LOG2_E * SCORE_UNIT;
    let mut b = (SLOPE_BITS - 1 - value.log2().floor() as i32).clamp(0, SLOPE_SHIFT_MAX);
    if (value * f64::from(b).exp2()).round() >= f64::from(SLOPE_BITS).exp2() && b > 0 {
        b -= 1;
    }
    let a = (value * f64::from(b).exp2()).round().min(f64::from(SLOPE_BITS).exp2() - 1.0);
    Slope { a: a as u16, b: b as u8 }
}

/// `round(2^bits 2^(-d/256))`, the last entry 0.
fn exp2(bits: i32) -> impl Iterator<Item = u32> {
    (0..EXP2_ENTRIES).map(move |d| {
        if d + 1 == EXP2_ENTRIES { 0 } else { (f64::from(bits) - d as f64 / 256.0).exp2().round() as u32 }
    })
}

/// `round(2^11 act((i - 4096) / 256))`.
fn activation_table(kind: Act) -> Vec<i16> {
    (0..ACTIVATION_ENTRIES)
        .map(|i| (2048.0 * kind.apply((i as f64 - 4096.0) / 256.0)).round() as i16)
        .collect()
}

/// Q14 cosine and sine of (position, pair), for `positions` of a model that was made for `context`.
fn rope(rope: &Rope, context: usize, positions: usize) -> Vec<i16> {
    let inv_freq = rope.inv_freq(context);
    let mut table = Vec::with_capacity(positions * rope.dim);
    for position in 0..positions {
        for freq in &inv_freq {
            let (sin, cos) = (position as f64 * freq).sin_cos();
            table.extend([cos, sin].map(|x| (16_384.0 * x).round() as i16));
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_runtime::arith::soft_cap as capped;

    /// Section 10: slopes are met within half a unit of 12 bits.
    #[test]
    fn slopes_have_twelve_bits() {
        for heads in [1, 6, 8, 32, 112] {
            for value in crate::source::alibi_slopes(heads) {
                let slope = slope(value);
                assert!((2048..=4095).contains(&slope.a), "{value}: {slope:?}");
                let met = f64::from(slope.a) * (-f64::from(slope.b)).exp2() / (LOG2_E * SCORE_UNIT);
                assert!((met - value).abs() <= value / 4095.0, "{value}: {met}");
            }
        }
    }

    /// Sections 6 and 8: what the table gives is `cap tanh(x / cap)` within two units, everywhere; the smallest caps
    /// and the largest have one; beyond there is none.
    #[test]
    fn soft_caps_follow_the_tangent() {
        for cap in [37.0, 50.0 * LOG2_E * 256.0, 30.0 * 65_536.0, 9.5e6] {
            let shift = soft_cap_shift(cap).unwrap();
            let table = soft_cap(cap, shift);
            let step = (cap / 1999.0).ceil() as i32;
            for x in (-9 * cap as i32..9 * cap as i32).step_by(step as usize) {
                let exact = cap * (f64::from(x) / cap).tanh();
                let error = (f64::from(capped(x, &table, shift)) - exact).abs();
                // A chord of width w lies within w^2 / 8 times the curvature, which is below 0.77 / cap.
                let chord = f64::from(2 * i32::from(shift)).exp2() * 0.1 / cap;
                assert!(error <= 2.0 + chord + 2e-6 * cap, "cap {cap}, x {x}: error {error}");
            }
        }
        assert_eq!(soft_cap_shift(1e7), None);
    }
}
