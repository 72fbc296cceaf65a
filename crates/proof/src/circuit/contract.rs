//! What contractions give: `out(x) = sum_y left(x, y) right(x, y)`, for a witness.
//!
//! Products with weights are the runtime's, of bytes; the Hadamard matrix is a fast transform; places that are taken from others are copied. Of all
//! others the index of a factor is `outer(x) + inner(y)`, and sums are added up in 64 bits: side by side for sixteen y where both factors have them
//! in order, or for all last coordinates of x where one factor has those in order and the other does not have them.

use super::fill::{Cells, Indices};
use super::{Bit, Contraction, Gather, Public, Source, View};
use crate::field::{centred, residue};
use crate::lanes::{Kernel, LANES, Task, add, below, canonical, reduce, vectorised, wide};
use crate::matmul::{Matrix, accumulate};
use crate::parallel;
use alloc::borrow::Cow;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use lockstep_base::weights::WeightFormat;
use lockstep_runtime::kernels::{self, Activations, Compute, Scratch};
use lockstep_runtime::pool::Pool;
use p3_field::PrimeField32;

/// Rows of a matrix that one thread takes at once.
const ROWS_AT_ONCE: usize = 256;
/// Rows of a matrix that the kernels take together.
const PANEL_ROWS: usize = 4;
/// Products of a piece of work.
const PIECE: usize = 1 << 16;

/// What `contraction` gives.
pub(crate) fn contracted<B: PrimeField32>(
    cells: &Cells<'_, B>,
    matrices: &[Matrix<'_>],
    contraction: &Contraction,
) -> Vec<B> {
    match contraction.right.source {
        Source::Weights(weights) => weighed(cells, matrices, contraction.left.source, weights),
        Source::Public(public) => match &cells.circuit.publics[public] {
            Public::Gather(gather) => gathered(&cells.source(contraction.left.source), gather),
            Public::Hadamard(block) if is_transform(contraction, *block) => {
                transformed(cells, contraction, *block)
            }
            _ => products(cells, contraction),
        },
        _ => products(cells, contraction),
    }
}

/// The product with a matrix of weights.
fn weighed<B: PrimeField32>(
    cells: &Cells<'_, B>,
    matrices: &[Matrix<'_>],
    left: Source,
    weights: usize,
) -> Vec<B> {
    let placed = &cells.circuit.weights[weights];
    let matrix = &matrices[placed.matrix];
    let linear = matrix.weights;
    let codes = cells.source(left);
    let examples = codes.len() >> placed.log_cols;
    let held = linear.codes.len() == linear.format.code_bytes(linear.rows, linear.cols);
    // Codes of 8 bits, or those of a liar.
    let mut bytes = vec![0i8; examples * linear.cols];
    let wide = linear.format == WeightFormat::Int16;
    let mut narrow = held && !wide && placed.first_row.is_multiple_of(PANEL_ROWS) && examples > 0;
    for (bytes, codes) in bytes.chunks_mut(linear.cols).zip(codes.chunks(1 << placed.log_cols)) {
        for (byte, place) in bytes[placed.first_col..].iter_mut().zip(&placed.cols) {
            let code = centred(codes[*place as usize]);
            *byte = code as i8;
            narrow &= i64::from(*byte) == code;
        }
    }
    if !narrow {
        let codes: Vec<i64> = codes.iter().map(|code| centred(*code)).collect();
        return accumulate(matrix, placed, &codes).into_iter().map(residue).collect();
    }
    let compute = Compute { kernel: Kernel::detect(), pool: Pool::new(1) };
    let x = Activations::new(&compute, &bytes, linear.cols);
    let count = placed.rows.len();
    let starts = (0..count).step_by(ROWS_AT_ONCE);
    let mut blocks: Vec<(Range<usize>, Vec<B>)> =
        starts.map(|start| (start..count.min(start + ROWS_AT_ONCE), Vec::new())).collect();
    parallel::for_each(&mut blocks, |(rows, out)| {
        let mut sums = vec![0i32; examples * rows.len()];
        let of_matrix = placed.first_row + rows.start..placed.first_row + rows.end;
        kernels::accumulate(&x, linear, matrix.tables, of_matrix, &mut sums, &mut Scratch::default());
        *out = sums.into_iter().map(|sum| residue(sum.into())).collect();
    });
    let mut out = vec![B::ZERO; examples << placed.log_rows];
    for (rows, sums) in blocks {
        let places = &placed.rows[rows.clone()];
        for (out, sums) in out.chunks_mut(1 << placed.log_rows).zip(sums.chunks(rows.len())) {
            places.iter().zip(sums).for_each(|(place, sum)| out[*place as usize] = *sum);
        }
    }
    out
}

/// Elements at other places.
fn gathered<B: PrimeField32>(from: &[B], gather: &Gather) -> Vec<B> {
    let rows = from.chunks(1 << gather.log_from);
    let take = |row: &[B], place: &Option<u32>| place.map_or(B::ZERO, |place| row[place as usize]);
    rows.flat_map(|row| gather.taken.iter().map(|place| take(row, place)).collect::<Vec<_>>()).collect()
}

/// Whether the right factor is the whole Hadamard matrix, from the summed coordinates to the last ones of x, which the left one does not have.
fn is_transform(contraction: &Contraction, block: usize) -> bool {
    let (outer, inner) = (contraction.outer, contraction.inner);
    let first = outer.wrapping_sub(block);
    let whole = (first..outer + inner).map(Bit::At);
    inner == block
        && first <= outer
        && contraction.right.bits.iter().copied().eq(whole)
        && !contraction.left.used().any(|at| (first..outer).contains(&at))
}

/// The Hadamard transform of every block.
fn transformed<B: PrimeField32>(cells: &Cells<'_, B>, contraction: &Contraction, block: usize) -> Vec<B> {
    let left = Factor::new(cells, &contraction.left, contraction.outer, contraction.inner);
    let mut out = vec![B::ZERO; 1 << contraction.outer];
    let mut blocks: Vec<(usize, &mut [B])> = out.chunks_mut(1 << block).enumerate().collect();
    parallel::for_each(&mut blocks, |(number, out)| {
        let first = left.outer.at(*number << block);
        out.iter_mut().zip(&left.inner).for_each(|(out, at)| *out = left.source[first + at]);
        for distance in (0..block).map(|bit| 1 << bit) {
            for pairs in out.chunks_exact_mut(2 * distance) {
                let (low, high) = pairs.split_at_mut(distance);
                for (low, high) in low.iter_mut().zip(high) {
                    (*low, *high) = (*low + *high, *low - *high);
                }
            }
        }
    });
    out
}

/// A factor: its index is a sum of what x and what y give.
struct Factor<'a, B: Clone> {
    source: Cow<'a, [B]>,
    outer: Indices,
    inner: Vec<usize>,
    /// Last coordinates of x that choose its last ones in order, and those that it does not have.
    consecutive: usize,
    still: usize,
}

impl<'a, B: PrimeField32> Factor<'a, B> {
    fn new(cells: &Cells<'a, B>, view: &View, outer: usize, inner: usize) -> Factor<'a, B> {
        let (weights, constant) = Indices::weights(&view.bits, outer + inner);
        let (x, y) = weights.split_at(outer);
        let y = Indices::linear(y, 0);
        let last = x.iter().rev();
        Factor {
            source: cells.source(view.source),
            inner: (0..1 << inner).map(|at| y.at(at)).collect(),
            still: last.clone().take_while(|weight| **weight == 0).count(),
            consecutive: last.enumerate().take_while(|(at, weight)| **weight == 1 << *at).count(),
            outer: Indices::linear(x, constant),
        }
    }

    /// Whether y chooses consecutive elements.
    fn in_order(&self) -> bool {
        self.inner.len() >= LANES && self.inner.iter().enumerate().all(|(at, index)| *index == at)
    }

    /// Whether it does not depend on y.
    fn fixed(&self) -> bool {
        self.inner.iter().all(|index| *index == 0)
    }
}

/// `sum of a b`, of as many as there are of both; a single b is the factor of all.
struct Dot<'a, B> {
    a: &'a [B],
    b: &'a [B],
}

impl<B: PrimeField32> Task for Dot<'_, B> {
    type Output = u32;

    #[inline(always)]
    fn run(self) -> u32 {
        let mut sums = [0u64; LANES];
        if let [b] = self.b {
            let b = b.to_unique_u32();
            for a in self.a.as_chunks::<LANES>().0 {
                for lane in 0..LANES {
                    sums[lane] = below(sums[lane] + wide(a[lane].to_unique_u32(), b));
                }
            }
        } else {
            for (a, b) in self.a.as_chunks::<LANES>().0.iter().zip(self.b.as_chunks::<LANES>().0) {
                for lane in 0..LANES {
                    sums[lane] = below(sums[lane] + wide(a[lane].to_unique_u32(), b[lane].to_unique_u32()));
                }
            }
        }
        let mut sum = 0;
        for lane in 0..LANES {
            sum = add(sum, reduce(sums[lane]));
        }
        canonical(sum)
    }
}

/// `out[c] = sum over y of still[y] moving[y + c]`, indices being those of `at`.
struct Rows<'a, B> {
    still: &'a [B],
    moving: &'a [B],
    at: (&'a [usize], &'a [usize]),
    out: &'a mut [B],
    sums: &'a mut Vec<u64>,
}

impl<B: PrimeField32> Task for Rows<'_, B> {
    type Output = ();

    #[inline(always)]
    fn run(self) {
        let length = self.out.len();
        self.sums.clear();
        self.sums.resize(length, 0);
        for (still, moving) in self.at.0.iter().zip(self.at.1) {
            let factor = self.still[*still].to_unique_u32();
            for (sum, x) in self.sums.iter_mut().zip(&self.moving[*moving..*moving + length]) {
                *sum = below(*sum + wide(factor, x.to_unique_u32()));
            }
        }
        for (out, sum) in self.out.iter_mut().zip(self.sums.iter()) {
            *out = B::from_u32(canonical(reduce(*sum)));
        }
    }
}

/// Any product.
fn products<B: PrimeField32>(cells: &Cells<'_, B>, contraction: &Contraction) -> Vec<B> {
    let (outer, inner) = (contraction.outer, contraction.inner);
    let mut left = Factor::new(cells, &contraction.left, outer, inner);
    let mut right = Factor::new(cells, &contraction.right, outer, inner);
    let kernel = Kernel::detect();
    // The one that moves with the last coordinates of x, or with y, is the left one.
    if right.consecutive.min(left.still) > left.consecutive.min(right.still) || left.fixed() {
        core::mem::swap(&mut left, &mut right);
    }
    let row = left.consecutive.min(right.still);
    let side_by_side = left.in_order() && (right.in_order() || right.fixed());
    let mut out = vec![B::ZERO; 1 << outer];
    let each = (PIECE >> inner.min(16)).max(1 << row).min(1 << outer);
    let mut pieces: Vec<(usize, &mut [B])> = out.chunks_mut(each).enumerate().collect();
    parallel::for_each(&mut pieces, |(piece, out)| {
        let first = *piece * each;
        if side_by_side {
            let count = left.inner.len();
            for (at, out) in out.iter_mut().enumerate() {
                let [a, b] = [&left, &right].map(|factor| factor.outer.at(first + at));
                let b = &right.source[b..b + if right.fixed() { 1 } else { count }];
                *out = B::from_u32(vectorised(kernel, Dot { a: &left.source[a..a + count], b }));
            }
        } else if 1 << row >= LANES {
            let mut sums = Vec::new();
            for (number, out) in out.chunks_mut(1 << row).enumerate() {
                let [a, b] = [&left, &right].map(|factor| factor.outer.at(first + (number << row)));
                let rows = Rows {
                    still: &right.source[b..],
                    moving: &left.source[a..],
                    at: (&right.inner, &left.inner),
                    out,
                    sums: &mut sums,
                };
                vectorised(kernel, rows);
            }
        } else {
            for (at, out) in out.iter_mut().enumerate() {
                let [a, b] = [&left, &right].map(|factor| factor.outer.at(first + at));
                let indices = left.inner.iter().zip(&right.inner);
                *out = indices.map(|(y, z)| left.source[a + y] * right.source[b + z]).sum();
            }
        }
    });
    out
}
