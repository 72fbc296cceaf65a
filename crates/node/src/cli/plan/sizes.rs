//! Bytes of a model's parts: what a machine must hold, and what a token reads.
//!
//! ```text
//! matrix   = codes + table ids + 2 bytes a row (+ 4 with biases)      base::weights, docs/spec
//! KV       = 3 bytes a channel (i16 key, i8 value) + 2 a head, for each position and layer
//! ```
//! Norms, K centres and tables of functions are left out: they are below a thousandth.

use lockstep_base::config::{FeedForward, ModelConfig, Positions};
use lockstep_base::weights::WeightFormat;
use lockstep_model::bundle::{Bundle, names};

/// Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    /// Token embedding and learned positions.
    pub(crate) embed: u64,
    /// Output head.
    pub(crate) head: u64,
    /// One layer.
    pub(crate) layer: u64,
    /// What decoding one token reads of a layer: less where it chooses experts.
    pub(crate) layer_read: u64,
    /// KV cache of one position in one layer.
    pub(crate) kv: u64,
}

impl Sizes {
    /// Of a model that is only described; its head is int8, `biased` if linear layers have biases.
    pub(crate) fn new(config: &ModelConfig, format: WeightFormat, biased: bool) -> Sizes {
        let matrix = |format: WeightFormat, rows: u32, cols: u32| {
            let (rows, cols) = (rows as usize, cols as usize);
            let per_row = if biased { 6 } else { 2 };
            (format.code_bytes(rows, cols) + format.id_bytes(rows, cols) + per_row * rows) as u64
        };
        let of = |rows, cols| matrix(format, rows, cols);
        let d = config.d_padded();
        let attention =
            of(config.q_dim(), d) + 2 * of(config.kv_dim(), d) + of(config.d_model, config.o_cols());
        let gates = if config.feed_forward == FeedForward::Gated { 2 } else { 1 };
        let network = gates * of(config.d_ffn, d) + of(config.d_model, config.down_cols());
        let (stored, read) = match config.experts {
            None => (network, network),
            Some(experts) => {
                let router = matrix(WeightFormat::Int8, experts.count, d);
                let times = |count: u32| router + u64::from(count) * network;
                (times(experts.count), times(experts.per_token))
            }
        };
        let (vocab, width) = (u64::from(config.vocab), u64::from(config.d_model));
        let learned = if config.positions == Positions::Learned { u64::from(config.context) } else { 0 };
        Sizes {
            embed: 2 * width * (vocab + learned),
            head: matrix(WeightFormat::Int8, config.vocab, d),
            layer: attention + stored,
            layer_read: attention + read,
            kv: kv_bytes(config),
        }
    }

    /// Of a bundle: the largest layer counts.
    pub(crate) fn of_bundle(bundle: &Bundle) -> Sizes {
        let config = bundle.config();
        let total = |wanted: &dyn Fn(&str) -> bool| -> u64 {
            bundle.entries().iter().map(|p| &p.entry).filter(|e| wanted(&e.name)).map(|e| e.bytes).sum()
        };
        let of_layer = |index: u32, part: &str| {
            let prefix = names::layer(index as usize, part);
            total(&|name: &str| name.starts_with(&prefix))
        };
        let layer = (0..config.n_layers).map(|index| of_layer(index, "")).max().unwrap_or(0);
        let experts = (0..config.n_layers).map(|index| of_layer(index, "expert_")).max().unwrap_or(0);
        let unused = config.experts.map_or(0, |chosen| {
            experts * u64::from(chosen.count - chosen.per_token) / u64::from(chosen.count.max(1))
        });
        Sizes {
            embed: total(&|name| name == names::EMBED || name == names::POSITIONS),
            head: total(&|name| name == names::HEAD),
            layer,
            layer_read: layer - unused,
            kv: kv_bytes(config),
        }
    }
}

fn kv_bytes(config: &ModelConfig) -> u64 {
    3 * u64::from(config.kv_dim()) + 2 * u64::from(config.n_kv_heads)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_model::bundle::{Contents, TokenizerSection, write};
    use lockstep_runtime::synthetic;

    /// The described sizes are those of a bundle of the same shape, but for K centres.
    #[test]
    fn sizes_are_those_of_bundles() {
        for format in [WeightFormat::Int8, WeightFormat::Int4] {
            let config = synthetic::small_config();
            let weights = synthetic::model(&config, format, 1);
            let tokenizer = TokenizerSection { kind: "none".into(), file: Vec::new() };
            let contents = Contents { weights: &weights, tokenizer: &tokenizer, chat_template: None };
            let bundle = Bundle::from_bytes(write(&contents).unwrap()).unwrap();
            let centre = 4 * u64::from(config.kv_dim());
            let mut described = Sizes::new(&config, format, false);
            described.layer += centre;
            described.layer_read += centre;
            assert_eq!(described, Sizes::of_bundle(&bundle), "{format:?}");
        }
    }
}
