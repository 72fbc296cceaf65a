//! The sum-check protocol, for sums of products of two multilinear polynomials, with or without a factor `eq`.
//!
//! ```text
//! S = sum_{x in {0,1}^k} w(x) g(x),   g = sum_j c_j a_j b_j + sum_j c_j l_j,   w = eq(t, .) or 1
//! ```
//!
//! Variables are bound from the last coordinate (the least significant bit: neighbours in memory) to the first. With
//! `eq` factored out (Gruen), one round binding coordinate i with challenge r sends two values of the
//! quadratic `h(X) = sum_x eq(t_0..t_{i-1}, x) g(x, X, bound)`: h(0) and its leading coefficient. What the verifier needs besides follows
//! from the claim S of the round:
//!
//! ```text
//! with eq      S = (1 - t_i) h(0) + t_i h(1)        h(1) = (S - (1 - t_i) h(0)) / t_i
//! without      S = h(0) + h(1)
//! next claim   h(r) = h(0) + (h(1) - h(0) - lead) r + lead r^2
//! ```
//!
//! *Batches.* Sums of several sizes and factors are one sum-check, with powers of a challenge c: sum j speaks of the last k_j coordinates of k, so it is counted `2^(k - k_j)` times,
//!
//! ```text
//! sum_j c^j 2^(k - k_j) S_j = sum_{x in {0,1}^k} sum_j c^j w_j(x_j) g_j(x_j),   x_j the last k_j coordinates of x
//! ```
//!
//! and a round sends the constant, the quadratic and the cubic coefficient of its sum. It ends in `sum_j c^j w_j(r_j) g_j(r_j)`. Soundness error: 3 |F|^-1 a round, and |F|^-1
//! for each sum but one.
//!
//! The last claim is `g(r)`, without the factor: the same whether there was an eq or not. Soundness error: 3 |F|^-1 a round with eq, 2
//! without, since `eq(t_i, X) h(X)` has degree 3.

#[cfg(feature = "prover")]
pub(crate) mod batch;
#[cfg(feature = "prover")]
pub(crate) mod columns;
#[cfg(feature = "prover")]
pub(crate) mod prover;
#[cfg(feature = "prover")]
pub(crate) mod wide;

use crate::error::VerifyError;
use crate::field::ProofField;
use crate::transcript::VerifierTranscript;
use alloc::vec;
use alloc::vec::Vec;
#[cfg(feature = "prover")]
pub use prover::{Proved, Sum, Term};

/// What a sum-check leaves to be checked: `g(point) = value`.
#[derive(Clone, Debug)]
pub struct Reduced<E> {
    /// Random, first coordinate first.
    pub point: Vec<E>,
    /// Claimed of g there.
    pub value: E,
}

/// h(1), from the claim of a round and h(0); `t` is the coordinate of eq, if there is one. `None` if t is 0.
pub(crate) fn value_at_one<E: ProofField>(claim: E, t: Option<E>, h0: E) -> Option<E> {
    Some(match t {
        Some(t) => (claim - (E::ONE - t) * h0) * t.try_inverse()?,
        None => claim - h0,
    })
}

/// The next claim from the two values of a round. `None` if t is 0.
pub(crate) fn next_claim<E: ProofField>(claim: E, t: Option<E>, [h0, lead]: [E; 2], r: E) -> Option<E> {
    let h1 = value_at_one(claim, t, h0)?;
    Some(h0 + r * (h1 - h0 - lead + lead * r))
}

/// `2^exponent`.
pub(crate) fn doublings<E: ProofField>(exponent: usize) -> E {
    (0..exponent).fold(E::ONE, |power, _| power.double())
}

/// Checks that the sum over `log` variables is `claim`, with the factor `eq(eq, .)` if there is one. It may speak of the first
/// variables only: the others are then summed without a factor.
///
/// # Errors
/// If the proof ends before.
pub fn verify<E: ProofField>(
    transcript: &mut VerifierTranscript<'_>,
    log: usize,
    eq: Option<&[E]>,
    claim: E,
) -> Result<Reduced<E>, VerifyError> {
    debug_assert!(eq.is_none_or(|eq| eq.len() <= log));
    let (mut value, mut point) = (claim, vec![E::ZERO; log]);
    for i in (0..log).rev() {
        let sent = transcript.receive::<E, 2>("round")?;
        let r = transcript.sponge.challenge("bind");
        let t = eq.and_then(|eq| eq.get(i).copied());
        value = next_claim(value, t, sent, r).ok_or(VerifyError::Degenerate { what: "a sum-check" })?;
        point[i] = r;
    }
    Ok(Reduced { point, value })
}

/// What a batch leaves to be checked: `sum_j coefficients[j] w_j(r_j) g_j(r_j) = value`.
#[derive(Clone, Debug)]
pub struct Batch<E> {
    /// Random: that of the sum with the most variables; others have its last coordinates.
    pub point: Vec<E>,
    /// Powers of a challenge.
    pub coefficients: Vec<E>,
    /// Claimed.
    pub value: E,
}

/// Checks sums, each over so many variables and claimed to be so much, in one sum-check.
///
/// # Errors
/// If the proof ends before.
pub fn verify_batch<E: ProofField>(
    transcript: &mut VerifierTranscript<'_>,
    sums: &[(usize, E)],
) -> Result<Batch<E>, VerifyError> {
    let batch: E = transcript.sponge.challenge("batch");
    let log = sums.iter().map(|(log, _)| *log).max().unwrap_or(0);
    let coefficients: Vec<E> = batch.powers().take(sums.len()).collect();
    let weighed =
        |((variables, claim), power): (&(usize, E), &E)| *power * doublings::<E>(log - variables) * *claim;
    let mut value = sums.iter().zip(&coefficients).map(weighed).sum::<E>();
    let mut point = vec![E::ZERO; log];
    for i in (0..log).rev() {
        let [constant, quadratic, cubic] = transcript.receive::<E, 3>("round")?;
        let r: E = transcript.sponge.challenge("bind");
        let linear = value - constant.double() - quadratic - cubic;
        value = constant + r * (linear + r * (quadratic + r * cubic));
        point[i] = r;
    }
    Ok(Batch { point, coefficients, value })
}
