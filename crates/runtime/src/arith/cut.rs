//! How a vector is cut to int8 codes (docs/spec/arithmetic.md, section 2): the finest of sixteen steps an octave that holds
//! every code.
//!
//! ```text
//! code = rsh(floor(x / 2^e) rho_k, sh),   it means code k/16 2^f,   f = sh + e + base
//! ```
//! A proof shows each code by ranges, so these alone say that no value is too large for the step. That no smaller step would do is shown
//! by one element, the one of largest |x16|, the positive one on a tie. For with h = 2^(s-1) and p >= 0
//!
//! ```text
//! rsh( p, s) <=  127  if  p <= 127 2^s + h - 1
//! rsh(-p, s) >= -127  if  p <= 127 2^s + h
//! ```
//! so a negative product may be one larger than a positive one; but products of different magnitudes differ by rho_k at least.
//! What fits no step (k, sh) fits no smaller one: `rho_k / 2^sh` grows as `k 2^sh` falls.

use super::{Extent, rsh, x16};
use lockstep_base::limits::STEP_MANTISSA_MIN;

/// `round(2^18 / k)` for k = 16 to 31: reciprocals of the step mantissas, 14 bits.
pub const RECIPROCALS: [i32; 16] = reciprocals();
/// rho of a plain quantisation site: 1.0 with 14 fractional bits.
pub const RHO_ONE: i32 = 1 << 14;
/// Largest code.
const CODE_MAX: i32 = 127;

/// Step of a vector of codes: a code means `code * k/16 * 2^f`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Step {
    /// Mantissa, 16 to 31 (sixteenths).
    pub k: u8,
    /// Exponent.
    pub f: i16,
}

/// How a vector is cut to codes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// First shift, to 16 bits: -15 to 15.
    pub e: i32,
    /// Multiplier with the reciprocal of the step mantissa folded in, at most 2^14.
    pub rho_k: i32,
    /// Second shift, to 8 bits: 0 (all zero) or 19 to 22.
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

/// Chooses the step of a vector (section 2, steps 1 to 3). The ops give less than 2^30; what a fault leaves above
/// it gets a step too.
#[must_use]
pub fn choose_cut(extent: Extent, rho: i32, base: i32) -> Cut {
    debug_assert!((1 << 13..=1 << 14).contains(&rho));
    let e = extent.shift16();
    let ends = extent.map(|x| x16(x, e));
    let rho_of = |at: usize| rsh(rho * RECIPROCALS[at], 14);
    let products = |at: usize| ends.map(|x| x * rho_of(at));
    // Reciprocals fall as k grows, and halve at most: every sh_k is that of k = 16 or one less, and one less
    // makes the smaller step. So the first k that fits with one less is the choice, if there is one.
    let most = products(0).smallest_shift(CODE_MAX);
    let finer = (most > 0).then(|| (1..RECIPROCALS.len()).find(|at| products(*at).fits(most - 1, CODE_MAX)));
    let (at, sh) = finer.flatten().map_or((0, most), |at| (at, most - 1));
    let (k, f) = (STEP_MANTISSA_MIN + at as u8, sh as i32 + e + base);
    Cut { e, rho_k: rho_of(at), sh, step: Step { k, f: f as i16 } }
}

/// Code of one value (section 2, step 4).
#[inline(always)]
#[must_use]
pub const fn code(x: i32, cut: &Cut) -> i8 {
    rsh(x16(x, cut.e) * cut.rho_k, cut.sh) as i8
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_base::rng::SplitMix64;

    const RHOS: [i32; 4] = [1 << 13, 9_999, 12_000, RHO_ONE];

    /// Section 2: codes stay in [-127, 127], the largest is at least 119, and values are normalised to 16 bits.
    #[test]
    fn codes_fill_the_range() {
        for magnitude in
            (0..30).flat_map(|bits| [(1 << bits) - 1, 1 << bits, (1 << bits) + 1, 5 << bits >> 2])
        {
            for x in [magnitude, -magnitude] {
                for rho in RHOS {
                    let cut = choose_cut(Extent::of(&[x]), rho, 0);
                    let code = i32::from(code(x, &cut));
                    assert!(
                        (-127..=127).contains(&code) && (x == 0 || code.abs() >= 119),
                        "{x} {rho} {cut:?} {code}"
                    );
                    assert!(
                        code.signum() == x.signum() && (x == 0 || (19..=22).contains(&cut.sh)),
                        "{x} {rho} {cut:?}"
                    );
                    let x16 = i64::from(x16(x, cut.e));
                    assert!(
                        x == 0 || (-32_768..-16_384).contains(&x16) || (16_384..32_768).contains(&x16),
                        "{x} {cut:?}"
                    );
                }
            }
        }
    }

    /// Section 2, steps 2 and 3 as they are written: the smallest k 2^sh_k of all k.
    #[test]
    fn the_step_is_the_smallest_of_sixteen() {
        let mut rng = SplitMix64::new(2);
        for case in 0..20_000u32 {
            let mut any = || (rng.next_u64() as i32 >> 2) >> (case % 30);
            let x = [any(), any()];
            let rho = (1 << 13) + rng.below((1 << 13) + 1) as i32;
            let e = Extent::of(&x).shift16();
            let of = |(k, reciprocal): (u8, i32)| {
                let rho_k = rsh(rho * reciprocal, 14);
                let fits = |s: &u32| x.iter().all(|x| (-127..=127).contains(&rsh(x16(*x, e) * rho_k, *s)));
                let sh = (0..).find(fits).expect("a shift");
                (u64::from(k) << sh, Cut { e, rho_k, sh, step: Step { k, f: sh as i16 + e as i16 } })
            };
            let best = (16..).zip(RECIPROCALS).map(of).min_by_key(|(size, _)| *size).expect("sixteen");
            assert_eq!(choose_cut(Extent::of(&x), rho, 0), best.1, "x {x:?} rho {rho}");
        }
    }

    /// The module's claim on one side and the other: for every factor and shift, the largest x16 that fits and the largest
    /// -x16 that fits are equal, or the second is one more. So the largest |x16| binds, the positive one on a tie.
    #[test]
    fn the_negative_side_holds_one_more_at_most() {
        for rho in RHOS {
            for reciprocal in RECIPROCALS {
                let rho_k = rsh(rho * reciprocal, 14);
                for sh in 18..24 {
                    let fits = |x16: i32| (-127..=127).contains(&rsh(x16 * rho_k, sh));
                    let last =
                        |sign: i32| (0..=1 << 15).take_while(|m| fits(sign * m)).last().expect("0 fits");
                    let (above, below) = (last(1), last(-1));
                    assert!(below == above || below == above + 1, "rho_k {rho_k} sh {sh}: {above} {below}");
                }
            }
        }
    }

    /// What a proof shows: the one element alone has the step of the whole vector, and the next smaller
    /// step, or first shift, does not hold it.
    #[test]
    fn one_element_binds() {
        let mut rng = SplitMix64::new(3);
        for case in 0..20_000u32 {
            let bits = case % 30;
            let first = (1 << bits) + (rng.next_u64() as i32 & ((1 << bits) - 1));
            let second = first.wrapping_add(rng.below(5) as i32 - 2).clamp(1, (1 << 30) - 1);
            let x = if case % 3 == 0 { [-first, second] } else { [first, -second] };
            let rho = RHOS[case as usize % RHOS.len()];
            let cut = choose_cut(Extent::of(&x), rho, 0);
            let one = *x.iter().max_by_key(|x| (x16(**x, cut.e).abs(), **x)).expect("two");
            assert_eq!(choose_cut(Extent::of(&[one]), rho, 0), cut, "x {x:?} rho {rho}");
            let halved = x16(one, cut.e);
            assert!(
                !(-(1 << 14)..1 << 14).contains(&halved),
                "x {x:?}: first shift {} is not the smallest",
                cut.e
            );
            let at = usize::from(cut.step.k - STEP_MANTISSA_MIN);
            let (next, sh) = if at == 0 { (RECIPROCALS.len() - 1, cut.sh - 1) } else { (at - 1, cut.sh) };
            let code = rsh(halved * rsh(rho * RECIPROCALS[next], 14), sh);
            assert!(!(-127..=127).contains(&code), "x {x:?} rho {rho}: {code} fits the next smaller step");
        }
    }
}
