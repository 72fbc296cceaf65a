//! Linear layers (docs/spec/arithmetic.md, section 4).
//!
//! ```text
//! acc = W x                          a contraction, not committed; of weights of 16 bits, H x + floor(L x / 128)
//! t 2^s1 + r = acc + 2^(s1-1)        t in as many bits as are declared, r in 0 .. 2^s1
//! P y' + r' = k m t + P / 2          P = 2^s, s = s_i + 4 - s1 - f - F, r' in 0 .. 2^s
//! y = y' + bias
//! ```
//!
//! P is a power for each vector times one for each row, and the width of r' is linear in f and s_i, so one lookup a vector is enough: of 2^(least s), which also
//! bounds all s by a declared S. That is the common case, 1 <= s <= 28; all others are `by_group`'s. r is small, and looked up with r' in one lookup.
//!
//! Without a wrap, y' is unique where `|P y'| + P + |k m t|` is below the order of the field. So somebody has to show that |y| is small enough, and often
//! that is whoever reads y: a table of an activation, or the norm behind a stream. Only where nobody does is it shown here (`Reader`).
//!
//! No other identity wraps: A, 127^2 times the columns, bounds acc, so `t 2^s1` is below 2^(b + s1) and A is at most 2^30 ([`Layer::new`] checks the sum).

mod by_group;
mod layer;

use super::{Builder, each, whole};
use crate::circuit::{Bit, Contraction, Linear, Placed, Source, View};
use crate::field::{power_of_two, residue};
use crate::integer::{bit_length, half, rsh};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use layer::{LOW_BITS, LOW_SUM_BITS, SHIFT_MAX, Shifts};
pub use layer::{Layer, PRODUCT_MAX, Part};
use p3_field::PrimeField32;

/// Largest magnitude in the stream that has an argument.
const STREAM_MAX: i64 = 1 << 28;
/// Largest magnitude of outputs whose shifts are of any kind.
const UNBIASED_MAX: i64 = 1 << 30;
/// What a reader of the stream shows at least.
const READ_MAX: i64 = 1 << 16;

/// Codes of vectors, and their steps `k/16 2^f`. Channels are in parts, each a power of two.
#[derive(Clone, Debug)]
pub struct Codes<B> {
    /// The codes of each part, over (vectors, channels), and log2 of its channels.
    pub parts: Vec<(Source, usize)>,
    /// log2 of the vectors.
    pub log_vectors: usize,
    /// log2 of the steps: vectors whose first coordinates are the same have the same step.
    pub log_steps: usize,
    /// Mantissas, over the steps.
    pub k: Linear<B>,
    /// Exponents, over the steps.
    pub f: Linear<B>,
}

/// The residual stream.
#[derive(Clone, Debug)]
pub struct Stream<B> {
    /// Its values.
    pub x: Linear<B>,
    /// Their largest magnitude, where it was shown.
    pub at_most: i64,
    /// The largest magnitude that whoever reads it must show that it has.
    pub owed: i64,
}

/// Who shows that outputs do not wrap.
#[derive(Clone, Copy, Debug)]
enum Reader<'a, B> {
    /// Nobody but the layer.
    Nobody,
    /// Whoever reads them shows that their magnitude is at most this.
    Within(i64),
    /// Whoever reads them does what it owes.
    Later,
    /// They are added to a stream, whose reader does what it owes.
    Stream(&'a Stream<B>),
}

/// What a matrix gives.
enum Outputs<B> {
    /// y' 2^-left, 2^left if it is not 1, and the largest y' that is shown.
    Unbiased(Linear<B>, Option<Linear<B>>, i64),
    /// With its bias, or added to a stream whose reader owes so much.
    Whole(Linear<B>, i64),
}

/// t, r, and how large t may be; no r where nothing is shifted.
struct Shifted<B> {
    t: Linear<B>,
    rest: Option<Linear<B>>,
    at_most: i64,
}

impl<'m, B: PrimeField32> Builder<'m, B> {
    /// A row vector that is `of(row)` at the place of each row of the layer and `added` elsewhere.
    fn by_row(&mut self, layer: &Layer<'_>, added: i64, of: impl Fn(usize) -> i64) -> Source {
        let mut values = vec![residue(added); 1 << layer.log_rows];
        for (row, place) in layer.rows.iter().enumerate() {
            values[*place as usize] = residue(of(row));
        }
        self.circuit.vector(values)
    }

    /// `y = W x + b`, over `(vectors, rows)`.
    pub fn linear(&mut self, name: &str, codes: &Codes<B>, layer: &Layer<'m>) -> Linear<B> {
        self.linear_where(name, codes, layer, None)
    }

    /// The same, and the largest magnitude that it is shown to have.
    pub fn linear_and_bound(&mut self, name: &str, codes: &Codes<B>, layer: &Layer<'m>) -> (Linear<B>, i64) {
        let outputs = self.outputs(name, codes, layer, Reader::Nobody);
        let shown = match &outputs {
            Outputs::Whole(_, at_most) | Outputs::Unbiased(_, _, at_most) => *at_most,
        };
        (self.biased(name, codes, layer, outputs, None), shown + layer.bias_max())
    }

    /// The same, and the largest magnitude that whoever reads it must show that it has.
    pub fn linear_and_owed(&mut self, name: &str, codes: &Codes<B>, layer: &Layer<'m>) -> (Linear<B>, i64) {
        match self.outputs(name, codes, layer, Reader::Later) {
            Outputs::Whole(y, owed) => (y, owed),
            outputs => (self.biased(name, codes, layer, outputs, None), i64::MAX),
        }
    }

    /// The same, whose reader shows that no magnitude is above `at_most`.
    pub fn linear_within(
        &mut self,
        name: &str,
        codes: &Codes<B>,
        layer: &Layer<'m>,
        at_most: i64,
    ) -> Linear<B> {
        let outputs = self.outputs(name, codes, layer, Reader::Within(at_most));
        self.biased(name, codes, layer, outputs, None)
    }

    /// `y = W x + b`, over `(vectors, rows)`; without b where `real`, a view of the vectors' coordinates, is 0 and not 1.
    pub fn linear_where(
        &mut self,
        name: &str,
        codes: &Codes<B>,
        layer: &Layer<'m>,
        real: Option<&View>,
    ) -> Linear<B> {
        let outputs = self.outputs(name, codes, layer, Reader::Nobody);
        self.biased(name, codes, layer, outputs, real)
    }

    /// With the bias, where it is not there yet.
    fn biased(
        &mut self,
        name: &str,
        codes: &Codes<B>,
        layer: &Layer<'m>,
        outputs: Outputs<B>,
        real: Option<&View>,
    ) -> Linear<B> {
        match outputs {
            Outputs::Whole(y, _) => y,
            Outputs::Unbiased(unbiased, scale, _) => {
                let unbiased = match scale {
                    Some(scale) => {
                        self.times_scale(name, codes.log_vectors + layer.log_rows, scale, unbiased)
                    }
                    None => unbiased,
                };
                match (self.bias(codes, layer), real) {
                    (None, _) => unbiased,
                    (Some(bias), None) => unbiased.plus(&bias),
                    (Some(bias), Some(real)) => unbiased.plus(&bias.by(real)),
                }
            }
        }
    }

    /// y' of what has a range before it is shifted to the left.
    fn times_scale(&mut self, name: &str, log: usize, scale: Linear<B>, y: Linear<B>) -> Linear<B> {
        let products = {
            let [scale, y] = [&scale, &y].map(|linear| self.integers(linear, log));
            each(y.len(), |at| scale[at] * y[at])
        };
        let shifted = Linear::view(whole(self.commit(&format!("{name} to the left"), log, products), log));
        self.constrain(log, vec![(B::ONE, scale, y)], shifted.clone().times(B::NEG_ONE));
        shifted
    }

    /// The bias, over `(vectors, rows)`.
    fn bias(&mut self, codes: &Codes<B>, layer: &Layer<'m>) -> Option<Linear<B>> {
        let bias = &layer.matrix.weights.bias;
        let (first, log) = (codes.log_vectors, codes.log_vectors + layer.log_rows);
        (!bias.is_empty()).then(|| {
            let source = self.by_row(layer, 0, |row| bias[layer.first_row + row].into());
            Linear::view(View { source, bits: (first..log).map(Bit::At).collect() })
        })
    }

    /// `x + W c + b`, settled, over `(vectors, rows)`: the stream after a sublayer, whose range is shown by what reads it. With 2^l the shift to the left, y' 2^-l
    /// is below 2^(30-l), so x + y is at most 2^28 + 2^30 + 2^28, and what is settled at most 2^28: they cannot differ by p; and y is within LIMIT.
    pub fn add_linear(
        &mut self,
        name: &str,
        codes: &Codes<B>,
        layer: &Layer<'m>,
        stream: &Stream<B>,
    ) -> Stream<B> {
        let log = codes.log_vectors + layer.log_rows;
        let (unbiased, scale) = match self.outputs(name, codes, layer, Reader::Stream(stream)) {
            Outputs::Whole(x, owed) => return Stream { x, at_most: STREAM_MAX, owed: owed.min(STREAM_MAX) },
            Outputs::Unbiased(unbiased, scale, _) => (unbiased, scale),
        };
        let rest = match self.bias(codes, layer) {
            Some(bias) => stream.x.clone().plus(&bias),
            None => stream.x.clone(),
        };
        let scale = scale.unwrap_or_else(|| Linear::constant(B::ONE));
        let sums = {
            let [rest, scale, y] = [&rest, &scale, &unbiased].map(|linear| self.integers(linear, log));
            each(y.len(), |at| rest[at] + scale[at] * y[at])
        };
        let x = Linear::view(whole(self.commit("stream", log, sums), log));
        if scale.terms.is_empty() {
            self.constrain(log, vec![], rest.plus(&unbiased).minus(&x));
        } else {
            self.constrain(log, vec![(B::ONE, scale, unbiased)], rest.minus(&x));
        }
        Stream { x, at_most: STREAM_MAX, owed: STREAM_MAX }
    }

    /// What a matrix gives, over `(vectors, rows)`.
    fn outputs(
        &mut self,
        name: &str,
        codes: &Codes<B>,
        layer: &Layer<'m>,
        reader: Reader<'_, B>,
    ) -> Outputs<B> {
        let (vectors, rows) = (codes.log_vectors, layer.log_rows);
        let log = vectors + rows;
        self.matrices.push(layer.matrix);
        let mut accumulator = self.products(codes, &layer.placed, log);
        if !layer.low.is_empty() {
            let low = self.products(codes, &layer.low, log);
            accumulator = accumulator.plus(&self.without_low_bits(name, log, &low));
        }
        let shifted = self.static_shift(name, layer, accumulator, log);
        let limb_bits = self.circuit.limb_bits;
        let (first, last) = layer.spread();
        let needed = self.key_of(codes, layer, &shifted);
        let key = self.declare((SHIFT_MAX - (last - first)).max(0) as u32, || needed);
        match layer.shifts_to::<B>(key.into(), limb_bits, shifted.at_most) {
            Some(shifts) => self.narrow(name, codes, layer, shifted, (key.into(), shifts), reader),
            None => {
                if let Some(rest) = &shifted.rest {
                    self.in_range(&format!("{name} accumulator remainder"), log, layer.pre_shift, rest);
                }
                let (unbiased, scale) = self.by_group(name, codes, layer, shifted.t, layer.left);
                Outputs::Unbiased(unbiased, scale, UNBIASED_MAX)
            }
        }
    }

    /// The products of codes with the blocks of the last matrix.
    fn products(&mut self, codes: &Codes<B>, blocks: &[Placed], log: usize) -> Linear<B> {
        let vectors = codes.log_vectors;
        let bits = |range: core::ops::Range<usize>| range.map(Bit::At);
        let mut sums = Linear::constant(B::ZERO);
        for ((source, inner), placed) in codes.parts.iter().zip(blocks) {
            debug_assert_eq!(*inner, placed.log_cols);
            let placed = Placed { matrix: self.matrices.len() - 1, ..placed.clone() };
            let weights = self.circuit.placed(placed);
            let sum = self.contract(Contraction {
                outer: log,
                inner: *inner,
                left: View {
                    source: *source,
                    bits: bits(0..vectors).chain(bits(log..log + inner)).collect(),
                },
                right: View { source: weights, bits: bits(vectors..log + inner).collect() },
            });
            sums = sums.plus(&Linear::view(whole(sum, log)));
        }
        sums
    }

    /// `floor(x / 2^7)`, x being below 2^29.
    fn without_low_bits(&mut self, name: &str, log: usize, x: &Linear<B>) -> Linear<B> {
        let values = self.integers(x, log).into_iter().map(|x| x >> LOW_BITS).collect();
        let (rest, _) = self.signed(&format!("{name} low accumulator"), log, LOW_SUM_BITS, values);
        let cut = x.clone().minus(&rest.clone().times(power_of_two(LOW_BITS)));
        self.in_range(&format!("{name} low remainder"), log, LOW_BITS, &cut);
        rest
    }

    /// y' of every cell, if shifts are those of the runtime.
    fn unbiased_of(&self, codes: &Codes<B>, layer: &Layer<'m>, t: &Linear<B>) -> Vec<i64> {
        let (vectors, steps, rows) = (codes.log_vectors, codes.log_steps, layer.log_rows);
        let [k, f] = [&codes.k, &codes.f].map(|linear| self.integers(linear, steps));
        let mut of_row = vec![(layer.spread().0, 0); 1 << rows];
        for (row, place) in layer.rows.iter().enumerate() {
            let multiplier = i64::from(layer.multipliers()[row]);
            of_row[*place as usize] = (layer.shifts[layer.group[row]], multiplier);
        }
        let t = self.integers(t, vectors + rows);
        each(t.len(), |at| {
            let (step, (shift, multiplier)) =
                (at >> (rows + vectors - steps), of_row[at & ((1 << rows) - 1)]);
            rsh(t[at] * multiplier * k[step], (shift - f[step]).clamp(0, 40) as u32)
        })
    }

    /// The declaration of a prover: the largest shift of the least row, 0 if shifts are of another kind.
    fn key_of(&self, codes: &Codes<B>, layer: &Layer<'m>, shifted: &Shifted<B>) -> u32 {
        let f = self.integers(&codes.f, codes.log_steps);
        let (Some(least), Some(most)) = (f.iter().min(), f.iter().max()) else { return 0 };
        let first = layer.spread().0;
        let (low, high) = (first - most, first - least);
        let Some(shifts) = layer.shifts_to::<B>(high, self.circuit.limb_bits, shifted.at_most) else {
            return 0;
        };
        let largest = self.unbiased_of(codes, layer, &shifted.t).iter().map(|y| y.abs()).max().unwrap_or(0);
        // A range is one of powers of two.
        let fits = low >= shifts.least && 1i64 << bit_length(largest) <= shifts.allowed;
        if fits { high as u32 } else { 0 }
    }

    /// Outputs whose shifts are at most `shifts.most`.
    fn narrow(
        &mut self,
        name: &str,
        codes: &Codes<B>,
        layer: &Layer<'m>,
        Shifted { t, rest, .. }: Shifted<B>,
        (key, shifts): (i64, Shifts),
        reader: Reader<'_, B>,
    ) -> Outputs<B> {
        let (vectors, steps, rows) = (codes.log_vectors, codes.log_steps, layer.log_rows);
        let log = vectors + rows;
        let (first, last) = layer.spread();
        let view = |source| View { source, bits: (vectors..log).map(Bit::At).collect() };

        let table = self.table(&format!("powers of two from {} to {key}", shifts.least), || {
            (shifts.least..=key).map(|s| vec![s, 1 << s]).collect()
        });
        let least = codes.f.clone().times(B::NEG_ONE).offset(residue(first));
        let mut power = self.fetch(&format!("{name} power"), table, steps, least.clone()).remove(0);
        let mut width = least;
        if first < last {
            // Rows that are filled up have the least shift, and multiplier 0.
            let beyond = |row: usize| layer.shifts[layer.group[row]] - first;
            let powers = self.by_row(layer, 1, |row| 1 << beyond(row));
            power = power.by(&view(powers));
            let widths = self.by_row(layer, 0, beyond);
            width = width.plus(&Linear::view(view(widths)));
        }
        let multipliers = self.by_row(layer, 0, |row| layer.multipliers()[row].into());
        let product = codes.k.clone().by(&view(multipliers));
        let half = power.clone().times(B::TWO.inverse());

        let values = self.unbiased_of(codes, layer, &t);
        let bias = self.bias(codes, layer);
        let (unbiased, outputs) = self.placed_output(name, log, values, bias, (layer, shifts), reader);
        let remainders = {
            let [t, power, product, y] =
                [&t, &power, &product, &unbiased].map(|linear| self.integers(linear, log));
            each(t.len(), |at| product[at] * t[at] + power[at] / 2 - power[at] * y[at])
        };
        let remainder = self.remainder(name, log, remainders, (width, shifts), (layer.pre_shift, rest));
        let products = vec![(B::ONE, power, unbiased), (B::NEG_ONE, product, t)];
        self.constrain(log, products, remainder.minus(&half));
        outputs
    }

    /// Commits to y', to y or to the stream with it, whatever its reader speaks of; gives y'.
    fn placed_output(
        &mut self,
        name: &str,
        log: usize,
        mut values: Vec<i64>,
        bias: Option<Linear<B>>,
        (layer, shifts): (&Layer<'m>, Shifts),
        reader: Reader<'_, B>,
    ) -> (Linear<B>, Outputs<B>) {
        let bias_max = layer.bias_max();
        let bias = bias.unwrap_or_else(|| Linear::constant(B::ZERO));
        let added = |builder: &Self, values: &mut Vec<i64>, linear: &Linear<B>| {
            let others = builder.integers(linear, log);
            values.iter_mut().zip(others).for_each(|(y, x)| *y += x);
        };
        match reader {
            Reader::Within(at_most) if at_most + bias_max <= shifts.allowed => {
                added(self, &mut values, &bias);
                let y = Linear::view(whole(self.commit(&format!("{name} output"), log, values), log));
                (y.clone().minus(&bias), Outputs::Whole(y, at_most))
            }
            Reader::Later => {
                added(self, &mut values, &bias);
                let owed = shifts.allowed - bias_max;
                let largest = values.iter().map(|y| y.abs()).max().unwrap_or(0);
                if owed >= READ_MAX && self.declare(1, || u32::from(2 * largest > owed)) == 0 {
                    let y = Linear::view(whole(self.commit(&format!("{name} output"), log, values), log));
                    return (y.clone().minus(&bias), Outputs::Whole(y, owed));
                }
                let others = self.integers(&bias, log);
                values.iter_mut().zip(others).for_each(|(y, bias)| *y -= bias);
                self.ranged(name, log, values, shifts)
            }
            Reader::Stream(stream) => {
                let before = stream.x.clone().plus(&bias);
                let owed = shifts.allowed - stream.at_most - bias_max;
                let unbiased = values.clone();
                added(self, &mut values, &before);
                let largest = values.iter().map(|x| x.abs()).max().unwrap_or(0);
                // What a reader shows is a power of two.
                let shown = owed >= READ_MAX && self.declare(1, || u32::from(2 * largest > owed)) == 0;
                if shown {
                    let x = Linear::view(whole(self.commit("stream", log, values), log));
                    (x.clone().minus(&before), Outputs::Whole(x, owed))
                } else {
                    self.ranged(name, log, unbiased, shifts)
                }
            }
            _ => self.ranged(name, log, values, shifts),
        }
    }

    /// y' with its range.
    fn ranged(
        &mut self,
        name: &str,
        log: usize,
        values: Vec<i64>,
        shifts: Shifts,
    ) -> (Linear<B>, Outputs<B>) {
        let most = shifts.allowed.ilog2() + 1;
        let (unbiased, bits) = self.signed(&format!("{name} output"), log, most, values);
        (unbiased.clone(), Outputs::Unbiased(unbiased, None, (1 << bits) / 2))
    }

    /// r' in `0 .. 2^s`, and r beside it, where one lookup has room for both.
    fn remainder(
        &mut self,
        name: &str,
        log: usize,
        mut values: Vec<i64>,
        (width, shifts): (Linear<B>, Shifts),
        (static_bits, rest): (u32, Option<Linear<B>>),
    ) -> Linear<B> {
        let (limb_bits, most) = (self.circuit.limb_bits, shifts.most as u32);
        let name = format!("{name} remainder");
        self.said(&name, &mut values);
        self.reduced(&mut values);
        let constant = |bits: u32| Linear::constant(B::from_u32(bits));
        let of = |builder: &mut Self, part: &str, values: &[i64]| {
            Linear::view(whole(builder.column(&format!("{name}{part}"), log, values), log))
        };
        // The limb that has room beside it, its width, and the widest that it has.
        let (remainder, limb, limb_width, widest) = if shifts.low == 0 {
            let limb = of(self, "", &values);
            (limb.clone(), limb, width, most)
        } else {
            let low = shifts.low;
            let lower = of(self, " low", &each(values.len(), |at| values[at] & ((1 << low) - 1)));
            let upper = of(self, " high", &each(values.len(), |at| values[at] >> low));
            self.look_up_range(log, width.minus(&constant(low)), upper.clone());
            (lower.clone().plus(&upper.times(power_of_two(low))), lower, constant(low), low)
        };
        match rest {
            Some(rest) if widest + static_bits <= limb_bits => {
                self.look_up_beside(log, (limb_width, widest), limb, (static_bits, rest));
            }
            rest => {
                self.look_up_range(log, limb_width, limb);
                if let Some(rest) = rest {
                    self.in_range(&format!("{name} of accumulators"), log, static_bits, &rest);
                }
            }
        }
        remainder
    }

    /// `t = rsh(acc, s1)`; whoever reads r shows its range.
    fn static_shift(
        &mut self,
        name: &str,
        layer: &Layer<'_>,
        accumulator: Linear<B>,
        log: usize,
    ) -> Shifted<B> {
        let (s1, bits, most) = (layer.pre_shift, layer.shifted_bits, layer.shifted_max);
        if s1 == 0 && layer.accumulator_max <= most {
            return Shifted { t: accumulator, rest: None, at_most: most };
        }
        let values = self.integers(&accumulator, log);
        let values = each(values.len(), |at| rsh(values[at], s1));
        let (t, bits) = self.signed(&format!("{name} accumulator"), log, bits + 1, values);
        let at_most = most.min((1 << bits) / 2);
        if s1 == 0 {
            // What is larger is a range error.
            self.constrain(log, vec![], accumulator.minus(&t));
            return Shifted { t, rest: None, at_most };
        }
        let rest = accumulator.offset(residue(half(s1))).minus(&t.clone().times(power_of_two(s1)));
        Shifted { t, rest: Some(rest), at_most }
    }

    /// `t = rsh(x, s)` for s > 0, with t in `-2^bits .. 2^bits`. The caller knows that `2^(bits + s)` and x cannot differ by p.
    pub fn shift_right(&mut self, name: &str, log: usize, x: &Linear<B>, s: u32, bits: u32) -> Linear<B> {
        let values = self.integers(x, log);
        let values = each(values.len(), |at| rsh(values[at], s));
        let (t, _) = self.signed(name, log, bits + 1, values);
        let rest = x.clone().offset(residue(half(s))).minus(&t.clone().times(power_of_two(s)));
        self.in_range(&format!("{name} remainder"), log, s, &rest);
        t
    }
}
