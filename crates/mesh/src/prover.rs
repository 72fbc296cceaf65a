//! The proving side of a node: closed tasks, proofs that wait, and the one that is being made.

use crate::code::Code;
use crate::compute::StageProver;
use crate::limits::PROOF_QUEUE_MAX;
use crate::message::{ProofPage, Prove};
use crate::proof_store::{Closed, ProofStore};
use crate::work::{Ended, Job, JobDone, JobId, Kind, Refusal};
use lockstep_base::Digest;
use lockstep_base::keys::NodeId;
use std::collections::VecDeque;
use std::sync::Arc;

/// Makes one proof at a time.
pub(crate) struct Prover {
    stage: Arc<dyn StageProver>,
    store: ProofStore,
    waiting: VecDeque<(JobId, Box<Prove>)>,
    making: Option<(JobId, NodeId)>,
}

impl Prover {
    pub(crate) fn new(stage: Arc<dyn StageProver>, bytes_max: usize, keep_ms: u64) -> Prover {
        Prover { stage, store: ProofStore::new(bytes_max, keep_ms), waiting: VecDeque::new(), making: None }
    }

    /// Who commits to rows and proves.
    pub(crate) fn stage(&self) -> Arc<dyn StageProver> {
        self.stage.clone()
    }

    /// Bytes held.
    pub(crate) fn bytes(&self) -> usize {
        self.store.bytes()
    }

    /// Keeps a closed task for its owner.
    pub(crate) fn keep(&mut self, task: Digest, owner: NodeId, closed: Closed, now_ms: u64) {
        self.store.insert(task, owner, closed, now_ms);
    }

    /// Forgets what nobody asked for in time.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        self.store.expire(now_ms);
    }

    /// Refuses whoever is not the owner of a task that is kept.
    fn owned(&self, from: NodeId, task: &Digest) -> Result<(), Refusal> {
        match self.store.owner(task) {
            Some(owner) if owner == from => Ok(()),
            Some(owner) => {
                let text = format!("only {owner}, which opened the task, may ask that");
                Err(Refusal::new(Code::NotAllowed, text))
            }
            None => {
                let text = format!("task {task} was not provable, is not closed, or was dropped");
                Err(Refusal::new(Code::NoProof, text))
            }
        }
    }

    /// Queues a proof; the first page of it if it was made before.
    pub(crate) fn order(
        &mut self,
        from: NodeId,
        id: JobId,
        prove: Box<Prove>,
    ) -> Result<Option<ProofPage>, Refusal> {
        self.owned(from, &id.task)?;
        if self.store.is_proved(&id.task) {
            return self.page(from, id.task, 0).map(Some);
        }
        let same = |job: &JobId| job.task == id.task;
        if self.waiting.iter().any(|(job, _)| same(job))
            || self.making.as_ref().is_some_and(|(job, _)| same(job))
        {
            return Err(Refusal::new(Code::Unexpected, "the proof of this task was asked for before"));
        }
        if self.waiting.len() >= PROOF_QUEUE_MAX {
            let text = format!("busy: {PROOF_QUEUE_MAX} proofs wait already, expected fewer");
            return Err(Refusal::new(Code::Busy, text));
        }
        self.waiting.push_back((id, prove));
        Ok(None)
    }

    /// A page of a proof.
    pub(crate) fn page(&self, from: NodeId, task: Digest, page: u32) -> Result<ProofPage, Refusal> {
        self.owned(from, &task)?;
        self.store.page(task, page).map_err(|text| Refusal::new(Code::NoProof, text))
    }

    /// The next proof, unless one is being made.
    pub(crate) fn next_job(&mut self) -> Option<Job> {
        while self.making.is_none()
            && let Some((id, prove)) = self.waiting.pop_front()
        {
            // Dropped while it waited: its owner has given up long ago.
            let Some((closed, owner)) = self.store.closed(&id.task).zip(self.store.owner(&id.task)) else {
                continue;
            };
            self.making = Some((id, owner));
            return Some(Job { id, kind: Kind::Prove { prover: self.stage.clone(), closed, prove } });
        }
        None
    }

    /// Whether this is the proof that is being made.
    pub(crate) fn is_making(&self, id: JobId) -> bool {
        self.making.is_some_and(|(making, _)| making == id)
    }

    /// Takes a proof: for whom it is, and its first page.
    pub(crate) fn done(&mut self, done: JobDone, now_ms: u64) -> (NodeId, Result<ProofPage, Refusal>) {
        let (id, owner) = self.making.take().expect("the caller looked");
        let result = match done.result {
            Ok(Ended::Proof(proof)) => {
                self.store.proved(&id.task, proof, now_ms);
                self.page(owner, id.task, 0)
            }
            Ok(Ended::Step(..)) => Err(Refusal::new(Code::Internal, "a step where a proof was expected")),
            Err(refusal) => Err(refusal),
        };
        (owner, result)
    }
}
