//! What the VNNI kernels need of a vector, for 512 and 256 bits: they differ in nothing else.
//!
//! `vpdpbusd` multiplies unsigned by signed bytes and adds four products to each i32 without
//! saturating (its twin `vpdpbusds` saturates and must never be used). The weights are the unsigned
//! side, shifted by 128, which costs a correction per *token* instead of one per row:
//!
//! ```text
//! sum_j (W_ij + 128) x_j - 128 sum_j x_j = sum_j W_ij x_j
//! ```
//!
//! modulo 2^32, hence exactly.

use core::arch::x86_64::*;

macro_rules! vector {
    ($(
        $(#[$meta:meta])*
        fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? { $wide:expr; $narrow:expr }
    )*) => {
        /// 4 or 2 lanes of 128 bits, a row each: a tile of 16 columns of a panel, or half of one.
        ///
        /// The functions enable no instructions, because only those that do not may be inlined
        /// always; so they take them from their callers.
        ///
        /// # Safety
        /// Of every function: the caller enables the instructions of the vector's kernel, and
        /// pointers are good for the bytes that the function reads or writes.
        #[allow(clippy::needless_arbitrary_self_type)]
        pub(super) trait Vector: Copy {
            /// Bytes of a vector.
            const BYTES: usize;
            $($(#[$meta])* unsafe fn $name($($arg: $ty),*) $(-> $ret)?;)*
        }

        impl Vector for __m512i {
            const BYTES: usize = 64;
            $(
                // SAFETY: the caller has the features that the trait asks for.
                #[inline(always)]
                unsafe fn $name($($arg: $ty),*) $(-> $ret)? {
                    // SAFETY: the caller has them.
                    unsafe { $wide }
                }
            )*
        }

        impl Vector for __m256i {
            const BYTES: usize = 32;
            $(
                // SAFETY: the caller has the features that the trait asks for.
                #[inline(always)]
                unsafe fn $name($($arg: $ty),*) $(-> $ret)? {
                    // SAFETY: the caller has them.
                    unsafe { $narrow }
                }
            )*
        }
    };
}

vector! {
    /// All zeros.
    fn zero() -> Self { _mm512_setzero_si512(); _mm256_setzero_si256() }
    /// Reads a vector.
    fn load(from: *const u8) -> Self { _mm512_loadu_si512(from.cast()); _mm256_loadu_si256(from.cast()) }
    /// Writes a vector.
    fn store(self: Self, to: *mut u8) { _mm512_storeu_si512(to.cast(), self); _mm256_storeu_si256(to.cast(), self) }
    /// 16 bytes, in every lane.
    fn splat16(from: *const i8) -> Self {
        _mm512_broadcast_i32x4(_mm_loadu_si128(from.cast()));
        _mm256_broadcastsi128_si256(_mm_loadu_si128(from.cast()))
    }
    /// 4 bytes, sixteen or eight times.
    fn splat4(from: *const i8) -> Self {
        _mm512_set1_epi32(from.cast::<i32>().read_unaligned());
        _mm256_set1_epi32(from.cast::<i32>().read_unaligned())
    }
    /// A value, sixteen or eight times.
    fn splat(value: i32) -> Self { _mm512_set1_epi32(value); _mm256_set1_epi32(value) }
    /// Sums of i32.
    fn add(self: Self, other: Self) -> Self { _mm512_add_epi32(self, other); _mm256_add_epi32(self, other) }
    /// int8 to unsigned: + 128.
    fn shifted(self: Self) -> Self {
        _mm512_xor_si512(self, _mm512_set1_epi8(-128));
        _mm256_xor_si256(self, _mm256_set1_epi8(-128))
    }
    /// `self` and four products of unsigned weights and codes for each i32.
    fn dot(self: Self, weights: Self, codes: Self) -> Self {
        _mm512_dpbusd_epi32(self, weights, codes);
        _mm256_dpbusd_avx_epi32(self, weights, codes)
    }
    /// The low nibble of each byte.
    fn low_nibbles(self: Self) -> Self {
        _mm512_and_si512(self, _mm512_set1_epi8(15));
        _mm256_and_si256(self, _mm256_set1_epi8(15))
    }
    /// The high nibble of each byte.
    fn high_nibbles(self: Self) -> Self {
        _mm512_and_si512(_mm512_srli_epi16::<4>(self), _mm512_set1_epi8(15));
        _mm256_and_si256(_mm256_srli_epi16::<4>(self), _mm256_set1_epi8(15))
    }
    /// The entries that `nibbles` name, from one table of 16 bytes a lane.
    fn look_up(self: Self, nibbles: Self) -> Self {
        _mm512_shuffle_epi8(self, nibbles);
        _mm256_shuffle_epi8(self, nibbles)
    }
    /// The tables of the rows of part `part` of a panel: those at these four offsets from `tables`.
    fn tables(tables: *const u8, at: [usize; 4], part: usize) -> Self {
        {
            let table = |row: usize| _mm_loadu_si128(tables.add(at[row]).cast());
            let one = _mm512_castsi128_si512(table(0));
            let two = _mm512_inserti32x4::<1>(one, table(1));
            let three = _mm512_inserti32x4::<2>(two, table(2));
            debug_assert_eq!(part, 0, "a panel is one vector");
            _mm512_inserti32x4::<3>(three, table(3))
        };
        {
            let table = |row: usize| _mm_loadu_si128(tables.add(at[2 * part + row]).cast());
            _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(table(0)), table(1))
        }
    }
    /// The low halves of the lanes of two vectors, mixed i32 by i32.
    fn zip_low32(self: Self, other: Self) -> Self {
        _mm512_unpacklo_epi32(self, other);
        _mm256_unpacklo_epi32(self, other)
    }
    /// The high halves.
    fn zip_high32(self: Self, other: Self) -> Self {
        _mm512_unpackhi_epi32(self, other);
        _mm256_unpackhi_epi32(self, other)
    }
    /// The low halves of the lanes of two vectors, one behind the other.
    fn zip_low64(self: Self, other: Self) -> Self {
        _mm512_unpacklo_epi64(self, other);
        _mm256_unpacklo_epi64(self, other)
    }
    /// The high halves.
    fn zip_high64(self: Self, other: Self) -> Self {
        _mm512_unpackhi_epi64(self, other);
        _mm256_unpackhi_epi64(self, other)
    }
    /// Writes the sum of each lane (four or two of them).
    fn store_lane_sums(self: Self, to: *mut i32) {
        {
            let halves = _mm512_add_epi32(self, _mm512_shuffle_epi32::<0b01_00_11_10>(self));
            let sums = _mm512_add_epi32(halves, _mm512_shuffle_epi32::<0b10_11_00_01>(halves));
            let order = _mm512_setr_epi32(0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12, 0, 4, 8, 12);
            _mm_storeu_si128(to.cast(), _mm512_castsi512_si128(_mm512_permutexvar_epi32(order, sums)));
        };
        {
            let halves = _mm256_add_epi32(self, _mm256_shuffle_epi32::<0b01_00_11_10>(self));
            let sums = _mm256_add_epi32(halves, _mm256_shuffle_epi32::<0b10_11_00_01>(halves));
            let both = _mm_unpacklo_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256::<1>(sums));
            _mm_storel_epi64(to.cast(), both);
        }
    }
}

/// Asks for a line of memory that will be read soon, in the second-level cache.
#[inline(always)]
pub(super) fn prefetch(line: *const u8) {
    // SAFETY: a prefetch of any address does no harm, and all of x86-64 has it.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(line.cast()) };
}
