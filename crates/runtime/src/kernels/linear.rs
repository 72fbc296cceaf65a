//! A linear layer, all of section 4: accumulators, requantisation, bias, over the thread pool.

use super::Compute;
use super::accumulate::{Activations, BLOCK_ROWS, Matrix, Scratch, accumulate, width};
use super::columns::Columns;
use super::requantise::{Sums, block, requantise};
use crate::arith::{RangeError, Step};
use alloc::vec;
use core::sync::atomic::{AtomicBool, Ordering};
use lockstep_base::weights::Linear;

/// Tasks per thread: enough that a thread that was held up costs a fraction of the whole.
const TASKS_PER_THREAD: usize = 4;
/// Rows of a task where many tokens share unpacked rows: fewer would read the codes too often.
const MANY_TASK_ROWS_MIN: usize = 32;
/// Products below which waking other threads costs more than they save.
const PARALLEL_PRODUCTS_MIN: usize = 1 << 19;

/// `y = W x + b` for every token: `x` is `(tokens, cols)` codes with one step a token, `out` is
/// `(tokens, rows)` in `weights.out_frac` fractional bits.
///
/// # Errors
/// The [`RangeError`] of the first value, in (token, row) order, that leaves its range; `out` then
/// holds nothing of use. It does not depend on the kernel or on threads.
///
/// # Panics
/// If the slices do not fit the shape, or the weights break their own (see
/// [`accumulate`]).
pub fn linear(
    compute: &Compute,
    weights: &Linear,
    tables: &[[i8; 16]],
    x: &[i8],
    steps: &[Step],
    out: &mut [i32],
) -> Result<(), RangeError> {
    linear_of(compute, weights, tables, &Activations::new(compute, x, weights.cols), steps, out)
}

/// [`linear`] of codes that were prepared for the same `compute`: once for all matrices that
/// multiply them (q, k and v; gate and up).
///
/// # Errors
/// As [`linear`].
///
/// # Panics
/// As [`linear`].
pub fn linear_of(
    compute: &Compute,
    weights: &Linear,
    tables: &[[i8; 16]],
    x: &Activations<'_>,
    steps: &[Step],
    out: &mut [i32],
) -> Result<(), RangeError> {
    let (rows, tokens) = (weights.rows, steps.len());
    assert_eq!(x.tokens, tokens, "tokens of codes and steps");
    assert_eq!(out.len(), tokens * rows, "outputs");
    assert_eq!(weights.multipliers.len(), rows, "row multipliers");
    assert_eq!(weights.shifts.len(), rows, "row shifts");
    assert!(weights.bias.is_empty() || weights.bias.len() == rows, "biases");
    let matrix = Matrix::new(x, weights, tables);
    if out.is_empty() {
        return Ok(());
    }
    let products = tokens * rows * weights.cols;
    let task_rows = task_rows(rows, products, x.block_rows(), compute.pool.threads());
    let failed = AtomicBool::new(false);
    let columns = Columns::new(out, rows);
    compute.pool.run(rows.div_ceil(task_rows), &|task| {
        let first = task * task_rows;
        let end = rows.min(first + task_rows);
        Scratch::lend(|scratch| {
            for start in (first..end).step_by(x.block_rows()) {
                let range = start..end.min(start + x.block_rows());
                // SAFETY: blocks and tasks have disjoint rows, and the pool runs each task once.
                let mut out = unsafe { columns.claim(range.clone()) };
                for pass in x.passes() {
                    let order = matrix.accumulate(x, &pass, range.clone(), scratch);
                    let sums = Sums { acc: &scratch.acc, width: width(&range), order };
                    if !block(compute.kernel, sums, weights, range.clone(), pass.tokens, steps, &mut out) {
                        failed.store(true, Ordering::Relaxed);
                    }
                }
            }
        });
    });
    if failed.into_inner() { first_error(weights, tables, x, steps) } else { Ok(()) }
}

/// Rows of one task: all of them where the work is small or there is one thread.
fn task_rows(rows: usize, products: usize, block: usize, threads: usize) -> usize {
    if threads == 1 || products < PARALLEL_PRODUCTS_MIN {
        return rows.max(1);
    }
    let share = rows.div_ceil(threads * TASKS_PER_THREAD);
    if block == BLOCK_ROWS && share < block {
        share.next_multiple_of(MANY_TASK_ROWS_MIN)
    } else {
        share.next_multiple_of(block)
    }
}

/// Computes everything again to find the first value that leaves its range.
fn first_error(
    weights: &Linear,
    tables: &[[i8; 16]],
    x: &Activations<'_>,
    steps: &[Step],
) -> Result<(), RangeError> {
    let mut scratch = Scratch::default();
    let mut first: Option<(usize, RangeError)> = None;
    for start in (0..weights.rows).step_by(BLOCK_ROWS) {
        let range = start..weights.rows.min(start + BLOCK_ROWS);
        let mut acc = vec![0; steps.len() * range.len()];
        accumulate(x, weights, tables, range.clone(), &mut acc, &mut scratch);
        for (token, (acc, step)) in acc.chunks_exact(range.len()).zip(steps).enumerate() {
            let outputs = acc.iter().zip(range.clone());
            let error = outputs.map(|(acc, row)| requantise(*acc, weights, row, *step)).find_map(Result::err);
            if let Some(error) = error
                && first.is_none_or(|(earliest, _)| token < earliest)
            {
                first = Some((token, error));
            }
        }
    }
    first.map_or(Ok(()), |(_, error)| Err(error))
}
