//! The rounding rule and the few scalar functions that every op is made of
//! (docs/spec/arithmetic.md, sections 1 to 3). This is the specification.

mod cut;
mod extent;
mod gain;
mod route;
mod soft_cap;
mod value_step;

pub use cut::{Cut, RECIPROCALS, RHO_ONE, Step, choose_cut, code};
pub use extent::{Extent, x16};
pub use gain::{NORMALISED_BITS, gain_norm};
pub use route::{Choice, route};
pub use soft_cap::soft_cap;
pub use value_step::{value_cut, value_exponent, value_mantissa, value_step_byte};

/// Largest magnitude of a value that a proof sees: 127 * 2^23, the balanced range of the field.
pub const LIMIT: i32 = 127 << 23;
/// Residual values are at least its negative, and below it: what 16 bits and a shift of 13 hold, which is what a proof shows of them.
pub const RESIDUAL_LIMIT: i32 = 1 << 28;
/// Logits are below this in magnitude: then no two differ by more than a proof compares.
pub const LOGIT_LIMIT: i32 = 1 << 28;
/// Scores in Q8 octaves are below this in magnitude, before anything falls with distance.
pub const SCORE_LIMIT: i32 = 1 << 27;
/// What the adapter of a matrix adds to the residual stream is at least the negative of this, and below it.
pub const ADAPTED_LIMIT: i32 = 1 << 26;
/// Shifts above this give 0.
pub const SHIFT_MAX: i32 = 28;

/// A value left the range that the specification gives it. Every machine meets the same error at
/// the same place, so it is a defined result of a computation.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
#[error("range error in {what}: got magnitude {got}, expected at most {limit}")]
pub struct RangeError {
    /// The step of the specification.
    pub what: &'static str,
    /// The magnitude that was met.
    pub got: i64,
    /// The bound.
    pub limit: i64,
}

/// `floor((x + 2^(s-1)) / 2^s)`, `x` for s = 0: round half up; s <= 31.
///
/// Every |x| of the specification is below 2^30. Halving last keeps the sum inside i32 for any x
/// that a fault may leave, but `i32::MAX` at s = 1, which wraps.
#[inline(always)]
#[must_use]
pub const fn rsh(x: i32, s: u32) -> i32 {
    if s == 0 { x } else { (x >> (s - 1)).wrapping_add(1) >> 1 }
}

/// `rsh` for 0 <= s <= 28, 0 above, an exact multiplication by 2^-s below 0.
///
/// # Errors
/// [`RangeError`] if the product would exceed [`LIMIT`].
pub const fn scale(x: i32, s: i32, what: &'static str) -> Result<i32, RangeError> {
    if s > SHIFT_MAX {
        Ok(0)
    } else if s >= 0 {
        Ok(rsh(x, s as u32))
    } else {
        // Above 2^32 even 1 leaves the range; capping the shift keeps the product inside i64.
        let shift = if s < -32 { 32 } else { -s };
        let product = (x as i64) << shift;
        if product > LIMIT as i64 || product < -(LIMIT as i64) {
            return Err(RangeError { what, got: product.abs(), limit: LIMIT as i64 });
        }
        Ok(product as i32)
    }
}

/// Bit length: 0 for 0.
#[inline(always)]
#[must_use]
pub const fn bit_length(x: u32) -> u32 {
    u32::BITS - x.leading_zeros()
}

/// The check of a **range** clause: `magnitude` is at most `limit`.
///
/// # Errors
/// [`RangeError`] if it is not.
pub const fn within(magnitude: i64, limit: i64, what: &'static str) -> Result<(), RangeError> {
    if magnitude > limit { Err(RangeError { what, got: magnitude, limit }) } else { Ok(()) }
}

/// The **range** of values that two's complement of some bits has: `-limit <= x < limit`.
///
/// # Errors
/// [`RangeError`] if it is not.
pub const fn halves(x: i64, limit: i32, what: &'static str) -> Result<(), RangeError> {
    // The magnitude, less 1 below zero.
    within(x ^ (x >> 63), limit as i64 - 1, what)
}

/// Section 5: an embedded value, `scale(code, F_e - R)`, within [`RESIDUAL_LIMIT`].
///
/// # Errors
/// [`RangeError`] if it is not.
pub const fn embedded(code: i16, frac: i32, residual_frac: i32) -> Result<i32, RangeError> {
    match scale(code as i32, frac - residual_frac, "embedding") {
        Ok(x) => match halves(x as i64, RESIDUAL_LIMIT, "embedding") {
            Ok(()) => Ok(x),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// Section 5: the sum of two residual values, within [`RESIDUAL_LIMIT`].
///
/// # Errors
/// [`RangeError`] if it is not.
#[inline(always)]
pub const fn residual_sum(a: i32, b: i32) -> Result<i32, RangeError> {
    let sum = a as i64 + b as i64;
    match halves(sum, RESIDUAL_LIMIT, "residual stream") {
        Ok(()) => Ok(sum as i32),
        Err(error) => Err(error),
    }
}

/// b of a norm over `n` values: squares of `b` bits keep the sum of `n` of them at 2^29 at most. 7 for n = 16,384, 9 for
/// 2,048, 11 for 128.
#[must_use]
pub const fn square_bits(n: usize) -> u32 {
    (29 - bit_length(n as u32 - 1)) / 2
}

/// es of a norm over `n` values whose first shift is `e`: how far values are shifted before they are squared.
#[must_use]
pub const fn square_shift(n: usize, e: i32) -> i32 {
    e + 15 - square_bits(n) as i32
}

/// Step 1 of the norm (section 3) for a vector whose first shift is `e`: `(es, S)`.
#[must_use]
pub fn sum_of_squares(x: &[i32], e: i32) -> (i32, i32) {
    let shift = 15 - square_bits(x.len());
    let squares = x.iter().map(|v| rsh(x16(*v, e), shift)).map(|q| q.wrapping_mul(q));
    (square_shift(x.len(), e), squares.fold(0, i32::wrapping_add))
}

/// Step 2 of the norm: S' in `[1, 2^29]`.
#[must_use]
pub fn regularised(s: i32, es: i32, norm_eps: u64) -> u32 {
    let most = 1u64 << 29;
    let bits = 2 * es.unsigned_abs();
    // What is shifted to the left is cut first, so that it stays inside u64: es >= -15.
    let eps =
        if es < 0 { norm_eps.min(most) << bits.min(30) } else { norm_eps.checked_shr(bits).unwrap_or(0) };
    (s as u64 + eps.min(most)).clamp(1, most) as u32
}

/// Step 3 of the norm: `(rho, kk)` with `rho^2 S' <= 2^(2 kk) n < (rho + 1)^2 S'`.
#[must_use]
pub fn inverse_rms(s_prime: u32, n: u32) -> (i32, u32) {
    // The first guess is at most one too small: rho doubles with kk.
    let rho_at = |kk: u32| ((u128::from(n) << (2 * kk)) / u128::from(s_prime)).isqrt();
    let mut kk = 0;
    while rho_at(kk) < 1 << 13 {
        kk += 1;
    }
    (rho_at(kk) as i32, kk)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    /// Section 1: round half up, also below zero.
    #[test]
    fn rsh_rounds_half_up() {
        assert_eq!([rsh(3, 1), rsh(-3, 1), rsh(5, 2), rsh(-6, 2), rsh(7, 0)], [2, -1, 1, -1, 7]);
        for x in [i32::MIN, -LIMIT, -5, -1, 0, 1, 6, 1 << 29, LIMIT, i32::MAX - 1] {
            for s in 1..=31 {
                let exact = (i64::from(x) + (1 << (s - 1))) >> s;
                assert_eq!(rsh(x, s), exact as i32, "x {x} s {s}");
            }
        }
    }

    /// Section 3: S is that of the rounded values x 2^-es, at most 2^29, and scaling by a power of two moves es alone.
    #[test]
    fn squares_are_those_of_normalised_values() {
        for n in [1usize, 2, 64, 129, 2048, 16_384] {
            let mut rng = lockstep_base::rng::SplitMix64::new(n as u64);
            for case in 0..60u32 {
                let bits = case % 30;
                let x: Vec<i32> = match case {
                    0..30 => (0..n).map(|_| (rng.next_u64() as i32 >> 1) >> bits).collect(),
                    // All at one end of the range.
                    _ => vec![if case % 2 == 0 { -(1 << bits) } else { 1 << bits }; n],
                };
                let e = Extent::of(&x).shift16();
                let (es, sum) = sum_of_squares(&x, e);
                assert!((0..=1 << 29).contains(&sum), "n {n} case {case}: {sum}");
                let root = |x: &i32| i64::from(scale(*x, es, "a root").expect("in range"));
                let exact: i64 = x.iter().map(|x| root(x) * root(x)).sum();
                assert_eq!(exact, sum.into(), "n {n} case {case}");
                if x.iter().all(|x| x.abs() < 1 << 29) && sum > 0 {
                    let doubled: Vec<i32> = x.iter().map(|x| 2 * x).collect();
                    let e = Extent::of(&doubled).shift16();
                    assert_eq!(sum_of_squares(&doubled, e), (es + 1, sum), "n {n} case {case}");
                }
            }
        }
    }

    /// Section 3: rho is the unique integer of the stated inequality.
    #[test]
    fn rho_satisfies_its_inequality() {
        for n in [1u32, 64, 288, 4096, 16_384] {
            for s in [0, 1, 4096, 16_129, 1 << 20, 1 << 29] {
                for eps in [0, 42, 1 << 40] {
                    for es in [-14, -2, 0, 31, 32, 40] {
                        let scaled =
                            if es < 0 { u128::from(eps) << (-2 * es) } else { u128::from(eps) >> (2 * es) };
                        let expected = (s as u128 + scaled).clamp(1, 1 << 29);
                        assert_eq!(u128::from(regularised(s, es, eps)), expected, "s {s} es {es} eps {eps}");
                    }
                    let s_prime = regularised(s, 3, eps);
                    let (rho, kk) = inverse_rms(s_prime, n);
                    let s_prime = u128::from(s_prime);
                    let rho = rho as u128;
                    assert!((1 << 13..1 << 14).contains(&rho));
                    assert!(rho * rho * s_prime <= u128::from(n) << (2 * kk));
                    assert!(u128::from(n) << (2 * kk) < (rho + 1) * (rho + 1) * s_prime);
                }
            }
        }
    }
}
