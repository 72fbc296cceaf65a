//! The verifier. It needs neither the runtime nor the prover.

use super::{Argument, Claimed, Settled, next_batch};
use crate::circuit::Check;
use crate::circuit::evaluate::{self, Oracle, Tables};
use crate::claims::{self, Claims};
use crate::error::VerifyError;
use crate::field::ProofField;
use crate::logup::{self, heights};
use crate::matmul::weights_at;
use crate::multilinear::{eq, eq_index};
use crate::sumcheck;
use crate::transcript::{Hash, Spent, VerifierTranscript};
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

/// Reads what it is told, and remembers what is left to be checked.
struct Listener<'a, 'm, E: ProofField> {
    argument: &'a Argument<'m, E>,
    transcript: VerifierTranscript<'a>,
    /// For each commitment, that of the witness first.
    claims: Vec<Claims<E>>,
    /// All claims on products, and how many of them are settled.
    claimed: VecDeque<Claimed<E>>,
    tables: Tables<E>,
}

impl<E: ProofField> Oracle<E> for Listener<'_, '_, E> {
    type Error = VerifyError;

    fn column(&mut self, column: usize, point: &[E]) -> Result<E, VerifyError> {
        let (home, at) = self.argument.places[column];
        self.claims[home].receive(&mut self.transcript, at, point)
    }

    fn product(&mut self, contraction: usize, point: &[E]) -> Result<E, VerifyError> {
        let same = |known: &&Claimed<E>| known.contraction == contraction && known.point == point;
        if let Some(known) = self.claimed.iter().find(same) {
            return Ok(known.value);
        }
        let [value] = self.transcript.receive::<E, 1>("product")?;
        self.claimed.push_back(Claimed { contraction, point: point.to_vec(), value });
        Ok(value)
    }

    fn weights(&mut self, weights: usize, point: &[E]) -> Result<E, VerifyError> {
        if let Some(number) = self.argument.weights {
            return self.claims[1 + number].receive(&mut self.transcript, weights, point);
        }
        let placed = &self.argument.circuit.weights[weights];
        Ok(weights_at(&self.argument.matrices[placed.matrix], placed, point))
    }

    fn tables(&mut self) -> &mut Tables<E> {
        &mut self.tables
    }
}

/// What a verifier is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The sum of all fractions.
    Lookups,
    /// The constraints of each space.
    Constraints,
    /// What contractions give.
    Products,
    /// Claims on columns, and openings.
    Opening,
    /// Nothing any more.
    End,
}

/// Checks that `proof` proves the statement of `argument`.
///
/// # Errors
/// The first check that fails.
pub fn verify<E: ProofField>(argument: &Argument<'_, E>, proof: &[u8]) -> Result<(), VerifyError> {
    verify_watched(argument, proof, &mut |_, _, _| {})
}

/// [`verify`], telling `watch` of every step that begins, how many bytes of the proof are left then, and what the transcript took so far.
///
/// # Errors
/// The first check that fails.
pub fn verify_watched<E: ProofField>(
    argument: &Argument<'_, E>,
    proof: &[u8],
    watch: &mut dyn FnMut(Step, usize, Spent),
) -> Result<(), VerifyError> {
    let mut watch = |step: Step, transcript: &VerifierTranscript<'_>| {
        watch(step, transcript.left(), transcript.sponge.spent());
    };
    let mut transcript = VerifierTranscript::new(argument.sponge.clone(), proof);
    let root = transcript.receive_hash("witness")?;
    let mut listener = Listener {
        argument,
        transcript,
        claims: vec![Claims::default(); 1 + argument.outside.len()],
        claimed: VecDeque::new(),
        tables: Tables::default(),
    };
    watch(Step::Lookups, &listener.transcript);
    lookups(&mut listener)?;
    watch(Step::Constraints, &listener.transcript);
    for check in &argument.circuit.checks {
        vanishes(check, &mut listener)?;
    }
    watch(Step::Products, &listener.transcript);
    // A contraction may read what another one gives, so settling a claim may add others.
    while !listener.claimed.is_empty() {
        let batch = next_batch(&argument.circuit.contractions, &mut listener.claimed);
        contract(&batch, &mut listener)?;
    }
    let Listener { mut transcript, claims, .. } = listener;
    let roots = core::iter::once(&root).chain(argument.outside.iter().map(|outside| &outside.root));
    let roots: Vec<&Hash> = roots.collect();
    watch(Step::Opening, &transcript);
    claims::verify(&mut transcript, &argument.located(&claims), &roots)?;
    watch(Step::End, &transcript);
    transcript.finish()
}

/// All fractions add up to zero.
fn lookups<E: ProofField>(listener: &mut Listener<'_, '_, E>) -> Result<(), VerifyError> {
    let circuit = &listener.argument.circuit;
    let alpha: E = listener.transcript.sponge.challenge("alpha");
    let gamma: E = listener.transcript.sponge.challenge("gamma");
    let claims = logup::verify::<E>(&mut listener.transcript, &heights(circuit.fractions()))?;
    let mut sums = vec![(E::ZERO, E::ZERO); claims.len()];
    for (leaf, (tree, offset)) in circuit.leaves.iter().zip(circuit.places()) {
        let point = &claims[tree].point;
        let (high, point) = point.split_at(point.len() - leaf.log);
        let mut at = |linear| evaluate::linear(circuit, linear, point, listener);
        let numerator = at(&leaf.numerator)?;
        let (mut denominator, mut power) = (alpha - leaf.tag, gamma);
        for linear in &leaf.tuple {
            denominator -= power * at(linear)?;
            power *= gamma;
        }
        let block = eq_index(high, offset >> leaf.log);
        sums[tree].0 += block * numerator;
        sums[tree].1 += block * denominator;
    }
    let same = |(claim, sum): (&logup::LeafClaim<E>, &(E, E))| {
        claim.numerator == sum.0 && claim.denominator == sum.1
    };
    if claims.iter().zip(&sums).all(same) { Ok(()) } else { Err(VerifyError::SumCheck { what: "leaves" }) }
}

/// All constraints of a space vanish in every cell.
fn vanishes<E: ProofField>(
    check: &Check<E::Base>,
    listener: &mut Listener<'_, '_, E>,
) -> Result<(), VerifyError> {
    let circuit = &listener.argument.circuit;
    let eta: E = listener.transcript.sponge.challenge("constraints");
    let tau: Vec<E> = listener.transcript.sponge.point("cell", check.log);
    let reduced = sumcheck::verify(&mut listener.transcript, check.log, Some(&tau), E::ZERO)?;
    let (mut sum, mut power) = (E::ZERO, E::ONE);
    for constraint in &check.constraints {
        let mut at = |linear| evaluate::linear(circuit, linear, &reduced.point, listener);
        let mut value = at(&constraint.linear)?;
        for (coefficient, left, right) in &constraint.products {
            value += at(left)? * at(right)? * *coefficient;
        }
        sum += power * value;
        power *= eta;
    }
    if sum == reduced.value { Ok(()) } else { Err(VerifyError::SumCheck { what: "constraints" }) }
}

/// What contractions give is the sum of the products of their factors.
fn contract<E: ProofField>(
    batch: &[Settled<E>],
    listener: &mut Listener<'_, '_, E>,
) -> Result<(), VerifyError> {
    let circuit = &listener.argument.circuit;
    let sums: Vec<(usize, E)> = batch.iter().map(|claim| (claim.kept.len(), claim.value)).collect();
    let reduced = sumcheck::verify_batch(&mut listener.transcript, &sums)?;
    let mut sum = E::ZERO;
    for (claim, coefficient) in batch.iter().zip(&reduced.coefficients) {
        let contraction = &circuit.contractions[claim.contraction];
        let point = claim.joint(contraction, &reduced.point);
        let left = evaluate::view(circuit, &contraction.left, &point, listener)?;
        let right = evaluate::view(circuit, &contraction.right, &point, listener)?;
        let here = &reduced.point[reduced.point.len() - claim.kept.len()..];
        sum += *coefficient * eq(&claim.eq, here) * left * right;
    }
    if sum == reduced.value { Ok(()) } else { Err(VerifyError::SumCheck { what: "matrix products" }) }
}
