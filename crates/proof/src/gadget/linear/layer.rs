//! Matrices of weights as a circuit uses them, and what their integers are bounded by.

use super::by_group::Left;
use crate::circuit::Placed;
use crate::error::PlanError;
use crate::integer::{bit_length, rsh};
use crate::matmul::Matrix;
use alloc::string::String;
use alloc::vec::Vec;
use lockstep_base::weights::WeightFormat;
use p3_field::PrimeField32;

/// Largest magnitude of a product of accumulator, row multiplier and step mantissa.
pub const PRODUCT_MAX: i64 = (1 << 30) - (1 << 24) - (1 << 27) - 1;
/// Largest row multiplier, and largest step mantissa.
const MANTISSA_MAX: i64 = 31;
/// Largest row multiplier times the largest step mantissa.
const FACTOR_MAX: i64 = MANTISSA_MAX * MANTISSA_MAX;
/// Largest sum of magnitudes in the identity of the static shift.
const WRAP_MAX: i64 = (1 << 31) - (1 << 24);
/// Largest magnitude of a shifted accumulator: a **range** of the specification.
const SHIFTED_MAX: i64 = 1 << 19;
/// Largest magnitude of a bias: with it an output stays below p - 2^29, so it differs from every value of the stream.
const BIAS_MAX: i64 = 1 << 28;
/// Largest magnitude of a code.
const CODE_MAX: i64 = 127;
/// Largest magnitude of a low part, of which 2^7 are one weight.
const LOW_MAX: i64 = 64;
/// Bits of what is cut off from products with low parts.
pub(super) const LOW_BITS: u32 = 7;
/// Most bits of what is left of them, with a sign.
pub(super) const LOW_SUM_BITS: u32 = 24;
/// Largest magnitude of a weight.
const WEIGHT_MAX: i64 = 127;
/// Shifts above this give 0.
pub(super) const SHIFT_MAX: i64 = 28;
/// Shifts of all rows and vectors, at most `most`: `least` of them is that of `key`.
#[derive(Clone, Copy)]
pub(super) struct Shifts {
    pub(super) least: i64,
    pub(super) most: i64,
    /// Bits of the lower limb of a remainder, 0 where there is one limb.
    pub(super) low: u32,
    /// The largest |y'| that does not wrap.
    pub(super) allowed: i64,
}

/// Some of the rows or columns of a matrix, in order: part of an axis whose length is no power of two (768 is 512 and 256).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The first of them.
    pub first: usize,
    /// Where each lies.
    pub places: Vec<u32>,
    /// log2 of the places.
    pub log: usize,
}

/// A matrix of weights, or some of its rows, that is used by a circuit, with what its integers are bounded by.
#[derive(Clone, Debug)]
pub struct Layer<'m> {
    pub(super) matrix: Matrix<'m>,
    /// A block for each part of the columns.
    pub(super) placed: Vec<Placed>,
    /// The same of the low parts of weights of 16 bits.
    pub(super) low: Vec<Placed>,
    /// log2 of the rows.
    pub(super) log_rows: usize,
    /// The first row of the matrix, and where each lies.
    pub(super) first_row: usize,
    pub(super) rows: Vec<u32>,
    pub(super) pre_shift: u32,
    /// Largest accumulator.
    pub(super) accumulator_max: i64,
    /// Largest |t|, and its bits.
    pub(super) shifted_max: i64,
    pub(super) shifted_bits: u32,
    /// The distinct values of `s_i + 4 - s1 - F`.
    pub(super) shifts: Vec<i64>,
    /// Which of them each row has.
    pub(super) group: Vec<usize>,
    pub(super) left: Left,
}

impl<'m> Layer<'m> {
    /// The same, whose outputs are known to stay within LIMIT when they are shifted to the left.
    #[must_use]
    pub fn bounded(self) -> Layer<'m> {
        Layer { left: Left::Bounded, ..self }
    }

    /// The layer of those rows of `matrix` that are in `rows`; `cols` are the parts in which it reads codes.
    ///
    /// # Errors
    /// If an identity could wrap.
    pub fn new(name: &str, matrix: Matrix<'m>, rows: &Part, cols: &[Part]) -> Result<Layer<'m>, PlanError> {
        let linear = matrix.weights;
        let at_most = |what, got: i64, limit: i64| {
            let place = || String::from(name);
            if got > limit { Err(PlanError::CouldWrap { place: place(), what, got, limit }) } else { Ok(()) }
        };
        // Of the shape alone: a verifier may lack the weights.
        let wide = linear.format == WeightFormat::Int16;
        let low = if wide { ((CODE_MAX * LOW_MAX * linear.cols as i64) >> LOW_BITS) + 1 } else { 0 };
        let accumulator = CODE_MAX * WEIGHT_MAX * linear.cols as i64 + low;
        at_most("an accumulator", accumulator, 127 << 23)?;
        let s1 = u32::from(linear.pre_shift);
        at_most("a static shift", s1.into(), 30)?;
        // What is larger is a range error.
        let shifted = rsh(accumulator, s1).min(SHIFTED_MAX - 1);
        at_most("a product", shifted * FACTOR_MAX, PRODUCT_MAX)?;
        let shifted_bits = bit_length(shifted);
        let both = (1i64 << (shifted_bits + s1)) + (2 << s1) + accumulator;
        at_most("a shifted accumulator", both, WRAP_MAX)?;
        let bias = linear.bias.iter().map(|bias| i64::from(*bias).abs()).max().unwrap_or(0);
        at_most("a bias", bias, BIAS_MAX)?;
        let offset = 4 - i64::from(linear.pre_shift) - i64::from(linear.out_frac);
        let (mut shifts, mut group) = (Vec::new(), Vec::with_capacity(rows.places.len()));
        let here = linear.shifts.iter().skip(rows.first).take(rows.places.len());
        for shift in here.map(|s| i64::from(*s) + offset) {
            let known = shifts.iter().position(|known| *known == shift);
            group.push(known.unwrap_or_else(|| {
                shifts.push(shift);
                shifts.len() - 1
            }));
        }
        let block = |cols: &Part, low: bool| Placed {
            matrix: 0,
            low,
            log_rows: rows.log,
            log_cols: cols.log,
            first_row: rows.first,
            first_col: cols.first,
            rows: rows.places.clone(),
            cols: cols.places.clone(),
        };
        Ok(Layer {
            matrix,
            placed: cols.iter().map(|cols| block(cols, false)).collect(),
            low: cols.iter().filter(|_| wide).map(|cols| block(cols, true)).collect(),
            log_rows: rows.log,
            first_row: rows.first,
            rows: rows.places.clone(),
            pre_shift: s1,
            accumulator_max: accumulator,
            shifted_max: shifted,
            shifted_bits,
            shifts,
            group,
            left: Left::None,
        })
    }
}

impl<'m> Layer<'m> {
    /// log2 of the rows.
    #[must_use]
    pub fn log_rows(&self) -> usize {
        self.log_rows
    }

    /// Largest magnitude of a bias.
    pub(super) fn bias_max(&self) -> i64 {
        self.matrix.weights.bias.iter().map(|bias| i64::from(*bias).abs()).max().unwrap_or(0)
    }

    /// Row multipliers.
    pub(super) fn multipliers(&self) -> &'m [u8] {
        &self.matrix.weights.multipliers[self.first_row..self.first_row + self.rows.len()]
    }

    /// Least and largest distinct shift.
    pub(super) fn spread(&self) -> (i64, i64) {
        let of = |pick: fn(i64, i64) -> i64| self.shifts.iter().copied().reduce(pick).unwrap_or(0);
        (of(i64::min), of(i64::max))
    }

    /// Shifts of which that of the least row is at most `key`; none if they need more than one power for each vector.
    pub(super) fn shifts_to<B: PrimeField32>(&self, key: i64, limb_bits: u32, t_max: i64) -> Option<Shifts> {
        let (first, last) = self.spread();
        let most = key + last - first;
        if key < 1 || most > SHIFT_MAX.min(2 * i64::from(limb_bits)) {
            return None;
        }
        let low = (most - i64::from(limb_bits)).max(0);
        let multiplier = self.matrix.weights.multipliers.iter().copied().max().unwrap_or(0);
        let product = t_max * MANTISSA_MAX * i64::from(multiplier);
        let allowed = (i64::from(B::ORDER_U32) - 1 - product - (1 << most)) >> most;
        let least = low.max(1);
        (least <= key && allowed > 0).then_some(Shifts { least, most, low: low as u32, allowed })
    }
}
