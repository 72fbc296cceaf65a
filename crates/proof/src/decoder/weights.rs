//! The weights of a stage as one commitment (tier B): a verifier that holds its root need not hold them.
//!
//! Each block of a matrix is a column, rows filled and placed as in the circuit ([`crate::circuit::Placed`]), the columns in the order in which
//! the circuit uses them. So the root follows from the model and the layers alone, and whoever has the model computes it again. What a row has besides its weights (multiplier,
//! shift, bias) the verifier still holds.

use super::statement::{Answer, LIMB_BITS, Statement};
use crate::argument::layout_of_weights;
use crate::circuit::Placed;
use crate::commitment::Committed;
use crate::error::PlanError;
use crate::field::{ProofField, residue};
use crate::gadget::Builder;
use crate::matmul::Matrix;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use lockstep_base::Digest;
use lockstep_base::weights::ModelWeights;
use p3_field::PrimeCharacteristicRing;

/// The commitment to the weights of the layers `layers`, with the head where these are the last.
///
/// # Errors
/// If they have no argument, or are too large.
pub fn commit<E: ProofField>(
    weights: &ModelWeights,
    layers: Range<usize>,
) -> Result<Committed<E>, PlanError> {
    // Where weights lie does not depend on the tokens.
    let answer = Answer { weights, root: Digest([0; 32]), tokens: &[0, 0], generated: 1 };
    let statement = Statement::<E>::of_layers(answer, layers, None)?;
    let mut builder = Builder::<E::Base>::new(LIMB_BITS);
    statement.build(&mut builder, &[]);
    let built = builder.finish();
    if !built.matrices.iter().all(Matrix::is_held) {
        return Err(PlanError::Unheld);
    }
    let layout = layout_of_weights(&built.circuit)?;
    let of = |placed: &Placed| cells::<E>(&built.matrices[placed.matrix], placed);
    let columns: Vec<Vec<E::Base>> = built.circuit.weights.iter().map(of).collect();
    Ok(Committed::new(layout.join(columns.iter().map(Vec::as_slice))))
}

/// A matrix in its rectangle.
fn cells<E: ProofField>(matrix: &Matrix<'_>, placed: &Placed) -> Vec<E::Base> {
    let mut cells = vec![E::Base::ZERO; 1 << (placed.log_rows + placed.log_cols)];
    for (row, at) in placed.rows.iter().enumerate() {
        let cells = &mut cells[(*at as usize) << placed.log_cols..][..1 << placed.log_cols];
        let codes = matrix.row(placed.first_row + row);
        for (code, at) in codes[placed.first_col..].iter().zip(&placed.cols) {
            cells[*at as usize] = residue((*code).into());
        }
    }
    cells
}
