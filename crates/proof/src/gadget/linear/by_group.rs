//! Linear layers whose shifts are of any kind: to the left, by more than [`SHIFT_MAX`], or so different that outputs need many limbs.
//!
//! ```text
//! P y' + r' = Q k m t + H            (P, Q, H) = (2^s, 1, 2^(s-1)) for s = s_i + 4 - s1 - f - F in 0..=28; (1, 0, 0) above
//!                                    y' in -2^(30-s) .. 2^(30-s), r' in 0 .. 2^s
//! ```
//!
//! What depends on s is fetched once for each vector and each distinct s_i of the matrix, and read by its rows. A shift to the left (s < 0: P = 1, Q = 2^-s,
//! H = 0) needs to know that the product stays within LIMIT, as small networks prove of themselves ([`Layer::bounded`]). Elsewhere, where there is one (the prover
//! declares it), what has a range is `y' 2^s`, of 31 + s bits, and the shift is made by whoever adds it to something (Q = 1); where 31 + s is not positive, it is 0.
//!
//! `|t| m k <= T 31^2` is at most [`super::PRODUCT_MAX`], and `P y'` below 2^30.

use super::{Codes, Layer, SHIFT_MAX};
use crate::circuit::{Bit, Linear, View};
use crate::field::residue;
use crate::gadget::ranges::{Width, limbs, widths};
use crate::gadget::tables::TableId;
use crate::gadget::{Builder, whole};
use crate::integer::half;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use p3_field::PrimeField32;

/// Shifts to the left that the table has.
const LEFT_MAX: i64 = 30;
/// Shifts to the left of what is shifted later: `0 + 4 - 11 - 34 - 24` is the least.
const ADDED_MAX: i64 = 70;
/// Shifts to the right that it has.
const SHIFTS: i64 = 186;
/// Bits of an output without its bias, with an offset.
const OUTPUT_BITS: u32 = 31;

/// What is known of outputs that are shifted to the left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Nothing: what is shifted later has the range.
    None,
    /// That they stay within LIMIT.
    Bounded,
}

/// Every shift from `first` on, with what a shift by it needs: P, Q, H, the offset of an output, the widths of its limbs and of its remainder's.
fn shift_table(first: i64, limb_bits: u32) -> Vec<Vec<i64>> {
    let entry = |s: i64| {
        let nothing = s > SHIFT_MAX;
        let right = if nothing { 0 } else { s.max(0) as u32 };
        let bits = if nothing { 0 } else { 30 - right };
        let offset = if nothing { 0 } else { 1 << bits };
        let factor = if nothing { 0 } else { 1 << (-s).clamp(0, LEFT_MAX) };
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
            // What is not 0 is at least 16, the least multiplier and mantissa.
            let bits = OUTPUT_BITS.saturating_sub(left);
            (entry[2], entry[4]) = (1, half(bits));
            for (width, limb) in entry[5..].iter_mut().zip(widths(bits, OUTPUT_BITS, limb_bits)) {
                *width = limb;
            }
        }
        entry.push(if left <= LEFT_MAX as u32 { 1 << left } else { 0 });
    }
    entries
}

impl<'m, B: PrimeField32> Builder<'m, B> {
    fn shifts(&mut self, codes: &Codes<B>, layer: &Layer<'m>, left: Left) -> TableId {
        let limb_bits = self.circuit.limb_bits;
        match left {
            Left::Bounded => self.table("shift to both sides", || shift_table(-LEFT_MAX, limb_bits)),
            Left::None => {
                let most = self.integers(&codes.f, codes.log_steps).into_iter().max().unwrap_or(0);
                if self.declare(1, || u32::from(layer.spread().0 < most)) == 0 {
                    self.table("shift", || shift_table(0, limb_bits))
                } else {
                    self.table("shift to the left later", || added_table(limb_bits))
                }
            }
        }
    }

    /// y' 2^-left, and 2^left where shifts to the left are made later.
    pub(super) fn by_group(
        &mut self,
        name: &str,
        codes: &Codes<B>,
        layer: &Layer<'m>,
        t: Linear<B>,
        left: Left,
    ) -> (Linear<B>, Option<Linear<B>>) {
        let (vectors, steps, rows) = (codes.log_vectors, codes.log_steps, layer.log_rows);
        let log = vectors + rows;
        let bits = |range: core::ops::Range<usize>| range.map(Bit::At);
        // What depends on the shift, for each of the matrix's.
        let table = self.shifts(codes, layer, left);
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
            let here = self.by_row(layer, 0, |row| i64::from(layer.group[row] == group));
            let multipliers = layer.multipliers();
            let factors = self
                .by_row(layer, 0, |row| if layer.group[row] == group { multipliers[row].into() } else { 0 });
            let view = |source| View { source, bits: bits(vectors..log).collect() };
            fetched[1] = product;
            for (at, linear) in fetched.iter().enumerate() {
                add(at, linear.clone().by(&view(if at == 1 { factors } else { here })));
            }
        }
        let (power, product, half, offset) = (&sums[0], &sums[1], &sums[2], &sums[3]);
        let count = limbs(OUTPUT_BITS, self.circuit.limb_bits);
        let (output_widths, rest) = sums[4..].split_at(count);
        let (remainder_widths, scale) = rest.split_at(limbs(SHIFT_MAX as u32, self.circuit.limb_bits));

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
        (unbiased, scale.first().cloned())
    }
}
