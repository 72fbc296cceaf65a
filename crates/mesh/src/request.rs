//! A request and the stages that serve it.

use crate::message::{self, MessageError, NextHop, Open};
use crate::receipts::TaskTerms;
use lockstep_base::Digest;
use lockstep_base::keys::NodeId;
use lockstep_base::leaf::TaskSecret;
use lockstep_base::params::Parameters;
use lockstep_base::part::{Part, PartError};

/// One stage of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteStage {
    /// Who serves it.
    pub node: NodeId,
    /// Where, in the form of the transport: what the stage before is told.
    pub address: String,
    /// What it serves.
    pub part: Part,
}

/// A request and the stages that serve it. Its `Debug` form leaves the prompt out: contents never
/// get into logs.
#[derive(Clone)]
pub struct RouteConfig {
    /// A fresh task id.
    pub task: Digest,
    /// A fresh secret.
    pub secret: TaskSecret,
    /// The gateway's own node id.
    pub owner: NodeId,
    /// The model.
    pub model_root: Digest,
    /// Its arithmetic.
    pub opset: String,
    /// Its layers.
    pub n_layers: u32,
    /// Its vocabulary.
    pub vocab: u32,
    /// Its longest sequence.
    pub context: u32,
    /// Sampling parameters; stop texts are the shell's business.
    pub parameters: Parameters,
    /// Seed of the sampler.
    pub sampler_seed: Digest,
    /// The prompt.
    pub prompt: Vec<u32>,
    /// Tokens of the answer that are known, because a route before this one gave them: every one is computed again, and must come out again.
    pub answered: Vec<u32>,
    /// Whether stages commit to every op output.
    pub full_trace: bool,
    /// Log-probabilities of so many alternatives with each token.
    pub logprobs: Option<u8>,
    /// Commitment to the audit class, zero without.
    pub audit_class: Digest,
    /// Root of the adapter that all of the answer is computed under, zero without.
    pub adapter: Digest,
    /// Whether stages commit to their boundaries, to prove what they computed.
    pub provable: bool,
    /// The stages in order.
    pub stages: Vec<RouteStage>,
}

impl core::fmt::Debug for RouteConfig {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("RouteConfig")
            .field("task", &self.task)
            .field("stages", &self.stages)
            .finish_non_exhaustive()
    }
}

/// Why a request cannot be routed.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RouteError {
    /// The stages are not one whole model.
    #[error(transparent)]
    Parts(#[from] PartError),
    /// A node would serve two stages.
    #[error("{node} serves stage {first} and stage {second}, expected every stage on its own node")]
    SameNode {
        /// The node.
        node: NodeId,
        /// Its first stage.
        first: usize,
        /// Its second stage.
        second: usize,
    },
    /// No prompt, or one that does not fit.
    #[error("the prompt has {got} tokens, expected 1 to {context} (the context of the model)")]
    Prompt {
        /// Tokens of the prompt.
        got: usize,
        /// The model's longest sequence.
        context: u32,
    },
    /// A token outside the vocabulary.
    #[error("token {token} at position {position} of the prompt, expected below {vocab}")]
    Token {
        /// The token.
        token: u32,
        /// Its position.
        position: usize,
        /// Size of the vocabulary.
        vocab: u32,
    },
    /// The answer is complete already.
    #[error("{got} tokens of the answer are known, expected fewer than the {limit} that are asked for")]
    Answered {
        /// Known tokens.
        got: usize,
        /// Tokens of a whole answer.
        limit: usize,
    },
    /// Nothing is asked for.
    #[error("max_tokens is 0, expected at least 1")]
    NoTokens,
    /// Parameters beyond the protocol's limits.
    #[error(transparent)]
    Parameters(#[from] MessageError),
}

impl RouteConfig {
    /// Checks stages, prompt and parameters.
    ///
    /// # Errors
    /// [`RouteError`]: the first that does not fit.
    pub fn check(&self) -> Result<(), RouteError> {
        let parts: Vec<Part> = self.stages.iter().map(|stage| stage.part).collect();
        Part::check_route(&parts, self.n_layers)?;
        for (second, stage) in self.stages.iter().enumerate() {
            if let Some(first) = self.stages[..second].iter().position(|other| other.node == stage.node) {
                return Err(RouteError::SameNode { node: stage.node, first, second });
            }
        }
        if self.prompt.is_empty() || self.prompt.len() > self.context as usize {
            return Err(RouteError::Prompt { got: self.prompt.len(), context: self.context });
        }
        let mut tokens = self.prompt.iter().chain(&self.answered).enumerate();
        if let Some((position, token)) = tokens.find(|(_, token)| **token >= self.vocab) {
            return Err(RouteError::Token { token: *token, position, vocab: self.vocab });
        }
        if self.parameters.max_tokens == 0 {
            return Err(RouteError::NoTokens);
        }
        // The last token of an answer ends it, and is not fed back.
        let (got, limit) = (self.answered.len(), self.positions() as usize + 1 - self.prompt.len());
        if got >= limit {
            return Err(RouteError::Answered { got, limit });
        }
        message::check_parameters(&self.parameters)?;
        (0..self.stages.len() as u16)
            .try_for_each(|stage| Ok(message::check_open(&self.open_message(stage))?))
    }

    /// What every receipt of the task must say.
    #[must_use]
    pub fn terms(&self) -> TaskTerms {
        TaskTerms {
            task: self.task,
            secret: self.secret.clone(),
            model_root: self.model_root,
            opset: self.opset.clone(),
            parameters: self.parameters.digest(),
            sampler_seed: self.sampler_seed,
            audit_class: self.audit_class,
            adapter: self.adapter,
            full_trace: self.full_trace,
            provable: self.provable,
            prompt_tokens: self.prompt.len() as u32,
        }
    }

    /// The message that opens the task at `stage`.
    ///
    /// # Panics
    /// If there is no such stage.
    #[must_use]
    pub fn open_message(&self, stage: u16) -> Open {
        let at = usize::from(stage);
        let part = self.stages[at].part;
        let next = at + 1 < self.stages.len();
        Open {
            task: self.task,
            stage,
            part,
            model_root: self.model_root,
            opset: self.opset.clone(),
            secrets: self.secret.stage(stage),
            parameters_digest: self.parameters.digest(),
            parameters: part.head.then(|| self.parameters.clone()),
            sampler_seed: self.sampler_seed,
            positions: self.positions(),
            full_trace: self.full_trace,
            logprobs: self.logprobs,
            audit_class: self.audit_class,
            previous: self.before(stage),
            next: next.then(|| self.hop(stage + 1)),
            adapter: self.adapter,
            provable: self.provable,
            held: false,
        }
    }

    /// Who serves `stage`, for whoever sends to it.
    pub(crate) fn hop(&self, stage: u16) -> NextHop {
        let stage = &self.stages[usize::from(stage)];
        NextHop { node: stage.node, address: stage.address.clone() }
    }

    /// Who sends to `stage`.
    pub(crate) fn before(&self, stage: u16) -> NodeId {
        usize::from(stage).checked_sub(1).map_or(self.owner, |before| self.stages[before].node)
    }

    /// Positions that the task takes at most: the last token is not fed back.
    fn positions(&self) -> u32 {
        let asked = self.prompt.len() as u64 + u64::from(self.parameters.max_tokens) - 1;
        asked.min(u64::from(self.context)) as u32
    }
}
