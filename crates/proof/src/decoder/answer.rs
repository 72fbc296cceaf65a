//! What is claimed of a model: all of it is public, and absorbed before anything else.

use crate::error::PlanError;
use crate::gadget::attention::TOKENS_MAX;
use crate::transcript::Sponge;
use alloc::vec::Vec;
use lockstep_base::Digest;
use lockstep_base::adapter::AdapterWeights;
use lockstep_base::params::{ONE_Q16, Parameters, TEMPERATURE_GREEDY_BELOW_Q16, TEMPERATURE_MAX_Q16};
use lockstep_base::weights::ModelWeights;
use minicbor::{Decode, Encode};

/// Entries of the table of weights by which tokens are drawn.
const EXP2_ENTRIES: usize = 4096;
/// Values of the stream are at least the negative of this, and below it.
const STREAM_MAX: i32 = 1 << 28;

/// What is claimed.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// The model, which the verifier holds.
    pub weights: &'a ModelWeights,
    /// Its root: who calls has checked that it is that of `weights`.
    pub root: Digest,
    /// Prompt and answer.
    pub tokens: &'a [u32],
    /// How many of them, at the end, are the answer; none of an encoder's.
    pub generated: usize,
    /// What is claimed of the answer.
    pub claim: Claim<'a>,
    /// The adapter that it was computed with: who calls has checked that its root is its own.
    pub adapter: Option<&'a AdapterWeights>,
}

/// What is claimed of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim<'a> {
    /// Its tokens are the largest logits, the first of equal ones.
    Greedy,
    /// Its tokens are those that were drawn.
    Sampled(Sampling),
    /// The vector of an encoder is this one.
    Pooled(&'a [i32]),
}

/// How tokens are drawn (docs/spec/arithmetic.md, section 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Sampling {
    /// Temperature in 16 fractional bits.
    #[n(0)]
    pub temperature_q16: u32,
    /// Candidates kept; 0 keeps all.
    #[n(1)]
    pub top_k: u32,
    /// Mass kept, in 16 fractional bits.
    #[n(2)]
    pub top_p_q16: u32,
    /// The sampler's seed.
    #[n(3)]
    pub seed: Digest,
}

impl<'a> Claim<'a> {
    /// That tokens were chosen by these parameters and this seed.
    #[must_use]
    pub fn of(parameters: &Parameters, seed: Digest) -> Claim<'a> {
        let Parameters { temperature_q16, top_k, top_p_q16, .. } = *parameters;
        match temperature_q16 < TEMPERATURE_GREEDY_BELOW_Q16 {
            true => Claim::Greedy,
            false => Claim::Sampled(Sampling { temperature_q16, top_k, top_p_q16, seed }),
        }
    }
}

impl<'a> Answer<'a> {
    /// That the model continues greedily with the last `generated` tokens.
    #[must_use]
    pub fn greedy(
        weights: &'a ModelWeights,
        root: Digest,
        tokens: &'a [u32],
        generated: usize,
    ) -> Answer<'a> {
        Answer { weights, root, tokens, generated, claim: Claim::Greedy, adapter: None }
    }

    /// Some answer of a model, about the smallest input: for what does not depend on tokens.
    #[cfg(feature = "prover")]
    pub(super) fn some(weights: &'a ModelWeights, vector: &'a [i32]) -> Answer<'a> {
        let answer = Answer::greedy(weights, Digest([0; 32]), &[0, 0], 1);
        match weights.config.pooling {
            None => answer,
            Some(_) => Answer { generated: 0, claim: Claim::Pooled(vector), ..answer },
        }
    }

    /// Positions that the model computes: those of all tokens but the last; an encoder's are all.
    #[must_use]
    pub fn positions(&self) -> usize {
        match self.claim {
            Claim::Pooled(_) => self.tokens.len(),
            Claim::Greedy | Claim::Sampled(_) => self.tokens.len().saturating_sub(1),
        }
    }

    /// Whether there is such a statement.
    pub(super) fn check(&self) -> Result<(), PlanError> {
        let config = &self.weights.config;
        let (got, pooled) = (self.tokens.len(), config.pooling.is_some());
        let most = TOKENS_MAX.min(config.context as usize);
        let (least, limit) = if pooled { (1, most) } else { (2, most + 1) };
        let answered = if pooled { 0..1 } else { 1..got };
        if !(least..=limit).contains(&got) || !answered.contains(&self.generated) {
            return Err(PlanError::Tokens { got, generated: self.generated, limit });
        }
        if let Some(token) = self.tokens.iter().find(|token| **token >= config.vocab) {
            return Err(PlanError::Token { got: *token, vocab: config.vocab });
        }
        let refused = |op, expected| Err(PlanError::Unsupported { place: "the answer".into(), op, expected });
        match self.claim {
            Claim::Pooled(vector) if pooled => {
                let fits = |y: &i32| (-STREAM_MAX..STREAM_MAX).contains(y);
                if vector.len() != config.d_model as usize || !vector.iter().all(fits) {
                    return refused("the vector of an encoder", "one of its width, of values of the stream");
                }
            }
            Claim::Greedy if !pooled => {}
            Claim::Sampled(Sampling { temperature_q16, top_p_q16, .. }) if !pooled => {
                let table = &self.weights.tables.exp2_sample;
                let falls = table.windows(2).all(|pair| pair[1] <= pair[0]);
                if table.len() != EXP2_ENTRIES || table[0] != 1 << 24 || !falls {
                    return refused("sampling", "weights that fall from 2^24");
                }
                if temperature_q16 > TEMPERATURE_MAX_Q16 || top_p_q16 > ONE_Q16 {
                    return refused("sampling", "a temperature of at most 16, and a mass of at most 1");
                }
            }
            _ => {
                return refused(
                    "another claim than of this kind of model",
                    "a vector of an encoder, tokens of others",
                );
            }
        }
        match self.adapter {
            None => Ok(()),
            Some(adapter) => {
                let first = self.weights.first_layer;
                let fits = adapter.check_fits(self.root, config, first, &self.weights.layers);
                fits.or_else(|_| refused("an adapter", "one of this model, whose matrices fit"))
            }
        }
    }

    /// Absorbs everything of it.
    pub(super) fn absorb(&self, sponge: &mut Sponge) {
        sponge.absorb("model", &self.root.0);
        let tokens: Vec<u8> = self.tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        sponge.absorb("tokens", &tokens);
        sponge.absorb("generated", &(self.generated as u64).to_le_bytes());
        match self.claim {
            Claim::Greedy => sponge.absorb("greedy", &[]),
            Claim::Sampled(Sampling { temperature_q16, top_k, top_p_q16, seed }) => {
                let numbers = [temperature_q16, top_k, top_p_q16].map(u32::to_le_bytes).concat();
                sponge.absorb("sampled", &numbers);
                sponge.absorb("seed", &seed.0);
            }
            Claim::Pooled(vector) => {
                let vector: Vec<u8> = vector.iter().flat_map(|y| y.to_le_bytes()).collect();
                sponge.absorb("pooled", &vector);
            }
        }
        match self.adapter {
            None => sponge.absorb("no adapter", &[]),
            Some(adapter) => sponge.absorb("adapter", &adapter.root.0),
        }
    }
}
