//! The hot loops of attention: one query against many keys, and the weighted sum of many values
//! (docs/spec/arithmetic.md, section 6, steps 4 and 6). Sums are exact modulo 2^32; the bounds of
//! the specification keep them inside i32.

use super::kernel::{Kernel, multiversion};
#[cfg(all(feature = "std", target_arch = "x86_64"))]
use super::x86::{heads_avx2, heads_avx512};

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

/// `out_j = sum_c q_c keys_jc`; `keys` is `(out.len(), q.len())`.
///
/// # Panics
/// If `keys` has another length.
pub fn scores(kernel: Kernel, q: &[i16], keys: &[i16], out: &mut [i32]) {
    assert_eq!(keys.len(), q.len() * out.len(), "one key a score");
    match kernel {
        #[cfg(all(feature = "std", target_arch = "x86_64"))]
        Kernel::Avx2(witness) if !q.is_empty() && q.len().is_multiple_of(16) => {
            heads_avx2::scores(witness, q, keys, out);
        }
        #[cfg(all(feature = "std", target_arch = "x86_64"))]
        Kernel::AvxVnni(witness) => scores(Kernel::Avx2(witness.avx2()), q, keys, out),
        #[cfg(all(feature = "std", target_arch = "x86_64"))]
        Kernel::Avx512(witness) => heads_avx512::scores(witness, q, keys, out),
        _ => {
            out.fill(0);
            for (score, key) in out.iter_mut().zip(keys.chunks_exact(q.len().max(1))) {
                *score = dot_body(q, key);
            }
        }
    }
}

/// `out_c = sum_j p_j values_jc`; `values` is `(p.len(), out.len())`. What `out` held is lost.
///
/// # Panics
/// If `values` has another length.
pub fn weighted_values(kernel: Kernel, p: &[i32], values: &[i8], out: &mut [i32]) {
    assert_eq!(values.len(), p.len() * out.len(), "one value a weight");
    out.fill(0);
    match kernel {
        #[cfg(all(feature = "std", target_arch = "x86_64"))]
        Kernel::AvxVnni(witness) => weighted_values(Kernel::Avx2(witness.avx2()), p, values, out),
        #[cfg(all(feature = "std", target_arch = "x86_64"))]
        Kernel::Avx2(witness) if !out.is_empty() && out.len().is_multiple_of(16) => {
            heads_avx2::weighted_values(witness, p, values, out);
            // What i16 cannot hold: mostly nothing, or the one weight of 2^15 of the largest score.
            add_weighted(p, values, out, |p| p.wrapping_sub(i32::from(p as i16)));
        }
        #[cfg(all(feature = "std", target_arch = "x86_64"))]
        Kernel::Avx512(witness) if p.iter().fold(0, |all, p| all | *p as u32) < 1 << 16 => {
            heads_avx512::weighted_values(witness, p, values, out);
        }
        _ => add_weighted(p, values, out, |p| p),
    }
}

/// Adds `sum_j part(p_j) values_jc` to `out_c`.
#[inline(always)]
fn add_weighted(p: &[i32], values: &[i8], out: &mut [i32], part: impl Fn(i32) -> i32) {
    for (p, value) in p.iter().zip(values.chunks_exact(out.len().max(1))) {
        let p = part(*p);
        if p != 0 {
            for (sum, v) in out.iter_mut().zip(value) {
                *sum = sum.wrapping_add(p.wrapping_mul(i32::from(*v)));
            }
        }
    }
}
