//! The feed-forward block of one layer (section 7): norm, gate and up, activation, Hadamard
//! transform, down projection.

use super::{Engine, ForwardError};
use crate::arith::LIMIT;
use crate::ffn;
use crate::kernels;
use crate::observe::{Observer, Values};
use alloc::vec;
use alloc::vec::Vec;
use lockstep_base::config::FeedForward;
use lockstep_base::op::{Op, Place};
use lockstep_base::weights::LayerWeights;

impl Engine {
    /// Section 7, from norm to down projection.
    pub(super) fn feed_forward<O: Observer>(
        &self,
        weights: &LayerWeights,
        x: &[i32],
        at: &impl Fn(usize, Op) -> Place,
        observer: &mut O,
    ) -> Result<Vec<i32>, ForwardError> {
        let config = &self.weights.config;
        let weights = weights.ffn.dense().ok_or(ForwardError::Missing("dense feed-forward block"))?;
        let coded = self.norm(x, at, Op::FfnNorm, observer);
        let tokens = coded.steps.len();
        let table = &self.weights.tables.activation;
        let (mut hidden, frac) = match (config.feed_forward, &weights.gate) {
            (FeedForward::Gated, Some(gate)) => {
                let frac = i32::from(gate.out_frac);
                let mut g = self.linear(gate, &coded, at, Op::GateProj, i32::from(i16::MAX), observer)?;
                let u =
                    self.linear(&weights.up, &coded, at, Op::UpProj, i32::from(i16::MAX) >> 1, observer)?;
                ffn::gated(&mut g, &u, frac, table)
                    .map_err(|error| ForwardError::Range { place: at(0, Op::Hidden), error })?;
                (g, frac + i32::from(weights.up.out_frac) - ffn::PRODUCT_SHIFT as i32)
            }
            (FeedForward::Plain, None) => {
                let frac = i32::from(weights.up.out_frac);
                let mut u =
                    self.linear(&weights.up, &coded, at, Op::UpProj, i32::from(i16::MAX), observer)?;
                ffn::plain(&mut u, frac, table)
                    .map_err(|error| ForwardError::Range { place: at(0, Op::Hidden), error })?;
                (u, frac)
            }
            _ => return Err(ForwardError::Missing("gate projection, or one too many")),
        };
        let (width, padded) = (weights.up.rows, weights.down.cols);
        for (row, h) in hidden.chunks_mut(width).enumerate() {
            observer.output(at(row, Op::Hidden), 0, Values::I32(h));
        }
        let mut z = vec![0; tokens * padded];
        let block = config.hadamard_block() as usize;
        for (z, h) in z.chunks_mut(padded).zip(hidden.chunks(width)) {
            z[..width].copy_from_slice(h);
            z.chunks_mut(block).for_each(|block| kernels::hadamard(self.compute.kernel, block));
        }
        let coded = self.quantise(&z, padded, frac, padded, at, Op::HiddenCodes, observer);
        self.linear(&weights.down, &coded, at, Op::DownProj, LIMIT, observer)
    }
}
