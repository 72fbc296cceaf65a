//! What is really so: balance of the nodes that are there, and the latency of routes, against the best of all.

use super::population::{Machine, rtt_us};
use lockstep_base::keys::NodeId;
use lockstep_base::rng::SplitMix64;
use lockstep_mesh::swarm::placement::{Loads, best_milli};
use lockstep_mesh::swarm::plan::improve;
use lockstep_mesh::swarm::routing::{HOP_US, RELAY_US};
use lockstep_mesh::swarm::{Coverage, Holding, State};
use std::ops::Range;

/// The swarm at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    /// When.
    pub at_ms: u64,
    /// Machines that are there.
    pub nodes: usize,
    /// Whether every layer, embedding and head are online.
    pub complete: bool,
    /// The fewest replicas online of a layer.
    pub replicas: u32,
    /// Throughput of the weakest layer, milli-tokens per second.
    pub weakest_milli: u64,
    /// The most that any placement of the machines that are there could give it.
    pub best_milli: u64,
}

impl Balance {
    /// Of what machines that are there hold online; `capacities` are those of all machines that are there.
    #[must_use]
    pub fn of(
        at_ms: u64,
        n_layers: u32,
        online: impl Iterator<Item = Holding>,
        capacities: &[(u32, u64)],
    ) -> Balance {
        let coverage = Coverage::of(n_layers, online);
        Balance {
            at_ms,
            nodes: capacities.len(),
            complete: coverage.complete(),
            replicas: coverage.replicas(),
            weakest_milli: coverage.weakest_milli(),
            best_milli: best_milli(n_layers, capacities),
        }
    }

    /// The weakest layer as thousandths of the best.
    #[must_use]
    pub fn permille(&self) -> u64 {
        self.weakest_milli * 1000 / self.best_milli.max(1)
    }
}

/// A small swarm beside the best placement that a search finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Searched {
    /// When.
    pub at_ms: u64,
    /// Replicas of the weakest layer; two count.
    pub replicas: u32,
    /// Those in the best placement found.
    pub best_replicas: u32,
    /// Throughput of the weakest layer, thousandths of the best found.
    pub permille: u64,
}

/// Random placements that a search begins with.
const SEARCHES: u32 = 40;

/// The best placement of these machines that a search finds: replicas (at most two count) and throughput of its weakest layer.
///
/// In a small swarm of unequal machines the bound of [`best_milli`] is out of reach: windows have whole layers.
/// So the best is looked for, from many random placements.
#[must_use]
pub fn searched(n_layers: u32, capacities: &[(u32, u64)], seed: u64) -> (u32, u64) {
    let mut rng = SplitMix64::new(seed);
    let mut best = (0, 0);
    for _ in 0..SEARCHES {
        let placed: Vec<Holding> =
            capacities.iter().map(|capacity| anywhere(n_layers, *capacity, &mut rng)).collect();
        let nodes: Vec<&Holding> = placed.iter().collect();
        let mut windows: Vec<Range<u32>> = placed.iter().map(|holding| holding.first..holding.end).collect();
        windows = improve(n_layers, &nodes, &windows);
        let mut loads = Loads::new(n_layers);
        for (node, window) in nodes.iter().zip(&windows) {
            loads.add(window, node.share_milli());
        }
        best = best.max((loads.weakest().replicas(), loads.weakest().rate_milli()));
    }
    best
}

fn anywhere(n_layers: u32, (layers, rate_milli): (u32, u64), rng: &mut SplitMix64) -> Holding {
    let first = rng.below(u64::from(n_layers - layers + 1)) as u32;
    let mut node = NodeId([0; 20]);
    rng.fill(&mut node.0);
    let (end, state) = (first + layers, State::Online);
    Holding { node, first, end, rate_milli, state, embed: false, head: false }
}

/// A machine in a chain: which one, and the layers that it computes.
pub type Stage = (usize, Range<u32>);

fn enter_ns(machine: &Machine) -> u64 {
    (HOP_US + if machine.relayed { RELAY_US } else { 0 }) * 1000
}

fn layer_ns(machine: &Machine) -> u64 {
    1_000_000_000_000 / machine.rate_milli
}

fn half_ns(a: &Machine, b: &Machine) -> u64 {
    u64::from(rtt_us(a, b)) * 500
}

/// What a token really takes through a chain, asked for by `client`, nanoseconds.
#[must_use]
pub fn latency_ns(machines: &[Machine], client: &Machine, chain: &[Stage]) -> u64 {
    let mut from = client;
    let mut sum = 0;
    for (node, layers) in chain {
        let machine = &machines[*node];
        let computed = u64::from(layers.end - layers.start) * layer_ns(machine);
        sum += half_ns(from, machine) + enter_ns(machine) + computed;
        from = machine;
    }
    sum + half_ns(from, client)
}

/// What no chain is faster than: everything known, everybody idle, nodes entered and left anywhere (and more than once).
///
/// By its own programme, all pairs of nodes at every layer: what is measured shares no code with it.
#[must_use]
pub fn best_latency_ns(machines: &[Machine], client: &Machine, held: &[Stage], n_layers: u32) -> Option<u64> {
    // done[k]: the least to have layers 0..=l computed, the last of them by the k-th holder.
    let mut done: Vec<Option<u64>> = vec![None; held.len()];
    for l in 0..n_layers {
        let mut next = vec![None; held.len()];
        let mut before: Vec<(u64, usize)> =
            (0..held.len()).filter_map(|k| done[k].map(|cost| (cost, held[k].0))).collect();
        before.sort_unstable();
        for (k, (node, _)) in held.iter().enumerate().filter(|(_, (_, layers))| layers.contains(&l)) {
            let machine = &machines[*node];
            let sent = match l {
                0 => Some(half_ns(client, machine)),
                _ => cheapest_sender(machines, &before, machine),
            };
            let entered = sent.map(|cost| cost + enter_ns(machine));
            let cost = [entered, done[k].filter(|_| l > 0)].into_iter().flatten().min();
            next[k] = cost.map(|cost| cost + layer_ns(machine));
        }
        done = next;
    }
    (0..held.len()).filter_map(|k| done[k].map(|cost| cost + half_ns(&machines[held[k].0], client))).min()
}

/// The least that it takes to be sent to `machine` by one of `before`, which are in order of what they took.
fn cheapest_sender(machines: &[Machine], before: &[(u64, usize)], machine: &Machine) -> Option<u64> {
    let mut best: Option<u64> = None;
    for (cost, sender) in before {
        if best.is_some_and(|best| best <= *cost) {
            break;
        }
        let sent = cost + half_ns(&machines[*sender], machine);
        best = Some(best.map_or(sent, |best| best.min(sent)));
    }
    best
}
