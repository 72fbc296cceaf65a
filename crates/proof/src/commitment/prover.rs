//! The prover's side: one batched transform, one tree.

use super::{Shape, distinct};
use crate::field::{ProofField, put_base};
use crate::merkle::{self, Tree};
use crate::multilinear::fold_rows;
use crate::transcript::{Hash, ProverTranscript};
use alloc::vec;
use alloc::vec::Vec;
use p3_dft::{Radix2DitParallel, TwoAdicSubgroupDft};
use p3_field::PrimeCharacteristicRing;
use p3_matrix::Matrix;
use p3_matrix::dense::RowMajorMatrix;

/// A committed vector, with what opens it.
#[derive(Debug)]
pub struct Committed<E: ProofField> {
    cells: Vec<E::Base>,
    shape: Shape,
    /// `(columns of the code, rows)`.
    code: RowMajorMatrix<E::Base>,
    tree: Tree,
}

impl<E: ProofField> Committed<E> {
    /// Commits to `cells`.
    #[must_use]
    pub fn new(cells: Vec<E::Base>) -> Committed<E> {
        let shape = Shape::new::<E>(cells.len());
        let mut messages = vec![E::Base::ZERO; shape.rows << shape.code_log()];
        for (row, message) in cells.chunks(1 << shape.log_cols).enumerate() {
            for (col, cell) in message.iter().enumerate() {
                messages[col * shape.rows + row] = *cell;
            }
        }
        let messages = RowMajorMatrix::new(messages, shape.rows);
        let code = Radix2DitParallel::default().dft_batch(messages).to_row_major_matrix();
        let mut scratch = Vec::new();
        let leaves = code.values.chunks(shape.rows).map(|column| merkle::leaf(column, &mut scratch));
        let tree = Tree::new(leaves.collect());
        Committed { cells, shape, code, tree }
    }

    /// The commitment.
    #[must_use]
    pub fn root(&self) -> Hash {
        self.tree.root()
    }

    /// The cells.
    #[must_use]
    pub fn cells(&self) -> &[E::Base] {
        &self.cells
    }

    /// Proves the extension at `point`, a challenge that is younger than the root in `transcript`.
    pub fn open(&self, transcript: &mut ProverTranscript, point: &[E]) {
        let shape = &self.shape;
        let (high, _) = shape.split(point);
        let u = fold_rows(&self.cells, 1 << shape.log_cols, high);
        transcript.send("folded row", &u);
        let positions = distinct(transcript.sponge.positions("columns", shape.queries(), shape.code_log()));
        let mut bytes = Vec::with_capacity(positions.len() * shape.rows * 4);
        for position in &positions {
            let column = &self.code.values[position * shape.rows..(position + 1) * shape.rows];
            column.iter().for_each(|x| put_base(*x, &mut bytes));
        }
        transcript.hint(&bytes);
        self.tree.siblings(&positions).iter().for_each(|sibling| transcript.hint(sibling));
    }
}
