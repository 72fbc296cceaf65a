//! The shapes of known models, for `bench` and `plan`: sizes only, there are no weights here.

use crate::bundles;
use lockstep_base::config::{Activation, Experts, FeedForward, LayerPattern, ModelConfig, OPSET, Positions};
use std::error::Error;

/// `--shape`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// TinyLlama 1.1B: 22 layers of 2048, 32 heads on 4, feed-forward 5632.
    #[value(name = "llama-1.1b")]
    Llama1,
    /// GPT-2 XL: 48 layers of 1600, 25 heads, feed-forward 6400.
    #[value(name = "gpt2-xl")]
    Gpt2,
    /// GPT-2: 12 layers of 768, 12 heads, feed-forward 3072.
    #[value(name = "gpt2-small")]
    Gpt2Small,
    /// Qwen2.5 1.5B: 28 layers of 1536, 12 heads on 2, feed-forward 8960, a vocabulary of 151,936.
    #[value(name = "qwen2.5-1.5b")]
    Qwen,
    /// Llama 3.1 8B: 32 layers of 4096, 32 heads on 8, feed-forward 14336.
    #[value(name = "llama-3-8b")]
    Llama8,
    /// Llama 3 70B: 80 layers of 8192, 64 heads on 8, feed-forward 28672.
    #[value(name = "llama-3-70b")]
    Llama70,
    /// Llama 3.1 405B: 126 layers of 16384, 128 heads on 8, feed-forward 53248.
    #[value(name = "llama-3.1-405b")]
    Llama405,
    /// Mixtral 8x7B: 32 layers of 4096, 2 of 8 experts of 14336.
    #[value(name = "mixtral-8x7b")]
    Mixtral,
    /// BLOOM 176B: 70 layers of 14336, 112 heads, feed-forward 57344.
    #[value(name = "bloom-176b")]
    Bloom,
    /// OPT 175B: 96 layers of 12288, 96 heads, feed-forward 49152.
    #[value(name = "opt-175b")]
    Opt,
    /// That of the embedded model.
    Default,
}

/// The sizes that most families have.
struct Sizes {
    name: &'static str,
    layers: u32,
    d: u32,
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    ffn: u32,
    vocab: u32,
    context: u32,
}

impl Shape {
    /// The configuration of a model of this shape.
    ///
    /// # Errors
    /// If there is no embedded model to take it from.
    pub fn config(self) -> Result<ModelConfig, Box<dyn Error>> {
        let sizes = |name, [layers, d, heads, kv_heads, head_dim, ffn, vocab, context]: [u32; 8]| Sizes {
            name,
            layers,
            d,
            heads,
            kv_heads,
            head_dim,
            ffn,
            vocab,
            context,
        };
        Ok(match self {
            Shape::Llama1 => sizes("llama-1.1b", [22, 2048, 32, 4, 64, 5632, 32_000, 2048]).gated(),
            Shape::Gpt2 => {
                sizes("gpt2-xl", [48, 1600, 25, 25, 64, 6400, 50_257, 1024]).plain(Positions::Learned)
            }
            Shape::Gpt2Small => {
                sizes("gpt2-small", [12, 768, 12, 12, 64, 3072, 50_257, 1024]).plain(Positions::Learned)
            }
            Shape::Qwen => sizes("qwen2.5-1.5b", [28, 1536, 12, 2, 128, 8960, 151_936, 32_768]).gated(),
            Shape::Llama8 => sizes("llama-3-8b", [32, 4096, 32, 8, 128, 14_336, 128_256, 131_072]).gated(),
            Shape::Llama70 => sizes("llama-3-70b", [80, 8192, 64, 8, 128, 28_672, 128_256, 8192]).gated(),
            Shape::Llama405 => {
                sizes("llama-3.1-405b", [126, 16_384, 128, 8, 128, 53_248, 128_256, 131_072]).gated()
            }
            Shape::Mixtral => ModelConfig {
                experts: Some(Experts { count: 8, per_token: 2, normalise: true }),
                pattern: vec![LayerPattern { experts: true, ..LayerPattern::default() }],
                ..sizes("mixtral-8x7b", [32, 4096, 32, 8, 128, 14_336, 32_000, 32_768]).gated()
            },
            // The norm behind BLOOM's embedding depends on the token alone: the importer folds it into the table.
            Shape::Bloom => sizes("bloom-176b", [70, 14_336, 112, 112, 128, 57_344, 250_880, 2048])
                .plain(Positions::Alibi),
            Shape::Opt => ModelConfig {
                activation: Activation::Relu,
                ..sizes("opt-175b", [96, 12_288, 96, 96, 128, 49_152, 50_272, 2048]).plain(Positions::Learned)
            },
            Shape::Default => bundles::open(None)?.config().clone(),
        })
    }

    /// Whether linear layers have biases: they weigh 4 bytes a row.
    #[must_use]
    pub fn biased(self) -> bool {
        matches!(self, Shape::Gpt2 | Shape::Gpt2Small | Shape::Qwen | Shape::Bloom | Shape::Opt)
    }
}

impl Sizes {
    /// Llama's kind: RoPE over all of the head, gated.
    fn gated(self) -> ModelConfig {
        ModelConfig {
            opset: OPSET.into(),
            name: self.name.into(),
            n_layers: self.layers,
            d_model: self.d,
            n_heads: self.heads,
            n_kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            d_ffn: self.ffn,
            vocab: self.vocab,
            context: self.context,
            residual_frac: 16,
            // d * 1e-5 * 2^32
            norm_eps: u64::from(self.d) * 42_950,
            positions: Positions::Rope,
            feed_forward: FeedForward::Gated,
            bos: None,
            eos: Vec::new(),
            rope_dim: self.head_dim,
            ..ModelConfig::decoder()
        }
    }

    /// GPT-2's kind: one matrix up, one down, nothing that rotates.
    fn plain(self, positions: Positions) -> ModelConfig {
        ModelConfig {
            positions,
            feed_forward: FeedForward::Plain,
            rope_dim: 0,
            rope_tables: 0,
            ..self.gated()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum as _;

    /// Every shape is one that the arithmetic allows.
    #[test]
    fn shapes_are_valid() {
        for shape in Shape::value_variants() {
            let config = shape.config().unwrap();
            assert_eq!(config.validate(), Ok(()), "{shape:?}");
        }
    }
}
