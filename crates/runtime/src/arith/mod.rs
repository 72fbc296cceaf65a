//! The rounding rule and the few scalar functions that every op is made of
//! (docs/spec/arithmetic.md, sections 1 to 3). This is the specification.

mod gain;
mod route;
mod soft_cap;
mod value_step;

pub use gain::{NORMALISED_BITS, gain_norm};
pub use route::{Choice, route};
pub use soft_cap::soft_cap;
pub use value_step::{value_cut, value_exponent, value_mantissa, value_step_byte};

use lockstep_base::limits::STEP_MANTISSA_MIN;

/// Largest magnitude of a value that a proof sees: 127 * 2^23, the balanced range of the field.
pub const LIMIT: i32 = 127 << 23;
/// Residual values are below this in magnitude.
pub const RESIDUAL_LIMIT: i32 = 1 << 29;
/// Shifts above this give 0.
pub const SHIFT_MAX: i32 = 28;
/// `round(2^18 / k)` for k = 16 to 31: reciprocals of the step mantissas, 14 bits.
pub const RECIPROCALS: [i32; 16] = reciprocals();
/// rho of a plain quantisation site: 1.0 with 14 fractional bits.
pub const RHO_ONE: i32 = 1 << 14;

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

/// Step of a vector of codes: a code means `code * k/16 * 2^f`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Step {
    /// Mantissa, 16 to 31 (sixteenths).
    pub k: u8,
    /// Exponent.
    pub f: i16,
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

/// The smallest s >= 0 with `rsh(x, s) <= bound`, for x >= 0 and bound >= 1.
#[must_use]
pub const fn smallest_shift(x: i32, bound: i32) -> u32 {
    // bl(x) - bl(bound) - 1 shifts are too few or just enough, so the loop runs at most three times.
    let mut s = bit_length(x as u32).saturating_sub(bit_length(bound as u32) + 1);
    while rsh(x, s) > bound {
        s += 1;
    }
    s
}

/// Largest magnitude in `x`; 0 for an empty slice. `i32::MIN`, which no op gives, counts as `i32::MAX`.
#[must_use]
pub fn max_abs(x: &[i32]) -> i32 {
    x.iter().map(|v| v.saturating_abs()).max().unwrap_or(0)
}

/// The check of a **range** clause: `magnitude` is at most `limit`.
///
/// # Errors
/// [`RangeError`] if it is not.
pub const fn within(magnitude: i64, limit: i64, what: &'static str) -> Result<(), RangeError> {
    if magnitude > limit { Err(RangeError { what, got: magnitude, limit }) } else { Ok(()) }
}

/// Section 5: an embedded value, `scale(code, F_e - R)`, below [`RESIDUAL_LIMIT`].
///
/// # Errors
/// [`RangeError`] if it is not.
pub const fn embedded(code: i16, frac: i32, residual_frac: i32) -> Result<i32, RangeError> {
    match scale(code as i32, frac - residual_frac, "embedding") {
        Ok(x) => match within((x as i64).abs(), RESIDUAL_LIMIT as i64 - 1, "embedding") {
            Ok(()) => Ok(x),
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// Section 5: the sum of two residual values, below [`RESIDUAL_LIMIT`].
///
/// # Errors
/// [`RangeError`] if it is not.
#[inline(always)]
pub const fn residual_sum(a: i32, b: i32) -> Result<i32, RangeError> {
    let sum = a as i64 + b as i64;
    match within(sum.abs(), RESIDUAL_LIMIT as i64 - 1, "residual stream") {
        Ok(()) => Ok(sum as i32),
        Err(error) => Err(error),
    }
}

/// How a vector is cut to codes (section 2): `code = rsh(rsh(x, e) * rho_k, sh)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// First shift, to 16 bits.
    pub e: u32,
    /// Multiplier with the reciprocal of the step mantissa folded in, at most 2^14.
    pub rho_k: i32,
    /// Second shift, to 8 bits.
    pub sh: u32,
    /// The step of the codes.
    pub step: Step,
}

const fn reciprocals() -> [i32; 16] {
    let mut table = [0; 16];
    let mut at = 0;
    while at < 16 {
        let k = STEP_MANTISSA_MIN as i32 + at as i32;
        table[at] = ((1 << 18) + k / 2) / k;
        at += 1;
    }
    table
}

/// Chooses the step of a vector with largest magnitude `max` (section 2, steps 1 to 3). The ops
/// give less than 2^30; what a fault leaves above it gets a step too.
#[must_use]
pub fn choose_cut(max: i32, rho: i32, base: i32) -> Cut {
    debug_assert!((1 << 13..=1 << 14).contains(&rho));
    let e = smallest_shift(max, 32_767);
    let m16 = rsh(max, e);
    let rho_of = |at: usize| rsh(rho * RECIPROCALS[at], 14);
    // Reciprocals fall as k grows, and halve at most: every sh_k is that of k = 16 or one less, and one less
    // makes the smaller step. So the first k that fits with one less is the choice, if there is one.
    let most = smallest_shift(m16 * rho_of(0), 127);
    let finer = (most > 0).then(|| (1..RECIPROCALS.len()).find(|at| rsh(m16 * rho_of(*at), most - 1) <= 127));
    let (at, sh) = finer.flatten().map_or((0, most), |at| (at, most - 1));
    let (k, f) = (STEP_MANTISSA_MIN + at as u8, sh as i32 + e as i32 + base);
    Cut { e, rho_k: rho_of(at), sh, step: Step { k, f: f as i16 } }
}

/// Code of one value (section 2, step 4).
#[inline(always)]
#[must_use]
pub const fn code(x: i32, cut: &Cut) -> i8 {
    rsh(rsh(x, cut.e) * cut.rho_k, cut.sh) as i8
}

/// Largest magnitude of what is squared in a norm over `n` values: as many bits as keep the sum of `n`
/// squares below 2^29; 127 for n = 16,384, 511 for 2,048, 2,047 for 128.
#[must_use]
pub const fn square_bound(n: usize) -> i32 {
    (1 << ((29 - bit_length(n as u32 - 1)) / 2)) - 1
}

/// Step 1 of the norm (section 3) for a vector with largest magnitude `max`: `(es, S)`.
#[must_use]
pub fn sum_of_squares(x: &[i32], max: i32) -> (u32, i32) {
    let es = smallest_shift(max, square_bound(x.len()));
    (es, x.iter().map(|v| rsh(*v, es)).map(|q| q.wrapping_mul(q)).fold(0, i32::wrapping_add))
}

/// Step 2 of the norm: S' in `[1, 2^29]`.
#[must_use]
pub fn regularised(s: i32, es: u32, norm_eps: u64) -> u32 {
    let eps = norm_eps.checked_shr(2 * es).unwrap_or(0).min(1 << 29);
    (s as u64 + eps).clamp(1, 1 << 29) as u32
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

    /// Section 2: "the smallest s", checked against its definition on all bit lengths.
    #[test]
    fn smallest_shift_is_the_smallest() {
        for bits in 0..30 {
            for x in [(1i32 << bits) - 1, 1 << bits, (1 << bits) + 1, 3 << bits >> 1] {
                for bound in [127, 1023, 2047, 32_767] {
                    let s = smallest_shift(x, bound);
                    assert!(rsh(x, s) <= bound);
                    assert!(s == 0 || rsh(x, s - 1) > bound, "x {x} bound {bound} s {s}");
                }
            }
        }
    }

    /// Section 2: codes stay in [-127, 127] and the step is the finest that allows it.
    #[test]
    fn codes_fill_the_range() {
        for max in [0, 1, 2, 127, 128, 1000, 32_767, 32_768, 40_000, 1 << 20, (1 << 29) + 12_345] {
            for rho in [1 << 13, 12_000, RHO_ONE] {
                let cut = choose_cut(max, rho, 0);
                let (top, bottom) = (code(max, &cut), code(-max, &cut));
                assert!(i32::from(top) <= 127 && i32::from(bottom) >= -127, "{max} {cut:?}");
                assert!(max == 0 || i32::from(top) >= 119, "{max} {rho} {cut:?} {top}");
            }
        }
    }

    /// Section 2, steps 2 and 3 as they are written: the smallest k 2^sh_k of all k.
    #[test]
    fn the_step_is_the_smallest_of_sixteen() {
        let mut rng = lockstep_base::rng::SplitMix64::new(2);
        for case in 0..20_000u32 {
            let max = (rng.next_u64() as i32 & 0x3fff_ffff) >> (case % 30);
            let rho = (1 << 13) + rng.below((1 << 13) + 1) as i32;
            let e = smallest_shift(max, 32_767);
            let of = |(k, reciprocal): (u8, i32)| {
                let rho_k = rsh(rho * reciprocal, 14);
                let sh = smallest_shift(rsh(max, e) * rho_k, 127);
                (u64::from(k) << sh, Cut { e, rho_k, sh, step: Step { k, f: sh as i16 + e as i16 } })
            };
            let best = (16..).zip(RECIPROCALS).map(of).min_by_key(|(size, _)| *size).expect("sixteen");
            assert_eq!(choose_cut(max, rho, 0), best.1, "max {max} rho {rho}");
        }
    }

    /// Section 3: rho is the unique integer of the stated inequality.
    #[test]
    fn rho_satisfies_its_inequality() {
        for n in [1u32, 64, 288, 4096, 16_384] {
            for s in [0, 1, 4096, 16_129, 1 << 20, 1 << 28] {
                for eps in [0, 42, 1 << 40] {
                    let s_prime = regularised(s, 3, eps);
                    let (rho, kk) = inverse_rms(s_prime, n);
                    assert_eq!(u128::from(s_prime), (s as u128 + (u128::from(eps) >> 6)).clamp(1, 1 << 29));
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
