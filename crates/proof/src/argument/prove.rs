//! The prover.

use super::{Argument, Claimed, Settled, Witness, next_batch};
use crate::circuit::evaluate::{self, Oracle, Tables};
use crate::circuit::fill::{self, Cells};
use crate::circuit::read;
use crate::circuit::{Check, Contraction, Leaf, Public, Source, View};
use crate::claims::{self, Claims};
use crate::commitment::Committed;
use crate::error::ProveError;
use crate::field::ProofField;
use crate::lanes::vectors::EqTable;
use crate::lanes::weights::fold_rows;
use crate::logup::{self, Leaves, Numerators};
use crate::parallel;
use crate::sumcheck::batch::{self, One};
use crate::sumcheck::columns::{self, COLUMNS_LOG, Product};
use crate::sumcheck::{Sum, Term};
use crate::transcript::ProverTranscript;
use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;
use lockstep_runtime::pool::Heap;
use p3_field::PrimeCharacteristicRing;

/// Computes what the verifier asks for, and says it.
struct Speaker<'a, 'm, E: ProofField> {
    argument: &'a Argument<'m, E>,
    witness: &'a Witness<E::Base>,
    /// What is outside.
    outside: &'a [&'a Committed<E>],
    transcript: ProverTranscript,
    /// For each commitment, that of the witness first.
    claims: Vec<Claims<E>>,
    claimed: VecDeque<Claimed<E>>,
    tables: Tables<E>,
}

impl<E: ProofField> Oracle<E> for Speaker<'_, '_, E> {
    type Error = ProveError;

    fn column(&mut self, column: usize, point: &[E]) -> Result<E, ProveError> {
        let (home, at) = self.argument.places[column];
        Ok(self.claims[home].send(&mut self.transcript, (at, &self.witness.columns[column]), point))
    }

    fn product(&mut self, contraction: usize, point: &[E]) -> Result<E, ProveError> {
        let same = |known: &&Claimed<E>| known.contraction == contraction && known.point == point;
        if let Some(known) = self.claimed.iter().find(same) {
            return Ok(known.value);
        }
        let value = EqTable::new(point).evaluate::<E>(self.witness.products[contraction].as_slice());
        self.transcript.send("product", &[value]);
        self.claimed.push_back(Claimed { contraction, point: point.to_vec(), value });
        Ok(value)
    }

    /// Nothing is said of weights that the verifier has.
    fn weights(&mut self, weights: usize, point: &[E]) -> Result<E, ProveError> {
        let Some(number) = self.argument.weights else { return Ok(E::ZERO) };
        let cells = self.argument.outside[number].layout.cells_of(weights, self.outside[number].cells());
        Ok(self.claims[1 + number].send_alone(&mut self.transcript, (weights, cells), point))
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

/// What a prover is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The circuit is laid out and its columns are computed: before the argument.
    Witness,
    /// All columns are encoded and hashed.
    Commitment,
    /// The sum of all fractions.
    Lookups,
    /// The constraints of each space.
    Constraints,
    /// What contractions give.
    Products,
    /// All claims on columns become one, which is opened.
    Opening,
}

impl Phase {
    /// All of them, in order.
    pub const ALL: [Phase; 6] = [
        Phase::Witness,
        Phase::Commitment,
        Phase::Lookups,
        Phase::Constraints,
        Phase::Products,
        Phase::Opening,
    ];

    /// In one word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Phase::Witness => "witness",
            Phase::Commitment => "commitment",
            Phase::Lookups => "lookups",
            Phase::Constraints => "constraints",
            Phase::Products => "products",
            Phase::Opening => "opening",
        }
    }
}

/// A proof of the statement of `argument` from `witness`, which is not checked: a false one gives a proof that is refused.
///
/// # Errors
/// If a challenge is degenerate.
pub fn prove<E: ProofField>(
    argument: &Argument<'_, E>,
    witness: &Witness<E::Base>,
) -> Result<Vec<u8>, ProveError> {
    prove_watched(argument, witness, &mut |_| {})
}

/// [`prove`], telling `watch` of every phase that begins.
///
/// # Errors
/// If a challenge is degenerate.
pub fn prove_watched<E: ProofField>(
    argument: &Argument<'_, E>,
    witness: &Witness<E::Base>,
    watch: &mut dyn FnMut(Phase),
) -> Result<Vec<u8>, ProveError> {
    prove_with(argument, witness, &[], watch)
}

/// [`prove_watched`], where `outside` is what the statement's roots commit to, in their order.
///
/// # Errors
/// If a challenge is degenerate.
pub fn prove_with<E: ProofField>(
    argument: &Argument<'_, E>,
    witness: &Witness<E::Base>,
    outside: &[&Committed<E>],
    watch: &mut dyn FnMut(Phase),
) -> Result<Vec<u8>, ProveError> {
    argue(argument, Faces { committed: witness, fractions: witness, spoken: witness }, outside, watch)
}

/// The same from several witnesses, which no verifier accepts: for tests.
///
/// # Errors
/// If a challenge is degenerate.
pub fn prove_faces<E: ProofField>(
    argument: &Argument<'_, E>,
    faces: Faces<'_, E::Base>,
) -> Result<Vec<u8>, ProveError> {
    argue(argument, faces, &[], &mut |_| {})
}

fn argue<E: ProofField>(
    argument: &Argument<'_, E>,
    faces: Faces<'_, E::Base>,
    outside: &[&Committed<E>],
    watch: &mut dyn FnMut(Phase),
) -> Result<Vec<u8>, ProveError> {
    watch(Phase::Commitment);
    let _heap = Heap::keep();
    let witness = faces.spoken;
    let circuit = &argument.circuit;
    let mut transcript = ProverTranscript::new(argument.sponge.clone());
    let mut committed = Committed::<E>::shaped(argument.join(0, &faces.committed.columns), argument.shape);
    transcript.send_hash("witness", &committed.root());
    // The columns are there as well, and memory is short before the opening.
    committed.forget();
    let mut speaker = Speaker {
        argument,
        witness,
        outside,
        transcript,
        claims: vec![Claims::default(); 1 + argument.outside.len()],
        claimed: VecDeque::new(),
        tables: Tables::default(),
    };
    watch(Phase::Lookups);
    lookups(&faces.fractions.cells(circuit), &mut speaker)?;
    watch(Phase::Constraints);
    let cells = witness.cells(circuit);
    for check in &circuit.checks {
        vanishes(&cells, check, &mut speaker)?;
    }
    watch(Phase::Products);
    while !speaker.claimed.is_empty() {
        let batch = next_batch(&circuit.contractions, &mut speaker.claimed);
        contract(argument, &cells, &batch, &mut speaker)?;
    }
    watch(Phase::Opening);
    let Speaker { mut transcript, claims, .. } = speaker;
    committed.recall(argument.join(0, &faces.committed.columns));
    let committed: Vec<&Committed<E>> = core::iter::once(&committed).chain(outside.iter().copied()).collect();
    claims::prove(&mut transcript, &argument.located(&claims), &committed)?;
    Ok(transcript.finish())
}

/// Fractions of the circuit, and what they are.
type Filled<'a, 'c, E> = (&'a Leaf<<E as ProofField>::Base>, Option<Leaves<'c, E>>);

/// All fractions add up to zero.
fn lookups<E: ProofField>(
    cells: &Cells<'_, E::Base>,
    speaker: &mut Speaker<'_, '_, E>,
) -> Result<(), ProveError> {
    let circuit = cells.circuit;
    let alpha: E = speaker.transcript.sponge.challenge("alpha");
    let gamma: E = speaker.transcript.sponge.challenge("gamma");
    let mut leaves: Vec<Filled<'_, '_, E>> = circuit.leaves.iter().map(|leaf| (leaf, None)).collect();
    parallel::for_each(&mut leaves, |(leaf, out)| {
        let numerators = if leaf.numerator.terms.is_empty() && leaf.numerator.constant == E::Base::ONE {
            Numerators::One
        } else {
            Numerators::Each(fill::column(cells, &leaf.numerator, leaf.log))
        };
        let (mut constant, mut columns) = (alpha - leaf.tag, Vec::new());
        let mut factor = -gamma;
        for linear in &leaf.tuple {
            if linear.terms.is_empty() {
                constant += factor * linear.constant;
            } else {
                columns.push((factor, fill::column(cells, linear, leaf.log)));
            }
            factor *= gamma;
        }
        *out = Some(Leaves { log: leaf.log, numerators, constant, columns });
    });
    let leaves = leaves.into_iter().filter_map(|(_, leaves)| leaves).collect();
    let claims = logup::prove_leaves(&mut speaker.transcript, leaves)?;
    for (leaf, (tree, _)) in circuit.leaves.iter().zip(circuit.places()) {
        let point = &claims[tree].point;
        let point = &point[point.len() - leaf.log..];
        for linear in core::iter::once(&leaf.numerator).chain(&leaf.tuple) {
            evaluate::linear(circuit, linear, point, speaker)?;
        }
    }
    Ok(())
}

/// All constraints of a space vanish in every cell.
fn vanishes<E: ProofField>(
    cells: &Cells<'_, E::Base>,
    check: &Check<E::Base>,
    speaker: &mut Speaker<'_, '_, E>,
) -> Result<(), ProveError> {
    let log = check.log;
    let eta: E = speaker.transcript.sponge.challenge("constraints");
    let tau: Vec<E> = speaker.transcript.sponge.point("cell", log);
    let point = if log < COLUMNS_LOG {
        vanishing(cells, check, &mut speaker.transcript, eta, &tau)?
    } else {
        let (mut constant, mut terms, mut products) = (E::ZERO, Vec::<(E, &[View])>::new(), Vec::new());
        for (constraint, power) in check.constraints.iter().zip(eta.powers()) {
            constant += power * constraint.linear.constant;
            for term in &constraint.linear.terms {
                let coefficient = power * term.coefficient;
                match terms.iter_mut().find(|(_, views)| *views == term.views) {
                    Some((sum, _)) => *sum += coefficient,
                    None => terms.push((coefficient, &term.views)),
                }
            }
            for (coefficient, left, right) in &constraint.products {
                let [left, right] = [left, right].map(|linear| read::in_lanes(cells, linear, log));
                products.push(Product { coefficient: power * *coefficient, left, right });
            }
        }
        let linear = read::weighed(cells, constant, &terms, log);
        columns::prove(&mut speaker.transcript, &tau, &products, &linear)?
    };
    for constraint in &check.constraints {
        let factors = constraint.products.iter().flat_map(|(_, left, right)| [left, right]);
        for linear in core::iter::once(&constraint.linear).chain(factors) {
            evaluate::linear(cells.circuit, linear, &point, speaker)?;
        }
    }
    Ok(())
}

/// The sum-check of a small space; the point where it ends.
fn vanishing<E: ProofField>(
    cells: &Cells<'_, E::Base>,
    check: &Check<E::Base>,
    transcript: &mut ProverTranscript,
    eta: E,
    tau: &[E],
) -> Result<Vec<E>, ProveError> {
    let log = check.log;
    let mut sum = Sum { vectors: vec![vec![E::ZERO; 1 << log]], terms: vec![Term::linear(E::ONE, 0)] };
    for (constraint, power) in check.constraints.iter().zip(eta.powers()) {
        fill::add(cells, &constraint.linear, log, power, &mut sum.vectors[0]);
        for (coefficient, left, right) in &constraint.products {
            let at = sum.vectors.len();
            sum.vectors.push(fill::vector(cells, left, log));
            sum.vectors.push(fill::vector(cells, right, log));
            sum.terms.push(Term::product(power * *coefficient, at, at + 1));
        }
    }
    Ok(sum.prove(transcript, log, Some(tau), E::ZERO)?.point)
}

/// What contractions give is the sum of the products of their factors.
fn contract<E: ProofField>(
    argument: &Argument<'_, E>,
    cells: &Cells<'_, E::Base>,
    batch: &[Settled<E>],
    speaker: &mut Speaker<'_, '_, E>,
) -> Result<(), ProveError> {
    let contractions = &argument.circuit.contractions;
    let one = |claim: &Settled<E>| {
        let contraction = &contractions[claim.contraction];
        let factor = |view| folded(argument, cells, contraction, view, &claim.kept, &claim.point);
        let vectors = vec![factor(&contraction.left), factor(&contraction.right)];
        let sum = Sum { vectors, terms: vec![Term::product(E::ONE, 0, 1)] };
        One { sum, log: claim.kept.len(), eq: claim.eq.clone(), claim: claim.value }
    };
    let mut sums: Vec<(&Settled<E>, Option<One<E>>)> = batch.iter().map(|claim| (claim, None)).collect();
    parallel::for_each(&mut sums, |(claim, sum)| *sum = Some(one(claim)));
    let sums = sums.into_iter().filter_map(|(_, sum)| sum).collect();
    let reduced = batch::prove(&mut speaker.transcript, sums)?;
    for claim in batch {
        let contraction = &contractions[claim.contraction];
        let point = claim.joint(contraction, &reduced);
        evaluate::view(&argument.circuit, &contraction.left, &point, speaker)?;
        evaluate::view(&argument.circuit, &contraction.right, &point, speaker)?;
    }
    Ok(())
}

/// A factor as a vector over the coordinates `kept`, the others being bound to the claim's.
fn folded<E: ProofField>(
    argument: &Argument<'_, E>,
    cells: &Cells<'_, E::Base>,
    contraction: &Contraction,
    view: &View,
    kept: &[usize],
    point: &[E],
) -> Vec<E> {
    if let Source::Weights(weights) = view.source {
        let placed = &argument.circuit.weights[weights];
        let bound: Vec<E> = view.used().filter(|at| *at < contraction.outer).map(|at| point[at]).collect();
        return fold_rows(&argument.matrices[placed.matrix], placed, &bound);
    }
    if let Source::Public(public) = view.source
        && let Public::Gather(gather) = &argument.circuit.publics[public]
    {
        let bound: Vec<E> = view.used().filter(|at| *at < contraction.outer).map(|at| point[at]).collect();
        return gather.fold(&bound);
    }
    fill::folded(cells, view, kept, point)
}
