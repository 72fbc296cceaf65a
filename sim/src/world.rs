//! Gateways and nodes on the simulated network: the shells around the state machines.

mod fetch;
mod requests;
mod stranger;

use crate::fault::{Fault, Lie};
use crate::net::{Happening, Net, Peer, Stream};
use lockstep_base::Digest;
use lockstep_base::keys::{NodeId, NodeKey};
use lockstep_base::leaf::TaskSecret;
use lockstep_base::params::Parameters;
use lockstep_base::part::Part;
use lockstep_base::receipt_file::ServedSpan;
use lockstep_mesh::code::Code;
use lockstep_mesh::compute::ComputeFactory;
use lockstep_mesh::frame::Frame;
use lockstep_mesh::inbound::{Inbound, Incoming};
use lockstep_mesh::leaves::LeavesFetch;
use lockstep_mesh::limits::{PROOF_PAGE_BYTES, TICK_MS, WINDOW_POSITIONS};
use lockstep_mesh::message::{Fault as WireFault, Message};
use lockstep_mesh::node::{self, Node, NodeLimits, Served};
use lockstep_mesh::proofs::ProofFetch;
use lockstep_mesh::route::{self, Failure, Outcome, Route, RouteConfig, RouteStage};
use lockstep_mesh::toy::ToyProver;
use lockstep_mesh::work::JobDone;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Longest run in virtual time: longer than every timeout of the protocol together.
pub const RUN_MAX_MS: u64 = 400_000;
/// Time after the last gateway's end, for what is still under way.
const SETTLE_MS: u64 = 3_000;
/// Longest job, milliseconds.
const JOB_MAX_MS: u64 = 30;
/// Proofs of a little more than a page.
const PROVER: ToyProver = ToyProver { bytes: PROOF_PAGE_BYTES + 5 };
/// Timer tag of a tick; jobs have the others.
const TICK: u64 = 0;

/// A model in a simulation: what is served of it, and by what.
pub struct SimModel {
    /// All of it.
    pub whole: Served,
    /// The compute of a part.
    pub factory: Box<dyn Fn(Part) -> Box<dyn ComputeFactory>>,
}

impl core::fmt::Debug for SimModel {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("SimModel").field("whole", &self.whole).finish_non_exhaustive()
    }
}

/// A request in a simulation.
#[derive(Clone, Debug)]
pub struct Request {
    /// The prompt.
    pub prompt: Vec<u32>,
    /// How to sample.
    pub parameters: Parameters,
    /// Full trace or boundaries only.
    pub full_trace: bool,
    /// Log-probabilities.
    pub logprobs: Option<u8>,
    /// Ask for the leaves of every receipt at the end.
    pub fetch_leaves: bool,
    /// Have stages commit to their boundaries.
    pub provable: bool,
    /// Ask every stage for its proof at the end.
    pub fetch_proofs: bool,
}

impl Request {
    /// A greedy request.
    #[must_use]
    pub fn new(prompt: Vec<u32>, max_tokens: u32) -> Request {
        Request {
            prompt,
            parameters: Parameters::greedy(max_tokens),
            full_trace: false,
            logprobs: None,
            fetch_leaves: false,
            provable: false,
            fetch_proofs: false,
        }
    }
}

/// How a request ended.
#[derive(Clone, Debug)]
pub enum End {
    /// With an answer.
    Finished(Box<Outcome>),
    /// Without.
    Failed(Failure),
}

/// What a run was.
#[derive(Debug)]
pub struct Report {
    /// The end of each request; `None` if its gateway was killed.
    pub ends: Vec<Option<End>>,
    /// Tokens that each user was shown.
    pub shown: Vec<Vec<u32>>,
    /// Leaves that were fetched: stage and span, for each request.
    pub leaves: Vec<Vec<(u16, ServedSpan)>>,
    /// Proofs that were fetched: stage and bytes, for each request.
    pub proofs: Vec<Vec<(u16, Vec<u8>)>>,
    /// Things that happened.
    pub events: u64,
    /// Errors that the stranger was sent.
    pub stranger_errors: Vec<Code>,
    /// Whether each lie was told (it may never have come to it).
    pub lies_told: bool,
    /// Stages of each request that another node took over.
    pub replaced: Vec<u32>,
}

struct SimNode {
    node: Node,
    hang: bool,
}

struct Gateway {
    route: Route,
    /// Who serves each stage.
    at: Vec<Peer>,
    /// How often a stage was replaced.
    replaced: u32,
    end: Option<End>,
    shown: Vec<u32>,
    fetch: Vec<(u16, LeavesFetch)>,
    leaves: Vec<(u16, ServedSpan)>,
    fetch_leaves: bool,
    proving: BTreeMap<u16, ProofFetch>,
    proofs: Vec<(u16, Vec<u8>)>,
    fetch_proofs: bool,
}

/// One run.
struct World {
    seed: u64,
    net: Net,
    ids: Vec<NodeId>,
    nodes: Vec<SimNode>,
    gateways: Vec<Gateway>,
    inbound: BTreeMap<Stream, Inbound>,
    jobs: BTreeMap<u64, (Peer, JobDone)>,
    next_tag: u64,
    faults: Vec<Fault>,
    lies_seen: u64,
    lies_told: bool,
    events: u64,
    limits: NodeLimits,
    stranger_errors: Vec<Code>,
}

fn key(seed: u64, peer: u64) -> NodeKey {
    let bytes = Digest::tagged("sim/key", &[&seed.to_be_bytes(), &peer.to_be_bytes()]);
    NodeKey::from_bytes(&bytes.0).expect("a hash is a key but for 2^-128")
}

/// Runs `requests` through `stages` stages of `model`, all at once, under `faults`.
///
/// # Panics
/// If a run does not end, a bound is exceeded, or a node keeps a task that is over; the message
/// names the seed.
#[must_use]
pub fn run(
    seed: u64,
    model: &SimModel,
    stages: u32,
    requests: &[Request],
    limits: &NodeLimits,
    faults: &[Fault],
) -> Report {
    run_replicated(seed, model, (stages, 1), requests, limits, faults)
}

/// The same with so many nodes for each stage: another one takes the place of one that is lost. Node `r stages + s` serves stage s.
///
/// # Panics
/// As [`run`].
#[must_use]
pub fn run_replicated(
    seed: u64,
    model: &SimModel,
    (stages, replicas): (u32, u32),
    requests: &[Request],
    limits: &NodeLimits,
    faults: &[Fault],
) -> Report {
    World::new(seed, model, (stages, replicas), requests, limits, faults).run()
}

impl World {
    fn new(
        seed: u64,
        model: &SimModel,
        (stages, replicas): (u32, u32),
        requests: &[Request],
        limits: &NodeLimits,
        faults: &[Fault],
    ) -> World {
        let parts = Part::split(model.whole.n_layers, stages);
        let stages = parts.len();
        let served: Vec<Part> = (0..replicas).flat_map(|_| parts.clone()).collect();
        let peers = served.len() + requests.len() + 1;
        let ids: Vec<NodeId> = (0..peers as u64).map(|peer| key(seed, peer).id()).collect();
        let nodes = served.iter().enumerate().map(|(stage, part)| {
            let wrong = faults.contains(&Fault::WrongKey { stage: stage as u16 });
            let signing = key(seed, if wrong { 1 << 32 } else { stage as u64 });
            let served = Served { part: *part, ..model.whole.clone() };
            SimNode {
                node: Node::new(served, limits.clone(), "sim", signing, (model.factory)(*part))
                    .proving(Arc::new(PROVER)),
                hang: false,
            }
        });
        let route_stages: Vec<RouteStage> = parts
            .iter()
            .zip(&ids)
            .map(|(part, node)| RouteStage { node: *node, address: format!("sim/{node}"), part: *part })
            .collect();
        let gateways = requests.iter().enumerate().map(|(i, request)| {
            let fresh = |what| Digest::tagged(what, &[&seed.to_be_bytes(), &i.to_be_bytes()]);
            let config = RouteConfig {
                task: fresh("sim/task"),
                secret: TaskSecret(fresh("sim/secret").0),
                owner: ids[served.len() + i],
                model_root: model.whole.model_root,
                opset: model.whole.opset.clone(),
                n_layers: model.whole.n_layers,
                vocab: model.whole.vocab,
                context: model.whole.context,
                parameters: request.parameters.clone(),
                sampler_seed: fresh("sim/sampler"),
                prompt: request.prompt.clone(),
                answered: Vec::new(),
                full_trace: request.full_trace,
                logprobs: request.logprobs,
                audit_class: Digest::ZERO,
                adapter: Digest::ZERO,
                provable: request.provable,
                stages: route_stages.clone(),
            };
            let route = Route::new(config).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            Gateway {
                route,
                at: (0..stages).collect(),
                replaced: 0,
                end: None,
                shown: Vec::new(),
                fetch: Vec::new(),
                leaves: Vec::new(),
                fetch_leaves: request.fetch_leaves,
                proving: BTreeMap::new(),
                proofs: Vec::new(),
                fetch_proofs: request.fetch_proofs,
            }
        });
        World {
            seed,
            net: Net::new(seed, peers),
            nodes: nodes.collect(),
            gateways: gateways.collect(),
            ids,
            inbound: BTreeMap::new(),
            jobs: BTreeMap::new(),
            next_tag: TICK + 1,
            faults: faults.to_vec(),
            lies_seen: 0,
            lies_told: false,
            events: 0,
            limits: limits.clone(),
            stranger_errors: Vec::new(),
        }
    }

    fn stranger(&self) -> Peer {
        self.ids.len() - 1
    }

    fn run(mut self) -> Report {
        for peer in 0..self.stranger() {
            self.net.timer(peer, TICK_MS, TICK);
        }
        for request in 0..self.gateways.len() {
            self.gateway(request, route::Input::Start);
        }
        let mut over_ms = None;
        while let Some(happening) = self.net.next_happening() {
            self.apply_faults();
            self.events += 1;
            let now_ms = self.net.now_ms();
            assert!(now_ms < RUN_MAX_MS, "seed {}: a request hangs", self.seed);
            self.happen(happening);
            self.check_bounds();
            let alive = |i: &usize| self.net.alive(self.nodes.len() + i);
            let waiting = (0..self.gateways.len()).filter(alive).any(|i| {
                let gateway = &self.gateways[i];
                gateway.end.is_none() || !gateway.fetch.is_empty() || !gateway.proving.is_empty()
            });
            if waiting {
                over_ms = None;
            } else if now_ms >= *over_ms.get_or_insert(now_ms) + SETTLE_MS {
                break;
            }
        }
        self.check_clean();
        Report {
            ends: self.gateways.iter_mut().map(|gateway| gateway.end.take()).collect(),
            shown: self.gateways.iter_mut().map(|gateway| core::mem::take(&mut gateway.shown)).collect(),
            leaves: self.gateways.iter_mut().map(|gateway| core::mem::take(&mut gateway.leaves)).collect(),
            proofs: self.gateways.iter_mut().map(|gateway| core::mem::take(&mut gateway.proofs)).collect(),
            events: self.events,
            stranger_errors: self.stranger_errors,
            lies_told: self.lies_told,
            replaced: self.gateways.iter().map(|gateway| gateway.replaced).collect(),
        }
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Bytes { stream, bytes, .. } => self.bytes(stream, &bytes),
            Happening::Lost { at, peer } => self.lost(at, peer),
            Happening::Timer { at, tag: TICK } => {
                self.net.timer(at, TICK_MS, TICK);
                match at.checked_sub(self.nodes.len()) {
                    None => self.node(at, node::Input::Tick),
                    Some(request) => self.gateway(request, route::Input::Tick),
                }
            }
            Happening::Timer { at, tag } => {
                if let Some((_, done)) = self.jobs.remove(&tag) {
                    self.node(at, node::Input::Done(done));
                }
            }
        }
    }

    fn bytes(&mut self, stream: Stream, bytes: &[u8]) {
        self.inbound.entry(stream).or_insert_with(|| Inbound::new(stream.channel)).push(bytes);
        loop {
            // A message may end the connection that it came on.
            if !self.net.connected(stream.from, stream.to) {
                return;
            }
            let inbound = self.inbound.get_mut(&stream).expect("inserted above");
            match inbound.next_incoming() {
                Ok(None) => return,
                Ok(Some(incoming)) => self.incoming(stream, incoming),
                Err(error) => {
                    let fault = WireFault::new(None, Code::Malformed, None, &error.to_string());
                    self.send(stream.to, stream.from, &Message::Error(fault).to_frame());
                    self.net.cut(stream.to, stream.from);
                    return;
                }
            }
        }
    }

    fn incoming(&mut self, stream: Stream, incoming: Incoming) {
        let from = self.ids[stream.from];
        if stream.to == self.stranger() {
            if let Incoming::Message(Message::Error(fault)) = incoming {
                self.stranger_errors.push(fault.code);
            }
            return;
        }
        match (stream.to.checked_sub(self.nodes.len()), incoming) {
            (None, Incoming::Message(message)) => {
                self.node(stream.to, node::Input::Message { from, message });
            }
            (None, Incoming::Data(data)) => self.node(stream.to, node::Input::Data { from, data }),
            (Some(request), Incoming::Message(message)) if stream.from < self.nodes.len() => {
                let Some(stage) = self.stage_at(request, stream.from) else { return };
                match message {
                    Message::Leaves(page) => self.leaves(request, stage, page),
                    Message::Proof(page) => self.proof(request, stage, page),
                    message => self.gateway(request, route::Input::Message { stage, message }),
                }
            }
            // A gateway takes no data, and no messages from peers outside its route.
            (Some(_), _) => self.net.cut(stream.to, stream.from),
        }
    }

    fn lost(&mut self, at: Peer, peer: Peer) {
        if at == self.stranger() {
            return;
        }
        match at.checked_sub(self.nodes.len()) {
            None => self.node(at, node::Input::PeerLost { peer: self.ids[peer] }),
            Some(request) if peer < self.nodes.len() => {
                let Some(stage) = self.stage_at(request, peer) else { return };
                let input = route::Input::PeerLost { stage, text: "connection closed".into() };
                self.gateway(request, input);
            }
            Some(_) => {}
        }
    }

    fn node(&mut self, at: Peer, input: node::Input) {
        let now_ms = self.net.now_ms();
        let mut effects = self.nodes[at].node.handle(now_ms, input);
        while let Some(job) = self.nodes[at].node.take_job() {
            if self.nodes[at].hang {
                continue;
            }
            self.next_tag += 1;
            self.jobs.insert(self.next_tag, (at, job.run()));
            let delay = self.net.below(JOB_MAX_MS);
            self.net.timer(at, delay, self.next_tag);
        }
        for effect in effects.drain(..) {
            match effect {
                node::Effect::Message { to, message } => self.send_to(at, to, &message.to_frame()),
                node::Effect::Data { to, data } => self.send_to(at, to, &data.to_frame()),
                node::Effect::Connect { node, .. } => {
                    let peer = self.peer(node);
                    if !self.net.connected(at, peer) {
                        if self.net.join(at, peer) {
                            self.inbound.retain(|s, _| {
                                (s.from.min(s.to), s.from.max(s.to)) != (at.min(peer), at.max(peer))
                            });
                        } else {
                            self.lost(at, peer);
                        }
                    }
                }
            }
        }
    }

    fn peer(&self, id: NodeId) -> Peer {
        self.ids.iter().position(|other| *other == id).expect("everybody is in the network")
    }

    fn send_to(&mut self, from: Peer, to: NodeId, frame: &Frame) {
        let to = self.peer(to);
        self.send(from, to, frame);
    }

    /// Sends a frame, unless its sender lies.
    fn send(&mut self, from: Peer, to: Peer, frame: &Frame) {
        let stream = Stream { from, to, channel: frame.kind.channel() };
        let lie = self.faults.iter().find_map(|fault| match fault {
            Fault::Lie { stage, lie, nth } if Peer::from(*stage) == from && lie.fits(frame) => {
                Some((*lie, *nth))
            }
            _ => None,
        });
        let bytes = match lie {
            Some((lie, nth)) => {
                self.lies_seen += 1;
                if self.lies_seen == nth + 1 {
                    self.lies_told = true;
                    lie.tell(frame, self.net.below(1 << 20) as usize)
                } else if lie == Lie::HalfFrame && self.lies_seen > nth {
                    Vec::new()
                } else {
                    frame.to_bytes()
                }
            }
            None => frame.to_bytes(),
        };
        self.net.send(stream, &bytes);
    }

    fn apply_faults(&mut self) {
        for fault in self.faults.clone() {
            match fault {
                Fault::Kill { stage, event } if event == self.events => self.net.kill(stage.into()),
                Fault::Sever { a, b, event, for_ms } if event == self.events => {
                    self.net.sever(a.into(), b.into(), for_ms);
                }
                Fault::KillGateway { request, event } if event == self.events => {
                    self.net.kill(self.nodes.len() + request);
                }
                Fault::Hang { stage, event } if event == self.events => {
                    self.nodes[usize::from(stage)].hang = true;
                    // What it had begun does not end either.
                    self.jobs.retain(|_, (at, _)| *at != Peer::from(stage));
                }
                Fault::Stop { request, event } if event == self.events => {
                    self.gateway(request, route::Input::Stop);
                }
                Fault::Cancel { request, event } if event == self.events => {
                    self.gateway(request, route::Input::Cancel);
                }
                Fault::Stranger { event } if event == self.events => self.intrude(),
                _ => {}
            }
        }
    }

    fn check_bounds(&self) {
        let seed = self.seed;
        for node in self.nodes.iter().map(|node| &node.node) {
            let tasks = node.tasks_open();
            assert!(tasks <= self.limits.tasks_max, "seed {seed}: {tasks} tasks");
            let positions = node.positions_in_flight();
            assert!(
                positions <= WINDOW_POSITIONS * tasks as u32,
                "seed {seed}: {positions} positions in flight"
            );
            let bytes = node.leaf_bytes();
            assert!(bytes <= self.limits.leaf_store_bytes, "seed {seed}: {bytes} bytes of leaves");
        }
    }

    /// Every task is over, so no living node may hold one.
    fn check_clean(&self) {
        for (peer, node) in self.nodes.iter().enumerate().filter(|(peer, _)| self.net.alive(*peer)) {
            let tasks = node.node.tasks_open();
            assert_eq!(tasks, 0, "seed {}: node {peer} keeps {tasks} tasks that are over", self.seed);
        }
    }
}
