//! The prover's side: time and memory linear in the vectors.

use super::next_claim;
use super::wide::{self, Part, WIDE_LOG, Wide};
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

/// A sum whose variables are being bound, the last one first.
#[derive(Debug)]
pub(crate) enum Running<E> {
    /// In lanes.
    Wide(Wide<E>),
    /// Element by element.
    Narrow(Narrow<E>),
}

/// A sum of few variables.
#[derive(Debug)]
pub(crate) struct Narrow<E> {
    sum: Sum<E>,
    /// Variables that are not bound.
    left: usize,
    /// Tables of the factor eq, one for each number of coordinates; none without.
    tables: Vec<Vec<E>>,
}

impl<E: ProofField> Narrow<E> {
    pub(crate) fn new(sum: Sum<E>, left: usize, eq: Option<&[E]>) -> Narrow<E> {
        let mut tables = Vec::new();
        if let Some(eq) = eq {
            tables.push(vec![E::ONE]);
            for t in eq.iter().take(left.saturating_sub(1)) {
                tables.push(doubled(&tables[tables.len() - 1], *t));
            }
        }
        Narrow { sum, left, tables }
    }
}

impl<E: ProofField> Running<E> {
    /// A sum over `log` variables, with the factor `eq(eq, .)` of the first ones if there is one.
    pub(crate) fn new(sum: Sum<E>, log: usize, eq: Option<&[E]>) -> Running<E> {
        if log < WIDE_LOG {
            return Running::Narrow(Narrow::new(sum, log, eq));
        }
        let mut parts = vec![Part::default(); wide::parts(1 << (log - LANE_BITS))];
        for vector in sum.vectors {
            for (part, half) in parts.iter_mut().zip(wide::spread(&vector, log)) {
                part.vectors.push(half);
            }
        }
        Running::Wide(Wide::new(parts, sum.terms, log, eq))
    }

    /// h(0) and the leading coefficient.
    pub(crate) fn round(&mut self) -> [E; 2] {
        match self {
            Running::Wide(wide) => wide.round(),
            Running::Narrow(Narrow { sum, left, tables }) => {
                // Variables behind those of eq share the weight of what is in front of them.
                let known = (*left - 1).min(tables.len().saturating_sub(1));
                let weights = tables.get(known).map(|table| (&table[..], *left - 1 - known));
                sum.round(weights)
            }
        }
    }

    /// Binds the last variable.
    pub(crate) fn bind(&mut self, r: E) {
        match self {
            Running::Narrow(Narrow { sum, left, .. }) => {
                sum.vectors.iter_mut().for_each(|vector| bind_last(vector, r));
                *left -= 1;
            }
            Running::Wide(wide) => {
                if let Some(narrow) = wide.bind(r) {
                    *self = Running::Narrow(narrow);
                }
            }
        }
    }

    /// Proves that the sum over `log` variables, with `constant` added to what is summed, whose weights eq add up to 1 then, is `claim`.
    ///
    /// # Errors
    /// If a coordinate of `eq` is 0.
    pub(crate) fn prove(
        mut self,
        transcript: &mut ProverTranscript,
        (log, eq): (usize, Option<&[E]>),
        mut claim: E,
        constant: E,
    ) -> Result<Proved<E>, ProveError> {
        let mut point = vec![E::ZERO; log];
        for i in (0..log).rev() {
            let mut sent = self.round();
            sent[0] += constant;
            transcript.send("round", &sent);
            let r = transcript.sponge.challenge("bind");
            let t = eq.and_then(|eq| eq.get(i).copied());
            claim = next_claim(claim, t, sent, r).ok_or(ProveError::Degenerate { what: "a sum-check" })?;
            self.bind(r);
            point[i] = r;
        }
        let values = match &self {
            Running::Narrow(Narrow { sum, .. }) => {
                sum.vectors.iter().map(|v| v.first().copied().unwrap_or(E::ZERO)).collect()
            }
            Running::Wide(_) => Vec::new(),
        };
        Ok(Proved { point, values })
    }
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
        Running::new(self, log, eq).prove(transcript, (log, eq), claim, E::ZERO)
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
