//! A float matrix that is known to be finite and of the right shape.

use super::SourceError;
use super::limits::MAX_MATRIX_ELEMENTS;

/// Row-major `(rows, cols)`; row `r` holds the weights of output `r`. Every element is finite.
#[derive(Clone, PartialEq)]
pub struct Matrix {
    rows: usize,
    cols: usize,
    data: Vec<f32>,
}

/// The shape: nobody wants to read the elements.
impl std::fmt::Debug for Matrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Matrix({} x {})", self.rows, self.cols)
    }
}

impl Matrix {
    /// Checks length and values; `name` is what an error calls the tensor.
    pub fn new(name: &str, rows: usize, cols: usize, data: Vec<f32>) -> Result<Self, SourceError> {
        let elements = element_count(name, &[rows, cols])?;
        if data.len() != elements {
            return Err(SourceError::Shape {
                name: name.into(),
                got: vec![data.len()],
                expected: vec![rows, cols],
            });
        }
        check_finite(name, &data)?;
        Ok(Self { rows, cols, data })
    }

    /// Outputs.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Inputs.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// All elements, row by row.
    pub fn data(&self) -> &[f32] {
        &self.data
    }

    /// One row, `(cols,)`.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.cols..(row + 1) * self.cols]
    }

    /// `(rows, cols)` to `(cols, rows)`.
    #[must_use]
    pub fn transposed(&self) -> Self {
        let mut data = Vec::with_capacity(self.data.len());
        for col in 0..self.cols {
            data.extend((0..self.rows).map(|row| self.data[row * self.cols + col]));
        }
        Self { rows: self.cols, cols: self.rows, data }
    }

    /// Rows `from..from + count` as a matrix of their own.
    ///
    /// # Panics
    /// If the range leaves the matrix.
    #[must_use]
    pub fn row_range(&self, from: usize, count: usize) -> Self {
        let data = self.data[from * self.cols..(from + count) * self.cols].to_vec();
        Self { rows: count, cols: self.cols, data }
    }

    /// A matrix of `rows` rows, row `r` taken from row `order(r)`.
    ///
    /// # Panics
    /// If a row is not there.
    #[must_use]
    pub fn select_rows(&self, rows: usize, order: impl Fn(usize) -> usize) -> Self {
        let mut data = Vec::with_capacity(rows * self.cols);
        for row in 0..rows {
            data.extend_from_slice(self.row(order(row)));
        }
        Self { rows, cols: self.cols, data }
    }

    /// The same matrix with row `r` taken from row `order(r)`.
    #[must_use]
    pub fn with_row_order(&self, order: impl Fn(usize) -> usize) -> Self {
        self.select_rows(self.rows, order)
    }

    /// Changes rows in place. Whoever changes weights calls `FloatModel::checked` afterwards.
    pub(crate) fn for_rows_mut(&mut self, mut f: impl FnMut(usize, &mut [f32])) {
        self.data.chunks_mut(self.cols).enumerate().for_each(|(row, data)| f(row, data));
    }

    /// Applies `f` to a copy of every row; the result is checked like a fresh matrix.
    pub fn map_rows(&self, name: &str, mut f: impl FnMut(&mut [f32])) -> Result<Self, SourceError> {
        let mut data = self.data.clone();
        data.chunks_mut(self.cols).for_each(&mut f);
        Self::new(name, self.rows, self.cols, data)
    }
}

/// Product of a shape, refused above [`MAX_MATRIX_ELEMENTS`].
pub(crate) fn element_count(name: &str, shape: &[usize]) -> Result<usize, SourceError> {
    let count = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n));
    match count {
        Some(count) if (1..=MAX_MATRIX_ELEMENTS).contains(&count) => Ok(count),
        _ => Err(SourceError::OutOfRange {
            what: format!("elements of tensor {name} {shape:?}"),
            got: count.map_or(u64::MAX, |n| n as u64),
            min: 1,
            max: MAX_MATRIX_ELEMENTS as u64,
        }),
    }
}

/// A vector of known length and finite values.
pub(crate) fn checked_vector(name: &str, len: usize, data: Vec<f32>) -> Result<Vec<f32>, SourceError> {
    if data.len() != len {
        return Err(SourceError::Shape { name: name.into(), got: vec![data.len()], expected: vec![len] });
    }
    check_finite(name, &data)?;
    Ok(data)
}

pub(crate) fn check_finite(name: &str, data: &[f32]) -> Result<(), SourceError> {
    match data.iter().position(|x| !x.is_finite()) {
        None => Ok(()),
        Some(index) => Err(SourceError::NotFinite { name: name.into(), index, got: data[index] }),
    }
}
