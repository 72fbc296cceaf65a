//! Interval arithmetic over the integers that really occur: no float, no calibration, and the same answer for
//! whoever makes a network and whoever loads it (docs/spec/nets.md, section 4).
//!
//! # What a code may mean
//! With M the largest magnitude of the vector, the largest code is at least 119 (the finest of sixteen step mantissas
//! is taken), so half a step is at most M/238; reciprocals are exact to 2^-14, and so is the cut to 16 bits. Hence what
//! a code means differs from x by less than M/128, and a step is less than M/64.

use super::VALUE_MAX;
use crate::limits::PRE_SHIFTED_BITS;
use crate::weights::{Linear, TILE_COLS};

/// Bound of the accumulator after its static shift (docs/spec/arithmetic.md, 4).
const PRE_SHIFTED_MAX: i128 = (1 << PRE_SHIFTED_BITS) - 1;
/// 127 * 2^23: the largest magnitude of a value that a proof sees.
pub(super) const LIMIT: i128 = 127 << 23;
/// Shifts to the left beyond this leave every bound: products here have less than 60 bits.
const LEFT_MAX: i32 = 64;

/// All values lie in `low..=high`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) low: i64,
    pub(super) high: i64,
}

/// Which bound does not hold, with the magnitude that cannot be excluded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unbounded {
    pub(super) what: &'static str,
    pub(super) got: i128,
    pub(super) limit: i128,
}

impl Interval {
    /// With 0.
    pub(super) fn with_zero(self) -> Interval {
        Interval { low: self.low.min(0), high: self.high.max(0) }
    }

    /// After ReLU.
    pub(super) fn relu(self) -> Interval {
        Interval { low: self.low.max(0), high: self.high.max(0) }
    }

    /// After `scale(x, from - to)`, which is monotone.
    pub(super) fn rescaled(self, from: i8, to: i8) -> Interval {
        let shift = i32::from(from) - i32::from(to);
        let one = |x: i64| match shift {
            // Saturates far beyond every bound.
            ..=0 => x.saturating_mul(1 << -shift),
            1..=28 => (x + (1 << (shift - 1))) >> shift,
            _ => 0,
        };
        Interval { low: one(self.low), high: one(self.high) }
    }

    /// Of a sum.
    pub(super) fn plus(self, other: Interval) -> Interval {
        Interval { low: self.low + other.low, high: self.high + other.high }
    }

    /// Within the bound of fixed-point values.
    pub(super) fn checked(self, what: &'static str) -> Result<Interval, Unbounded> {
        let got = i128::from(self.low.unsigned_abs().max(self.high.unsigned_abs()));
        let limit = i128::from(VALUE_MAX);
        if got > limit { Err(Unbounded { what, got, limit }) } else { Ok(self) }
    }

    fn hull(self, other: Interval) -> Interval {
        Interval { low: self.low.min(other.low), high: self.high.max(other.high) }
    }
}

/// What the codes of values in an interval may mean, in the units of those values.
struct Meaning {
    low: i128,
    high: i128,
    step: i128,
}

impl From<Interval> for Meaning {
    fn from(values: Interval) -> Meaning {
        let (low, high) = (i128::from(values.low), i128::from(values.high));
        let most = high.max(-low).max(0);
        let slack = most / 128 + 1;
        Meaning {
            low: if low < 0 { low - slack } else { 0 },
            high: if high > 0 { high + slack } else { 0 },
            step: most / 64 + 1,
        }
    }
}

/// Bounds of the outputs of a linear layer over codes of `values` with `frac` fractional bits. The weights lie in
/// [-127, 127] and their scales in the ranges of the specification.
pub(super) fn linear(weights: &Linear, values: Interval, frac: i8) -> Result<Interval, Unbounded> {
    let meaning = Meaning::from(values);
    let mut all = Interval { low: i64::MAX, high: i64::MIN };
    for row in 0..weights.rows {
        all = all.hull(of_row(weights, row, &meaning, frac)?);
    }
    Ok(all)
}

fn of_row(weights: &Linear, row: usize, x: &Meaning, frac: i8) -> Result<Interval, Unbounded> {
    let (positive, negative) = sums(weights, row);
    let s1 = u32::from(weights.pre_shift);
    let half = if s1 == 0 { 0 } else { 1i128 << (s1 - 1) };
    let t = (127 * (positive + negative) + half) >> s1;
    if t > PRE_SHIFTED_MAX {
        return Err(Unbounded { what: "accumulator after its static shift", got: t, limit: PRE_SHIFTED_MAX });
    }
    let rounding = half * x.step;
    let high = positive * x.high - negative * x.low + rounding;
    let low = positive * x.low - negative * x.high - rounding;
    let multiplier = i128::from(weights.multipliers[row]);
    let shift = i32::from(weights.out_frac) - i32::from(weights.shifts[row]) - i32::from(frac);
    let scaled = |sum: i128| -> Result<i128, Unbounded> {
        let limit = i128::from(VALUE_MAX);
        let y = match shift {
            // FRACS and the row shifts end at -108.
            ..0 => ((sum * multiplier) >> shift.unsigned_abs().min(127)) + 1,
            0..=LEFT_MAX => (sum * multiplier) << shift,
            _ => LIMIT + 1,
        };
        // One unit for the rounding of the shift.
        if y + 1 > LIMIT {
            Err(Unbounded { what: "output before its bias", got: y, limit })
        } else {
            Ok(y + 1)
        }
    };
    let bias = weights.bias.get(row).map_or(0, |b| i128::from(*b));
    // Both sides have 0 between them, so the bound below is that of the negated sum.
    let (low, high) = (bias - scaled(-low)?, bias + scaled(high)?);
    let most = high.max(-low);
    if most > i128::from(VALUE_MAX) {
        return Err(Unbounded { what: "output", got: most, limit: i128::from(VALUE_MAX) });
    }
    Ok(Interval { low: low as i64, high: high as i64 })
}

/// Sums of the positive weights of a row and of the magnitudes of the negative ones.
fn sums(weights: &Linear, row: usize) -> (i128, i128) {
    let (mut positive, mut negative) = (0i64, 0i64);
    for col in (0..weights.cols).step_by(TILE_COLS) {
        let at = weights.code_offset(row, col);
        for code in &weights.codes[at..at + TILE_COLS] {
            let code = i64::from(*code as i8);
            positive += code.max(0);
            negative -= code.min(0);
        }
    }
    (positive.into(), negative.into())
}
