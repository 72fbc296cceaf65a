//! A node: one part of one model, many tasks.
//!
//! Control messages about a task are taken from its owner only, data from the stage before it
//! only: nobody else can disturb a task, and whoever tries is told so ([`Code::NotAllowed`]).
//! When a task cannot go on, its owner gets an [`Error`](Message::Error) and the task is gone.

mod admit;
mod neighbours;

use crate::code::Code;
use crate::compute::{ComputeFactory, StageProver};
use crate::data::Data;
use crate::frame::FRAME_VERSIONS;
use crate::leaf_store::LeafStore;
use crate::limits;
use crate::message::{Fault, Info, Leaves, Message, Open, Prove};
use crate::prover::Prover;
use crate::rows::StageRows;
use crate::stage::{Session, Shape};
use crate::work::{Ended, Job, JobDone, JobId, Refusal, Work};
use lockstep_base::Digest;
use lockstep_base::config::ModelConfig;
use lockstep_base::keys::{NodeId, NodeKey};
use lockstep_base::part::Part;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

/// What a node serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Served {
    /// The model.
    pub model_root: Digest,
    /// Its arithmetic.
    pub opset: String,
    /// Its name for people.
    pub model: String,
    /// The part of it.
    pub part: Part,
    /// Layers of the model.
    pub n_layers: u32,
    /// Width of its residual stream.
    pub d_model: u32,
    /// Its vocabulary.
    pub vocab: u32,
    /// Its longest sequence.
    pub context: u32,
    /// Roots of the adapters that tasks may ask for, at most [`limits::ADAPTERS_MAX`].
    pub adapters: Vec<Digest>,
}

impl Served {
    /// A part of the model with this root and configuration, without adapters.
    #[must_use]
    pub fn new(model_root: Digest, config: &ModelConfig, part: Part) -> Served {
        Served {
            model_root,
            opset: config.opset.clone(),
            model: config.name.clone(),
            part,
            n_layers: config.n_layers,
            d_model: config.d_model,
            vocab: config.vocab,
            context: config.context,
            adapters: Vec::new(),
        }
    }
}

/// How much a node takes on. The defaults are the constants of [`crate::limits`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeLimits {
    /// Tasks at a time.
    pub tasks_max: usize,
    /// Positions of all tasks together, as opened.
    pub positions_max: u64,
    /// Milliseconds without a message after which a task is forgotten.
    pub task_idle_ms: u64,
    /// Bytes of leaves kept.
    pub leaf_store_bytes: usize,
    /// Milliseconds for which they are kept.
    pub leaves_keep_ms: u64,
    /// Bytes of rows and proofs kept.
    pub proof_store_bytes: usize,
    /// Milliseconds for which they are kept.
    pub proofs_keep_ms: u64,
    /// Bytes of rows kept of what left the stage, over all open tasks.
    pub backup_bytes: usize,
}

impl Default for NodeLimits {
    fn default() -> Self {
        NodeLimits {
            tasks_max: limits::TASKS_MAX,
            positions_max: limits::TASK_POSITIONS_MAX,
            task_idle_ms: limits::TASK_IDLE_MS,
            leaf_store_bytes: limits::LEAF_STORE_BYTES,
            leaves_keep_ms: limits::LEAVES_KEEP_MS,
            proof_store_bytes: limits::PROOF_STORE_BYTES,
            proofs_keep_ms: limits::PROOFS_KEEP_MS,
            backup_bytes: limits::BACKUP_BYTES,
        }
    }
}

/// What happens to a node.
#[derive(Debug)]
pub enum Input {
    /// A control message from an authenticated peer.
    Message {
        /// The peer.
        from: NodeId,
        /// The message.
        message: Message,
    },
    /// A data frame from an authenticated peer.
    Data {
        /// The peer.
        from: NodeId,
        /// The frame.
        data: Data,
    },
    /// A peer is gone, could not be reached, or was cut off after it sent garbage.
    PeerLost {
        /// The peer.
        peer: NodeId,
    },
    /// A job of [`Node::take_job`] ended.
    Done(JobDone),
    /// Time passed; about every [`limits::TICK_MS`].
    Tick,
}

/// What a shell must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send a control message.
    Message {
        /// To whom.
        to: NodeId,
        /// The message.
        message: Message,
    },
    /// Send a data frame, after all that were sent to the same peer before.
    Data {
        /// To whom.
        to: NodeId,
        /// The frame.
        data: Data,
    },
    /// Connect to the next stage of a task, if there is no connection; [`Input::PeerLost`] if
    /// that fails.
    Connect {
        /// Whom.
        node: NodeId,
        /// Where, in the form of the transport.
        address: String,
    },
}

/// The state machine of a node.
pub struct Node {
    served: Served,
    limits: NodeLimits,
    agent: String,
    key: Arc<NodeKey>,
    factory: Box<dyn ComputeFactory>,
    sessions: BTreeMap<Digest, Session>,
    /// Sessions that may have a job, first come first served.
    ready: VecDeque<Digest>,
    leaves: LeafStore,
    /// Who proves closed tasks, where somebody does.
    prover: Option<Prover>,
    seen: BTreeSet<Digest>,
    seen_order: VecDeque<Digest>,
    serial: u64,
}

impl core::fmt::Debug for Node {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Node")
            .field("served", &self.served)
            .field("tasks", &self.sessions.len())
            .finish_non_exhaustive()
    }
}

impl Node {
    /// A node that serves `served` under `key`. `agent` names the program.
    #[must_use]
    pub fn new(
        served: Served,
        limits: NodeLimits,
        agent: &str,
        key: NodeKey,
        factory: Box<dyn ComputeFactory>,
    ) -> Node {
        let leaves = LeafStore::new(limits.leaf_store_bytes, limits.leaves_keep_ms);
        Node {
            served,
            limits,
            agent: agent.to_owned(),
            key: Arc::new(key),
            factory,
            sessions: BTreeMap::new(),
            ready: VecDeque::new(),
            leaves,
            prover: None,
            seen: BTreeSet::new(),
            seen_order: VecDeque::new(),
            serial: 0,
        }
    }

    /// The same node, which also proves what it computed.
    #[must_use]
    pub fn proving(mut self, prover: Arc<dyn StageProver>) -> Node {
        let NodeLimits { proof_store_bytes, proofs_keep_ms, .. } = self.limits;
        self.prover = Some(Prover::new(prover, proof_store_bytes, proofs_keep_ms));
        self
    }

    /// Bytes of rows and proofs that are kept.
    #[must_use]
    pub fn proof_bytes(&self) -> usize {
        self.prover.as_ref().map_or(0, Prover::bytes)
    }

    /// Tasks that are open.
    #[must_use]
    pub fn tasks_open(&self) -> usize {
        self.sessions.len()
    }

    /// Positions that arrived and are not computed, over all tasks.
    #[must_use]
    pub fn positions_in_flight(&self) -> u32 {
        self.sessions.values().map(Session::in_flight).sum()
    }

    /// Bytes of rows that are kept of what left the stage.
    #[must_use]
    pub fn backup_bytes(&self) -> usize {
        self.sessions.values().map(Session::backup_bytes).sum()
    }

    /// Bytes of leaves that are kept.
    #[must_use]
    pub fn leaf_bytes(&self) -> usize {
        self.leaves.bytes()
    }

    /// What the node says about itself.
    #[must_use]
    pub fn info(&self) -> Info {
        let served = &self.served;
        Info {
            versions: FRAME_VERSIONS.to_vec(),
            agent: self.agent.clone(),
            public_key: self.key.public(),
            model_root: served.model_root,
            opset: served.opset.clone(),
            model: served.model.clone(),
            part: served.part,
            n_layers: served.n_layers,
            d_model: served.d_model,
            vocab: served.vocab,
            context: served.context,
            tasks_max: self.limits.tasks_max as u32,
            tasks_open: self.sessions.len() as u32,
            adapters: served.adapters.clone(),
            proves: self.prover.is_some(),
        }
    }

    /// The next job, if any task has one. Call until `None` after every [`handle`](Self::handle);
    /// jobs of different tasks may run at the same time.
    pub fn take_job(&mut self) -> Option<Job> {
        while let Some(task) = self.ready.pop_front() {
            if let Some(job) = self.sessions.get_mut(&task).and_then(Session::next_job) {
                return Some(job);
            }
        }
        self.prover.as_mut().and_then(Prover::next_job)
    }

    /// Takes one input at time `now_ms` (any clock that does not run backwards).
    pub fn handle(&mut self, now_ms: u64, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        match input {
            Input::Message { from, message } => self.message(now_ms, from, message, &mut effects),
            Input::Data { from, data } => self.data(now_ms, from, data, &mut effects),
            Input::PeerLost { peer } => self.peer_lost(peer, &mut effects),
            Input::Done(done) => self.done(now_ms, done, &mut effects),
            Input::Tick => self.tick(now_ms, &mut effects),
        }
        effects
    }

    fn message(&mut self, now_ms: u64, from: NodeId, message: Message, effects: &mut Vec<Effect>) {
        let reply = |refusal: Refusal, task, effects: &mut Vec<Effect>| {
            let fault = Fault::new(task, refusal.code, None, &refusal.text);
            effects.push(Effect::Message { to: from, message: Message::Error(fault) });
        };
        match message {
            Message::Hello(hello) => {
                if hello.versions.iter().any(|version| FRAME_VERSIONS.contains(version)) {
                    effects.push(Effect::Message { to: from, message: Message::Info(Box::new(self.info())) });
                } else {
                    let text = format!("versions {:?}, expected one of {FRAME_VERSIONS:?}", hello.versions);
                    reply(Refusal::new(Code::Version, text), None, effects);
                }
            }
            Message::Open(open) => {
                let task = open.task;
                if let Err(refusal) = self.open(now_ms, from, *open, effects) {
                    reply(refusal, Some(task), effects);
                }
            }
            Message::LeavesRequest { task, first_token, page } => {
                match self.leaves_page(from, task, first_token, page) {
                    Ok(leaves) => {
                        effects.push(Effect::Message { to: from, message: Message::Leaves(leaves) });
                    }
                    Err(refusal) => reply(refusal, Some(task), effects),
                }
            }
            Message::Prove(prove) => {
                let task = prove.task;
                if let Err(refusal) = self.prove(from, prove, effects) {
                    reply(refusal, Some(task), effects);
                }
            }
            Message::ProofRequest { task, page } => {
                let page = self.prover().and_then(|prover| prover.page(from, task, page));
                match page {
                    Ok(page) => effects.push(Effect::Message { to: from, message: Message::Proof(page) }),
                    Err(refusal) => reply(refusal, Some(task), effects),
                }
            }
            // Whoever cancels what is over already raced with its end.
            Message::Cancel { task } if !self.sessions.contains_key(&task) => {}
            Message::Cancel { task } => match self.owned(now_ms, from, task) {
                Ok(_) => drop(self.remove(&task)),
                Err(refusal) => reply(refusal, Some(task), effects),
            },
            Message::Close { task, end } => {
                match self.owned(now_ms, from, task).map(|session| session.close(end)) {
                    Ok(closed) => self.settle(task, closed, false, effects),
                    Err(refusal) => reply(refusal, Some(task), effects),
                }
            }
            Message::Probe { task } => match self.owned(now_ms, from, task).map(|session| session.progress())
            {
                Ok((computed, received)) => {
                    let message = Message::Progress { task, computed, received };
                    effects.push(Effect::Message { to: from, message });
                }
                Err(refusal) => reply(refusal, Some(task), effects),
            },
            Message::Rewire { task, previous } => {
                match self.owned(now_ms, from, task).map(|session| session.rewire(previous)) {
                    Ok(received) => {
                        let message = Message::Rewired { task, previous, received };
                        effects.push(Effect::Message { to: from, message });
                    }
                    Err(refusal) => reply(refusal, Some(task), effects),
                }
            }
            Message::Resend { task, next, from: first, until } => {
                let order = self.owned(now_ms, from, task).and_then(|session| {
                    let data = session.resend(next.clone(), first, until)?;
                    Ok((next, data))
                });
                match order {
                    Ok((next, data)) => {
                        let to = next.node;
                        effects.push(Effect::Connect { node: to, address: next.address });
                        effects.extend(data.into_iter().map(|data| Effect::Data { to, data }));
                    }
                    Err(refusal) => reply(refusal, Some(task), effects),
                }
            }
            Message::Error(fault) => self.neighbour_failed(from, &fault, effects),
            other => {
                let text = format!("a node got {}, expected a request", other.name());
                reply(Refusal::new(Code::Unexpected, text), other.task(), effects);
            }
        }
    }

    /// The task, if it is open and `from` may speak about it.
    fn owned(&mut self, now_ms: u64, from: NodeId, task: Digest) -> Result<&mut Session, Refusal> {
        match self.sessions.get_mut(&task) {
            None => Err(unknown(&task)),
            Some(session) if session.owner != from => Err(not_owner(session.owner)),
            Some(session) => {
                session.heard_ms = now_ms;
                Ok(session)
            }
        }
    }

    fn leaves_page(
        &self,
        from: NodeId,
        task: Digest,
        first_token: u32,
        page: u32,
    ) -> Result<Leaves, Refusal> {
        let session = self.sessions.get(&task);
        match session.map(|session| session.owner).or_else(|| self.leaves.owner(&task)) {
            Some(owner) if owner != from => Err(not_owner(owner)),
            _ => self.leaves.page(task, first_token, page).map_err(|text| Refusal::new(Code::NoLeaves, text)),
        }
    }

    fn prover(&mut self) -> Result<&mut Prover, Refusal> {
        let none = || Refusal::new(Code::NoProof, "no proofs are made here");
        self.prover.as_mut().ok_or_else(none)
    }

    /// Begins to prove a closed task, or shows the proof that is there.
    fn prove(&mut self, from: NodeId, prove: Box<Prove>, effects: &mut Vec<Effect>) -> Result<(), Refusal> {
        self.serial += 1;
        let id = JobId { task: prove.task, serial: self.serial };
        if let Some(page) = self.prover()?.order(from, id, prove)? {
            effects.push(Effect::Message { to: from, message: Message::Proof(page) });
        }
        Ok(())
    }

    fn remove(&mut self, task: &Digest) -> Option<Session> {
        self.ready.retain(|ready| ready != task);
        self.sessions.remove(task)
    }

    fn open(
        &mut self,
        now_ms: u64,
        from: NodeId,
        open: Open,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        self.check_open(&open)?;
        let compute =
            self.factory.open(&open).map_err(|error| Refusal::new(Code::Parameters, error.to_string()))?;
        self.serial += 1;
        let id = JobId { task: open.task, serial: self.serial };
        let open = Arc::new(open);
        let provable = open.provable.then(|| self.prover().map(|prover| prover.stage())).transpose()?;
        let provable = provable.map(|prover| (prover, StageRows::new(self.served.d_model as usize)));
        let work = Work::new(Arc::clone(&self.key), Arc::clone(&open), compute, provable);
        let shape = Shape { d_model: self.served.d_model, vocab: self.served.vocab };
        self.remember(open.task);
        if let Some(next) = &open.next {
            effects.push(Effect::Connect { node: next.node, address: next.address.clone() });
        }
        effects.push(Effect::Message { to: from, message: Message::Opened { task: open.task } });
        self.sessions.insert(open.task, Session::new(id, from, shape, open, work, now_ms));
        Ok(())
    }

    fn remember(&mut self, task: Digest) {
        self.seen.insert(task);
        self.seen_order.push_back(task);
        if self.seen_order.len() > limits::TASKS_REMEMBERED
            && let Some(oldest) = self.seen_order.pop_front()
        {
            self.seen.remove(&oldest);
        }
    }

    fn data(&mut self, now_ms: u64, from: NodeId, data: Data, effects: &mut Vec<Effect>) {
        let task = data.task();
        let refusal = match self.sessions.get_mut(&task) {
            None => unknown(&task),
            Some(session) if session.previous != from => {
                let expected = session.previous;
                Refusal::new(Code::NotAllowed, format!("data from {from}, expected them from {expected}"))
            }
            Some(session) => {
                session.heard_ms = now_ms;
                let taken = session.data(data);
                return self.settle(task, taken, true, effects);
            }
        };
        let fault = Fault::new(Some(task), refusal.code, None, &refusal.text);
        effects.push(Effect::Message { to: from, message: Message::Error(fault) });
    }

    /// Ends the task if something was refused, else lets it compute. Data that do not fit are
    /// the fault of the stage before.
    fn settle(&mut self, task: Digest, result: Result<(), Refusal>, data: bool, effects: &mut Vec<Effect>) {
        match result {
            Ok(()) => self.schedule(task),
            Err(refusal) => self.fail(task, &refusal, i32::from(data), effects),
        }
    }

    fn schedule(&mut self, task: Digest) {
        if self.sessions.get(&task).is_some_and(Session::ready) && !self.ready.contains(&task) {
            self.ready.push_back(task);
        }
    }

    /// Tells the owner that the stage `upstream` places before this one failed; drops the task.
    fn fail(&mut self, task: Digest, refusal: &Refusal, upstream: i32, effects: &mut Vec<Effect>) {
        let Some(session) = self.remove(&task) else { return };
        let stage = i32::from(session.open.stage) - upstream;
        let stage = u16::try_from(stage.max(0)).unwrap_or(u16::MAX);
        let fault = Fault::new(Some(task), refusal.code, Some(stage), &refusal.text);
        effects.push(Effect::Message { to: session.owner, message: Message::Error(fault) });
    }

    fn done(&mut self, now_ms: u64, done: JobDone, effects: &mut Vec<Effect>) {
        let task = done.id.task;
        if let Some(prover) = self.prover.as_mut().filter(|prover| prover.is_making(done.id)) {
            let (owner, result) = prover.done(done, now_ms);
            let message = match result {
                Ok(page) => Message::Proof(page),
                Err(refusal) => Message::Error(Fault::new(Some(task), refusal.code, None, &refusal.text)),
            };
            effects.push(Effect::Message { to: owner, message });
            return;
        }
        // Cancelled while the job ran: nobody waits for it.
        let Some(session) = self.sessions.get_mut(&task).filter(|session| session.id() == done.id) else {
            return;
        };
        let (work, produced) = match done.result {
            Ok(Ended::Step(work, produced)) => (*work, produced),
            // A proof that nobody waits for.
            Ok(Ended::Proof(_)) => return,
            Err(refusal) => return self.fail(task, &refusal, 0, effects),
        };
        session.done(work);
        session.heard_ms = now_ms;
        let owner = session.owner;
        let closed = produced.messages.iter().any(|message| matches!(message, Message::Closed { .. }));
        if let (Some(data), Some(outlet)) = (produced.data, &mut session.outlet) {
            let to = outlet.next().node;
            effects.extend(outlet.push(data).into_iter().map(|data| Effect::Data { to, data }));
        }
        effects.extend(produced.messages.into_iter().map(|message| Effect::Message { to: owner, message }));
        for span in produced.leaves {
            self.leaves.insert(task, owner, span, now_ms);
        }
        if let (Some(prover), Some(kept)) = (&mut self.prover, produced.closed) {
            prover.keep(task, owner, kept, now_ms);
        }
        if closed {
            self.remove(&task);
        } else {
            self.schedule(task);
        }
        self.bound_backups();
    }

    fn tick(&mut self, now_ms: u64, effects: &mut Vec<Effect>) {
        let idle_ms = self.limits.task_idle_ms;
        let idle = |session: &Session| now_ms.saturating_sub(session.heard_ms) >= idle_ms;
        let tasks: Vec<Digest> =
            self.sessions.iter().filter(|(_, session)| idle(session)).map(|(task, _)| *task).collect();
        for task in tasks {
            let refusal = Refusal::new(Code::Idle, format!("nothing was heard for {idle_ms} ms"));
            self.fail(task, &refusal, 0, effects);
        }
        self.leaves.expire(now_ms);
        if let Some(prover) = &mut self.prover {
            prover.expire(now_ms);
        }
    }
}

fn unknown(task: &Digest) -> Refusal {
    Refusal::new(Code::UnknownTask, format!("task {task} is not open here"))
}

fn not_owner(owner: NodeId) -> Refusal {
    Refusal::new(Code::NotAllowed, format!("only {owner}, which opened the task, may ask that"))
}
