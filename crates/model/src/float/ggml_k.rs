//! The rival's better formats: llama.cpp's Q4_K, Q6_K and the activations Q8_K that go with them, simulated.
//!
//! A super-block has 256 weights of a row, so rows must be multiples of 256 wide.
//! ```text
//! Q4_K   8 runs of 32:   w = (d s_r) c - (m t_r),   c in 0..=15, s and t in 0..=63, d and m as f16    4.5 bits
//! Q6_K   16 runs of 16:  w = (d s_r) c,             c in -32..=31, s in -128..=127, d as f16      6.56 bits
//! Q8_K   256 inputs:     x = d c,                   c in -127..=127, d as f32
//! ```
//! ggml chooses a run's scale (and minimum) by trying some twenty, each refined by weighted least squares, then rounds
//! scales to their own grid and codes once more to what came of it. Formulas: `quantize_row_q4_K_ref`,
//! `quantize_row_q6_K_ref` and `quantize_row_q8_K_ref` of ggml-quants.c; golden vectors made by ggml itself
//! (tests/fixtures/ggml-k).
//!
//! The mixture Q4_K_M (llama-quant.cpp): everything in Q4_K, but in Q6_K the head (or the tied embedding), and `v` and
//! `down` of the first and the last eighth of the layers and of every third between.

use crate::source::{FloatModel, Linear, Matrix, SourceError};
use half::f16;

/// Weights of a super-block.
pub const SUPER_BLOCK: usize = 256;
/// Weights of a run of Q4_K.
const RUN_4: usize = 32;
/// Weights of a run of Q6_K.
const RUN_6: usize = 16;
/// Largest stored scale of Q4_K.
const SCALE_4_MAX: f32 = 63.0;
/// Below this a run counts as zero.
const TINY: f32 = 1e-15;
/// Candidates that Q4_K tries after the plain one.
const STEPS_4: usize = 20;

/// Rounds a row to Q4_K.
///
/// # Panics
/// If the row is no whole number of super-blocks.
pub fn round_q4_k(row: &mut [f32]) {
    super_blocks(row).for_each(q4_k);
}

/// Rounds a row to Q6_K.
///
/// # Panics
/// If the row is no whole number of super-blocks.
pub fn round_q6_k(row: &mut [f32]) {
    super_blocks(row).for_each(q6_k);
}

/// Rounds the input of a matrix in Q4_K or Q6_K to Q8_K.
///
/// # Panics
/// If the input is no whole number of super-blocks.
pub fn round_q8_k(x: &mut [f32]) {
    super_blocks(x).for_each(q8_k);
}

/// Whether all rows of the model's matrices are whole super-blocks; ggml falls back to other formats elsewhere.
#[must_use]
pub fn fits(model: &FloatModel) -> bool {
    let whole = |matrix: &Matrix| matrix.cols().is_multiple_of(SUPER_BLOCK);
    let layers = model.layers.iter().flat_map(|layer| layer.linears());
    let mut linears = layers.map(|(_, linear): (String, &Linear)| &linear.weight);
    whole(&model.embed) && linears.all(whole)
}

/// The model with its weights rounded as in llama.cpp's Q4_K_M. Run it with [`super::Activations::Q8K`].
///
/// # Errors
/// If a rounded matrix is none: weights that are not finite.
///
/// # Panics
/// If the model does not fit, see [`fits`].
pub fn quantise_weights(model: &FloatModel) -> Result<FloatModel, SourceError> {
    let mut rounded = model.clone();
    let embed = if model.head.is_some() { round_q4_k } else { round_q6_k };
    rounded.embed = model.embed.map_rows("embed", embed)?;
    if let Some(head) = &model.head {
        rounded.head = Some(head.map_rows("head", round_q6_k)?);
    }
    let layers = model.layers.len();
    for (index, layer) in rounded.layers.iter_mut().enumerate() {
        for (part, linear) in layer.linears_mut() {
            let fine = part == "v" || part == "down" || part.ends_with(".down");
            let round = if fine && more_bits(index, layers) { round_q6_k } else { round_q4_k };
            // Routers stay float.
            if part != "router" {
                linear.weight = linear.weight.map_rows(&format!("layers.{index}.{part}"), round)?;
            }
        }
    }
    Ok(rounded)
}

/// Whether Q4_K_M keeps `v` and `down` of layer `index` of `layers` in Q6_K.
#[must_use]
pub fn more_bits(index: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    index < eighth || index >= 7 * layers / 8 || index.wrapping_sub(eighth) % 3 == 2
}

fn super_blocks(row: &mut [f32]) -> impl Iterator<Item = &mut [f32]> {
    assert!(row.len().is_multiple_of(SUPER_BLOCK), "{} values, expected a multiple of 256", row.len());
    row.chunks_mut(SUPER_BLOCK)
}

/// To the nearest integer, ties to even, as ggml rounds here.
fn nearest(x: f32) -> f32 {
    x.round_ties_even()
}

fn to_f16(x: f32) -> f32 {
    f16::from_f32(x).to_f32()
}

fn q8_k(block: &mut [f32]) {
    let largest = largest(block);
    if largest == 0.0 {
        return;
    }
    let inverse = -127.0 / largest;
    let d = 1.0 / inverse;
    block.iter_mut().for_each(|x| *x = nearest(inverse * *x).min(127.0) * d);
}

/// The value of largest magnitude, the first of equals.
fn largest(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |largest: f32, x| if x.abs() > largest.abs() { *x } else { largest })
}

fn q4_k(block: &mut [f32]) {
    let fits: Vec<Affine> = block.chunks(RUN_4).map(Affine::fit).collect();
    let most = |of: fn(&Affine) -> f32| fits.iter().map(of).fold(0.0f32, f32::max);
    let (scale, depth) = (most(|fit| fit.scale), most(|fit| fit.depth));
    let inverse = |largest: f32| if largest > 0.0 { SCALE_4_MAX / largest } else { 0.0 };
    let (inverse_scale, inverse_depth) = (inverse(scale), inverse(depth));
    let (d, m) = (to_f16(scale / SCALE_4_MAX), to_f16(depth / SCALE_4_MAX));
    for (run, fit) in block.chunks_mut(RUN_4).zip(&fits) {
        let step = d * nearest(inverse_scale * fit.scale).min(SCALE_4_MAX);
        let low = m * nearest(inverse_depth * fit.depth).min(SCALE_4_MAX);
        let code = |x: f32| nearest((x + low) / step).clamp(0.0, 15.0);
        // Without a step every weight is the minimum, whatever its code.
        run.iter_mut().for_each(|x| *x = if step == 0.0 { -low } else { step * code(*x) - low });
    }
}

/// `x = scale * code - depth`, codes 0..=15, depth at least 0.
#[derive(Clone, Copy)]
struct Affine {
    scale: f32,
    depth: f32,
}

impl Affine {
    /// The least weighted squared error over the plain fit between minimum and maximum and [`STEPS_4`] + 1 refined
    /// ones. Weights are magnitudes above the root mean square.
    fn fit(x: &[f32]) -> Affine {
        let rms = (x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32).sqrt();
        let weights: Vec<f32> = x.iter().map(|x| rms + x.abs()).collect();
        let low = x.iter().copied().fold(x[0], f32::min).min(0.0);
        let high = x.iter().copied().fold(x[0], f32::max);
        if high == low {
            return Affine { scale: 0.0, depth: -low };
        }
        let sum_w: f32 = weights.iter().sum();
        let sum_x: f32 = weights.iter().zip(x).map(|(w, x)| w * x).sum();
        let codes =
            |inverse: f32, low: f32| x.iter().map(move |x| nearest(inverse * (x - low)).clamp(0.0, 15.0));
        // Codes from `low`, error of what they mean with another scale and offset.
        let error = |inverse: f32, low: f32, scale: f32, offset: f32| -> f32 {
            let terms = codes(inverse, low).zip(x).zip(&weights);
            let squared = |difference: f32| difference * difference;
            terms.map(|((code, x), w)| w * squared(scale * code + offset - x)).sum()
        };
        let plain = 15.0 / (high - low);
        let mut best = (error(plain, low, 1.0 / plain, low), 1.0 / plain, low);
        for step in 0..=STEPS_4 {
            // Each candidate starts from the best offset so far.
            let low = best.2;
            let inverse = (0.1f32.mul_add(step as f32, -1.0) + 15.0) / (high - low);
            let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0f32, 0.0f32, 0.0f32);
            for ((code, x), w) in codes(inverse, low).zip(x).zip(&weights) {
                sum_l += w * code;
                sum_l2 += w * code * code;
                sum_xl += w * code * x;
            }
            let determinant = sum_w * sum_l2 - sum_l * sum_l;
            if determinant <= 0.0 {
                continue;
            }
            let mut scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let mut offset = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
            if offset > 0.0 {
                (scale, offset) = (sum_xl / sum_l2, 0.0);
            }
            let error = error(inverse, low, scale, offset);
            if error < best.0 {
                best = (error, scale, offset);
            }
        }
        Affine { scale: best.1, depth: -best.2 }
    }
}

fn q6_k(block: &mut [f32]) {
    let scales: Vec<f32> = block.chunks(RUN_6).map(symmetric_scale).collect();
    let largest = largest(&scales);
    if largest.abs() < TINY {
        block.fill(0.0);
        return;
    }
    let inverse = -128.0 / largest;
    let d = to_f16(1.0 / inverse);
    for (run, scale) in block.chunks_mut(RUN_6).zip(scales) {
        let step = d * nearest(inverse * scale).min(127.0);
        let code = |x: f32| nearest(x / step).clamp(-32.0, 31.0);
        run.iter_mut().for_each(|x| *x = if step == 0.0 { 0.0 } else { step * code(*x) });
    }
}

/// The scale of codes -32..=31 that keeps most of a run, weighted by squares: the best of 19.
fn symmetric_scale(x: &[f32]) -> f32 {
    let largest = largest(x);
    if largest.abs() < TINY {
        return 0.0;
    }
    let sums = |inverse: f32| {
        let terms = x.iter().map(|x| (x, nearest(inverse * x).clamp(-32.0, 31.0)));
        terms.fold((0.0f32, 0.0f32), |(xl, l2), (x, code)| (xl + x * x * x * code, l2 + x * x * code * code))
    };
    let (xl, l2) = sums(-32.0 / largest);
    let mut scale = if l2 == 0.0 { 0.0 } else { xl / l2 };
    let mut best = scale * xl;
    for step in (-9..=9).filter(|step| *step != 0) {
        let (xl, l2) = sums(-(32.0 + 0.1 * step as f32) / largest);
        if l2 > 0.0 && xl * xl > best * l2 {
            scale = xl / l2;
            best = scale * xl;
        }
    }
    scale
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &str = include_str!("../../tests/fixtures/ggml-k/golden.txt");

    /// The twin of `values` in tests/fixtures/ggml-k/make.py.
    fn values(block: u32) -> Vec<f32> {
        let mut state = 1 + block;
        let value = |i: usize| {
            let mut total = 0f64;
            for _ in 0..3 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                total += f64::from(state >> 8) / 16_777_216.0 - 0.5;
            }
            let x = total * 0.04;
            let x = match block {
                1 => x.abs(),
                2 if i.is_multiple_of(37) => x * 20.0,
                3 => 0.0,
                4 => {
                    if i < 128 {
                        0.25
                    } else {
                        -0.25
                    }
                }
                5 => x * (1e-3 * (1 + i / 32) as f64),
                6 if i < 32 => 0.0,
                _ => x,
            };
            x as f32
        };
        (0..SUPER_BLOCK).map(value).collect()
    }

    /// Every block comes back as ggml itself stores it, but for the last bit of products.
    #[test]
    fn blocks_are_rounded_as_ggml_does() {
        for line in GOLDEN.lines() {
            let mut parts = line.split(' ');
            let (format, block) = (parts.next().unwrap(), parts.next().unwrap().parse().unwrap());
            let hex = parts.next().unwrap();
            let word = |i: usize| f32::from_bits(u32::from_str_radix(&hex[8 * i..8 * i + 8], 16).unwrap());
            let expected: Vec<f32> = (0..SUPER_BLOCK).map(word).collect();
            let mut got = values(block);
            match format {
                "q4_K" => round_q4_k(&mut got),
                "q6_K" => round_q6_k(&mut got),
                _ => round_q8_k(&mut got),
            }
            let largest = expected.iter().fold(0f32, |most, x| most.max(x.abs()));
            let differ = |(got, expected): &(&f32, &f32)| (**got - **expected).abs() > 1e-6 * largest;
            let count = got.iter().zip(&expected).filter(differ).count();
            assert_eq!(count, 0, "{format}, block {block}: {count} of 256 weights differ");
        }
    }

    /// llama.cpp's rule for the layers that get more bits.
    #[test]
    fn layers_with_more_bits() {
        let of = |layers| (0..layers).filter(|index| more_bits(*index, layers)).collect::<Vec<_>>();
        assert_eq!(of(4), [2, 3]);
        assert_eq!(of(22), [0, 1, 4, 7, 10, 13, 16, 19, 20, 21]);
    }
}
