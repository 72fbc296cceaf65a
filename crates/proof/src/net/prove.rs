//! The prover, step by step as in docs/spec/proofs.md.

use super::statement::Statement;
use super::witness::Witness;
use crate::circuit::evaluate::{self, Oracle, Tables};
use crate::circuit::fill::{self, Cells};
use crate::circuit::{Check, Matmul};
use crate::claims::Claims;
use crate::commitment::Committed;
use crate::error::ProveError;
use crate::field::ProofField;
use crate::logup;
use crate::matmul::fold_weights;
use crate::multilinear::{evaluate as extension, fold_rows};
use crate::sumcheck::{Sum, Term};
use crate::transcript::ProverTranscript;
use alloc::vec;
use alloc::vec::Vec;

/// A claim on accumulators that a matrix product still has to prove.
struct Accumulated<E> {
    matmul: usize,
    point: Vec<E>,
    value: E,
}

/// Computes what the verifier asks for, and says it.
struct Speaker<'a, E: ProofField> {
    witness: &'a Witness<E::Base>,
    transcript: ProverTranscript,
    claims: Claims<E>,
    accumulated: Vec<Accumulated<E>>,
    tables: Tables<E>,
}

impl<E: ProofField> Oracle<E> for Speaker<'_, E> {
    type Error = ProveError;

    fn column(&mut self, column: usize, point: &[E]) -> Result<E, ProveError> {
        Ok(self.claims.send(&mut self.transcript, &self.witness.columns, column, point))
    }

    fn accumulator(&mut self, matmul: usize, point: &[E]) -> Result<E, ProveError> {
        let known = self.accumulated.iter().find(|known| known.matmul == matmul && known.point == point);
        if let Some(known) = known {
            return Ok(known.value);
        }
        let value = extension(&self.witness.accumulators[matmul], point);
        self.transcript.send("accumulator", &[value]);
        self.accumulated.push(Accumulated { matmul, point: point.to_vec(), value });
        Ok(value)
    }

    fn tables(&mut self) -> &mut Tables<E> {
        &mut self.tables
    }
}

/// What a prover shows at each step: one witness, unless it has several faces.
#[derive(Clone, Copy, Debug)]
pub struct Faces<'a, B> {
    /// Committed to.
    pub committed: &'a Witness<B>,
    /// Whose fractions add up.
    pub fractions: &'a Witness<B>,
    /// Whose constraints vanish, and whose columns are claimed.
    pub spoken: &'a Witness<B>,
}

/// A proof of `statement` from `witness`, which is not checked: a false one gives a proof that is refused.
///
/// # Errors
/// If a challenge is degenerate.
pub fn prove<E: ProofField>(
    statement: &Statement<'_, E>,
    witness: &Witness<E::Base>,
) -> Result<Vec<u8>, ProveError> {
    prove_faces(statement, Faces { committed: witness, fractions: witness, spoken: witness })
}

/// The same from several witnesses, which no verifier accepts: for tests.
///
/// # Errors
/// If a challenge is degenerate.
pub fn prove_faces<E: ProofField>(
    statement: &Statement<'_, E>,
    faces: Faces<'_, E::Base>,
) -> Result<Vec<u8>, ProveError> {
    let witness = faces.spoken;
    let circuit = &statement.circuit;
    let mut transcript = ProverTranscript::new(statement.sponge());
    let committed = Committed::<E>::new(statement.layout.join(&faces.committed.columns));
    transcript.send_hash("witness", &committed.root());
    let mut speaker = Speaker {
        witness,
        transcript,
        claims: Claims::default(),
        accumulated: Vec::new(),
        tables: Tables::default(),
    };
    lookups(statement, &faces.fractions.cells(circuit), &mut speaker)?;
    let cells = witness.cells(circuit);
    for check in &circuit.checks {
        vanishes(statement, &cells, check, &mut speaker)?;
    }
    for claim in core::mem::take(&mut speaker.accumulated) {
        product(statement, &cells, &circuit.matmuls[claim.matmul], &claim, &mut speaker)?;
    }
    let Speaker { mut transcript, claims, .. } = speaker;
    claims.prove(&mut transcript, &statement.layout, &committed)?;
    Ok(transcript.finish())
}

/// All fractions add up to zero.
fn lookups<E: ProofField>(
    statement: &Statement<'_, E>,
    cells: &Cells<'_, E::Base>,
    speaker: &mut Speaker<'_, E>,
) -> Result<(), ProveError> {
    let circuit = &statement.circuit;
    let alpha: E = speaker.transcript.sponge.challenge("alpha");
    let gamma: E = speaker.transcript.sponge.challenge("gamma");
    let (mut numerators, mut denominators) = (Vec::new(), Vec::new());
    for leaf in &circuit.leaves {
        numerators.extend(fill::vector::<E>(cells, &leaf.numerator, &leaf.domain));
        let mut values = vec![alpha - leaf.tag; 1 << leaf.domain.log()];
        let mut power = -gamma;
        for linear in &leaf.tuple {
            fill::add(cells, linear, &leaf.domain, power, &mut values);
            power *= gamma;
        }
        denominators.extend(values);
    }
    let claims = logup::prove(&mut speaker.transcript, &numerators, &denominators)?;
    for (leaf, (tree, _)) in circuit.leaves.iter().zip(circuit.places()) {
        let point = &claims[tree].point;
        let point = &point[point.len() - leaf.domain.log()..];
        for linear in core::iter::once(&leaf.numerator).chain(&leaf.tuple) {
            evaluate::linear(circuit, linear, &leaf.domain, point, speaker)?;
        }
    }
    Ok(())
}

/// All constraints of a domain vanish in every cell.
fn vanishes<E: ProofField>(
    statement: &Statement<'_, E>,
    cells: &Cells<'_, E::Base>,
    check: &Check<E::Base>,
    speaker: &mut Speaker<'_, E>,
) -> Result<(), ProveError> {
    let log = check.domain.log();
    let eta: E = speaker.transcript.sponge.challenge("constraints");
    let tau: Vec<E> = speaker.transcript.sponge.point("cell", log);
    let mut sum = Sum { vectors: vec![vec![E::ZERO; 1 << log]], terms: vec![Term::linear(E::ONE, 0)] };
    let mut power = E::ONE;
    for constraint in &check.constraints {
        fill::add(cells, &constraint.linear, &check.domain, power, &mut sum.vectors[0]);
        for (coefficient, left, right) in &constraint.products {
            let at = sum.vectors.len();
            sum.vectors.push(fill::vector(cells, left, &check.domain));
            sum.vectors.push(fill::vector(cells, right, &check.domain));
            sum.terms.push(Term::product(power * *coefficient, at, at + 1));
        }
        power *= eta;
    }
    let proved = sum.prove(&mut speaker.transcript, log, Some(&tau), E::ZERO)?;
    for constraint in &check.constraints {
        let factors = constraint.products.iter().flat_map(|(_, left, right)| [left, right]);
        for linear in core::iter::once(&constraint.linear).chain(factors) {
            evaluate::linear(&statement.circuit, linear, &check.domain, &proved.point, speaker)?;
        }
    }
    Ok(())
}

/// Accumulators are products of codes and weights.
fn product<E: ProofField>(
    statement: &Statement<'_, E>,
    cells: &Cells<'_, E::Base>,
    matmul: &Matmul,
    claim: &Accumulated<E>,
    speaker: &mut Speaker<'_, E>,
) -> Result<(), ProveError> {
    let (examples, rows) = claim.point.split_at(matmul.domain.log_examples);
    let codes = fold_rows(cells.source(matmul.source), 1 << matmul.log_cols, examples);
    let weights = fold_weights(&statement.net.weights()[matmul.weights], matmul.cols, rows);
    let sum = Sum { vectors: vec![codes, weights], terms: vec![Term::product(E::ONE, 0, 1)] };
    let proved = sum.prove(&mut speaker.transcript, matmul.log_cols, None, claim.value)?;
    let point = [examples, &proved.point].concat();
    evaluate::source(&statement.circuit, matmul.source, &point, speaker)?;
    Ok(())
}
