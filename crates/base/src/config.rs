//! The shape of a model in integers: everything that the forward pass must know and that is not
//! a tensor. It is one manifest entry, so the model root binds every number here.

use crate::limits;
use alloc::string::String;
use alloc::vec::Vec;
use minicbor::{Decode, Encode};

/// The opset of this release. It changes until the proofs freeze it as `lockstep-1`.
pub const OPSET: &str = "lockstep-1";
/// Column padding of every linear layer but the down projection.
pub const COLS_MULTIPLE: u32 = 32;
/// Column padding of the down projection.
pub const DOWN_COLS_MULTIPLE: u32 = 64;
/// Largest Hadamard block in front of the down projection.
pub const HADAMARD_BLOCK_MAX: u32 = 128;

/// Experts of a layer.
pub const EXPERTS_MAX: u32 = 512;
/// Steps of a soft-capping table are at most this power of two.
pub const SOFT_CAP_SHIFT_MAX: u32 = 14;
/// Entries of a soft-capping table: 4,096 steps, so 4,097 ends.
pub const SOFT_CAP_ENTRIES: usize = 4097;
/// Width of a norm that subtracts the mean at run time (arithmetic.md, 3).
pub const CENTRED_WIDTH_MAX: u32 = 8192;
/// Residual streams that are rotated online are wider than this: narrower ones are not whole blocks.
pub const ROTATED_WIDTH_MIN: u32 = 16;

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
    /// Nothing is added to the stream: scores fall linearly with distance, head by head (ALiBi, Press et al. 2022).
    #[n(2)]
    Alibi,
}

/// Where norms stand, and with them in which basis the residual stream is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Block {
    /// A norm in front of each sublayer, its gain folded into the matrices behind it. The residual
    /// stream is in a basis that the importer rotated.
    #[n(0)]
    PreNorm,
    /// The same, and a norm with gains behind each sublayer, before its output is added (Gemma 2).
    /// The gains tie the stream to its basis: norms in front of sublayers rotate online.
    #[n(1)]
    Sandwich,
    /// A norm with gains and offsets after each addition and after the embedding, none in front of
    /// sublayers (BERT). What enters a sublayer is rotated online.
    #[n(2)]
    PostNorm,
}

/// The activation of the feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Activation {
    /// By table, with exact tails.
    #[n(0)]
    Table,
    /// `max(x, 0)`, exact.
    #[n(1)]
    Relu,
}

/// What differs from layer to layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct LayerPattern {
    /// Positions that a token sees, itself included; 0 sees all.
    #[n(0)]
    pub window: u32,
    /// Which of the two RoPE tables: 0 or 1.
    #[n(1)]
    pub rope: u8,
    /// The feed-forward block is a mixture of experts.
    #[n(2)]
    pub experts: bool,
}

/// A mixture of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Experts {
    /// Experts of a layer.
    #[n(0)]
    pub count: u32,
    /// Experts that a token uses.
    #[n(1)]
    pub per_token: u32,
    /// Weights sum to one over the chosen experts (Mixtral), rather than over all.
    #[n(2)]
    pub normalise: bool,
}

/// How the rows of an encoder become one vector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum Pooling {
    /// The mean over all tokens.
    #[n(0)]
    Mean,
    /// The first token's row.
    #[n(1)]
    First,
}

/// The feed-forward block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(index_only)]
pub enum FeedForward {
    /// `down(act(gate(x)) * up(x))`. (Also of the experts, where there are any.)
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
    /// Where norms stand.
    #[n(16)]
    pub block: Block,
    /// The activation of the feed-forward block.
    #[n(17)]
    pub activation: Activation,
    /// Rotated channels of a head, from its first on; even. 0 where positions do not rotate.
    #[n(18)]
    pub rope_dim: u32,
    /// RoPE tables: 1, or 2 where layers differ; 0 where positions do not rotate.
    #[n(19)]
    pub rope_tables: u8,
    /// RMS norm with gains of each head's query and key, before RoPE.
    #[n(20)]
    pub qk_norm: bool,
    /// Scores are soft-capped by table; log2 of the table's step in Q8 octaves.
    #[n(21)]
    pub score_cap: Option<u8>,
    /// Logits are soft-capped by table; log2 of the table's step in units of the logits.
    #[n(22)]
    pub logit_cap: Option<u8>,
    /// Mixture of experts, in the layers whose pattern says so.
    #[n(23)]
    pub experts: Option<Experts>,
    /// An encoder: every token sees all others, and the rows become one vector. Absent in decoders.
    #[n(24)]
    pub pooling: Option<Pooling>,
    /// Layer i is of kind `pattern[i % pattern.len()]`. The last field, since it is never absent: every
    /// configuration has one encoding.
    #[n(25)]
    pub pattern: Vec<LayerPattern>,
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
    /// The smallest decoder there is, to be changed field by field: pre-norm, gated, RoPE over all of
    /// the head, every layer alike.
    #[must_use]
    pub fn decoder() -> ModelConfig {
        ModelConfig {
            opset: OPSET.into(),
            name: String::new(),
            n_layers: 1,
            d_model: 2,
            n_heads: 1,
            n_kv_heads: 1,
            head_dim: 2,
            d_ffn: 2,
            vocab: 3,
            context: 4,
            residual_frac: 16,
            norm_eps: 1,
            positions: Positions::Rope,
            feed_forward: FeedForward::Gated,
            bos: None,
            eos: Vec::new(),
            block: Block::PreNorm,
            activation: Activation::Table,
            rope_dim: 2,
            rope_tables: 1,
            qk_norm: false,
            pattern: [LayerPattern::default()].into(),
            score_cap: None,
            logit_cap: None,
            experts: None,
            pooling: None,
        }
    }

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

    /// Block of the Hadamard transform of the residual stream where it is rotated online: the
    /// largest power of two up to 128 that divides the padded width.
    #[must_use]
    pub fn stream_block(&self) -> u32 {
        (1 << self.d_padded().trailing_zeros()).min(HADAMARD_BLOCK_MAX)
    }

    /// Whether what enters a sublayer is rotated online.
    #[must_use]
    pub fn rotates_online(&self) -> bool {
        self.block != Block::PreNorm
    }

    /// What layer `index` is like.
    ///
    /// # Panics
    /// If the configuration was not validated and has no pattern.
    #[must_use]
    pub fn layer_pattern(&self, index: usize) -> LayerPattern {
        self.pattern[index % self.pattern.len()]
    }

    /// The first position that `position` sees in layer `index`.
    #[must_use]
    pub fn first_visible(&self, index: usize, position: usize) -> usize {
        match self.layer_pattern(index).window as usize {
            0 => 0,
            window => (position + 1).saturating_sub(window),
        }
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
        check("n_layers", self.n_layers, (1..=limits::LAYERS_MAX).contains(&self.n_layers), "1 to 300")?;
        check("d_model", self.d_model, (2..=16_384).contains(&self.d_model), "2 to 16384")?;
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
        check("q_dim", self.q_dim(), self.q_dim() <= limits::COLS_MAX, "at most 65024")?;
        // Compared unpadded (the limit is a multiple of the padding): padding could wrap.
        check("d_ffn", self.d_ffn, (1..=limits::COLS_MAX).contains(&self.d_ffn), "1 to 65024")?;
        check("vocab", self.vocab, (1..=limits::ROWS_MAX).contains(&self.vocab), "1 to 1048576")?;
        check("context", self.context, (1..=limits::CONTEXT_MAX).contains(&self.context), "1 to 131072")?;
        check("residual_frac", self.residual_frac.into(), (4..=24).contains(&self.residual_frac), "4 to 24")?;
        self.validate_kind()?;
        for &token in self.bos.iter().chain(&self.eos) {
            check("special token", token, token < self.vocab, "below vocab")?;
        }
        Ok(())
    }

    /// The parts of a family's description that must fit each other.
    fn validate_kind(&self) -> Result<(), ConfigError> {
        let check = |field, got: u32, ok: bool, expected| {
            if ok { Ok(()) } else { Err(ConfigError::Range { field, got: got.into(), expected }) }
        };
        let rotates = self.positions == Positions::Rope;
        let dim = self.rope_dim;
        let dim_fits =
            if rotates { dim >= 2 && dim.is_multiple_of(2) && dim <= self.head_dim } else { dim == 0 };
        check("rope_dim", dim, dim_fits, "an even number from 2 to head_dim with RoPE, else 0")?;
        let tables = u32::from(self.rope_tables);
        let tables_fit = if rotates { (1..=2).contains(&tables) } else { tables == 0 };
        check("rope_tables", tables, tables_fit, "1 or 2 with RoPE, else 0")?;
        let kinds = self.pattern.len() as u32;
        check("pattern", kinds, (1..=self.n_layers).contains(&kinds), "1 to n_layers")?;
        for kind in &self.pattern {
            let rope = u32::from(kind.rope);
            check("pattern.rope", rope, rope < tables.max(1), "below rope_tables")?;
            check("pattern.window", kind.window, kind.window <= self.context, "at most context")?;
            let windowed_encoder = kind.window > 0 && self.pooling.is_some();
            check("pattern.window", kind.window, !windowed_encoder, "0 in an encoder")?;
            check(
                "pattern.experts",
                kind.experts.into(),
                !kind.experts || self.experts.is_some(),
                "0 without experts",
            )?;
        }
        for (field, shift) in [("score_cap", self.score_cap), ("logit_cap", self.logit_cap)] {
            let shift = u32::from(shift.unwrap_or(0));
            check(field, shift, shift <= SOFT_CAP_SHIFT_MAX, "0 to 14")?;
        }
        if let Some(experts) = self.experts {
            check("experts.count", experts.count, (1..=EXPERTS_MAX).contains(&experts.count), "1 to 512")?;
            let chosen = experts.per_token;
            check("experts.per_token", chosen, (1..=experts.count).contains(&chosen), "1 to experts.count")?;
            for (field, rows) in [("d_model", self.d_model), ("d_ffn", self.d_ffn)] {
                check(field, rows, rows.is_multiple_of(4), "a multiple of 4 with experts")?;
                let all = u64::from(rows) * u64::from(experts.count);
                check(field, rows, all <= limits::ROWS_MAX.into(), "at most 1048576 rows over all experts")?;
            }
        }
        let centred = self.block == Block::PostNorm;
        let wide = !self.rotates_online() || self.d_model > ROTATED_WIDTH_MIN;
        check("d_model", self.d_model, wide, "more than 16 where the stream is rotated")?;
        check(
            "d_model",
            self.d_model,
            !centred || self.d_model <= CENTRED_WIDTH_MAX,
            "at most 8192 with post-norm",
        )?;
        check("pooling", 0, self.pooling.is_none() || centred, "a post-norm model")?;
        check("block", 2, !centred || self.pooling.is_some(), "an encoder with post-norm")
    }
}
