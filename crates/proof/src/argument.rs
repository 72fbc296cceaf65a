//! The argument for any circuit: that somebody knows columns in which everything that the circuit says holds. The steps are those
//! of docs/spec/proofs.md, section 2.

#[cfg(feature = "prover")]
pub mod prove;
pub mod verify;

use crate::circuit::Circuit;
use crate::claims::Layout;
use crate::commitment::CELLS_MAX;
use crate::error::PlanError;
use crate::field::ProofField;
use crate::matmul::Matrix;
use crate::transcript::Sponge;
use alloc::vec::Vec;
use p3_field::PrimeField32;

/// Lookups and entries of tables, together.
pub const FRACTIONS_MAX: usize = 1 << 27;
/// Numbers of one lookup.
pub const NUMBERS_MAX: usize = 1 << 10;
/// Constraints.
pub const CONSTRAINTS_MAX: usize = 1 << 16;
/// Contractions.
pub const CONTRACTIONS_MAX: usize = 1 << 14;

/// What is argued for.
#[derive(Clone, Debug)]
pub struct Argument<'a, E: ProofField> {
    /// What must hold.
    pub circuit: Circuit<E::Base>,
    /// Where the columns lie.
    pub layout: Layout,
    /// The matrices that [`crate::circuit::Placed`] names.
    pub matrices: Vec<Matrix<'a>>,
    /// A transcript that has absorbed the whole statement.
    pub sponge: Sponge,
}

impl<'a, E: ProofField> Argument<'a, E> {
    /// The argument for `circuit`, from a transcript that has absorbed the statement.
    ///
    /// # Errors
    /// If it is too large for one proof.
    pub fn new(
        circuit: Circuit<E::Base>,
        matrices: Vec<Matrix<'a>>,
        sponge: Sponge,
    ) -> Result<Argument<'a, E>, PlanError> {
        // Fewer than the order of the field, or multiplicities could not count them.
        const { assert!(FRACTIONS_MAX < E::Base::ORDER_U32 as usize) };
        let constraints = circuit.checks.iter().map(|check| check.constraints.len()).sum();
        let numbers = circuit.leaves.iter().map(|leaf| leaf.tuple.len()).max().unwrap_or(0);
        for (what, got, limit) in [
            ("fractions", circuit.fractions(), FRACTIONS_MAX),
            ("numbers of a lookup", numbers, NUMBERS_MAX),
            ("constraints", constraints, CONSTRAINTS_MAX),
            ("contractions", circuit.contractions.len(), CONTRACTIONS_MAX),
        ] {
            if got > limit {
                return Err(PlanError::TooMany { what, got, limit });
            }
        }
        let layout = Layout::new(circuit.columns.iter().map(|column| column.log).collect());
        if layout.cells() > CELLS_MAX {
            return Err(PlanError::TooLarge { got: layout.cells(), limit: CELLS_MAX });
        }
        Ok(Argument { circuit, layout, matrices, sponge })
    }
}

/// All committed columns, and what is computed from them.
#[cfg(feature = "prover")]
#[derive(Clone, Debug, Default)]
pub struct Witness<B> {
    /// Column after column.
    pub columns: Vec<Vec<B>>,
    /// What each contraction gives.
    pub products: Vec<Vec<B>>,
}

#[cfg(feature = "prover")]
impl<B> Witness<B> {
    /// Its vectors, for the expressions of `circuit`.
    #[must_use]
    pub fn cells<'a>(&'a self, circuit: &'a Circuit<B>) -> crate::circuit::fill::Cells<'a, B> {
        crate::circuit::fill::Cells { circuit, columns: &self.columns, products: &self.products }
    }
}

/// The point in the space of a contraction's factors: the claim's, but the sum-check's at the coordinates `kept`.
fn joint<E: ProofField>(
    contraction: &crate::circuit::Contraction,
    claimed: &[E],
    kept: &[usize],
    reduced: &[E],
) -> Vec<E> {
    let mut point = claimed.to_vec();
    point.resize(contraction.outer + contraction.inner, E::ZERO);
    kept.iter().zip(reduced).for_each(|(at, r)| point[*at] = *r);
    point
}
