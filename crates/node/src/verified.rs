//! Nothing leaves a node before its weights are verified.
//!
//! A bundle is opened at once and compared with the model root in the background
//! ([`lockstep_model::bundle::Verification`]). [`Gated`] stands between the arithmetic and the protocol: what a stage
//! computes waits for the verdict before it goes anywhere, and receipts are only ever signed over positions
//! that have left [`StageCompute::forward`]. After the verdict the gate costs a lock.

use core::ops::Range;
use lockstep_mesh::compute::{ComputeError, ComputeFactory, Output, StageCompute};
use lockstep_mesh::data::Values;
use lockstep_mesh::message::Open;
use lockstep_model::bundle::Verification;
use lockstep_runtime::stage::SpanSummary;

/// A factory whose stages give nothing before `verification` said yes.
#[derive(Debug)]
pub struct Gated<F> {
    inner: F,
    verification: Verification,
}

impl<F> Gated<F> {
    /// Puts the gate in front of `inner`, which computes with the weights that are being verified.
    pub fn new(inner: F, verification: Verification) -> Gated<F> {
        Gated { inner, verification }
    }
}

impl<F: ComputeFactory> ComputeFactory for Gated<F> {
    fn open(&self, open: &Open) -> Result<Box<dyn StageCompute>, ComputeError> {
        let inner = self.inner.open(open)?;
        Ok(Box::new(GatedStage { inner, verification: self.verification.clone() }))
    }
}

struct GatedStage {
    inner: Box<dyn StageCompute>,
    verification: Verification,
}

impl StageCompute for GatedStage {
    fn forward(&mut self, start: u32, values: &Values, sample_from: u32) -> Result<Output, ComputeError> {
        let output = self.inner.forward(start, values, sample_from)?;
        // A fault of this node and of nobody else: not an input error, which would blame the sender.
        self.verification
            .wait()
            .map_err(|error| ComputeError::Range(format!("this node's bundle: {error}")))?;
        Ok(output)
    }

    fn close_span(&mut self, positions: Range<u32>) -> SpanSummary {
        self.inner.close_span(positions)
    }

    fn truncate(&mut self, position: u32) {
        self.inner.truncate(position);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::p2p::random_key;
    use lockstep_base::Digest;
    use lockstep_base::config::OPSET;
    use lockstep_base::leaf::TaskSecret;
    use lockstep_base::params::Parameters;
    use lockstep_base::part::Part;
    use lockstep_base::weights::WeightFormat;
    use lockstep_mesh::engine::EngineFactory;
    use lockstep_model::bundle::{Bundle, Contents, TokenizerSection, write};
    use lockstep_runtime::forward::Engine;
    use lockstep_runtime::kernels::Compute;
    use lockstep_runtime::synthetic;
    use std::sync::Arc;

    fn forward(bytes: Vec<u8>) -> Result<Output, ComputeError> {
        let bundle = Bundle::from_bytes(bytes).unwrap();
        let part = Part::whole(bundle.config().n_layers);
        let (weights, verification) = bundle.load_unverified(&part).unwrap().unverified();
        let engine = Engine::new(Arc::new(weights), Arc::new(Compute::new(1)));
        let factory = Gated::new(
            EngineFactory { engine, part, adapters: Vec::new(), keep_leaves: false, drill: None },
            verification,
        );
        let parameters = Parameters::greedy(1);
        let open = Open {
            task: Digest::ZERO,
            stage: 0,
            part,
            model_root: bundle.model_root(),
            opset: OPSET.into(),
            secrets: TaskSecret([1; 32]).stage(0),
            parameters_digest: parameters.digest(),
            parameters: Some(parameters),
            sampler_seed: Digest::ZERO,
            positions: 4,
            full_trace: false,
            logprobs: None,
            audit_class: Digest::ZERO,
            previous: random_key().id(),
            next: None,
            adapter: Digest::ZERO,
            provable: false,
            held: false,
        };
        factory.open(&open)?.forward(0, &Values::Tokens(vec![1, 2, 3]), 2)
    }

    /// A stage with a changed weight computes, and its output does not leave.
    #[test]
    fn outputs_of_changed_weights_do_not_leave() {
        let weights = synthetic::model(&synthetic::small_config(), WeightFormat::Int8, 5);
        let tokenizer = TokenizerSection { kind: "none".into(), file: Vec::new() };
        let contents = Contents { weights: &weights, tokenizer: &tokenizer, chat_template: None };
        let mut bytes = write(&contents).unwrap();
        forward(bytes.clone()).expect("an unchanged bundle");
        let bundle = Bundle::from_bytes(bytes.clone()).unwrap();
        let placed = bundle.entries().iter().find(|placed| placed.entry.name == "layers.0001.down").unwrap();
        bytes[placed.offset as usize + 3] ^= 1;
        let error = forward(bytes).unwrap_err().to_string();
        assert!(error.starts_with("this node's bundle: entry layers.0001.down was changed"), "{error}");
    }
}
