//! The loops of attention with AVX-512 VNNI.
//!
//! Scores: `vpdpwssd` adds two exact products of i16 to each i32 (its twin `vpdpwssds` saturates).
//!
//! Weighted sums: weights are at most 2^15, so they are split into two unsigned bytes, and
//! `vpdpbusd` multiplies four positions at a time:
//!
//! ```text
//! sum_j p_j v_jc = sum_j (p_j mod 256) v_jc + 256 sum_j (p_j / 256) v_jc
//! ```
//!
//! For that the values of four positions are interleaved byte by byte, 64 channels at a time.

use super::super::kernel::Avx512;
use core::arch::x86_64::*;

/// Positions whose weights are split at a time.
const POSITIONS: usize = 256;
/// Positions that one instruction multiplies.
const GROUP: usize = 4;
/// Channels of a vector of values.
const CHANNELS: usize = 64;

/// `out_j = sum_c q_c keys_jc`; `keys` is `(out.len(), q.len())`, which the caller has checked.
pub(in super::super) fn scores(_: Avx512, q: &[i16], keys: &[i16], out: &mut [i32]) {
    // SAFETY: the witness says that the machine has these instructions.
    unsafe { scores_run(q, keys, out) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn scores_run(q: &[i16], keys: &[i16], out: &mut [i32]) {
    let dim = q.len();
    if dim == 0 {
        return out.fill(0);
    }
    let (quads, rest) = out.as_chunks_mut::<4>();
    let (quad_keys, rest_keys) = keys.split_at(quads.len() * 4 * dim);
    for (quad, keys) in quads.iter_mut().zip(quad_keys.chunks_exact(4 * dim)) {
        let mut sums = [_mm512_setzero_si512(); 4];
        for first in (0..dim).step_by(32) {
            let q = load16(&q[first..]);
            for k in 0..4 {
                sums[k] = _mm512_dpwssd_epi32(sums[k], q, load16(&keys[k * dim + first..(k + 1) * dim]));
            }
        }
        *quad = totals(sums);
    }
    for (score, key) in rest.iter_mut().zip(rest_keys.chunks_exact(dim)) {
        let mut sum = _mm512_setzero_si512();
        for first in (0..dim).step_by(32) {
            sum = _mm512_dpwssd_epi32(sum, load16(&q[first..]), load16(&key[first..]));
        }
        *score = _mm512_reduce_add_epi32(sum);
    }
}

/// The first 32 values, or all and then zeros.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load16(values: &[i16]) -> __m512i {
    let mask = if values.len() < 32 { (1 << values.len()) - 1 } else { u32::MAX };
    // SAFETY: reads only what the mask selects, which is inside the slice.
    unsafe { _mm512_maskz_loadu_epi16(mask, values.as_ptr()) }
}

/// The sum of each of 4 vectors.
#[inline]
#[target_feature(enable = "avx512f")]
fn totals([a, b, c, d]: [__m512i; 4]) -> [i32; 4] {
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    let lanes = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    let half = _mm256_add_epi32(_mm512_castsi512_si256(lanes), _mm512_extracti64x4_epi64::<1>(lanes));
    let sums = _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256::<1>(half));
    let mut totals = [0; 4];
    // SAFETY: writes the 16 bytes of the array.
    unsafe { _mm_storeu_si128(totals.as_mut_ptr().cast(), sums) };
    totals
}

/// Adds `sum_j p_j values_jc` to `out_c`; `values` is `(p.len(), out.len())` and every p_j is in
/// 0..65,536, both of which the caller has checked.
pub(in super::super) fn weighted_values(_: Avx512, p: &[i32], values: &[i8], out: &mut [i32]) {
    // SAFETY: the witness says that the machine has these instructions.
    unsafe { weighted_run(p, values, out) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn weighted_run(p: &[i32], values: &[i8], out: &mut [i32]) {
    let dim = out.len();
    if dim == 0 {
        return;
    }
    for (p, values) in p.chunks(POSITIONS).zip(values.chunks(POSITIONS * dim)) {
        let (mut low, mut high) = ([0; POSITIONS], [0; POSITIONS]);
        for ((low, high), p) in low.iter_mut().zip(&mut high).zip(p) {
            (*low, *high) = (*p as u8, (*p >> 8) as u8);
        }
        let groups = p.len().div_ceil(GROUP);
        let (low, high) = (&low.as_chunks().0[..groups], &high.as_chunks().0[..groups]);
        for (block, out) in out.chunks_mut(CHANNELS).enumerate() {
            weighted_block(low, high, values, dim, block * CHANNELS, out);
        }
    }
}

/// Up to 64 channels from `first` on; weights beyond the last position are 0.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn weighted_block(
    low: &[[u8; GROUP]],
    high: &[[u8; GROUP]],
    values: &[i8],
    dim: usize,
    first: usize,
    out: &mut [i32],
) {
    let mask = u64::MAX >> (CHANNELS - out.len());
    let zero = _mm512_setzero_si512();
    let (mut low_sums, mut high_sums) = ([zero; 4], [zero; 4]);
    for ((low, high), rows) in low.iter().zip(high).zip(values.chunks(GROUP * dim)) {
        let mut row = [zero; GROUP];
        for (row, values) in row.iter_mut().zip(rows.chunks_exact(dim)) {
            let channels = &values[first..first + out.len()];
            // SAFETY: reads only what the mask selects, which is `channels`.
            *row = unsafe { _mm512_maskz_loadu_epi8(mask, channels.as_ptr()) };
        }
        let [a, b, c, d] = row;
        let (ab, cd) = (_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d));
        let (ef, gh) = (_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d));
        // Lane l of the i-th holds channels 16 l + 4 i + 0..4, four positions each.
        let mixed = [
            _mm512_unpacklo_epi16(ab, cd),
            _mm512_unpackhi_epi16(ab, cd),
            _mm512_unpacklo_epi16(ef, gh),
            _mm512_unpackhi_epi16(ef, gh),
        ];
        let low = _mm512_set1_epi32(i32::from_le_bytes(*low));
        let high = _mm512_set1_epi32(i32::from_le_bytes(*high));
        for i in 0..4 {
            low_sums[i] = _mm512_dpbusd_epi32(low_sums[i], low, mixed[i]);
            high_sums[i] = _mm512_dpbusd_epi32(high_sums[i], high, mixed[i]);
        }
    }
    for i in 0..4 {
        let sums = _mm512_add_epi32(low_sums[i], _mm512_slli_epi32::<8>(high_sums[i]));
        let mut lanes = [[0i32; 4]; 4];
        // SAFETY: writes the 64 bytes of the array.
        unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), sums) };
        for (lane, sums) in lanes.iter().enumerate() {
            let channels = out.iter_mut().skip(16 * lane + 4 * i).take(4);
            channels.zip(sums).for_each(|(out, sum)| *out = out.wrapping_add(*sum));
        }
    }
}
