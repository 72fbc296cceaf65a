//! Integers of more than 31 bits, as digits in base 2^10: a few a vector, so what they cost does not matter.
//!
//! That a sum of products of such integers is 0 is shown position by position with carries:
//!
//! ```text
//! T_i + c_(i-1) = 2^10 c_i,   c_(-1) = 0,  the last carry is 0,   c in -2^16 .. 2^16
//! ```
//!
//! T_i has at most six products of digits, so nothing comes near the order of the field.

use super::ranges::Width;
use super::{Builder, whole};
use crate::circuit::Linear;
use crate::field::power_of_two;
use alloc::format;
use alloc::vec::Vec;
use p3_field::PrimeField32;

/// Bits of a digit.
pub const DIGIT_BITS: u32 = 10;
/// Bits of a carry's magnitude.
const CARRY_BITS: u32 = 16;

/// One position of a sum: products of digits, and digits.
#[derive(Clone, Debug)]
pub struct Position<B> {
    /// The products, with their signs.
    pub products: Vec<(B, Linear<B>, Linear<B>)>,
    /// The rest.
    pub linear: Linear<B>,
}

impl<B: PrimeField32> Position<B> {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Position<B> {
        Position { products: Vec::new(), linear: Linear::constant(B::ZERO) }
    }
}

impl<B: PrimeField32> Default for Position<B> {
    fn default() -> Position<B> {
        Position::new()
    }
}

/// The digits of an integer that is not negative.
pub fn digits_of(x: u128, count: usize) -> impl Iterator<Item = i64> {
    (0..count).map(move |i| (x >> (DIGIT_BITS * i as u32)) as i64 & ((1 << DIGIT_BITS) - 1))
}

/// Adds `sign * a * b` to positions, digit by digit.
pub fn add_product<B: PrimeField32>(
    positions: &mut [Position<B>],
    sign: B,
    a: &[Linear<B>],
    b: &[Linear<B>],
) {
    for (i, a) in a.iter().enumerate() {
        for (j, b) in b.iter().enumerate() {
            positions[i + j].products.push((sign, a.clone(), b.clone()));
        }
    }
}

/// Adds `sign * a` to positions, digit by digit.
pub fn add_digits<B: PrimeField32>(positions: &mut [Position<B>], sign: B, a: &[Linear<B>]) {
    for (position, digit) in positions.iter_mut().zip(a) {
        position.linear = position.linear.clone().plus(&digit.clone().times(sign));
    }
}

impl<B: PrimeField32> Builder<'_, B> {
    /// Commits to the digits of integers that are not negative.
    pub fn digits(&mut self, name: &str, log: usize, count: usize, values: &[u128]) -> Vec<Linear<B>> {
        (0..count)
            .map(|digit| {
                let values = values.iter().map(|x| digits_of(*x, count).nth(digit).unwrap_or(0)).collect();
                self.value(&format!("{name} digit {digit}"), log, Width::Fixed(DIGIT_BITS), values)
            })
            .collect()
    }

    /// The digits of an expression that is not negative and below 2^30.
    pub fn digits_of(&mut self, name: &str, log: usize, linear: &Linear<B>, count: usize) -> Vec<Linear<B>> {
        let values: Vec<u128> = self.integers(linear, log).into_iter().map(|x| x.max(0) as u128).collect();
        let digits = self.digits(name, log, count, &values);
        let mut sum = linear.clone().times(B::NEG_ONE);
        for (i, digit) in digits.iter().enumerate() {
            sum = sum.plus(&digit.clone().times(power_of_two(DIGIT_BITS * i as u32)));
        }
        self.constrain(log, Vec::new(), sum);
        digits
    }

    /// The sum over all positions is 0, as an integer.
    pub fn balance(&mut self, name: &str, log: usize, positions: Vec<Position<B>>) {
        let mut carry: Option<(Linear<B>, Vec<i64>)> = None;
        let last = positions.len() - 1;
        for (i, Position { products, mut linear }) in positions.into_iter().enumerate() {
            let mut sums = self.integers(&linear, log);
            for (sign, a, b) in &products {
                let sign = if *sign == B::ONE { 1 } else { -1 };
                let (a, b) = (self.integers(a, log), self.integers(b, log));
                sums.iter_mut().zip(a.iter().zip(b)).for_each(|(sum, (a, b))| *sum += sign * a * b);
            }
            if let Some((below, values)) = carry.take() {
                linear = linear.plus(&below);
                sums.iter_mut().zip(values).for_each(|(sum, carry)| *sum += carry);
            }
            if i < last {
                let values: Vec<i64> = sums.iter().map(|sum| sum >> DIGIT_BITS).collect();
                let name = format!("{name} carry {i}");
                let source = self.commit(&name, log, values);
                let above = Linear::view(whole(source, log));
                let shifted = above.clone().offset(power_of_two(CARRY_BITS));
                self.in_range(&name, log, CARRY_BITS + 1, &shifted);
                linear = linear.minus(&above.clone().times(power_of_two(DIGIT_BITS)));
                let values = self.integers(&above, log);
                carry = Some((above, values));
            }
            self.constrain(log, products, linear);
        }
    }
}
