//! Proofs of a model that this process holds (docs/spec/proofs.md).

use lockstep_base::Digest;
use lockstep_base::adapter::AdapterWeights;
use lockstep_base::part::Part;
use lockstep_base::weights::ModelWeights;
use lockstep_proof::argument::prove::Phase;
use lockstep_proof::decoder::plan::Plan;
use lockstep_proof::decoder::statement::Answer;
use lockstep_proof::error::{PlanError, ProveError};
use lockstep_proof::file::make::{Order, make};
use lockstep_proof::file::{AnswerFile, Claimed};
use lockstep_runtime::forward::{Engine, ForwardError};
use lockstep_runtime::kernels::Compute;
use lockstep_runtime::observe::Silent;
use std::sync::Arc;

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
