//! How ggml stores the elements of a tensor (github.com/ggml-org/ggml, `ggml.h` and `ggml-common.h`).
//!
//! Quantised types store blocks along a row, each with its own scales:
//!
//! | type | block | bytes | element |
//! |---|---|---|---|
//! | Q4_0, Q5_0 | 32 | 18, 22 | `d (q - 8)`, `d (q - 16)` |
//! | Q4_1, Q5_1 | 32 | 20, 24 | `d q + m` |
//! | Q8_0 | 32 | 34 | `d q` |
//! | Q2_K, Q4_K, Q5_K | 256 | 84, 144, 176 | `d s q - dmin m`, s and m per 16 or 32 |
//! | Q3_K, Q6_K | 256 | 110, 210 | `d s q`, s per 16 |

use half::{bf16, f16};

use super::{blocks, k_quants};

/// Element types that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TensorType {
    /// IEEE single precision.
    F32,
    /// IEEE half precision.
    F16,
    /// The upper half of F32.
    Bf16,
    /// 4 bits, one scale per 32.
    Q4_0,
    /// 4 bits, scale and minimum per 32.
    Q4_1,
    /// 5 bits, one scale per 32.
    Q5_0,
    /// 5 bits, scale and minimum per 32.
    Q5_1,
    /// 8 bits, one scale per 32.
    Q8_0,
    /// 2 bits, 4-bit scales and minima per 16.
    Q2K,
    /// 3 bits, 6-bit scales per 16.
    Q3K,
    /// 4 bits, 6-bit scales and minima per 32.
    Q4K,
    /// 5 bits, 6-bit scales and minima per 32.
    Q5K,
    /// 6 bits, 8-bit scales per 16.
    Q6K,
}

/// All of them with name and number.
const ALL: [(TensorType, u32, &str); 13] = [
    (TensorType::F32, 0, "F32"),
    (TensorType::F16, 1, "F16"),
    (TensorType::Bf16, 30, "BF16"),
    (TensorType::Q4_0, 2, "Q4_0"),
    (TensorType::Q4_1, 3, "Q4_1"),
    (TensorType::Q5_0, 6, "Q5_0"),
    (TensorType::Q5_1, 7, "Q5_1"),
    (TensorType::Q8_0, 8, "Q8_0"),
    (TensorType::Q2K, 10, "Q2_K"),
    (TensorType::Q3K, 11, "Q3_K"),
    (TensorType::Q4K, 12, "Q4_K"),
    (TensorType::Q5K, 13, "Q5_K"),
    (TensorType::Q6K, 14, "Q6_K"),
];

/// Types that exist and are not read, for error messages.
const OTHERS: [(u32, &str); 22] = [
    (9, "Q8_1"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
];

impl TensorType {
    /// Every type that is read.
    pub fn all() -> impl Iterator<Item = Self> {
        ALL.into_iter().map(|(kind, _, _)| kind)
    }

    /// By `ggml_type`.
    #[must_use]
    pub fn from_id(id: u32) -> Option<Self> {
        ALL.into_iter().find(|entry| entry.1 == id).map(|entry| entry.0)
    }

    /// ggml's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        ALL.into_iter().find(|entry| entry.0 == self).map_or("", |entry| entry.2)
    }

    /// The name of a type that need not be one of these.
    pub(super) fn name_of_id(id: u32) -> String {
        let known = OTHERS.into_iter().find(|entry| entry.0 == id);
        known.map_or_else(|| format!("number {id}"), |(_, name)| name.into())
    }

    /// Names of all types, for error messages.
    pub(super) fn names() -> String {
        ALL.map(|(_, _, name)| name).join(", ")
    }

    /// Elements that share scales; the length of a row is a multiple of it.
    #[must_use]
    pub fn block_elements(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::Bf16 => 1,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_0 | Self::Q5_1 | Self::Q8_0 => blocks::ELEMENTS,
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K => k_quants::ELEMENTS,
        }
    }

    /// Bytes of a block.
    #[must_use]
    pub fn block_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Q4_0 => 18,
            Self::Q4_1 => 20,
            Self::Q5_0 => 22,
            Self::Q5_1 => 24,
            Self::Q8_0 => 34,
            Self::Q2K => 84,
            Self::Q3K => 110,
            Self::Q4K => 144,
            Self::Q5K => 176,
            Self::Q6K => 210,
        }
    }

    /// Appends the elements of all whole blocks of `bytes`.
    pub fn dequantise(self, bytes: &[u8], out: &mut Vec<f32>) {
        let decode: fn(&[u8], &mut Vec<f32>) = match self {
            Self::F32 => |b, out| out.push(f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            Self::F16 => |b, out| out.push(f16::from_le_bytes([b[0], b[1]]).to_f32()),
            Self::Bf16 => |b, out| out.push(bf16::from_le_bytes([b[0], b[1]]).to_f32()),
            Self::Q4_0 => blocks::q4_0,
            Self::Q4_1 => blocks::q4_1,
            Self::Q5_0 => blocks::q5_0,
            Self::Q5_1 => blocks::q5_1,
            Self::Q8_0 => blocks::q8_0,
            Self::Q2K => k_quants::q2_k,
            Self::Q3K => k_quants::q3_k,
            Self::Q4K => k_quants::q4_k,
            Self::Q5K => k_quants::q5_k,
            Self::Q6K => k_quants::q6_k,
        };
        bytes.chunks_exact(self.block_bytes()).for_each(|block| decode(block, out));
    }
}
