//! One stage of one task: a part of the model, its cache, and the roots of what it did.
//!
//! Serving and re-execution both run *this*, so a receipt and its audit cannot differ by accident.
//! A step takes rows (tokens in the first stage) at the next positions and gives rows (sampled
//! tokens in the last stage); [`StageRun::close_span`] gives the four roots of a span.

use crate::forward::{Engine, ForwardError};
use crate::kv::KvCache;
use crate::observe::Observer;
use crate::sample::{self, Distribution};
use crate::trace::{Edge, TraceMode, Tracer};
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Range;
use lockstep_base::Digest;
use lockstep_base::leaf::StageSecrets;
use lockstep_base::merkle::Accumulator;
use lockstep_base::params::{Parameters, draw};
use lockstep_base::part::Part;
use lockstep_base::receipt_file::ServedLeaf;

/// What enters a stage.
#[derive(Debug, Clone, Copy)]
pub enum StepInput<'a> {
    /// Tokens, for the stage that embeds.
    Tokens(&'a [u32]),
    /// Residual rows `(tokens, d_model)` from the stage before.
    Rows(&'a [i32]),
}

/// A token sampled at `position` (it will stand at `position + 1`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sampled {
    /// Position of the row that it was sampled from.
    pub position: u32,
    /// The token.
    pub token: u32,
    /// For log-probabilities, where asked for.
    pub distribution: Option<Distribution>,
}

/// What leaves a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StepOutput {
    /// Residual rows for the next stage.
    Rows(Vec<i32>),
    /// Sampled tokens, of the last stage.
    Sampled(Vec<Sampled>),
}

/// How a task is to be computed.
#[derive(Debug, Clone)]
pub struct Task {
    /// Salts of this stage.
    pub secrets: StageSecrets,
    /// Sampling parameters.
    pub parameters: Parameters,
    /// Seed of the sampler.
    pub sampler_seed: Digest,
    /// What the trace root covers.
    pub mode: TraceMode,
    /// Keep the bytes under the leaves, to serve them.
    pub keep_leaves: bool,
    /// Alternatives with log-probabilities; `None` computes no distribution.
    pub top_logprobs: Option<u32>,
}

/// The roots of one span.
#[derive(Debug, Clone)]
pub struct SpanSummary {
    /// Over what entered.
    pub in_root: Digest,
    /// Over what left.
    pub out_root: Digest,
    /// Cumulative, keys and values.
    pub kv_root: Digest,
    /// Op outputs.
    pub trace_root: Digest,
    /// Kept leaves.
    pub leaves: Vec<ServedLeaf>,
}

/// A place to come back to, see [`StageRun::checkpoint`].
#[derive(Debug, Clone)]
pub struct Checkpoint {
    position: u32,
    tracer: Tracer,
}

impl Checkpoint {
    /// The tree of keys and values up to here.
    #[must_use]
    pub fn kv_accumulator(&self) -> &Accumulator {
        self.tracer.kv_accumulator()
    }
}

/// A running stage.
#[derive(Debug)]
pub struct StageRun {
    engine: Engine,
    part: Part,
    task: Task,
    cache: KvCache,
    tracer: Tracer,
    /// Leaves in and out of positions whose span is open.
    edges: BTreeMap<u32, (Vec<Digest>, Vec<Digest>)>,
}

impl StageRun {
    /// Starts a task on `engine`, which holds the weights of `part`.
    #[must_use]
    pub fn new(engine: Engine, part: Part, task: Task) -> StageRun {
        let cache = engine.new_cache();
        let tracer = Tracer::new(task.secrets.own, task.mode, task.keep_leaves);
        StageRun { engine, part, task, cache, tracer, edges: BTreeMap::new() }
    }

    /// The part that is run.
    #[must_use]
    pub fn part(&self) -> &Part {
        &self.part
    }

    /// The next position.
    #[must_use]
    pub fn position(&self) -> u32 {
        self.cache.len() as u32
    }

    /// Computes the next positions. In the last stage, tokens are sampled at every position from
    /// `sample_from` on. `drill` sees every op output before the tracer does, and may change it.
    ///
    /// # Errors
    /// [`ForwardError`]; the run is then as before the step.
    pub fn step<O: Observer>(
        &mut self,
        input: StepInput<'_>,
        sample_from: u32,
        drill: &mut O,
    ) -> Result<StepOutput, ForwardError> {
        let start = self.position();
        let result = self.compute(input, sample_from, drill);
        if result.is_err() {
            self.truncate(start);
        }
        result
    }

    fn compute<O: Observer>(
        &mut self,
        input: StepInput<'_>,
        sample_from: u32,
        drill: &mut O,
    ) -> Result<StepOutput, ForwardError> {
        let start = self.position();
        let width = self.engine.width();
        let mut observer = (drill, &mut self.tracer);
        let mut rows = match input {
            StepInput::Tokens(tokens) => {
                for (position, token) in (start..).zip(tokens) {
                    let leaf = Edge::token(&self.task.secrets, position).token_leaf(Some(*token));
                    self.edges.entry(position).or_default().0.push(leaf);
                }
                self.engine.embed(tokens, start as usize, &mut observer)?
            }
            StepInput::Rows(rows) => {
                for (position, row) in (start..).zip(rows.chunks(width)) {
                    let leaves =
                        Edge::input(&self.task.secrets, self.part.first_layer, position).row_leaves(row);
                    self.edges.entry(position).or_default().0 = leaves;
                }
                rows.to_vec()
            }
        };
        self.engine.layers(&mut rows, &mut self.cache, &mut observer)?;
        let end = self.cache.len() as u32;
        if !self.part.head {
            for (position, row) in (start..end).zip(rows.chunks(width)) {
                let leaves = Edge::output(&self.task.secrets, self.part.end_layer, position).row_leaves(row);
                self.edges.entry(position).or_default().1 = leaves;
            }
            return Ok(StepOutput::Rows(rows));
        }
        let first = sample_from.clamp(start, end);
        let mut sampled = Vec::new();
        if first < end {
            let positions: Vec<usize> = (first as usize..end as usize).collect();
            let tail = &rows[(first - start) as usize * width..];
            let logits = self.engine.logits(tail, &positions, &mut observer)?;
            let vocab = self.engine.weights.config.vocab as usize;
            sampled = (first..end)
                .zip(logits.chunks(vocab))
                .map(|(position, row)| self.choose(row, position))
                .collect();
        }
        for position in start..end {
            let token = position.checked_sub(first).map(|i| sampled[i as usize].token);
            let leaf = Edge::sample(&self.task.secrets, position).token_leaf(token);
            self.edges.entry(position).or_default().1 = alloc::vec![leaf];
        }
        Ok(StepOutput::Sampled(sampled))
    }

    fn choose(&self, logits: &[i32], position: u32) -> Sampled {
        let weights = &self.engine.weights;
        let frac = weights.head.as_ref().map_or(0, |head| i32::from(head.out_frac));
        let table = &weights.tables.exp2_sample;
        let word = draw(&self.task.sampler_seed, position + 1);
        let token = sample::sample(logits, frac, &self.task.parameters, word, table);
        let distribution =
            self.task.top_logprobs.map(|top| sample::distribution(logits, frac, token, top as usize, table));
        Sampled { position, token, distribution }
    }

    /// Roots of the span `positions`, which must follow the last closed span.
    ///
    /// # Panics
    /// If it does not.
    pub fn close_span(&mut self, positions: Range<u32>) -> SpanSummary {
        let (mut input, mut output) = (Accumulator::default(), Accumulator::default());
        for position in positions.clone() {
            let (entered, left) = self.edges.remove(&position).unwrap_or_default();
            entered.into_iter().for_each(|leaf| input.push(leaf));
            left.into_iter().for_each(|leaf| output.push(leaf));
        }
        let (roots, leaves) = self.tracer.close_span(positions);
        SpanSummary {
            in_root: input.root(),
            out_root: output.root(),
            kv_root: roots.kv,
            trace_root: roots.trace,
            leaves,
        }
    }

    /// Goes back to `position`, which must not lie in a closed span (the caller checks).
    pub fn truncate(&mut self, position: u32) {
        self.cache.truncate(position as usize);
        self.tracer.truncate(position);
        self.edges.split_off(&position);
    }

    /// Where the run stands; only between spans.
    ///
    /// # Panics
    /// If a span is open.
    #[must_use]
    pub fn checkpoint(&self) -> Checkpoint {
        assert!(self.edges.is_empty(), "checkpoints are taken between spans");
        Checkpoint { position: self.position(), tracer: self.tracer.clone() }
    }

    /// Goes back to a checkpoint of this run.
    pub fn restore(&mut self, checkpoint: Checkpoint) {
        self.cache.truncate(checkpoint.position as usize);
        self.tracer = checkpoint.tracer;
        self.edges.clear();
    }

    /// Sets whether leaves are kept from here on.
    pub fn keep_leaves(&mut self, keep: bool) {
        self.tracer.set_keep(keep);
    }
}
