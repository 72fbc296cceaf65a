//! The prover's side: one batched transform, one tree.

use super::transform::Code;
use super::{Shape, distinct, inner};
use crate::error::ProveError;
use crate::field::ProofField;
use crate::lanes::LANES;
use crate::lanes::vectors::{elements, sum_rows};
use crate::merkle::Tree;
use crate::merkle::tree::leaves;
use crate::multilinear::eq_table;
use crate::transcript::{Hash, ProverTranscript};
use alloc::vec::Vec;

/// A committed vector, with what opens it.
#[derive(Debug)]
pub struct Committed<E: ProofField> {
    cells: Vec<E::Base>,
    pub(super) shape: Shape,
    code: Code,
    tree: Tree,
}

impl<E: ProofField> Committed<E> {
    /// Commits to `cells`.
    #[must_use]
    pub fn new(cells: Vec<E::Base>) -> Committed<E> {
        let shape = Shape::new::<E>(cells.len());
        let code = Code::new::<E>(&cells, shape);
        let tree = Tree::new(leaves(code.slabs(), shape.rows, 1 << shape.code_log(), |i| code.place(i)));
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
    ///
    /// # Errors
    /// If a challenge is degenerate.
    pub fn open(&self, transcript: &mut ProverTranscript, point: &[E]) -> Result<(), ProveError> {
        let shape = &self.shape;
        let (high, low) = shape.split(point);
        let width = 1 << shape.log_cols;
        let rows = self.cells.chunks(width).zip(eq_table(high));
        let u: Vec<E> = elements(&sum_rows::<E>(rows, width.div_ceil(LANES)), width);
        if shape.nested {
            return inner::open(self, transcript, low, u);
        }
        transcript.send("folded row", &u);
        let positions = distinct(transcript.sponge.positions("columns", shape.queries(), shape.code_log()));
        self.show(transcript, &positions);
        Ok(())
    }

    /// Writes the columns at `positions` and what shows that they are under the root.
    pub(super) fn show(&self, transcript: &mut ProverTranscript, positions: &[usize]) {
        let mut bytes = Vec::with_capacity(positions.len() * self.shape.rows * 4);
        for position in positions {
            self.code.column(*position).for_each(|x| bytes.extend_from_slice(&x.to_le_bytes()));
        }
        transcript.hint(&bytes);
        self.tree.siblings(positions).iter().for_each(|sibling| transcript.hint(sibling));
    }
}
