//! Generation inside this process: prefill in chunks, then one token at a time, on a thread of its
//! own, so that the reader (HTTP, terminal) never waits for arithmetic and the arithmetic waits
//! for the reader only when its queue is full.
//!
//! The bits are those of any route: chunks do not change them (docs/spec/arithmetic.md, section 1),
//! and the token at position p is drawn with `draw(sampler seed, p)`.

use crate::service::{
    Done, EVENT_QUEUE, Failure, FinishReason, GenerateEvent, GenerateRequest, Generator, ModelInfo,
    RouteStage, Timings,
};
use lockstep_base::Digest;
use lockstep_base::params::{client_seed, draw};
use lockstep_base::part::Part;
use lockstep_base::weights::Linear;
use lockstep_model::bundle::Verification;
use lockstep_runtime::forward::{Engine, ForwardError};
use lockstep_runtime::kv::KvCache;
use lockstep_runtime::observe::Silent;
use lockstep_runtime::sample;
use rand::TryRngCore;
use rand::rngs::OsRng;
use std::time::Instant;
use tokio::sync::mpsc;

/// Tokens of a prompt that go through the model at once: a limit on memory, not on the prompt.
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

/// Generates with a whole model in this process.
#[derive(Debug, Clone)]
pub struct LocalGenerator {
    engine: Engine,
    info: ModelInfo,
    verification: Option<Verification>,
}

impl LocalGenerator {
    /// Over `engine`, which holds all of the model with this `root`.
    ///
    /// # Errors
    /// [`LocalError::Part`] if it does not.
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
        Ok(LocalGenerator { engine, info, verification: None })
    }

    /// The weights are still being verified: no token is told before the verdict.
    #[must_use]
    pub fn awaiting(mut self, verification: Verification) -> LocalGenerator {
        self.verification = Some(verification);
        self
    }

    /// The engine.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }
}

impl Generator for LocalGenerator {
    fn model(&self) -> &ModelInfo {
        &self.info
    }

    fn generate(&self, request: GenerateRequest) -> mpsc::Receiver<GenerateEvent> {
        let (sender, receiver) = mpsc::channel(EVENT_QUEUE);
        let engine = self.engine.clone();
        let verification = self.verification.clone();
        let refused = sender.clone();
        let run = move || {
            let last = match Run::new(&engine, &request, &sender)
                .and_then(|run| run.finish(verification.as_ref()))
            {
                Ok(done) => GenerateEvent::Done(Box::new(done)),
                Err(Ended::Failed(failure)) => GenerateEvent::Failed(failure),
                Err(Ended::Cancelled) => return,
            };
            // Nobody listens any more: there is nobody to tell.
            let _ = sender.blocking_send(last);
        };
        if let Err(error) = std::thread::Builder::new().name("generate".into()).spawn(run) {
            let failure = Failure::busy(format!("no thread for the answer: {error}"));
            // The queue is new and has room.
            let _ = refused.try_send(GenerateEvent::Failed(failure));
        }
        receiver
    }
}

/// Why an answer ended early.
enum Ended {
    /// The receiver was dropped.
    Cancelled,
    Failed(Failure),
}

impl From<ForwardError> for Ended {
    fn from(error: ForwardError) -> Ended {
        Ended::Failed(Failure::compute(error))
    }
}

/// One answer on its way.
struct Run<'a> {
    engine: &'a Engine,
    head: &'a Linear,
    request: &'a GenerateRequest,
    sender: &'a mpsc::Sender<GenerateEvent>,
    cache: KvCache,
    sampler_seed: Digest,
    budget: u32,
}

impl<'a> Run<'a> {
    fn new(
        engine: &'a Engine,
        request: &'a GenerateRequest,
        sender: &'a mpsc::Sender<GenerateEvent>,
    ) -> Result<Run<'a>, Ended> {
        let budget = request.budget(&engine.weights.config).map_err(Ended::Failed)?;
        let head = engine.weights.head.as_ref().ok_or(ForwardError::Missing("head"))?;
        let sampler_seed = client_seed(request.seed.map_or_else(random_seed, Ok)?, request.choice);
        Ok(Run { engine, head, request, sender, cache: engine.new_cache(), sampler_seed, budget })
    }

    fn finish(mut self, verification: Option<&Verification>) -> Result<Done, Ended> {
        let began = Instant::now();
        let mut logits = self.prefill()?;
        if let Some(verification) = verification {
            verification.wait().map_err(|error| Ended::Failed(Failure::compute(error)))?;
        }
        let first = Instant::now();
        let mut reason = FinishReason::Length;
        for left in (0..self.budget).rev() {
            let token = self.sample(&logits)?;
            if self.request.parameters.stop_tokens.contains(&token) || self.request.end.is_set() {
                reason = FinishReason::Stop;
                break;
            }
            if left > 0 {
                logits = self.feed(&[token], true)?;
            }
        }
        let timings = Timings {
            prompt_seconds: (first - began).as_secs_f64(),
            generate_seconds: first.elapsed().as_secs_f64(),
        };
        let part = Part::whole(self.engine.weights.config.n_layers).to_string();
        let route = vec![RouteStage { node: "local".into(), part }];
        Ok(Done { reason, route, receipts: None, timings })
    }

    /// All of the prompt; the logits after its last token.
    fn prefill(&mut self) -> Result<Vec<i32>, Ended> {
        let chunks = self.request.prompt.chunks(PREFILL_CHUNK);
        let last = chunks.len().saturating_sub(1);
        let mut logits = Vec::new();
        for (index, chunk) in chunks.enumerate() {
            logits = self.feed(chunk, index == last)?;
        }
        Ok(logits)
    }

    /// Runs `tokens`; with `sampled` the logits after the last of them.
    fn feed(&mut self, tokens: &[u32], sampled: bool) -> Result<Vec<i32>, Ended> {
        if self.sender.is_closed() {
            return Err(Ended::Cancelled);
        }
        let start = self.cache.len();
        let mut x = self.engine.embed(tokens, start, &mut Silent)?;
        self.engine.layers(&mut x, &mut self.cache, &mut Silent)?;
        if !sampled {
            return Ok(Vec::new());
        }
        let last = &x[x.len() - self.engine.width()..];
        Ok(self.engine.logits(last, &[self.cache.len() - 1], &mut Silent)?)
    }

    /// Draws the next token and reports it.
    fn sample(&self, logits: &[i32]) -> Result<u32, Ended> {
        let position = self.cache.len() as u32;
        let frac = i32::from(self.head.out_frac);
        let table = &self.engine.weights.tables.exp2_sample;
        let word = draw(&self.sampler_seed, position);
        let token = sample::sample(logits, frac, &self.request.parameters, word, table);
        let distribution = self
            .request
            .top_logprobs
            .map(|top| sample::distribution(logits, frac, token, top as usize, table));
        let event = GenerateEvent::Token { token, position, distribution };
        self.sender.blocking_send(event).map_err(|_| Ended::Cancelled)?;
        Ok(token)
    }
}

/// A seed for a client that gave none.
fn random_seed() -> Result<u64, Ended> {
    let refused =
        |error| Ended::Failed(Failure::compute(format!("no random seed from the operating system: {error}")));
    OsRng.try_next_u64().map_err(refused)
}
