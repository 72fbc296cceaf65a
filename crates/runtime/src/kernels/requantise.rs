//! From accumulators to outputs (docs/spec/arithmetic.md, section 4, steps 2 and 3):
//!
//! ```text
//! t = rsh(acc, s1)                                   |t| <= 2^22
//! v = t * (m_i * k)                                  |v| <= LIMIT, since m_i <= 31 and k <= 7
//! y = scale(v, s_i + 2 - s1 - f - F) + b_i           range: LIMIT before and after the bias
//! ```
//!
//! One multiplication and one rounding shift a value. [`requantise`] is the specification; [`block`]
//! does many rows and tokens without branches, and only says *whether* something left its range.

use super::columns::Claim;
use super::kernel::multiversion;
use crate::arith::{LIMIT, RangeError, SHIFT_MAX, Step, scale};
use core::ops::Range;
use lockstep_base::weights::Linear;

/// Bound of the accumulator after its static shift. The importer chooses s1 so that it holds.
const PRE_SHIFTED_MAX: u32 = 1 << 22;
/// Accumulators stay below 2^30, so larger static shifts give the same.
const PRE_SHIFT_MAX: u8 = 30;

/// The output of row `row` for a token with codes of step `step` and the accumulator `acc`: the
/// specification.
///
/// # Errors
/// [`RangeError`] for the first bound that does not hold.
pub fn requantise(acc: i32, weights: &Linear, row: usize, step: Step) -> Result<i32, RangeError> {
    let t = pre_shifted(acc, pre_shift(weights));
    if t.unsigned_abs() > PRE_SHIFTED_MAX {
        let (got, limit) = (i64::from(t).abs(), PRE_SHIFTED_MAX.into());
        return Err(RangeError { what: "accumulator of a linear layer", got, limit });
    }
    let v = t.wrapping_mul(i32::from(weights.multipliers[row]) * i32::from(step.k));
    let y = scale(v, i32::from(weights.shifts[row]) + shift_offset(weights, step), "linear layer")?;
    let sum = i64::from(y) + i64::from(weights.bias.get(row).copied().unwrap_or(0));
    if sum.abs() > LIMIT.into() {
        return Err(RangeError { what: "linear layer with bias", got: sum.abs(), limit: LIMIT.into() });
    }
    Ok(sum as i32)
}

fn pre_shift(weights: &Linear) -> u32 {
    weights.pre_shift.min(PRE_SHIFT_MAX).into()
}

/// `2 - s1 - f - F`: what all rows add to their own shift.
fn shift_offset(weights: &Linear, step: Step) -> i32 {
    2 - i32::from(weights.pre_shift) - i32::from(step.f) - i32::from(weights.out_frac)
}

/// `rsh` of an accumulator; halving last keeps the sum inside i32 for every shift.
#[inline(always)]
fn pre_shifted(acc: i32, s: u32) -> i32 {
    if s == 0 { acc } else { (acc >> (s - 1)).wrapping_add(1) >> 1 }
}

/// Rows that are done together: their scales stay in registers for all tokens.
const LANES: usize = 16;

multiversion! {
    /// The outputs of `rows` for every token: [`requantise`] for each, without branches. `acc` is
    /// `(tokens, rows.len())`. False if a value left its range; then `out` holds nothing of use.
    #[must_use]
    pub(super) fn block(acc: &[i32], weights: &Linear, rows: Range<usize>, steps: &[Step], out: &mut Claim<'_>) -> bool = block_body
}

#[inline(always)]
fn block_body(
    acc: &[i32],
    weights: &Linear,
    rows: Range<usize>,
    steps: &[Step],
    out: &mut Claim<'_>,
) -> bool {
    let count = rows.len();
    let mut bad = [0; LANES];
    for first in (0..count).step_by(LANES) {
        let lanes = LANES.min(count - first);
        let scales = Scales::new(weights, rows.start + first..rows.start + first + lanes);
        for (token, (acc, step)) in acc.chunks_exact(count).zip(steps).enumerate() {
            let (k, offset) = (i32::from(step.k), shift_offset(weights, *step));
            let (acc, out) = (&acc[first..first + lanes], out.of_token(token, first, lanes));
            if let (Some(acc), Some(out)) = (acc.first_chunk(), out.first_chunk_mut()) {
                scales.apply(acc, k, offset, out, &mut bad);
            } else {
                let mut y = [0; LANES];
                scales.apply(&filled(acc), k, offset, &mut y, &mut bad);
                out.copy_from_slice(&y[..lanes]);
            }
        }
    }
    bad == [0; LANES]
}

/// The scales of up to 16 rows; the rows that are missing have zeros and give 0.
struct Scales {
    pre_shift: u32,
    multipliers: [u8; LANES],
    shifts: [u8; LANES],
    bias: [i32; LANES],
}

impl Scales {
    #[inline(always)]
    fn new(weights: &Linear, rows: Range<usize>) -> Scales {
        let multipliers = filled(&weights.multipliers[rows.clone()]);
        let shifts = filled(&weights.shifts[rows.clone()]);
        let bias = if weights.bias.is_empty() { [0; LANES] } else { filled(&weights.bias[rows]) };
        Scales { pre_shift: pre_shift(weights), multipliers, shifts, bias }
    }

    /// The outputs of one token; `bad` becomes non-zero where a value left its range.
    #[inline(always)]
    fn apply(&self, acc: &[i32; LANES], k: i32, offset: i32, y: &mut [i32; LANES], bad: &mut [u32; LANES]) {
        for i in 0..LANES {
            let t = pre_shifted(acc[i], self.pre_shift);
            let v = t.wrapping_mul(i32::from(self.multipliers[i]).wrapping_mul(k));
            let s = i32::from(self.shifts[i]).wrapping_add(offset);
            // One of the two shifts is 0. A right shift by 31 of |v| < 2^30 rounds to 0.
            let left = s.wrapping_neg().clamp(0, 31) as u32;
            let right = if s > SHIFT_MAX { 31 } else { s.max(0) as u32 };
            let half = ((1u32 << right) >> 1) as i32;
            let scaled = (v << left).wrapping_add(half) >> right;
            let sum = scaled.wrapping_add(self.bias[i]);
            // A sum that wrapped is out of range too: it is at most LIMIT + 2^31, and 2^32 less
            // than that is below -LIMIT.
            bad[i] |= u32::from(t.unsigned_abs() > PRE_SHIFTED_MAX)
                | u32::from(v.unsigned_abs() > LIMIT as u32 >> left)
                | u32::from(sum.unsigned_abs() > LIMIT as u32);
            y[i] = sum;
        }
    }
}

/// `values`, filled up with zeros.
#[inline(always)]
fn filled<T: Copy + Default>(values: &[T]) -> [T; LANES] {
    match values.first_chunk() {
        Some(full) => *full,
        None => {
            let mut lanes = [T::default(); LANES];
            lanes[..values.len()].copy_from_slice(values);
            lanes
        }
    }
}
