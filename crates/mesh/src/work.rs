//! The part of a stage that takes time: computing, hashing, signing.
//!
//! A [`Job`] owns all that it needs, so a shell runs it on any thread while the machines go on
//! taking messages: that is how a cancel overtakes data. Order inside a task is kept because a
//! task has one [`Work`], which is either in its session or in one job.

use crate::code::Code;
use crate::compute::{ComputeError, Output, StageCompute};
use crate::data::{Batch, Data, Values};
use crate::edge;
use crate::message::{Message, Open, Token};
use lockstep_base::Digest;
use lockstep_base::keys::NodeKey;
use lockstep_base::limits::SPAN_TOKENS;
use lockstep_base::merkle;
use lockstep_base::receipt::{FLAG_CLOSING, FLAG_FULL_TRACE, Receipt, state_root};
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
}

/// Leaves of the edges at one position.
struct Edges {
    input: Vec<Digest>,
    output: Vec<Digest>,
}

/// Compute and receipt chain of one task.
pub(crate) struct Work {
    key: Arc<NodeKey>,
    open: Arc<Open>,
    compute: Box<dyn StageCompute>,
    /// Edges of the positions from `signed` on.
    edges: Vec<Edges>,
    signed: u32,
    previous: Digest,
}

impl core::fmt::Debug for Work {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Work")
            .field("signed", &self.signed)
            .field("edges", &self.edges.len())
            .finish_non_exhaustive()
    }
}

impl Work {
    pub(crate) fn new(key: Arc<NodeKey>, open: Arc<Open>, compute: Box<dyn StageCompute>) -> Work {
        Work { key, open, compute, edges: Vec::new(), signed: 0, previous: Digest::ZERO }
    }

    /// Positions that are computed.
    pub(crate) fn computed(&self) -> u32 {
        self.signed + self.edges.len() as u32
    }

    fn run(&mut self, step: Step) -> Result<Produced, Refusal> {
        match step {
            Step::Batch(batch) => self.batch(batch),
            Step::Truncate(position) => {
                // The session checked that the span which `position` lies in is not signed.
                self.compute.truncate(position);
                self.edges.truncate(position.saturating_sub(self.signed) as usize);
                let data = self.open.next.is_some().then_some(Data::Truncate {
                    task: self.open.task,
                    branch: 0,
                    position,
                });
                Ok(Produced { data, ..Produced::default() })
            }
            Step::Close => {
                let mut produced = Produced::default();
                let rest = self.edges.len();
                self.sign(rest, FLAG_CLOSING, &mut produced);
                produced.messages.push(Message::Closed { task: self.open.task });
                Ok(produced)
            }
        }
    }

    fn batch(&mut self, batch: Batch) -> Result<Produced, Refusal> {
        let (open, start, count) = (Arc::clone(&self.open), batch.position, batch.count());
        let input = edge::input_leaves(&open.secrets.input, &open.part, start, count, &batch.values);
        let output =
            self.compute.forward(start, &batch.values, &batch.sample).map_err(|error| refusal(&error))?;
        let mut produced = Produced::default();
        let leaves = match output {
            Output::Rows(rows) if !open.part.head && rows.len() % count == 0 && !rows.is_empty() => {
                let leaves =
                    edge::rows_leaves(&open.secrets.output, open.part.end_layer, start, count, &rows);
                produced.data = Some(Data::Batch(Batch { values: Values::Rows(rows), ..batch }));
                leaves
            }
            Output::Samples(samples) if open.part.head && samples.len() == count => {
                let at = |i: usize| start + i as u32;
                let leaf = |i: usize, token| edge::sample_leaf(&open.secrets.output, at(i), token);
                let tokens = samples.iter().enumerate();
                let leaves = tokens.map(|(i, s)| vec![leaf(i, s.as_ref().map(|s| s.token))]).collect();
                produced.messages.extend(samples.into_iter().enumerate().filter_map(|(i, sampled)| {
                    let sampled = sampled?;
                    Some(Message::Token(Token {
                        task: open.task,
                        branch: batch.branch,
                        position: at(i) + 1,
                        token: sampled.token,
                        logprobs: sampled.logprobs,
                    }))
                }));
                leaves
            }
            _ => {
                let text = format!(
                    "the compute of {} gave an output of another shape for {count} positions",
                    open.part
                );
                return Err(Refusal::new(Code::Internal, text));
            }
        };
        self.edges.extend(input.into_iter().zip(leaves).map(|(input, output)| Edges { input, output }));
        while self.edges.len() >= SPAN_TOKENS as usize {
            self.sign(SPAN_TOKENS as usize, 0, &mut produced);
        }
        Ok(produced)
    }

    /// Signs the next `count` positions.
    fn sign(&mut self, count: usize, flags: u8, produced: &mut Produced) {
        let first_token = self.signed;
        let token_count = count as u32;
        let trace = self.compute.close_span(first_token..first_token + token_count);
        let edges: Vec<Edges> = self.edges.drain(..count).collect();
        let root = |side: fn(&Edges) -> &Vec<Digest>| {
            merkle::root(&edges.iter().flat_map(side).copied().collect::<Vec<_>>())
        };
        let open = &self.open;
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
            adapters: Digest::ZERO,
            sampler_seed: open.sampler_seed,
            in_root: root(|edges| &edges.input),
            out_root: root(|edges| &edges.output),
            state_root: state_root(&trace.kv_root, &trace.trace_root),
            code: Digest::ZERO,
            previous: self.previous,
            audit_class: open.audit_class,
            flags: flags | if open.full_trace { FLAG_FULL_TRACE } else { 0 },
            commit_in: Digest::ZERO,
            commit_out: Digest::ZERO,
        };
        self.previous = receipt.struct_hash();
        self.signed += token_count;
        let receipt = receipt.sign(&self.key).to_wire();
        produced.messages.push(Message::Receipt { task: open.task, receipt });
        produced.leaves.push(SpanLeaves { first_token, leaves: trace.leaves });
    }
}

fn refusal(error: &ComputeError) -> Refusal {
    let code = match error {
        ComputeError::Range(_) => Code::Compute,
        ComputeError::Input(_) => Code::Shape,
        ComputeError::Internal(_) => Code::Internal,
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

/// One step of one task, ready to run anywhere.
#[derive(Debug)]
pub struct Job {
    pub(crate) id: JobId,
    pub(crate) work: Work,
    pub(crate) step: Step,
}

/// What a job gave; goes back into the node as [`crate::node::Input::Done`].
#[derive(Debug)]
pub struct JobDone {
    pub(crate) id: JobId,
    pub(crate) result: Result<(Work, Produced), Refusal>,
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
        match &self.step {
            Step::Batch(batch) => batch.count(),
            _ => 0,
        }
    }

    /// Computes. May take long; needs no lock.
    #[must_use]
    pub fn run(mut self) -> JobDone {
        let result = self.work.run(self.step).map(|produced| (self.work, produced));
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
