//! Leaves of spans that were signed, for whoever asks: bounded in bytes and in time.
//!
//! Refusing to open a leaf that was signed is itself a fault, but nobody can be asked to keep
//! megabytes a token for ever; the limits are named and the refusal says which one was met.

use crate::limits::LEAVES_PAGE_BYTES;
use crate::message::Leaves;
use crate::work::SpanLeaves;
use lockstep_base::Digest;
use lockstep_base::keys::NodeId;
use lockstep_base::receipt_file::ServedLeaf;
use std::collections::{BTreeMap, VecDeque};

/// Bytes of a leaf in a message besides its content, at most.
const LEAF_OVERHEAD_BYTES: usize = 24;

#[derive(Debug)]
struct TaskLeaves {
    owner: NodeId,
    expires_ms: u64,
    spans: BTreeMap<u32, Vec<ServedLeaf>>,
}

/// The store of one node.
#[derive(Debug)]
pub(crate) struct LeafStore {
    bytes_max: usize,
    keep_ms: u64,
    bytes: usize,
    tasks: BTreeMap<Digest, TaskLeaves>,
    /// Spans in the order in which they were stored, for eviction.
    order: VecDeque<(Digest, u32)>,
}

fn cost(leaves: &[ServedLeaf]) -> usize {
    leaves.iter().map(|leaf| leaf.bytes.len() + LEAF_OVERHEAD_BYTES).sum()
}

impl LeafStore {
    pub(crate) fn new(bytes_max: usize, keep_ms: u64) -> LeafStore {
        LeafStore { bytes_max, keep_ms, bytes: 0, tasks: BTreeMap::new(), order: VecDeque::new() }
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Stores a span; the oldest ones go if there are too many bytes.
    pub(crate) fn insert(&mut self, task: Digest, owner: NodeId, span: SpanLeaves, now_ms: u64) {
        let expires_ms = now_ms.saturating_add(self.keep_ms);
        let entry = self.tasks.entry(task).or_insert_with(|| TaskLeaves {
            owner,
            expires_ms,
            spans: BTreeMap::new(),
        });
        entry.expires_ms = expires_ms;
        self.bytes += cost(&span.leaves);
        entry.spans.insert(span.first_token, span.leaves);
        self.order.push_back((task, span.first_token));
        while self.bytes > self.bytes_max
            && let Some((task, first_token)) = self.order.pop_front()
        {
            self.remove(&task, first_token);
        }
    }

    /// Drops what nobody asked for in time.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        let expired = |tasks: &BTreeMap<Digest, TaskLeaves>, task: &Digest| {
            tasks.get(task).is_none_or(|leaves| leaves.expires_ms <= now_ms)
        };
        let gone: Vec<(Digest, u32)> =
            self.order.iter().filter(|(task, _)| expired(&self.tasks, task)).copied().collect();
        for (task, first_token) in &gone {
            self.remove(task, *first_token);
        }
        if !gone.is_empty() {
            let tasks = &self.tasks;
            self.order.retain(|(task, first)| tasks.get(task).is_some_and(|t| t.spans.contains_key(first)));
        }
    }

    fn remove(&mut self, task: &Digest, first_token: u32) {
        let Some(entry) = self.tasks.get_mut(task) else { return };
        if let Some(leaves) = entry.spans.remove(&first_token) {
            self.bytes -= cost(&leaves);
        }
        if entry.spans.is_empty() {
            self.tasks.remove(task);
        }
    }

    /// Whose task it was.
    pub(crate) fn owner(&self, task: &Digest) -> Option<NodeId> {
        self.tasks.get(task).map(|leaves| leaves.owner)
    }

    /// One page of a span; the error says what is missing.
    pub(crate) fn page(&self, task: Digest, first_token: u32, page: u32) -> Result<Leaves, String> {
        let leaves = self
            .tasks
            .get(&task)
            .and_then(|leaves| leaves.spans.get(&first_token))
            .ok_or_else(|| format!("no leaves of a span at token {first_token}: never signed, or dropped (at most {} bytes for {} ms)", self.bytes_max, self.keep_ms))?;
        let mut pages = 0;
        let mut size = usize::MAX;
        let mut wanted = Vec::new();
        for leaf in leaves {
            let cost = cost(core::slice::from_ref(leaf));
            if size.saturating_add(cost) > LEAVES_PAGE_BYTES {
                pages += 1;
                size = 0;
            }
            size += cost;
            if pages == page + 1 {
                wanted.push(leaf.clone());
            }
        }
        let pages = pages.max(1);
        if page >= pages {
            return Err(format!("page {page} of the leaves at token {first_token}, expected below {pages}"));
        }
        Ok(Leaves { task, first_token, page, pages, leaves: wanted })
    }
}
