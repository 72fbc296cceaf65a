//! Extensions of expressions at a point, from claims on their vectors: one piece of code for both sides.

use super::public::closed_form;
use super::{Circuit, Contraction, Linear, Public, Source, View};
use crate::field::ProofField;
use crate::multilinear::{ROW_LOG, Weights, eq_table, evaluate_rows};
use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// Weights of rows that are kept: many vectors are evaluated at one point.
const WEIGHTS_KEPT: usize = 8;

/// A point and the value there.
type Value<E> = (Vec<E>, E);

/// Values of public vectors, each computed once for each point.
#[derive(Clone, Debug)]
pub struct Tables<E> {
    /// By the number of the vector.
    values: Vec<Vec<Value<E>>>,
    /// By the last coordinates of a point.
    weights: VecDeque<(Vec<E>, Weights<E>)>,
}

impl<E> Default for Tables<E> {
    fn default() -> Tables<E> {
        Tables { values: Vec::new(), weights: VecDeque::new() }
    }
}

impl<E: ProofField> Tables<E> {
    /// The extension of the vector `public`, which has the number `number`, at `point`.
    fn evaluate(&mut self, number: usize, public: &Public<E::Base>, point: &[E]) -> E {
        if self.values.len() <= number {
            self.values.resize_with(number + 1, Vec::new);
        }
        if let Some((_, value)) = self.values[number].iter().rev().find(|(known, _)| known == point) {
            return *value;
        }
        let value = match public {
            Public::Vector(values) => self.written(values, point),
            formula => closed_form(formula, point).unwrap_or(E::ZERO),
        };
        self.values[number].push((point.to_vec(), value));
        value
    }

    fn written(&mut self, values: &[E::Base], point: &[E]) -> E {
        let (high, low) = point.split_at(point.len().saturating_sub(ROW_LOG));
        let known = self.weights.iter().rposition(|(known, _)| known == low);
        let at = known.unwrap_or_else(|| {
            if self.weights.len() == WEIGHTS_KEPT {
                self.weights.pop_front();
            }
            self.weights.push_back((low.to_vec(), Weights::of(&eq_table(low))));
            self.weights.len() - 1
        });
        evaluate_rows(values, high, &self.weights[at].1)
    }
}

/// Whoever knows the extensions of vectors: the prover computes and says them, the verifier reads them and remembers what is left
/// to be checked.
pub trait Oracle<E: ProofField> {
    /// What can go wrong.
    type Error;

    /// The extension of a column at a point.
    ///
    /// # Errors
    /// If it cannot be read.
    fn column(&mut self, column: usize, point: &[E]) -> Result<E, Self::Error>;

    /// The extension of what a contraction gives at a point.
    ///
    /// # Errors
    /// If it cannot be read.
    fn product(&mut self, contraction: usize, point: &[E]) -> Result<E, Self::Error>;

    /// The extension of a matrix of weights at a point.
    ///
    /// # Errors
    /// If it cannot be read.
    fn weights(&mut self, weights: usize, point: &[E]) -> Result<E, Self::Error>;

    /// The tables of points.
    fn tables(&mut self) -> &mut Tables<E>;
}

/// The extension of a view at a point of its space.
///
/// # Errors
/// Those of the oracle.
pub fn view<E: ProofField, O: Oracle<E>>(
    circuit: &Circuit<E::Base>,
    view: &View,
    point: &[E],
    oracle: &mut O,
) -> Result<E, O::Error> {
    let point = view.point(point);
    match view.source {
        Source::Committed(column) => oracle.column(column, &point),
        Source::Public(public) => Ok(oracle.tables().evaluate(public, &circuit.publics[public], &point)),
        Source::Weights(weights) => oracle.weights(weights, &point),
        Source::Product(contraction) => oracle.product(contraction, &point),
    }
}

/// The extension of an expression at a point of its space.
///
/// # Errors
/// Those of the oracle.
pub fn linear<E: ProofField, O: Oracle<E>>(
    circuit: &Circuit<E::Base>,
    linear: &Linear<E::Base>,
    point: &[E],
    oracle: &mut O,
) -> Result<E, O::Error> {
    let mut sum = E::from(linear.constant);
    for term in &linear.terms {
        let mut product = E::ONE;
        for factor in &term.views {
            product *= view(circuit, factor, point, oracle)?;
        }
        sum += product * term.coefficient;
    }
    Ok(sum)
}

/// The coordinates over which a contraction's sum-check runs: those of x that both factors have, then those of y.
#[must_use]
pub fn shared(contraction: &Contraction) -> Vec<usize> {
    let both = |at: &usize| {
        let has = |view: &View| view.used().any(|used| used == *at);
        has(&contraction.left) && has(&contraction.right)
    };
    (0..contraction.outer)
        .filter(both)
        .chain(contraction.outer..contraction.outer + contraction.inner)
        .collect()
}
