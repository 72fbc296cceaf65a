//! The matrices of a folded model, in single precision.
//!
//! A folded model lives as long as its import; in f64 a model of 1.1 billion weights would take 9 GB beside the float
//! model that it came from. Folding itself happens in f64, matrix after matrix; the one rounding of 2^-24 at its end is
//! 2^9 times finer than the finest grid of integers (two planes of 8 bits).

use super::linalg::{Dense, product};

/// Partial sums of a dot product: enough for the compiler to use vector registers.
const LANES: usize = 8;

/// Row-major `(rows, cols)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// All elements, row by row.
    pub data: Vec<f32>,
}

impl From<Dense> for Weights {
    fn from(dense: Dense) -> Weights {
        Weights { rows: dense.rows, cols: dense.cols, data: dense.data.iter().map(|x| *x as f32).collect() }
    }
}

impl Weights {
    /// One row.
    #[must_use]
    pub fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.cols..(row + 1) * self.cols]
    }

    /// One row, to be changed.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.data[row * self.cols..(row + 1) * self.cols]
    }

    /// L2 norm of one row.
    #[must_use]
    pub fn row_norm(&self, row: usize) -> f64 {
        self.row(row).iter().map(|w| f64::from(*w).powi(2)).sum::<f64>().sqrt()
    }

    /// In double precision, with zero columns appended.
    #[must_use]
    pub fn padded_cols(&self, cols: usize) -> Dense {
        let mut out = Dense::zeros(self.rows, cols);
        for row in 0..self.rows {
            out.row_mut(row).iter_mut().zip(self.row(row)).for_each(|(wide, x)| *wide = f64::from(*x));
        }
        out
    }

    /// `weight * x` for every row x of `inputs`: `(inputs.rows, self.rows)`.
    #[must_use]
    pub fn apply(&self, inputs: &Dense) -> Dense {
        assert_eq!(self.cols, inputs.cols, "columns of a product");
        product(self.rows, inputs, |row, x| dot(self.row(row), x))
    }
}

/// Inner product in double precision, summed in `LANES` interleaved partial sums.
fn dot(a: &[f32], b: &[f64]) -> f64 {
    let mut lanes = [0.0; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest = a_chunks.remainder().iter().zip(b_chunks.remainder());
    let rest: f64 = rest.map(|(x, y)| f64::from(*x) * y).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] += f64::from(x[lane]) * y[lane];
        }
    }
    lanes.iter().sum::<f64>() + rest
}
