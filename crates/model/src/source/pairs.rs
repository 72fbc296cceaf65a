//! From rotated halves to rotated neighbours.
//!
//! Hugging Face rotates the halves of a head against each other, `(i, i + dim/2)`; Lockstep rotates adjacent pairs.
//! The two differ by a fixed order of the rows of q and k, which leaves every score `q . k` unchanged:
//! new row `2i` is old row `i`, new row `2i + 1` is old row `i + dim/2`, head by head. Channels that do not turn
//! (from `dim` on) stay where they are.

use super::matrix::Matrix;
use super::model::Linear;

/// The order of the rows of a matrix of heads. `dim` channels of each `head_dim` turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PairOrder {
    /// Width of one head.
    pub head_dim: usize,
    /// Channels of a head that turn.
    pub dim: usize,
}

impl PairOrder {
    /// The old place of what is new row `row`.
    pub(crate) fn old_row(self, row: usize) -> usize {
        let (head, place) = (row / self.head_dim, row % self.head_dim);
        let place = if place < self.dim { place / 2 + (place % 2) * (self.dim / 2) } else { place };
        head * self.head_dim + place
    }

    /// A vector with one element a row.
    pub(crate) fn vector(self, old: &[f32]) -> Vec<f32> {
        (0..old.len()).map(|row| old[self.old_row(row)]).collect()
    }

    /// Weight and bias.
    pub(crate) fn linear(self, linear: Linear) -> Linear {
        Linear {
            weight: linear.weight.with_row_order(|row| self.old_row(row)),
            bias: linear.bias.map(|bias| self.vector(&bias)),
        }
    }

    fn turns(self, row: usize) -> bool {
        row % self.head_dim < self.dim
    }

    /// Multiplies the rows that turn.
    pub(crate) fn scale_rotated(self, mut linear: Linear, gain: f64) -> Linear {
        self.scale_rotated_rows(&mut linear.weight, gain);
        let bias = linear.bias.iter_mut().flatten().enumerate();
        bias.filter(|(row, _)| self.turns(*row)).for_each(|(_, b)| *b = (f64::from(*b) * gain) as f32);
        linear
    }

    /// The same for a matrix alone.
    pub(crate) fn scale_rotated_rows(self, weight: &mut Matrix, gain: f64) {
        if gain == 1.0 {
            return;
        }
        weight.for_rows_mut(|row, weights| {
            if self.turns(row) {
                weights.iter_mut().for_each(|w| *w = (f64::from(*w) * gain) as f32);
            }
        });
    }
}
