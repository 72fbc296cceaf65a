//! From accumulators to outputs (docs/spec/arithmetic.md, section 4, steps 2 and 3):
//!
//! ```text
//! t = rsh(acc, s1)                                   -2^19 <= t < 2^19
//! v = t * (m_i * k)                                  |v| < 2^29, since m_i <= 31 and k <= 31
//! y = scale(v, s_i + 4 - s1 - f - F) + b_i           range: LIMIT before and after the bias
//! ```
//!
//! One multiplication and one rounding shift a value. [`requantise`] is the specification; [`block`]
//! does many rows and tokens without branches, and only says *whether* something left its range.

use super::accumulate::{BLOCK_ROWS, Order};
use super::columns::Claim;
use super::kernel::multiversion;
use crate::arith::{LIMIT, RangeError, SHIFT_MAX, Step, halves, scale};
use core::ops::Range;
use lockstep_base::limits::PRE_SHIFTED_BITS;
use lockstep_base::weights::Linear;

/// Bound of the accumulator after its static shift, which is at least its negative. The importer chooses s1 so that it holds.
const PRE_SHIFTED_LIMIT: i32 = 1 << PRE_SHIFTED_BITS;
/// Accumulators stay below 2^30, so larger static shifts give the same.
const PRE_SHIFT_MAX: u8 = 30;

/// The output of row `row` for a token with codes of step `step` and the accumulator `acc`: the
/// specification.
///
/// # Errors
/// [`RangeError`] for the first bound that does not hold.
pub fn requantise(acc: i32, weights: &Linear, row: usize, step: Step) -> Result<i32, RangeError> {
    let t = pre_shifted(acc, pre_shift(weights));
    halves(t.into(), PRE_SHIFTED_LIMIT, "accumulator of a linear layer")?;
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

/// `4 - s1 - f - F`: what all rows add to their own shift.
fn shift_offset(weights: &Linear, step: Step) -> i32 {
    4 - i32::from(weights.pre_shift) - i32::from(step.f) - i32::from(weights.out_frac)
}

/// `rsh` of an accumulator; halving last keeps the sum inside i32 for every shift.
#[inline(always)]
fn pre_shifted(acc: i32, s: u32) -> i32 {
    if s == 0 { acc } else { (acc >> (s - 1)).wrapping_add(1) >> 1 }
}

/// Rows that are done together, in the order of the kernel's registers.
const LANES: usize = 16;
/// Such groups in the largest block.
const GROUPS: usize = BLOCK_ROWS / LANES;

/// The accumulators of some rows and tokens: `(tokens, width)`, width a multiple of 16.
#[derive(Clone, Copy)]
pub(super) struct Sums<'a> {
    pub(super) acc: &'a [i32],
    pub(super) width: usize,
    pub(super) order: Order,
}

multiversion! {
    /// The outputs of `rows`, the rows of a block, for `tokens`: [`requantise`] for each, without
    /// branches. False if a value left its range; then `out` holds nothing of use.
    #[must_use]
    pub(super) fn block(sums: Sums<'_>, weights: &Linear, rows: Range<usize>, tokens: Range<usize>, steps: &[Step], out: &mut Claim<'_>) -> bool = block_body
}

#[inline(always)]
fn block_body(
    sums: Sums<'_>,
    weights: &Linear,
    rows: Range<usize>,
    tokens: Range<usize>,
    steps: &[Step],
    out: &mut Claim<'_>,
) -> bool {
    let count = rows.len();
    let mut scales = [Scales::EMPTY; GROUPS];
    for (scales, first) in scales.iter_mut().zip(rows.clone().step_by(LANES)) {
        *scales = Scales::new(weights, first..rows.end.min(first + LANES));
    }
    let smallest_shift = weights.shifts[rows].iter().copied().min().map_or(0, i32::from);
    let mut bad = Bad::default();
    for (index, acc) in tokens.zip(sums.acc.chunks_exact(sums.width)) {
        let (k, offset) = (i32::from(steps[index].k), shift_offset(weights, steps[index]));
        let token = Token { pre_shift: pre_shift(weights), k, offset, order: sums.order };
        let out = out.of_token(index, 0, count);
        if smallest_shift.wrapping_add(offset) < 0 {
            token.outputs::<true>(acc.as_chunks().0, &scales, out, &mut bad);
        } else {
            token.outputs::<false>(acc.as_chunks().0, &scales, out, &mut bad);
        }
    }
    bad.none()
}

/// Largest t, or what one below zero is below -1, largest magnitude of y, and marks of values that a left shift would make too large.
#[derive(Clone, Copy, Default)]
struct Bad {
    t: [u32; LANES],
    y: [u32; LANES],
    shifted: [u32; LANES],
}

impl Bad {
    #[inline(always)]
    fn none(&self) -> bool {
        let largest = |lanes: &[u32; LANES]| lanes.iter().fold(0, |max, lane| *lane.max(&max));
        largest(&self.t) < PRE_SHIFTED_LIMIT as u32
            && largest(&self.y) <= LIMIT as u32
            && largest(&self.shifted) == 0
    }
}

/// What all rows of a token share.
struct Token {
    pre_shift: u32,
    k: i32,
    offset: i32,
    order: Order,
}

impl Token {
    /// The outputs of all rows of a block. Only with `LEFT` may there be shifts to the left.
    #[inline(always)]
    fn outputs<const LEFT: bool>(
        &self,
        acc: &[[i32; LANES]],
        scales: &[Scales; GROUPS],
        out: &mut [i32],
        bad: &mut Bad,
    ) {
        // A copy stays in registers.
        let mut marks = *bad;
        let (full, rest) = out.as_chunks_mut();
        for ((out, acc), scales) in full.iter_mut().zip(acc).zip(scales) {
            *out = self.apply::<LEFT>(&self.by_row(acc), scales, &mut marks);
        }
        if !rest.is_empty() {
            let mut acc = self.by_row(&acc[full.len()]);
            acc[rest.len()..].fill(0);
            let y = self.apply::<LEFT>(&acc, &scales[full.len()], &mut marks);
            rest.copy_from_slice(&y[..rest.len()]);
        }
        *bad = marks;
    }

    /// The accumulators row by row: [`Order::Lanes`] is a transposition of 4 x 4.
    #[inline(always)]
    fn by_row(&self, acc: &[i32; LANES]) -> [i32; LANES] {
        if self.order == Order::Rows {
            return *acc;
        }
        let mut rows = [0; LANES];
        for i in 0..LANES {
            rows[i] = acc[i % 4 * 4 + i / 4];
        }
        rows
    }

    /// The outputs of up to 16 rows.
    #[inline(always)]
    fn apply<const LEFT: bool>(&self, acc: &[i32; LANES], scales: &Scales, bad: &mut Bad) -> [i32; LANES] {
        let mut y = [0; LANES];
        for i in 0..LANES {
            let t = pre_shifted(acc[i], self.pre_shift);
            bad.t[i] = bad.t[i].max((t ^ (t >> 31)) as u32);
            let v = t.wrapping_mul(scales.multipliers[i].wrapping_mul(self.k));
            let s = scales.shifts[i].wrapping_add(self.offset);
            // A right shift by 31 of |v| < 2^30 rounds to 0.
            let right = if s > SHIFT_MAX { 31 } else { s.max(0) as u32 };
            let half = ((1u32 << right) >> 1) as i32;
            let v = if LEFT {
                // One of the two shifts is 0.
                let left = s.wrapping_neg().clamp(0, 31) as u32;
                bad.shifted[i] |= u32::from(v.unsigned_abs() > LIMIT as u32 >> left);
                v << left
            } else {
                v
            };
            let sum = (v.wrapping_add(half) >> right).wrapping_add(scales.bias[i]);
            // A sum that wrapped is out of range too: it is at most LIMIT + 2^31, and 2^32 less
            // than that is below -LIMIT.
            bad.y[i] = bad.y[i].max(sum.unsigned_abs());
            y[i] = sum;
        }
        y
    }
}

/// The scales of up to 16 rows; the rows that are missing have zeros and give 0.
#[derive(Clone, Copy)]
struct Scales {
    multipliers: [i32; LANES],
    shifts: [i32; LANES],
    bias: [i32; LANES],
}

impl Scales {
    const EMPTY: Scales = Scales { multipliers: [0; LANES], shifts: [0; LANES], bias: [0; LANES] };

    #[inline(always)]
    fn new(weights: &Linear, rows: Range<usize>) -> Scales {
        let multipliers = filled(&weights.multipliers[rows.clone()]).map(i32::from);
        let shifts = filled(&weights.shifts[rows.clone()]).map(i32::from);
        let bias = if weights.bias.is_empty() { [0; LANES] } else { filled(&weights.bias[rows]) };
        Scales { multipliers, shifts, bias }
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
