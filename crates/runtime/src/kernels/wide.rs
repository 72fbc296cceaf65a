//! Sixteen words side by side, for loops of other crates that need products of words: [`Task::run_wide`].
//!
//! Compilers turn plain loops over sixteen words into vectors, but products of 64 bits into vectors twice as wide, with shuffles both ways. What
//! vector units have instead is the product of the *even* words. So words stay where they are:
//!
//! ```text
//! even products  a[2i] b[2i]              mul(a, b)
//! odd products   a[2i+1] b[2i+1]          mul(odd(a), odd(b)),  odd(x)[2i] = x[2i+1]
//! upper halves   of both, in their places  join(even, odd)
//! ```
//!
//! A value that implements [`Wide`] says that its instructions are there; [`Plain`] is the specification.
//!
//! [`Task::run_wide`]: super::Task::run_wide

use core::fmt::Debug;

/// Instructions for sixteen words: everything wraps.
pub trait Wide: Copy + Debug {
    /// Whether this is faster than the loops of a compiler over arrays.
    const NATIVE: bool;
    /// Sixteen words.
    type Words: Copy + Debug;
    /// Eight integers of 64 bits.
    type Longs: Copy + Debug;

    /// Reads words.
    fn load(self, x: &[u32; 16]) -> Self::Words;
    /// Writes them.
    fn store(self, x: Self::Words, out: &mut [u32; 16]);
    /// The same word in all places.
    fn splat(self, x: u32) -> Self::Words;
    /// Sums.
    fn add(self, a: Self::Words, b: Self::Words) -> Self::Words;
    /// Differences.
    fn sub(self, a: Self::Words, b: Self::Words) -> Self::Words;
    /// The smaller ones.
    fn min(self, a: Self::Words, b: Self::Words) -> Self::Words;
    /// Odd words in the places of the even ones before them. What is in odd places is unspecified.
    fn odd(self, a: Self::Words) -> Self::Words;
    /// Products of even words.
    fn mul(self, a: Self::Words, b: Self::Words) -> Self::Longs;
    /// The lower halves of products of the lower halves, in even places. What is in odd places is unspecified.
    fn mul_low(self, a: Self::Longs, b: Self::Words) -> Self::Words;
    /// The same integer in all places.
    fn splat_long(self, x: u64) -> Self::Longs;
    /// Sums.
    fn add_long(self, a: Self::Longs, b: Self::Longs) -> Self::Longs;
    /// `a`, less `b` where that is not negative, of `b` whose lower halves are 0: a comparison of words, which is faster than one of 64 bits.
    fn less(self, a: Self::Longs, b: Self::Longs) -> Self::Longs;
    /// The upper halves, those of `even` in even places and those of `odd` in odd ones.
    fn join(self, even: Self::Longs, odd: Self::Longs) -> Self::Words;
}

/// Plain code.
#[derive(Clone, Copy, Debug)]
pub struct Plain;

/// Every place of an array from its number.
macro_rules! places {
    ($at:ident, $count:literal => $x:expr) => {{
        let mut out = [0; $count];
        for $at in 0..$count {
            out[$at] = $x;
        }
        out
    }};
}

impl Wide for Plain {
    const NATIVE: bool = false;
    type Words = [u32; 16];
    type Longs = [u64; 8];

    #[inline(always)]
    fn load(self, x: &[u32; 16]) -> [u32; 16] {
        *x
    }

    #[inline(always)]
    fn store(self, x: [u32; 16], out: &mut [u32; 16]) {
        *out = x;
    }

    #[inline(always)]
    fn splat(self, x: u32) -> [u32; 16] {
        [x; 16]
    }

    #[inline(always)]
    fn add(self, a: [u32; 16], b: [u32; 16]) -> [u32; 16] {
        places!(at, 16 => a[at].wrapping_add(b[at]))
    }

    #[inline(always)]
    fn sub(self, a: [u32; 16], b: [u32; 16]) -> [u32; 16] {
        places!(at, 16 => a[at].wrapping_sub(b[at]))
    }

    #[inline(always)]
    fn min(self, a: [u32; 16], b: [u32; 16]) -> [u32; 16] {
        places!(at, 16 => a[at].min(b[at]))
    }

    #[inline(always)]
    fn odd(self, a: [u32; 16]) -> [u32; 16] {
        places!(at, 16 => a[at | 1])
    }

    #[inline(always)]
    fn mul(self, a: [u32; 16], b: [u32; 16]) -> [u64; 8] {
        places!(at, 8 => u64::from(a[2 * at]) * u64::from(b[2 * at]))
    }

    #[inline(always)]
    fn mul_low(self, a: [u64; 8], b: [u32; 16]) -> [u32; 16] {
        places!(at, 16 => (a[at / 2] as u32).wrapping_mul(b[at & !1]))
    }

    #[inline(always)]
    fn splat_long(self, x: u64) -> [u64; 8] {
        [x; 8]
    }

    #[inline(always)]
    fn add_long(self, a: [u64; 8], b: [u64; 8]) -> [u64; 8] {
        places!(at, 8 => a[at].wrapping_add(b[at]))
    }

    #[inline(always)]
    fn less(self, a: [u64; 8], b: [u64; 8]) -> [u64; 8] {
        places!(at, 8 => a[at].min(a[at].wrapping_sub(b[at])))
    }

    #[inline(always)]
    fn join(self, even: [u64; 8], odd: [u64; 8]) -> [u32; 16] {
        places!(at, 16 => ((if at % 2 == 0 { even } else { odd })[at / 2] >> 32) as u32)
    }
}
