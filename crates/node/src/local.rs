//! Generation inside this process. All answers that run at once are computed in one batch
//! (`local/batch.rs`), on a thread of its own, so that the reader (HTTP, terminal) never waits for
//! arithmetic and the arithmetic waits for nobody.
//!
//! The bits are those of any route: neither chunks nor neighbours in a batch change them
//! (docs/spec/arithmetic.md, section 1), and the token at position p is drawn with `draw(sampler seed, p)`.

mod batch;

use crate::service::{EVENT_QUEUE, GenerateEvent, GenerateRequest, Generator, ModelInfo};
use batch::{Batcher, Order};
use lockstep_base::Digest;
use lockstep_base::adapter::{AdapterError, AdapterWeights};
use lockstep_base::part::Part;
use lockstep_model::bundle::Verification;
use lockstep_runtime::forward::Engine;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Tokens of prompts that go through the model at once: a limit on memory, not on the prompt.
pub const PREFILL_CHUNK: usize = 128;

/// Why an engine cannot generate.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LocalError {
    /// The engine holds a part of a model.
    #[error("the engine holds {got}, expected {expected}")]
    Part {
        /// What it holds.
        got: Part,
        /// All of the model.
        expected: Part,
    },
}

/// Generates with a whole model in this process, with or without an adapter.
#[derive(Debug, Clone)]
pub struct LocalGenerator {
    batcher: Arc<Batcher>,
    info: ModelInfo,
    adapter: Option<Arc<AdapterWeights>>,
    verification: Option<Verification>,
}

impl LocalGenerator {
    /// A generator over `engine`, whose weights are those of the bundle with model root `root`.
    ///
    /// # Errors
    /// [`LocalError::Part`] if the engine does not hold a whole model.
    pub fn new(engine: Engine, root: Digest) -> Result<LocalGenerator, LocalError> {
        let weights = &engine.weights;
        let first_layer = weights.first_layer as u32;
        let got = Part {
            embed: weights.embed.is_some(),
            first_layer,
            end_layer: first_layer + weights.layers.len() as u32,
            head: weights.head.is_some(),
            shard: 0,
            shards: 1,
        };
        let expected = Part::whole(weights.config.n_layers);
        if got != expected {
            return Err(LocalError::Part { got, expected });
        }
        let info = ModelInfo::new(weights.config.clone(), root);
        let batcher = Arc::new(Batcher::new(engine));
        Ok(LocalGenerator { batcher, info, adapter: None, verification: None })
    }

    /// The weights are still being verified: no token is told before the verdict.
    #[must_use]
    pub fn awaiting(mut self, verification: Verification) -> LocalGenerator {
        self.verification = Some(verification);
        self
    }

    /// The same model under `adapter`, asked for as `id`. Answers of both run in one batch.
    ///
    /// # Errors
    /// [`AdapterError`] if the adapter does not fit the model.
    pub fn adapted(&self, id: &str, adapter: Arc<AdapterWeights>) -> Result<LocalGenerator, AdapterError> {
        let weights = &self.engine().weights;
        adapter.check_fits(self.info.root, &weights.config, weights.first_layer, &weights.layers)?;
        let info = self.info.adapted(id, &adapter);
        Ok(LocalGenerator { info, adapter: Some(adapter), ..self.clone() })
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.batcher.engine
    }
}

impl Generator for LocalGenerator {
    fn model(&self) -> &ModelInfo {
        &self.info
    }

    fn generate(&self, request: GenerateRequest) -> mpsc::Receiver<GenerateEvent> {
        let (events, receiver) = mpsc::channel(EVENT_QUEUE);
        let (adapter, verification) = (self.adapter.clone(), self.verification.clone());
        self.batcher.submit(Order { request, events, adapter, verification });
        receiver
    }
}
