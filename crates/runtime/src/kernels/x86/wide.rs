//! Sixteen words in a register of 512 bits. Whoever has an [`Avx512`] has its instructions, so every call of one is sound; each is inlined into the task that
//! [`super::super::vectorised`] runs, which is compiled for them.

use super::super::kernel::Avx512;
use super::super::wide::Wide;
use core::arch::asm;
use core::arch::x86_64::*;

/// The even places.
const EVEN: __mmask16 = 0x5555;

/// Products of even words. Written as an instruction, because a compiler takes the intrinsic apart: where it does not see both operands being cut to
/// 32 bits, or sees that only lower halves are read, it makes a product of 64 bits of it, which takes three times as long.
#[inline]
#[target_feature(enable = "avx512f")]
fn product(a: __m512i, b: __m512i) -> __m512i {
    let product;
    // SAFETY: the instruction has no other effect, and this function has it.
    unsafe {
        asm!(
            "vpmuludq {product}, {a}, {b}",
            product = lateout(zmm_reg) product,
            a = in(zmm_reg) a,
            b = in(zmm_reg) b,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    product
}

/// Upper halves of both: one instruction, where a compiler that sees the intrinsic makes two shuffles of it.
#[inline]
#[target_feature(enable = "avx512f")]
fn joined(even: __m512i, odd: __m512i) -> __m512i {
    let mut joined = odd;
    // SAFETY: the instruction has no other effect, and this function has it.
    unsafe {
        asm!(
            "vmovshdup {joined}{{{mask}}}, {even}",
            joined = inout(zmm_reg) joined,
            even = in(zmm_reg) even,
            mask = in(kreg) EVEN,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    joined
}

/// Methods that are one expression of instructions.
macro_rules! instructions {
    ($($name:ident($($x:ident: $kind:ty),*) = $value:expr;)*) => {
        $(
            #[inline(always)]
            fn $name(self, $($x: $kind),*) -> __m512i {
                // SAFETY: the witness says that the machine has AVX-512 F; arrays have the 64 bytes that are read.
                unsafe { $value }
            }
        )*
    };
}

impl Wide for Avx512 {
    const NATIVE: bool = true;
    type Words = __m512i;
    type Longs = __m512i;

    instructions! {
        load(x: &[u32; 16]) = _mm512_loadu_si512(x.as_ptr().cast());
        splat(x: u32) = _mm512_set1_epi32(x as i32);
        add(a: __m512i, b: __m512i) = _mm512_add_epi32(a, b);
        sub(a: __m512i, b: __m512i) = _mm512_sub_epi32(a, b);
        min(a: __m512i, b: __m512i) = _mm512_min_epu32(a, b);
        odd(a: __m512i) = _mm512_castps_si512(_mm512_movehdup_ps(_mm512_castsi512_ps(a)));
        mul(a: __m512i, b: __m512i) = product(a, b);
        mul_low(a: __m512i, b: __m512i) = product(a, b);
        splat_long(x: u64) = _mm512_set1_epi64(x as i64);
        add_long(a: __m512i, b: __m512i) = _mm512_add_epi64(a, b);
        less(a: __m512i, b: __m512i) = _mm512_min_epu32(a, _mm512_sub_epi32(a, b));
        join(even: __m512i, odd: __m512i) = joined(even, odd);
    }

    #[inline(always)]
    fn store(self, x: __m512i, out: &mut [u32; 16]) {
        // SAFETY: the witness says that the machine has AVX-512 F; the array has the 64 bytes that are written.
        unsafe { _mm512_storeu_si512(out.as_mut_ptr().cast(), x) };
    }
}
