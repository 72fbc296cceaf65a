//! The machines, their clocks and their ends.

use super::gossip::Gossip;
use super::measure::{Balance, Searched, Stage, best_latency_ns, latency_ns, searched};
use super::population::{Machine, machines, rtt_us};
use super::report::{Latency, Report};
use super::{Config, drawn};
use lockstep_base::Digest;
use lockstep_base::part::Part;
use lockstep_base::rng::SplitMix64;
use lockstep_mesh::swarm::directory::{Directory, HearError, Limits};
use lockstep_mesh::swarm::member::{Member, Offer};
use lockstep_mesh::swarm::mover::{Mover, Step};
use lockstep_mesh::swarm::placement::{self, Loads};
use lockstep_mesh::swarm::plan::PLANNED_NODES_MAX;
use lockstep_mesh::swarm::routing::{self, Cut, Query};
use lockstep_mesh::swarm::scores::Scores;
use lockstep_mesh::swarm::{Announcement, Claims, Coordinate, Holding, Neighbour, State};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

/// The model of all simulated swarms.
const ROOT: Digest = Digest([0x5a; 32]);
/// Milliseconds between two measurements.
const MEASURE_MS: u64 = 5_000;
/// Milliseconds that a layer's weights take to come.
const LAYER_FETCH_MS: (u64, u64) = (500, 2_500);
/// Milliseconds for which a machine that leaves in order serves on.
const FAREWELL_MS: u64 = 10_000;
/// Nodes that hold the next layers whose round trips a node measures; it tells those of the nearest.
const PINGS: usize = 48;
/// Nodes that a gateway measures for a request.
const GATEWAY_PINGS: usize = 96;
/// Round trips that a machine measures when it comes, and whenever it wakes.
const FIRST_MEASUREMENTS: usize = 32;
const MEASUREMENTS: usize = 8;
/// Round trips that a gateway has measured before it asks.
const GATEWAY_MEASUREMENTS: usize = 200;
/// KV positions of a machine, and of a request.
const POSITIONS: u64 = 8192;

/// What happens to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Comes,
    /// Its clock: something of its machines is due.
    Wakes,
    /// Leaves, with or without a word.
    Leaves {
        silently: bool,
    },
    Dies,
}

struct Node {
    member: Member,
    mover: Mover,
    place: Coordinate,
    /// When its weights are there.
    ready_ms: Option<u64>,
    wake_ms: u64,
}

struct World {
    config: Config,
    machines: Vec<Machine>,
    nodes: BTreeMap<usize, Node>,
    gossip: Gossip,
    queue: BinaryHeap<Reverse<(u64, u64, usize, Happening)>>,
    serial: u64,
    rng: SplitMix64,
    /// One peer that keeps a real directory, and what is on its way to it.
    observer: Directory,
    to_observer: BinaryHeap<Reverse<(u64, usize, Vec<u8>)>>,
    observed: u64,
    refused: u64,
    moves: u64,
    spare: Vec<usize>,
    balances: Vec<Balance>,
    searched: Vec<Searched>,
}

/// Runs a swarm.
#[must_use]
pub fn run(config: &Config) -> Report {
    let mut world = World::new(config);
    let mut latencies = Vec::new();
    let mut measure_ms = MEASURE_MS;
    let mut shocked = config.shock_permille == 0;
    loop {
        let next_ms = world.queue.peek().map_or(u64::MAX, |Reverse((at_ms, ..))| *at_ms);
        let shock_ms = if shocked { u64::MAX } else { config.shock_ms };
        let now_ms = next_ms.min(measure_ms).min(shock_ms);
        if now_ms > config.end_ms {
            break;
        }
        if now_ms == measure_ms {
            world.measure(now_ms);
            measure_ms += MEASURE_MS;
        } else if now_ms == shock_ms {
            // The swarm is settled: now is the time to look at routes.
            latencies = world.latencies(now_ms);
            world.search(now_ms);
            world.shock();
            shocked = true;
        } else if let Some(Reverse((_, _, node, happening))) = world.queue.pop() {
            world.happens(now_ms, node, happening);
        }
    }
    if latencies.is_empty() {
        latencies = world.latencies(config.end_ms);
    }
    world.search(config.end_ms);
    world.report(latencies)
}

impl World {
    fn new(config: &Config) -> World {
        // As many again may come later.
        let machines = machines(config.seed, 2 * config.nodes, config.n_layers);
        let mut rng = SplitMix64::new(config.seed ^ 1);
        let mut world = World {
            config: *config,
            gossip: Gossip::new(config, machines.len()),
            nodes: BTreeMap::new(),
            queue: BinaryHeap::new(),
            serial: 0,
            observer: Directory::new(Limits::default()),
            to_observer: BinaryHeap::new(),
            observed: 0,
            refused: 0,
            moves: 0,
            spare: (0..machines.len()).collect(),
            balances: Vec::new(),
            searched: Vec::new(),
            rng: SplitMix64::new(rng.next_u64()),
            machines,
        };
        for _ in 0..config.nodes {
            let at_ms = world.rng.below(config.arrive_ms.max(1));
            world.another_comes(at_ms);
        }
        world
    }

    fn push(&mut self, at_ms: u64, node: usize, happening: Happening) {
        self.serial += 1;
        self.queue.push(Reverse((at_ms, self.serial, node, happening)));
    }

    fn another_comes(&mut self, at_ms: u64) {
        let at = self.rng.below(self.spare.len() as u64) as usize;
        if !self.spare.is_empty() {
            let node = self.spare.swap_remove(at);
            self.push(at_ms, node, Happening::Comes);
        }
    }

    fn happens(&mut self, now_ms: u64, node: usize, happening: Happening) {
        match happening {
            Happening::Comes => self.comes(now_ms, node),
            Happening::Wakes => self.wakes(now_ms, node),
            Happening::Leaves { silently } => {
                let Some(one) = self.nodes.get_mut(&node) else { return };
                one.member.leave();
                self.push(now_ms + if silently { 0 } else { FAREWELL_MS }, node, Happening::Dies);
                if !silently {
                    self.wakes(now_ms, node);
                }
                let wait_ms = self.rng.below(60_000);
                self.another_comes(now_ms + wait_ms);
            }
            Happening::Dies => drop(self.nodes.remove(&node)),
        }
    }

    fn comes(&mut self, now_ms: u64, node: usize) {
        let holdings = self.gossip.holdings(now_ms, node);
        let machine = &self.machines[node];
        let n_layers = self.config.n_layers;
        let window = placement::choose(n_layers, holdings.into_iter(), &machine.key.id(), machine.layers);
        let (key, part) = (machine.key.clone(), Part::layers(window, n_layers));
        let member = Member::new(key, now_ms, ROOT, part, self.offer(node, vec![]))
            .expect("an offer within the limits");
        let seed = drawn(self.config.seed, [node as u64, 1, 2], u64::MAX);
        let mover = Mover::new(machine.key.id(), n_layers, now_ms, seed);
        let ready_ms = Some(now_ms + self.fetch_ms(self.machines[node].layers));
        let place = self.located(node, Coordinate::unknown(seed), FIRST_MEASUREMENTS);
        self.nodes.insert(node, Node { member, mover, place, ready_ms, wake_ms: 0 });
        if self.config.stay_mean_ms > 0 {
            let stay_ms = self.rng.below(2 * self.config.stay_mean_ms);
            let silently = self.rng.below(2) == 0;
            self.push(now_ms + stay_ms, node, Happening::Leaves { silently });
        }
        self.wakes(now_ms, node);
    }

    fn fetch_ms(&mut self, layers: u32) -> u64 {
        let (low, high) = LAYER_FETCH_MS;
        u64::from(layers) * (low + self.rng.below(high - low))
    }

    fn offer(&self, node: usize, neighbours: Vec<Neighbour>) -> Offer {
        let machine = &self.machines[node];
        Offer {
            decode_milli: machine.rate_milli,
            prefill_milli: machine.rate_milli,
            free_positions: POSITIONS,
            queue_depth: 0,
            adapters: vec![],
            price_micro: 0,
            addresses: vec!["/ip4/192.0.2.1/udp/4001/quic-v1".into()],
            relayed: machine.relayed,
            neighbours,
            proves: false,
        }
    }

    /// Everything of a node that is due.
    fn wakes(&mut self, now_ms: u64, node: usize) {
        let ready = self.nodes.get(&node).is_some_and(|one| one.ready_ms.is_some_and(|at| at <= now_ms));
        if ready {
            let offer = self.offer(node, self.neighbours(now_ms, node));
            if let Some(one) = self.nodes.get_mut(&node) {
                one.ready_ms = None;
                one.member.offer(offer).expect("an offer within the limits");
                // A machine that is leaving already stays as it is.
                let _ = one.member.online();
            }
        }
        let gossip = &self.gossip;
        let Some(one) = self.nodes.get_mut(&node) else { return };
        let mut fetch = false;
        match one.mover.tick(now_ms, || gossip.holdings(now_ms, node)) {
            None => {}
            Some(Step::Drain) => drop(one.member.drain()),
            Some(Step::Stay) => drop(one.member.online()),
            Some(Step::Move(window)) => {
                let part = Part::layers(window, self.config.n_layers);
                fetch = one.member.join(part).is_ok();
            }
        }
        if fetch {
            self.moves += 1;
            let ready_ms = now_ms + self.fetch_ms(self.machines[node].layers);
            self.nodes.entry(node).and_modify(|one| one.ready_ms = Some(ready_ms));
        }
        self.says(now_ms, node);
    }

    /// Where a machine finds that it lies, after so many measurements to others that are there.
    fn located(&mut self, node: usize, mut place: Coordinate, measurements: usize) -> Coordinate {
        for _ in 0..measurements {
            let at = self.rng.below(self.machines.len() as u64) as usize;
            let word = self.rng.next_u64();
            let other = self.nodes.range(at..).next().or_else(|| self.nodes.iter().next());
            let Some((other, one)) = other.filter(|(other, _)| **other != node) else { continue };
            place.measured(&one.place, rtt_us(&self.machines[node], &self.machines[*other]), word);
        }
        place
    }

    /// What a node has to say, and when it wakes again.
    fn says(&mut self, now_ms: u64, node: usize) {
        let (members, word) = (self.nodes.len(), self.rng.next_u64());
        let Some(place) = self.nodes.get(&node).map(|one| one.place) else { return };
        let place = self.located(node, place, MEASUREMENTS);
        let Some(one) = self.nodes.get_mut(&node) else { return };
        one.place = place;
        one.member.locate(place);
        let said = one.member.tick(now_ms, members, word);
        let due_ms = one.member.due_ms().min(one.mover.due_ms()).min(one.ready_ms.unwrap_or(u64::MAX));
        let wake_ms = due_ms.max(now_ms + 1);
        if one.wake_ms <= now_ms || wake_ms < one.wake_ms {
            one.wake_ms = wake_ms;
            self.push(wake_ms, node, Happening::Wakes);
        }
        if let Some(announcement) = said {
            self.tell_observer(now_ms, node, &announcement);
            self.gossip.say(now_ms, node, announcement);
        }
    }

    fn observer_index(&self) -> usize {
        self.machines.len()
    }

    fn tell_observer(&mut self, now_ms: u64, node: usize, announcement: &Announcement) {
        let sequence = announcement.claims().sequence;
        if let Some(at_ms) = self.gossip.arrives_ms(now_ms, node, self.observer_index(), sequence) {
            self.to_observer.push(Reverse((at_ms, node, announcement.bytes().to_vec())));
        }
    }

    fn observe(&mut self, now_ms: u64) {
        while self.to_observer.peek().is_some_and(|Reverse((at_ms, ..))| *at_ms <= now_ms) {
            let Some(Reverse((at_ms, _, bytes))) = self.to_observer.pop() else { return };
            self.observer.tick(at_ms);
            match self.observer.hear(at_ms, &bytes) {
                // Announcements may overtake each other.
                Ok(_) | Err(HearError::Old { .. }) => self.observed += 1,
                Err(_) => self.refused += 1,
            }
        }
        self.observer.tick(now_ms);
    }

    fn online(&self) -> impl Iterator<Item = Holding> {
        let holdings = self.nodes.values().filter_map(|node| Holding::of(node.member.claims()));
        holdings.filter(|holding| holding.state == State::Online)
    }

    /// Layers and speed of the machines that are there.
    fn capacities(&self) -> Vec<(u32, u64)> {
        let machines = self.nodes.keys().map(|node| &self.machines[*node]);
        machines.map(|machine| (machine.layers, machine.rate_milli)).collect()
    }

    fn measure(&mut self, now_ms: u64) {
        self.observe(now_ms);
        let capacities = self.capacities();
        self.balances.push(Balance::of(now_ms, self.config.n_layers, self.online(), &capacities));
    }

    /// How a small swarm stands beside the best placement that a search finds.
    fn search(&mut self, now_ms: u64) {
        let capacities = self.capacities();
        if capacities.len() > PLANNED_NODES_MAX {
            return;
        }
        let (replicas, rate_milli) = searched(self.config.n_layers, &capacities, self.config.seed);
        let online: Vec<Holding> = self.online().collect();
        let weakest = Loads::of(self.config.n_layers, online.iter()).weakest();
        self.searched.push(Searched {
            at_ms: now_ms,
            replicas: weakest.replicas(),
            best_replicas: replicas,
            permille: weakest.rate_milli() * 1000 / rate_milli.max(1),
        });
    }

    fn shock(&mut self) {
        let gone: Vec<usize> = self.nodes.keys().copied().collect();
        for node in gone {
            if self.rng.below(1000) < self.config.shock_permille {
                self.nodes.remove(&node);
            }
        }
    }

    /// The nearest of those who hold what comes after a node's layers, as far as it measures.
    fn neighbours(&self, now_ms: u64, node: usize) -> Vec<Neighbour> {
        let Some(one) = self.nodes.get(&node) else { return vec![] };
        let end = one.member.claims().part.end_layer;
        let next = |claims: &Claims| (claims.part.first_layer..claims.part.end_layer).contains(&end);
        let known =
            self.gossip.known(now_ms, node).filter(|(_, claims)| next(claims)).map(|(other, _)| other);
        self.pinged(&self.machines[node], known.filter(|other| *other != node).collect(), PINGS, node as u64)
    }

    fn pinged(&self, from: &Machine, mut known: Vec<usize>, pings: usize, word: u64) -> Vec<Neighbour> {
        let mut rng = SplitMix64::new(drawn(self.config.seed, [word, 3, 4], u64::MAX));
        let mut pinged = Vec::new();
        while !known.is_empty() && pinged.len() < pings {
            let other = known.swap_remove(rng.below(known.len() as u64) as usize);
            let machine = &self.machines[other];
            pinged.push(Neighbour { node: machine.key.id(), rtt_us: rtt_us(from, machine) });
        }
        pinged
    }

    /// Routes of some requests as gateways see them, and what they really take, beside the best there is.
    fn latencies(&mut self, now_ms: u64) -> Vec<Latency> {
        let held: Vec<Stage> = self
            .nodes
            .iter()
            .map(|(node, one)| (*node, one.member.claims()))
            .filter(|(_, claims)| claims.state == State::Online)
            .map(|(node, claims)| (node, claims.part.first_layer..claims.part.end_layer))
            .collect();
        let mut rng = SplitMix64::new(self.config.seed ^ 2);
        let mut latencies = Vec::new();
        for request in 0..self.config.requests {
            let client = rng.below(self.machines.len() as u64) as usize;
            let place = self.located(client, Coordinate::unknown(rng.next_u64()), GATEWAY_MEASUREMENTS);
            latencies.push(self.latency(now_ms, client, place, request as u64, &held, &mut rng));
        }
        latencies
    }

    fn latency(
        &self,
        now_ms: u64,
        client: usize,
        place: Coordinate,
        request: u64,
        held: &[Stage],
        rng: &mut SplitMix64,
    ) -> Latency {
        let (n_layers, machine) = (self.config.n_layers, &self.machines[client]);
        let known: Vec<(usize, &Claims)> =
            self.gossip.known(now_ms, client).filter(|(node, _)| *node != client).collect();
        let ends =
            known.iter().filter(|(_, claims)| claims.part.embed || claims.part.head).map(|(node, _)| *node);
        let pinged = self.pinged(machine, ends.collect(), GATEWAY_PINGS, request);
        let query = Query {
            cut: Cut::Anywhere,
            coordinate: Some(place),
            rtts_us: pinged.into_iter().map(|other| (other.node, other.rtt_us)).collect(),
            ..Query::new(n_layers, 100)
        };
        let claims = known.iter().map(|(_, claims)| *claims);
        let graph = routing::Graph::new(claims, query, &Scores::new(), now_ms).expect("all layers");
        let chain = |route: routing::Route| -> Option<Vec<Stage>> {
            let stages = route.hops.into_iter().map(|hop| {
                let node = self.machines.binary_search_by_key(&hop.node, |machine| machine.key.id()).ok()?;
                Some((node, hop.part.first_layer..hop.part.end_layer))
            });
            stages.collect()
        };
        // A route through somebody who is gone fails, and the next one is tried.
        let alive = |chain: &Vec<Stage>| chain.iter().all(|(node, _)| self.nodes.contains_key(node));
        let taken = |chain: Vec<Stage>| latency_ns(&self.machines, machine, &chain);
        let best = graph.best().ok().and_then(chain).filter(alive);
        let drawn = graph.choose(routing::NEAR_PERMILLE, rng).ok().and_then(chain).filter(alive);
        Latency {
            stages: best.as_ref().map(Vec::len),
            best_ns: best.map(taken),
            drawn_ns: drawn.map(taken),
            optimum_ns: best_latency_ns(&self.machines, machine, held, n_layers),
        }
    }

    fn report(mut self, latencies: Vec<Latency>) -> Report {
        self.observe(self.config.end_ms);
        let observer: Vec<Holding> = self.observer.holdings(&ROOT).collect();
        let agrees = observer == self.gossip.holdings(self.config.end_ms, self.observer_index());
        Report {
            config: self.config,
            balances: self.balances,
            searched: self.searched,
            latencies,
            announcements: self.gossip.count(),
            heard: self.observed,
            refused: self.refused,
            moves: self.moves,
            observer_agrees: agrees,
        }
    }
}
