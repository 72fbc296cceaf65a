//! Proofs of answers (docs/spec/proofs.md): by a model that this process holds, and by the nodes that computed them ([`stage`]).

pub mod stage;

use lockstep_base::Digest;
use lockstep_base::adapter::AdapterWeights;
use lockstep_base::part::Part;
use lockstep_base::weights::ModelWeights;
use lockstep_proof::argument::prove::Phase;
use lockstep_proof::decoder::cells_at_most;
use lockstep_proof::decoder::plan::Plan;
use lockstep_proof::decoder::statement::Answer;
use lockstep_proof::error::{PlanError, ProveError};
use lockstep_proof::file::make::{Order, make};
use lockstep_proof::file::{AnswerFile, Claimed};
use lockstep_runtime::forward::{Engine, ForwardError};
use lockstep_runtime::kernels::Compute;
use lockstep_runtime::observe::Silent;
use std::ops::Range;
use std::sync::Arc;

/// Bytes that a prover needs for a cell of the witness, at most (docs/benchmarks.md).
const CELL_BYTES: usize = 60;
/// Bytes of a GiB.
pub const GIB: f64 = (1u64 << 30) as f64;

/// GiB that proving the layers `layers` may take beside the model: with values as wide as the arithmetic allows; real ones need about half of it.
///
/// # Errors
/// If there is no such statement.
pub fn gib_at_most(answer: &Answer<'_>, layers: Range<usize>) -> Result<f64, PlanError> {
    Ok((cells_at_most(answer, layers)? * CELL_BYTES) as f64 / GIB)
}

/// The rows of the residual stream behind every stage but the last, `(positions, d_model)`: what the runtime computes of the tokens that are `fed`.
///
/// # Errors
/// A range error of the arithmetic, or too little memory.
pub fn between(
    weights: &ModelWeights,
    compute: &Arc<Compute>,
    fed: &[u32],
    adapter: Option<&Arc<AdapterWeights>>,
    ends: &[usize],
) -> Result<Vec<Vec<i32>>, ForwardError> {
    let layers = weights.config.n_layers;
    let (mut all, mut first, mut rows) = (Vec::new(), 0, Vec::new());
    for end in &ends[..ends.len() - 1] {
        let part = Part::layers(first..*end as u32, layers);
        let engine = Engine::new(Arc::new(weights.restrict(&part)), compute.clone());
        if first == 0 {
            rows = engine.embed(fed, 0, &mut Silent)?;
        }
        let adapter = adapter.map(|adapter| Arc::new(adapter.restrict(&part)));
        engine.layers(&mut rows, &mut engine.new_cache().with_adapter(adapter), &mut Silent)?;
        all.push(rows.clone());
        first = *end as u32;
    }
    Ok(all)
}

/// An answer that may be proved.
#[derive(Debug)]
pub struct Answered {
    /// Prompt and answer.
    pub tokens: Vec<u32>,
    /// Tokens of the answer.
    pub generated: usize,
    /// What is claimed of it.
    pub claimed: Claimed,
    /// What was signed about it, where somebody signed.
    pub receipts: Option<Vec<u8>>,
}

/// Whoever proves the answers of a model that is served.
pub trait ProvesAnswers: Send + Sync + std::fmt::Debug {
    /// Proves an answer, which may take minutes; `watch` is told what it is at. Not on a thread that others wait for.
    ///
    /// # Errors
    /// Why there is no proof, for people.
    fn prove(&self, answered: &Answered, watch: &mut dyn FnMut(&'static str)) -> Result<AnswerFile, String>;

    /// Tokens of a request that all of it may have, where more are refused before they are computed.
    fn tokens_max(&self) -> Option<usize> {
        None
    }
}

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProvingError {
    /// The arithmetic.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// The argument.
    #[error(transparent)]
    Prove(#[from] ProveError),
}

/// Proves answers of one model.
#[derive(Debug, Clone)]
pub struct Prover {
    weights: Arc<ModelWeights>,
    compute: Arc<Compute>,
    root: Digest,
    ends: Vec<usize>,
    adapter: Option<Arc<AdapterWeights>>,
}

impl Prover {
    /// For the model `weights` with the root `root`, in stages that end at `ends`.
    ///
    /// # Errors
    /// If the model has no proofs.
    pub fn new(
        weights: Arc<ModelWeights>,
        compute: Arc<Compute>,
        root: Digest,
        ends: Vec<usize>,
    ) -> Result<Prover, PlanError> {
        Plan::new(&weights, None, 1, 0..weights.config.n_layers as usize)?;
        Ok(Prover { weights, compute, root, ends, adapter: None })
    }

    /// For answers of the same model under an adapter that fits it.
    #[must_use]
    pub fn adapted(&self, adapter: Arc<AdapterWeights>) -> Prover {
        Prover { adapter: Some(adapter), ..self.clone() }
    }

    /// Proves what is claimed of the last `generated` of `tokens`; `watch` is told of every phase.
    ///
    /// # Errors
    /// If it is not true, or cannot be proved.
    pub fn prove(
        &self,
        tokens: &[u32],
        generated: usize,
        claimed: &Claimed,
        watch: &mut dyn FnMut(usize, usize, Phase),
    ) -> Result<AnswerFile, ProvingError> {
        let (weights, adapter) = (&self.weights, self.adapter.as_deref());
        let answer = Answer { weights, root: self.root, tokens, generated, claim: claimed.claim(), adapter };
        let fed = &tokens[..answer.positions()];
        let rows = between(weights, &self.compute, fed, self.adapter.as_ref(), &self.ends)?;
        let order = Order { answer, ends: &self.ends, between: &rows, sample: None, key: None, kept: None };
        Ok(make(&order, watch)?)
    }
}

impl ProvesAnswers for Prover {
    fn prove(&self, answered: &Answered, watch: &mut dyn FnMut(&'static str)) -> Result<AnswerFile, String> {
        let Answered { tokens, generated, claimed, .. } = answered;
        let mut watch = |_: usize, _: usize, phase: Phase| watch(phase.name());
        Prover::prove(self, tokens, *generated, claimed, &mut watch).map_err(|error| error.to_string())
    }
}
