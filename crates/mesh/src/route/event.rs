//! What goes into a route and comes out of it.

use crate::code::Code;
use crate::data::Data;
use crate::message::{Logprobs, Message};
use crate::receipts::ReceiptError;
use crate::request::RouteStage;
use lockstep_base::keys::NodeId;
use lockstep_base::receipt_file::ReceiptFile;

/// What happens to a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Begin.
    Start,
    /// A control message from the node of a stage.
    Message {
        /// The stage.
        stage: u16,
        /// The message.
        message: Message,
    },
    /// The node of a stage is gone, could not be reached, or sent garbage.
    PeerLost {
        /// The stage.
        stage: u16,
        /// What happened, for people.
        text: String,
    },
    /// The answer to [`Effect::Replace`]: a node that serves the same part, reached and ready; `None` if there is none.
    Replacement {
        /// The stage.
        stage: u16,
        /// Who takes its place.
        with: Option<RouteStage>,
    },
    /// The answer is long enough: end after the token that is on its way, with receipts.
    Stop,
    /// Nobody wants the answer any more: end now, without receipts.
    Cancel,
    /// Time passed; about every [`crate::limits::TICK_MS`].
    Tick,
}

/// What a shell must do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send a control message to the node of a stage.
    Message {
        /// The stage.
        stage: u16,
        /// The message.
        message: Message,
    },
    /// Send a data frame to the first stage.
    Data(Data),
    /// Find another node for a stage, and say [`Input::Replacement`]. What the old one still says is nobody's business.
    Replace {
        /// The stage.
        stage: u16,
        /// The nodes that served it, the one that was lost last. None of them takes the task again.
        tried: Vec<NodeId>,
    },
    /// Tell the user.
    Event(Event),
}

/// What a user is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// All stages are ready.
    Opened,
    /// A token of the answer.
    Token {
        /// The position that it takes.
        position: u32,
        /// The token.
        token: u32,
        /// Present if asked for.
        logprobs: Option<Logprobs>,
        /// Whether it is a stop token (and so not part of the text).
        stop: bool,
    },
    /// A stage has come so far.
    Progress {
        /// The stage.
        stage: u16,
        /// Positions that it computed, as far as is known.
        computed: u32,
        /// Its verified receipts.
        receipts: u32,
    },
    /// Another node serves a stage from now on.
    Replaced {
        /// The stage.
        stage: u16,
        /// Who served it.
        lost: NodeId,
        /// Who serves it.
        by: NodeId,
    },
    /// The end: every stage signed for everything and all receipts hold.
    Finished(Box<Outcome>),
    /// The end: no (complete) answer.
    Failed(Failure),
}

/// A finished request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Tokens and verified receipts.
    pub file: ReceiptFile,
    /// Why the answer ended.
    pub finish: Finish,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// `max_tokens`, or the end of the context.
    Length,
    /// A stop token.
    StopToken,
    /// [`Input::Stop`].
    Stopped,
}

/// A failed request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Failure {
    /// The stage at fault, as far as is known; `None` for a cancelled request.
    pub stage: Option<u16>,
    /// Its node.
    pub node: Option<NodeId>,
    /// Why.
    pub reason: Reason,
}

impl core::fmt::Display for Failure {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        if let (Some(stage), Some(node)) = (self.stage, self.node) {
            write!(f, "stage {stage} ({node}): ")?;
        }
        write!(f, "{}", self.reason)
    }
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// [`Input::Cancel`].
    #[error("cancelled")]
    Cancelled,
    /// The node is gone.
    #[error("lost: {0}")]
    Lost(String),
    /// A stage reported an error.
    #[error("{text} ({code:?}, reported by stage {by})")]
    Remote {
        /// Its kind.
        code: Code,
        /// What it said.
        text: String,
        /// Which stage reported it.
        by: u16,
    },
    /// A message that has no place here.
    #[error("unexpected {message}: {text}")]
    Unexpected {
        /// Its name.
        message: &'static str,
        /// What was got and what was expected.
        text: String,
    },
    /// A receipt that does not hold.
    #[error(transparent)]
    Receipt(#[from] ReceiptError),
    /// A stage that was computed again gave another token.
    #[error("token {got} at position {position}, where it was {expected} before")]
    Diverged {
        /// The position.
        position: u32,
        /// The token.
        got: u32,
        /// What was given before.
        expected: u32,
    },
    /// Silence.
    #[error("{what} within {limit_ms} ms")]
    Timeout {
        /// What did not happen.
        what: &'static str,
        /// The limit.
        limit_ms: u64,
    },
}

impl Reason {
    /// Whether nodes were lost, or what they kept was, and none lied or let everybody wait: another try may do better.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        match self {
            Reason::Lost(_) => true,
            Reason::Remote { code, .. } => code.is_loss() || *code == Code::NoBackup,
            _ => false,
        }
    }
}
