//! From running answers to a response: whole, or streamed as server-sent events.
//!
//! The response waits for the first event of the answers, so that what fails at once fails with a
//! status code; what fails later ends a stream with an error event and without `[DONE]`. Dropping
//! the response (the client went away) drops the answers, which cancels them.

use super::error::ApiError;
use super::limits::KEEP_ALIVE;
use super::shape::{Choice, Shape, Usage};
use crate::service::Failure;
use crate::text::{AnswerEvent, Piece};
use axum::Json;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, BoxStream, SelectAll, StreamExt};
use serde_json::Value;
use std::collections::VecDeque;
use std::convert::Infallible;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

/// The answers of one request, running side by side.
pub struct Answers {
    events: SelectAll<BoxStream<'static, (usize, AnswerEvent)>>,
    count: usize,
    open: usize,
    /// Choices to one prompt: the prompt of a group counts once.
    n: usize,
    usage: Usage,
    /// The place among all requests, held while anything runs.
    _permit: OwnedSemaphorePermit,
}

impl std::fmt::Debug for Answers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Answers")
            .field("count", &self.count)
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

impl Answers {
    /// Reads `receivers`, `n` in a row to each prompt.
    #[must_use]
    pub fn new(
        receivers: Vec<mpsc::Receiver<AnswerEvent>>,
        n: usize,
        permit: OwnedSemaphorePermit,
    ) -> Answers {
        let count = receivers.len();
        let events = receivers.into_iter().enumerate().map(|(index, receiver)| {
            let next = |mut receiver: mpsc::Receiver<AnswerEvent>| async {
                receiver.recv().await.map(|event| (event, receiver))
            };
            stream::unfold(receiver, next).map(move |event| (index, event)).boxed()
        });
        Answers {
            events: stream::select_all(events),
            count,
            open: count,
            n,
            usage: Usage::default(),
            _permit: permit,
        }
    }

    /// The next event that a client sees; `None` when all answers are complete.
    async fn next(&mut self) -> Option<Result<(usize, AnswerEvent), ApiError>> {
        while self.open > 0 {
            let Some((index, event)) = self.events.next().await else {
                return Some(Err(Failure::compute("an answer ended without a result").into()));
            };
            match &event {
                AnswerEvent::Stage(_) => continue,
                AnswerEvent::Failed(failure) => {
                    self.open = 0;
                    return Some(Err(failure.clone().into()));
                }
                AnswerEvent::Done(end) => {
                    self.open -= 1;
                    self.usage.completion_tokens += end.tokens.len() as u64;
                    if index.is_multiple_of(self.n) {
                        self.usage.prompt_tokens += u64::from(end.prompt_tokens);
                    }
                }
                AnswerEvent::Piece(_) => {}
            }
            return Some(Ok((index, event)));
        }
        None
    }

    /// All answers in one response.
    ///
    /// # Errors
    /// The first failure of any of them.
    pub async fn whole(mut self, shape: &Shape) -> Result<Response, ApiError> {
        let mut pieces: Vec<Piece> = (0..self.count).map(|_| Piece::default()).collect();
        let mut ends: Vec<_> = (0..self.count).map(|_| None).collect();
        while let Some(event) = self.next().await {
            match event? {
                (index, AnswerEvent::Piece(piece)) => {
                    pieces[index].text.push_str(&piece.text);
                    pieces[index].tokens.extend(piece.tokens);
                }
                (index, AnswerEvent::Done(end)) => ends[index] = Some(end),
                _ => {}
            }
        }
        let choices = pieces
            .into_iter()
            .zip(ends)
            .filter_map(|(piece, end)| Some(Choice { text: piece.text, tokens: piece.tokens, end: end? }));
        Ok(Json(shape.whole(&choices.collect::<Vec<_>>(), self.usage)).into_response())
    }

    /// The answers as server-sent events.
    ///
    /// # Errors
    /// The failure, if that is the first event.
    pub async fn streamed(mut self, shape: Shape) -> Result<Response, ApiError> {
        let mut pending: VecDeque<Event> = shape.opening(self.count).iter().map(data).collect();
        if let Some(first) = self.next().await {
            let (index, event) = first?;
            pending.extend(chunk(&shape, index, &event));
        }
        let state = Streaming { answers: self, shape, pending, over: false };
        let events = stream::unfold(state, |mut state| async {
            state.next().await.map(|event| (Ok::<_, Infallible>(event), state))
        });
        Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
    }
}

struct Streaming {
    answers: Answers,
    shape: Shape,
    pending: VecDeque<Event>,
    over: bool,
}

impl Streaming {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(event);
            }
            if self.over {
                return None;
            }
            match self.answers.next().await {
                Some(Ok((index, event))) => self.pending.extend(chunk(&self.shape, index, &event)),
                Some(Err(error)) => {
                    self.over = true;
                    self.pending.push_back(data(&error.body()));
                }
                None => {
                    self.over = true;
                    self.pending.extend(self.shape.closing(self.answers.usage).as_ref().map(data));
                    self.pending.push_back(Event::default().data("[DONE]"));
                }
            }
        }
    }
}

fn chunk(shape: &Shape, index: usize, event: &AnswerEvent) -> Option<Event> {
    match event {
        AnswerEvent::Piece(piece) => Some(data(&shape.piece(index, piece))),
        AnswerEvent::Done(end) => Some(data(&shape.end(index, end))),
        AnswerEvent::Stage(_) | AnswerEvent::Failed(_) => None,
    }
}

/// JSON on one line: its strings escape line ends.
fn data(value: &Value) -> Event {
    Event::default().data(value.to_string())
}
