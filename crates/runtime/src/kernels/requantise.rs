//! From accumulators to outputs (docs/spec/arithmetic.md, section 4, steps 2 and 3):
//!
//! ```text
//! t = rsh(acc, s1)                                   |t| <= 2^22
//! v = t * (m_i * k)                                  |v| <= LIMIT, since m_i <= 31 and k <= 7
//! y = scale(v, s_i + 2 - s1 - f - F) + b_i           range: LIMIT before and after the bias
//! ```
//!
//! One multiplication and one rounding shift a value. [`one`] is the specification; [`rows`] does
//! a slice of rows without branches, and only says *whether* something left its range.

use super::kernel::multiversion;
use crate::arith::{LIMIT, RangeError, SHIFT_MAX, Step, scale};
use lockstep_base::weights::Linear;

/// Bound of the accumulator after its static shift. The importer chooses s1 so that it holds.
const PRE_SHIFTED_MAX: u32 = 1 << 22;
/// Accumulators stay below 2^30, so larger static shifts give the same.
const PRE_SHIFT_MAX: u8 = 30;

/// The scales of some rows of a matrix, for one token.
#[derive(Debug, Clone, Copy)]
pub struct RowScales<'a> {
    multipliers: &'a [u8],
    shifts: &'a [u8],
    /// Empty, or one a row.
    bias: &'a [i32],
    pre_shift: u32,
    k: i32,
    /// `2 - s1 - f - F`: what all rows add to their own shift.
    offset: i32,
}

impl<'a> RowScales<'a> {
    /// The scales of `rows` of `weights` for a token with codes of step `step`.
    #[must_use]
    pub fn new(weights: &'a Linear, rows: core::ops::Range<usize>, step: Step) -> RowScales<'a> {
        let bias = if weights.bias.is_empty() {
            &[]
        } else {
            &weights.bias[rows.clone()]
        };
        RowScales {
            multipliers: &weights.multipliers[rows.clone()],
            shifts: &weights.shifts[rows],
            bias,
            pre_shift: weights.pre_shift.min(PRE_SHIFT_MAX).into(),
            k: step.k.into(),
            offset: 2
                - i32::from(weights.pre_shift)
                - i32::from(step.f)
                - i32::from(weights.out_frac),
        }
    }
}

/// The output of the `i`-th row of `scales` for the accumulator `acc`: the specification.
///
/// # Errors
/// [`RangeError`] for the first bound that does not hold.
pub fn one(acc: i32, scales: &RowScales<'_>, i: usize) -> Result<i32, RangeError> {
    let t = pre_shifted(acc, scales.pre_shift);
    if t.unsigned_abs() > PRE_SHIFTED_MAX {
        let (got, limit) = (i64::from(t).abs(), PRE_SHIFTED_MAX.into());
        return Err(RangeError {
            what: "accumulator of a linear layer",
            got,
            limit,
        });
    }
    let v = t.wrapping_mul(i32::from(scales.multipliers[i]) * scales.k);
    let y = scale(
        v,
        i32::from(scales.shifts[i]) + scales.offset,
        "linear layer",
    )?;
    let sum = i64::from(y) + i64::from(scales.bias.get(i).copied().unwrap_or(0));
    if sum.abs() > LIMIT.into() {
        return Err(RangeError {
            what: "linear layer with bias",
            got: sum.abs(),
            limit: LIMIT.into(),
        });
    }
    Ok(sum as i32)
}

/// `rsh` of an accumulator; halving last keeps the sum inside i32 for every shift.
#[inline(always)]
fn pre_shifted(acc: i32, s: u32) -> i32 {
    if s == 0 {
        acc
    } else {
        ((acc >> (s - 1)) + 1) >> 1
    }
}

multiversion! {
    /// The outputs of all rows of `scales`: [`one`] for each. False if a value left its range; then
    /// `out` holds nothing of use.
    #[must_use]
    pub fn rows(acc: &[i32], scales: &RowScales<'_>, out: &mut [i32]) -> bool = rows_body
}

#[inline(always)]
fn rows_body(acc: &[i32], scales: &RowScales<'_>, out: &mut [i32]) -> bool {
    let n = out.len();
    let (acc, multipliers, shifts) = (&acc[..n], &scales.multipliers[..n], &scales.shifts[..n]);
    let mut bad = 0u32;
    for i in 0..n {
        let t = pre_shifted(acc[i], scales.pre_shift);
        let v = t.wrapping_mul(i32::from(multipliers[i]) * scales.k);
        let s = i32::from(shifts[i]) + scales.offset;
        // One of the two shifts is 0. A right shift by 31 of |v| < 2^30 rounds to 0.
        let left = (-s).clamp(0, 31) as u32;
        let right = if s > SHIFT_MAX { 31 } else { s.max(0) as u32 };
        let half = ((1u32 << right) >> 1) as i32;
        out[i] = (v << left).wrapping_add(half) >> right;
        bad |= u32::from(t.unsigned_abs() > PRE_SHIFTED_MAX);
        bad |= u32::from(v.unsigned_abs() > LIMIT as u32 >> left);
    }
    if !scales.bias.is_empty() {
        for (y, b) in out.iter_mut().zip(&scales.bias[..n]) {
            let sum = y.wrapping_add(*b);
            // The sum wrapped if its sign differs from those of both terms.
            let wrapped = (sum ^ *y) & (sum ^ *b);
            bad |= u32::from(wrapped < 0) | u32::from(sum.unsigned_abs() > LIMIT as u32);
            *y = sum;
        }
    }
    bad == 0
}
