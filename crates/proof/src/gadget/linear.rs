//! Linear layers (docs/spec/arithmetic.md, section 4).
//!
//! ```text
//! acc = W x                          a contraction, not committed
//! t 2^s1 + r = acc + 2^(s1-1)        t in -2^b .. 2^b, r in 0 .. 2^s1
//! P y' + r' = Q k m t + H            (P, Q, H) = (2^s, 1, 2^(s-1)) for s = s_i + 4 - s1 - f - F in 0..=28; (1, 0, 0) above
//!                                    y' in -2^(30-s) .. 2^(30-s), r' in 0 .. 2^s
//! y = y' + bias
//! ```
//!
//! s depends on the vector (f) and on the row (s_i), so what depends on it is fetched once for each vector and each distinct s_i of the
//! matrix, and read by its rows. A shift to the left (s < 0: P = 1, Q = 2^-s, H = 0) needs to know that the product stays within LIMIT, as small
//! networks prove of themselves ([`Layer::bounded`]); what is added to the residual stream is shifted there ([`Builder::add_linear`]).
//! For other matrices it has no argument, and the prover says so.
//!
//! No identity wraps: A = 127 max L1 bounds acc, so `t 2^s1` is below 2^(b + s1) and A is at most 2^30 ([`Layer::new`] checks
//! the sum); `|t| m k <= T 31^2` is at most [`PRODUCT_MAX`], and `P y'` below 2^30.

use super::ranges::{Width, widths};
use super::tables::TableId;
use super::{Builder, whole};
use crate::circuit::{Bit, Contraction, Linear, Placed, Source, View};
use crate::error::PlanError;
use crate::field::{power_of_two, residue};
use crate::integer::{bit_length, half, rsh};
use crate::matmul::Matrix;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use lockstep_base::weights::WeightFormat;
use p3_field::PrimeField32;

/// Largest magnitude of a product of accumulator, row multiplier and step mantissa.
pub const PRODUCT_MAX: i64 = (1 << 30) - (1 << 24) - (1 << 27) - 1;
/// Largest row multiplier times the largest step mantissa.
const FACTOR_MAX: i64 = 31 * 31;
/// Largest sum of magnitudes in the identity of the static shift.
const WRAP_MAX: i64 = (1 << 31) - (1 << 24);
/// Largest magnitude of a shifted accumulator: a **range** of the specification.
const SHIFTED_MAX: i64 = 1 << 19;
/// Largest magnitude of a bias: with it an output stays below p - 2^29, so it differs from every value of the stream.
const BIAS_MAX: i64 = 1 << 28;
/// Largest magnitude of a code.
const CODE_MAX: i64 = 127;
/// Largest magnitude of a weight.
const WEIGHT_MAX: i64 = 127;
/// Shifts above this give 0.
const SHIFT_MAX: i64 = 28;
/// Shifts to the left that the table has.
const LEFT_MAX: i64 = 30;
/// Shifts to the left of what is added to the stream.
const ADDED_MAX: i64 = 20;
/// Shifts to the right that it has.
const SHIFTS: i64 = 226;
/// Bits of an output without its bias, with an offset.
const OUTPUT_BITS: u32 = 31;

/// Codes of vectors, `(vectors, channels)`, both filled to powers of two, and their steps `k/16 2^f`.
#[derive(Clone, Debug)]
pub struct Codes<B> {
    /// The codes.
    pub source: Source,
    /// log2 of the vectors.
    pub log_vectors: usize,
    /// log2 of the channels.
    pub log_channels: usize,
    /// log2 of the steps: vectors whose first coordinates are the same have the same step.
    pub log_steps: usize,
    /// Mantissas, over the steps.
    pub k: Linear<B>,
    /// Exponents, over the steps.
    pub f: Linear<B>,
}

/// What is known of outputs that are shifted to the left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Left {
    /// Nothing: there is no argument for them.
    None,
    /// That they stay within LIMIT.
    Bounded,
    /// Nothing, but they are shifted where they are added to the stream, whose range bounds them.
    Added,
}

/// What a matrix gives, before anything is added.
struct Outputs<B> {
    /// y' 2^-left.
    unbiased: Linear<B>,
    /// 2^left, with [`Left::Added`].
    scale: Option<Linear<B>>,
    /// The bias, where there is one.
    bias: Option<Linear<B>>,
}

/// A matrix of weights that is used by a circuit, with what its integers are bounded by.
#[derive(Clone, Debug)]
pub struct Layer<'m> {
    matrix: Matrix<'m>,
    placed: Placed,
    pre_shift: u32,
    /// Bits of |t|.
    shifted_bits: u32,
    /// The distinct values of `s_i + 4 - s1 - F`.
    shifts: Vec<i64>,
    /// Which of them each row has.
    group: Vec<usize>,
    left: Left,
}

impl<'m> Layer<'m> {
    /// The same, whose outputs are known to stay within LIMIT when they are shifted to the left.
    #[must_use]
    pub fn bounded(self) -> Layer<'m> {
        Layer { left: Left::Bounded, ..self }
    }

    /// The layer of `matrix`, its row i at `rows[i]` of `2^log_rows`, its column j at `cols[j]` of `2^log_cols`.
    ///
    /// # Errors
    /// If an identity could wrap.
    pub fn new(
        name: &str,
        matrix: Matrix<'m>,
        (rows, log_rows): (Vec<u32>, usize),
        (cols, log_cols): (Vec<u32>, usize),
    ) -> Result<Layer<'m>, PlanError> {
        let linear = matrix.weights;
        let at_most = |what, got: i64, limit: i64| {
            let place = || String::from(name);
            if got > limit { Err(PlanError::CouldWrap { place: place(), what, got, limit }) } else { Ok(()) }
        };
        if linear.format == WeightFormat::Int16 {
            return Err(PlanError::Unsupported {
                place: name.into(),
                op: "16-bit weights",
                expected: "int8 or int4",
            });
        }
        // Of the shape alone: a verifier may lack the weights.
        let accumulator = CODE_MAX * WEIGHT_MAX * linear.cols as i64;
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
        let (mut shifts, mut group) = (Vec::new(), Vec::with_capacity(linear.rows));
        for shift in linear.shifts.iter().map(|s| i64::from(*s) + offset) {
            let known = shifts.iter().position(|known| *known == shift);
            group.push(known.unwrap_or_else(|| {
                shifts.push(shift);
                shifts.len() - 1
            }));
        }
        let placed = Placed { matrix: 0, log_rows, log_cols, rows, cols };
        Ok(Layer { matrix, placed, pre_shift: s1, shifted_bits, shifts, group, left: Left::None })
    }
}

/// Every shift from `first` on, with what a shift by it needs: P, Q, H, the offset of an output, the widths of its limbs and of its remainder's.
fn shift_table(first: i64, limb_bits: u32) -> Vec<Vec<i64>> {
    let entry = |s: i64| {
        let nothing = s > SHIFT_MAX;
        let right = if nothing { 0 } else { s.max(0) as u32 };
        let bits = if nothing { 0 } else { 30 - right };
        let offset = if nothing { 0 } else { 1 << bits };
        let factor = if nothing { 0 } else { 1 << (-s).max(0) };
        let mut entry = vec![s, 1 << right, factor, half(right), offset];
        entry.extend(widths(if nothing { 0 } else { bits + 1 }, OUTPUT_BITS, limb_bits));
        entry.extend(widths(right, SHIFT_MAX as u32, limb_bits));
        entry
    };
    (first..SHIFTS).map(entry).collect()
}

/// The same, with what is left to be shifted to the left: for s < 0 that is all of it, and an output has so many bits less.
fn added_table(limb_bits: u32) -> Vec<Vec<i64>> {
    let mut entries = shift_table(-ADDED_MAX, limb_bits);
    for entry in &mut entries {
        let left = (-entry[0]).max(0) as u32;
        if left > 0 {
            let bits = OUTPUT_BITS - 1 - left;
            (entry[2], entry[4]) = (1, 1 << bits);
            for (width, limb) in entry[5..].iter_mut().zip(widths(bits + 1, OUTPUT_BITS, limb_bits)) {
                *width = limb;
            }
        }
        entry.push(1 << left);
    }
    entries
}

impl<'m, B: PrimeField32> Builder<'m, B> {
    fn shifts(&mut self, left: Left) -> TableId {
        let limb_bits = self.circuit.limb_bits;
        match left {
            Left::None => self.table("shift", || shift_table(0, limb_bits)),
            Left::Bounded => self.table("shift to both sides", || shift_table(-LEFT_MAX, limb_bits)),
            Left::Added => self.table("shift into the stream", || added_table(limb_bits)),
        }
    }

    /// A row vector that is `of(row)` at each row's place and 0 elsewhere.
    fn by_row(&mut self, layer: &Layer<'_>, of: impl Fn(usize) -> i64) -> Source {
        let mut values = vec![B::ZERO; 1 << layer.placed.log_rows];
        for (row, place) in layer.placed.rows.iter().enumerate() {
            values[*place as usize] = residue(of(row));
        }
        self.circuit.vector(values)
    }

    /// `y = W x + b`, over `(vectors, rows)`.
    pub fn linear(&mut self, name: &str, codes: &Codes<B>, layer: &Layer<'m>) -> Linear<B> {
        self.linear_where(name, codes, layer, None)
    }

    /// `y = W x + b`, over `(vectors, rows)`; without b where `real`, a view of the vectors' coordinates, is 0 and not 1.
    pub fn linear_where(
        &mut self,
        name: &str,
        codes: &Codes<B>,
        layer: &Layer<'m>,
        real: Option<&View>,
    ) -> Linear<B> {
        let Outputs { unbiased, bias, .. } = self.outputs(name, codes, layer, layer.left);
        match (bias, real) {
            (None, _) => unbiased,
            (Some(bias), None) => unbiased.plus(&bias),
            (Some(bias), Some(real)) => unbiased.plus(&bias.by(real)),
        }
    }

    /// `x + W c + b`, settled, over `(vectors, rows)`: the stream after a sublayer, whose range is shown by what reads it. With 2^l the shift to the left, y' 2^-l
    /// is below 2^(30-l), so x + y is at most 2^28 + 2^30 + 2^28, and what is settled at most 2^28: they cannot differ by p; and y is within LIMIT.
    pub fn add_linear(
        &mut self,
        name: &str,
        codes: &Codes<B>,
        layer: &Layer<'m>,
        x: &Linear<B>,
    ) -> Linear<B> {
        let log = codes.log_vectors + layer.placed.log_rows;
        let Outputs { unbiased, scale, bias } = self.outputs(name, codes, layer, Left::Added);
        let rest = match bias {
            Some(bias) => x.clone().plus(&bias),
            None => x.clone(),
        };
        let scale = scale.unwrap_or_else(|| Linear::constant(B::ONE));
        let sums = {
            let [rest, scale, y] = [&rest, &scale, &unbiased].map(|linear| self.integers(linear, log));
            (0..y.len()).map(|at| rest[at] + scale[at] * y[at]).collect()
        };
        let sum = Linear::view(whole(self.commit("stream", log, sums), log));
        self.constrain(log, vec![(B::ONE, scale, unbiased)], rest.minus(&sum));
        sum
    }

    /// What a matrix gives, over `(vectors, rows)`.
    fn outputs(&mut self, name: &str, codes: &Codes<B>, layer: &Layer<'m>, left: Left) -> Outputs<B> {
        let (vectors, steps, rows) = (codes.log_vectors, codes.log_steps, layer.placed.log_rows);
        let log = vectors + rows;
        self.matrices.push(layer.matrix);
        let placed = Placed { matrix: self.matrices.len() - 1, ..layer.placed.clone() };
        let inner = placed.log_cols;
        let bits = |range: core::ops::Range<usize>| range.map(Bit::At);
        let weights = self.circuit.placed(placed);
        let accumulator = self.contract(Contraction {
            outer: log,
            inner,
            left: View {
                source: codes.source,
                bits: bits(0..vectors).chain(bits(log..log + inner)).collect(),
            },
            right: View { source: weights, bits: bits(vectors..log + inner).collect() },
        });
        let t = self.static_shift(name, layer, Linear::view(whole(accumulator, log)), log);

        // What depends on the shift, for each of the matrix's.
        let table = self.shifts(left);
        let mut sums: Vec<Linear<B>> = Vec::new();
        let mut add = |at: usize, linear: Linear<B>| match sums.get_mut(at) {
            Some(sum) => *sum = sum.clone().plus(&linear),
            None => sums.push(linear),
        };
        for (group, shift) in layer.shifts.iter().enumerate() {
            let key = codes.f.clone().times(B::NEG_ONE).offset(residue(*shift));
            let mut fetched = self.fetch(&format!("{name} shift {group}"), table, steps, key);
            let scaled = self.integers(&codes.k, steps);
            let on = self.integers(&fetched[1], steps);
            let product = scaled.iter().zip(on).map(|(k, on)| k * on).collect();
            let product = self.commit(&format!("{name} factor {group}"), steps, product);
            let product = Linear::view(whole(product, steps));
            let products = vec![(B::ONE, codes.k.clone(), fetched[1].clone())];
            self.constrain(steps, products, product.clone().times(B::NEG_ONE));
            let here = self.by_row(layer, |row| i64::from(layer.group[row] == group));
            let multipliers = &layer.matrix.weights.multipliers;
            let factors =
                self.by_row(layer, |row| if layer.group[row] == group { multipliers[row].into() } else { 0 });
            let view = |source| View { source, bits: bits(vectors..log).collect() };
            fetched[1] = product;
            for (at, linear) in fetched.iter().enumerate() {
                add(at, linear.clone().by(&view(if at == 1 { factors } else { here })));
            }
        }
        let (power, product, half, offset) = (&sums[0], &sums[1], &sums[2], &sums[3]);
        let limbs = super::ranges::limbs(OUTPUT_BITS, self.circuit.limb_bits);
        let (output_widths, rest) = sums[4..].split_at(limbs);
        let (remainder_widths, scale) =
            rest.split_at(super::ranges::limbs(SHIFT_MAX as u32, self.circuit.limb_bits));

        let values = {
            let [t, power, product, half, offset] =
                [&t, power, product, half, offset].map(|linear| self.integers(linear, log));
            // An offset of 2^30 is above half of the field's order.
            let order = i64::from(B::ORDER_U32);
            let shifted = |at: usize| match power[at] {
                0 => 0,
                power => (product[at] * t[at] + half[at]).div_euclid(power) + offset[at].rem_euclid(order),
            };
            (0..t.len()).map(shifted).collect()
        };
        let output = self.value(&format!("{name} output"), log, Width::Computed(output_widths), values);
        let unbiased = output.minus(offset);
        let remainders = {
            let [t, power, product, half, y] =
                [&t, power, product, half, &unbiased].map(|linear| self.integers(linear, log));
            (0..t.len()).map(|at| product[at] * t[at] + half[at] - power[at] * y[at]).collect()
        };
        let name_of = format!("{name} remainder");
        let remainder = self.value(&name_of, log, Width::Computed(remainder_widths), remainders);
        self.constrain(
            log,
            vec![(B::ONE, power.clone(), unbiased.clone()), (B::NEG_ONE, product.clone(), t)],
            remainder.minus(half),
        );
        let bias = &layer.matrix.weights.bias;
        let bias = (!bias.is_empty()).then(|| {
            let bias = self.by_row(layer, |row| bias[row].into());
            Linear::view(View { source: bias, bits: bits(vectors..log).collect() })
        });
        Outputs { unbiased, scale: scale.first().cloned(), bias }
    }

    /// `t = rsh(acc, s1)`.
    fn static_shift(
        &mut self,
        name: &str,
        layer: &Layer<'_>,
        accumulator: Linear<B>,
        log: usize,
    ) -> Linear<B> {
        let (s1, bits) = (layer.pre_shift, layer.shifted_bits);
        if s1 == 0 {
            return accumulator;
        }
        self.shift_right(&format!("{name} accumulator"), log, &accumulator, s1, bits)
    }

    /// `t = rsh(x, s)` for s > 0, with t in `-2^bits .. 2^bits`. The caller knows that `2^(bits + s)` and x cannot differ by p.
    pub fn shift_right(&mut self, name: &str, log: usize, x: &Linear<B>, s: u32, bits: u32) -> Linear<B> {
        let values = self.integers(x, log).into_iter().map(|x| rsh(x, s) + (1 << bits)).collect();
        let shifted = self.value(name, log, Width::Fixed(bits + 1), values);
        let t = shifted.offset(-power_of_two::<B>(bits));
        let rest = x.clone().offset(residue(half(s))).minus(&t.clone().times(power_of_two(s)));
        self.in_range(&format!("{name} remainder"), log, s, &rest);
        t
    }
}
