//! Multiplication by one element for all lanes, and sums of products that are reduced once.

use super::{Base, Ext, LANES, add, below, dot, raw, reduce, sub, wide};
use crate::field::ProofField;

/// One element as a factor of all lanes: its coordinates, and the differences of them that a product needs.
#[derive(Clone, Copy, Debug)]
pub struct Fixed(pub(super) [u32; 9]);

impl Fixed {
    /// The element with these coordinates.
    #[inline(always)]
    #[must_use]
    pub fn new(b: [u32; 5]) -> Fixed {
        let (u, v, w) = (sub(b[1], b[4]), sub(b[0], b[3]), sub(b[4], b[2]));
        Fixed([b[0], b[1], b[2], b[3], b[4], u, v, w, sub(b[3], u)])
    }

    /// `x`.
    pub(crate) fn of<E: ProofField>(x: E) -> Fixed {
        Fixed::new(raw(x))
    }

    /// Its coordinates.
    #[inline(always)]
    pub(crate) fn element(&self) -> [u32; 5] {
        [self.0[0], self.0[1], self.0[2], self.0[3], self.0[4]]
    }

    /// What each coordinate of a product multiplies the other factor with.
    #[inline(always)]
    fn columns(&self) -> [[u32; 5]; 5] {
        let [b0, b1, b2, b3, b4, u, v, w, z] = self.0;
        [[b0, b4, b3, b2, u], [b1, b0, b4, b3, b2], [b2, u, v, w, z], [b3, b2, u, v, w], [b4, b3, b2, u, v]]
    }
}

impl Ext {
    /// Products with one element.
    #[inline(always)]
    pub(crate) fn times(&self, factor: &Fixed) -> Ext {
        let b = factor.columns();
        let mut out = Ext::ZERO;
        for lane in 0..LANES {
            let a = self.at(lane);
            out.0[0][lane] = dot(a, b[0]);
            out.0[1][lane] = dot(a, b[1]);
            out.0[2][lane] = dot(a, b[2]);
            out.0[3][lane] = dot(a, b[3]);
            out.0[4][lane] = dot(a, b[4]);
        }
        out
    }

    /// `self + r (other - self)`.
    #[inline(always)]
    pub(crate) fn toward(&self, other: &Ext, r: &Fixed) -> Ext {
        let b = r.columns();
        let mut out = Ext::ZERO;
        for lane in 0..LANES {
            let (low, high) = (self.at(lane), other.at(lane));
            let a = [
                sub(high[0], low[0]),
                sub(high[1], low[1]),
                sub(high[2], low[2]),
                sub(high[3], low[3]),
                sub(high[4], low[4]),
            ];
            out.0[0][lane] = add(low[0], dot(a, b[0]));
            out.0[1][lane] = add(low[1], dot(a, b[1]));
            out.0[2][lane] = add(low[2], dot(a, b[2]));
            out.0[3][lane] = add(low[3], dot(a, b[3]));
            out.0[4][lane] = add(low[4], dot(a, b[4]));
        }
        out
    }
}

/// Sums of products, each below `2^32 p`: what they stand for is `2^-32` of it.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(crate) struct Sums([[u64; LANES]; 5]);

/// `sum + a . b`: two products may be added to what is below `2^32 p` before it is reduced to that again.
#[inline(always)]
fn more(sum: u64, a: [u32; 5], b: [u32; 5]) -> u64 {
    let sum = below(sum + wide(a[0], b[0]) + wide(a[1], b[1]));
    let sum = below(sum + wide(a[2], b[2]) + wide(a[3], b[3]));
    below(sum + wide(a[4], b[4]))
}

impl Sums {
    /// Zeros.
    pub(crate) const ZERO: Sums = Sums([[0; LANES]; 5]);

    /// The sum that stands for `x`.
    #[inline(always)]
    pub(crate) fn of(x: &Ext) -> Sums {
        let mut out = Sums::ZERO;
        // Lane by lane: a loop over coordinates would be the one that is vectorised, across them.
        for lane in 0..LANES {
            let x = x.at(lane);
            out.0[0][lane] = u64::from(x[0]) << 32;
            out.0[1][lane] = u64::from(x[1]) << 32;
            out.0[2][lane] = u64::from(x[2]) << 32;
            out.0[3][lane] = u64::from(x[3]) << 32;
            out.0[4][lane] = u64::from(x[4]) << 32;
        }
        out
    }

    /// Adds `a factor`.
    #[inline(always)]
    pub(crate) fn add_times(&mut self, a: &Ext, factor: &Fixed) {
        let b = factor.columns();
        for lane in 0..LANES {
            let a = a.at(lane);
            self.0[0][lane] = more(self.0[0][lane], a, b[0]);
            self.0[1][lane] = more(self.0[1][lane], a, b[1]);
            self.0[2][lane] = more(self.0[2][lane], a, b[2]);
            self.0[3][lane] = more(self.0[3][lane], a, b[3]);
            self.0[4][lane] = more(self.0[4][lane], a, b[4]);
        }
    }

    /// Adds `factor x`.
    #[inline(always)]
    pub(crate) fn add_scaled(&mut self, factor: &Ext, x: &Base) {
        for lane in 0..LANES {
            let (a, x) = (factor.at(lane), x.0[lane]);
            self.0[0][lane] = below(self.0[0][lane] + wide(a[0], x));
            self.0[1][lane] = below(self.0[1][lane] + wide(a[1], x));
            self.0[2][lane] = below(self.0[2][lane] + wide(a[2], x));
            self.0[3][lane] = below(self.0[3][lane] + wide(a[3], x));
            self.0[4][lane] = below(self.0[4][lane] + wide(a[4], x));
        }
    }

    /// Adds `factor x`, the factor being the same in all lanes.
    #[inline(always)]
    pub(crate) fn add_multiples(&mut self, factor: &[u32; 5], x: &Base) {
        for lane in 0..LANES {
            let x = x.0[lane];
            self.0[0][lane] = below(self.0[0][lane] + wide(factor[0], x));
            self.0[1][lane] = below(self.0[1][lane] + wide(factor[1], x));
            self.0[2][lane] = below(self.0[2][lane] + wide(factor[2], x));
            self.0[3][lane] = below(self.0[3][lane] + wide(factor[3], x));
            self.0[4][lane] = below(self.0[4][lane] + wide(factor[4], x));
        }
    }

    /// What they stand for.
    #[inline(always)]
    pub(crate) fn reduce(&self) -> Ext {
        let mut out = Ext::ZERO;
        for lane in 0..LANES {
            out.0[0][lane] = reduce(self.0[0][lane]);
            out.0[1][lane] = reduce(self.0[1][lane]);
            out.0[2][lane] = reduce(self.0[2][lane]);
            out.0[3][lane] = reduce(self.0[3][lane]);
            out.0[4][lane] = reduce(self.0[4][lane]);
        }
        out
    }
}
