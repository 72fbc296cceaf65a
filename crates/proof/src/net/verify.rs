//! The verifier, step by step as in docs/spec/proofs.md. It needs neither the runtime nor the prover.

use super::statement::Statement;
use crate::circuit::evaluate::{self, Oracle, Tables};
use crate::circuit::{Check, Matmul};
use crate::claims::Claims;
use crate::error::VerifyError;
use crate::field::ProofField;
use crate::logup::{self, heights};
use crate::matmul::weights_at;
use crate::multilinear::eq_index;
use crate::sumcheck;
use crate::transcript::VerifierTranscript;
use alloc::vec;
use alloc::vec::Vec;

/// A claim on accumulators that a matrix product still has to prove.
struct Accumulated<E> {
    matmul: usize,
    point: Vec<E>,
    value: E,
}

/// Reads what it is told, and remembers what is left to be checked.
struct Listener<'a, E: ProofField> {
    transcript: VerifierTranscript<'a>,
    claims: Claims<E>,
    accumulated: Vec<Accumulated<E>>,
    tables: Tables<E>,
}

impl<E: ProofField> Oracle<E> for Listener<'_, E> {
    type Error = VerifyError;

    fn column(&mut self, column: usize, point: &[E]) -> Result<E, VerifyError> {
        self.claims.receive(&mut self.transcript, column, point)
    }

    fn accumulator(&mut self, matmul: usize, point: &[E]) -> Result<E, VerifyError> {
        let known = self.accumulated.iter().find(|known| known.matmul == matmul && known.point == point);
        if let Some(known) = known {
            return Ok(known.value);
        }
        let [value] = self.transcript.receive::<E, 1>("accumulator")?;
        self.accumulated.push(Accumulated { matmul, point: point.to_vec(), value });
        Ok(value)
    }

    fn tables(&mut self) -> &mut Tables<E> {
        &mut self.tables
    }
}

/// Checks that `proof` proves `statement`.
///
/// # Errors
/// The first check that fails.
pub fn verify<E: ProofField>(statement: &Statement<'_, E>, proof: &[u8]) -> Result<(), VerifyError> {
    let circuit = &statement.circuit;
    let mut transcript = VerifierTranscript::new(statement.sponge(), proof);
    let root = transcript.receive_hash("witness")?;
    let mut listener = Listener {
        transcript,
        claims: Claims::default(),
        accumulated: Vec::new(),
        tables: Tables::default(),
    };
    lookups(statement, &mut listener)?;
    for check in &circuit.checks {
        vanishes(statement, check, &mut listener)?;
    }
    for claim in core::mem::take(&mut listener.accumulated) {
        product(statement, &circuit.matmuls[claim.matmul], &claim, &mut listener)?;
    }
    let Listener { mut transcript, claims, .. } = listener;
    claims.verify(&mut transcript, &statement.layout, &root)?;
    transcript.finish()
}

/// All fractions add up to zero.
fn lookups<E: ProofField>(
    statement: &Statement<'_, E>,
    listener: &mut Listener<'_, E>,
) -> Result<(), VerifyError> {
    let circuit = &statement.circuit;
    let alpha: E = listener.transcript.sponge.challenge("alpha");
    let gamma: E = listener.transcript.sponge.challenge("gamma");
    let claims = logup::verify::<E>(&mut listener.transcript, &heights(circuit.fractions()))?;
    let mut sums = vec![(E::ZERO, E::ZERO); claims.len()];
    for (leaf, (tree, offset)) in circuit.leaves.iter().zip(circuit.places()) {
        let point = &claims[tree].point;
        let log = leaf.domain.log();
        let (high, point) = point.split_at(point.len() - log);
        let mut at = |linear| evaluate::linear(circuit, linear, &leaf.domain, point, listener);
        let numerator = at(&leaf.numerator)?;
        let (mut denominator, mut power) = (alpha - leaf.tag, gamma);
        for linear in &leaf.tuple {
            denominator -= power * at(linear)?;
            power *= gamma;
        }
        let block = eq_index(high, offset >> log);
        sums[tree].0 += block * numerator;
        sums[tree].1 += block * denominator;
    }
    let same = |(claim, sum): (&logup::LeafClaim<E>, &(E, E))| {
        claim.numerator == sum.0 && claim.denominator == sum.1
    };
    if claims.iter().zip(&sums).all(same) { Ok(()) } else { Err(VerifyError::SumCheck { what: "leaves" }) }
}

/// All constraints of a domain vanish in every cell.
fn vanishes<E: ProofField>(
    statement: &Statement<'_, E>,
    check: &Check<E::Base>,
    listener: &mut Listener<'_, E>,
) -> Result<(), VerifyError> {
    let log = check.domain.log();
    let eta: E = listener.transcript.sponge.challenge("constraints");
    let tau: Vec<E> = listener.transcript.sponge.point("cell", log);
    let reduced = sumcheck::verify(&mut listener.transcript, log, Some(&tau), E::ZERO)?;
    let (mut sum, mut power) = (E::ZERO, E::ONE);
    for constraint in &check.constraints {
        let mut at =
            |linear| evaluate::linear(&statement.circuit, linear, &check.domain, &reduced.point, listener);
        let mut value = at(&constraint.linear)?;
        for (coefficient, left, right) in &constraint.products {
            value += at(left)? * at(right)? * *coefficient;
        }
        sum += power * value;
        power *= eta;
    }
    if sum == reduced.value { Ok(()) } else { Err(VerifyError::SumCheck { what: "constraints" }) }
}

/// Accumulators are products of codes and weights.
fn product<E: ProofField>(
    statement: &Statement<'_, E>,
    matmul: &Matmul,
    claim: &Accumulated<E>,
    listener: &mut Listener<'_, E>,
) -> Result<(), VerifyError> {
    let (examples, rows) = claim.point.split_at(matmul.domain.log_examples);
    let reduced = sumcheck::verify(&mut listener.transcript, matmul.log_cols, None, claim.value)?;
    let point = [examples, &reduced.point].concat();
    let codes = evaluate::source(&statement.circuit, matmul.source, &point, listener)?;
    let weights = weights_at(&statement.net.weights()[matmul.weights], matmul.cols, rows, &reduced.point);
    if codes * weights == reduced.value {
        Ok(())
    } else {
        Err(VerifyError::SumCheck { what: "a matrix product" })
    }
}
