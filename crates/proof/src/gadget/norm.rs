//! The factor of a norm (docs/spec/arithmetic.md, section 3.1), from vectors in 16 bits.
//!
//! ```text
//! L z + 2^(s-1) = 2^s q + r,   r in 0 .. 2^s          s = 15 - b, b = floor((29 - bl(n - 1)) / 2)
//! S = sum q^2                                         a contraction
//! S' = S + eps_e - g (S + eps_e - 2^29)               g = 1 where S + eps_e is above 2^29, 0 where it is below
//! rho^2 S' <= 2^(2 kk) n < (rho + 1)^2 S',   rho in 2^13 .. 2^14          in digits
//! ```
//!
//! eps_e = floor(norm_eps / 2^(2 (e + s))) comes from a table over e.

use super::digits::{Position, add_digits, add_product, digits_of};
use super::quantise::{Sixteen, SixteenPart, part_name};
use super::ranges::Width;
use super::{Builder, each, whole};
use crate::circuit::{Linear, Source};
use crate::field::{power_of_two, residue};
use crate::integer::{bit_length, rsh};
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use p3_field::PrimeField32;

/// The largest sum of squares.
const SUM_MAX: u128 = 1 << 29;
/// Bits of the factor, without its highest.
const RHO_BITS: u32 = 13;
/// The key of a vector of zeros among those of epsilons, which are e.
const ZERO_KEY: i64 = -16;
/// Largest shift of a vector; the least is as far on the other side of 0.
const E_MAX: i64 = 15;
/// How far apart the keys of epsilons lie for two shifts in front of a mean that was subtracted.
const E_STEP: i64 = 64;
/// Exponents of four: 2^13 <= 2^kk sqrt(n / S') < 2^14.
const POWERS: core::ops::RangeInclusive<i64> = 0..=29;
/// Digits of `2^(2 kk) n`.
const PRODUCT_DIGITS: usize = 6;
/// Bits of `2^(2 kk) n`, which is below `(rho + 1)^2 S'`: at most 2^28 times [`SUM_MAX`]. A power with more has no entry; cut to its digits, it would
/// be that of another n.
const PRODUCT_BITS: u32 = 57;

/// Which norm: its width and its epsilon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Norm {
    /// n.
    pub width: usize,
    /// `round(n eps 2^(2R))`.
    pub eps: u64,
}

impl Norm {
    /// Bits of what is squared.
    fn bits(&self) -> u32 {
        (29 - bit_length(self.width as i64 - 1)) / 2
    }

    /// Bits that x16 is rounded by before it is squared.
    #[must_use]
    pub fn rounds(&self) -> u32 {
        15 - self.bits()
    }

    /// The same over what is left when the mean of x 2^-e is subtracted: n times as much.
    fn centred(&self, e: i64) -> Norm {
        let eps = u128::from(self.eps) * (self.width as u128).pow(2);
        let bits = 2 * e.unsigned_abs() as u32;
        let eps = if e < 0 { eps << bits } else { eps >> bits };
        Norm { eps: u64::try_from(eps).unwrap_or(u64::MAX), ..*self }
    }

    /// What is added to the squares of a vector with this key: its e, or that of a vector of zeros, whose e is 0 and whose sum is at least 1.
    fn eps_behind(&self, key: i64, s: i64) -> i64 {
        if key == ZERO_KEY { self.eps_at(s).max(1) } else { self.eps_at(key + s) }
    }

    /// `floor(eps / 2^(2 es))`, at most 2^29.
    fn eps_at(&self, es: i64) -> i64 {
        let eps = u128::from(self.eps);
        let shifted = if es < 0 { eps << (-2 * es).min(60) } else { eps >> (2 * es).min(127) };
        shifted.min(SUM_MAX) as i64
    }
}

impl<B: PrimeField32> Builder<'_, B> {
    /// The factor rho of a norm, and the base of the codes that it gives.
    pub fn norm(&mut self, name: &str, x: &Sixteen<B>, norm: Norm) -> (Linear<B>, Linear<B>) {
        let (rho, kk) = self.factor(name, x, norm, None);
        let base = x.e.clone().plus(&kk).offset(residue(norm.rounds().into())).times(B::NEG_ONE);
        (rho, base)
    }

    /// rho and kk of a norm. Where x is what is left of vectors in 16 bits whose mean was subtracted, `centred` is the shift of these.
    pub fn factor(
        &mut self,
        name: &str,
        x: &Sixteen<B>,
        norm: Norm,
        centred: Option<&Linear<B>>,
    ) -> (Linear<B>, Linear<B>) {
        let vectors = x.log_vectors;
        let mut squares = Linear::constant(B::ZERO);
        for (at, part) in x.parts.iter().enumerate() {
            let (log, name) = (vectors + part.log_channels, part_name(name, at));
            let q = match part.rounded {
                Some(source) => source,
                None => self.rounded(&name, x, part, norm),
            };
            let sum = self.sum_over(q, Some(&whole(q, log)), (vectors, part.log_channels));
            squares = squares.plus(&sum);
        }
        let s = i64::from(norm.rounds());
        let (table, mut key) = match centred {
            None => {
                let name = format!("norm of {} and {}", norm.width, norm.eps);
                let entry = |key: i64| vec![key, norm.eps_behind(key, s)];
                (self.table(&name, || (ZERO_KEY..=E_MAX).map(entry).collect()), x.e.clone())
            }
            Some(e) => {
                let name = format!("centred norm of {} and {}", norm.width, norm.eps);
                let entry = |(e, key): (i64, i64)| vec![E_STEP * e + key, norm.centred(e).eps_behind(key, s)];
                let keys = || (-E_MAX..=E_MAX).flat_map(|e| (ZERO_KEY..=E_MAX).map(move |key| (e, key)));
                let key = e.clone().times(residue(E_STEP)).plus(&x.e);
                (self.table(&name, || keys().map(entry).collect()), key)
            }
        };
        if let Some(zero) = &x.zero {
            key = key.plus(&zero.clone().times(residue(ZERO_KEY)));
        }
        let eps = self.fetch(&format!("{name} epsilon"), table, vectors, key).remove(0);
        let sum = squares.plus(&eps);
        let sum = self.capped(&format!("{name} sum"), vectors, &sum);
        self.inverse_root(name, vectors, &sum, norm)
    }

    /// q, where no lookup of z has it.
    fn rounded(&mut self, name: &str, x: &Sixteen<B>, part: &SixteenPart<B>, norm: Norm) -> Source {
        let (vectors, channels) = (x.log_vectors, part.log_channels);
        let (log, s) = (vectors + channels, norm.rounds());
        let lefts = self.lefts(x);
        let z = self.integers(&part.z, log);
        let x16: Vec<i64> = each(z.len(), |at| z[at] * lefts[at >> channels]);
        let q_source = self.commit(&format!("{name} q"), log, each(x16.len(), |at| rsh(x16[at], s)));
        let q = Linear::view(whole(q_source, log));
        let bits = norm.bits() + 1;
        self.in_range(&format!("{name} q"), log, bits + 1, &q.clone().offset(power_of_two(bits)));
        let rest = {
            let q = self.integers(&q, log);
            each(x16.len(), |at| x16[at] + (1 << (s - 1)) - (q[at] << s))
        };
        let rest = self.value(&format!("{name} remainder"), log, Width::Fixed(s), rest);
        let both = q.clone().times(power_of_two(s)).plus(&rest).offset(-power_of_two::<B>(s - 1));
        let left = x.left.clone().unwrap_or_else(|| Linear::constant(B::ONE));
        self.constrain(log, vec![(B::ONE, left, part.z.clone())], both.times(B::NEG_ONE));
        q_source
    }

    /// `min(x, 2^29)`, for x from 0 to 2^30.
    fn capped(&mut self, name: &str, log: usize, x: &Linear<B>) -> Linear<B> {
        let limit = SUM_MAX as i64;
        let above = x.clone().offset(-residue::<B>(limit));
        let order = i64::from(B::ORDER_U32);
        let values: Vec<i64> = self.integers(x, log).into_iter().map(|x| x.rem_euclid(order)).collect();
        let flags = values.iter().map(|x| i64::from(*x > limit)).collect();
        let flag = Linear::view(whole(self.boolean(&format!("{name} above"), log, flags), log));
        let flags = self.integers(&flag, log);
        let distance = values.iter().zip(&flags).map(|(x, flag)| (2 * flag - 1) * (x - limit)).collect();
        let distance = self.value(&format!("{name} distance"), log, Width::Fixed(30), distance);
        self.constrain(
            log,
            vec![(B::TWO, flag.clone(), above.clone())],
            distance.plus(&above).times(B::NEG_ONE),
        );
        let capped = values.iter().zip(&flags).map(|(x, flag)| x - flag * (x - limit)).collect();
        let capped = Linear::view(whole(self.commit(name, log, capped), log));
        self.constrain(log, vec![(B::ONE, flag, above)], capped.clone().minus(x));
        capped
    }

    /// rho and kk: `rho^2 S <= 2^(2 kk) n < (rho + 1)^2 S`.
    fn inverse_root(
        &mut self,
        name: &str,
        log: usize,
        sum: &Linear<B>,
        norm: Norm,
    ) -> (Linear<B>, Linear<B>) {
        let n = norm.width as u128;
        let sums: Vec<u128> = self.integers(sum, log).into_iter().map(|s| s.max(1) as u128).collect();
        let rho_at = |kk: i64, s: u128| ((n << (2 * kk)) / s).isqrt();
        let kk_of = |s: &u128| POWERS.clone().find(|kk| rho_at(*kk, *s) >= 1 << RHO_BITS).unwrap_or(0);
        let kks = sums.iter().map(kk_of).collect();
        let kk = Linear::view(whole(self.commit(&format!("{name} kk"), log, kks), log));
        let table = self.table(&format!("powers for {}", norm.width), || {
            let entry = |kk: i64| {
                core::iter::once(kk).chain(digits_of(n << (2 * kk), PRODUCT_DIGITS)).collect::<Vec<_>>()
            };
            POWERS.filter(|kk| n << (2 * kk) < 1 << PRODUCT_BITS).map(entry).collect()
        });
        let products = self.fetch(&format!("{name} power"), table, log, kk.clone());
        let kks = self.integers(&kk, log);
        let power = |at: usize| n << (2 * kks[at].clamp(0, *POWERS.end()));
        let rhos = sums
            .iter()
            .zip(&kks)
            .map(|(s, kk)| rho_at(*kk.clamp(&0, POWERS.end()), *s) as i64 - (1 << RHO_BITS));
        let rhos = rhos.collect();
        let rho = self.value(&format!("{name} rho"), log, Width::Fixed(RHO_BITS), rhos);
        let rho = rho.offset(power_of_two(RHO_BITS));

        let rho_values: Vec<u128> =
            self.integers(&rho, log).into_iter().map(|rho| rho.max(0) as u128).collect();
        let squares: Vec<u128> = rho_values.iter().map(|rho| rho * rho).collect();
        let square = self.digits(&format!("{name} rho squared"), log, 3, &squares);
        let mut whole_square = Linear::constant(B::ZERO);
        for (i, digit) in square.iter().enumerate() {
            whole_square = whole_square.plus(&digit.clone().times(power_of_two(10 * i as u32)));
        }
        self.constrain(log, vec![(B::ONE, rho.clone(), rho.clone())], whole_square.times(B::NEG_ONE));
        let sum_digits = self.digits_of(&format!("{name} sum"), log, sum, 3);
        let below: Vec<u128> =
            (0..sums.len()).map(|at| power(at).saturating_sub(squares[at] * sums[at])).collect();
        let below_digits = self.digits(&format!("{name} below"), log, 5, &below);
        let mut positions: Vec<Position<B>> = (0..PRODUCT_DIGITS).map(|_| Position::new()).collect();
        add_digits(&mut positions, B::ONE, &products);
        add_product(&mut positions, B::NEG_ONE, &square, &sum_digits);
        add_digits(&mut positions, B::NEG_ONE, &below_digits);
        self.balance(&format!("{name} at most"), log, positions);

        // (2 rho + 1) S - 1 - D is not negative either.
        let odd = rho.clone().times(B::TWO).offset(B::ONE);
        let odd_digits = self.digits_of(&format!("{name} odd"), log, &odd, 2);
        let above: Vec<u128> = (0..sums.len())
            .map(|at| ((2 * rho_values[at] + 1) * sums[at]).saturating_sub(1 + below[at]))
            .collect();
        let above_digits = self.digits(&format!("{name} above"), log, 5, &above);
        let mut positions: Vec<Position<B>> = (0..5).map(|_| Position::new()).collect();
        add_product(&mut positions, B::ONE, &odd_digits, &sum_digits);
        add_digits(&mut positions, B::NEG_ONE, &below_digits);
        add_digits(&mut positions, B::NEG_ONE, &above_digits);
        positions[0].linear = positions[0].linear.clone().offset(B::NEG_ONE);
        self.balance(&format!("{name} above all"), log, positions);
        (rho, kk)
    }
}
