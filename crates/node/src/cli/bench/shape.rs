//! The shapes that `bench` measures.

use crate::bundles;
use lockstep_base::config::{FeedForward, ModelConfig, OPSET, Positions};
use std::error::Error;

/// `--shape`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Shape {
    /// TinyLlama 1.1B: 22 layers of 2048, 32 heads on 4, feed-forward 5632.
    #[value(name = "llama-1.1b")]
    Llama,
    /// GPT-2 XL: 48 layers of 1600, 25 heads, feed-forward 6400.
    #[value(name = "gpt2-xl")]
    Gpt2,
    /// That of the embedded model.
    Default,
}

impl Shape {
    /// The configuration of a model of this shape.
    ///
    /// # Errors
    /// If there is no embedded model to take it from.
    pub fn config(self) -> Result<ModelConfig, Box<dyn Error>> {
        let base = |name: &str, d_model: u32| ModelConfig {
            opset: OPSET.into(),
            name: name.into(),
            n_layers: 22,
            d_model,
            n_heads: 32,
            n_kv_heads: 4,
            head_dim: 64,
            d_ffn: 5632,
            vocab: 32_000,
            context: 2048,
            residual_frac: 16,
            // d * 1e-5 * 2^32
            norm_eps: u64::from(d_model) * 42_950,
            positions: Positions::Rope,
            feed_forward: FeedForward::Gated,
            bos: None,
            eos: Vec::new(),
            rope_dim: 64,
            ..ModelConfig::decoder()
        };
        match self {
            Shape::Llama => Ok(base("llama-1.1b", 2048)),
            Shape::Gpt2 => Ok(ModelConfig {
                n_layers: 48,
                n_heads: 25,
                n_kv_heads: 25,
                d_ffn: 6400,
                vocab: 50_257,
                context: 1024,
                positions: Positions::Learned,
                rope_dim: 0,
                rope_tables: 0,
                feed_forward: FeedForward::Plain,
                ..base("gpt2-xl", 1600)
            }),
            Shape::Default => Ok(bundles::open(None)?.config().clone()),
        }
    }
}
