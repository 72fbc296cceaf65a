//! Extensions of expressions at a point, from claims on their sources: one piece of code for both sides.

use super::{Atom, Circuit, Domain, Linear, Source, range};
use crate::field::ProofField;
use crate::multilinear::{evaluate, index};

/// Whoever knows the extensions of committed columns and accumulators: the prover computes and says them, the verifier
/// reads them and remembers what is left to be checked.
pub trait Oracle<E: ProofField> {
    /// What can go wrong.
    type Error;

    /// The extension of a column at a point.
    ///
    /// # Errors
    /// If it cannot be read.
    fn column(&mut self, column: usize, point: &[E]) -> Result<E, Self::Error>;

    /// The extension of the accumulators of a matrix product at a point.
    ///
    /// # Errors
    /// If it cannot be read.
    fn accumulator(&mut self, matmul: usize, point: &[E]) -> Result<E, Self::Error>;
}

/// The extension of a source.
///
/// # Errors
/// Those of the oracle.
pub fn source<E: ProofField, O: Oracle<E>>(
    circuit: &Circuit<E::Base>,
    source: Source,
    point: &[E],
    oracle: &mut O,
) -> Result<E, O::Error> {
    match source {
        Source::Committed(column) => oracle.column(column, point),
        Source::Public(public) => Ok(evaluate(&circuit.publics[public], point)),
        Source::Accumulator(matmul) => oracle.accumulator(matmul, point),
    }
}

/// The extension of an expression over `domain`.
///
/// # Errors
/// Those of the oracle.
pub fn linear<E: ProofField, O: Oracle<E>>(
    circuit: &Circuit<E::Base>,
    linear: &Linear<E::Base>,
    domain: &Domain,
    point: &[E],
    oracle: &mut O,
) -> Result<E, O::Error> {
    let (examples, places) = point.split_at(domain.log_examples);
    let mut sum = E::from(linear.constant);
    for (coefficient, atom) in &linear.terms {
        let value = match *atom {
            Atom::Cell(cell) => source(circuit, cell, point, oracle)?,
            Atom::Example(example, row) => {
                source(circuit, example, examples, oracle)? * evaluate::<E>(&circuit.rows[row], places)
            }
            Atom::Spread(example) => source(circuit, example, examples, oracle)?,
            Atom::Row(row) => evaluate(&circuit.rows[row], places),
            Atom::Index => index(examples),
            Atom::Width => range::extensions(point).0,
            Atom::Value => range::extensions(point).1,
        };
        sum += value * *coefficient;
    }
    Ok(sum)
}
