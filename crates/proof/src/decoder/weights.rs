//! The weights of a stage as one commitment (tier B): a verifier that holds its root need not hold them.
//!
//! Each block of a matrix is a column, rows filled and placed as in the circuit ([`crate::circuit::Placed`]), the columns in the order in which
//! the circuit uses them. So the root follows from the model and the layers alone, and whoever has the model computes it again. What a row has besides its weights (multiplier,
//! shift, bias) the verifier still holds.

use super::statement::{Answer, LIMB_BITS, Statement};
use crate::argument::layout_of_weights;
use crate::cells::Cells;
use crate::circuit::Placed;
use crate::commitment::kept::{Kept, rename};
use crate::commitment::{Committed, Shape};
use crate::error::{PlanError, ProveError};
use crate::field::{ProofField, Quintic};
use crate::gadget::Builder;
use crate::matmul::Matrix;
use crate::transcript::Hash;
use alloc::format;
use alloc::vec;
use core::ops::Range;
use lockstep_base::Digest;
use lockstep_base::adapter::AdapterWeights;
use lockstep_base::weights::ModelWeights;
use std::path::{Path, PathBuf};

/// The weights of a model, or of a model with an adapter.
#[derive(Clone, Copy, Debug)]
pub struct Held<'a> {
    /// The model.
    pub weights: &'a ModelWeights,
    /// The root of the model, where there is an adapter, which names it.
    pub root: Digest,
    /// The adapter.
    pub adapter: Option<&'a AdapterWeights>,
}

impl<'a> From<&'a ModelWeights> for Held<'a> {
    fn from(weights: &'a ModelWeights) -> Held<'a> {
        Held { weights, root: Digest([0; 32]), adapter: None }
    }
}

impl<'a> From<&Answer<'a>> for Held<'a> {
    fn from(answer: &Answer<'a>) -> Held<'a> {
        Held { weights: answer.weights, root: answer.root, adapter: answer.adapter }
    }
}

/// The weights of the layers `layers`, with the head where these are the last, as one vector.
///
/// # Errors
/// If they have no argument, or are too large.
pub fn cells<'a, E: ProofField>(
    held: impl Into<Held<'a>>,
    layers: Range<usize>,
) -> Result<Cells<E::Base>, PlanError> {
    let Held { weights, root, adapter } = held.into();
    // Where weights lie does not depend on the tokens.
    let vector = vec![0; weights.config.d_model as usize];
    let answer = Answer { root, adapter, ..Answer::some(weights, &vector) };
    let statement = Statement::<E>::of_layers(answer, layers, None)?;
    let mut builder = Builder::<E::Base>::new(LIMB_BITS);
    statement.build(&mut builder, &[]);
    let built = builder.finish();
    if !built.matrices.iter().all(Matrix::is_held) {
        return Err(PlanError::Unheld);
    }
    let layout = layout_of_weights(&built.circuit)?;
    let mut cells = vec![0; layout.cells()];
    for (column, placed) in built.circuit.weights.iter().enumerate() {
        place(&built.matrices[placed.matrix], placed, layout.cells_of_mut(column, &mut cells));
    }
    Ok(Cells::Codes(cells))
}

/// The shape of their commitment, which is always opened beside a witness.
fn shape<E: ProofField>(cells: &Cells<E::Base>) -> Shape {
    Shape::shared::<E>(cells.all().len())
}

/// The commitment to [`cells`].
///
/// # Errors
/// If they have no argument, or are too large.
pub fn commit<'a, E: ProofField>(
    weights: impl Into<Held<'a>>,
    layers: Range<usize>,
) -> Result<Committed<E>, PlanError> {
    let cells = cells::<E>(weights, layers)?;
    let shape = shape::<E>(&cells);
    Ok(Committed::shaped(cells, shape))
}

/// The root of [`commit`], with nothing kept.
///
/// # Errors
/// If they have no argument, or are too large.
pub fn root<'a>(weights: impl Into<Held<'a>>, layers: Range<usize>) -> Result<Hash, PlanError> {
    let cells = cells::<Quintic>(weights, layers)?;
    let shape = shape::<Quintic>(&cells);
    Ok(Committed::<Quintic>::lean(cells, shape).root())
}

/// Where the encoded weights with this root are in `folder`.
fn path_of(folder: &Path, root: &Hash) -> PathBuf {
    folder.join(format!("{}.code", Digest(*root).hex()))
}

/// The root of [`commit`]; what is encoded is kept in `folder`, under the name of the root.
///
/// # Errors
/// If they have no argument, are too large, or the file cannot be written.
pub fn keep<'a>(
    weights: impl Into<Held<'a>>,
    layers: Range<usize>,
    folder: &Path,
) -> Result<Hash, ProveError> {
    let new = folder.join(format!("{}-{}.new", layers.start, layers.end));
    let cells = cells::<Quintic>(weights, layers)?;
    let root = Kept::write::<Quintic>(cells.all(), shape::<Quintic>(&cells), &new)?;
    // Whoever reads meanwhile finds a whole file or none.
    rename(&new, &path_of(folder, &root))?;
    Ok(root)
}

/// The same commitment from what [`keep`] left in `folder`.
///
/// # Errors
/// If it is not there, or not what it should be.
pub fn kept<'a>(
    weights: impl Into<Held<'a>>,
    layers: Range<usize>,
    root: &Hash,
    folder: &Path,
) -> Result<Committed<Quintic>, ProveError> {
    let cells = cells::<Quintic>(weights, layers)?;
    let kept = Kept::open(&path_of(folder, root), cells.all().len(), shape::<Quintic>(&cells), root)?;
    Ok(Committed::kept(cells, kept))
}

/// A matrix in its rectangle, which is zero.
fn place(matrix: &Matrix<'_>, placed: &Placed, cells: &mut [i8]) {
    for (row, at) in placed.rows.iter().enumerate() {
        let cells = &mut cells[(*at as usize) << placed.log_cols..][..1 << placed.log_cols];
        let codes = matrix.row(placed.first_row + row, placed.low);
        for (code, at) in codes[placed.first_col..].iter().zip(&placed.cols) {
            cells[*at as usize] = *code;
        }
    }
}
