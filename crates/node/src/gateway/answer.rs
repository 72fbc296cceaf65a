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
use lockstep_mesh::route::{self, Effect, Event, Finish, Input, Outcome, Reason, Route, RouteError};
use lockstep_runtime::sample::Distribution;
use std::collections::VecDeque;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// How often the end signal of a request is looked at.
const POLL: Duration = Duration::from_millis(50);
/// Pauses before a request is begun again whose nodes were lost and nobody could take their place: they may be started anew meanwhile.
const AGAIN: [Duration; 3] =
    [Duration::from_millis(200), Duration::from_millis(600), Duration::from_millis(1800)];

/// The node of one stage of a request.
struct Place {
    serving: Serving,
    /// Under which it is heard: no other node of the request has the same.
    number: u16,
    _listening: Listening,
}

impl Place {
    /// `None` if there is no room for what it may say.
    fn new(serving: Serving, number: u16, task: Digest, heard: &mpsc::Sender<Heard>) -> Option<Place> {
        let listening = serving.link.listen(task, number, Topic::Answer, heard.clone())?;
        Some(Place { serving, number, _listening: listening })
    }
}

/// What a request was lost with.
#[derive(Clone, Copy, Debug)]
enum Lost {
    /// The way to a node.
    Gone(NodeId),
    /// What a node kept.
    Other,
}

/// What is known of an answer when its nodes are lost, beside what goes on.
struct Known {
    tokens: Vec<u32>,
    sampler_seed: Digest,
}

pub(super) struct Answer<'a> {
    gateway: &'a Gateway,
    events: &'a mpsc::Sender<GenerateEvent>,
    /// The node of each stage.
    stages: Vec<Place>,
    heard: mpsc::Sender<Heard>,
    inbox: mpsc::Receiver<Heard>,
    /// Taken out of the inbox, and not looked at yet.
    queued: VecDeque<Heard>,
    /// Nodes that served a stage so far.
    places: u16,
    /// Stages that another node took over: stage, lost, by.
    replaced: Vec<(u16, NodeId, NodeId)>,
    route: Route,
    began: Instant,
    /// Time that the client took to read; no stage is late because of it.
    waited: Duration,
    first_token: Option<Instant>,
    /// What was lost, if it failed because of that.
    lost: Option<Lost>,
    /// The next token, if the client has it already.
    shown: Option<u32>,
}

impl Answer<'_> {
    /// Runs `request`, under an adapter unless that is zero, to its end. Where nodes are lost and nobody takes their place, it is begun again, and the tokens that are
    /// there are computed like a prompt.
    pub(super) async fn run(
        gateway: &Gateway,
        request: &GenerateRequest,
        adapter: Digest,
        events: &mpsc::Sender<GenerateEvent>,
    ) -> Result<(), Failure> {
        let mut known: Option<Known> = None;
        for pause in AGAIN {
            let (failure, lost) = match Answer::attempt(gateway, request, adapter, events, &mut known).await {
                Ok(()) => return Ok(()),
                Err(failed) => failed,
            };
            let Some(lost) = lost.filter(|_| !events.is_closed()) else { return Err(failure) };
            tokio::time::sleep(pause).await;
            // Who is connected still and does not speak to us has its reasons: another gateway under our key, for one.
            if let Lost::Gone(node) = lost
                && gateway.network.status().await.is_ok_and(|status| status.is_connected(node))
            {
                return Err(failure);
            }
        }
        let last = Answer::attempt(gateway, request, adapter, events, &mut known).await;
        last.map_err(|(failure, _)| failure)
    }

    /// One route for a request; the failure, and what was lost if another route may do better.
    async fn attempt(
        gateway: &Gateway,
        request: &GenerateRequest,
        adapter: Digest,
        events: &mpsc::Sender<GenerateEvent>,
        known: &mut Option<Known>,
    ) -> Result<(), (Failure, Option<Lost>)> {
        let again = known.is_some().then_some(Lost::Other);
        let fatal = |failure| (failure, None);
        // Nobody is there: that may change only if somebody was.
        let serving = gateway.serving(adapter, request.provable).await.map_err(|failure| (failure, again))?;
        let mut config = gateway.route_config(request, adapter, &serving).map_err(fatal)?;
        let mut shown = None;
        if let Some(known) = known {
            config.sampler_seed = known.sampler_seed;
            // The last token is drawn again, and not shown again: it may have been the last of all.
            let (last, before) = known.tokens.split_last().unzip();
            config.answered = before.unwrap_or(&[]).to_vec();
            shown = last.copied();
        }
        let (task, sampler_seed, prompt) = (config.task, config.sampler_seed, config.prompt.len());
        let invalid = |error: RouteError| fatal(Failure::invalid(error.to_string()));
        let route = Route::new(config).map_err(invalid)?;
        let (sender, inbox) = mpsc::channel(MESSAGES_MAX);
        let place = |(number, serving)| Place::new(serving, number, task, &sender);
        let stages: Vec<Place> = (0..).zip(serving).filter_map(place).collect();
        let mut answer = Answer {
            gateway,
            events,
            places: stages.len() as u16,
            stages,
            heard: sender,
            inbox,
            queued: VecDeque::new(),
            lost: None,
            shown,
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
            match answer.handle(input).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(failure) => {
                    let tokens = answer.route.tokens().get(prompt..).unwrap_or(&[]).to_vec();
                    // An attempt that came less far than the one before knows less.
                    if known.as_ref().is_none_or(|known| known.tokens.len() < tokens.len()) {
                        *known = Some(Known { tokens, sampler_seed });
                    }
                    return Err((failure, answer.lost));
                }
            }
            input = loop {
                tokio::select! {
                    () = events.closed() => break Input::Cancel,
                    message = answer.next_heard() => match message {
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

    async fn next_heard(&mut self) -> Option<Heard> {
        match self.queued.pop_front() {
            Some(heard) => Some(heard),
            None => self.inbox.recv().await,
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
        // Room for what the new node may say, whatever the others said meanwhile.
        while let Ok(heard) = self.inbox.try_recv() {
            self.queued.push_back(heard);
        }
        self.places += 1;
        self.stages[at] = Place::new(serving, self.places, self.route.config().task, &self.heard)?;
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
            Event::Token { position, token, .. } if self.shown.is_some() => {
                let expected = self.shown.take();
                if expected != Some(token) {
                    let message =
                        format!("token {token} at position {position}, where it was another one before");
                    return Err(Failure { kind: FailureKind::Stage, stage: None, message });
                }
                return Ok(());
            }
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
            Event::Failed(failure) => {
                self.lost = failure.reason.is_loss().then_some(match (&failure.reason, failure.node) {
                    (Reason::Lost(_), Some(node)) => Lost::Gone(node),
                    _ => Lost::Other,
                });
                return Err(failed(&failure));
            }
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
