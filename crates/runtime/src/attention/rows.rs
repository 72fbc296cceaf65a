//! The element-wise loops of attention over one row of scores. Plain bodies, compiled once per
//! kernel; they wrap where a fault left what no op gives.

use crate::arith::{value_cut, value_exponent, value_mantissa, value_step_byte};
use crate::kernels::{self, Kernel, extent_body, multiversion};

/// Entries of the table of 2^-x.
pub(super) const EXP2_ENTRIES: usize = 4096;

multiversion! {
    /// `t_j = rsh(t_j, base - e_j)`, shifts in 0..=28, |t_j| < 2^30; the largest magnitude that results.
    pub(super) fn shift(t: &mut [i32], base: i32, exponents: &[u8]) -> u32 = shift_body
}

#[inline(always)]
fn shift_body(t: &mut [i32], base: i32, exponents: &[u8]) -> u32 {
    let mut top = 0;
    for (t, e) in t.iter_mut().zip(exponents) {
        let s = (base - i32::from(*e)) as u32 & 31;
        *t = t.wrapping_add((1 << s) >> 1) >> s;
        top = top.max(t.unsigned_abs());
    }
    top
}

multiversion! {
    /// `d_j = min(m - t_j, 4095)`, m the largest of `t`, which is returned (step 5).
    pub(super) fn distances(t: &[i32], d: &mut [u16]) -> i32 = distances_body
}

#[inline(always)]
fn distances_body(t: &[i32], d: &mut [u16]) -> i32 {
    let m = t.iter().fold(i32::MIN, |m, t| m.max(*t));
    for (d, t) in d.iter_mut().zip(t) {
        *d = (m.wrapping_sub(*t) as u32).min(EXP2_ENTRIES as u32 - 1) as u16;
    }
    m
}

multiversion! {
    /// `p_j = exp2[d_j]` and their sum, of at most 2^16 positions.
    pub(super) fn powers(d: &[u16], exp2: &[u16; EXP2_ENTRIES], p: &mut [i32]) -> u32 = powers_body
}

#[inline(always)]
fn powers_body(d: &[u16], exp2: &[u16; EXP2_ENTRIES], p: &mut [i32]) -> u32 {
    let mut sum = 0;
    for (p, d) in p.iter_mut().zip(d) {
        *p = exp2[usize::from(*d).min(EXP2_ENTRIES - 1)].into();
        sum += *p as u32;
    }
    sum
}

multiversion! {
    /// `p_j = rsh(p_j k_j, 5 + E - f_j)`, 0 <= p_j <= 2^15, shifts cut to 0..=28 (step 6).
    pub(super) fn fold_steps(p: &mut [i32], largest: i32, steps: &[u8]) = fold_body
}

#[inline(always)]
fn fold_body(p: &mut [i32], largest: i32, steps: &[u8]) {
    let largest = largest.saturating_add(5);
    for (p, step) in p.iter_mut().zip(steps) {
        let s = largest.saturating_sub(value_exponent(*step)).clamp(0, 28) as u32;
        *p = (p.wrapping_mul(value_mantissa(*step)).wrapping_add((1 << s) >> 1)) >> s;
    }
}

multiversion! {
    /// `y_c = rsh(rsh(o_c, sh) * rz, shift)`, shift in 0..=28 (step 7).
    pub(super) fn scaled(o: &[i32], sh: u32, rz: i32, shift: u32, y: &mut [i32]) = scaled_body
}

#[inline(always)]
fn scaled_body(o: &[i32], sh: u32, rz: i32, shift: u32, y: &mut [i32]) {
    let (half_sh, half) = ((1 << (sh & 31)) >> 1, (1 << (shift & 31)) >> 1);
    for (y, o) in y.iter_mut().zip(o) {
        let o16 = o.wrapping_add(half_sh) >> (sh & 31);
        *y = o16.wrapping_mul(rz).wrapping_add(half) >> (shift & 31);
    }
}

multiversion! {
    /// Rotates adjacent pairs of one head (step 1); `table` holds (cos, sin) in Q14 and says how
    /// many channels rotate.
    pub fn rope(head: &mut [i32], table: &[i16]) = rope_body
}

#[inline(always)]
fn rope_body(head: &mut [i32], table: &[i16]) {
    let pairs = head.as_chunks_mut::<2>().0.iter_mut();
    for ([a, b], [c, s]) in pairs.zip(table.as_chunks::<2>().0) {
        let (c, s) = (i32::from(*c), i32::from(*s));
        let x = a.wrapping_mul(c).wrapping_sub(b.wrapping_mul(s));
        let y = a.wrapping_mul(s).wrapping_add(b.wrapping_mul(c));
        (*a, *b) = (x.wrapping_add(1 << 13) >> 14, y.wrapping_add(1 << 13) >> 14);
    }
}

multiversion! {
    /// Codes of one head as i16 and their exponent (step 3).
    pub fn head_codes16(x: &[i32], bound: i32, codes: &mut [i16]) -> u8 = codes16_body
}

#[inline(always)]
fn codes16_body(x: &[i32], bound: i32, codes: &mut [i16]) -> u8 {
    let e = extent_body(x).smallest_shift(bound);
    for (code, x) in codes.iter_mut().zip(x) {
        *code = (x.wrapping_add((1 << e) >> 1) >> e) as i16;
    }
    e as u8
}

/// Codes of one head's values and their step in a byte (step 3).
pub fn head_codes8(kernel: Kernel, x: &[i32], codes: &mut [i8]) -> u8 {
    let cut = value_cut(kernels::extent(kernel, x));
    kernels::codes(kernel, x, &cut, codes);
    value_step_byte(cut.step)
}
