//! The part of a stage that takes time: computing, hashing, signing.
//!
//! A [`Job`] owns all that it needs, so a shell runs it on any thread while the machines go on
//! taking messages: that is how a cancel overtakes data. Order inside a task is kept because a
//! task has one `Work`, which is either in its session or in one job.

use crate::code::Code;
use crate::compute::{ComputeError, Output, StageCompute, StageProver};
use crate::data::{Batch, Data, Values};
use crate::message::{Message, Open, Prove, Token};
use crate::proof_store::Closed;
use crate::rows::StageRows;
use lockstep_base::Digest;
use lockstep_base::keys::NodeKey;
use lockstep_base::limits::SPAN_TOKENS;
use lockstep_base::receipt::{FLAG_CLOSING, FLAG_FULL_TRACE, FLAG_PROVABLE, Receipt, state_root};
use lockstep_base::receipt_file::ServedLeaf;
use std::sync::Arc;

/// Why a stage stops serving a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its kind.
    pub code: Code,
    /// What was got and what was expected.
    pub text: String,
}

impl Refusal {
    pub(crate) fn new(code: Code, text: impl Into<String>) -> Refusal {
        Refusal { code, text: text.into() }
    }
}

/// What a stage does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Batch(Batch),
    Truncate(u32),
    Close,
}

/// Leaves of a span that was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SpanLeaves {
    pub(crate) first_token: u32,
    pub(crate) leaves: Vec<ServedLeaf>,
}

/// What one step gave.
#[derive(Debug, Default)]
pub(crate) struct Produced {
    pub(crate) data: Option<Data>,
    pub(crate) messages: Vec<Message>,
    pub(crate) leaves: Vec<SpanLeaves>,
    /// What a provable task leaves behind when it is closed.
    pub(crate) closed: Option<Closed>,
}

/// Compute and receipt chain of one task.
pub(crate) struct Work {
    key: Arc<NodeKey>,
    open: Arc<Open>,
    compute: Box<dyn StageCompute>,
    /// Of a provable task: who commits, and to what.
    provable: Option<(Arc<dyn StageProver>, StageRows)>,
    computed: u32,
    signed: u32,
    previous: Digest,
}

impl core::fmt::Debug for Work {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Work")
            .field("signed", &self.signed)
            .field("computed", &self.computed)
            .finish_non_exhaustive()
    }
}

impl Work {
    pub(crate) fn new(
        key: Arc<NodeKey>,
        open: Arc<Open>,
        compute: Box<dyn StageCompute>,
        provable: Option<(Arc<dyn StageProver>, StageRows)>,
    ) -> Work {
        Work { key, open, compute, provable, computed: 0, signed: 0, previous: Digest::ZERO }
    }

    /// Positions that are computed.
    pub(crate) fn computed(&self) -> u32 {
        self.computed
    }

    fn run(&mut self, step: Step) -> Result<Produced, Refusal> {
        match step {
            Step::Batch(batch) => self.batch(&batch),
            Step::Truncate(position) => {
                // The session checked that the span which `position` lies in is not signed.
                self.compute.truncate(position);
                if let Some((_, rows)) = &mut self.provable {
                    rows.truncate(position);
                }
                self.computed = position;
                let data = self.open.next.is_some().then_some(Data::Truncate {
                    task: self.open.task,
                    branch: 0,
                    position,
                });
                Ok(Produced { data, ..Produced::default() })
            }
            Step::Close => {
                let mut produced = Produced::default();
                self.sign(self.computed - self.signed, FLAG_CLOSING, &mut produced);
                if let Some((_, rows)) = self.provable.take() {
                    produced.closed = Some(Closed { open: self.open.clone(), rows: Arc::new(rows) });
                }
                produced.messages.push(Message::Closed { task: self.open.task });
                Ok(produced)
            }
        }
    }

    fn batch(&mut self, batch: &Batch) -> Result<Produced, Refusal> {
        let open = &self.open;
        let sampled = batch.end() - batch.sample_from;
        let mut produced = Produced::default();
        let output = self.compute.forward(batch.position, &batch.values, batch.sample_from);
        if let (Ok(output), Some((_, rows))) = (&output, &mut self.provable) {
            rows.enter(&batch.values);
            rows.leave(output);
        }
        match output {
            Err(error) => return Err(refusal(&error)),
            Ok(Output::Rows(rows)) if !open.part.head => {
                produced.data = Some(Data::Batch(Batch { values: Values::Rows(rows), ..*batch }));
            }
            Ok(Output::Sampled(tokens)) if open.part.head && tokens.len() == sampled as usize => {
                let positions = batch.sample_from + 1..;
                produced.messages.extend(positions.zip(tokens).map(|(position, sampled)| {
                    Message::Token(Token {
                        task: open.task,
                        branch: batch.branch,
                        position,
                        token: sampled.token,
                        logprobs: sampled.logprobs,
                    })
                }));
            }
            Ok(_) => {
                let text = format!("the compute of {} gave an output of another shape", open.part);
                return Err(Refusal::new(Code::Internal, text));
            }
        }
        self.computed += batch.count;
        while self.computed - self.signed >= SPAN_TOKENS {
            self.sign(SPAN_TOKENS, 0, &mut produced);
        }
        Ok(produced)
    }

    /// Signs the next `count` positions.
    fn sign(&mut self, token_count: u32, flags: u8, produced: &mut Produced) {
        let first_token = self.signed;
        let span = self.compute.close_span(first_token..first_token + token_count);
        let open = &self.open;
        let (mut provable, mut commit_in, mut commit_out) = (0, Digest::ZERO, Digest::ZERO);
        if let Some((prover, rows)) = self.provable.as_ref().filter(|_| flags & FLAG_CLOSING != 0) {
            provable = FLAG_PROVABLE;
            let commit = |there, rows: &[i32]| if there { prover.commit(rows) } else { Digest::ZERO };
            commit_in = commit(!open.part.embed, &rows.entering);
            commit_out = commit(!open.part.head, &rows.leaving);
        }
        let receipt = Receipt {
            task: open.task,
            model_root: open.model_root,
            opset: open.opset.clone(),
            part: open.part,
            stage: open.stage,
            first_token,
            token_count,
            parameters: open.parameters_digest,
            masks: Digest::ZERO,
            adapters: open.adapter,
            sampler_seed: open.sampler_seed,
            in_root: span.in_root,
            out_root: span.out_root,
            state_root: state_root(&span.kv_root, &span.trace_root),
            code: Digest::ZERO,
            previous: self.previous,
            audit_class: open.audit_class,
            flags: flags | provable | if open.full_trace { FLAG_FULL_TRACE } else { 0 },
            commit_in,
            commit_out,
        };
        self.previous = receipt.struct_hash();
        self.signed += token_count;
        let receipt = receipt.sign(&self.key).to_wire();
        produced.messages.push(Message::Receipt { task: open.task, receipt });
        produced.leaves.push(SpanLeaves { first_token, leaves: span.leaves });
    }
}

fn refusal(error: &ComputeError) -> Refusal {
    let code = match error {
        ComputeError::Range(_) => Code::Compute,
        ComputeError::Input(_) => Code::Shape,
    };
    Refusal::new(code, error.to_string())
}

/// Which job: the task, and which of the sessions that had its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId {
    /// The task.
    pub task: Digest,
    pub(crate) serial: u64,
}

/// One step of one task, or the proof of one that was closed, ready to run anywhere.
#[derive(Debug)]
pub struct Job {
    pub(crate) id: JobId,
    pub(crate) kind: Kind,
}

/// What a job does.
pub(crate) enum Kind {
    Step(Work, Step),
    Prove { prover: Arc<dyn StageProver>, closed: Closed, prove: Box<Prove> },
}

impl core::fmt::Debug for Kind {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Kind::Step(work, step) => f.debug_tuple("Step").field(work).field(step).finish(),
            Kind::Prove { prove, .. } => f.debug_tuple("Prove").field(prove).finish(),
        }
    }
}

/// What a job gave; goes back into the node as [`crate::node::Input::Done`].
#[derive(Debug)]
pub struct JobDone {
    pub(crate) id: JobId,
    pub(crate) result: Result<Ended, Refusal>,
}

/// How a job ended.
#[derive(Debug)]
pub(crate) enum Ended {
    Step(Box<Work>, Produced),
    Proof(Vec<u8>),
}

impl Job {
    /// Which job this is.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.id
    }

    /// Positions that it computes.
    #[must_use]
    pub fn positions(&self) -> usize {
        match &self.kind {
            Kind::Step(_, Step::Batch(batch)) => batch.count as usize,
            _ => 0,
        }
    }

    /// Computes. May take long; needs no lock.
    #[must_use]
    pub fn run(self) -> JobDone {
        let result = match self.kind {
            Kind::Step(mut work, step) => {
                work.run(step).map(|produced| Ended::Step(Box::new(work), produced))
            }
            Kind::Prove { prover, closed, prove } => prover
                .prove(&closed.open, &closed.rows, &prove)
                .map(Ended::Proof)
                .map_err(|error| Refusal::new(Code::NoProof, error.to_string())),
        };
        JobDone { id: self.id, result }
    }
}

impl JobDone {
    /// Which job it was.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.id
    }

    /// A job that ended without a result, because its worker panicked.
    #[must_use]
    pub fn lost(id: JobId) -> JobDone {
        JobDone { id, result: Err(Refusal::new(Code::Internal, "the worker of this task was lost")) }
    }
}
