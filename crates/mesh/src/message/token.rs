//! Sampled tokens, and what clients need for log-probabilities.

use lockstep_base::Digest;
use minicbor::{Decode, Encode};

/// What a client needs to state log-probabilities, in integers.
///
/// At temperature 1: `p(token) = EXP2S[x(logit)] / weight_sum` (arithmetic.md, 8).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Logprobs {
    /// Logit of the chosen token.
    #[n(0)]
    pub chosen: i32,
    /// The largest logit.
    #[n(1)]
    pub max: i32,
    /// Sum of the weights of the whole vocabulary at temperature 1, in units of the sampler's table.
    #[n(2)]
    pub weight_sum: u64,
    /// Fractional bits of the logits.
    #[n(3)]
    pub frac: i8,
    /// The likeliest tokens with their logits, likeliest first.
    #[n(4)]
    pub top: Vec<Alternative>,
}

/// A token and its logit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Alternative {
    /// The token.
    #[n(0)]
    pub token: u32,
    /// Its logit.
    #[n(1)]
    pub logit: i32,
}

/// A sampled token. Its `Debug` form leaves the token out: contents never get into logs.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Token {
    /// The task.
    #[n(0)]
    pub task: Digest,
    /// The branch.
    #[n(1)]
    pub branch: u32,
    /// The position that the token takes: one past the one that it was sampled from.
    #[n(2)]
    pub position: u32,
    /// The token.
    #[n(3)]
    pub token: u32,
    /// Present if the task asked for it.
    #[n(4)]
    pub logprobs: Option<Logprobs>,
}

impl core::fmt::Debug for Token {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Token {{ task: {}, branch: {}, position: {}, .. }}", self.task, self.branch, self.position)
    }
}
