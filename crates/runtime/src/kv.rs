//! The cache of keys and values: codes and steps, exactly what receipts commit to.

use alloc::sync::Arc;
use alloc::vec::Vec;
use lockstep_base::adapter::AdapterWeights;
use lockstep_base::config::ModelConfig;

/// Keys and values of one layer and one kv head, position after position.
#[derive(Debug, Clone, Default)]
pub struct HeadKv {
    /// `(positions, head_dim)` key codes.
    pub k: Vec<i16>,
    /// One exponent a position.
    pub k_exponents: Vec<u8>,
    /// `(positions, head_dim)` value codes.
    pub v: Vec<i8>,
    /// The byte of one step a position.
    pub v_steps: Vec<u8>,
}

/// The cache of one sequence for a range of layers, under the adapter that all of the sequence is computed with.
#[derive(Debug, Clone)]
pub struct KvCache {
    adapter: Option<Arc<AdapterWeights>>,
    /// `(layers * n_kv_heads)`.
    heads: Vec<HeadKv>,
    n_kv_heads: usize,
    head_dim: usize,
    len: usize,
}

impl KvCache {
    /// An empty cache for `layers` layers.
    #[must_use]
    pub fn new(config: &ModelConfig, layers: usize) -> KvCache {
        let n_kv_heads = config.n_kv_heads as usize;
        KvCache {
            adapter: None,
            heads: (0..layers * n_kv_heads).map(|_| HeadKv::default()).collect(),
            n_kv_heads,
            head_dim: config.head_dim as usize,
            len: 0,
        }
    }

    /// The same with an adapter, which fits the model (`AdapterWeights::check_fits`).
    #[must_use]
    pub fn with_adapter(mut self, adapter: Option<Arc<AdapterWeights>>) -> KvCache {
        self.adapter = adapter;
        self
    }

    /// The adapter of the sequence.
    #[must_use]
    pub fn adapter(&self) -> Option<&Arc<AdapterWeights>> {
        self.adapter.as_ref()
    }

    /// Positions held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no position is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The heads of the `layer`-th held layer.
    #[must_use]
    pub fn layer(&self, layer: usize) -> &[HeadKv] {
        &self.heads[layer * self.n_kv_heads..(layer + 1) * self.n_kv_heads]
    }

    pub(crate) fn layer_mut(&mut self, layer: usize) -> &mut [HeadKv] {
        &mut self.heads[layer * self.n_kv_heads..(layer + 1) * self.n_kv_heads]
    }

    pub(crate) fn advance(&mut self, positions: usize) {
        self.len += positions;
    }

    /// Forgets positions from `len` on. Nothing happens if there are not that many.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
        self.roll_back();
    }

    /// Drops what a failed step wrote beyond the positions held.
    pub(crate) fn roll_back(&mut self) {
        let (len, dim) = (self.len, self.head_dim);
        for head in &mut self.heads {
            head.k.truncate(len * dim);
            head.v.truncate(len * dim);
            head.k_exponents.truncate(len);
            head.v_steps.truncate(len);
        }
    }
}
