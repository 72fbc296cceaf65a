//! Values that are shifted to the right by as much as their vector says: scores, sums, quotients, normalised values.
//!
//! ```text
//! P x + r = y + P / 2,   r in 0 .. P           (shift, P, P / 2, ...) in a table, fetched for each vector
//! ```
//!
//! What is known of y says how large x may be without a wrap; that it is not larger is shown here, with one width or with one for each shift, or by whoever reads x.

use super::ranges::{Width, limbs, widths};
use super::{Builder, each, whole};
use crate::circuit::{Bit, Linear};
use crate::integer::{bit_length, floor_div, half, rsh};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use p3_field::PrimeField32;

/// `sum of coefficient * left * right`.
pub(super) type Products<B> = Vec<(B, Linear<B>, Linear<B>)>;

/// Bits of a shifted value with its offset, before it is shifted.
const SHIFTED_BITS: u32 = 31;
/// Largest shift.
const SHIFTED_MAX: u32 = 28;
/// What a reader shows at least.
const READ_MAX: i64 = 1 << 16;

/// `P x + r = y + H`, y of at most 2^29, or 2^30 where shifts are at most 15: what a shift by each key needs: P, H, the widths of the remainder, and, if x is not shown to be small by other means, its offset
/// and widths. Then P x is at most 2^30, and of y, r and H all are together below p - 2^30: sums are shifted by 15 at most, others are at most 2^29.
fn shift_entries(most: u32, wide: bool, limb_bits: u32) -> Vec<Vec<i64>> {
    let entry = |shift: u32| {
        let mut entry = vec![shift.into(), 1 << shift, half(shift)];
        entry.extend(widths(shift, most, limb_bits));
        if wide {
            entry.push(1 << (SHIFTED_BITS - 1 - shift));
            entry.extend(widths(SHIFTED_BITS - shift, SHIFTED_BITS, limb_bits));
        }
        entry
    };
    (0..=most).map(entry).collect()
}

/// Who shows that a shifted value does not wrap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// It does, with one width everywhere.
    Alike,
    /// It does, with a width for each shift.
    Each,
    /// Whoever reads it.
    Reader,
}

impl<B: PrimeField32> Builder<'_, B> {
    /// `x = rsh(y, s)` in every one of `2^log` cells, s by `key` over cells that `bits` read here; y, of at most `largest`, is `product` or `linear` or both. And the largest
    /// magnitude that whoever reads x owes, if `reader` is one.
    pub(super) fn shifted(
        &mut self,
        name: &str,
        log: usize,
        (key, key_log, read): (&Linear<B>, usize, &[Bit]),
        (products, linear, largest): (Products<B>, Linear<B>, i64),
        reader: bool,
    ) -> (Linear<B>, i64) {
        let sums = {
            let mut sums = self.integers(&linear, log);
            for (_, a, b) in &products {
                let (a, b) = (self.integers(a, log), self.integers(b, log));
                sums = each(sums.len(), |at| sums[at] + a[at] * b[at]);
            }
            sums
        };
        let (keys, limb_bits) = (self.integers(key, key_log), self.circuit.limb_bits);
        let most =
            self.declare(SHIFTED_MAX, || keys.iter().copied().max().map_or(0, |key| key.clamp(0, 28) as u32));
        let allowed = (i64::from(B::ORDER_U32) - 1 - largest - (1 << most)) >> most;
        let shown = {
            let here = self.integers(&key.within(read), log);
            let shifted = each(sums.len(), |at| rsh(sums[at], here[at].clamp(0, 28) as u32).abs());
            let largest = shifted.into_iter().max().unwrap_or(0);
            let of_reader = reader && allowed >= READ_MAX;
            let needed = match largest {
                _ if of_reader && 2 * largest <= allowed => 2,
                _ if 1 << bit_length(largest) <= allowed => 0,
                _ => 1,
            };
            match self.declare(if of_reader { 2 } else { 1 }, || needed) {
                0 => Shown::Alike,
                1 => Shown::Each,
                _ => Shown::Reader,
            }
        };
        let wide = shown == Shown::Each;
        let table = self.table(&format!("shift by {most}, {wide}"), || shift_entries(most, wide, limb_bits));
        let fetched = self.fetch(&format!("{name} shift"), table, key_log, key.clone());
        let fetched: Vec<Linear<B>> = fetched.iter().map(|linear| linear.within(read)).collect();
        let (power, halves) = (fetched[0].clone(), fetched[1].clone());
        let rest_limbs = limbs(most, limb_bits);
        let (powers, half_values) = (self.integers(&power, log), self.integers(&halves, log));
        let sums: Vec<i64> = each(sums.len(), |at| sums[at] + half_values[at]);
        let mut values: Vec<i64> = each(sums.len(), |at| floor_div(sums[at], powers[at]));
        let x = match shown {
            Shown::Alike => self.signed(name, log, allowed.ilog2() + 1, values).0,
            Shown::Reader => Linear::view(whole(self.commit(name, log, values), log)),
            Shown::Each => {
                let offset = &fetched[2 + rest_limbs];
                let order = i64::from(B::ORDER_U32);
                let offsets = self.integers(offset, log);
                values.iter_mut().zip(offsets).for_each(|(x, offset)| *x += offset.rem_euclid(order));
                self.value(name, log, Width::Computed(&fetched[3 + rest_limbs..]), values).minus(offset)
            }
        };
        let rest = {
            let x = self.integers(&x, log);
            each(sums.len(), |at| sums[at] - powers[at] * x[at])
        };
        let rest_widths = &fetched[2..2 + rest_limbs];
        let rest = self.value(&format!("{name} remainder"), log, Width::Computed(rest_widths), rest);
        let mut products: Vec<_> = products.into_iter().map(|(c, a, b)| (-c, a, b)).collect();
        products.push((B::ONE, power, x.clone()));
        self.constrain(log, products, rest.minus(&linear).minus(&halves));
        (x, if shown == Shown::Reader { allowed } else { i64::MAX })
    }
}
