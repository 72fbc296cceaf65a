//! The prover's side: one batched transform, one tree.

use super::transform::Code;
use super::{Shape, distinct};
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
    shape: Shape,
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
    pub fn open(&self, transcript: &mut ProverTranscript, point: &[E]) {
        let shape = &self.shape;
        let (high, _) = shape.split(point);
        let width = 1 << shape.log_cols;
        let rows = self.cells.chunks(width).zip(eq_table(high));
        let u: Vec<E> = elements(&sum_rows::<E>(rows, width.div_ceil(LANES)), width);
        transcript.send("folded row", &u);
        let positions = distinct(transcript.sponge.positions("columns", shape.queries(), shape.code_log()));
        let mut bytes = Vec::with_capacity(positions.len() * shape.rows * 4);
        for position in &positions {
            self.code.column(*position).for_each(|x| bytes.extend_from_slice(&x.to_le_bytes()));
        }
        transcript.hint(&bytes);
        self.tree.siblings(&positions).iter().for_each(|sibling| transcript.hint(sibling));
    }
}
