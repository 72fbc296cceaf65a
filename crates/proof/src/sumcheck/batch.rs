//! The prover's side of sums of many sizes in one sum-check ([`super::verify_batch`]).

use super::prover::{Running, Sum};
use super::value_at_one;
use crate::error::ProveError;
use crate::field::ProofField;
use crate::parallel;
use crate::transcript::ProverTranscript;
use alloc::vec;
use alloc::vec::Vec;

/// A sum over `log` variables, with the factor `eq(eq, .)` of the first ones, that is claimed.
#[derive(Debug)]
pub(crate) struct One<E> {
    pub(crate) sum: Sum<E>,
    pub(crate) log: usize,
    pub(crate) eq: Vec<E>,
    pub(crate) claim: E,
}

/// A sum whose variables are being bound.
struct Each<E> {
    running: Running<E>,
    log: usize,
    eq: Vec<E>,
    /// Of what is left of it, without the factor eq of what is bound.
    claim: E,
    /// That factor, times the coefficient, times 2 for every variable of the others that is not bound and that this one lacks.
    weight: E,
}

impl<E: ProofField> Each<E> {
    /// The factor eq(t, X), as constant and coefficient, and the three coefficients of h.
    fn quadratic(&mut self, at: usize) -> Result<([E; 2], [E; 3]), ProveError> {
        let [h0, lead] = self.running.round();
        let t = self.eq.get(at).copied();
        let h1 = value_at_one(self.claim, t, h0)
            .ok_or(ProveError::Degenerate { what: "a batch of sum-checks" })?;
        let factor = t.map_or([E::ONE, E::ZERO], |t| [E::ONE - t, t.double() - E::ONE]);
        Ok((factor, [h0, h1 - h0 - lead, lead]))
    }
}

/// Proves all sums, and gives the point of the largest: that of another one is the last coordinates of it.
///
/// # Errors
/// If a coordinate of an `eq` is 0.
pub(crate) fn prove<E: ProofField>(
    transcript: &mut ProverTranscript,
    sums: Vec<One<E>>,
) -> Result<Vec<E>, ProveError> {
    let batch: E = transcript.sponge.challenge("batch");
    let log = sums.iter().map(|one| one.log).max().unwrap_or(0);
    let mut all = Vec::with_capacity(sums.len());
    let mut power = E::ONE;
    for One { sum, log: variables, eq, claim } in sums {
        let weight = power * super::doublings::<E>(log - variables);
        power *= batch;
        let running = Running::new(sum, variables, Some(&eq));
        all.push(Each { running, log: variables, eq, claim, weight });
    }
    let mut point = vec![E::ZERO; log];
    for i in (0..log).rev() {
        let mut sent = [E::ZERO; 3];
        let mut active = Vec::with_capacity(all.len());
        for one in &mut all {
            match (i + one.log).checked_sub(log) {
                Some(at) => active.push((one, at, None)),
                None => {
                    one.weight = one.weight.halve();
                    sent[0] += one.weight * one.claim;
                }
            }
        }
        parallel::for_each(&mut active, |(one, at, said)| *said = Some(one.quadratic(*at)));
        let mut bound = Vec::with_capacity(active.len());
        for (one, _, said) in active {
            let Some((factor, h)) = said.transpose()? else { continue };
            sent[0] += one.weight * factor[0] * h[0];
            sent[1] += one.weight * (factor[0] * h[2] + factor[1] * h[1]);
            sent[2] += one.weight * factor[1] * h[2];
            bound.push((one, factor, h));
        }
        transcript.send("round", &sent);
        let r: E = transcript.sponge.challenge("bind");
        parallel::for_each(&mut bound, |(one, factor, h)| {
            one.claim = h[0] + r * (h[1] + r * h[2]);
            one.weight *= factor[0] + factor[1] * r;
            one.running.bind(r);
        });
        point[i] = r;
    }
    Ok(point)
}
