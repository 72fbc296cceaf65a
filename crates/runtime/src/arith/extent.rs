//! The extent of a vector, and the shifts that follow from it (docs/spec/arithmetic.md, sections 2 and 6).
//!
//! "The smallest shift with which every value fits" is monotone in the value, so the least and the largest value say it
//! for all. Both are needed: rounding half up and two's complement leave the negative side one more than the positive.

use super::{bit_length, rsh};

/// Bits of a value after the first shift, without its sign.
const FIRST_BITS: i32 = 15;

/// The least and the largest of a vector's values and 0: what is fit by a shift fits 0 as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Extent {
    /// At most 0.
    pub min: i32,
    /// At least 0.
    pub max: i32,
}

impl Extent {
    /// Of `x`.
    #[must_use]
    pub fn of(x: &[i32]) -> Extent {
        x.iter().fold(Extent::default(), |all, x| Extent { min: all.min.min(*x), max: all.max.max(*x) })
    }

    /// The largest magnitude. `i32::MIN`, which no op gives, counts as `i32::MAX`.
    #[must_use]
    pub const fn magnitude(self) -> i32 {
        let below = self.min.saturating_neg();
        if below > self.max { below } else { self.max }
    }

    /// e of section 2: the smallest with which every `floor(x / 2^e)` is in [-2^15, 2^15); 0 if all values are 0.
    ///
    /// x >= 0 is below 2^(15+e), and x < 0 is not below -2^(15+e) if -1 - x is below 2^(15+e). So it is -15 where -1 is all
    /// there is, and at most 15 for values below 2^30 in magnitude.
    #[must_use]
    pub const fn shift16(self) -> i32 {
        if self.min == 0 && self.max == 0 {
            return 0;
        }
        // The bit length of the larger of the two.
        bit_length((self.max | (self.min ^ (self.min >> 31))) as u32) as i32 - FIRST_BITS
    }

    /// Whether every `rsh(x, s)` is in [-bound, bound].
    #[must_use]
    pub const fn fits(self, s: u32, bound: i32) -> bool {
        rsh(self.max, s) <= bound && rsh(self.min, s) >= -bound
    }

    /// The smallest s >= 0 that [fits](Extent::fits), for a bound of at least 1.
    #[must_use]
    pub const fn smallest_shift(self, bound: i32) -> u32 {
        // bl(M) - bl(bound) - 1 shifts are too few or just enough, so the loop runs at most three times.
        let mut s = bit_length(self.magnitude() as u32).saturating_sub(bit_length(bound as u32) + 1);
        while !self.fits(s, bound) {
            s += 1;
        }
        s
    }

    /// The extent of all values after `f`, which does not fall.
    #[must_use]
    pub(super) fn map(self, f: impl Fn(i32) -> i32) -> Extent {
        Extent { min: f(self.min), max: f(self.max) }
    }
}

/// `floor(x / 2^e)`: an arithmetic shift, exact for e <= 0. e is -15 to 16.
#[inline(always)]
#[must_use]
pub const fn x16(x: i32, e: i32) -> i32 {
    if e < 0 { x.wrapping_shl(e.unsigned_abs()) } else { x >> e }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_base::rng::SplitMix64;

    fn either_side(bits: u32) -> [i32; 6] {
        let x = 1i32 << bits;
        [x - 1, x, x + 1, 1 - x, -x, -x - 1]
    }

    /// Section 2, step 1, by its definition: e fits and e - 1 does not, for each value alone and with others.
    #[test]
    fn the_first_shift_is_the_smallest() {
        let fits = |x: i32, e: i32| {
            let shifted = (i64::from(x) << 16) >> (e + 16);
            (-(1i64 << 15)..1 << 15).contains(&shifted)
        };
        let mut rng = SplitMix64::new(1);
        for bits in 0..30 {
            for x in either_side(bits) {
                for y in [0, rng.next_u64() as i32 >> (2 + rng.below(30)), -x] {
                    let e = Extent::of(&[x, y]).shift16();
                    if x == 0 && y == 0 {
                        assert_eq!(e, 0);
                        continue;
                    }
                    assert!(fits(x, e) && fits(y, e) && (-15..=15).contains(&e), "{x} {y}: {e}");
                    assert!(!fits(x, e - 1) || !fits(y, e - 1), "{x} {y}: {e}");
                    assert_eq!(i64::from(x16(x, e)), (i64::from(x) << 16) >> (e + 16), "{x} {e}");
                }
            }
        }
        assert_eq!((Extent::of(&[-1, 0]).shift16(), x16(-1, -15)), (-15, -32_768));
    }

    /// Section 6, step 3: "the smallest s >= 0", by its definition, either side of every power of two.
    #[test]
    fn smallest_shift_is_the_smallest() {
        for bound in [127, 1023, 2047] {
            for x in (0..30).flat_map(either_side).chain([
                bound,
                bound + 1,
                -bound,
                -bound - 1,
                3 * bound,
                -3 * bound,
            ]) {
                let (extent, fits) = (Extent::of(&[x]), |s| (-bound..=bound).contains(&rsh(x, s)));
                let s = extent.smallest_shift(bound);
                assert!(fits(s) && (s == 0 || !fits(s - 1)), "x {x} bound {bound} s {s}");
            }
        }
    }

    /// What a fault leaves has an extent too.
    #[test]
    fn every_integer_has_an_extent() {
        let all = Extent::of(&[i32::MIN, 5, i32::MAX]);
        assert_eq!((all.magnitude(), all.shift16()), (i32::MAX, 16));
        assert_eq!((Extent::of(&[]), Extent::of(&[i32::MIN]).magnitude()), (Extent::default(), i32::MAX));
    }
}
