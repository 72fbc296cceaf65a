//! LogUp-GKR: that fractions add up to zero, by trees of sums (Papini and Haböck 2023).
//!
//! ```text
//! leaf i is p_i / q_i;   p/q + p'/q' = (p q' + p' q) / (q q');   a node is the sum of its two children, neighbours below it
//! layer with 2^l nodes: p~(r) = sum_x eq(r, x) (p0 q1 + p1 q0)(x),  q~(r) = sum_x eq(r, x) (q0 q1)(x),   p0(x) = p(x, 0), ...
//! ```
//!
//! Lookups are leaves `1 / (a - fingerprint)`, entries of tables `-multiplicity / (a - fingerprint)`: the sum is zero as a function
//! of a if and only if every lookup is an entry and multiplicities count them, as long as there are fewer than p lookups.
//!
//! Leaves are not filled to a power of two: they are cut into trees of *falling* sizes, one a bit of their number. The layers of all
//! trees run together from the roots, batched by powers of one challenge, so that trees of any height share points; a tree ends at its
//! leaves with one claim each on its numerators and denominators.
//!
//! Soundness error: 3 |F|^-1 a round, and the sum itself (leaves + trees) |F|^-1.

#[cfg(feature = "prover")]
mod leaves;
#[cfg(feature = "prover")]
mod prover;
#[cfg(feature = "prover")]
mod rounds;
#[cfg(feature = "prover")]
mod tree;

use crate::error::VerifyError;
use crate::field::ProofField;
use crate::sumcheck;
use crate::transcript::VerifierTranscript;
use alloc::vec::Vec;
#[cfg(feature = "prover")]
pub use {
    leaves::{Leaves, Numerators},
    prover::{prove, prove_leaves},
};

/// What is left to be checked of one tree: the extensions of its leaves at a point.
#[derive(Clone, Debug)]
pub struct LeafClaim<E> {
    /// As many coordinates as the tree has layers.
    pub point: Vec<E>,
    /// Of the numerators.
    pub numerator: E,
    /// Of the denominators.
    pub denominator: E,
}

/// Heights of the trees over `count` leaves: the bits of `count`, highest first.
#[must_use]
pub fn heights(count: usize) -> Vec<usize> {
    (0..usize::BITS as usize).rev().filter(|bit| count >> bit & 1 == 1).collect()
}

/// Sum of fractions: its numerator and its denominator.
fn sum<E: ProofField>(fractions: &[(E, E)]) -> (E, E) {
    fractions.iter().fold((E::ZERO, E::ONE), |(p, q), (a, b)| (p * *b + *a * q, q * *b))
}

/// Checks that the leaves of all trees add up to zero.
///
/// # Errors
/// If they do not, or the proof ends before.
pub fn verify<E: ProofField>(
    transcript: &mut VerifierTranscript<'_>,
    heights: &[usize],
) -> Result<Vec<LeafClaim<E>>, VerifyError> {
    let roots = transcript.receive_many::<E>("roots", 2 * heights.len())?;
    let mut claims: Vec<(E, E)> = roots.as_chunks::<2>().0.iter().map(|[p, q]| (*p, *q)).collect();
    let (numerator, denominator) = sum(&claims);
    if denominator.is_zero() {
        return Err(VerifyError::ZeroDenominator);
    }
    if !numerator.is_zero() {
        return Err(VerifyError::Lookup);
    }
    let mut point = Vec::new();
    let mut points = alloc::vec![Vec::new(); heights.len()];
    for layer in 0..heights.iter().copied().max().unwrap_or(0) {
        let active: Vec<usize> = (0..heights.len()).filter(|tree| heights[*tree] > layer).collect();
        let batch: E = transcript.sponge.challenge("layer");
        let (mut claim, mut power) = (E::ZERO, E::ONE);
        for tree in &active {
            let (p, q) = claims[*tree];
            claim += power * (p + batch * q);
            power *= batch.square();
        }
        let reduced = sumcheck::verify(transcript, layer, Some(&point), claim)?;
        let children = transcript.receive_many::<E>("children", 4 * active.len())?;
        let children = children.as_chunks::<4>().0;
        let (mut expected, mut power) = (E::ZERO, E::ONE);
        for [p0, p1, q0, q1] in children {
            expected += power * (*p0 * *q1 + *p1 * *q0 + batch * *q0 * *q1);
            power *= batch.square();
        }
        if expected != reduced.value {
            return Err(VerifyError::SumCheck { what: "lookups" });
        }
        let child: E = transcript.sponge.challenge("child");
        point = reduced.point;
        point.push(child);
        for (tree, [p0, p1, q0, q1]) in active.iter().zip(children) {
            claims[*tree] = (*p0 + child * (*p1 - *p0), *q0 + child * (*q1 - *q0));
            if heights[*tree] == layer + 1 {
                points[*tree] = point.clone();
            }
        }
    }
    let claims = claims.into_iter().zip(points);
    Ok(claims.map(|((numerator, denominator), point)| LeafClaim { point, numerator, denominator }).collect())
}
