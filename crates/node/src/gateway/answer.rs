//! One request on its way: the route's state machine between links and the client.

use super::Gateway;
use super::link::{Heard, Listening, MESSAGES_MAX, Topic};
use super::replicas::{Need, Serving};
use crate::service::{
    Done, Failure, FailureKind, FinishReason, GenerateEvent, GenerateRequest, Receipts, RouteStage,
    StageProgress, Timings,
};
use lockstep_base::Digest;
use lockstep_base::keys::NodeId;
use lockstep_mesh::code::Code;
use lockstep_mesh::limits::TICK_MS;
use lockstep_mesh::message::Logprobs;
use lockstep_mesh::request;
use lockstep_mesh::route::{self, Effect, Event, Finish, Input, Outcome, Reason, Route};
use lockstep_runtime::sample::Distribution;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How often the end signal of a request is looked at.
const POLL: Duration = Duration::from_millis(50);

/// The node of one stage of a request.
struct Place {
    serving: Serving,
    /// Under which it is heard: no other node of the request has the same.
    number: u16,
    _listening: Listening,
}

impl Place {
    fn new(serving: Serving, number: u16, task: Digest, heard: &mpsc::Sender<Heard>) -> Place {
        let listening = serving.link.listen(task, number, Topic::Answer, heard.clone());
        Place { serving, number, _listening: listening }
    }
}

pub(super) struct Answer<'a> {
    gateway: &'a Gateway,
    events: &'a mpsc::Sender<GenerateEvent>,
    /// The node of each stage.
    stages: Vec<Place>,
    heard: mpsc::Sender<Heard>,
    /// Nodes that served a stage so far.
    places: u16,
    /// Stages that another node took over: stage, lost, by.
    replaced: Vec<(u16, NodeId, NodeId)>,
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
        let serving = gateway.serving(adapter, request.provable).await?;
        let config = gateway.route_config(request, adapter, &serving)?;
        let task = config.task;
        let route = Route::new(config).map_err(|error| Failure::invalid(error.to_string()))?;
        let (sender, mut heard) = mpsc::channel(MESSAGES_MAX);
        let place = |(number, serving)| Place::new(serving, number, task, &sender);
        let stages: Vec<Place> = (0..).zip(serving).map(place).collect();
        let mut answer = Answer {
            gateway,
            events,
            places: stages.len() as u16,
            stages,
            heard: sender,
            replaced: Vec::new(),
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
                        Some(Heard::Message(number, message)) => if let Some(stage) = answer.stage_of(number) {
                            break Input::Message { stage, message };
                        },
                        Some(Heard::Lost(number, text)) => if let Some(stage) = answer.stage_of(number) {
                            break Input::PeerLost { stage, text };
                        },
                        // We hold the other end.
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

    /// The stage whose node is heard under `number`, unless another one took its place.
    fn stage_of(&self, number: u16) -> Option<u16> {
        self.stages.iter().position(|place| place.number == number).map(|stage| stage as u16)
    }

    /// Another node for a stage, if there is one.
    async fn replace(&mut self, stage: u16, tried: &[NodeId]) -> Option<request::RouteStage> {
        let at = usize::from(stage);
        let config = self.route.config();
        let (model_root, adapter, provable) = (config.model_root, config.adapter, config.provable);
        let need = Need { model_root, tried, adapter, provable };
        let serving = self.gateway.pick(at, &need).await.ok()?;
        let with = serving.stage();
        self.places += 1;
        self.stages[at] = Place::new(serving, self.places, self.route.config().task, &self.heard);
        Some(with)
    }

    /// Gives the machine one input and performs what it asks for; whether the request is over.
    async fn handle(&mut self, input: Input) -> Result<bool, Failure> {
        // What follows from an effect comes after all effects of one step: they are about the nodes of that step.
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let now_ms = self.began.elapsed().saturating_sub(self.waited).as_millis() as u64;
            for effect in self.route.handle(now_ms, input) {
                match effect {
                    Effect::Message { stage, message } => {
                        let link = &self.stages[usize::from(stage)].serving.link;
                        if !link.send(&message) && !self.route.is_over() {
                            inputs.push_back(Input::PeerLost {
                                stage,
                                text: "the node does not take messages".into(),
                            });
                        }
                    }
                    Effect::Data(data) => {
                        if let Err(error) = self.stages[0].serving.link.send_data(&data).await {
                            inputs.push_back(Input::PeerLost { stage: 0, text: error.to_string() });
                        }
                    }
                    Effect::Replace { stage, tried } => {
                        let with = self.replace(stage, &tried).await;
                        inputs.push_back(Input::Replacement { stage, with });
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
            Event::Replaced { stage, lost, by } => {
                self.replaced.push((stage, lost, by));
                return Ok(());
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
                summary: serde_json::json!({
                    "task": file.task.hex(),
                    "receipts": receipts,
                    "stages": stages,
                    "replaced": self.replaced.iter().map(replaced).collect::<Vec<_>>(),
                }),
                file: file.to_bytes(),
            }),
            timings: Timings {
                prompt_seconds: (first - self.began).as_secs_f64(),
                generate_seconds: first.elapsed().as_secs_f64(),
            },
        })
    }
}

fn replaced((stage, lost, by): &(u16, NodeId, NodeId)) -> serde_json::Value {
    serde_json::json!({ "stage": stage, "lost": lost.to_string(), "by": by.to_string() })
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
