//! What a node keeps of provable tasks that were closed: the rows of its stage until they are proved, then the proof, for the task's owner. Bounded in bytes and in time.

use crate::limits::PROOF_PAGE_BYTES;
use crate::message::{Open, ProofPage};
use crate::rows::StageRows;
use lockstep_base::Digest;
use lockstep_base::keys::NodeId;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

/// A closed task: what was opened, and what its closing receipt committed to.
#[derive(Clone, Debug)]
pub(crate) struct Closed {
    pub(crate) open: Arc<Open>,
    pub(crate) rows: Arc<StageRows>,
}

#[derive(Debug)]
struct Entry {
    owner: NodeId,
    expires_ms: u64,
    closed: Closed,
    proof: Option<Arc<Vec<u8>>>,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.closed.rows.bytes() + self.proof.as_ref().map_or(0, |proof| proof.len())
    }
}

/// The store of one node.
#[derive(Debug)]
pub(crate) struct ProofStore {
    bytes_max: usize,
    keep_ms: u64,
    bytes: usize,
    tasks: BTreeMap<Digest, Entry>,
    /// Tasks in the order in which they were stored, for eviction.
    order: VecDeque<Digest>,
}

impl ProofStore {
    pub(crate) fn new(bytes_max: usize, keep_ms: u64) -> ProofStore {
        ProofStore { bytes_max, keep_ms, bytes: 0, tasks: BTreeMap::new(), order: VecDeque::new() }
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Keeps a closed task; the oldest ones go if there are too many bytes.
    pub(crate) fn insert(&mut self, task: Digest, owner: NodeId, closed: Closed, now_ms: u64) {
        let entry = Entry { owner, expires_ms: now_ms.saturating_add(self.keep_ms), closed, proof: None };
        self.bytes += entry.bytes();
        self.tasks.insert(task, entry);
        self.order.push_back(task);
        self.evict();
    }

    /// Keeps the proof of a task, which needs its rows no more.
    pub(crate) fn proved(&mut self, task: &Digest, proof: Vec<u8>, now_ms: u64) {
        let Some(entry) = self.tasks.get_mut(task) else { return };
        self.bytes -= entry.bytes();
        entry.closed.rows = Arc::default();
        entry.proof = Some(Arc::new(proof));
        entry.expires_ms = now_ms.saturating_add(self.keep_ms);
        self.bytes += entry.bytes();
        self.evict();
    }

    fn evict(&mut self) {
        while self.bytes > self.bytes_max
            && let Some(task) = self.order.pop_front()
        {
            self.remove(&task);
        }
    }

    /// Drops what nobody asked for in time.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        let tasks = &self.tasks;
        let expired = |task: &Digest| tasks.get(task).is_none_or(|entry| entry.expires_ms <= now_ms);
        let gone: Vec<Digest> = self.order.iter().filter(|task| expired(task)).copied().collect();
        gone.iter().for_each(|task| self.remove(task));
        let tasks = &self.tasks;
        self.order.retain(|task| tasks.contains_key(task));
    }

    fn remove(&mut self, task: &Digest) {
        if let Some(entry) = self.tasks.remove(task) {
            self.bytes -= entry.bytes();
        }
    }

    /// Whose task it was.
    pub(crate) fn owner(&self, task: &Digest) -> Option<NodeId> {
        self.tasks.get(task).map(|entry| entry.owner)
    }

    /// What is to be proved; none if the task is not kept.
    pub(crate) fn closed(&self, task: &Digest) -> Option<Closed> {
        self.tasks.get(task).map(|entry| entry.closed.clone())
    }

    /// Whether a proof was made.
    pub(crate) fn is_proved(&self, task: &Digest) -> bool {
        self.tasks.get(task).is_some_and(|entry| entry.proof.is_some())
    }

    /// One page of a proof; the error says what is missing.
    pub(crate) fn page(&self, task: Digest, page: u32) -> Result<ProofPage, String> {
        let proof = self.tasks.get(&task).and_then(|entry| entry.proof.as_ref());
        let proof = proof.ok_or_else(|| {
            let (bytes, keep_ms) = (self.bytes_max, self.keep_ms);
            format!(
                "no proof of task {task}: never made, or dropped (at most {bytes} bytes for {keep_ms} ms)"
            )
        })?;
        let pages = proof.len().div_ceil(PROOF_PAGE_BYTES).max(1) as u32;
        let bytes = proof.chunks(PROOF_PAGE_BYTES).nth(page as usize);
        let bytes = bytes.ok_or_else(|| format!("page {page} of a proof, expected below {pages}"))?;
        Ok(ProofPage { task, page, pages, bytes: bytes.to_vec() })
    }
}
