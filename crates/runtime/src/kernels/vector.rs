//! The hot loops over one vector of i32: its extent, codes of a quantisation site, the
//! Hadamard transform. Plain bodies, compiled once per kernel; none of them can overflow, whatever
//! they are given, because they wrap.

use super::kernel::multiversion;
use crate::arith::{Cut, Extent};

multiversion! {
    /// The least and the largest of `x` and 0.
    #[must_use]
    pub fn extent(x: &[i32]) -> Extent = extent_body
}

#[inline(always)]
pub(crate) fn extent_body(x: &[i32]) -> Extent {
    let (mut min, mut max) = (0, 0);
    for x in x {
        (min, max) = (min.min(*x), max.max(*x));
    }
    Extent { min, max }
}

multiversion! {
    /// `rsh(floor(x_i / 2^e) rho_k, sh)`: the codes of a quantisation site (section 2, step 4).
    ///
    /// # Panics
    /// If the slices differ in length or a shift exceeds 30.
    pub fn codes(x: &[i32], cut: &Cut, out: &mut [i8]) = codes_body
}

#[inline(always)]
fn codes_body(x: &[i32], cut: &Cut, out: &mut [i8]) {
    let Cut { e, rho_k, sh, .. } = *cut;
    assert_eq!(x.len(), out.len(), "one code a value");
    assert!((-30..=30).contains(&e) && sh <= 30, "shifts {e} and {sh}, expected at most 30");
    // A shift to the left is exact, so the factor takes it.
    let (right, factor) = (e.max(0), rho_k << (-e).max(0));
    let half = (1 << sh) >> 1;
    for (code, x) in out.iter_mut().zip(x) {
        *code = ((x >> right).wrapping_mul(factor).wrapping_add(half) >> sh) as i8;
    }
}

multiversion! {
    /// `z_i = sum_j (-1)^popcount(i & j) x_j`, in place, not normalised (section 7, step 3).
    ///
    /// # Panics
    /// If the length of `block` is not a power of two.
    pub fn hadamard(block: &mut [i32]) = hadamard_body
}

/// Butterflies inside runs of this many values are done in registers.
const RUN: usize = 16;

#[inline(always)]
fn hadamard_body(block: &mut [i32]) {
    let n = block.len();
    assert!(n.is_power_of_two(), "a Hadamard block of {n}, expected a power of two");
    let (runs, rest) = block.as_chunks_mut::<RUN>();
    for run in runs {
        in_run::<1>(run);
        in_run::<2>(run);
        in_run::<4>(run);
        in_run::<8>(run);
    }
    // Only a block shorter than a run leaves a rest; then it is the whole block.
    butterflies(rest, 1);
    butterflies(block, RUN);
}

/// The stages of distance `first`, 2 * `first`, ... below the length of `x`.
#[inline(always)]
fn butterflies(x: &mut [i32], first: usize) {
    let mut half = first;
    while half < x.len() {
        for pair in x.chunks_exact_mut(2 * half) {
            let (low, high) = pair.split_at_mut(half);
            for (a, b) in low.iter_mut().zip(high) {
                (*a, *b) = (a.wrapping_add(*b), a.wrapping_sub(*b));
            }
        }
        half *= 2;
    }
}

/// The stage of distance `HALF` inside a run, without branches: a shuffle, a sign and an addition.
#[inline(always)]
fn in_run<const HALF: usize>(x: &mut [i32; RUN]) {
    let mut y = [0; RUN];
    for i in 0..RUN {
        let own = if i & HALF == 0 { x[i] } else { x[i].wrapping_neg() };
        y[i] = own.wrapping_add(x[i ^ HALF]);
    }
    *x = y;
}
