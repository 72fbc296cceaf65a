//! All answers of this process in one batch: every step reads each weight once, for all sequences that
//! have something to compute, whatever adapter they are under. One thread computes; requests come to it over a queue.
//!
//! A step takes one token of every sequence that decodes, and up to [`PREFILL_CHUNK`] tokens of prompts, oldest
//! first. What is in a batch changes no bit of any sequence (docs/spec/arithmetic.md, section 1), so an
//! answer does not show who else was served. An error of one sequence ends that one: the step is
//! then repeated one by one. A sequence whose reader is slow waits outside the batch.

use super::PREFILL_CHUNK;
use crate::service::{Done, Failure, FinishReason, GenerateEvent, GenerateRequest, RouteStage, Timings};
use lockstep_base::Digest;
use lockstep_base::adapter::AdapterWeights;
use lockstep_base::params::{client_seed, draw};
use lockstep_base::part::Part;
use lockstep_model::bundle::Verification;
use lockstep_runtime::forward::{Engine, ForwardError, HeadRows, Segment};
use lockstep_runtime::kv::KvCache;
use lockstep_runtime::observe::Silent;
use lockstep_runtime::sample;
use rand::TryRngCore;
use rand::rngs::OsRng;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SendError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How long a batch without work waits for its readers before it looks again.
const PAUSE: Duration = Duration::from_millis(2);
/// Events of one step at most: a token, and the end.
const EVENTS_A_STEP: usize = 2;

/// An answer to be computed.
pub(super) struct Order {
    pub(super) request: GenerateRequest,
    pub(super) events: mpsc::Sender<GenerateEvent>,
    pub(super) adapter: Option<Arc<AdapterWeights>>,
    /// No token is told before the verdict.
    pub(super) verification: Option<Verification>,
}

/// The thread that computes; it starts with the first order and ends with the last handle.
#[derive(Debug)]
pub(super) struct Batcher {
    pub(super) engine: Engine,
    orders: Mutex<Option<Sender<Order>>>,
}

impl Batcher {
    pub(super) fn new(engine: Engine) -> Batcher {
        Batcher { engine, orders: Mutex::default() }
    }

    /// Puts an order into the queue; where there is no thread for it, its events say so.
    pub(super) fn submit(&self, order: Order) {
        let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let order = match &*orders {
            None => order,
            Some(queue) => match queue.send(order) {
                Ok(()) => return,
                // The thread was lost, and its answers with it: these go on with a new one.
                Err(SendError(order)) => order,
            },
        };
        let (sender, receiver) = channel();
        let engine = self.engine.clone();
        let thread = std::thread::Builder::new().name("generate".into());
        match thread.spawn(move || run(&engine, &receiver)) {
            Ok(_) => {
                let _ = sender.send(order);
                *orders = Some(sender);
            }
            Err(error) => {
                let failure = Failure::busy(format!("no thread for the answer: {error}"));
                // The queue is new and has room.
                let _ = order.events.try_send(GenerateEvent::Failed(failure));
            }
        }
    }
}

/// Serves orders until nobody can give any more and all answers ended.
fn run(engine: &Engine, orders: &Receiver<Order>) {
    let mut sequences: Vec<Sequence> = Vec::new();
    loop {
        if sequences.is_empty() {
            let Ok(order) = orders.recv() else { return };
            sequences.extend(Sequence::begin(engine, order));
        }
        while let Ok(order) = orders.try_recv() {
            sequences.extend(Sequence::begin(engine, order));
        }
        sequences.retain(|sequence| !sequence.events.is_closed());
        let mut feeds = plan(&mut sequences);
        if feeds.is_empty() {
            match orders.recv_timeout(PAUSE) {
                Ok(order) => sequences.extend(Sequence::begin(engine, order)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(PAUSE),
            }
            continue;
        }
        let results = step(engine, &mut feeds);
        for (feed, result) in feeds.into_iter().zip(results) {
            feed.sequence.advance(engine, result);
        }
        sequences.retain(|sequence| !sequence.over);
    }
}

/// One answer on its way.
struct Sequence {
    request: GenerateRequest,
    events: mpsc::Sender<GenerateEvent>,
    verification: Option<Verification>,
    cache: KvCache,
    sampler_seed: Digest,
    /// Tokens that may still be sampled.
    left: u32,
    /// The token that was sampled and not fed yet.
    last: Option<u32>,
    began: Instant,
    first: Option<Instant>,
    over: bool,
}

/// What a step computes of one sequence.
struct Feed<'a> {
    sequence: &'a mut Sequence,
    tokens: Vec<u32>,
    /// Whether a token is sampled behind them.
    samples: bool,
}

/// Who takes part in the next step.
fn plan(sequences: &mut [Sequence]) -> Vec<Feed<'_>> {
    let mut room = PREFILL_CHUNK;
    let mut feeds = Vec::with_capacity(sequences.len());
    for sequence in sequences {
        if sequence.events.capacity() < EVENTS_A_STEP {
            continue;
        }
        let prompt = &sequence.request.prompt;
        let tokens = match sequence.last {
            Some(token) => vec![token],
            None => {
                let rest = &prompt[sequence.cache.len()..];
                let count = rest.len().min(room);
                room -= count;
                rest[..count].to_vec()
            }
        };
        if !tokens.is_empty() {
            let samples = sequence.cache.len() + tokens.len() >= prompt.len();
            feeds.push(Feed { sequence, tokens, samples });
        }
    }
    feeds
}

/// Logits of every feed that samples, empty ones of the others.
fn step(engine: &Engine, feeds: &mut [Feed<'_>]) -> Vec<Result<Vec<i32>, ForwardError>> {
    let starts: Vec<usize> = feeds.iter().map(|feed| feed.sequence.cache.len()).collect();
    if let Ok(logits) = together(engine, feeds) {
        return logits.into_iter().map(Ok).collect();
    }
    feeds.iter_mut().zip(starts).for_each(|(feed, start)| feed.sequence.cache.truncate(start));
    let alone = feeds.iter_mut().map(|feed| {
        let mut logits = together(engine, std::slice::from_mut(feed))?;
        Ok(logits.swap_remove(0))
    });
    alone.collect()
}

fn together(engine: &Engine, feeds: &mut [Feed<'_>]) -> Result<Vec<Vec<i32>>, ForwardError> {
    let (width, vocab) = (engine.width(), engine.weights.config.vocab as usize);
    let mut x = Vec::new();
    for feed in feeds.iter() {
        x.extend(engine.embed(&feed.tokens, feed.sequence.cache.len(), &mut Silent)?);
    }
    let mut silent = vec![Silent; feeds.len()];
    let mut segments: Vec<Segment<'_, Silent>> = feeds
        .iter_mut()
        .zip(&mut silent)
        .map(|(feed, observer)| Segment {
            cache: &mut feed.sequence.cache,
            rows: feed.tokens.len(),
            observer,
        })
        .collect();
    engine.layers_batch(&mut x, &mut segments)?;
    let (mut tails, mut positions, mut end) = (Vec::new(), Vec::new(), 0);
    for feed in feeds.iter() {
        end += feed.tokens.len();
        if feed.samples {
            tails.extend_from_slice(&x[(end - 1) * width..end * width]);
            positions.push([feed.sequence.cache.len() - 1]);
        }
    }
    let mut logits = Vec::new();
    if !positions.is_empty() {
        let rows = positions.iter().zip(&mut silent);
        let mut rows: Vec<HeadRows<'_, Silent>> =
            rows.map(|(positions, observer)| HeadRows { positions, observer }).collect();
        logits = engine.logits_batch(&tails, &mut rows)?;
    }
    let mut rows = logits.chunks_exact(vocab);
    let own = |feed: &Feed<'_>| if feed.samples { rows.next().map(<[i32]>::to_vec) } else { None };
    Ok(feeds.iter().map(own).map(Option::unwrap_or_default).collect())
}

impl Sequence {
    /// The sequence of an order, if there is something to compute.
    fn begin(engine: &Engine, order: Order) -> Option<Sequence> {
        let Order { request, events, adapter, verification } = order;
        let seed = request.seed.map_or_else(random_seed, Ok);
        match request.budget(&engine.weights.config).and_then(|left| Ok((left, seed?))) {
            Ok((left, seed)) => Some(Sequence {
                sampler_seed: client_seed(seed, request.choice),
                cache: engine.new_cache().with_adapter(adapter),
                request,
                events,
                verification,
                left,
                last: None,
                began: Instant::now(),
                first: None,
                over: false,
            }),
            Err(failure) => {
                // The queue is new and has room.
                let _ = events.try_send(GenerateEvent::Failed(failure));
                None
            }
        }
    }

    /// Takes what a step gave.
    fn advance(&mut self, engine: &Engine, result: Result<Vec<i32>, ForwardError>) {
        let logits = match result {
            Err(error) => return self.end(GenerateEvent::Failed(Failure::compute(error))),
            Ok(logits) if logits.is_empty() => return,
            Ok(logits) => logits,
        };
        if let Some(verification) = self.verification.take()
            && let Err(error) = verification.wait()
        {
            return self.end(GenerateEvent::Failed(Failure::compute(error)));
        }
        self.first.get_or_insert_with(Instant::now);
        if self.left == 0 {
            return self.done(engine, FinishReason::Length);
        }
        let token = self.sample(engine, &logits);
        self.left -= 1;
        if self.request.parameters.stop_tokens.contains(&token) || self.request.end.is_set() {
            self.done(engine, FinishReason::Stop);
        } else if self.left == 0 {
            self.done(engine, FinishReason::Length);
        } else {
            self.last = Some(token);
        }
    }

    /// Draws the next token and reports it.
    fn sample(&self, engine: &Engine, logits: &[i32]) -> u32 {
        let position = self.cache.len() as u32;
        let frac = engine.weights.head.as_ref().map_or(0, |head| i32::from(head.out_frac));
        let table = &engine.weights.tables.exp2_sample;
        let word = draw(&self.sampler_seed, position);
        let token = sample::sample(logits, frac, &self.request.parameters, word, table);
        let distribution = self
            .request
            .top_logprobs
            .map(|top| sample::distribution(logits, frac, token, top as usize, table));
        // There is room, or nobody listens any more, which the next step notices.
        let _ = self.events.try_send(GenerateEvent::Token { token, position, distribution });
        token
    }

    fn done(&mut self, engine: &Engine, reason: FinishReason) {
        let first = self.first.unwrap_or(self.began);
        let timings = Timings {
            prompt_seconds: (first - self.began).as_secs_f64(),
            generate_seconds: first.elapsed().as_secs_f64(),
        };
        let part = Part::whole(engine.weights.config.n_layers).to_string();
        let route = vec![RouteStage { node: "local".into(), part }];
        let sampler_seed = self.sampler_seed;
        let done = Done { reason, sampler_seed, route, receipts: None, timings };
        self.end(GenerateEvent::Done(Box::new(done)));
    }

    fn end(&mut self, event: GenerateEvent) {
        let _ = self.events.try_send(event);
        self.over = true;
    }
}

/// A seed for a client that gave none.
fn random_seed() -> Result<u64, Failure> {
    let refused = |error| Failure::compute(format!("no random seed from the operating system: {error}"));
    OsRng.try_next_u64().map_err(refused)
}
