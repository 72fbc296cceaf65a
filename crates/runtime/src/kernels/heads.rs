//! The hot loops of attention: one query against many keys, and the weighted sum of many values
//! (docs/spec/arithmetic.md, section 6, steps 4 and 6). Sums are exact modulo 2^32; the bounds of
//! the specification keep them inside i32.

use super::kernel::multiversion;

multiversion! {
    /// `sum_c a_c b_c`.
    ///
    /// # Panics
    /// If the slices differ in length.
    #[must_use]
    pub fn dot_i16(a: &[i16], b: &[i16]) -> i32 = dot_body
}

#[inline(always)]
fn dot_body(a: &[i16], b: &[i16]) -> i32 {
    assert_eq!(a.len(), b.len(), "a dot product of equal lengths");
    a.iter().zip(b).fold(0i32, |sum, (a, b)| sum.wrapping_add(i32::from(*a) * i32::from(*b)))
}

multiversion! {
    /// `out_j = sum_c q_c keys_jc`; `keys` is `(out.len(), q.len())`.
    ///
    /// # Panics
    /// If `keys` has another length.
    pub fn scores(q: &[i16], keys: &[i16], out: &mut [i32]) = scores_body
}

#[inline(always)]
fn scores_body(q: &[i16], keys: &[i16], out: &mut [i32]) {
    assert_eq!(keys.len(), q.len() * out.len(), "one key a score");
    for (score, key) in out.iter_mut().zip(keys.chunks_exact(q.len().max(1))) {
        *score = dot_body(q, key);
    }
}

multiversion! {
    /// `out_c = sum_j p_j values_jc`; `values` is `(p.len(), out.len())`. What `out` held is lost.
    ///
    /// # Panics
    /// If `values` has another length.
    pub fn weighted_values(p: &[i32], values: &[i8], out: &mut [i32]) = weighted_values_body
}

#[inline(always)]
fn weighted_values_body(p: &[i32], values: &[i8], out: &mut [i32]) {
    assert_eq!(values.len(), p.len() * out.len(), "one value a weight");
    out.fill(0);
    for (p, value) in p.iter().zip(values.chunks_exact(out.len().max(1))) {
        for (sum, v) in out.iter_mut().zip(value) {
            *sum = sum.wrapping_add(p.wrapping_mul(i32::from(*v)));
        }
    }
}
