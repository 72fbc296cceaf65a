//! The roots that receipts sign, built while the forward pass runs.
//!
//! A [`Tracer`] is an observer: it hashes keys and values of every position (always) and every
//! other op output (full trace) into salted leaves, and hands out the roots of each span of 32
//! tokens. It can keep the bytes under the leaves, so that a stage can open them on request.

use crate::observe::{Observer, Values};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;
use lockstep_base::Digest;
use lockstep_base::leaf::{self, LeafIndex, StageSecrets};
use lockstep_base::limits::LEAF_BYTES_MAX;
use lockstep_base::merkle::{self, Accumulator};
use lockstep_base::op::{LAYER_EMBED, LAYER_HEAD, Op, Place};
use lockstep_base::receipt_file::ServedLeaf;

/// What the trace root covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TraceMode {
    /// Nothing: boundaries and KV cache are committed by their own roots.
    Boundary,
    /// Every op output.
    Full,
}

/// Roots of one span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanRoots {
    /// Cumulative over all positions to the end of the span.
    pub kv: Digest,
    /// Over the span's op outputs; the empty root in boundary mode.
    pub trace: Digest,
}

#[derive(Debug, Default, Clone)]
struct PositionLeaves {
    kv: Vec<Digest>,
    trace: Vec<Digest>,
    kept: Vec<ServedLeaf>,
}

/// Hashes op outputs into leaves.
#[derive(Debug, Clone)]
pub struct Tracer {
    secret: Digest,
    mode: TraceMode,
    keep: bool,
    open: BTreeMap<u32, PositionLeaves>,
    kv: Accumulator,
    buffer: Vec<u8>,
}

impl Tracer {
    /// A tracer under a stage's own secret. `keep` keeps the bytes under the leaves.
    #[must_use]
    pub fn new(secret: Digest, mode: TraceMode, keep: bool) -> Tracer {
        Tracer { secret, mode, keep, open: BTreeMap::new(), kv: Accumulator::default(), buffer: Vec::new() }
    }

    /// Closes the span `positions`: its roots, and the leaves that were kept (those of the KV
    /// cache and of the trace in (token, op) order). Positions must be closed in order.
    ///
    /// # Panics
    /// If the span does not begin where the last one ended.
    pub fn close_span(&mut self, positions: Range<u32>) -> (SpanRoots, Vec<ServedLeaf>) {
        assert_eq!(u64::from(positions.start), self.kv.count(), "spans are closed in order");
        let mut trace = Accumulator::default();
        let mut kept = Vec::new();
        for position in positions {
            let leaves = self.open.remove(&position).unwrap_or_default();
            self.kv.push(merkle::root(&leaves.kv));
            leaves.trace.into_iter().for_each(|leaf| trace.push(leaf));
            kept.extend(leaves.kept);
        }
        (SpanRoots { kv: self.kv.root(), trace: trace.root() }, kept)
    }

    /// Sets whether the bytes under leaves are kept from here on.
    pub fn set_keep(&mut self, keep: bool) {
        self.keep = keep;
    }

    /// The tree of keys and values over the closed positions.
    #[must_use]
    pub fn kv_accumulator(&self) -> &Accumulator {
        &self.kv
    }

    /// Forgets positions from `position` on that are not closed yet.
    pub fn truncate(&mut self, position: u32) {
        self.open.split_off(&position);
    }
}

impl Observer for Tracer {
    fn output(&mut self, place: Place, run: u32, values: Values<'_>) {
        let is_kv = matches!(place.op, Op::KCodes | Op::VCodes);
        if !is_kv && self.mode == TraceMode::Boundary {
            return;
        }
        self.buffer.clear();
        values.encode(&mut self.buffer);
        let runs = self.buffer.len().div_ceil(LEAF_BYTES_MAX).max(1) as u32;
        let open = self.open.entry(place.position).or_default();
        for (index, bytes, hash) in leaf::leaves(&self.secret, place, run * runs, &self.buffer) {
            if is_kv { &mut open.kv } else { &mut open.trace }.push(hash);
            if self.keep {
                open.kept.push(served(index, bytes));
            }
        }
    }
}

fn served(index: LeafIndex, bytes: &[u8]) -> ServedLeaf {
    ServedLeaf {
        position: index.place.position,
        layer: index.place.layer,
        op: index.place.op as u8,
        chunk: index.chunk,
        bytes: bytes.to_vec(),
    }
}

/// Leaves of what enters or leaves a stage at one position.
#[derive(Debug, Clone, Copy)]
pub struct Edge {
    secret: Digest,
    place: Place,
}

impl Edge {
    /// Tokens that enter the first stage.
    #[must_use]
    pub fn token(secrets: &StageSecrets, position: u32) -> Edge {
        Edge { secret: secrets.input, place: Place { position, layer: LAYER_EMBED, op: Op::Token } }
    }

    /// Residual rows that enter a stage whose first layer is `layer`.
    #[must_use]
    pub fn input(secrets: &StageSecrets, layer: u32, position: u32) -> Edge {
        Edge { secret: secrets.input, place: Place { position, layer: layer as u16, op: Op::Boundary } }
    }

    /// Residual rows that leave a stage towards layer `layer`.
    #[must_use]
    pub fn output(secrets: &StageSecrets, layer: u32, position: u32) -> Edge {
        Edge { secret: secrets.output, place: Place { position, layer: layer as u16, op: Op::Boundary } }
    }

    /// The token that the last stage sampled at this position.
    #[must_use]
    pub fn sample(secrets: &StageSecrets, position: u32) -> Edge {
        Edge { secret: secrets.output, place: Place { position, layer: LAYER_HEAD, op: Op::Sample } }
    }

    /// Leaf hashes of `bytes`.
    #[must_use]
    pub fn leaves(&self, bytes: &[u8]) -> Vec<Digest> {
        leaf::leaves(&self.secret, self.place, 0, bytes).map(|(_, _, hash)| hash).collect()
    }

    /// Leaf hashes of a residual row.
    #[must_use]
    pub fn row_leaves(&self, row: &[i32]) -> Vec<Digest> {
        let bytes: Vec<u8> = row.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.leaves(&bytes)
    }

    /// The leaf of a token, or of none.
    #[must_use]
    pub fn token_leaf(&self, token: Option<u32>) -> Digest {
        let bytes = token.map(u32::to_le_bytes);
        self.leaves(bytes.as_ref().map_or(&[], |bytes| bytes.as_slice()))[0]
    }
}
