//! What a key has of an adapter: everything but weights.

use super::parts::MatrixKey;
use super::{Body, KeyError, count};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use lockstep_base::Digest;
use lockstep_base::adapter::{AdapterConfig, AdapterWeights, LayerAdapter, LowRank, Target};
use lockstep_base::config::OPSET;
use lockstep_base::weights::LayerWeights;
use minicbor::{Decode, Encode};

/// What an adapter has beside one matrix.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(super) struct LowRankKey {
    #[n(0)]
    pub(super) a: MatrixKey,
    #[n(1)]
    pub(super) b: MatrixKey,
}

/// What an adapter has beside the matrices of a layer, in the order of [`Target::ALL`].
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(super) struct AdaptedKey {
    #[cbor(n(0), decode_with = "crate::few::decode")]
    pub(super) parts: Vec<Option<LowRankKey>>,
}

/// An adapter without its weights, which lie beside those of the model in the commitments of the stages.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(super) struct AdapterKey {
    #[n(0)]
    pub(super) root: Digest,
    #[n(1)]
    pub(super) rank: u32,
    /// All layers of the model.
    #[cbor(n(2), decode_with = "crate::few::decode")]
    pub(super) layers: Vec<AdaptedKey>,
}

impl AdapterKey {
    #[cfg(feature = "prover")]
    pub(super) fn new(adapter: &AdapterWeights) -> AdapterKey {
        let part = |LowRank { a, b }: &LowRank| LowRankKey { a: MatrixKey::new(a), b: MatrixKey::new(b) };
        let layer = |layer: &LayerAdapter| AdaptedKey {
            parts: Target::ALL.iter().map(|target| layer.get(*target).map(part)).collect(),
        };
        let layers = adapter.layers.iter().map(layer).collect();
        AdapterKey { root: adapter.root, rank: adapter.config.rank, layers }
    }

    /// The adapter, without weights, of the model that has `layers`.
    pub(super) fn adapter(&self, body: &Body, layers: &[LayerWeights]) -> Result<AdapterWeights, KeyError> {
        let config =
            AdapterConfig { opset: OPSET.into(), name: String::new(), base: body.root, rank: self.rank };
        let bounds = |what: &str, got: i64| KeyError::Bounds { what: what.into(), got };
        config.validate().map_err(|_| bounds("the rank of the adapter", self.rank.into()))?;
        count("layers of the adapter", self.layers.len().max(layers.len()), layers.len())?;
        let mut all = Vec::with_capacity(layers.len());
        for (number, (key, layer)) in self.layers.iter().zip(layers).enumerate() {
            count("matrices of an adapter", key.parts.len(), Target::ALL.len())?;
            let mut adapted = LayerAdapter::default();
            for (target, part) in Target::ALL.into_iter().zip(&key.parts) {
                let Some(LowRankKey { a, b }) = part else { continue };
                let matrix = target.of(layer);
                let matrix = matrix.ok_or_else(|| bounds("an adapted matrix", target as i64))?;
                let name = format!("layer {number}, the adapter of {}", target.name());
                let rank = config.rank_padded();
                let a = a.linear(&name, (self.rank, matrix.cols as u32))?;
                adapted.set(target, LowRank { a, b: b.linear(&name, (matrix.rows as u32, rank))? });
            }
            all.push(adapted);
        }
        Ok(AdapterWeights { config, root: self.root, first_layer: 0, layers: all })
    }
}
