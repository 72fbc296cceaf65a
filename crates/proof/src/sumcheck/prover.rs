//! The prover's side: time and memory linear in the vectors.

use super::next_claim;
use super::wide::{self, Part, WIDE_LOG};
use crate::error::ProveError;
use crate::field::ProofField;
use crate::lanes::LANE_BITS;
use crate::multilinear::{bind_last, doubled};
use crate::transcript::ProverTranscript;
use alloc::vec;
use alloc::vec::Vec;

/// `coefficient * (sum of products of two vectors + sum of vectors)`, each vector by its index.
#[derive(Clone, Debug)]
pub struct Term<E> {
    /// c.
    pub coefficient: E,
    /// The products.
    pub products: Vec<(usize, usize)>,
    /// What is added as it is.
    pub linear: Vec<usize>,
}

impl<E> Term<E> {
    /// A multiple of one product.
    #[must_use]
    pub fn product(coefficient: E, left: usize, right: usize) -> Term<E> {
        Term { coefficient, products: vec![(left, right)], linear: Vec::new() }
    }

    /// A multiple of one vector.
    #[must_use]
    pub fn linear(coefficient: E, vector: usize) -> Term<E> {
        Term { coefficient, products: Vec::new(), linear: vec![vector] }
    }
}

/// The polynomial g that is summed.
#[derive(Clone, Debug)]
pub struct Sum<E> {
    /// The multilinear polynomials, as vectors; short ones continue with zeros.
    pub vectors: Vec<Vec<E>>,
    /// What is added up.
    pub terms: Vec<Term<E>>,
}

/// What a sum-check ends with.
#[derive(Clone, Debug)]
pub struct Proved<E> {
    /// Random, first coordinate first.
    pub point: Vec<E>,
    /// Each vector's extension there.
    pub values: Vec<E>,
}

/// The last rounds, element by element: fills `point` and gives each vector's extension there.
pub(crate) fn finish<E: ProofField>(
    mut sum: Sum<E>,
    transcript: &mut ProverTranscript,
    point: &mut [E],
    eq: Option<&[E]>,
    mut claim: E,
    constant: E,
) -> Result<Vec<E>, ProveError> {
    let log = point.len();
    let mut tables = vec![vec![E::ONE]];
    for t in eq.unwrap_or(&[]).iter().take(log.saturating_sub(1)) {
        tables.push(doubled(&tables[tables.len() - 1], *t));
    }
    for i in (0..log).rev() {
        // Variables behind those of eq share the weight of what is in front of them.
        let known = i.min(tables.len() - 1);
        let mut sent = sum.round(eq.map(|_| (&tables[known][..], i - known)));
        sent[0] += constant;
        transcript.send("round", &sent);
        let r = transcript.sponge.challenge("bind");
        let t = eq.and_then(|eq| eq.get(i).copied());
        claim = next_claim(claim, t, sent, r).ok_or(ProveError::Degenerate { what: "a sum-check" })?;
        sum.vectors.iter_mut().for_each(|vector| bind_last(vector, r));
        point[i] = r;
    }
    Ok(sum.vectors.iter().map(|v| v.first().copied().unwrap_or(E::ZERO)).collect())
}

impl<E: ProofField> Sum<E> {
    /// Proves that the sum over `log` variables, with the factor `eq(eq, .)` of the first ones if there is one, is `claim`.
    ///
    /// # Errors
    /// If a coordinate of `eq` is 0.
    pub fn prove(
        self,
        transcript: &mut ProverTranscript,
        log: usize,
        eq: Option<&[E]>,
        claim: E,
    ) -> Result<Proved<E>, ProveError> {
        if log < WIDE_LOG {
            let mut point = vec![E::ZERO; log];
            let values = finish(self, transcript, &mut point, eq, claim, E::ZERO)?;
            return Ok(Proved { point, values });
        }
        let mut parts = vec![Part::default(); wide::parts(1 << (log - LANE_BITS))];
        for vector in self.vectors {
            for (part, half) in parts.iter_mut().zip(wide::spread(&vector, log)) {
                part.vectors.push(half);
            }
        }
        wide::prove(transcript, parts, self.terms, log, eq, claim, E::ZERO)
    }

    /// h(0) and the leading coefficient; `weights` of x is entry `x >> shift`.
    fn round(&mut self, weights: Option<(&[E], usize)>) -> [E; 2] {
        for vector in &mut self.vectors {
            if vector.len() % 2 == 1 {
                vector.push(E::ZERO);
            }
        }
        let pairs: Vec<&[[E; 2]]> = self.vectors.iter().map(|v| v.as_chunks::<2>().0).collect();
        let (mut h0, mut lead) = (E::ZERO, E::ZERO);
        for term in &self.terms {
            let products =
                term.products.iter().map(|(left, right)| pairs[*left].len().min(pairs[*right].len()));
            let linear = term.linear.iter().map(|vector| pairs[*vector].len());
            let (mut low, mut high) = (E::ZERO, E::ZERO);
            for x in 0..products.chain(linear).max().unwrap_or(0) {
                let (mut at_zero, mut leading) = (E::ZERO, E::ZERO);
                for (left, right) in &term.products {
                    if let (Some([a0, a1]), Some([b0, b1])) = (pairs[*left].get(x), pairs[*right].get(x)) {
                        at_zero += *a0 * *b0;
                        leading += (*a1 - *a0) * (*b1 - *b0);
                    }
                }
                for [a0, _] in term.linear.iter().filter_map(|vector| pairs[*vector].get(x)) {
                    at_zero += *a0;
                }
                match weights {
                    Some((weights, shift)) => {
                        low += weights[x >> shift] * at_zero;
                        high += weights[x >> shift] * leading;
                    }
                    None => {
                        low += at_zero;
                        high += leading;
                    }
                }
            }
            h0 += term.coefficient * low;
            lead += term.coefficient * high;
        }
        [h0, lead]
    }
}
