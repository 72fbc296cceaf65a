//! The loops of attention with AVX2: `vpmaddwd` adds two exact products of i16 into an i32, of
//! neighbouring channels for scores, of neighbouring positions for weighted sums.

use super::super::kernel::Avx2;
use core::arch::x86_64::*;

/// Values of a vector of i16.
const LANES: usize = 16;
/// Vectors of channels whose sums are held in registers.
const BLOCK: usize = 4;

/// `out_j = sum_c q_c keys_jc`; `keys` is `(out.len(), q.len())` and `q.len()` a positive multiple
/// of 16, which the caller has checked.
pub(in super::super) fn scores(_: Avx2, q: &[i16], keys: &[i16], out: &mut [i32]) {
    // SAFETY: the witness says that the machine has AVX2.
    unsafe { scores_run(q, keys, out) }
}

#[target_feature(enable = "avx2")]
fn scores_run(q: &[i16], keys: &[i16], out: &mut [i32]) {
    let (q, dim) = (q.as_chunks::<LANES>().0, q.len());
    for (out, keys) in out.chunks_mut(4).zip(keys.chunks(4 * dim)) {
        let mut sums = [_mm256_setzero_si256(); 4];
        for (sum, key) in sums.iter_mut().zip(keys.chunks_exact(dim)) {
            for (q, key) in q.iter().zip(key.as_chunks().0) {
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(load(q), load(key)));
            }
        }
        let [a, b, c, d] = sums;
        let halves = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
        let total = _mm_add_epi32(_mm256_castsi256_si128(halves), _mm256_extracti128_si256::<1>(halves));
        let mut totals = [0; 4];
        // SAFETY: writes the 16 bytes of the array.
        unsafe { _mm_storeu_si128(totals.as_mut_ptr().cast(), total) };
        out.copy_from_slice(&totals[..out.len()]);
    }
}

/// Adds `sum_j p_j values_jc` to `out_c`, with p_j cut to i16; `values` is `(p.len(), out.len())`
/// and `out.len()` a positive multiple of 16, which the caller has checked.
pub(in super::super) fn weighted_values(_: Avx2, p: &[i32], values: &[i8], out: &mut [i32]) {
    // SAFETY: the witness says that the machine has AVX2.
    unsafe { weighted_run(p, values, out) }
}

#[target_feature(enable = "avx2")]
fn weighted_run(p: &[i32], values: &[i8], out: &mut [i32]) {
    let dim = out.len();
    for (block, out) in out.as_chunks_mut::<LANES>().0.chunks_mut(BLOCK).enumerate() {
        let first = block * BLOCK * LANES;
        match out.len() {
            1 => weighted_block::<1>(p, values, dim, first, out),
            2 => weighted_block::<2>(p, values, dim, first, out),
            3 => weighted_block::<3>(p, values, dim, first, out),
            _ => weighted_block::<BLOCK>(p, values, dim, first, out),
        }
    }
}

/// `16 N` channels from `first` on, two positions at a time; a last one is paired with itself and
/// weight 0.
#[inline]
#[target_feature(enable = "avx2")]
fn weighted_block<const N: usize>(
    p: &[i32],
    values: &[i8],
    dim: usize,
    first: usize,
    out: &mut [[i32; LANES]],
) {
    let mut sums = [[_mm256_setzero_si256(); 2]; N];
    for (p, rows) in p.chunks(2).zip(values.chunks(2 * dim)) {
        let (a, b) = (&rows[first..], &rows[rows.len() - dim + first..]);
        let (a, b) = (a.as_chunks::<LANES>().0, b.as_chunks::<LANES>().0);
        let second = p.get(1).copied().unwrap_or(0);
        let pair = _mm256_set1_epi32(i32::from(p[0] as i16) & 0xffff | second << 16);
        for ((sums, a), b) in sums.iter_mut().zip(a).zip(b) {
            let (a, b) = (widened(a), widened(b));
            let (low, high) = (_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b));
            sums[0] = _mm256_add_epi32(sums[0], _mm256_madd_epi16(low, pair));
            sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(high, pair));
        }
    }
    for (out, [low, high]) in out.iter_mut().zip(sums) {
        // Each holds 4 channels of the first 8, then 4 of the last 8.
        let halves =
            [_mm256_permute2x128_si256::<0x20>(low, high), _mm256_permute2x128_si256::<0x31>(low, high)];
        for (out, half) in out.as_chunks_mut::<8>().0.iter_mut().zip(halves) {
            // SAFETY: reads and writes the 32 bytes of the array.
            unsafe {
                let sum = _mm256_add_epi32(_mm256_loadu_si256(out.as_ptr().cast()), half);
                _mm256_storeu_si256(out.as_mut_ptr().cast(), sum);
            }
        }
    }
}

/// 16 int8 values as i16.
#[inline]
#[target_feature(enable = "avx2")]
fn widened(values: &[i8; LANES]) -> __m256i {
    // SAFETY: reads the 16 bytes of the array.
    _mm256_cvtepi8_epi16(unsafe { _mm_loadu_si128(values.as_ptr().cast()) })
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(values: &[i16; LANES]) -> __m256i {
    // SAFETY: reads the 32 bytes of the array.
    unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
}
