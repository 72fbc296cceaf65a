//! What a file claims of its answer: [`Claim`] as something that a file owns.

use crate::decoder::statement::{Claim, Sampling};
use alloc::vec::Vec;
use minicbor::{Decode, Encode};

/// What is claimed of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub enum Claimed {
    /// Its tokens are the largest logits, the first of equal ones.
    #[n(0)]
    Greedy,
    /// Its tokens are those that were drawn.
    #[n(1)]
    Sampled(#[n(0)] Sampling),
    /// The vector of an encoder is this one.
    #[n(2)]
    Pooled(#[n(0)] Vec<i32>),
}

impl Claimed {
    /// The claim.
    #[must_use]
    pub fn claim(&self) -> Claim<'_> {
        match self {
            Claimed::Greedy => Claim::Greedy,
            Claimed::Sampled(sampling) => Claim::Sampled(*sampling),
            Claimed::Pooled(vector) => Claim::Pooled(vector),
        }
    }
}

impl From<Claim<'_>> for Claimed {
    fn from(claim: Claim<'_>) -> Claimed {
        match claim {
            Claim::Greedy => Claimed::Greedy,
            Claim::Sampled(sampling) => Claimed::Sampled(sampling),
            Claim::Pooled(vector) => Claimed::Pooled(vector.to_vec()),
        }
    }
}
