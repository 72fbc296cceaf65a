//! Blocks of 32 elements (`dequantize_row_q*` of ggml-quants.c).
//!
//! Byte `j` of the codes holds element `j` in its lower and element `j + 16` in its upper half; the fifth bits of Q5 lie apart,
//! bit `j` of a u32 belongs to element `j`.

use half::f16;

/// Elements of a block.
pub(super) const ELEMENTS: usize = 32;

/// `f16` at a place of a block.
pub(super) fn half_at(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// The sixteen lower halves, then the sixteen upper ones.
fn nibbles(codes: &[u8]) -> impl Iterator<Item = i32> {
    let lower = codes.iter().map(|byte| i32::from(byte & 0x0f));
    lower.chain(codes.iter().map(|byte| i32::from(byte >> 4)))
}

/// With bit `j` of `high` as the fifth bit of element `j`.
fn with_fifth_bit(codes: &[u8], high: [u8; 4]) -> impl Iterator<Item = i32> {
    let high = u32::from_le_bytes(high);
    nibbles(codes).enumerate().map(move |(j, code)| code | ((high >> j & 1) as i32) << 4)
}

/// `f16 d, 16 x u8`.
pub(super) fn q4_0(block: &[u8], out: &mut Vec<f32>) {
    let d = half_at(block, 0);
    out.extend(nibbles(&block[2..18]).map(|code| (code - 8) as f32 * d));
}

/// `f16 d, f16 m, 16 x u8`.
pub(super) fn q4_1(block: &[u8], out: &mut Vec<f32>) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    out.extend(nibbles(&block[4..20]).map(|code| code as f32 * d + m));
}

/// `f16 d, u32 fifth bits, 16 x u8`.
pub(super) fn q5_0(block: &[u8], out: &mut Vec<f32>) {
    let d = half_at(block, 0);
    let codes = with_fifth_bit(&block[6..22], [block[2], block[3], block[4], block[5]]);
    out.extend(codes.map(|code| (code - 16) as f32 * d));
}

/// `f16 d, f16 m, u32 fifth bits, 16 x u8`.
pub(super) fn q5_1(block: &[u8], out: &mut Vec<f32>) {
    let (d, m) = (half_at(block, 0), half_at(block, 2));
    let codes = with_fifth_bit(&block[8..24], [block[4], block[5], block[6], block[7]]);
    out.extend(codes.map(|code| code as f32 * d + m));
}

/// `f16 d, 32 x i8`.
pub(super) fn q8_0(block: &[u8], out: &mut Vec<f32>) {
    let d = half_at(block, 0);
    out.extend(block[2..34].iter().map(|&code| f32::from(code as i8) * d));
}
