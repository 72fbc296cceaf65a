//! One stage of one task: a part of the model, its cache, and the roots of what it did.
//!
//! Serving and re-execution both run *this*, so a receipt and its audit cannot differ by accident.
//! A step takes rows (tokens in the first stage) at the next positions and gives rows (sampled
//! tokens in the last stage); [`StageRun::close_span`] gives the four roots of a span.

use crate::forward::{Engine, ForwardError, HeadRows, Segment};
use crate::kv::KvCache;
use crate::observe::Observer;
use crate::pool::Rows;
use crate::sample::{self, Distribution};
use crate::trace::{Edge, TraceMode, Tracer};
use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::ops::Range;
use lockstep_base::Digest;
use lockstep_base::adapter::AdapterWeights;
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
    /// The adapter, which fits the model and holds the layers of the part.
    pub adapter: Option<Arc<AdapterWeights>>,
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

/// One run's part of a batch, see [`StageRun::step_batch`].
#[derive(Debug)]
pub struct BatchStep<'a, O> {
    /// The run.
    pub run: &'a mut StageRun,
    /// What enters it.
    pub input: StepInput<'a>,
    /// The first position that is sampled at.
    pub sample_from: u32,
    /// Sees every op output before the run's tracer does, and may change it.
    pub drill: &'a mut O,
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
        let cache = engine.new_cache().with_adapter(task.adapter.clone());
        let tracer = Tracer::new(engine.clone(), task.secrets.own, task.mode, task.keep_leaves);
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
        let mut steps = [BatchStep { run: self, input, sample_from, drill }];
        let result = compute(&mut steps).map(|mut outputs| outputs.swap_remove(0));
        if result.is_err() {
            self.truncate(start);
        }
        result
    }

    /// [`StageRun::step`] of several runs at once: weights are read once for all of them. Each gets
    /// what it would get alone; where one meets an error the others do not notice. Runs that share no
    /// engine are stepped one after another.
    pub fn step_batch<O: Observer>(steps: &mut [BatchStep<'_, O>]) -> Vec<Result<StepOutput, ForwardError>> {
        let starts: Vec<u32> = steps.iter().map(|step| step.run.position()).collect();
        let together = steps.windows(2).all(|pair| {
            let [a, b] = [&pair[0].run, &pair[1].run].map(|run| (&run.engine, run.part));
            Arc::ptr_eq(&a.0.weights, &b.0.weights) && Arc::ptr_eq(&a.0.compute, &b.0.compute) && a.1 == b.1
        });
        if together {
            if let Ok(outputs) = compute(steps) {
                return outputs.into_iter().map(Ok).collect();
            }
            steps.iter_mut().zip(starts).for_each(|(step, start)| step.run.truncate(start));
        }
        steps.iter_mut().map(|step| step.run.step(step.input, step.sample_from, step.drill)).collect()
    }

    /// Notes what enters and embeds it: residual rows.
    fn enter<O: Observer>(&mut self, input: StepInput<'_>, drill: &mut O) -> Result<Vec<i32>, ForwardError> {
        let start = self.position();
        match input {
            StepInput::Tokens(tokens) => {
                for (position, token) in (start..).zip(tokens) {
                    let leaf = Edge::token(&self.task.secrets, position).token_leaf(Some(*token));
                    self.edges.entry(position).or_default().0.push(leaf);
                }
                self.engine.embed(tokens, start as usize, &mut (drill, &mut self.tracer))
            }
            StepInput::Rows(rows) => {
                let (secrets, layer) = (&self.task.secrets, self.part.first_layer);
                let leaves = self.row_leaves(rows, |row| Edge::input(secrets, layer, start + row));
                for (position, leaves) in (start..).zip(leaves) {
                    self.edges.entry(position).or_default().0 = leaves;
                }
                Ok(rows.to_vec())
            }
        }
    }

    /// Leaves of residual rows, hashed on all threads; `edge` names the place of a row.
    fn row_leaves(&self, rows: &[i32], edge: impl Fn(u32) -> Edge + Sync) -> Vec<Vec<Digest>> {
        let width = self.engine.width();
        let mut leaves: Vec<Vec<Digest>> = Vec::new();
        leaves.resize(rows.len() / width, Vec::new());
        self.engine.compute.pool.rows(2, Rows::new(&mut leaves, 1), |row, leaves| {
            leaves[0] = edge(row as u32).row_leaves(&rows[row * width..(row + 1) * width]);
        });
        leaves
    }

    /// Notes the rows that leave.
    fn leave(&mut self, start: u32, leaves: Vec<Vec<Digest>>) {
        for (position, leaves) in (start..).zip(leaves) {
            self.edges.entry(position).or_default().1 = leaves;
        }
    }

    /// Samples from the `logits` of the positions from `first` on, and notes the tokens of all since `start`.
    fn sample(&mut self, start: u32, first: u32, logits: &[i32]) -> Vec<Sampled> {
        let vocab = self.engine.weights.config.vocab as usize;
        let rows = (first..).zip(logits.chunks(vocab));
        let sampled: Vec<Sampled> = rows.map(|(position, row)| self.choose(row, position)).collect();
        for position in start..self.position() {
            let token = position.checked_sub(first).map(|i| sampled[i as usize].token);
            let leaf = Edge::sample(&self.task.secrets, position).token_leaf(token);
            self.edges.entry(position).or_default().1 = alloc::vec![leaf];
        }
        sampled
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

/// Steps all runs, which have one engine and part. After an error they must be truncated.
fn compute<O: Observer>(steps: &mut [BatchStep<'_, O>]) -> Result<Vec<StepOutput>, ForwardError> {
    let Some(first) = steps.first() else { return Ok(Vec::new()) };
    let (engine, part) = (first.run.engine.clone(), first.run.part);
    let width = engine.width();
    let starts: Vec<u32> = steps.iter().map(|step| step.run.position()).collect();
    let mut rows = Vec::new();
    let mut counts = Vec::with_capacity(steps.len());
    for step in steps.iter_mut() {
        let entered = step.run.enter(step.input, step.drill)?;
        if !entered.len().is_multiple_of(width) {
            return Err(ForwardError::Width { got: entered.len(), width });
        }
        counts.push(entered.len() / width);
        rows.extend(entered);
    }
    {
        let mut runs: Vec<(&mut KvCache, (&mut O, &mut Tracer))> = steps
            .iter_mut()
            .map(|step| (&mut step.run.cache, (&mut *step.drill, &mut step.run.tracer)))
            .collect();
        let mut segments: Vec<Segment<'_, (&mut O, &mut Tracer)>> = runs
            .iter_mut()
            .zip(&counts)
            .map(|((cache, observer), rows)| Segment { cache, rows: *rows, observer })
            .collect();
        engine.layers_batch(&mut rows, &mut segments)?;
    }
    let outputs = if part.head {
        sampled(&engine, steps, &starts, &rows)?
    } else {
        left(steps, &starts, &rows, &counts, width)
    };
    steps.iter_mut().for_each(|step| step.run.tracer.hash_waiting());
    Ok(outputs)
}

/// The rows that leave each run.
fn left<O>(
    steps: &mut [BatchStep<'_, O>],
    starts: &[u32],
    mut rows: &[i32],
    counts: &[usize],
    width: usize,
) -> Vec<StepOutput> {
    let mut outputs = Vec::with_capacity(steps.len());
    for ((step, start), count) in steps.iter_mut().zip(starts).zip(counts) {
        let own = rows.split_off(..count * width).unwrap_or_default();
        let (secrets, layer) = (&step.run.task.secrets, step.run.part.end_layer);
        let leaves = step.run.row_leaves(own, |row| Edge::output(secrets, layer, start + row));
        step.run.leave(*start, leaves);
        outputs.push(StepOutput::Rows(own.to_vec()));
    }
    outputs
}

/// The tokens that each run samples: its rows from its `sample_from` on, through the head together.
fn sampled<O: Observer>(
    engine: &Engine,
    steps: &mut [BatchStep<'_, O>],
    starts: &[u32],
    rows: &[i32],
) -> Result<Vec<StepOutput>, ForwardError> {
    let (width, vocab) = (engine.width(), engine.weights.config.vocab as usize);
    let (mut tails, mut positions, mut at) = (Vec::new(), Vec::new(), 0);
    for (step, start) in steps.iter().zip(starts) {
        let end = step.run.position();
        let first = step.sample_from.clamp(*start, end);
        tails.extend_from_slice(
            &rows[(at + first - start) as usize * width..(at + end - start) as usize * width],
        );
        positions.push((first as usize..end as usize).collect::<Vec<usize>>());
        at += end - start;
    }
    let mut logits = Vec::new();
    if !tails.is_empty() {
        let mut observers: Vec<(&mut O, &mut Tracer)> =
            steps.iter_mut().map(|step| (&mut *step.drill, &mut step.run.tracer)).collect();
        let own = positions.iter().zip(&mut observers);
        let mut own: Vec<_> = own.map(|(positions, observer)| HeadRows { positions, observer }).collect();
        logits = engine.logits_batch(&tails, &mut own)?;
    }
    let mut rest = logits.as_slice();
    let mut outputs = Vec::with_capacity(steps.len());
    for ((step, start), positions) in steps.iter_mut().zip(starts).zip(&positions) {
        let own = rest.split_off(..positions.len() * vocab).unwrap_or_default();
        let first = step.run.position() - positions.len() as u32;
        outputs.push(StepOutput::Sampled(step.run.sample(*start, first, own)));
    }
    Ok(outputs)
}
