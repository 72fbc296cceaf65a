//! The rival: what llama.cpp's Q8_0 and Q4_0 do to the same weights, simulated.
//!
//! ggml keeps blocks of 32 along a row with one f16 scale, and rounds the input of every quantised linear to Q8_0 blocks
//! too; its integer dot products are exact. So "round the weights, round the inputs, multiply in float" computes the same
//! numbers up to the order of the outer sum. Matrices and embedding are quantised (the embedding and the head always to
//! Q8_0), norms, biases, learned positions and the KV cache stay float. A last block may be shorter than 32, which ggml
//! itself does not allow. Formulas: `quantize_row_q8_0_ref` and `quantize_row_q4_0_ref` of ggml-quants.c.

use half::f16;

use crate::source::{FloatModel, SourceError};

/// Weights per scale.
pub const BLOCK: usize = 32;

/// A ggml weight format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WeightFormat {
    /// 8 bits and an f16 scale per 32 weights: 8.5 bits.
    Q8_0,
    /// 4 bits and an f16 scale per 32 weights: 4.5 bits.
    Q4_0,
}

/// The model with its weights rounded as ggml would store them. Run it with [`super::Activations::Q8_0`].
pub fn quantise_weights(model: &FloatModel, format: WeightFormat) -> Result<FloatModel, SourceError> {
    let mut rounded = model.clone();
    rounded.embed = model.embed.map_rows("embed", |row| round_row(row, WeightFormat::Q8_0))?;
    if let Some(head) = &model.head {
        rounded.head = Some(head.map_rows("head", |row| round_row(row, WeightFormat::Q8_0))?);
    }
    for (index, layer) in rounded.layers.iter_mut().enumerate() {
        for (part, linear) in layer.linears_mut() {
            let name = format!("layers.{index}.{part}");
            linear.weight = linear.weight.map_rows(&name, |row| round_row(row, format))?;
        }
    }
    Ok(rounded)
}

/// Rounds a linear's input to Q8_0 blocks.
pub fn round_activations(x: &mut [f32]) {
    round_row(x, WeightFormat::Q8_0);
}

/// Rounds a row to what the format can store.
pub fn round_row(row: &mut [f32], format: WeightFormat) {
    let round_block = match format {
        WeightFormat::Q8_0 => round_q8_0,
        WeightFormat::Q4_0 => round_q4_0,
    };
    row.chunks_mut(BLOCK).for_each(round_block);
}

/// `d = max|x| / 127`, codes -127..=127; codes are chosen with the exact d, values come back with d as f16.
fn round_q8_0(block: &mut [f32]) {
    let max = block.iter().fold(0f32, |max, x| max.max(x.abs()));
    let d = max / 127.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let stored = f16::from_f32(d).to_f32();
    block.iter_mut().for_each(|x| *x = (*x * inverse).round() * stored);
}

/// `d = (the x of largest magnitude) / -8`, codes 0..=15 stand for -8..=7.
fn round_q4_0(block: &mut [f32]) {
    let largest =
        block.iter().fold(0f32, |largest: f32, &x| if x.abs() > largest.abs() { x } else { largest });
    let d = largest / -8.0;
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    let stored = f16::from_f32(d).to_f32();
    for x in block {
        let code = ((*x * inverse + 8.5) as i32).min(15);
        *x = (code - 8) as f32 * stored;
    }
}
