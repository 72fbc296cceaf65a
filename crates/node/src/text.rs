//! From the tokens of a generator to text that may be shown: whole characters only, nothing of a
//! stop string, each token with the text that it completed.
//!
//! Text is held back while it may still become a stop string. A stop string counts where it is
//! *completed* first (of several that end at the same character the longest), which makes the
//! result independent of how the text was cut into tokens.

use crate::service::{
    Done, EndSignal, Failure, FinishReason, GenerateEvent, GenerateRequest, Generator, StageProgress,
};
use lockstep_model::tokenizer::{DecodeStream, Tokenizer};
use lockstep_runtime::sample::Distribution;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Events of one answer that wait for their reader at most.
pub const ANSWER_QUEUE: usize = 32;
/// How long a reader may leave the queue full before its answer is cancelled.
pub const READER_TIMEOUT: Duration = Duration::from_secs(60);

/// A token whose text is shown.
#[derive(Debug, Clone, PartialEq)]
pub struct ShownToken {
    /// The token.
    pub token: u32,
    /// Characters of the answer in front of the text that this token completes.
    pub offset: usize,
    /// The distribution it was drawn from, if asked for.
    pub distribution: Option<Distribution>,
}

/// A part of the answer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Piece {
    /// Its text: whole characters.
    pub text: String,
    /// The tokens whose text is now complete.
    pub tokens: Vec<ShownToken>,
}

impl Piece {
    /// Whether there is nothing to show.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.text.is_empty() && self.tokens.is_empty()
    }
}

/// A token that waits for the text in front of it to be released.
#[derive(Debug)]
struct Waiting {
    token: u32,
    start: usize,
    end: usize,
    distribution: Option<Distribution>,
}

/// Puts an answer together, token by token.
#[derive(Debug)]
pub struct Assembler<'t> {
    decoder: Option<DecodeStream<'t>>,
    stop: Vec<String>,
    /// Decoded and not released: the beginning of a stop string at most.
    held: String,
    /// Characters released, and decoded, so far.
    released: usize,
    decoded: usize,
    waiting: VecDeque<Waiting>,
    stopped: bool,
}

impl<'t> Assembler<'t> {
    /// For an answer that is decoded by `decoder` and ended by any of `stop` (empty ones are
    /// ignored).
    #[must_use]
    pub fn new(decoder: DecodeStream<'t>, stop: &[String]) -> Assembler<'t> {
        Assembler {
            decoder: Some(decoder),
            stop: stop.iter().filter(|stop| !stop.is_empty()).cloned().collect(),
            held: String::new(),
            released: 0,
            decoded: 0,
            waiting: VecDeque::new(),
            stopped: false,
        }
    }

    /// Whether a stop string was met: the answer is complete.
    #[must_use]
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Adds a token; what may be shown now. After a stop string nothing is added.
    pub fn push(&mut self, token: u32, distribution: Option<Distribution>) -> Piece {
        if self.stopped {
            return Piece::default();
        }
        let text = self.decoder.as_mut().map(|decoder| decoder.push(token)).unwrap_or_default();
        let start = self.decoded;
        self.decoded += text.chars().count();
        self.waiting.push_back(Waiting { token, start, end: self.decoded, distribution });
        self.extend(&text);
        self.release(false)
    }

    /// The rest, when no token follows.
    pub fn finish(&mut self) -> Piece {
        let rest = self.decoder.take().map(DecodeStream::finish).unwrap_or_default();
        if !self.stopped {
            self.decoded += rest.chars().count();
            if let Some(last) = self.waiting.back_mut() {
                last.end = self.decoded;
            }
            self.extend(&rest);
        }
        self.release(true)
    }

    /// Appends to the held text, up to the first stop string that is completed.
    fn extend(&mut self, text: &str) {
        for character in text.chars() {
            self.held.push(character);
            let met =
                self.stop.iter().filter(|stop| self.held.ends_with(stop.as_str())).map(String::len).max();
            if let Some(bytes) = met {
                self.held.truncate(self.held.len() - bytes);
                self.stopped = true;
                return;
            }
        }
    }

    /// Takes out what cannot become a stop string any more; everything at the end.
    fn release(&mut self, all: bool) -> Piece {
        let keep = if all || self.stopped { 0 } else { self.open_suffix() };
        let tail = self.held.split_off(self.held.len() - keep);
        let text = std::mem::replace(&mut self.held, tail);
        self.released += text.chars().count();
        let mut tokens = Vec::new();
        let closing = all || self.stopped;
        if text.is_empty() && !closing {
            // A token without text of its own comes with the text that follows.
            return Piece::default();
        }
        // At the end a token counts if any of its text was shown, or it had none to show.
        while let Some(next) = self.waiting.front() {
            let shown = next.end <= self.released || (closing && next.start < self.released);
            if !shown {
                break;
            }
            let Some(Waiting { token, start, distribution, .. }) = self.waiting.pop_front() else { break };
            tokens.push(ShownToken { token, offset: start, distribution });
        }
        Piece { text, tokens }
    }

    /// Bytes at the end of the held text that are the beginning of a stop string.
    fn open_suffix(&self) -> usize {
        let begins =
            |suffix: &str| self.stop.iter().any(|stop| stop.len() > suffix.len() && stop.starts_with(suffix));
        let starts = self.held.char_indices().map(|(at, _)| at);
        starts.map(|at| &self.held[at..]).find(|suffix| begins(suffix)).map_or(0, str::len)
    }
}

/// How the first token of an answer is decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beginning {
    /// The answer goes on after the prompt: a space in front is part of it.
    Continuation,
    /// The answer is a text of its own.
    Fresh,
}

/// What the reader of an answer sees.
#[derive(Debug)]
pub enum AnswerEvent {
    /// A part of the text.
    Piece(Piece),
    /// A stage got on.
    Stage(StageProgress),
    /// The answer is complete. The last event.
    Done(Box<AnswerEnd>),
    /// The answer will not be completed. The last event.
    Failed(Failure),
}

/// How an answer ended.
#[derive(Debug)]
pub struct AnswerEnd {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Tokens of the answer, the one that ended it too.
    pub tokens: Vec<u32>,
    /// What the generator said; its reason is `stop` where a stop string was met.
    pub done: Done,
}

/// Starts an answer and puts its text together on a task of the current tokio runtime. Dropping
/// the receiver cancels.
pub fn answer(
    generator: &dyn Generator,
    tokenizer: Arc<Tokenizer>,
    request: GenerateRequest,
    beginning: Beginning,
) -> mpsc::Receiver<AnswerEvent> {
    let (sender, receiver) = mpsc::channel(ANSWER_QUEUE);
    let state = Answering {
        prompt_tokens: request.prompt.len() as u32,
        tokens: Vec::new(),
        stop_tokens: request.parameters.stop_tokens.clone(),
        end: request.end.clone(),
    };
    let stop = request.parameters.stop.clone();
    let events = generator.generate(request);
    tokio::spawn(async move {
        let decoder = match beginning {
            Beginning::Continuation => tokenizer.decode_continuation(),
            Beginning::Fresh => tokenizer.decode_stream(),
        };
        let assembler = Assembler::new(decoder, &stop);
        state.drive(assembler, events, &sender).await;
    });
    receiver
}

/// Who reads an answer went away or reads too slowly.
struct ReaderGone;

struct Answering {
    prompt_tokens: u32,
    tokens: Vec<u32>,
    stop_tokens: Vec<u32>,
    end: EndSignal,
}

impl Answering {
    /// Returning drops `events`, which cancels what is not done.
    async fn drive(
        mut self,
        mut assembler: Assembler<'_>,
        mut events: mpsc::Receiver<GenerateEvent>,
        sender: &mpsc::Sender<AnswerEvent>,
    ) {
        loop {
            let event = tokio::select! {
                event = events.recv() => event,
                () = sender.closed() => return,
            };
            let event = event.unwrap_or_else(|| {
                GenerateEvent::Failed(Failure::compute("the generator ended without a result"))
            });
            match self.forward(&mut assembler, event, sender).await {
                Ok(true) => {}
                Ok(false) | Err(ReaderGone) => return,
            }
        }
    }

    /// Passes one event on; whether more are to come.
    async fn forward(
        &mut self,
        assembler: &mut Assembler<'_>,
        event: GenerateEvent,
        sender: &mpsc::Sender<AnswerEvent>,
    ) -> Result<bool, ReaderGone> {
        match event {
            GenerateEvent::Token { token, distribution, .. } => {
                if assembler.stopped() {
                    return Ok(true);
                }
                self.tokens.push(token);
                if self.stop_tokens.contains(&token) {
                    return Ok(true);
                }
                let piece = assembler.push(token, distribution);
                if assembler.stopped() {
                    self.end.set();
                }
                send_piece(sender, piece).await?;
                Ok(true)
            }
            GenerateEvent::Stage(progress) => send(sender, AnswerEvent::Stage(progress)).await.map(|()| true),
            GenerateEvent::Done(mut done) => {
                send_piece(sender, assembler.finish()).await?;
                if assembler.stopped() {
                    done.reason = FinishReason::Stop;
                }
                let end = AnswerEnd {
                    prompt_tokens: self.prompt_tokens,
                    tokens: core::mem::take(&mut self.tokens),
                    done: *done,
                };
                send(sender, AnswerEvent::Done(Box::new(end))).await.map(|()| false)
            }
            GenerateEvent::Failed(failure) => {
                send(sender, AnswerEvent::Failed(failure)).await.map(|()| false)
            }
        }
    }
}

async fn send_piece(sender: &mpsc::Sender<AnswerEvent>, piece: Piece) -> Result<(), ReaderGone> {
    if piece.is_empty() { Ok(()) } else { send(sender, AnswerEvent::Piece(piece)).await }
}

async fn send(sender: &mpsc::Sender<AnswerEvent>, event: AnswerEvent) -> Result<(), ReaderGone> {
    sender.send_timeout(event, READER_TIMEOUT).await.map_err(|_| ReaderGone)
}
