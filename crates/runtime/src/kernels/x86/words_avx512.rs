//! Sixteen rows of sixteen words, transposed in registers: words change places inside lanes of 128 bits
//! (32, then 64 bits at a time), then lanes do.

use super::super::kernel::Avx512;
use core::arch::x86_64::*;

/// Word `j` of block `i`, big-endian, into `words[j][i]`.
pub(in super::super) fn words(_: Avx512, blocks: &[&[u8; 64]; 16], words: &mut [[u32; 16]; 16]) {
    // SAFETY: the witness says that the machine has these instructions.
    unsafe { transposed(blocks, words) }
}

#[target_feature(enable = "avx512f,avx512bw")]
fn transposed(blocks: &[&[u8; 64]; 16], words: &mut [[u32; 16]; 16]) {
    let swap = _mm512_set4_epi32(0x0c0d_0e0f, 0x0809_0a0b, 0x0405_0607, 0x0001_0203);
    let row = |at: usize| {
        // SAFETY: a block has the 64 bytes of a vector.
        let words = unsafe { _mm512_loadu_si512(blocks[at].as_ptr().cast()) };
        _mm512_shuffle_epi8(words, swap)
    };
    // Of rows 4g to 4g + 3: lane l of [g][c] is their word 4l + c.
    let quads = [0, 4, 8, 12].map(|first| {
        let [a, b, c, d] = [row(first), row(first + 1), row(first + 2), row(first + 3)];
        let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        let (ab_high, cd_high) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        [
            _mm512_unpacklo_epi64(ab, cd),
            _mm512_unpackhi_epi64(ab, cd),
            _mm512_unpacklo_epi64(ab_high, cd_high),
            _mm512_unpackhi_epi64(ab_high, cd_high),
        ]
    });
    for c in 0..4 {
        let [a, b, d, e] = [quads[0][c], quads[1][c], quads[2][c], quads[3][c]];
        // Lanes 0 and 2, lanes 1 and 3, of each pair.
        let (even, even_high) = (_mm512_shuffle_i32x4::<0x88>(a, b), _mm512_shuffle_i32x4::<0x88>(d, e));
        let (odd, odd_high) = (_mm512_shuffle_i32x4::<0xdd>(a, b), _mm512_shuffle_i32x4::<0xdd>(d, e));
        let rows = [
            _mm512_shuffle_i32x4::<0x88>(even, even_high),
            _mm512_shuffle_i32x4::<0x88>(odd, odd_high),
            _mm512_shuffle_i32x4::<0xdd>(even, even_high),
            _mm512_shuffle_i32x4::<0xdd>(odd, odd_high),
        ];
        for (lane, row) in rows.into_iter().enumerate() {
            // SAFETY: a row of words is 64 bytes.
            unsafe { _mm512_storeu_si512(words[4 * lane + c].as_mut_ptr().cast(), row) };
        }
    }
}
