//! What kind of decoder the weights belong to, with the numbers already checked against each other.

use super::SourceError;
use super::limits::{MAX_CONTEXT, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH};

/// How a vector is normalised before the linears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// `gamma * x / sqrt(mean(x^2) + eps)`, no beta.
    Rms,
    /// `gamma * (x - mean) / sqrt(var + eps) + beta`.
    Layer,
}

/// The feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// `down(silu(gate(x)) * up(x))`.
    SiluGated,
    /// `down(gelu_tanh(up(x)))`, no gate.
    GeluTanh,
}

/// How positions enter.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Positions {
    /// Rotation of adjacent pairs `(2i, 2i+1)` of every query and key head.
    Rope(Rope),
    /// A learned row per position, added to the embedding.
    Learned,
}

/// Rotary embedding: pair `i` of a head turns by `position * inv_freq[i]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Change of the frequencies for long contexts.
    pub scaling: RopeScaling,
}

/// How the frequencies were changed after training.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All divided by a factor.
    Linear {
        /// The factor.
        factor: f64,
    },
    /// Llama 3.1: low frequencies divided by a factor, high ones kept, a smooth passage between.
    Llama3 {
        /// The factor.
        factor: f64,
        /// Wavelengths above `original_context / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths below `original_context / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context of the first training, in tokens.
        original_context: f64,
    },
}

/// The numbers of a decoder. Made by [`FloatConfig::checked`], so they fit together.
#[derive(Debug, Clone, PartialEq)]
pub struct FloatConfig {
    /// Decoder layers.
    pub n_layers: usize,
    /// Width of the residual stream.
    pub d_model: usize,
    /// Query heads.
    pub n_heads: usize,
    /// Key and value heads; divides `n_heads`.
    pub n_kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Width inside the feed-forward block.
    pub ffn_hidden: usize,
    /// Rows of the embedding.
    pub vocab: usize,
    /// Longest sequence, in tokens.
    pub context: usize,
    /// Kind of all norms.
    pub norm: NormKind,
    /// Added to the variance.
    pub norm_eps: f64,
    /// Kind of the feed-forward block.
    pub activation: Activation,
    /// Kind of the positions.
    pub positions: Positions,
    /// The head is the embedding.
    pub tied_head: bool,
    /// q, k and v have biases.
    pub qkv_bias: bool,
    /// o has a bias.
    pub o_bias: bool,
    /// gate, up and down have biases.
    pub ffn_bias: bool,
}

impl FloatConfig {
    /// Refuses numbers that are out of range or contradict each other.
    pub fn checked(self) -> Result<Self, SourceError> {
        let ranges = [
            ("n_layers", self.n_layers, MAX_LAYERS),
            ("d_model", self.d_model, MAX_WIDTH),
            ("n_heads", self.n_heads, MAX_WIDTH),
            ("n_kv_heads", self.n_kv_heads, MAX_WIDTH),
            ("head_dim", self.head_dim, MAX_WIDTH),
            ("ffn_hidden", self.ffn_hidden, MAX_WIDTH),
            ("vocab", self.vocab, MAX_VOCAB),
            ("context", self.context, MAX_CONTEXT),
            ("n_heads * head_dim", self.n_heads.saturating_mul(self.head_dim), MAX_WIDTH),
        ];
        for (what, got, max) in ranges {
            if got == 0 || got > max {
                return Err(SourceError::OutOfRange {
                    what: what.into(),
                    got: got as u64,
                    min: 1,
                    max: max as u64,
                });
            }
        }
        if !self.n_heads.is_multiple_of(self.n_kv_heads) {
            return Err(SourceError::NotDivisible {
                left: "n_kv_heads",
                left_value: self.n_kv_heads,
                right: "n_heads",
                right_value: self.n_heads,
            });
        }
        if let Positions::Rope(rope) = self.positions {
            if !self.head_dim.is_multiple_of(2) {
                return Err(SourceError::NotDivisible {
                    left: "rotated pair",
                    left_value: 2,
                    right: "head_dim",
                    right_value: self.head_dim,
                });
            }
            positive("rope theta", rope.theta)?;
            match rope.scaling {
                RopeScaling::None => {}
                RopeScaling::Linear { factor } => positive("rope factor", factor)?,
                RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                    positive("rope factor", factor)?;
                    positive("low_freq_factor", low_freq_factor)?;
                    positive("high_freq_factor - low_freq_factor", high_freq_factor - low_freq_factor)?;
                    positive("original_max_position_embeddings", original_context)?;
                }
            }
        }
        positive("norm_eps", self.norm_eps)?;
        Ok(self)
    }

    /// Width of all query heads together.
    pub fn q_dim(&self) -> usize {
        self.n_heads * self.head_dim
    }

    /// Width of all key (or value) heads together.
    pub fn kv_dim(&self) -> usize {
        self.n_kv_heads * self.head_dim
    }

    /// The key head that query head `head` reads.
    pub fn kv_head_of(&self, head: usize) -> usize {
        head / (self.n_heads / self.n_kv_heads)
    }

    /// Radians per position of pair `i` of a head, `(head_dim / 2,)`; `None` with learned positions.
    pub fn inv_freq(&self) -> Option<Vec<f64>> {
        let Positions::Rope(rope) = self.positions else { return None };
        let pairs = self.head_dim / 2;
        Some(
            (0..pairs)
                .map(|i| rope.scaled(rope.theta.powf(-((2 * i) as f64) / self.head_dim as f64)))
                .collect(),
        )
    }
}

impl Rope {
    fn scaled(&self, freq: f64) -> f64 {
        match self.scaling {
            RopeScaling::None => freq,
            RopeScaling::Linear { factor } => freq / factor,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let turns = original_context * freq / std::f64::consts::TAU; // full turns within the first context
                let keep = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                freq * (keep + (1.0 - keep) / factor)
            }
        }
    }
}

fn positive(field: &'static str, value: f64) -> Result<(), SourceError> {
    if value.is_finite() && value > 0.0 {
        return Ok(());
    }
    Err(SourceError::Unsupported { field, got: value.to_string(), expected: "a positive number" })
}
