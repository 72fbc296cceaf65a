//! Vector arithmetic of the reference: f32 in and out, f64 inside.

use crate::source::{Act, FloatLowRank, Linear, NormKind, NormWeights};

/// Partial sums: independent, so that the compiler may keep them in vector registers.
const LANES: usize = 8;

/// `sum a[i] * b[i]` in f64.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    let mut sums = [0f64; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let tail = a_chunks.remainder().iter().zip(b_chunks.remainder());
    let tail: f64 = tail.map(|(&x, &y)| f64::from(x) * f64::from(y)).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            sums[lane] += f64::from(x[lane]) * f64::from(y[lane]);
        }
    }
    sums.iter().sum::<f64>() + tail
}

/// `weight x + bias`; weight `(outputs, inputs)`, x `(inputs,)`.
pub(super) fn linear(linear: &Linear, x: &[f32]) -> Vec<f32> {
    let weight = &linear.weight;
    let bias = |row: usize| linear.bias.as_ref().map_or(0.0, |bias| f64::from(bias[row]));
    (0..weight.rows()).map(|row| (dot(weight.row(row), x) + bias(row)) as f32).collect()
}

/// `y += scale B (A x)`.
pub(super) fn add_low_rank(part: &FloatLowRank, x: &[f32], y: &mut [f32]) {
    let inner: Vec<f32> = (0..part.a.rows()).map(|row| dot(part.a.row(row), x) as f32).collect(); // (rank,)
    for (row, y) in y.iter_mut().enumerate() {
        *y = (f64::from(*y) + part.scale * dot(part.b.row(row), &inner)) as f32;
    }
}

/// RMS or layer norm of `x (d_model,)`.
pub(super) fn norm(kind: NormKind, weights: &NormWeights, eps: f64, x: &[f32]) -> Vec<f32> {
    let n = x.len() as f64;
    let mean = match kind {
        NormKind::Rms => 0.0,
        NormKind::Layer => x.iter().map(|&v| f64::from(v)).sum::<f64>() / n,
    };
    let variance = x.iter().map(|&v| (f64::from(v) - mean).powi(2)).sum::<f64>() / n;
    let scale = 1.0 / (variance + eps).sqrt();
    let beta = |i: usize| weights.beta.as_ref().map_or(0.0, |beta| f64::from(beta[i]));
    (0..x.len())
        .map(|i| ((f64::from(x[i]) - mean) * scale * f64::from(weights.gamma[i]) + beta(i)) as f32)
        .collect()
}

/// RMS norm of one head in place; gain `(head_dim,)`.
pub(super) fn norm_head(gain: &[f32], eps: f64, head: &mut [f32]) {
    let mean = head.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / head.len() as f64;
    let scale = 1.0 / (mean + eps).sqrt();
    head.iter_mut().zip(gain).for_each(|(x, &gain)| *x = (f64::from(*x) * scale * f64::from(gain)) as f32);
}

/// Softmax in place.
pub(super) fn softmax(scores: &mut [f64]) {
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    scores.iter_mut().for_each(|score| *score = (*score - max).exp());
    let sum: f64 = scores.iter().sum();
    scores.iter_mut().for_each(|score| *score /= sum);
}

/// The function inside the feed-forward block.
pub(super) fn activation(kind: Act, x: f32) -> f32 {
    kind.apply(f64::from(x)) as f32
}

/// `cap tanh(x / cap)`, or x.
pub(super) fn soft_cap(cap: Option<f64>, x: f64) -> f64 {
    cap.map_or(x, |cap| cap * (x / cap).tanh())
}

/// Turns each pair `(2i, 2i+1)` of `head (head_dim,)` by `position * inv_freq[i]`.
pub(super) fn rotate(head: &mut [f32], inv_freq: &[f64], position: usize) {
    for (pair, freq) in head.chunks_exact_mut(2).zip(inv_freq) {
        let (sin, cos) = (position as f64 * freq).sin_cos();
        let (a, b) = (f64::from(pair[0]), f64::from(pair[1]));
        pair[0] = (a * cos - b * sin) as f32;
        pair[1] = (a * sin + b * cos) as f32;
    }
}

/// `target += x`.
pub(super) fn add(target: &mut [f32], x: &[f32]) {
    target.iter_mut().zip(x).for_each(|(t, x)| *t += x);
}
