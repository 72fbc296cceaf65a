//! A linear layer, all of section 4: accumulators, requantisation, bias, over the thread pool.

use super::Compute;
use super::accumulate::{Activations, Scratch, accumulate};
use super::requantise::{self, RowScales};
use crate::arith::{RangeError, Step};
use alloc::vec;
use core::ops::Range;
use core::sync::atomic::{AtomicBool, Ordering};
use lockstep_base::weights::Linear;

/// Rows whose accumulators are held at a time: 4 panels, the block of the prefill kernels.
const BLOCK_ROWS: usize = 16;
/// The same for a single token, whose accumulators are few.
const DECODE_BLOCK_ROWS: usize = 64;
/// Tasks per thread: enough that a thread that was held up costs a fraction of the whole.
const TASKS_PER_THREAD: usize = 4;
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
    let (rows, tokens) = (weights.rows, steps.len());
    let x = Activations::new(compute.kernel, x, weights.cols);
    assert_eq!(x.tokens, tokens, "tokens of codes and steps");
    assert_eq!(out.len(), tokens * rows, "outputs");
    let block = if tokens == 1 {
        DECODE_BLOCK_ROWS
    } else {
        BLOCK_ROWS
    };
    let task_rows = task_rows(
        rows,
        tokens * rows * weights.cols,
        block,
        compute.pool.threads(),
    );
    let failed = AtomicBool::new(false);
    let columns = Columns {
        start: out.as_mut_ptr(),
        rows,
        tokens,
    };
    compute.pool.run(rows.div_ceil(task_rows), &|task| {
        let first = task * task_rows;
        let mut acc = vec![0; tokens * block];
        let mut scratch = Scratch::default();
        let end = rows.min(first + task_rows);
        for start in (first..end).step_by(block) {
            let range = start..end.min(start + block);
            let acc = &mut acc[..tokens * range.len()];
            accumulate(&x, weights, tables, range.clone(), acc, &mut scratch);
            for (token, (acc, step)) in acc.chunks_exact(range.len()).zip(steps).enumerate() {
                // SAFETY: tasks have disjoint rows, and the pool runs each task once.
                let out = unsafe { columns.token_rows(token, range.clone()) };
                let scales = RowScales::new(weights, range.clone(), *step);
                if !requantise::rows(compute.kernel, acc, &scales, out) {
                    failed.store(true, Ordering::Relaxed);
                }
            }
        }
    });
    if failed.into_inner() {
        first_error(weights, tables, &x, steps)
    } else {
        Ok(())
    }
}

/// Rows of one task: all of them where the work is small or there is one thread.
fn task_rows(rows: usize, products: usize, block: usize, threads: usize) -> usize {
    if threads == 1 || products < PARALLEL_PRODUCTS_MIN {
        return rows.max(1);
    }
    rows.div_ceil(threads * TASKS_PER_THREAD)
        .next_multiple_of(block)
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
            let scales = RowScales::new(weights, range.clone(), *step);
            let error = acc
                .iter()
                .enumerate()
                .find_map(|(i, acc)| requantise::one(*acc, &scales, i).err());
            if let Some(error) = error
                && first.is_none_or(|(earliest, _)| token < earliest)
            {
                first = Some((token, error));
            }
        }
    }
    first.map_or(Ok(()), |(_, error)| Err(error))
}

/// The outputs `(tokens, rows)`, to be written by several threads, each at its own rows.
struct Columns {
    start: *mut i32,
    rows: usize,
    tokens: usize,
}

// SAFETY: the pointer is used through `token_rows` alone, whose callers keep to their own rows.
unsafe impl Sync for Columns {}

impl Columns {
    /// The outputs of `rows` of one token.
    ///
    /// # Safety
    /// While the slice lives, no other of the same rows and token may be asked for.
    #[allow(clippy::mut_from_ref)]
    unsafe fn token_rows(&self, token: usize, rows: Range<usize>) -> &mut [i32] {
        assert!(token < self.tokens && rows.start <= rows.end && rows.end <= self.rows);
        // SAFETY: inside the `tokens * rows` outputs by the assertion; not shared by the caller's word.
        unsafe {
            core::slice::from_raw_parts_mut(
                self.start.add(token * self.rows + rows.start),
                rows.len(),
            )
        }
    }
}
