//! The first two rounds of a layer in one pass over its columns: what is summed is a product of two factors of degree 1 in each variable, so its sums over all others,
//! with their weights, at eight points say what both rounds need.
//!
//! ```text
//! T(a, b) = sum_x eq(t, x) g(x, b, a),   a (bound first) and b in {0, 1, oo},  oo: the quadratic coefficient
//! first round     h(0) = (1 - t') T(0, 0) + t' T(0, 1),   quadratic (1 - t') T(oo, 0) + t' T(oo, 1),   t' the second one's coordinate of eq
//! second round    h(0) = T(., 0) at r,   quadratic T(., oo) at r,   T(r, b) = T(0, b) + r (T(1, b) - T(0, b) - T(oo, b)) + r^2 T(oo, b)
//! ```
//!
//! Where factors are sums of multiples of columns, so are their products of products of columns: those are of the base field, and multiples come last
//! (small-value sum-checks: Bagad, Domb, Thaler 2024, ePrint 2024/1046). The third round binds two coordinates of columns at once.

use crate::lanes::arithmetic::sub;
use crate::lanes::sums::Fixed;
use crate::lanes::{Base, Ext, ONE, Wide};

/// All pairs of 0, 1 and oo but (1, 1).
pub(super) const POINTS: usize = 8;
/// Those without oo: (0, 0), (0, 1), (1, 0).
pub(super) const FINITE: [usize; 3] = [0, 1, 3];

/// Sums at (0, 0), (0, 1), (0, oo), (1, 0), (1, oo), (oo, 0), (oo, 1), (oo, oo).
pub(super) type Grid = [Ext; POINTS];

/// Four neighbours at all points.
#[inline(always)]
pub(super) fn base_points(four: [Base; 4]) -> [Base; POINTS] {
    let [a, b, c, d] = four;
    let (low, high) = (b.sub(&a), d.sub(&c));
    [a, c, c.sub(&a), b, d.sub(&b), low, high, high.sub(&low)]
}

/// The same of the extension.
#[inline(always)]
pub(super) fn points<W: Wide>(w: W, [a, b, c, d]: [&Ext; 4]) -> Grid {
    let (low, high) = (sub(w, b, a), sub(w, d, c));
    [*a, *c, sub(w, c, a), *b, sub(w, d, b), low, high, sub(w, &high, &low)]
}

/// The sums of the first round, from both weights of the second coordinate.
pub(super) fn first(grid: &Grid, [zero, one]: &[Fixed; 2]) -> [Ext; 2] {
    let of = |at: usize| grid[at].times(zero).add(&grid[at + 1].times(one));
    [of(0), of(5)]
}

/// The sums of the second round.
pub(super) fn second(grid: &Grid, r: &Fixed) -> [Ext; 2] {
    let at = |zero: usize, one: usize, quadratic: usize| {
        let (zero, one, quadratic) = (&grid[zero], &grid[one], &grid[quadratic]);
        let linear = one.sub(zero).sub(quadratic);
        zero.add(&linear.add(&quadratic.times(r)).times(r))
    };
    [at(0, 3, 5), at(2, 4, 7)]
}

/// eq of the first two challenges and each of four neighbours.
pub(super) fn corners(r: &[Fixed; 2]) -> [Fixed; 4] {
    let [first, second] = r;
    let one = Ext::splat(&[ONE, 0, 0, 0, 0]);
    let of = |x: &Ext| Fixed::new(x.at(0));
    let high = one.times(second);
    let low = one.sub(&high);
    let (low_high, high_high) = (low.times(first), high.times(first));
    [of(&low.sub(&low_high)), of(&low_high), of(&high.sub(&high_high)), of(&high_high)]
}
