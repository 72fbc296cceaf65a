//! One request on its way: the route's state machine between links and the client.

use super::Gateway;
use super::link::{Heard, Link, Listening, MESSAGES_MAX, Topic};
use crate::service::{
    Done, Failure, FailureKind, FinishReason, GenerateEvent, GenerateRequest, Receipts, RouteStage,
    StageProgress, Timings,
};
use lockstep_base::Digest;
use lockstep_mesh::code::Code;
use lockstep_mesh::limits::TICK_MS;
use lockstep_mesh::message::Logprobs;
use lockstep_mesh::route::{self, Effect, Event, Finish, Input, Outcome, Reason, Route};
use lockstep_runtime::sample::Distribution;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How often the end signal of a request is looked at.
const POLL: Duration = Duration::from_millis(50);

pub(super) struct Answer<'a> {
    gateway: &'a Gateway,
    events: &'a mpsc::Sender<GenerateEvent>,
    links: Vec<Arc<Link>>,
    route: Route,
    began: Instant,
    /// Time that the client took to read; no stage is late because of it.
    waited: Duration,
    first_token: Option<Instant>,
}

impl Answer<'_> {
    /// Runs `request`, under an adapter unless that is zero, to its end.
    pub(super) async fn run(
        gateway: &Gateway,
        request: &GenerateRequest,
        adapter: Digest,
        events: &mpsc::Sender<GenerateEvent>,
    ) -> Result<(), Failure> {
        let config = gateway.route_config(request, adapter)?;
        let links = gateway.open_links().await?;
        let task = config.task;
        let route = Route::new(config).map_err(|error| Failure::invalid(error.to_string()))?;
        let (sender, mut heard) = mpsc::channel(MESSAGES_MAX);
        let listen =
            |(stage, link): (u16, &Arc<Link>)| link.listen(task, stage, Topic::Answer, sender.clone());
        let _listening: Vec<Listening> = (0..).zip(&links).map(listen).collect();
        drop(sender);
        let mut answer = Answer {
            gateway,
            events,
            links,
            route,
            began: Instant::now(),
            waited: Duration::ZERO,
            first_token: None,
        };
        let mut tick = tokio::time::interval(Duration::from_millis(TICK_MS));
        let mut poll = tokio::time::interval(POLL);
        let mut stopped = false;
        let mut input = Input::Start;
        loop {
            if answer.handle(input).await? {
                return Ok(());
            }
            input = loop {
                tokio::select! {
                    () = events.closed() => break Input::Cancel,
                    message = heard.recv() => match message {
                        Some(Heard::Message(stage, message)) => break Input::Message { stage, message },
                        Some(Heard::Lost(stage, text)) => break Input::PeerLost { stage, text },
                        // Every link has said its last word.
                        None => break Input::Cancel,
                    },
                    _ = tick.tick() => break Input::Tick,
                    _ = poll.tick() => if request.end.is_set() && !stopped {
                        stopped = true;
                        break Input::Stop;
                    },
                }
            };
        }
    }

    /// Gives the machine one input and performs what it asks for; whether the request is over.
    async fn handle(&mut self, input: Input) -> Result<bool, Failure> {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let now_ms = self.began.elapsed().saturating_sub(self.waited).as_millis() as u64;
            for effect in self.route.handle(now_ms, input) {
                match effect {
                    Effect::Message { stage, message } => {
                        if !self.links[usize::from(stage)].send(&message) && !self.route.is_over() {
                            inputs.push(Input::PeerLost {
                                stage,
                                text: "the node does not take messages".into(),
                            });
                        }
                    }
                    Effect::Data(data) => {
                        if let Err(error) = self.links[0].send_data(&data).await {
                            inputs.push(Input::PeerLost { stage: 0, text: error.to_string() });
                        }
                    }
                    Effect::Event(event) => self.tell(event).await?,
                }
            }
        }
        Ok(self.route.is_over())
    }

    async fn tell(&mut self, event: Event) -> Result<(), Failure> {
        let event = match event {
            Event::Opened => return Ok(()),
            Event::Token { position, token, logprobs, .. } => {
                self.first_token.get_or_insert_with(Instant::now);
                GenerateEvent::Token { token, position, distribution: logprobs.map(distribution) }
            }
            Event::Progress { stage, computed, receipts } => {
                GenerateEvent::Stage(StageProgress { stage: stage.into(), positions: computed, receipts })
            }
            Event::Finished(outcome) => GenerateEvent::Done(Box::new(self.done(&outcome)?)),
            Event::Failed(failure) => return Err(failed(&failure)),
        };
        // A client that is gone is noticed by `closed`, and the route is cancelled there.
        let telling = Instant::now();
        let _ = self.events.send(event).await;
        self.waited += telling.elapsed();
        Ok(())
    }

    fn done(&self, outcome: &Outcome) -> Result<Done, Failure> {
        let file = &outcome.file;
        self.gateway.keep(file).map_err(Failure::compute)?;
        let first = self.first_token.unwrap_or(self.began);
        let stages: Vec<serde_json::Value> = file
            .stages
            .iter()
            .map(|stage| {
                serde_json::json!({
                    "node": stage.node.to_string(),
                    "part": stage.part.to_string(),
                    "receipts": stage.receipts.len(),
                })
            })
            .collect();
        let receipts: usize = file.stages.iter().map(|stage| stage.receipts.len()).sum();
        Ok(Done {
            sampler_seed: file.sampler_seed,
            reason: match outcome.finish {
                Finish::Length => FinishReason::Length,
                Finish::StopToken | Finish::Stopped => FinishReason::Stop,
            },
            route: file
                .stages
                .iter()
                .map(|stage| RouteStage { node: stage.node.to_string(), part: stage.part.to_string() })
                .collect(),
            receipts: Some(Receipts {
                summary: serde_json::json!({ "task": file.task.hex(), "receipts": receipts, "stages": stages }),
                file: file.to_bytes(),
            }),
            timings: Timings {
                prompt_seconds: (first - self.began).as_secs_f64(),
                generate_seconds: first.elapsed().as_secs_f64(),
            },
        })
    }
}

fn distribution(logprobs: Logprobs) -> Distribution {
    Distribution {
        frac: logprobs.frac,
        largest: logprobs.max,
        weight_sum: logprobs.weight_sum,
        chosen: logprobs.chosen,
        top: logprobs.top.into_iter().map(|alternative| (alternative.token, alternative.logit)).collect(),
    }
}

fn failed(failure: &route::Failure) -> Failure {
    let kind = match &failure.reason {
        Reason::Remote { code: Code::Busy, .. } => FailureKind::Busy,
        _ => FailureKind::Stage,
    };
    let message = match failure.node {
        Some(node) => format!("{node}: {}", failure.reason),
        None => failure.reason.to_string(),
    };
    Failure { kind, stage: failure.stage.map(usize::from), message }
}
