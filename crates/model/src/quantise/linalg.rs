//! Dense f64 matrices and the four operations that folding, calibration and GPTQ need.
//!
//! Every result is a sum in one fixed order, whatever the number of threads, so that the same
//! source gives the same bundle, byte for byte.

/// Most threads of the heavy loops. The results do not depend on how many there are.
const THREADS_MAX: usize = 16;
/// Multiply-adds below which a second thread costs more than it brings.
const THREADING_WORK_MIN: usize = 1 << 20;
/// Partial sums of a dot product: enough for the compiler to use vector registers.
const LANES: usize = 8;

/// Row-major `(rows, cols)`.
#[derive(Clone, Debug, PartialEq)]
pub struct Dense {
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// All elements, row by row.
    pub data: Vec<f64>,
}

impl Dense {
    /// All zeros.
    #[must_use]
    pub fn zeros(rows: usize, cols: usize) -> Dense {
        Dense { rows, cols, data: vec![0.0; rows * cols] }
    }

    /// A float matrix in double precision.
    #[must_use]
    pub fn from_f32(rows: usize, cols: usize, data: &[f32]) -> Dense {
        assert_eq!(data.len(), rows * cols, "elements of a ({rows}, {cols}) matrix");
        Dense { rows, cols, data: data.iter().copied().map(f64::from).collect() }
    }

    /// One row.
    #[must_use]
    pub fn row(&self, row: usize) -> &[f64] {
        &self.data[row * self.cols..(row + 1) * self.cols]
    }

    /// One row, to be changed.
    pub fn row_mut(&mut self, row: usize) -> &mut [f64] {
        &mut self.data[row * self.cols..(row + 1) * self.cols]
    }

    /// Applies `f` to every row.
    pub fn for_rows(&mut self, f: impl FnMut(&mut [f64])) {
        self.data.chunks_exact_mut(self.cols).for_each(f);
    }

    /// Applies `f` to every column (as a contiguous copy).
    pub fn for_cols(&mut self, mut f: impl FnMut(&mut [f64])) {
        let mut col = vec![0.0; self.rows];
        for at in 0..self.cols {
            for row in 0..self.rows {
                col[row] = self.data[row * self.cols + at];
            }
            f(&mut col);
            for row in 0..self.rows {
                self.data[row * self.cols + at] = col[row];
            }
        }
    }

    /// The same rows with zero columns appended.
    #[must_use]
    pub fn padded_cols(&self, cols: usize) -> Dense {
        let mut out = Dense::zeros(self.rows, cols);
        for row in 0..self.rows {
            out.row_mut(row)[..self.cols].copy_from_slice(self.row(row));
        }
        out
    }

    /// `weight * x` for every row x of `inputs`: `(inputs.rows, self.rows)`.
    #[must_use]
    pub fn apply(&self, inputs: &Dense) -> Dense {
        assert_eq!(self.cols, inputs.cols, "columns of a product");
        product(self.rows, inputs, |row, x| dot(self.row(row), x))
    }

    /// The rows `rows`, in this order.
    #[must_use]
    pub fn select(&self, rows: &[usize]) -> Dense {
        let mut out = Dense::zeros(rows.len(), self.cols);
        rows.iter().enumerate().for_each(|(at, row)| out.row_mut(at).copy_from_slice(self.row(*row)));
        out
    }
}

/// `(inputs.rows, rows)`: element `(i, r)` is `one(r, inputs_i)`.
pub(crate) fn product(rows: usize, inputs: &Dense, one: impl Fn(usize, &[f64]) -> f64 + Sync) -> Dense {
    let batch = inputs.rows;
    // Computed as (rows, batch), so that threads own contiguous output and a weight row is read once.
    let mut transposed = vec![0.0; rows * batch];
    for_chunks(&mut transposed, batch, rows * batch * inputs.cols, |row, out| {
        out.iter_mut().enumerate().for_each(|(item, value)| *value = one(row, inputs.row(item)));
    });
    let mut out = Dense::zeros(batch, rows);
    for row in 0..rows {
        for item in 0..batch {
            out.data[item * rows + row] = transposed[row * batch + item];
        }
    }
    out
}

/// Calls `one(i, chunk_i)` for every `width`-sized chunk, on several threads where `work` pays for it.
pub(crate) fn for_chunks<T: Send>(
    data: &mut [T],
    width: usize,
    work: usize,
    one: impl Fn(usize, &mut [T]) + Sync,
) {
    if width == 0 {
        return;
    }
    let count = data.len() / width;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(THREADS_MAX);
    if work < THREADING_WORK_MIN || threads < 2 || count < 2 {
        data.chunks_exact_mut(width).enumerate().for_each(|(i, chunk)| one(i, chunk));
        return;
    }
    let per_thread = count.div_ceil(threads);
    std::thread::scope(|scope| {
        for (thread, part) in data.chunks_mut(per_thread * width).enumerate() {
            let one = &one;
            scope.spawn(move || {
                part.chunks_exact_mut(width)
                    .enumerate()
                    .for_each(|(i, chunk)| one(thread * per_thread + i, chunk));
            });
        }
    });
}

/// Inner product, summed in `LANES` interleaved partial sums.
#[must_use]
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    let mut lanes = [0.0; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f64 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(x, y)| x * y).sum();
    for (x, y) in a_chunks.zip(b_chunks) {
        for lane in 0..LANES {
            lanes[lane] += x[lane] * y[lane];
        }
    }
    lanes.iter().sum::<f64>() + rest
}

/// `y += a x`.
pub fn axpy(y: &mut [f64], a: f64, x: &[f64]) {
    for (y, x) in y.iter_mut().zip(x) {
        *y += a * x;
    }
}

/// `sum += sum over rows x of inputs of x x^T` (both triangles).
pub fn add_outer_products(sum: &mut Dense, inputs: &Dense) {
    let cols = inputs.cols;
    let work = inputs.rows * cols * cols;
    for_chunks(&mut sum.data, cols, work, |i, row| {
        for item in 0..inputs.rows {
            let x = inputs.row(item);
            axpy(row, x[i], x);
        }
    });
}

/// Columns that are eliminated at once: what of them a row needs stays in the first cache.
const PANEL_COLS: usize = 64;

/// Lower triangular `L` with `L L^T = a`; `None` if `a` is not positive definite.
///
/// Panel by panel: the panel's square is factored, the rows below it are solved against it, and their products leave
/// what is still to be factored. Rows are independent of each other in both steps, and every sum has one order.
#[must_use]
pub fn cholesky(a: &Dense) -> Option<Dense> {
    let n = a.rows;
    let mut lower = a.clone();
    for from in (0..n).step_by(PANEL_COLS) {
        let to = n.min(from + PANEL_COLS);
        let (head, below) = lower.data.split_at_mut(to * n);
        let square = &mut head[from * n..];
        for i in 0..to - from {
            let (above, row) = square.split_at_mut(i * n);
            let row = &mut row[from..to];
            for j in 0..i {
                let other = &above[j * n + from..j * n + to];
                row[j] = (row[j] - dot(&row[..j], &other[..j])) / other[j];
            }
            let rest = row[i] - dot(&row[..i], &row[..i]);
            if !(rest > 0.0 && rest.is_finite()) {
                return None;
            }
            row[i] = rest.sqrt();
        }
        let square = &*square;
        let width = to - from;
        let work = below.len() / n * width * width;
        for_chunks(below, n, work, |_, row| {
            let row = &mut row[from..to];
            for j in 0..width {
                let other = &square[j * n + from..j * n + to];
                row[j] = (row[j] - dot(&row[..j], &other[..j])) / other[j];
            }
        });
        let panel: Vec<f64> = below.chunks_exact(n).flat_map(|row| &row[from..to]).copied().collect();
        for_chunks(below, n, panel.len() * (n - to) / 2, |i, row| {
            let own = &panel[i * width..(i + 1) * width];
            for (j, other) in panel.chunks_exact(width).enumerate().take(i + 1) {
                row[to + j] -= dot(own, other);
            }
        });
    }
    for i in 0..n {
        lower.data[i * n + i + 1..(i + 1) * n].fill(0.0);
    }
    Some(lower)
}

/// Upper triangular `U` with `U^T U = a^-1`; `None` if `a` is not positive definite.
///
/// With the order of rows and columns reversed, `a = L L^T` becomes `a = V V^T` with V upper
/// triangular, and then `a^-1 = V^-T V^-1`: U is the inverse of V, so no inverse of `a` is ever formed.
#[must_use]
pub fn inverse_cholesky_upper(a: &Dense) -> Option<Dense> {
    let n = a.rows;
    let mut reversed = a.clone();
    reversed.data.reverse();
    let mut v = cholesky(&reversed)?;
    v.data.reverse();
    // Row i of U solves U V = 1: U_ij = (delta_ij - sum_{i <= k < j} U_ik V_kj) / V_jj, as a sweep over k.
    let mut upper = Dense::zeros(n, n);
    for_chunks(&mut upper.data, n, n * n * n / 6, |i, row| {
        row[i] = 1.0;
        for k in i..n {
            let value = row[k] / v.data[k * n + k];
            row[k] = value;
            let (_, rest) = row.split_at_mut(k + 1);
            axpy(rest, -value, &v.data[k * n + k + 1..(k + 1) * n]);
        }
    });
    Some(upper)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_base::rng::SplitMix64;

    fn random(rows: usize, cols: usize, seed: u64) -> Dense {
        let mut rng = SplitMix64::new(seed);
        let mut out = Dense::zeros(rows, cols);
        out.data.iter_mut().for_each(|x| *x = (rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64 - 0.5);
        out
    }

    #[test]
    fn inverse_cholesky_upper_times_its_transpose_is_the_inverse() {
        [1, 19, 64, 65, 150].into_iter().for_each(check_inverse);
    }

    /// Sizes within a panel, of whole panels, and beyond.
    fn check_inverse(n: usize) {
        let mut a = Dense::zeros(n, n);
        add_outer_products(&mut a, &random(3 * n, n, 7));
        let u = inverse_cholesky_upper(&a).expect("positive definite");
        let mut inverse = Dense::zeros(n, n); // U^T U is the sum of outer products of the rows of U
        add_outer_products(&mut inverse, &u);
        let product = inverse.apply(&a);
        for i in 0..n {
            for j in 0..n {
                let expected = if i == j { 1.0 } else { 0.0 };
                assert!((product.row(i)[j] - expected).abs() < 1e-9, "({i}, {j}): {}", product.row(i)[j]);
                assert!(i <= j || u.row(i)[j] == 0.0, "upper triangular at ({i}, {j})");
            }
        }
    }

    #[test]
    fn cholesky_refuses_what_is_not_positive_definite() {
        let mut a = Dense::zeros(2, 2);
        a.data = vec![1.0, 2.0, 2.0, 1.0];
        assert_eq!(cholesky(&a), None);
    }

    #[test]
    fn a_product_does_not_depend_on_threads() {
        let (weight, inputs) = (random(300, 200, 1), random(50, 200, 2)); // above the threading limit
        let product = weight.apply(&inputs);
        for (item, row) in [(0, 0), (49, 299), (17, 151)] {
            assert_eq!(product.row(item)[row], dot(weight.row(row), inputs.row(item)));
        }
    }
}
