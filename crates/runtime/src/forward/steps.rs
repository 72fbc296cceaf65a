//! The steps that both blocks are made of: norm, quantise, linear, residual addition (sections 2 to
//! 5). Each runs over the rows of a batch on all threads.

use super::batch::Batch;
use super::buffers::{Coded, Prepared, sized};
use super::{Engine, ForwardError};
use crate::arith::{
    LIMIT, RESIDUAL_LIMIT, RHO_ONE, RangeError, choose_cut, gain_norm, inverse_rms, regularised,
    residual_sum, square_shift, within,
};
use crate::kernels::{self, multiversion};
use crate::observe::{Observer, Values};
use crate::pool::Rows;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, Ordering};
use lockstep_base::config::Block;
use lockstep_base::op::{Op, Output, Place};
use lockstep_base::weights::{Gain, Linear};

/// Values of a batch that are worth a task of their own.
const GRAIN_VALUES: usize = 1 << 14;

/// Rows of `width` values that are worth a task.
pub(super) fn grain(width: usize) -> usize {
    (GRAIN_VALUES / width.max(1)).max(1)
}

multiversion! {
    /// S of section 3: `sum (x_i 2^-es)^2`, rounded half up where es > 0. Two roundings are one here: x16 is rounded down, so
    /// `rsh(floor(x / 2^e), 15 - b) = rsh(x, e + 15 - b)`.
    fn squares(x: &[i32], es: i32) -> i32 = squares_body
}

#[inline(always)]
fn squares_body(x: &[i32], es: i32) -> i32 {
    let right = es.max(0) & 31;
    let half = (1i32 << right) >> 1;
    let q = x.iter().map(|x| x.wrapping_add(half) >> right);
    q.fold(0i32, |sum, q| sum.wrapping_add(q.wrapping_mul(q))).wrapping_shl(2 * (-es).max(0) as u32)
}

multiversion! {
    /// The largest of `x_i + y_i`, and of what sums below zero are below -1; `u32::MAX` where one leaves i32.
    fn largest_sum(x: &[i32], y: &[i32]) -> u32 = largest_sum_body
}

#[inline(always)]
fn largest_sum_body(x: &[i32], y: &[i32]) -> u32 {
    let mut largest = 0;
    let mut wrapped = 0;
    for (x, y) in x.iter().zip(y) {
        let sum = x.wrapping_add(*y);
        // The sign bit is set where both have a sign that the sum has not.
        wrapped |= (x ^ sum) & (y ^ sum);
        largest = largest.max((sum ^ (sum >> 31)) as u32);
    }
    if wrapped < 0 { u32::MAX } else { largest }
}

multiversion! {
    /// `x_i += y_i`.
    fn add_into(x: &mut [i32], y: &[i32]) = add_into_body
}

#[inline(always)]
fn add_into_body(x: &mut [i32], y: &[i32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x = x.wrapping_add(*y));
}

multiversion! {
    /// `z_i = floor(x_i / 2^e)`: x16 of section 2.
    fn normalised(x: &[i32], e: i32, z: &mut [i32]) = normalised_body
}

#[inline(always)]
fn normalised_body(x: &[i32], e: i32, z: &mut [i32]) {
    let (left, right) = ((-e).max(0) & 31, e.max(0) & 31);
    z.iter_mut().zip(x).for_each(|(z, x)| *z = (x << left) >> right);
}

impl Engine {
    /// What enters a sublayer or the head (section 3): each row of `x` normed (but in post-norm
    /// models), rotated where the model rotates online, and quantised.
    pub(super) fn site<O: Observer>(&self, x: &[i32], coded: &mut Coded, op: Op, batch: &mut Batch<'_, O>) {
        let config = &self.weights.config;
        let (width, padded) = (self.width(), config.d_padded() as usize);
        coded.shape(batch.rows(), padded);
        let rows = (Rows::new(&mut coded.codes, padded), Rows::new(&mut coded.steps, 1));
        self.compute.pool.rows_with(
            grain(width),
            rows,
            Vec::new,
            |rotated: &mut Vec<i32>, row, (codes, step)| {
                let x = &x[row * width..(row + 1) * width];
                let kernel = self.compute.kernel;
                let extent = kernels::extent(kernel, x);
                let e = extent.shift16();
                let normed = || {
                    let es = square_shift(width, e);
                    let sum = squares(kernel, x, es);
                    let (rho, kk) = inverse_rms(regularised(sum, es, config.norm_eps), config.d_model);
                    (rho, -es - kk as i32)
                };
                let (values, extent, (rho, base)) = if config.rotates_online() {
                    rotated.clear();
                    rotated.resize(padded, 0);
                    normalised(kernel, x, e, &mut rotated[..width]);
                    let blocks = rotated.chunks_mut(config.stream_block() as usize);
                    blocks.for_each(|block| kernels::hadamard(kernel, block));
                    let (rho, base) = match config.block {
                        Block::PostNorm => (RHO_ONE, -14 - i32::from(config.residual_frac)),
                        _ => normed(),
                    };
                    (rotated.as_slice(), kernels::extent(kernel, rotated), (rho, base + e))
                } else {
                    (x, extent, normed())
                };
                let cut = choose_cut(extent, rho, base);
                kernels::codes(kernel, values, &cut, &mut codes[..values.len()]);
                codes[values.len()..].fill(0);
                step[0] = cut.step;
            },
        );
        batch.observe_rows(op, coded.rows());
    }

    /// Section 2: rows of `width` values, row i with factor and base `plain(i)`, padded to `padded`.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn quantise(
        &self,
        x: &[i32],
        width: usize,
        padded: usize,
        scale: impl Fn(usize) -> (i32, i32) + Sync,
        coded: &mut Coded,
    ) {
        coded.shape(x.len() / width, padded);
        let rows = (Rows::new(&mut coded.codes, padded), Rows::new(&mut coded.steps, 1));
        self.compute.pool.rows(grain(width), rows, |row, (codes, step)| {
            let x = &x[row * width..(row + 1) * width];
            let (rho, base) = scale(row);
            let cut = choose_cut(kernels::extent(self.compute.kernel, x), rho, base);
            kernels::codes(self.compute.kernel, x, &cut, &mut codes[..width]);
            codes[width..].fill(0);
            step[0] = cut.step;
        });
    }

    /// Section 4; `bound` is the range of the outputs.
    pub(super) fn linear<'y, O: Observer>(
        &self,
        weights: &Linear,
        x: &Prepared<'_>,
        op: Op,
        bound: i32,
        out: &'y mut Vec<i32>,
        batch: &mut Batch<'_, O>,
    ) -> Result<&'y mut [i32], ForwardError> {
        let out = self.product(weights, x, op, bound, out, &|row| batch.at(row, op))?;
        self.adapt(op, x.coded, out, bound, batch)?;
        batch.observe_rows(op, out.chunks_mut(weights.rows).map(|y| values(op, y)));
        Ok(out)
    }

    /// Section 4 for rows that `at` names.
    pub(super) fn product<'y>(
        &self,
        weights: &Linear,
        x: &Prepared<'_>,
        op: Op,
        bound: i32,
        out: &'y mut Vec<i32>,
        at: &dyn Fn(usize) -> Place,
    ) -> Result<&'y mut [i32], ForwardError> {
        let steps = &x.coded.steps;
        let out = sized(out, steps.len() * weights.rows);
        kernels::linear_of(&self.compute, weights, &self.weights.tables.int4, &x.x, steps, out)
            .map_err(|error| ForwardError::Range { place: at(0), error })?;
        // The kernel has checked the limit.
        if bound < LIMIT {
            self.check(out, weights.rows, bound, op.name(), at)?;
        }
        Ok(out)
    }

    /// A **range** clause over rows of `width` values.
    pub(super) fn check(
        &self,
        x: &[i32],
        width: usize,
        bound: i32,
        what: &'static str,
        at: &dyn Fn(usize) -> Place,
    ) -> Result<(), ForwardError> {
        let kernel = self.compute.kernel;
        let largest = |row: usize| kernels::extent(kernel, &x[row * width..(row + 1) * width]).magnitude();
        let failed = AtomicBool::new(false);
        let rows = x.len() / width;
        self.compute.pool.ranges(rows, grain(width), |mut range| {
            if range.any(|row| largest(row) > bound) {
                failed.store(true, Ordering::Relaxed);
            }
        });
        let failed = failed.into_inner().then(|| (0..rows).find(|row| largest(*row) > bound)).flatten();
        failed.map_or(Ok(()), |row| {
            within(largest(row).into(), bound.into(), what)
                .map_err(|error| ForwardError::Range { place: at(row), error })
        })
    }

    /// Adds `y` to the residual stream `x`.
    pub(super) fn add<O: Observer>(
        &self,
        x: &mut [i32],
        y: &[i32],
        op: Op,
        batch: &Batch<'_, O>,
    ) -> Result<(), ForwardError> {
        let (width, kernel) = (self.width(), self.compute.kernel);
        let mut failed: Vec<Option<RangeError>> = Vec::new();
        failed.resize(batch.rows(), None);
        let rows = (Rows::new(x, width), Rows::new(&mut failed, 1));
        self.compute.pool.rows(grain(width), rows, |row, (x, failed)| {
            let y = &y[row * width..(row + 1) * width];
            if largest_sum(kernel, x, y) >= RESIDUAL_LIMIT as u32 {
                failed[0] = x.iter().zip(y).find_map(|(x, y)| residual_sum(*x, *y).err());
            }
            add_into(kernel, x, y);
        });
        first_failed(&failed, |row| batch.at(row, op))
    }

    /// The norm with gains of each `width` values of `x`, into `y`, from `-low` to `high` (section 3).
    pub(super) fn gains(
        &self,
        x: &[i32],
        gain: &Gain,
        (low, high): (i32, i32),
        y: &mut [i32],
        at: &dyn Fn(usize) -> Place,
    ) -> Result<(), ForwardError> {
        let width = gain.mantissas.len();
        let mut failed: Vec<Option<RangeError>> = Vec::new();
        failed.resize(x.len() / width, None);
        let rows = (Rows::new(y, width), Rows::new(&mut failed, 1));
        self.compute.pool.rows(grain(width).min(1024), rows, |row, (y, failed)| {
            let result = gain_norm(&x[row * width..(row + 1) * width], gain, y).and_then(|()| {
                let extent = kernels::extent(self.compute.kernel, y);
                within((-i64::from(extent.min)).max(0), low.into(), "norm with gains")?;
                within(extent.max.into(), high.into(), "norm with gains")
            });
            failed[0] = result.err();
        });
        first_failed(&failed, at)
    }
}

/// The first row that failed.
pub(super) fn first_failed(
    failed: &[Option<RangeError>],
    at: impl Fn(usize) -> Place,
) -> Result<(), ForwardError> {
    let first = failed.iter().enumerate().find_map(|(row, error)| error.map(|error| (row, error)));
    first.map_or(Ok(()), |(row, error)| Err(ForwardError::Range { place: at(row), error }))
}

/// A row of i32 as `op` commits to it.
pub(super) fn values(op: Op, x: &mut [i32]) -> Values<'_> {
    if op.output() == Output::I16 { Values::I16(x) } else { Values::I32(x) }
}
