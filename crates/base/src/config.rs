//! The shape of a model in integers: everything that the forward pass must know and that is not
//! a tensor. It is one manifest entry, so the model root binds every number here.

use crate::limits;
use alloc::string::String;
use alloc::vec::Vec;
use minicbor::{Decode, Encode};

/// The opset of this release. It changes until the proofs freeze it as `lockstep-1`.
pub const OPSET: &str = "lockstep-0";
/// Column padding of every linear layer but the down projection.
pub const COLS_MULTIPLE: u32 = 32;
/// Column padding of the down projection.
pub const DOWN_COLS_MULTIPLE: u32 = 64;
/// Largest Hadamard block in front of the down projection.
pub const HADAMARD_BLOCK_MAX: u32 = 128;

const _: () = assert!(
    limits::COLS_MAX.is_multiple_of(COLS_MULTIPLE) && limits::COLS_MAX.is_multiple_of(DOWN_COLS_MULTIPLE)
);

/// How positions enter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Positions {
    /// Rotary, adjacent pairs (2i, 2i + 1), all of the head.
    #[n(0)]
    Rope,
    /// A learned table added to the embedding.
    #[n(1)]
    Learned,
}

/// The feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum FeedForward {
    /// `down(act(gate(x)) * up(x))`.
    #[n(0)]
    Gated,
    /// `down(act(up(x)))`.
    #[n(1)]
    Plain,
}

/// The integer configuration of a decoder-only transformer.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct ModelConfig {
    /// The opset that the bundle was made for.
    #[n(0)]
    pub opset: String,
    /// A name for people.
    #[n(1)]
    pub name: String,
    /// Decoder layers.
    #[n(2)]
    pub n_layers: u32,
    /// Width of the residual stream, unpadded.
    #[n(3)]
    pub d_model: u32,
    /// Query heads.
    #[n(4)]
    pub n_heads: u32,
    /// Key and value heads; divides `n_heads`.
    #[n(5)]
    pub n_kv_heads: u32,
    /// Width of one head; even.
    #[n(6)]
    pub head_dim: u32,
    /// Width of the feed-forward block, unpadded.
    #[n(7)]
    pub d_ffn: u32,
    /// Tokens of the vocabulary.
    #[n(8)]
    pub vocab: u32,
    /// Positions of the longest sequence.
    #[n(9)]
    pub context: u32,
    /// Fractional bits of the residual stream (R in the specification).
    #[n(10)]
    pub residual_frac: u8,
    /// `round(d_model * eps * 2^(2R))`, the norm's epsilon in the units of a sum of squares.
    #[n(11)]
    pub norm_eps: u64,
    /// How positions enter.
    #[n(12)]
    pub positions: Positions,
    /// The feed-forward block.
    #[n(13)]
    pub feed_forward: FeedForward,
    /// Begin-of-sequence token, put in front of every prompt if there is one.
    #[n(14)]
    pub bos: Option<u32>,
    /// Tokens that end an answer.
    #[n(15)]
    pub eos: Vec<u32>,
}

/// Which number of a configuration is out of range.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// Made for other arithmetic.
    #[error("opset {got:?} is not supported, expected {OPSET:?}")]
    Opset {
        /// The opset of the bundle.
        got: String,
    },
    /// A number is out of its range.
    #[error("{field} is {got}, expected {expected}")]
    Range {
        /// Which number.
        field: &'static str,
        /// Its value.
        got: u64,
        /// The allowed range, in words.
        expected: &'static str,
    },
}

/// `value` rounded up to a multiple of `multiple`.
#[must_use]
pub const fn padded(value: u32, multiple: u32) -> u32 {
    value.div_ceil(multiple) * multiple
}

impl ModelConfig {
    /// Columns of every matrix that reads the residual stream.
    #[must_use]
    pub fn d_padded(&self) -> u32 {
        padded(self.d_model, COLS_MULTIPLE)
    }

    /// Width of all query heads.
    #[must_use]
    pub fn q_dim(&self) -> u32 {
        self.n_heads * self.head_dim
    }

    /// Width of all key (or value) heads.
    #[must_use]
    pub fn kv_dim(&self) -> u32 {
        self.n_kv_heads * self.head_dim
    }

    /// Columns of the output projection.
    #[must_use]
    pub fn o_cols(&self) -> u32 {
        padded(self.q_dim(), COLS_MULTIPLE)
    }

    /// Columns of the down projection.
    #[must_use]
    pub fn down_cols(&self) -> u32 {
        padded(self.d_ffn, DOWN_COLS_MULTIPLE)
    }

    /// Block of the online Hadamard transform: the largest power of two up to 128 that divides
    /// the padded width of the down projection.
    #[must_use]
    pub fn hadamard_block(&self) -> u32 {
        (1 << self.down_cols().trailing_zeros()).min(HADAMARD_BLOCK_MAX)
    }

    /// Largest code of q and k: 12 bits with sign, 11 where a head is wider than 128, so that a
    /// score stays below 2^29.
    #[must_use]
    pub fn qk_code_max(&self) -> i32 {
        if self.head_dim > 128 { 1023 } else { 2047 }
    }

    /// Checks every number against the limits of the specification.
    ///
    /// # Errors
    /// The first number that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.opset != OPSET {
            return Err(ConfigError::Opset { got: self.opset.clone() });
        }
        let check = |field, got: u32, ok: bool, expected| {
            if ok { Ok(()) } else { Err(ConfigError::Range { field, got: got.into(), expected }) }
        };
        check("n_layers", self.n_layers, (1..=limits::LAYERS_MAX).contains(&self.n_layers), "1 to 400")?;
        check("d_model", self.d_model, (1..=16_384).contains(&self.d_model), "1 to 16384")?;
        check(
            "head_dim",
            self.head_dim,
            self.head_dim.is_multiple_of(2) && (2..=limits::HEAD_DIM_MAX).contains(&self.head_dim),
            "an even number from 2 to 256",
        )?;
        check("n_heads", self.n_heads, (1..=1024).contains(&self.n_heads), "1 to 1024")?;
        check(
            "n_kv_heads",
            self.n_kv_heads,
            self.n_kv_heads >= 1 && self.n_heads.is_multiple_of(self.n_kv_heads),
            "a divisor of n_heads",
        )?;
        check("q_dim", self.q_dim(), self.q_dim() <= limits::COLS_MAX, "at most 65536")?;
        // Compared unpadded (the limit is a multiple of the padding): padding could wrap.
        check("d_ffn", self.d_ffn, (1..=limits::COLS_MAX).contains(&self.d_ffn), "1 to 65536")?;
        check("vocab", self.vocab, (1..=limits::ROWS_MAX).contains(&self.vocab), "1 to 1048576")?;
        check("context", self.context, (1..=limits::CONTEXT_MAX).contains(&self.context), "1 to 32768")?;
        check("residual_frac", self.residual_frac.into(), (4..=24).contains(&self.residual_frac), "4 to 24")?;
        for &token in self.bos.iter().chain(&self.eos) {
            check("special token", token, token < self.vocab, "below vocab")?;
        }
        Ok(())
    }
}
