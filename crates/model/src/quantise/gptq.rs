//! Rounding a matrix: GPTQ (Frantar et al. 2022) on the grids of the specification.
//!
//! Columns are rounded one after the other, those with the largest second moment first; the error
//! of each is moved into the columns that are still open, by the factor `U` of the inverse Hessian,
//! `U^T U = (sum x x^T + damping)^-1`: with `e = (w_j - rounded) / U_jj`, `w_k -= e U_jk` for k > j.
//! Rows are independent. int4 keeps each group of 32 columns together, because a group's table is
//! chosen when its first column comes up, from the weights as corrected by then. Two planes round to
//! 128ths of the int8 grid. Without calibration the same code rounds to nearest.

use super::int4::{self, TableSearch};
use super::linalg::{Dense, axpy, for_chunks, inverse_cholesky_upper};
use super::scale::RowScale;
use lockstep_base::weights::{GROUP_COLS, WeightFormat};

/// Part of the mean second moment that is added to the diagonal.
const DAMPING: f64 = 0.01;
/// Largest int8 weight; -128 never occurs.
const CODE_MAX: f64 = 127.0;
/// Rows that are rounded together.
const BATCH_ROWS: usize = 8;
/// Steps of the low plane in one of the high.
const LOW_STEPS: i32 = 128;

/// Order of the columns and the factor of the inverse Hessian in that order.
#[derive(Debug)]
pub(super) struct Factor {
    order: Vec<usize>,
    upper: Option<Dense>,
    /// `1 / U_jj^2`: what an error in the j-th column of the order costs.
    importance: Vec<f64>,
}

impl Factor {
    /// From second moments of the inputs, padded with zeros to `cols`; `None`: round to nearest.
    #[must_use]
    pub(super) fn new(moments: Option<&Dense>, cols: usize, format: WeightFormat) -> Factor {
        let nearest = || Factor { order: (0..cols).collect(), upper: None, importance: vec![1.0; cols] };
        let Some(moments) = moments else { return nearest() };
        let diagonal: Vec<f64> =
            (0..cols).map(|j| if j < moments.cols { moments.row(j)[j] } else { 0.0 }).collect();
        let mean = diagonal.iter().sum::<f64>() / moments.cols as f64;
        if !(mean > 0.0 && mean.is_finite()) {
            return nearest();
        }
        let order = column_order(&diagonal, format);
        let mut permuted = Dense::zeros(cols, cols);
        for (i, &from_row) in order.iter().enumerate() {
            for (j, &from_col) in order.iter().enumerate() {
                let inside = from_row < moments.rows && from_col < moments.cols;
                permuted.row_mut(i)[j] = if inside { moments.row(from_row)[from_col] } else { 0.0 };
            }
            permuted.row_mut(i)[i] += DAMPING * mean;
        }
        match inverse_cholesky_upper(&permuted) {
            Some(upper) => {
                let importance = (0..cols).map(|j| upper.row(j)[j].powi(-2)).collect();
                Factor { order, upper: Some(upper), importance }
            }
            None => nearest(),
        }
    }
}

/// Largest second moment first; whole groups for int4. Equal ones keep their order.
fn column_order(diagonal: &[f64], format: WeightFormat) -> Vec<usize> {
    let by_moment = |order: &mut Vec<usize>, moment: &dyn Fn(usize) -> f64| {
        order.sort_by(|a, b| moment(*b).total_cmp(&moment(*a)).then(a.cmp(b)));
    };
    let mut columns: Vec<usize> = (0..diagonal.len()).collect();
    match format {
        WeightFormat::Int8 | WeightFormat::Int16 => by_moment(&mut columns, &|col| diagonal[col]),
        WeightFormat::Int4 => {
            let mut groups: Vec<usize> = (0..diagonal.len() / GROUP_COLS).collect();
            by_moment(&mut groups, &|group| {
                diagonal[group * GROUP_COLS..(group + 1) * GROUP_COLS].iter().sum()
            });
            columns.clear();
            for group in groups {
                let mut inside: Vec<usize> = (group * GROUP_COLS..(group + 1) * GROUP_COLS).collect();
                by_moment(&mut inside, &|col| diagonal[col]);
                columns.extend(inside);
            }
        }
    }
    columns
}

/// One rounded row.
#[derive(Clone, Debug, Default)]
pub(super) struct RoundedRow {
    /// The row scale.
    pub(super) scale: Option<RowScale>,
    /// The int8 meaning, in column order (the high parts of two planes).
    pub(super) weights: Vec<i8>,
    /// Two planes: the low parts.
    pub(super) lows: Vec<i8>,
    /// int4: the nibble of each column.
    pub(super) nibbles: Vec<u8>,
    /// int4: the table of each group.
    pub(super) table_ids: Vec<u16>,
}

impl RoundedRow {
    /// What the weight of a column means, in units of the row scale.
    pub(super) fn value(&self, col: usize) -> f64 {
        let low = self.lows.get(col).map_or(0.0, |low| f64::from(*low) / f64::from(LOW_STEPS));
        f64::from(self.weights[col]) + low
    }
}

/// High and low part of the nearest 128th.
fn split(weight: f64) -> (i8, i8) {
    let most = f64::from(LOW_STEPS) * CODE_MAX;
    let steps = (weight * f64::from(LOW_STEPS)).round().clamp(-most, most) as i32;
    let high = (steps + LOW_STEPS / 2).div_euclid(LOW_STEPS);
    (high as i8, (steps - LOW_STEPS * high) as i8)
}

/// Rounds `weight` (its columns already padded); `None` for a row that needs a scale above 31.
#[must_use]
pub(super) fn round(
    weight: &Dense,
    factor: &Factor,
    format: WeightFormat,
    search: &TableSearch,
) -> Vec<Option<RoundedRow>> {
    let mut rows: Vec<Option<RoundedRow>> = vec![None; weight.rows];
    let work = weight.rows * weight.cols * weight.cols;
    // Rows are independent; some go together so that a row of the factor is read once for all of them.
    let whole = weight.rows / BATCH_ROWS * BATCH_ROWS;
    let (batches, rest) = rows.split_at_mut(whole);
    for_chunks(batches, BATCH_ROWS, work, |at, out| {
        round_rows(weight, at * BATCH_ROWS, factor, format, search, out);
    });
    round_rows(weight, whole, factor, format, search, rest);
    rows
}

/// Rounds the rows of `weight` from `first` on into `out`.
fn round_rows(
    weight: &Dense,
    first: usize,
    factor: &Factor,
    format: WeightFormat,
    search: &TableSearch,
    out: &mut [Option<RoundedRow>],
) {
    let cols = weight.cols;
    let mut open: Vec<OpenRow> = Vec::with_capacity(out.len());
    for at in 0..out.len() {
        open.extend(OpenRow::new(weight.row(first + at), at, factor, format));
    }
    for j in 0..cols {
        for row in &mut open {
            row.round(j, factor, format, search);
        }
    }
    for row in open {
        out[row.at] = Some(row.rounded);
    }
}

/// A row on its way.
struct OpenRow {
    /// Its place among the rows that go together.
    at: usize,
    /// In the order of the factor, in units of the scale; from the column on that comes next.
    open: Vec<f64>,
    rounded: RoundedRow,
}

impl OpenRow {
    /// `None` if the row needs a scale above the grid.
    fn new(row: &[f64], at: usize, factor: &Factor, format: WeightFormat) -> Option<OpenRow> {
        let most = row.iter().fold(0.0f64, |most, w| most.max(w.abs()));
        let reach = match format {
            WeightFormat::Int8 | WeightFormat::Int16 => CODE_MAX,
            WeightFormat::Int4 => int4::ROW_MAX,
        };
        let scale = RowScale::at_least(most / reach)?;
        let cols = row.len();
        let mut rounded = RoundedRow { scale: Some(scale), weights: vec![0; cols], ..RoundedRow::default() };
        if format == WeightFormat::Int4 {
            rounded.nibbles = vec![0; cols];
            rounded.table_ids = vec![0; cols / GROUP_COLS];
        }
        if format == WeightFormat::Int16 {
            rounded.lows = vec![0; cols];
        }
        let inverse = 1.0 / scale.value();
        Some(OpenRow { at, open: factor.order.iter().map(|&col| row[col] * inverse).collect(), rounded })
    }

    /// Rounds column `j` of the order, and moves its error into those behind it.
    fn round(&mut self, j: usize, factor: &Factor, format: WeightFormat, search: &TableSearch) {
        let (col, open, out) = (factor.order[j], &mut self.open, &mut self.rounded);
        out.weights[col] = match format {
            WeightFormat::Int8 => open[j].round().clamp(-CODE_MAX, CODE_MAX) as i8,
            WeightFormat::Int16 => {
                let (high, low) = split(open[j]);
                out.lows[col] = low;
                high
            }
            WeightFormat::Int4 => {
                if j.is_multiple_of(GROUP_COLS) {
                    let group = j..j + GROUP_COLS;
                    out.table_ids[col / GROUP_COLS] =
                        search.best(&open[group.clone()], &factor.importance[group]);
                }
                let (nibble, entry) = search.round(out.table_ids[col / GROUP_COLS], open[j]);
                out.nibbles[col] = nibble;
                entry
            }
        };
        if let Some(upper) = &factor.upper {
            let factors = upper.row(j);
            let error = (open[j] - out.value(col)) / factors[j];
            axpy(&mut open[j + 1..], -error, &factors[j + 1..]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two planes mean the nearest 128th, the high part in [-127, 127], the low one in [-64, 64], no weight beyond 127.
    #[test]
    fn two_planes_mean_the_nearest_step() {
        for steps in -2 * 16_256..=2 * 16_256 {
            let weight = f64::from(steps) / 250.0;
            let (high, low) = split(weight);
            let value = f64::from(high) + f64::from(low) / 128.0;
            assert!((-127..=127).contains(&high) && (-64..=64).contains(&low), "{weight}: {high} {low}");
            let nearest = (weight.clamp(-127.0, 127.0) * 128.0).round() / 128.0;
            assert_eq!(value, nearest, "{weight}: {high} {low}");
        }
    }
}
