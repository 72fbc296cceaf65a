//! The one interface that the API and the command line generate through.
//!
//! Whoever serves HTTP does not care whether a model runs in this process or on a route of
//! strangers' machines: both are a [`Generator`], tokens in, [`GenerateEvent`]s out over a bounded
//! queue. Text stays on this side: detokenising and stop strings are in [`crate::text`], once, for
//! every generator.

use lockstep_base::Digest;
use lockstep_base::adapter::AdapterWeights;
use lockstep_base::config::ModelConfig;
use lockstep_base::params::Parameters;
use lockstep_runtime::sample::Distribution;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::mpsc;

/// Events of one answer that wait for their reader at most; then the generator waits.
pub const EVENT_QUEUE: usize = 32;

/// The model behind a generator.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// The id under which clients ask for it: the name in its configuration, or that of the adapter.
    pub id: String,
    /// The model root of its bundle.
    pub root: Digest,
    /// Its configuration.
    pub config: ModelConfig,
    /// The adapter beside it.
    pub adapter: Option<AdapterInfo>,
}

/// The adapter beside a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdapterInfo {
    /// Its root, which receipts name.
    pub root: Digest,
    /// Its rank.
    pub rank: u32,
    /// The id of the model without it.
    pub parent: String,
}

impl ModelInfo {
    /// The model with this configuration and root.
    #[must_use]
    pub fn new(config: ModelConfig, root: Digest) -> ModelInfo {
        ModelInfo { id: config.name.clone(), root, config, adapter: None }
    }

    /// The same under `adapter`, asked for as `id`.
    #[must_use]
    pub fn adapted(&self, id: &str, adapter: &AdapterWeights) -> ModelInfo {
        let parent = self.adapter.as_ref().map_or(&self.id, |adapter| &adapter.parent).clone();
        let adapter = AdapterInfo { root: adapter.root, rank: adapter.config.rank, parent };
        ModelInfo { id: id.into(), adapter: Some(adapter), ..self.clone() }
    }

    /// Root of the adapter, zero without.
    #[must_use]
    pub fn adapter_root(&self) -> Digest {
        self.adapter.as_ref().map_or(Digest::ZERO, |adapter| adapter.root)
    }
}

/// What to generate.
#[derive(Debug, Clone)]
pub struct GenerateRequest {
    /// Tokens of the prompt, the begin token included.
    pub prompt: Vec<u32>,
    /// How tokens are chosen and when the answer ends. `stop` is applied by [`crate::text`].
    pub parameters: Parameters,
    /// The client's seed; without one the generator picks the seed.
    pub seed: Option<u64>,
    /// Index of the choice: answers to one request differ in it.
    pub choice: u32,
    /// Alternatives whose logits come with each token; `None`: no distribution at all.
    pub top_logprobs: Option<u32>,
    /// Whether the receipt file is wanted at the end, not only its summary.
    pub receipt_file: bool,
    /// Whether stages commit to their boundaries, so that the answer can be proved by them.
    pub provable: bool,
    /// Set from outside to end the answer after the current token.
    pub end: EndSignal,
}

impl GenerateRequest {
    /// A request without seed, log-probabilities and receipt file.
    #[must_use]
    pub fn new(prompt: Vec<u32>, parameters: Parameters) -> GenerateRequest {
        GenerateRequest {
            prompt,
            parameters,
            seed: None,
            choice: 0,
            top_logprobs: None,
            receipt_file: false,
            provable: false,
            end: EndSignal::default(),
        }
    }

    /// Tokens that may be generated: prompt and answer together fit the context.
    ///
    /// # Errors
    /// [`Failure`] of kind [`FailureKind::Invalid`] for an empty prompt, one that leaves no room
    /// for an answer, or a token outside the vocabulary.
    pub fn budget(&self, config: &ModelConfig) -> Result<u32, Failure> {
        let (got, context) = (self.prompt.len(), config.context as usize);
        if got == 0 {
            return Err(Failure::invalid("the prompt has no tokens, expected at least 1"));
        }
        if got >= context {
            let expected = context - 1;
            return Err(Failure::invalid(format!(
                "the prompt has {got} tokens, expected at most {expected}: the context is {context}"
            )));
        }
        if let Some(token) = self.prompt.iter().find(|token| **token >= config.vocab) {
            return Err(Failure::invalid(format!(
                "the prompt has token {token}, expected tokens below {}",
                config.vocab
            )));
        }
        Ok(self.parameters.max_tokens.min((context - got) as u32))
    }
}

/// Tells a generator that the answer is complete (a stop string was met): it ends after the token
/// it is at with [`GenerateEvent::Done`] and its receipts. Dropping the receiver of the events
/// cancels instead, without receipts.
#[derive(Debug, Clone, Default)]
pub struct EndSignal(Arc<AtomicBool>);

impl EndSignal {
    /// Ends the answer.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether the answer is to end.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What a generator reports.
#[derive(Debug)]
pub enum GenerateEvent {
    /// One token of the answer; a token that ends the answer too.
    Token {
        /// The token.
        token: u32,
        /// Its absolute position.
        position: u32,
        /// Where it came from, if asked for.
        distribution: Option<Distribution>,
    },
    /// A stage got on.
    Stage(StageProgress),
    /// The answer is complete. The last event.
    Done(Box<Done>),
    /// The answer will not be completed. The last event.
    Failed(Failure),
}

/// What a stage of the route has done so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageProgress {
    /// Index in the route.
    pub stage: usize,
    /// Positions that it has computed.
    pub positions: u32,
    /// Receipts that it has signed and the gateway has accepted.
    pub receipts: u32,
}

/// How an answer ended.
#[derive(Debug)]
pub struct Done {
    /// Why.
    pub reason: FinishReason,
    /// What its tokens were drawn from, where they were drawn.
    pub sampler_seed: Digest,
    /// The stages that computed it.
    pub route: Vec<RouteStage>,
    /// What was signed, where something was.
    pub receipts: Option<Receipts>,
    /// What it took.
    pub timings: Timings,
}

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FinishReason {
    /// By a stop token or a stop string.
    Stop,
    /// By the number of tokens asked for, or at the end of the context.
    Length,
}

impl FinishReason {
    /// The word in OpenAI's API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        }
    }
}

/// One stage of a route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteStage {
    /// The node, or `local`.
    pub node: String,
    /// What it serves, in words.
    pub part: String,
}

/// What the stages signed about an answer.
#[derive(Debug, Clone)]
pub struct Receipts {
    /// For the client to see: task, counts, signers.
    pub summary: Value,
    /// The receipt file. It holds the task secret, so it leaves the gateway only on request.
    pub file: Vec<u8>,
}

/// Where the time of an answer went, in seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Timings {
    /// To the first token.
    pub prompt_seconds: f64,
    /// From there to the last one.
    pub generate_seconds: f64,
}

/// Why an answer was not completed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", stage.map(|stage| format!("stage {stage}: ")).unwrap_or_default())]
pub struct Failure {
    /// What kind of failure.
    pub kind: FailureKind,
    /// The stage that failed, where it was a stage.
    pub stage: Option<usize>,
    /// What went wrong, with what was got and expected.
    pub message: String,
}

/// Kinds of failure, by whose turn it is to do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The request cannot be served as it is.
    Invalid,
    /// Too much is going on; try again.
    Busy,
    /// Nobody serves the model now.
    Unavailable,
    /// A stage failed or vanished.
    Stage,
    /// The computation itself ended with an error.
    Compute,
}

impl Failure {
    /// The request cannot be served as it is.
    #[must_use]
    pub fn invalid(message: impl Into<String>) -> Failure {
        Failure { kind: FailureKind::Invalid, stage: None, message: message.into() }
    }

    /// Too much is going on.
    #[must_use]
    pub fn busy(message: impl Into<String>) -> Failure {
        Failure { kind: FailureKind::Busy, stage: None, message: message.into() }
    }

    /// The computation ended with an error.
    #[must_use]
    #[allow(clippy::needless_pass_by_value)] // Errors are handed over where they are mapped.
    pub fn compute(message: impl ToString) -> Failure {
        Failure { kind: FailureKind::Compute, stage: None, message: message.to_string() }
    }
}

/// Something that continues prompts.
pub trait Generator: Send + Sync {
    /// The model.
    fn model(&self) -> &ModelInfo;

    /// Starts an answer. Every answer ends with [`GenerateEvent::Done`] or
    /// [`GenerateEvent::Failed`]; dropping the receiver cancels it.
    fn generate(&self, request: GenerateRequest) -> mpsc::Receiver<GenerateEvent>;
}
