//! Extensions of expressions at a point, from claims on their sources: one piece of code for both sides.

use super::{Atom, Circuit, Domain, Linear, Source, range};
use crate::field::ProofField;
use crate::multilinear::{eq_table, index, weighted};
use alloc::vec::Vec;

/// Tables that are kept.
const KEPT: usize = 4;

/// The tables of `eq` at the points that were asked for last: many public vectors are evaluated at one point.
#[derive(Clone, Debug)]
pub struct Tables<E> {
    known: Vec<(Vec<E>, Vec<E>)>,
}

impl<E> Default for Tables<E> {
    fn default() -> Tables<E> {
        Tables { known: Vec::new() }
    }
}

impl<E: ProofField> Tables<E> {
    /// The extension of `values` at `point`.
    pub fn evaluate(&mut self, values: &[E::Base], point: &[E]) -> E {
        let known = self.known.iter().position(|(known, _)| known == point);
        let at = known.unwrap_or_else(|| {
            if self.known.len() == KEPT {
                self.known.remove(0);
            }
            self.known.push((point.to_vec(), eq_table(point)));
            self.known.len() - 1
        });
        weighted(values, &self.known[at].1)
    }
}

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

    /// The tables of points.
    fn tables(&mut self) -> &mut Tables<E>;
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
        Source::Public(public) => Ok(oracle.tables().evaluate(&circuit.publics[public], point)),
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
                source(circuit, example, examples, oracle)?
                    * oracle.tables().evaluate(&circuit.rows[row], places)
            }
            Atom::Spread(example) => source(circuit, example, examples, oracle)?,
            Atom::Row(row) => oracle.tables().evaluate(&circuit.rows[row], places),
            Atom::Index => index(examples),
            Atom::Width => range::extensions(point).0,
            Atom::Value => range::extensions(point).1,
        };
        sum += value * *coefficient;
    }
    Ok(sum)
}
