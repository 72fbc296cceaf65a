//! How positions enter a model: rotation of heads, a learned table, or a slope on the scores.
//!
//! ```text
//! rope    pair i of the first `dim` channels of a head turns by  position * inv_freq[i],
//!         inv_freq[i] = theta^(-2i / dim), changed by `scaling`     (RoFormer, arXiv 2104.09864)
//! alibi   score(i, j) = q_i . k_j * scale - slope[head] * (i - j)   (ALiBi, arXiv 2108.12409)
//! ```

use super::SourceError;
use super::config::positive;

/// How positions enter.
#[derive(Debug, Clone, PartialEq)]
pub enum Positions {
    /// Rotation of adjacent pairs `(2i, 2i+1)` of every query and key head.
    Rope(Rope),
    /// A learned row per position, added to the embedding.
    Learned,
    /// A slope per head on the scores: [`alibi_slopes`].
    Alibi,
}

/// Rotary embedding: pair `i` of a head turns by `position * inv_freq[i]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Change of the frequencies for long contexts.
    pub scaling: RopeScaling,
    /// Channels of a head that turn, the first ones: an even number, at most the head's width.
    pub dim: usize,
}

/// How the frequencies were changed after training.
#[derive(Debug, Clone, PartialEq)]
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
    /// LongRoPE (arXiv 2402.13753): every frequency divided by a factor of its own. The factor on the attention that goes
    /// with it is in the weights of q and k already.
    LongRope {
        /// For contexts up to `original_context`, `(dim / 2,)`.
        short: Vec<f64>,
        /// For longer ones, `(dim / 2,)`.
        long: Vec<f64>,
        /// Context of the first training, in tokens.
        original_context: usize,
    },
}

impl Rope {
    /// Rotation of whole heads, unscaled.
    pub fn plain(theta: f64, head_dim: usize) -> Self {
        Self { theta, scaling: RopeScaling::None, dim: head_dim }
    }

    /// Radians per position of each pair, `(dim / 2,)`, in a model whose longest sequence is `context`.
    pub fn inv_freq(&self, context: usize) -> Vec<f64> {
        let plain = |i: usize| self.theta.powf(-((2 * i) as f64) / self.dim as f64);
        (0..self.dim / 2).map(|i| self.scaled(i, plain(i), context)).collect()
    }

    fn scaled(&self, pair: usize, freq: f64, context: usize) -> f64 {
        match &self.scaling {
            RopeScaling::None => freq,
            RopeScaling::Linear { factor } => freq / factor,
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let turns = original_context * freq / std::f64::consts::TAU; // full turns within the first context
                let keep = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                freq * (keep + (1.0 - keep) / factor)
            }
            RopeScaling::LongRope { short, long, original_context } => {
                let factors = if context <= *original_context { short } else { long };
                freq / factors[pair]
            }
        }
    }

    pub(super) fn check(&self, head_dim: usize) -> Result<(), SourceError> {
        if !self.dim.is_multiple_of(2) {
            return Err(SourceError::NotDivisible {
                left: "rotated pair",
                left_value: 2,
                right: "rotated part of a head",
                right_value: self.dim,
            });
        }
        if self.dim == 0 || self.dim > head_dim {
            return Err(SourceError::OutOfRange {
                what: "rotated part of a head".into(),
                got: self.dim as u64,
                min: 2,
                max: head_dim as u64,
            });
        }
        positive("rope theta", self.theta)?;
        match &self.scaling {
            RopeScaling::None => Ok(()),
            RopeScaling::Linear { factor } => positive("rope factor", *factor),
            RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                positive("rope factor", *factor)?;
                positive("low_freq_factor", *low_freq_factor)?;
                positive("high_freq_factor - low_freq_factor", high_freq_factor - low_freq_factor)?;
                positive("original_max_position_embeddings", *original_context)
            }
            RopeScaling::LongRope { short, long, original_context } => {
                positive("original_max_position_embeddings", *original_context as f64)?;
                for (name, factors) in [("short_factor", short), ("long_factor", long)] {
                    if factors.len() != self.dim / 2 {
                        return Err(SourceError::Shape {
                            name: name.into(),
                            got: vec![factors.len()],
                            expected: vec![self.dim / 2],
                        });
                    }
                    factors.iter().try_for_each(|factor| positive(name, *factor))?;
                }
                Ok(())
            }
        }
    }
}

/// Slopes of ALiBi, `(n_heads,)`: with n the largest power of two up to `n_heads`, 2^(-8 (h + 1) / n) for the first n
/// heads, then every other slope of 2n heads.
pub fn alibi_slopes(n_heads: usize) -> Vec<f64> {
    let whole = 1usize << n_heads.max(1).ilog2();
    let slope = |index: usize, of: usize| (-8.0 * (index + 1) as f64 / of as f64).exp2();
    (0..n_heads)
        .map(|head| if head < whole { slope(head, whole) } else { slope(2 * (head - whole), 2 * whole) })
        .collect()
}
