//! The step of a vector of codes as a table over its largest magnitude M (docs/spec/arithmetic.md, section 2).
//!
//! e, k and sh are functions of M alone: constant on about 470 intervals of 0..2^29. A proof looks up the
//! interval and everything that follows from it, and shows for a vector without negative values
//!
//! - *M is not below the interval*: some element is at least `low`;
//! - *nor above it*: every `rsh(x, e)` has 15 bits and every code 7. Beyond `high` one of them breaks, because an interval ends
//!   only where the first shift grows or where the chosen step no longer holds the largest code; both are monotone in x.
//!   [`Cut::breaks_above`] states it, and a test checks it for every interval.

use alloc::vec::Vec;
use lockstep_base::limits::{STEP_MANTISSA_MAX, STEP_MANTISSA_MIN};

/// `round(2^18 / k)` of a step mantissa k.
const fn reciprocal(k: u8) -> i64 {
    let k = k as i64;
    ((1 << 18) + k / 2) / k
}
/// Largest value after the first shift.
const FIRST_MAX: i64 = 32_767;
/// Largest code.
const CODE_MAX: i64 = 127;

/// `floor((x + 2^(s-1)) / 2^s)`, x for s = 0.
#[must_use]
pub fn rsh(x: i64, s: u32) -> i64 {
    if s == 0 { x } else { (x + (1 << (s - 1))) >> s }
}

/// One interval of M, and how vectors are cut to codes there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The smallest M.
    pub low: i64,
    /// The largest.
    pub high: i64,
    /// First shift.
    pub e: u32,
    /// Step mantissa, 16 to 31.
    pub k: u8,
    /// Multiplier.
    pub rho: i64,
    /// Second shift.
    pub sh: u32,
}

impl Cut {
    /// The code of x.
    #[must_use]
    pub fn code(&self, x: i64) -> i64 {
        rsh(rsh(x, self.e) * self.rho, self.sh)
    }

    /// Whether the ranges of the proof refuse the first M above the interval.
    #[must_use]
    pub fn breaks_above(&self) -> bool {
        let x = self.high + 1;
        rsh(x, self.e) > FIRST_MAX || self.code(x) > CODE_MAX
    }

    /// The codes of a vector whose cut this is mean `code k/16 2^(shift + base)`.
    #[must_use]
    pub fn shift(&self) -> u32 {
        self.e + self.sh
    }
}

/// k, multiplier and second shift for a largest value of `m16` after the first.
fn choose(m16: i64) -> (u8, i64, u32) {
    let mut best: Option<(i64, (u8, i64, u32))> = None;
    for k in STEP_MANTISSA_MIN..=STEP_MANTISSA_MAX {
        let rho = reciprocal(k);
        // Seven bits at most are left, and rounding may need one shift more.
        let mut sh = (i64::BITS - (m16 * rho).leading_zeros()).saturating_sub(7);
        while rsh(m16 * rho, sh) > CODE_MAX {
            sh += 1;
        }
        let size = i64::from(k) << sh;
        if best.is_none_or(|(smallest, _)| size < smallest) {
            best = Some((size, (k, rho, sh)));
        }
    }
    best.map_or((STEP_MANTISSA_MIN, reciprocal(STEP_MANTISSA_MIN), 0), |(_, chosen)| chosen)
}

/// All intervals, in order, that begin at or below `max`.
#[must_use]
pub fn cuts(max: i64) -> Vec<Cut> {
    let mut cuts = Vec::new();
    let mut low = 0;
    let mut e = 0;
    while low <= max {
        let half = if e == 0 { 0 } else { 1 << (e - 1) };
        // The largest M with rsh(M, e) <= m16.
        let last = |m16: i64| (m16 << e) + (1 << e) - 1 - half;
        let m16 = rsh(low, e);
        let (k, rho, sh) = choose(m16);
        // A finer step that does not hold m16 holds nothing larger: the choice stays until its own codes end.
        let half_code = if sh == 0 { 0 } else { 1 << (sh - 1) };
        let same = ((((CODE_MAX + 1) << sh) - 1 - half_code) / rho).min(FIRST_MAX);
        let high = last(same);
        cuts.push(Cut { low, high, e, k, rho, sh });
        low = high + 1;
        if same == FIRST_MAX {
            e += 1;
        }
    }
    cuts
}

/// The index of the interval of `m`; the last one if m is above all.
#[must_use]
pub fn find(cuts: &[Cut], m: i64) -> usize {
    cuts.partition_point(|cut| cut.low <= m).saturating_sub(1)
}

/// How a product with the weights becomes an output: `y' = floor((v k 2^left + half) / 2^right)`, section 4, step 3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rescale {
    /// Bits that are shifted out, with rounding.
    pub right: u32,
    /// Bits that are shifted in.
    pub left: u32,
    /// Everything is shifted out: the output is 0.
    pub nothing: bool,
}

/// Shifts above this give 0.
pub const SHIFT_MAX: i32 = 28;
/// Outputs before their bias are below 2^30 in magnitude.
pub const OUTPUT_BITS: u32 = 30;

impl Rescale {
    /// `scale(., shift)`.
    #[must_use]
    pub fn new(shift: i32) -> Rescale {
        if shift > SHIFT_MAX {
            Rescale { right: 0, left: 0, nothing: true }
        } else {
            let (right, left) = (shift.max(0).unsigned_abs(), shift.min(0).unsigned_abs());
            Rescale { right, left, nothing: false }
        }
    }

    /// What is added before the shift.
    #[must_use]
    pub fn half(&self) -> i64 {
        if self.right == 0 { 0 } else { 1 << (self.right - 1) }
    }

    /// Outputs lie in `-2^b .. 2^b`; this is b, `None` if they are 0.
    #[must_use]
    pub fn output_bits(&self) -> Option<u32> {
        (!self.nothing).then_some(OUTPUT_BITS - self.right)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_runtime::arith::{RHO_ONE, choose_cut};

    /// arithmetic.md, 2: the table gives what the runtime chooses, at both ends of every interval and between.
    #[test]
    fn the_table_is_the_choice_of_the_runtime() {
        let cuts = cuts(1 << 29);
        assert_eq!(cuts[0].low, 0);
        assert!(cuts.windows(2).all(|two| two[0].high + 1 == two[1].low));
        assert!(cuts[cuts.len() - 1].high >= 1 << 29, "{cuts:?}");
        assert!(cuts.len() < 512, "{} intervals", cuts.len());
        for cut in &cuts {
            let high = cut.high.min(1 << 29);
            for m in [cut.low, (cut.low + 1).min(high), i64::midpoint(cut.low, high), high - 1, high] {
                let m = m.max(cut.low);
                let theirs = choose_cut(m as i32, RHO_ONE, 0);
                let got = (cut.e, cut.k, cut.sh, cut.rho);
                assert_eq!(got, (theirs.e, theirs.step.k, theirs.sh, theirs.rho_k.into()), "M = {m}");
            }
        }
    }

    /// `cuts` steps from choice to choice: equal ones are neighbours, over all values after the first shift.
    #[test]
    fn equal_choices_are_neighbours() {
        let mut seen: Vec<(u8, i64, u32)> = Vec::new();
        for m16 in 0..=FIRST_MAX {
            let choice = choose(m16);
            if seen.last() != Some(&choice) {
                assert!(!seen.contains(&choice), "{choice:?} comes back at {m16}");
                seen.push(choice);
            }
        }
    }

    /// proofs.md, 4: beyond an interval a range of the proof breaks; within it none does.
    #[test]
    fn the_ranges_of_a_proof_end_with_the_interval() {
        for cut in cuts(1 << 29) {
            assert!(cut.breaks_above(), "{cut:?}");
            assert!(rsh(cut.high, cut.e) <= FIRST_MAX && cut.code(cut.high) <= CODE_MAX, "{cut:?}");
        }
    }
}
