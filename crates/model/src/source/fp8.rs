//! 8-bit floats and their scales.
//!
//! ```text
//! E4M3   sign 1, exponent 4 (bias 7), fraction 3; no infinity; 0x7f and 0xff are NaN; largest 448
//! E5M2   sign 1, exponent 5, fraction 2: the upper byte of an f16
//! weight[r][c] = code[r][c] * scale,   scale in NAME_scale_inv (DeepSeek-V3, Qwen3-FP8: it multiplies, whatever its name
//!        says) or NAME_scale (compressed-tensors): one value, one a row, or one a block of 128 x 128
//! ```
//! Formats: "FP8 Formats for Deep Learning", arXiv 2209.05433, table 1.

use safetensors::tensor::Dtype;

use super::SourceError;
use super::tensor_store::TensorStore;

pub(super) fn is_fp8(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F8_E4M3 | Dtype::F8_E5M2)
}

pub(super) fn from_e4m3(code: u8) -> f32 {
    let (exponent, fraction) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let magnitude = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => fraction * (-9f32).exp2(),
        _ => (1.0 + fraction / 8.0) * ((exponent - 7) as f32).exp2(),
    };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

pub(super) fn from_e5m2(code: u8) -> f32 {
    half::f16::from_le_bytes([0, code]).to_f32()
}

/// Multiplies `data`, rows of `cols`, by the scales that belong to tensor `name`. A tensor without scales stays as it is.
pub(super) fn rescale(
    store: &TensorStore,
    name: &str,
    block: [usize; 2],
    data: &mut [f32],
    cols: usize,
) -> Result<(), SourceError> {
    let names = ["_scale_inv", "_scale"].map(|suffix| format!("{name}{suffix}"));
    let Some(scale_name) = names.into_iter().find(|name| store.contains(name)) else { return Ok(()) };
    let shape = store.shape(&scale_name).unwrap_or_default().to_vec();
    let rows = data.len() / cols;
    let blocks = [rows.div_ceil(block[0]), cols.div_ceil(block[1])];
    // Rows and columns that share a scale.
    let [height, width] = match shape[..] {
        [] | [1] | [1, 1] => [rows, cols],
        [n] | [n, 1] if n == rows => [1, cols],
        [down, across] if [down, across] == blocks => block,
        _ => return Err(SourceError::Shape { name: scale_name, got: shape, expected: blocks.into() }),
    };
    let scales = match shape[..] {
        [] => store.scalar(&scale_name)?,
        _ => store.values(&scale_name, &shape)?,
    };
    let across = cols.div_ceil(width);
    for (row, data) in data.chunks_mut(cols).enumerate() {
        for (at, part) in data.chunks_mut(width).enumerate() {
            let scale = scales[row / height * across + at];
            part.iter_mut().for_each(|x| *x *= scale);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The corners that the paper's table 1 lists.
    #[test]
    fn codes_mean_what_the_table_says() {
        for (code, wanted) in [
            (0x00, 0.0),
            (0x01, 0.001_953_125),
            (0x07, 0.013_671_875),
            (0x08, 0.015_625),
            (0x38, 1.0),
            (0x3c, 1.5),
            (0x7e, 448.0),
            (0xb8, -1.0),
            (0xfe, -448.0),
        ] {
            assert_eq!(from_e4m3(code), wanted, "E4M3 {code:#x}");
        }
        assert!(from_e4m3(0x7f).is_nan() && from_e4m3(0xff).is_nan());
        for (code, wanted) in [(0x01, 1.525_878_9e-5), (0x3c, 1.0), (0x7b, 57_344.0), (0xbc, -1.0)] {
            assert_eq!(from_e5m2(code), wanted, "E5M2 {code:#x}");
        }
        assert!(!from_e5m2(0x7c).is_finite());
    }
}
