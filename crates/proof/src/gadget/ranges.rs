//! Values in limbs: committed columns of a few bits each, every one looked up with its width.

use super::declared::{signed_bits, unsigned_bits};
use super::{Builder, whole};
use crate::circuit::{Home, Linear};
use crate::field::power_of_two;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use p3_field::PrimeField32;

/// How many limbs `bits` bits have.
#[must_use]
pub fn limbs(bits: u32, limb_bits: u32) -> usize {
    bits.div_ceil(limb_bits) as usize
}

/// The width of limb `limb` of a value of `bits` bits.
#[must_use]
pub fn limb_width(bits: u32, limb: usize, limb_bits: u32) -> u32 {
    bits.saturating_sub(limb_bits * limb as u32).min(limb_bits)
}

/// The widths of all limbs of a value of `bits` bits that may have up to `most`.
pub fn widths(bits: u32, most: u32, limb_bits: u32) -> impl Iterator<Item = i64> {
    (0..limbs(most, limb_bits)).map(move |limb| limb_width(bits, limb, limb_bits).into())
}

/// How wide a value is.
#[derive(Clone, Copy, Debug)]
pub enum Width<'a, B> {
    /// The same everywhere.
    Fixed(u32),
    /// The width of each limb, cell by cell.
    Computed(&'a [Linear<B>]),
}

impl<B: PrimeField32> Builder<'_, B> {
    /// Commits to a value that is not negative, in limbs, and looks them up: `sum of 2^(L k) limb_k`.
    pub fn value(&mut self, name: &str, log: usize, width: Width<'_, B>, mut values: Vec<i64>) -> Linear<B> {
        self.said(name, &mut values);
        self.in_limbs(name, log, width, values)
    }

    /// The same of as many bits as the prover declares, at most `most`; gives their number as well.
    pub fn declared(&mut self, name: &str, log: usize, most: u32, mut values: Vec<i64>) -> (Linear<B>, u32) {
        self.said(name, &mut values);
        let bits = self.declare(most, || unsigned_bits(&values));
        (self.in_limbs(name, log, Width::Fixed(bits), values), bits)
    }

    /// A value in `-2^(bits-1) .. 2^(bits-1)`, of as many bits as the prover declares, at most `most`; of none, it is 0.
    pub fn signed(&mut self, name: &str, log: usize, most: u32, mut values: Vec<i64>) -> (Linear<B>, u32) {
        self.said(name, &mut values);
        let bits = self.declare(most, || signed_bits(&values));
        if bits == 0 {
            return (Linear::constant(B::ZERO), 0);
        }
        values.iter_mut().for_each(|x| *x += 1 << (bits - 1));
        let value = self.in_limbs(name, log, Width::Fixed(bits), values);
        (value.offset(-power_of_two::<B>(bits - 1)), bits)
    }

    fn in_limbs(&mut self, name: &str, log: usize, width: Width<'_, B>, mut values: Vec<i64>) -> Linear<B> {
        self.reduced(&mut values);
        let limb_bits = self.circuit.limb_bits;
        let count = match width {
            Width::Fixed(bits) => limbs(bits, limb_bits),
            Width::Computed(widths) => widths.len(),
        };
        let mut value = Linear::constant(B::ZERO);
        for limb in 0..count {
            // The last limb takes whatever is left, in range or not.
            let (below, mask) =
                (limb_bits * limb as u32, if limb + 1 == count { -1 } else { (1 << limb_bits) - 1 });
            let part = |at: usize| (values[at] >> below) & mask;
            let source = self.column_of(Home::Witness, &format!("{name}[{limb}]"), log, part);
            let width = match width {
                Width::Fixed(bits) => Linear::constant(B::from_u32(limb_width(bits, limb, limb_bits))),
                Width::Computed(widths) => widths[limb].clone(),
            };
            let limb_value = Linear::view(whole(source, log));
            self.look_up_range(log, width, limb_value.clone());
            value = value.plus(&limb_value.times(B::TWO.exp_u64(u64::from(limb_bits) * limb as u64)));
        }
        value
    }

    /// Shows that an expression lies in `0 .. 2^bits`, by committing to its limbs if it needs several.
    pub fn in_range(&mut self, name: &str, log: usize, bits: u32, linear: &Linear<B>) {
        if bits <= self.circuit.limb_bits {
            return self.look_up_range(log, Linear::constant(B::from_u32(bits)), linear.clone());
        }
        let values = self.integers(linear, log);
        let value = self.value(name, log, Width::Fixed(bits), values);
        self.constrain(log, vec![], value.minus(linear));
    }

    /// Shows that the magnitude of an expression is at most `at_most`, where its reader has not: by a power of two that is not above.
    pub fn owed(&mut self, name: &str, log: usize, linear: &Linear<B>, at_most: i64, shown: i64) {
        if shown > at_most {
            let bits = at_most.max(1).ilog2();
            self.in_range(
                &format!("{name} in range"),
                log,
                bits + 1,
                &linear.clone().offset(power_of_two(bits)),
            );
        }
    }
}
