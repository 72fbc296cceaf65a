//! The prover's side: time and memory linear in the vectors.

use super::next_claim;
use crate::error::ProveError;
use crate::field::ProofField;
use crate::multilinear::{bind_last, doubled};
use crate::transcript::ProverTranscript;
use alloc::vec;
use alloc::vec::Vec;

/// `coefficient * vectors[left] * vectors[right]`.
#[derive(Clone, Copy, Debug)]
pub struct Product<E> {
    /// c.
    pub coefficient: E,
    /// Index of a.
    pub left: usize,
    /// Index of b.
    pub right: usize,
}

/// The polynomial g that is summed.
#[derive(Clone, Debug)]
pub struct Sum<E> {
    /// The multilinear polynomials, as vectors; short ones continue with zeros.
    pub vectors: Vec<Vec<E>>,
    /// Products of two of them.
    pub products: Vec<Product<E>>,
    /// Multiples of one of them.
    pub linear: Vec<(E, usize)>,
}

/// What a sum-check ends with.
#[derive(Clone, Debug)]
pub struct Proved<E> {
    /// Random, first coordinate first.
    pub point: Vec<E>,
    /// Each vector's extension there.
    pub values: Vec<E>,
}

impl<E: ProofField> Sum<E> {
    /// Proves that the sum over `log` variables, with the factor `eq(eq, .)` if there is one, is `claim`.
    ///
    /// # Errors
    /// If a coordinate of `eq` is 0.
    pub fn prove(
        mut self,
        transcript: &mut ProverTranscript,
        log: usize,
        eq: Option<&[E]>,
        mut claim: E,
    ) -> Result<Proved<E>, ProveError> {
        let mut tables = vec![vec![E::ONE]];
        for t in eq.unwrap_or(&[]).iter().take(log.saturating_sub(1)) {
            tables.push(doubled(&tables[tables.len() - 1], *t));
        }
        let mut point = vec![E::ZERO; log];
        for i in (0..log).rev() {
            let sent = self.round(eq.map(|_| &tables[i][..]));
            transcript.send("round", &sent);
            let r = transcript.sponge.challenge("bind");
            let t = eq.map(|eq| eq[i]);
            claim = next_claim(claim, t, sent, r).ok_or(ProveError::Degenerate { what: "a sum-check" })?;
            self.vectors.iter_mut().for_each(|vector| bind_last(vector, r));
            point[i] = r;
        }
        let values = self.vectors.iter().map(|v| v.first().copied().unwrap_or(E::ZERO)).collect();
        Ok(Proved { point, values })
    }

    /// h(0) and the leading coefficient.
    fn round(&mut self, weights: Option<&[E]>) -> [E; 2] {
        for vector in &mut self.vectors {
            if vector.len() % 2 == 1 {
                vector.push(E::ZERO);
            }
        }
        let pairs: Vec<&[[E; 2]]> = self.vectors.iter().map(|v| v.as_chunks::<2>().0).collect();
        let (mut h0, mut lead) = (E::ZERO, E::ZERO);
        for Product { coefficient, left, right } in &self.products {
            let both = pairs[*left].iter().zip(pairs[*right]);
            let (mut low, mut high) = (E::ZERO, E::ZERO);
            match weights {
                Some(weights) => {
                    for (([a0, a1], [b0, b1]), weight) in both.zip(weights) {
                        low += *weight * (*a0 * *b0);
                        high += *weight * ((*a1 - *a0) * (*b1 - *b0));
                    }
                }
                None => {
                    for ([a0, a1], [b0, b1]) in both {
                        low += *a0 * *b0;
                        high += (*a1 - *a0) * (*b1 - *b0);
                    }
                }
            }
            h0 += *coefficient * low;
            lead += *coefficient * high;
        }
        for (coefficient, vector) in &self.linear {
            let low: E = match weights {
                Some(weights) => pairs[*vector].iter().zip(weights).map(|([a0, _], w)| *a0 * *w).sum(),
                None => pairs[*vector].iter().map(|[a0, _]| *a0).sum(),
            };
            h0 += *coefficient * low;
        }
        [h0, lead]
    }
}
