//! The basis of the residual stream, and how linears read and write it.
//!
//! Where norms stand only in front of blocks, nothing but linears meets the stream, so that a random rotation is folded
//! into all of them ([`super::hadamard`]). A norm behind a block has gains for single channels: then the stream stays as it
//! is and what enters a block is Hadamard-transformed at run time, `z = H_B pad(x)`, with H_B / B folded into the readers
//! (`H_B H_B = B`).

use super::folded::{FoldedLinear, FoldedNorm, OnlineRotation};
use super::hadamard::{Rotation, hadamard_blocks};
use super::linalg::{Dense, dot};
use crate::source::{FloatConfig, Linear, Matrix, NormKind, NormPlace, NormWeights};
use lockstep_base::config::{COLS_MULTIPLE, HADAMARD_BLOCK_MAX, padded};
use lockstep_base::rng::SplitMix64;

/// The basis of the residual stream.
pub(super) struct Stream {
    /// Folded into everything that reads and writes.
    rotation: Rotation,
    /// Done at run time.
    pub(super) online: Option<OnlineRotation>,
    /// A layer norm in front: the stream has mean zero, so that its norm is an RMS norm.
    centred: bool,
}

impl Stream {
    /// The basis for a model of `config`; a rotation by the next bits of `rng`, if `rotated` and possible.
    pub(super) fn of(config: &FloatConfig, rotated: bool, rng: &mut SplitMix64) -> Stream {
        let width = config.d_model;
        let front = config.norm_place == NormPlace::Pre;
        let cols = padded(width as u32, COLS_MULTIPLE);
        let block = (1usize << cols.trailing_zeros()).min(HADAMARD_BLOCK_MAX as usize);
        Stream {
            rotation: if front && rotated { Rotation::random(width, rng) } else { Rotation::identity(width) },
            online: (!front).then_some(OnlineRotation { cols: cols as usize, block }),
            centred: front && config.norm == NormKind::Layer,
        }
    }

    /// A residual vector in the new basis.
    fn enter(&self, x: &mut [f64]) {
        if self.centred {
            let mean = x.iter().sum::<f64>() / x.len() as f64;
            x.iter_mut().for_each(|x| *x -= mean);
        }
        self.rotation.apply(x);
    }

    /// An embedding, times `scale`.
    pub(super) fn table(&self, matrix: &Matrix, scale: f64) -> Dense {
        let mut table = dense(matrix);
        table.for_rows(|row| {
            row.iter_mut().for_each(|x| *x *= scale);
            self.enter(row);
        });
        table
    }

    /// A linear that reads the stream through `norm`, if there is one in front; all of it times `factor`.
    pub(super) fn reader(&self, linear: &Linear, norm: Option<&NormWeights>, factor: f64) -> FoldedLinear {
        let mut weight = dense(&linear.weight);
        let mut bias = linear.bias.as_ref().map(|bias| widened(bias));
        if let Some(beta) = norm.and_then(|norm| norm.beta.as_ref()) {
            let beta = widened(beta);
            let bias = bias.get_or_insert_with(|| vec![0.0; weight.rows]);
            bias.iter_mut().enumerate().for_each(|(row, bias)| *bias += dot(weight.row(row), &beta));
        }
        weight.for_rows(|row| {
            let gains = norm.map_or(&[][..], |norm| &norm.gamma);
            row.iter_mut().zip(gains).for_each(|(w, gain)| *w *= f64::from(*gain));
            row.iter_mut().for_each(|w| *w *= factor);
            self.enter(row); // the centring is a symmetric projection that the normalised vector does not see
        });
        if let Some(online) = self.online {
            weight = transformed_cols(&weight, online.cols, online.block);
        }
        bias.iter_mut().flatten().for_each(|b| *b *= factor);
        FoldedLinear { weight: weight.into(), bias }
    }

    /// A linear that writes into the stream.
    pub(super) fn writer(&self, mut weight: Dense, mut bias: Option<Vec<f64>>) -> FoldedLinear {
        weight.for_cols(|col| self.enter(col));
        if let Some(bias) = &mut bias {
            self.enter(bias);
        }
        FoldedLinear { weight: weight.into(), bias }
    }
}

/// `W H_B / B` of a matrix whose columns are padded with zeros: what reads `H_B pad(x)` in place of x.
pub(super) fn transformed_cols(weight: &Dense, cols: usize, block: usize) -> Dense {
    let mut weight = weight.padded_cols(cols);
    weight.for_rows(|row| {
        hadamard_blocks(row, block);
        row.iter_mut().for_each(|w| *w /= block as f64);
    });
    weight
}

/// A norm that stays.
pub(super) fn norm(weights: &NormWeights) -> FoldedNorm {
    FoldedNorm { gain: widened(&weights.gamma), offset: weights.beta.as_ref().map(|beta| widened(beta)) }
}

pub(super) fn dense(matrix: &Matrix) -> Dense {
    Dense::from_f32(matrix.rows(), matrix.cols(), matrix.data())
}

pub(super) fn widened(x: &[f32]) -> Vec<f64> {
    x.iter().copied().map(f64::from).collect()
}
