//! Sixteen elements side by side: plain loops over small arrays, which the compiler turns into vector instructions.
//!
//! The field crate has packed types, but chooses their instructions when a program is compiled: a portable binary gets none. These
//! loops are compiled several times and chosen when the program runs ([`vectorised`]), so a proof takes as long with a portable
//! binary as with one built for its machine.
//!
//! Lanes hold integers in Montgomery form ([`ProofField::raw`]): `x 2^32 mod p`, always below `p = 2^31 - 2^24 + 1`. An
//! extension element is five coordinates in `F_p[X] / (X^5 + X^2 - 1)`:
//!
//! ```text
//! r0 = a0 b0 + a1 b4 + a2 b3 + a3 b2 + a4 u          u = b1 - b4
//! r1 = a0 b1 + a1 b0 + a2 b4 + a3 b3 + a4 b2
//! r2 = a0 b2 + a1 u  + a2 v  + a3 w  + a4 (b3 - u)   v = b0 - b3
//! r3 = a0 b3 + a1 b2 + a2 u  + a3 v  + a4 w          w = b4 - b2
//! r4 = a0 b4 + a1 b3 + a2 b2 + a3 u  + a4 v
//! ```
//!
//! # No sum wraps
//! `4 p^2 < 2^64` and `p^2 < 2^31 p < 2^32 p / 2`. `below` takes a sum below `2^33 p` to one below `2^32 p`, so four products may be
//! added before it, and two to what it gives; `reduce` takes what is below `2^32 p`.

pub mod arithmetic;
pub(crate) mod sums;
pub(crate) mod vectors;
pub(crate) mod weights;

use crate::field::ProofField;
pub use lockstep_runtime::kernels::{Kernel, Plain, Task, Wide, vectorised};

/// Elements side by side.
pub const LANES: usize = 16;
/// Bits of a lane's number.
pub const LANE_BITS: usize = LANES.trailing_zeros() as usize;
/// 1 in Montgomery form: `2^32 mod p`.
pub(crate) const ONE: u32 = 0x01ff_fffe;
/// `2^64 mod p`: times this, an integer is in Montgomery form.
const TO_RAW: u32 = 0x17f7_efe4;
/// The order of the base field.
const P: u32 = 0x7f00_0001;

#[inline(always)]
pub(crate) fn add(a: u32, b: u32) -> u32 {
    let sum = a + b;
    sum.min(sum.wrapping_sub(P))
}

#[inline(always)]
pub(crate) fn sub(a: u32, b: u32) -> u32 {
    let difference = a.wrapping_sub(b);
    difference.min(difference.wrapping_add(P))
}

#[inline(always)]
pub(crate) fn wide(a: u32, b: u32) -> u64 {
    a as u64 * b as u64
}

/// The same modulo p, below `2^32 p`, of what is below `2^33 p`.
#[inline(always)]
pub(crate) fn below(x: u64) -> u64 {
    x.min(x.wrapping_sub((P as u64) << 32))
}

/// `x / 2^32 mod p`, for x below `2^32 p`. The inverse of p modulo `2^32` is `2^31 + 2^24 + 1`: two shifts.
#[inline(always)]
pub(crate) fn reduce(x: u64) -> u32 {
    let t = x.wrapping_add(x << 24).wrapping_add(x << 31) as u32;
    sub((x >> 32) as u32, (wide(t, P) >> 32) as u32)
}

/// The canonical integer of a lane.
#[inline(always)]
#[must_use]
pub fn canonical(raw: u32) -> u32 {
    reduce(raw.into())
}

/// A small integer in Montgomery form.
#[inline(always)]
pub(crate) fn raw_of_code(code: i8) -> u32 {
    let code = code as i32 as u32;
    // A negative one has wrapped: p more is its residue.
    reduce(wide(code.min(code.wrapping_add(P)), TO_RAW))
}

/// The five factors that each coordinate of a product multiplies a with.
#[inline(always)]
fn columns(b: [u32; 5]) -> [[u32; 5]; 5] {
    let (u, v, w) = (sub(b[1], b[4]), sub(b[0], b[3]), sub(b[4], b[2]));
    [
        [b[0], b[4], b[3], b[2], u],
        [b[1], b[0], b[4], b[3], b[2]],
        [b[2], u, v, w, sub(b[3], u)],
        [b[3], b[2], u, v, w],
        [b[4], b[3], b[2], u, v],
    ]
}

#[inline(always)]
fn four(a: [u32; 5], b: [u32; 5]) -> u64 {
    below(wide(a[0], b[0]) + wide(a[1], b[1]) + wide(a[2], b[2]) + wide(a[3], b[3]))
}

#[inline(always)]
fn dot(a: [u32; 5], b: [u32; 5]) -> u32 {
    reduce(below(four(a, b) + wide(a[4], b[4])))
}

#[inline(always)]
fn dots(a: [u32; 5], b: [u32; 5], c: [u32; 5], d: [u32; 5]) -> u32 {
    reduce(below(below(four(a, b) + four(c, d)) + wide(a[4], b[4]) + wide(c[4], d[4])))
}

/// Elements of the base field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(align(64))]
pub struct Base(pub [u32; LANES]);

/// Elements of the extension, coordinate by coordinate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(align(64))]
pub struct Ext(pub [[u32; LANES]; 5]);

/// All lanes from one expression of the lane's number: a loop without calls, which is what the compiler vectorises.
macro_rules! each_lane {
    ($lane:ident => $five:expr) => {{
        let mut out = Ext::ZERO;
        for $lane in 0..LANES {
            let five: [u32; 5] = $five;
            out.0[0][$lane] = five[0];
            out.0[1][$lane] = five[1];
            out.0[2][$lane] = five[2];
            out.0[3][$lane] = five[3];
            out.0[4][$lane] = five[4];
        }
        out
    }};
}

impl Base {
    /// Zeros.
    pub const ZERO: Base = Base([0; LANES]);

    /// The same element in every lane.
    #[inline(always)]
    #[must_use]
    pub fn splat(x: u32) -> Base {
        Base([x; LANES])
    }

    /// Products.
    #[inline(always)]
    #[must_use]
    pub fn mul(&self, other: &Base) -> Base {
        let mut out = Base::ZERO;
        for lane in 0..LANES {
            out.0[lane] = reduce(wide(self.0[lane], other.0[lane]));
        }
        out
    }

    /// `self other + third fourth`.
    #[inline(always)]
    #[must_use]
    pub fn products(&self, other: &Base, third: &Base, fourth: &Base) -> Base {
        let mut out = Base::ZERO;
        for lane in 0..LANES {
            out.0[lane] = reduce(wide(self.0[lane], other.0[lane]) + wide(third.0[lane], fourth.0[lane]));
        }
        out
    }

    /// Sums.
    #[inline(always)]
    #[must_use]
    pub fn add(&self, other: &Base) -> Base {
        let mut out = Base::ZERO;
        for lane in 0..LANES {
            out.0[lane] = add(self.0[lane], other.0[lane]);
        }
        out
    }

    /// Differences.
    #[inline(always)]
    #[must_use]
    pub fn sub(&self, other: &Base) -> Base {
        let mut out = Base::ZERO;
        for lane in 0..LANES {
            out.0[lane] = sub(self.0[lane], other.0[lane]);
        }
        out
    }
}

impl Ext {
    /// Zeros.
    pub const ZERO: Ext = Ext([[0; LANES]; 5]);

    /// The same element in every lane.
    #[inline(always)]
    #[must_use]
    pub fn splat(five: &[u32; 5]) -> Ext {
        each_lane!(lane => *five)
    }

    /// What is in lane `lane`.
    #[inline(always)]
    #[must_use]
    pub fn at(&self, lane: usize) -> [u32; 5] {
        [self.0[0][lane], self.0[1][lane], self.0[2][lane], self.0[3][lane], self.0[4][lane]]
    }

    /// Puts an element into lane `lane`.
    #[inline(always)]
    pub fn put(&mut self, lane: usize, five: [u32; 5]) {
        for (coordinates, x) in self.0.iter_mut().zip(five) {
            coordinates[lane] = x;
        }
    }

    /// Sums.
    #[inline(always)]
    #[must_use]
    pub fn add(&self, other: &Ext) -> Ext {
        each_lane!(lane => {
            let (a, b) = (self.at(lane), other.at(lane));
            [add(a[0], b[0]), add(a[1], b[1]), add(a[2], b[2]), add(a[3], b[3]), add(a[4], b[4])]
        })
    }

    /// Differences.
    #[inline(always)]
    #[must_use]
    pub fn sub(&self, other: &Ext) -> Ext {
        each_lane!(lane => {
            let (a, b) = (self.at(lane), other.at(lane));
            [sub(a[0], b[0]), sub(a[1], b[1]), sub(a[2], b[2]), sub(a[3], b[3]), sub(a[4], b[4])]
        })
    }

    /// Products.
    #[inline(always)]
    #[must_use]
    pub fn mul(&self, other: &Ext) -> Ext {
        each_lane!(lane => {
            let (a, b) = (self.at(lane), columns(other.at(lane)));
            [dot(a, b[0]), dot(a, b[1]), dot(a, b[2]), dot(a, b[3]), dot(a, b[4])]
        })
    }

    /// `self other + third fourth`.
    #[inline(always)]
    #[must_use]
    pub fn products(&self, other: &Ext, third: &Ext, fourth: &Ext) -> Ext {
        each_lane!(lane => {
            let (a, b) = (self.at(lane), columns(other.at(lane)));
            let (c, d) = (third.at(lane), columns(fourth.at(lane)));
            [
                dots(a, b[0], c, d[0]),
                dots(a, b[1], c, d[1]),
                dots(a, b[2], c, d[2]),
                dots(a, b[3], c, d[3]),
                dots(a, b[4], c, d[4]),
            ]
        })
    }

    /// Multiples by elements of the base field.
    #[inline(always)]
    #[must_use]
    pub fn scale(&self, other: &Base) -> Ext {
        each_lane!(lane => {
            let (a, b) = (self.at(lane), other.0[lane]);
            [
                reduce(wide(a[0], b)),
                reduce(wide(a[1], b)),
                reduce(wide(a[2], b)),
                reduce(wide(a[3], b)),
                reduce(wide(a[4], b)),
            ]
        })
    }

    /// `self + r (other - self)`: the value at r of the line through both.
    #[inline(always)]
    #[must_use]
    pub fn line(&self, other: &Ext, r: &Ext) -> Ext {
        self.add(&other.sub(self).mul(r))
    }
}

/// The coordinates of an element.
#[must_use]
pub fn raw<E: ProofField>(x: E) -> [u32; 5] {
    let coordinates = x.as_basis_coefficients_slice();
    core::array::from_fn(|i| E::raw(coordinates[i]))
}

/// The element with these coordinates.
#[must_use]
pub fn element<E: ProofField>(five: [u32; 5]) -> E {
    E::from_basis_coefficients_fn(|i| E::from_raw(five[i]))
}

/// The sum of all lanes.
#[must_use]
pub fn total<E: ProofField>(lanes: &Ext) -> E {
    (0..LANES).map(|lane| element::<E>(lanes.at(lane))).sum()
}

/// The sum of all lanes, each times its weight.
#[must_use]
pub fn weighted<E: ProofField>(lanes: &Ext, weights: &[E]) -> E {
    weights.iter().enumerate().map(|(lane, weight)| *weight * element::<E>(lanes.at(lane))).sum()
}
