//! The gateway's side of one request.
//!
//! | phase | input | then |
//! |---|---|---|
//! | opening | `Opened` of every stage | running: the prompt goes out in chunks, as far as the window allows |
//! | running | receipt | checked; the window moves |
//! | running | token | event; fed back, or the task is closed (length, stop token, stop asked for) |
//! | closing | receipts, `Closed` of every stage, the last one first | finished: a receipt file |
//! | any | a stage is lost, is silent, or forgot the task | another node is asked for, and takes its place (`recover`) |
//! | any | error, bad receipt, nobody to take the place | failed: the event names the stage; the others are cancelled |

mod event;
mod recover;

use crate::data::{Batch, Data, Values};
use crate::limits::{
    CLOSE_TIMEOUT_MS, OPEN_TIMEOUT_MS, PREFILL_CHUNK_TOKENS, PROGRESS_TIMEOUT_MS, STALL_PROBE_MS,
    WINDOW_POSITIONS,
};
use crate::message::{Message, Token};
use crate::receipts::{Extent, ReceiptBook, ReceiptError};
pub use crate::request::{RouteConfig, RouteError, RouteStage};
pub use event::{Effect, Event, Failure, Finish, Input, Outcome, Reason};
use lockstep_base::keys::NodeId;
use lockstep_base::receipt::RECEIPT_VERSION;
use lockstep_base::receipt_file::ReceiptFile;
use recover::Entrance;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    Opening,
    Running,
    Closing { finish: Finish },
    Over,
}

/// How a stage stands.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Standing {
    /// Its node was lost, because of this, and there is no other one yet.
    Lost(Reason),
    Opening,
    Open,
    Closed,
}

#[derive(Debug)]
struct StageState {
    standing: Standing,
    /// Positions that it computed, as far as is known.
    computed: u32,
    /// What comes from the stage before, or from here.
    entrance: Entrance,
    /// Nodes that were lost.
    tried: Vec<NodeId>,
}

/// The state machine of one request.
pub struct Route {
    config: RouteConfig,
    phase: Phase,
    stages: Vec<StageState>,
    book: ReceiptBook,
    /// Prompt and answer.
    tokens: Vec<u32>,
    /// Positions that were sent to the first stage.
    sent: u32,
    /// The same, of the node that serves it now.
    fed: u32,
    /// One past the position of the last token that came from the node that serves the last stage now.
    told: u32,
    end: Option<u32>,
    stopping: bool,
    progress_ms: u64,
    probed_ms: u64,
    replacements: u32,
    mends: u32,
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
        let stage = |_| StageState {
            standing: Standing::Opening,
            computed: 0,
            entrance: Entrance::Live,
            tried: Vec::new(),
        };
        Ok(Route {
            stages: config.stages.iter().map(stage).collect(),
            book,
            tokens: [&config.prompt[..], &config.answered].concat(),
            phase: Phase::Idle,
            sent: 0,
            fed: 0,
            told: config.prompt.len() as u32,
            end: None,
            stopping: false,
            progress_ms: 0,
            probed_ms: 0,
            replacements: 0,
            mends: 0,
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
            Input::PeerLost { stage, text } => self.lost(now_ms, stage, Reason::Lost(text), &mut effects),
            Input::Replacement { stage, with } => self.replacement(now_ms, stage, with, &mut effects),
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
        let standing = &self.stages[usize::from(stage)].standing;
        match message {
            // Its place is another node's.
            _ if matches!(standing, Standing::Lost(_)) => Ok(()),
            // A message about another task is somebody else's; what is about no task is a greeting.
            other if other.task().is_some_and(|task| task != self.config.task) => Ok(()),
            Message::Hello(_) | Message::Info(_) | Message::Leaves(_) | Message::Proof(_) => Ok(()),
            Message::Error(fault) => match self.remote(stage, fault) {
                (blamed, reason) if blamed == stage && fault.code.is_loss() => {
                    self.lost(now_ms, stage, reason, effects)
                }
                fatal => Err(fatal),
            },
            Message::Lost { peer, code, .. } => self.reported(now_ms, stage, *peer, *code, effects),
            Message::Opened { .. } if self.stages[usize::from(stage)].standing == Standing::Opening => {
                self.opened(now_ms, stage, effects);
                Ok(())
            }
            Message::Opened { .. } => unexpected("the task was opened before".into()),
            Message::Rewired { previous, received, .. } => {
                self.rewired(now_ms, stage, *previous, *received, effects)
            }
            _ if self.phase == Phase::Idle || self.phase == Phase::Opening => {
                unexpected("the task is not open everywhere yet".into())
            }
            _ if *standing == Standing::Opening => unexpected("the task is not open there yet".into()),
            Message::Token(token) => self.token(now_ms, stage, token.clone(), effects),
            Message::Receipt { receipt, .. } => {
                let (book, extent) = self.book_and_extent();
                book.push(stage, receipt.clone(), extent).map_err(blame)?;
                let signed = self.book.signed(usize::from(stage)).min(self.sent);
                self.advance_stage(now_ms, stage, signed, effects);
                self.resend_more(stage, effects);
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
        // What an earlier node of this stage gave comes again, if another one took its place.
        let (expected, known) = (self.told, self.told < self.tokens.len() as u32);
        if usize::from(stage) + 1 != self.stages.len() {
            return unexpected(format!("it comes from the last stage, {}", self.stages.len() - 1));
        }
        let asked_for = self.sent >= expected && (known || self.end.is_none());
        if !asked_for || token.position != expected || token.branch != 0 {
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
        self.told += 1;
        if known {
            let before = self.tokens[expected as usize];
            if token.token != before {
                let Token { position, token: got, .. } = token;
                return Err((stage, Reason::Diverged { position, got, expected: before }));
            }
            self.progress_ms = now_ms;
            return Ok(());
        }
        self.tokens.push(token.token);
        // A token came out at the end, so every stage has computed all positions.
        for at in 0..self.stages.len() as u16 {
            if self.stages[usize::from(at)].standing == Standing::Open {
                self.advance_stage(now_ms, at, self.sent, effects);
            }
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
        let running = matches!(self.phase, Phase::Running | Phase::Closing { .. });
        if !running || self.stages[0].standing != Standing::Open || self.stages[0].entrance != Entrance::Live
        {
            return;
        }
        // A stage that is closed has signed everything.
        let open = (0..self.stages.len()).filter(|stage| self.stages[*stage].standing != Standing::Closed);
        let signed = open.map(|stage| self.book.signed(stage)).min().unwrap_or(0);
        let end = self.end.map_or(self.tokens.len(), |end| end as usize);
        while (self.fed as usize) < end {
            let from = self.fed as usize;
            let to = end.min(from + PREFILL_CHUNK_TOKENS);
            if to as u32 - signed.min(to as u32) > WINDOW_POSITIONS {
                return;
            }
            // The answer begins after the last token of the prompt.
            let sample_from = (self.config.prompt.len() - 1).clamp(from, to) as u32;
            effects.push(Effect::Data(Data::Batch(Batch {
                task: self.config.task,
                branch: 0,
                position: self.fed,
                count: (to - from) as u32,
                sample_from,
                values: Values::Tokens(self.tokens[from..to].to_vec()),
            })));
            self.fed = to as u32;
            self.sent = self.sent.max(self.fed);
        }
    }

    /// The last stage is closed first: what left the others is still there then, should a stage behind them be lost.
    fn close(&mut self, now_ms: u64, finish: Finish, effects: &mut Vec<Effect>) {
        self.end = Some(self.sent);
        self.phase = Phase::Closing { finish };
        self.progress_ms = now_ms;
        self.close_next(effects);
    }

    /// Closes the last stage that is not closed.
    fn close_next(&mut self, effects: &mut Vec<Effect>) {
        let last = self.stages.iter().rposition(|stage| stage.standing != Standing::Closed);
        if let (Some(stage), Some(end)) = (last, self.end)
            && self.stages[stage].standing == Standing::Open
        {
            let message = Message::Close { task: self.config.task, end };
            effects.push(Effect::Message { stage: stage as u16, message });
        }
    }

    fn closed(&mut self, now_ms: u64, stage: u16, effects: &mut Vec<Effect>) -> Step {
        let Phase::Closing { finish } = self.phase else {
            let text = "the task was not closed".into();
            return Err((stage, Reason::Unexpected { message: "Closed", text }));
        };
        self.book.check_closed(stage).map_err(blame)?;
        self.stages[usize::from(stage)].standing = Standing::Closed;
        self.progress_ms = now_ms;
        self.close_next(effects);
        if self.stages.iter().all(|stage| stage.standing == Standing::Closed) {
            // Each stage sent its closing receipt before `Closed`, so all have been verified.
            let config = &self.config;
            let book = core::mem::replace(&mut self.book, ReceiptBook::new(config.terms(), []));
            let (stages, earlier) = book.into_verified();
            let file = ReceiptFile {
                version: RECEIPT_VERSION,
                model_root: config.model_root,
                task: config.task,
                secret: config.secret.clone(),
                parameters: config.parameters.clone(),
                sampler_seed: config.sampler_seed,
                prompt_tokens: config.prompt.len() as u32,
                tokens: core::mem::take(&mut self.tokens),
                stages,
                earlier: (!earlier.is_empty()).then_some(earlier),
            };
            self.phase = Phase::Over;
            effects.push(Effect::Event(Event::Finished(Box::new(Outcome { file, finish }))));
        }
        Ok(())
    }

    fn tick(&mut self, now_ms: u64, effects: &mut Vec<Effect>) -> Step {
        let waited_ms = now_ms.saturating_sub(self.progress_ms);
        let late = |limit_ms| (waited_ms >= limit_ms).then_some(limit_ms);
        let opening = self.stages.iter().position(|stage| stage.standing == Standing::Opening);
        let open = self.stages.iter().rposition(|stage| stage.standing == Standing::Open);
        let closing = matches!(self.phase, Phase::Closing { .. });
        let silent = if self.phase == Phase::Idle {
            None
        } else if let (Some(stage), Some(limit_ms)) = (opening, late(OPEN_TIMEOUT_MS)) {
            Some((stage as u16, "the task was not opened", limit_ms))
        } else if let (true, Some(stage), Some(limit_ms)) =
            (closing && !self.recovering(), open, late(CLOSE_TIMEOUT_MS))
        {
            Some((stage as u16, "the task was not closed", limit_ms))
        } else if let (true, Some(limit_ms)) = (self.phase != Phase::Opening, late(PROGRESS_TIMEOUT_MS)) {
            Some((self.slowest(), "no progress", limit_ms))
        } else {
            None
        };
        if let Some((stage, what, limit_ms)) = silent {
            return self.lost(now_ms, stage, Reason::Timeout { what, limit_ms }, effects);
        }
        match self.phase {
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

    /// The first stage of those that are least far; the last one if all did everything. None that is closed.
    fn slowest(&self) -> u16 {
        let open = self.stages.iter().enumerate().filter(|(_, stage)| stage.standing != Standing::Closed);
        let all: Vec<(u32, u16)> = open.map(|(at, stage)| (stage.computed, at as u16)).collect();
        let slowest = all.iter().copied().min().filter(|(computed, _)| *computed < self.sent);
        slowest.or_else(|| all.last().copied()).map_or(0, |(_, stage)| stage)
    }

    fn fail(&mut self, stage: Option<u16>, reason: Reason, effects: &mut Vec<Effect>) {
        let there = |at: &u16| !matches!(self.stages[usize::from(*at)].standing, Standing::Lost(_));
        let cancels = (0..self.stages.len() as u16).filter(there);
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
