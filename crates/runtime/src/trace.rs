//! The roots that receipts sign, built while the forward pass runs.
//!
//! A [`Tracer`] is an observer: it hashes keys and values of every position (always) and the other
//! traced op outputs (full trace) into salted leaves, and hands out the roots of each span of 32
//! tokens. It can keep the bytes under the leaves, so that a stage can open them on request.
//!
//! Hashing is the only cost of a trace, so it runs on all threads, leaf by leaf: outputs of many
//! tokens at once; those of few tokens are put aside until there are enough of them.

mod many;
mod sha256;

use crate::forward::Engine;
use crate::observe::{Observer, Output, Values};
use alloc::collections::BTreeMap;
use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;
use lockstep_base::Digest;
use lockstep_base::leaf::{self, HEADER_BYTES, LeafIndex, StageSecrets};
use lockstep_base::limits::LEAF_BYTES_MAX;
use lockstep_base::merkle::Accumulator;
use lockstep_base::op::{LAYER_EMBED, LAYER_HEAD, Op, Place};
use lockstep_base::receipt_file::ServedLeaf;
use many::{Content, Job, hash_leaves, tree_root};

/// Leaves that are worth the threads.
const LEAVES_AT_ONCE: usize = 128;

/// What the trace root covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TraceMode {
    /// Nothing: boundaries and KV cache are committed by their own roots.
    Boundary,
    /// Every traced op output (receipts.md, 4.3).
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

/// A leaf that is about to be hashed: `bytes` of the output `output`.
#[derive(Debug, Clone)]
struct Leaf {
    index: LeafIndex,
    output: usize,
    bytes: Range<usize>,
}

/// Hashes op outputs into leaves.
#[derive(Debug, Clone)]
pub struct Tracer {
    engine: Engine,
    secret: Digest,
    mode: TraceMode,
    keep: bool,
    open: BTreeMap<u32, PositionLeaves>,
    kv: Accumulator,
    /// Leaves of few tokens, not hashed yet, and their bytes, each behind room for its header.
    waiting: Vec<Leaf>,
    bytes: Vec<u8>,
}

impl Tracer {
    /// A tracer of what `engine` computes under a stage's own secret. `keep` keeps the bytes under
    /// the leaves.
    #[must_use]
    pub fn new(engine: Engine, secret: Digest, mode: TraceMode, keep: bool) -> Tracer {
        Tracer {
            engine,
            secret,
            mode,
            keep,
            open: BTreeMap::new(),
            kv: Accumulator::default(),
            waiting: Vec::new(),
            bytes: Vec::new(),
        }
    }

    /// Closes the span `positions`: its roots, and the leaves that were kept (those of the KV
    /// cache and of the trace in (token, op) order). Positions must be closed in order.
    ///
    /// # Panics
    /// If the span does not begin where the last one ended.
    pub fn close_span(&mut self, positions: Range<u32>) -> (SpanRoots, Vec<ServedLeaf>) {
        assert_eq!(u64::from(positions.start), self.kv.count(), "spans are closed in order");
        self.hash_waiting();
        let (mut trace, mut kept) = (Vec::new(), Vec::new());
        for position in positions {
            let leaves = self.open.remove(&position).unwrap_or_default();
            self.kv.push(tree_root(&self.engine.compute, leaves.kv));
            trace.extend(leaves.trace);
            kept.extend(leaves.kept);
        }
        (SpanRoots { kv: self.kv.root(), trace: tree_root(&self.engine.compute, trace) }, kept)
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
        self.hash_waiting();
        self.open.split_off(&position);
    }

    /// Hashes what was put aside.
    pub(crate) fn hash_waiting(&mut self) {
        let mut leaves = core::mem::take(&mut self.waiting);
        let mut bytes = core::mem::take(&mut self.bytes);
        let mut rest = bytes.as_mut_slice();
        let messages = leaves.iter().map(|leaf| {
            let message = rest.split_off_mut(..HEADER_BYTES + leaf.bytes.len());
            Content::Ready(message.unwrap_or_default())
        });
        self.hash(&leaves, messages, |_, _| {});
        leaves.clear();
        bytes.clear();
        (self.waiting, self.bytes) = (leaves, bytes);
    }

    /// Hashes `leaves`, whose bytes are `contents` or appended by `encode`, and puts them under their positions.
    fn hash<'a>(
        &mut self,
        leaves: &[Leaf],
        contents: impl Iterator<Item = Content<'a>>,
        encode: impl Fn(&Leaf, &mut Vec<u8>) + Sync,
    ) {
        let mut hashes = vec![Digest::ZERO; leaves.len()];
        let mut kept: Vec<Vec<u8>> = vec![Vec::new(); if self.keep { leaves.len() } else { 0 }];
        let mut kept_places = kept.iter_mut();
        let job = |((leaf, content), hash): ((&Leaf, _), _)| Job {
            index: leaf.index,
            len: leaf.bytes.len(),
            content,
            hash,
            kept: kept_places.next(),
        };
        let jobs = leaves.iter().zip(contents).zip(&mut hashes).map(job).collect();
        hash_leaves(&self.engine.compute, &self.secret, jobs, |number, buffer| {
            encode(&leaves[number], buffer);
        });
        let mut kept = kept.into_iter();
        for (leaf, hash) in leaves.iter().zip(hashes) {
            let open = self.open.entry(leaf.index.place.position).or_default();
            let is_kv = is_kv(leaf.index.place.op);
            if is_kv { &mut open.kv } else { &mut open.trace }.push(hash);
            open.kept.extend(kept.next().map(|bytes| served(&leaf.index, bytes)));
        }
    }

    /// The leaves of an output.
    fn leaves(number: usize, output: &Output<'_>) -> impl Iterator<Item = Leaf> + use<> {
        let (len, place) = (output.values.encoded_len(), output.place);
        let count = len.div_ceil(LEAF_BYTES_MAX).max(1);
        let first = output.run as usize * count;
        (0..count).map(move |chunk| Leaf {
            index: LeafIndex { place, chunk: (first + chunk) as u32 },
            output: number,
            bytes: chunk * LEAF_BYTES_MAX..len.min((chunk + 1) * LEAF_BYTES_MAX),
        })
    }
}

const fn is_kv(op: Op) -> bool {
    matches!(op, Op::KCodes | Op::VCodes)
}

impl Observer for Tracer {
    fn output(&mut self, place: Place, run: u32, values: Values<'_>) {
        self.outputs(&mut [Output { place, run, values }]);
    }

    fn outputs(&mut self, outputs: &mut [Output<'_>]) {
        let outputs: &[Output<'_>] = outputs;
        let leaves: Vec<Leaf> =
            outputs.iter().enumerate().flat_map(|(i, output)| Tracer::leaves(i, output)).collect();
        if leaves.len() >= LEAVES_AT_ONCE {
            self.hash_waiting();
            self.hash(&leaves, (0..leaves.len()).map(Content::Encode), |leaf, buffer| {
                outputs[leaf.output].values.encode_part(leaf.bytes.clone(), buffer);
            });
            return;
        }
        for leaf in leaves {
            self.bytes.extend_from_slice(&[0; HEADER_BYTES]);
            outputs[leaf.output].values.encode_part(leaf.bytes.clone(), &mut self.bytes);
            self.waiting.push(leaf);
        }
        if self.waiting.len() >= LEAVES_AT_ONCE {
            self.hash_waiting();
        }
    }

    fn wants(&self, layer: u16, op: Op) -> bool {
        is_kv(op) || (self.mode == TraceMode::Full && op.traced(&self.engine.weights.config, layer))
    }

    fn alters(&self) -> bool {
        false
    }
}

fn served(index: &LeafIndex, bytes: Vec<u8>) -> ServedLeaf {
    let Place { position, layer, op } = index.place;
    ServedLeaf { position, layer, op: op as u8, chunk: index.chunk, bytes }
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
