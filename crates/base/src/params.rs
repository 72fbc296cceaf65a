//! Sampling parameters and seeds, in integers: what a client asks for is converted once, at the
//! gateway, and from then on is part of what every receipt binds.

use crate::cbor;
use crate::digest::Digest;
use alloc::string::String;
use alloc::vec::Vec;
use minicbor::{Decode, Encode};

/// 1.0 in the fixed-point format of temperature and top-p (16 fractional bits).
pub const ONE_Q16: u32 = 1 << 16;
/// Largest temperature, 2.0 in OpenAI's API; 16.0 is the largest the arithmetic takes.
pub const TEMPERATURE_MAX_Q16: u32 = 16 << 16;

/// Temperatures below this one (2^-10) are greedy (arithmetic.md, 8).
pub const TEMPERATURE_GREEDY_BELOW_Q16: u32 = 64;

/// How the next token is chosen and when an answer ends.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Parameters {
    /// Temperature with 16 fractional bits; 0 is greedy.
    #[n(0)]
    pub temperature_q16: u32,
    /// Candidates kept; 0 keeps all.
    #[n(1)]
    pub top_k: u32,
    /// Probability mass kept, 16 fractional bits; 65536 keeps all.
    #[n(2)]
    pub top_p_q16: u32,
    /// Tokens of the answer at most.
    #[n(3)]
    pub max_tokens: u32,
    /// Tokens that end the answer.
    #[n(4)]
    pub stop_tokens: Vec<u32>,
    /// Texts that end the answer; applied at the gateway.
    #[n(5)]
    pub stop: Vec<String>,
}

/// A number that the sampler's arithmetic does not take.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
#[error("parameter {field} is {got}, expected at most {limit}")]
pub struct ParametersError {
    /// Which number.
    pub field: &'static str,
    /// Its value.
    pub got: u32,
    /// The largest that is taken.
    pub limit: u32,
}

impl Parameters {
    /// Greedy decoding of at most `max_tokens` tokens.
    #[must_use]
    pub fn greedy(max_tokens: u32) -> Parameters {
        Parameters {
            temperature_q16: 0,
            top_k: 0,
            top_p_q16: ONE_Q16,
            max_tokens,
            stop_tokens: Vec::new(),
            stop: Vec::new(),
        }
    }

    /// Checks what the sampler's arithmetic relies on (arithmetic.md, 8).
    ///
    /// # Errors
    /// The first number that is out of range.
    pub fn validate(&self) -> Result<(), ParametersError> {
        for (field, got, limit) in [
            ("temperature_q16", self.temperature_q16, TEMPERATURE_MAX_Q16),
            ("top_p_q16", self.top_p_q16, ONE_Q16),
        ] {
            if got > limit {
                return Err(ParametersError { field, got, limit });
            }
        }
        Ok(())
    }

    /// The digest that receipts carry.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::tagged("lockstep/params", &[&cbor::encode(self)])
    }
}

/// Sampler seed of a client's seed and choice index: the same answer everywhere.
#[must_use]
pub fn client_seed(seed: u64, choice: u32) -> Digest {
    Digest::tagged("client", &[&seed.to_be_bytes(), &choice.to_be_bytes()])
}

/// Sampler seed where the client gave none: fixed by the task and by a beacon that neither the
/// client nor a node chooses.
#[must_use]
pub fn network_seed(task: &Digest, beacon: &Digest, choice: u32) -> Digest {
    Digest::tagged("net", &[&task.0, &beacon.0, &choice.to_be_bytes()])
}

/// The 64 random bits of one position: the first 8 bytes, big-endian, of
/// `SHA-256(sampler seed ‖ absolute position as u32 big-endian)`.
#[must_use]
pub fn draw(sampler_seed: &Digest, position: u32) -> u64 {
    let hash = Digest::of(&[&sampler_seed.0, &position.to_be_bytes()]);
    u64::from_be_bytes(hash.0[..8].try_into().expect("8 of 32 bytes"))
}
