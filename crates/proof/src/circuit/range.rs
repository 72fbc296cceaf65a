//! One table for all ranges: entry `2^w + z` says that z has at most w bits, for w up to the bits of a limb.
//!
//! ```text
//! entry x in 1 .. 2^(L+1):  width = index of the highest bit of x,  value = x - 2^width
//! entry 0:                  width -1, which nothing looks up
//! ```
//!
//! So a limb whose width is *computed* (by the shift of its example) is checked by the same lookup as one of fixed width. With
//! `top_w(r) = r_w prod_{k > w} (1 - r_k)`, r_k being the coordinate of bit k, the extensions are `sum_w w top_w - prod_k (1 - r_k)` and
//! `sum_w top_w sum_{k < w} 2^k r_k`.

use crate::field::ProofField;

/// Width and value of entry `x`.
#[must_use]
pub fn entry(x: usize) -> (i64, i64) {
    match x.checked_ilog2() {
        Some(width) => (width.into(), (x - (1 << width)) as i64),
        None => (-1, 0),
    }
}

/// The extensions of width and value at `point`.
#[must_use]
pub fn extensions<E: ProofField>(point: &[E]) -> (E, E) {
    let (mut width, mut value, mut above) = (E::ZERO, E::ZERO, E::ONE);
    for (i, r) in point.iter().enumerate() {
        let w = point.len() - 1 - i;
        let top = above * *r;
        width += top * E::from_usize(w);
        value += top * crate::multilinear::index(&point[i + 1..]);
        above *= E::ONE - *r;
    }
    (width - above, value)
}
