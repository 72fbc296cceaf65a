//! Super-blocks of 256 elements with quantised scales (`dequantize_row_q*_K` of ggml-quants.c).

use super::blocks::half_at;

/// Elements of a super-block.
pub(super) const ELEMENTS: usize = 256;

/// `16 x (scale, minimum) in 4 bits each, 64 x u8, f16 d, f16 dmin`.
///
/// A half of 128 elements takes 32 bytes of codes; two bits at a time they are four groups of 32, each with two scales.
pub(super) fn q2_k(block: &[u8], out: &mut Vec<f32>) {
    let (scales, codes) = (&block[..16], &block[16..80]);
    let (d, dmin) = (half_at(block, 80), half_at(block, 82));
    for group in 0..16 {
        let (scale, min) = (d * f32::from(scales[group] & 0x0f), dmin * f32::from(scales[group] >> 4));
        let (first, shift) = group_of_16(group);
        let codes = codes[first..first + 16].iter().map(|code| f32::from(code >> shift & 3));
        out.extend(codes.map(|code| scale * code - min));
    }
}

/// `32 x u8 of third bits, 64 x u8 of lower bits, 12 x u8 of scales, f16 d`. A third bit that is not set subtracts 4.
pub(super) fn q3_k(block: &[u8], out: &mut Vec<f32>) {
    let (high, codes, packed) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half_at(block, 108);
    for group in 0..16 {
        // Lower four bits: nibbles of bytes 0 to 7. Upper two: pairs of bits of bytes 8 to 11.
        let low = packed[group % 8] >> (4 * (group / 8)) & 0x0f;
        let top = packed[8 + group % 4] >> (2 * (group / 4)) & 3;
        let scale = d * (i32::from(low | top << 4) - 32) as f32;
        let (first, shift) = group_of_16(group);
        for (j, code) in codes[first..first + 16].iter().enumerate() {
            let third = high[first % 32 + j] >> (group / 2) & 1;
            let code = i32::from(code >> shift & 3) - if third == 1 { 0 } else { 4 };
            out.push(scale * code as f32);
        }
    }
}

/// First byte of codes and shift of the `group`-th run of 16 elements in Q2_K and Q3_K.
fn group_of_16(group: usize) -> (usize, usize) {
    (group / 8 * 32 + group % 2 * 16, group % 8 / 2 * 2)
}

/// Scale and minimum of the `j`-th run of 32 elements in Q4_K and Q5_K: 6 bits each, the last four runs in pieces.
fn scale_and_min(packed: &[u8], j: usize) -> (f32, f32) {
    let (scale, min) = if j < 4 {
        (packed[j] & 63, packed[j + 4] & 63)
    } else {
        (packed[j + 4] & 0x0f | (packed[j - 4] >> 6) << 4, packed[j + 4] >> 4 | (packed[j] >> 6) << 4)
    };
    (f32::from(scale), f32::from(min))
}

/// `f16 d, f16 dmin, 12 x u8 of scales and minima, 128 x u8`.
pub(super) fn q4_k(block: &[u8], out: &mut Vec<f32>) {
    q45_k(block, &block[16..144], |_, _| 0, out);
}

/// `f16 d, f16 dmin, 12 x u8 of scales and minima, 32 x u8 of fifth bits, 128 x u8`.
pub(super) fn q5_k(block: &[u8], out: &mut Vec<f32>) {
    let high = &block[16..48];
    q45_k(block, &block[48..176], |run, j| (high[j] >> run & 1) << 4, out);
}

/// 32 bytes of codes are two runs of 32 elements: lower halves, then upper ones.
fn q45_k(block: &[u8], codes: &[u8], fifth_bit: impl Fn(usize, usize) -> u8, out: &mut Vec<f32>) {
    let (d, dmin, packed) = (half_at(block, 0), half_at(block, 2), &block[4..16]);
    for run in 0..8 {
        let (scale, min) = scale_and_min(packed, run);
        let (scale, min) = (d * scale, dmin * min);
        let bytes = &codes[run / 2 * 32..][..32];
        for (j, byte) in bytes.iter().enumerate() {
            let code = (byte >> (4 * (run % 2)) & 0x0f) | fifth_bit(run, j);
            out.push(scale * f32::from(code) - min);
        }
    }
}

/// `128 x u8 of lower four bits, 64 x u8 of upper two, 16 x i8 of scales, f16 d`.
///
/// A half of 128 elements takes 64 and 32 bytes: elements `32 r + l` of it have their lower bits in byte `32 (r % 2) + l`,
/// half `r / 2`, and their upper bits in byte `l`, pair `r`.
pub(super) fn q6_k(block: &[u8], out: &mut Vec<f32>) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half_at(block, 208);
    for half in 0..2 {
        for run in 0..4 {
            for l in 0..32 {
                let nibble = low[half * 64 + run % 2 * 32 + l] >> (4 * (run / 2)) & 0x0f;
                let pair = high[half * 32 + l] >> (2 * run) & 3;
                let scale = d * f32::from(scales[half * 8 + run * 2 + l / 16] as i8);
                out.push(scale * (i32::from(nibble | pair << 4) - 32) as f32);
            }
        }
    }
}
