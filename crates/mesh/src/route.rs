//! The gateway's side of one request.
//!
//! | phase | input | then |
//! |---|---|---|
//! | opening | `Opened` of every stage | running: the prompt goes out in chunks, as far as the window allows |
//! | running | receipt | checked; the window moves |
//! | running | token | event; fed back, or the task is closed (length, stop token, stop asked for) |
//! | closing | receipts, `Closed` of every stage | finished: a receipt file |
//! | any | error, lost peer, bad receipt, timeout | failed: the event names the stage; the others are cancelled |

use crate::code::Code;
use crate::data::{Batch, Data, Values};
use crate::limits::{
    CLOSE_TIMEOUT_MS, OPEN_TIMEOUT_MS, PREFILL_CHUNK_TOKENS, PROGRESS_TIMEOUT_MS, STALL_PROBE_MS,
    WINDOW_POSITIONS,
};
use crate::message::{Fault, Logprobs, Message, Token};
use crate::receipts::{Extent, ReceiptBook, ReceiptError};
pub use crate::request::{RouteConfig, RouteError, RouteStage};
use lockstep_base::keys::NodeId;
use lockstep_base::receipt::RECEIPT_VERSION;
use lockstep_base::receipt_file::{ReceiptFile, StageRecord};
use std::collections::BTreeSet;

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
    /// Silence.
    #[error("{what} within {limit_ms} ms")]
    Timeout {
        /// What did not happen.
        what: &'static str,
        /// The limit.
        limit_ms: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Opening,
    Running,
    Closing { finish: Finish },
    Over,
}

#[derive(Debug, Default)]
struct StageState {
    opened: bool,
    closed: bool,
    /// Positions that it computed, as far as is known.
    computed: u32,
}

/// The state machine of one request.
pub struct Route {
    config: RouteConfig,
    phase: Phase,
    stages: Vec<StageState>,
    book: ReceiptBook,
    /// Prompt and answer.
    tokens: Vec<u32>,
    sent: u32,
    end: Option<u32>,
    stopping: bool,
    progress_ms: u64,
    probed_ms: u64,
}

impl core::fmt::Debug for Route {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let mut text = f.debug_struct("Route");
        text.field("config", &self.config).field("phase", &self.phase).field("sent", &self.sent);
        text.finish_non_exhaustive()
    }
}

type Step = Result<(), (u16, Reason)>;

impl Route {
    /// A route for one request.
    ///
    /// # Errors
    /// [`RouteError`] if stages, prompt or parameters do not fit.
    pub fn new(config: RouteConfig) -> Result<Route, RouteError> {
        config.check()?;
        let book =
            ReceiptBook::new(config.terms(), config.stages.iter().map(|stage| (stage.part, stage.node)));
        Ok(Route {
            stages: config.stages.iter().map(|_| StageState::default()).collect(),
            book,
            tokens: config.prompt.clone(),
            phase: Phase::Idle,
            sent: 0,
            end: None,
            stopping: false,
            progress_ms: 0,
            probed_ms: 0,
            config,
        })
    }

    /// The request and its stages.
    #[must_use]
    pub fn config(&self) -> &RouteConfig {
        &self.config
    }

    /// Prompt and answer so far; empty once the receipt file has them.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Whether the request ended, well or not.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// Takes one input at time `now_ms` (any clock that does not run backwards).
    pub fn handle(&mut self, now_ms: u64, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.phase == Phase::Over {
            return effects;
        }
        let step = match input {
            Input::Start => self.start(now_ms, &mut effects),
            Input::Message { stage, message } => match self.stages.get(usize::from(stage)) {
                Some(_) => self.message(now_ms, stage, &message, &mut effects),
                None => Ok(()),
            },
            // A stage that has closed owes nothing.
            Input::PeerLost { stage, .. } if self.stages.get(usize::from(stage)).is_none_or(|s| s.closed) => {
                Ok(())
            }
            Input::PeerLost { stage, text } => Err((stage, Reason::Lost(text))),
            Input::Stop => {
                self.stopping = true;
                Ok(())
            }
            Input::Cancel => {
                self.fail(None, Reason::Cancelled, &mut effects);
                Ok(())
            }
            Input::Tick => self.tick(now_ms, &mut effects),
        };
        if let Err((stage, reason)) = step {
            self.fail(Some(stage), reason, &mut effects);
        }
        effects
    }

    fn start(&mut self, now_ms: u64, effects: &mut Vec<Effect>) -> Step {
        if self.phase == Phase::Idle {
            self.phase = Phase::Opening;
            self.progress_ms = now_ms;
            effects.extend((0..self.stages.len() as u16).map(|stage| {
                let message = Message::Open(Box::new(self.config.open_message(stage)));
                Effect::Message { stage, message }
            }));
        }
        Ok(())
    }

    fn message(&mut self, now_ms: u64, stage: u16, message: &Message, effects: &mut Vec<Effect>) -> Step {
        let unexpected = |text: String| Err((stage, Reason::Unexpected { message: message.name(), text }));
        match message {
            // A message about another task is somebody else's; what is about no task is a greeting.
            other if other.task().is_some_and(|task| task != self.config.task) => Ok(()),
            Message::Hello(_) | Message::Info(_) | Message::Leaves(_) | Message::Proof(_) => Ok(()),
            Message::Error(fault) => Err(self.remote(stage, fault)),
            Message::Opened { .. }
                if self.phase == Phase::Opening && !self.stages[usize::from(stage)].opened =>
            {
                self.stages[usize::from(stage)].opened = true;
                if self.stages.iter().all(|stage| stage.opened) {
                    self.phase = Phase::Running;
                    self.progress_ms = now_ms;
                    effects.push(Effect::Event(Event::Opened));
                    self.feed(effects);
                }
                Ok(())
            }
            Message::Opened { .. } => unexpected("the task was opened before".into()),
            _ if self.phase == Phase::Idle || self.phase == Phase::Opening => {
                unexpected("the task is not open everywhere yet".into())
            }
            Message::Token(token) => self.token(now_ms, stage, token.clone(), effects),
            Message::Receipt { receipt, .. } => {
                let (book, extent) = self.book_and_extent();
                book.push(stage, receipt.clone(), extent).map_err(blame)?;
                let signed = self.book.signed(usize::from(stage)).min(self.sent);
                self.advance_stage(now_ms, stage, signed, effects);
                self.feed(effects);
                Ok(())
            }
            Message::Progress { computed, received, .. } => {
                if computed > received || *received > self.sent {
                    return unexpected(format!(
                        "{computed} computed of {received} received, {} were sent",
                        self.sent
                    ));
                }
                if *computed > self.stages[usize::from(stage)].computed {
                    self.advance_stage(now_ms, stage, *computed, effects);
                }
                Ok(())
            }
            Message::Closed { .. } => self.closed(now_ms, stage, effects),
            other => unexpected(format!("a gateway takes no {}", other.name())),
        }
    }

    fn book_and_extent(&mut self) -> (&mut ReceiptBook, Extent<'_>) {
        (&mut self.book, Extent { tokens: &self.tokens, sent: self.sent, end: self.end })
    }

    fn advance_stage(&mut self, now_ms: u64, stage: u16, computed: u32, effects: &mut Vec<Effect>) {
        let state = &mut self.stages[usize::from(stage)];
        state.computed = state.computed.max(computed);
        let computed = state.computed;
        let receipts = self.book.verified(usize::from(stage)).len() as u32;
        self.progress_ms = now_ms;
        effects.push(Effect::Event(Event::Progress { stage, computed, receipts }));
    }

    fn token(&mut self, now_ms: u64, stage: u16, token: Token, effects: &mut Vec<Effect>) -> Step {
        let unexpected = |text: String| Err((stage, Reason::Unexpected { message: "Token", text }));
        let expected = self.tokens.len() as u32;
        if usize::from(stage) + 1 != self.stages.len() {
            return unexpected(format!("it comes from the last stage, {}", self.stages.len() - 1));
        }
        if self.end.is_some() || self.sent != expected || token.position != expected || token.branch != 0 {
            return unexpected(format!(
                "branch {}, position {}, expected branch 0, position {expected} after {} of {expected} positions were sent",
                token.branch, token.position, self.sent
            ));
        }
        if token.token >= self.config.vocab {
            return unexpected(format!("token {}, expected below {}", token.token, self.config.vocab));
        }
        // A small vocabulary has fewer alternatives than may be asked for.
        let asked = self.config.logprobs.map(|top| u32::from(top).min(self.config.vocab) as usize);
        if token.logprobs.as_ref().map(|logprobs| logprobs.top.len()) != asked {
            let got = token.logprobs.as_ref().map(|logprobs| logprobs.top.len());
            let text = format!("log-probabilities of {got:?} alternatives, expected {asked:?}");
            return unexpected(text);
        }
        self.tokens.push(token.token);
        // A token came out at the end, so every stage has computed all positions.
        for at in 0..self.stages.len() as u16 {
            self.advance_stage(now_ms, at, self.sent, effects);
        }
        let parameters = &self.config.parameters;
        let stop = parameters.stop_tokens.contains(&token.token);
        let answered = self.tokens.len() - self.config.prompt.len();
        let long = answered >= parameters.max_tokens as usize || self.sent >= self.config.context;
        let Token { position, token, logprobs, .. } = token;
        effects.push(Effect::Event(Event::Token { position, token, logprobs, stop }));
        let (book, extent) = self.book_and_extent();
        book.advance(extent).map_err(blame)?;
        match (stop, self.stopping, long) {
            (true, _, _) => self.close(now_ms, Finish::StopToken, effects),
            (_, true, _) => self.close(now_ms, Finish::Stopped, effects),
            (_, _, true) => self.close(now_ms, Finish::Length, effects),
            _ => self.feed(effects),
        }
        Ok(())
    }

    /// Sends tokens that were not sent yet, as far as the window allows.
    fn feed(&mut self, effects: &mut Vec<Effect>) {
        if self.phase != Phase::Running {
            return;
        }
        let signed = (0..self.stages.len()).map(|stage| self.book.signed(stage)).min().unwrap_or(0);
        while (self.sent as usize) < self.tokens.len() {
            let from = self.sent as usize;
            let to = self.tokens.len().min(from + PREFILL_CHUNK_TOKENS);
            if to as u32 - signed.min(to as u32) > WINDOW_POSITIONS {
                return;
            }
            // The answer begins after the last token of the prompt.
            let sample_from = (self.config.prompt.len() - 1).clamp(from, to) as u32;
            effects.push(Effect::Data(Data::Batch(Batch {
                task: self.config.task,
                branch: 0,
                position: self.sent,
                count: (to - from) as u32,
                sample_from,
                values: Values::Tokens(self.tokens[from..to].to_vec()),
            })));
            self.sent = to as u32;
        }
    }

    fn close(&mut self, now_ms: u64, finish: Finish, effects: &mut Vec<Effect>) {
        self.end = Some(self.sent);
        self.phase = Phase::Closing { finish };
        self.progress_ms = now_ms;
        effects.extend((0..self.stages.len() as u16).map(|stage| {
            let message = Message::Close { task: self.config.task, end: self.sent };
            Effect::Message { stage, message }
        }));
    }

    fn closed(&mut self, now_ms: u64, stage: u16, effects: &mut Vec<Effect>) -> Step {
        let Phase::Closing { finish } = self.phase else {
            let text = "the task was not closed".into();
            return Err((stage, Reason::Unexpected { message: "Closed", text }));
        };
        self.book.check_closed(stage).map_err(blame)?;
        self.stages[usize::from(stage)].closed = true;
        self.progress_ms = now_ms;
        if self.stages.iter().all(|stage| stage.closed) {
            // Each stage sent its closing receipt before `Closed`, so all have been verified.
            let config = &self.config;
            let book = core::mem::replace(&mut self.book, ReceiptBook::new(config.terms(), []));
            let stages = book.into_verified().into_iter();
            let file = ReceiptFile {
                version: RECEIPT_VERSION,
                model_root: config.model_root,
                task: config.task,
                secret: config.secret.clone(),
                parameters: config.parameters.clone(),
                sampler_seed: config.sampler_seed,
                prompt_tokens: config.prompt.len() as u32,
                tokens: core::mem::take(&mut self.tokens),
                stages: stages
                    .map(|(part, node, receipts)| StageRecord { part, node, receipts, served: Vec::new() })
                    .collect(),
            };
            self.phase = Phase::Over;
            effects.push(Effect::Event(Event::Finished(Box::new(Outcome { file, finish }))));
        }
        Ok(())
    }

    fn tick(&mut self, now_ms: u64, effects: &mut Vec<Effect>) -> Step {
        let waited_ms = now_ms.saturating_sub(self.progress_ms);
        let first =
            |missing: fn(&StageState) -> bool| self.stages.iter().position(missing).unwrap_or(0) as u16;
        let timeout = |stage, what, limit_ms| Err((stage, Reason::Timeout { what, limit_ms }));
        match self.phase {
            Phase::Opening if waited_ms >= OPEN_TIMEOUT_MS => {
                timeout(first(|stage| !stage.opened), "the task was not opened", OPEN_TIMEOUT_MS)
            }
            Phase::Closing { .. } if waited_ms >= CLOSE_TIMEOUT_MS => {
                timeout(first(|stage| !stage.closed), "the task was not closed", CLOSE_TIMEOUT_MS)
            }
            Phase::Running if waited_ms >= PROGRESS_TIMEOUT_MS => {
                timeout(self.slowest(), "no progress", PROGRESS_TIMEOUT_MS)
            }
            Phase::Running
                if waited_ms >= STALL_PROBE_MS && now_ms.saturating_sub(self.probed_ms) >= STALL_PROBE_MS =>
            {
                self.probed_ms = now_ms;
                effects.extend((0..self.stages.len() as u16).map(|stage| {
                    let message = Message::Probe { task: self.config.task };
                    Effect::Message { stage, message }
                }));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The first stage of those that are least far; the last one if all did everything.
    fn slowest(&self) -> u16 {
        let (stage, least) = (0u16..)
            .zip(self.stages.iter().map(|stage| stage.computed))
            .min_by_key(|(_, computed)| *computed)
            .unwrap_or((0, 0));
        if least >= self.sent { self.stages.len() as u16 - 1 } else { stage }
    }

    /// A stage may blame itself or a neighbour, nobody else.
    fn remote(&self, by: u16, fault: &Fault) -> (u16, Reason) {
        let last = self.stages.len() as u16 - 1;
        let neighbours: BTreeSet<u16> = [by.saturating_sub(1), by, (by + 1).min(last)].into();
        let stage = fault.stage.filter(|stage| neighbours.contains(stage)).unwrap_or(by);
        (stage, Reason::Remote { code: fault.code, text: fault.text.clone(), by })
    }

    fn fail(&mut self, stage: Option<u16>, reason: Reason, effects: &mut Vec<Effect>) {
        let lost = matches!(reason, Reason::Lost(_));
        let cancels = (0..self.stages.len() as u16).filter(|at| !(lost && Some(*at) == stage));
        if self.phase != Phase::Idle {
            effects.extend(cancels.map(|stage| {
                let message = Message::Cancel { task: self.config.task };
                Effect::Message { stage, message }
            }));
        }
        self.phase = Phase::Over;
        let node = stage.and_then(|at| self.config.stages.get(usize::from(at))).map(|stage| stage.node);
        effects.push(Effect::Event(Event::Failed(Failure { stage, node, reason })));
    }
}

fn blame(error: ReceiptError) -> (u16, Reason) {
    (error.stage(), Reason::Receipt(error))
}
