//! The steps that both blocks are made of: norm, quantise, linear, residual addition (sections 2 to 5).

use super::{Engine, ForwardError};
use crate::arith::{
    RHO_ONE, Step, choose_cut, inverse_rms, regularised, residual_sum, sum_of_squares, within,
};
use crate::kernels;
use crate::observe::{Observer, Values};
use alloc::vec;
use alloc::vec::Vec;
use lockstep_base::op::{Op, Output, Place};
use lockstep_base::weights::Linear;

/// Codes of a batch with one step a token.
pub(super) struct Coded {
    pub(super) codes: Vec<i8>,
    pub(super) steps: Vec<Step>,
}

impl Engine {
    /// Section 3: norm and quantise each row of `x`.
    pub(super) fn norm<O: Observer>(
        &self,
        x: &[i32],
        at: &impl Fn(usize, Op) -> Place,
        op: Op,
        observer: &mut O,
    ) -> Coded {
        let config = &self.weights.config;
        let (width, padded) = (self.width(), config.d_padded() as usize);
        let tokens = x.len() / width;
        let mut coded = Coded { codes: vec![0; tokens * padded], steps: Vec::with_capacity(tokens) };
        for (row, x) in x.chunks(width).enumerate() {
            let max = kernels::max_abs(self.compute.kernel, x);
            let (e7, sum) = sum_of_squares(x, max);
            let (rho, kk) = inverse_rms(regularised(sum, e7, config.norm_eps), config.d_model);
            let cut = choose_cut(max, rho, -(e7 as i32) - kk as i32);
            let codes = &mut coded.codes[row * padded..(row + 1) * padded];
            kernels::codes(self.compute.kernel, x, cut.e, cut.rho_k, cut.sh, &mut codes[..width]);
            observer.output(at(row, op), 0, Values::Codes8(codes, cut.step));
            coded.steps.push(cut.step);
        }
        coded
    }

    /// Section 2, plain site: rows of `width` values in `frac` fractional bits, padded to `padded`.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn quantise<O: Observer>(
        &self,
        x: &[i32],
        width: usize,
        frac: i32,
        padded: usize,
        at: &impl Fn(usize, Op) -> Place,
        op: Op,
        observer: &mut O,
    ) -> Coded {
        let tokens = x.len() / width;
        let mut coded = Coded { codes: vec![0; tokens * padded], steps: Vec::with_capacity(tokens) };
        for (row, x) in x.chunks(width).enumerate() {
            let cut = choose_cut(kernels::max_abs(self.compute.kernel, x), RHO_ONE, -14 - frac);
            let codes = &mut coded.codes[row * padded..(row + 1) * padded];
            kernels::codes(self.compute.kernel, x, cut.e, cut.rho_k, cut.sh, &mut codes[..width]);
            observer.output(at(row, op), 0, Values::Codes8(codes, cut.step));
            coded.steps.push(cut.step);
        }
        coded
    }

    /// Section 4; `bound` is the range of the outputs.
    pub(super) fn linear<O: Observer>(
        &self,
        weights: &Linear,
        coded: &Coded,
        at: &impl Fn(usize, Op) -> Place,
        op: Op,
        bound: i32,
        observer: &mut O,
    ) -> Result<Vec<i32>, ForwardError> {
        let mut out = vec![0; coded.steps.len() * weights.rows];
        let range = |row: usize, error| ForwardError::Range { place: at(row, op), error };
        kernels::linear(
            &self.compute,
            weights,
            &self.weights.tables.int4,
            &coded.codes,
            &coded.steps,
            &mut out,
        )
        .map_err(|error| range(0, error))?;
        for (row, y) in out.chunks_mut(weights.rows).enumerate() {
            let max = kernels::max_abs(self.compute.kernel, y);
            within(max.into(), bound.into(), op.name()).map_err(|error| range(row, error))?;
            let values = if op.output() == Output::I16 { Values::I16(y) } else { Values::I32(y) };
            observer.output(at(row, op), 0, values);
        }
        Ok(out)
    }

    /// Adds `y` to the residual stream `x`.
    pub(super) fn add<O: Observer>(
        &self,
        x: &mut [i32],
        y: &[i32],
        at: &impl Fn(usize, Op) -> Place,
        op: Op,
        observer: &mut O,
    ) -> Result<(), ForwardError> {
        let width = self.width();
        for (row, (x, y)) in x.chunks_mut(width).zip(y.chunks(width)).enumerate() {
            for (x, y) in x.iter_mut().zip(y) {
                *x = residual_sum(*x, *y)
                    .map_err(|error| ForwardError::Range { place: at(row, op), error })?;
            }
            observer.output(at(row, op), 0, Values::I32(x));
        }
        Ok(())
    }
}
