//! The way of a request through the swarm: the cheapest chain of nodes that hold all its layers.
//!
//! ```text
//! cost of a token = sum over stages of  round trip / 2 + hop                       from whoever sends
//!                                     + queue depth * layers held * time of a layer   what waits there
//!                                     + relay + failures + no room                    handicaps
//!                                     + layers computed * time of a layer             (+ the head's)
//!                 + round trip / 2 back to whoever asked
//! ```
//!
//! The graph is layered, so the optimum is a dynamic programme over (layer, node), from the last layer to the first
//! (`routing/paths.rs`). Petals forces a route to run to the end of every node's range, to save edges; here a route may leave
//! a node after any layer, which is never worse. Round trips are those measured, else those computed from coordinates, else 150 ms. Of
//! layers that more than 128 nodes hold, the best 128 by a rough measure are considered, so that a route among
//! ten thousand nodes takes milliseconds. The price is that the cheapest chain may come back to a node,
//! which serves a task once; such chains are split into cases until the cheapest one does not (exact, see there).
//! Where nodes only serve their whole part ([`Cut::Parts`]), the same programme enters at its first and leaves at its last layer.
//!
//! [`Graph::choose`] draws a chain among those within a share of the best: requests spread, and who asked for what
//! cannot be told from the route. All sums are in nanoseconds and saturate.

mod links;
mod paths;

use super::announcement::{Claims, State};
use super::coordinate::Coordinate;
use super::scores::{FAILURE_US, Scores};
use links::{Links, computed_us};
use lockstep_base::Digest;
use lockstep_base::keys::NodeId;
use lockstep_base::limits::STAGES_MAX;
use lockstep_base::part::Part;
use lockstep_base::rng::SplitMix64;
use paths::{Candidate, Paths, Walk};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Microseconds of a hop besides the network: framing, hashing, waking up.
pub const HOP_US: u64 = 1_000;
/// Microseconds of a round trip that nobody measured.
pub const RTT_UNKNOWN_US: u32 = 150_000;
/// Microseconds of handicap of a node behind a relay.
pub const RELAY_US: u64 = 50_000;
/// Microseconds of handicap of a node without room for the request: it would be refused there.
pub const NO_ROOM_US: u64 = 10_000_000;
/// Thousandths above the best that a drawn route may cost.
pub const NEAR_PERMILLE: u64 = 50;
/// Nodes of one layer that a route is chosen among; of more, the best by a rough measure.
pub const HOLDERS_MAX: usize = 128;
const NS_PER_US: u64 = 1_000;

/// Where a route may enter and leave what a node holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// At its first and last layer only: nodes serve their whole part.
    Parts,
    /// Anywhere: nodes serve any range of their layers.
    Anywhere,
}

/// Whoever a route begins or ends at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Whoever asks for the route.
    Gateway,
    /// A stage that stays.
    Node(NodeId),
}

/// What a route is for.
#[derive(Clone, Debug)]
pub struct Query {
    /// Layers of the model.
    pub n_layers: u32,
    /// Layers of the route: all of them, or those of a stage that has to be replaced.
    pub layers: Range<u32>,
    /// Who sends to its first stage.
    pub from: End,
    /// Whom its last stage sends to.
    pub to: End,
    /// Positions that the request takes.
    pub positions: u32,
    /// Nodes that are not to be used.
    pub exclude: BTreeSet<NodeId>,
    /// Adapters that every stage needs.
    pub adapters: Vec<Digest>,
    /// The highest price of a stage, micro-units per 1,000 tokens.
    pub price_max_micro: Option<u64>,
    /// Every stage has to prove what it computed.
    pub provable: bool,
    /// Where nodes may be entered and left.
    pub cut: Cut,
    /// What the head takes, in layers.
    pub head_layers: u32,
    /// Round trips that the asker measured, microseconds.
    pub rtts_us: BTreeMap<NodeId, u32>,
    /// Where the asker lies, if it knows.
    pub coordinate: Option<Coordinate>,
}

impl Query {
    /// A request of so many positions for all of a model, to nodes that serve their whole parts.
    #[must_use]
    pub fn new(n_layers: u32, positions: u32) -> Query {
        Query {
            n_layers,
            layers: 0..n_layers,
            from: End::Gateway,
            to: End::Gateway,
            positions,
            exclude: BTreeSet::new(),
            adapters: vec![],
            price_max_micro: None,
            provable: false,
            cut: Cut::Parts,
            head_layers: 0,
            rtts_us: BTreeMap::new(),
            coordinate: None,
        }
    }
}

/// One stage of a route, and what a token costs there, microseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hop {
    /// The node.
    pub node: NodeId,
    /// What it computes.
    pub part: Part,
    /// Half the round trip from the stage before.
    pub network_us: u64,
    /// Hop, queue and handicaps.
    pub waiting_us: u64,
    /// Computing its layers.
    pub compute_us: u64,
}

/// A chain of nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Its stages in order.
    pub hops: Vec<Hop>,
    /// What a token costs, the way back included, nanoseconds.
    pub cost_ns: u64,
}

/// How many nodes cannot be used, by the first reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unusable {
    /// Joining or draining, shards, or a part beyond the model.
    pub state: u32,
    /// Excluded by the query, at an end of the route already, or banned.
    pub failed: u32,
    /// Too dear.
    pub price: u32,
    /// Without an adapter.
    pub adapters: u32,
    /// They prove nothing.
    pub proofs: u32,
}

/// Why there is no route.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RouteError {
    /// The query names layers that the model has not.
    #[error("a route over layers {}..{}, expected some of {n_layers}", layers.start, layers.end)]
    Layers {
        /// Its layers.
        layers: Range<u32>,
        /// Those of the model.
        n_layers: u32,
    },
    /// No usable node holds a layer.
    #[error("nobody who can be used holds layer {layer} ({unusable:?})")]
    Gap {
        /// The first such layer.
        layer: u32,
        /// Who could not be used.
        unusable: Unusable,
    },
    /// Every layer is held, but the parts make no chain (or embedding or head are missing).
    #[error("every layer is held by {candidates} nodes, but their parts make no chain ({unusable:?})")]
    Chain {
        /// Nodes that could be used.
        candidates: usize,
        /// Who could not be used.
        unusable: Unusable,
    },
    /// More stages than a route may have.
    #[error("a route of {got} stages, expected at most {STAGES_MAX}")]
    Stages {
        /// Its stages.
        got: usize,
    },
}

/// Everybody who can serve a query, and what it costs.
#[derive(Debug)]
pub struct Graph {
    query: Query,
    nodes: Vec<NodeId>,
    paths: Paths,
    unusable: Unusable,
}

impl Graph {
    /// The graph of a query over what is announced of its model.
    ///
    /// # Errors
    /// [`RouteError::Layers`] if the query names layers that the model has not.
    pub fn new<'a>(
        claims: impl Iterator<Item = &'a Claims>,
        query: Query,
        scores: &Scores,
        now_ms: u64,
    ) -> Result<Graph, RouteError> {
        let (layers, n_layers) = (query.layers.clone(), query.n_layers);
        if layers.start >= layers.end || layers.end > n_layers {
            return Err(RouteError::Layers { layers, n_layers });
        }
        let mut unusable = Unusable::default();
        let mut usable: Vec<&Claims> = Vec::new();
        let mut told: BTreeMap<(NodeId, NodeId), u32> = BTreeMap::new();
        let mut places: BTreeMap<NodeId, Option<Coordinate>> = BTreeMap::new();
        for claims in claims {
            if [query.from, query.to].contains(&End::Node(claims.node)) {
                places.insert(claims.node, claims.coordinate);
                told.extend(claims.neighbours.iter().map(|other| ((claims.node, other.node), other.rtt_us)));
            }
            match reason(claims, &query, scores, now_ms, &mut unusable) {
                Some(count) => *count += 1,
                None => usable.push(claims),
            }
        }
        usable.sort_unstable_by_key(|claims| claims.node);
        usable.dedup_by_key(|claims| claims.node);
        let (from_ns, to_ns) = (
            ends(query.from, &usable, &query, &told, &places),
            ends(query.to, &usable, &query, &told, &places),
        );
        let usable = nearest(usable, &query, &from_ns, &to_ns, scores);
        let nodes: Vec<NodeId> = usable.iter().map(|claims| claims.node).collect();
        let candidates = usable.iter().map(|claims| candidate(claims, &query, scores)).collect();
        let paths = Paths::new(
            (layers.end - layers.start) as usize,
            query.cut == Cut::Anywhere,
            candidates,
            Links::new(&usable),
            ends(query.from, &usable, &query, &told, &places),
            ends(query.to, &usable, &query, &told, &places),
        );
        Ok(Graph { query, nodes, paths, unusable })
    }

    /// The cheapest route; among equal ones, that through the lower ids.
    ///
    /// # Errors
    /// [`RouteError`] if there is none.
    pub fn best(&self) -> Result<Route, RouteError> {
        let walk = self.paths.best().ok_or_else(|| self.why())?;
        self.route(&walk)
    }

    /// A random route that costs at most `near_permille` thousandths more than the cheapest.
    ///
    /// # Errors
    /// [`RouteError`] if there is none.
    pub fn choose(&self, near_permille: u64, rng: &mut SplitMix64) -> Result<Route, RouteError> {
        let best = self.paths.best().ok_or_else(|| self.why())?;
        let more = u128::from(best.cost_ns) * u128::from(near_permille) / 1000;
        let limit_ns = best.cost_ns.saturating_add(u64::try_from(more).unwrap_or(u64::MAX));
        let walk = self.paths.draw(limit_ns, rng).unwrap_or(best);
        self.route(&walk)
    }

    /// Nodes that could be used.
    #[must_use]
    pub fn candidates(&self) -> usize {
        self.nodes.len()
    }

    fn why(&self) -> RouteError {
        let unusable = self.unusable;
        match self.paths.uncovered() {
            Some(layer) => RouteError::Gap { layer: self.query.layers.start + layer as u32, unusable },
            None => RouteError::Chain { candidates: self.nodes.len(), unusable },
        }
    }

    fn route(&self, walk: &Walk) -> Result<Route, RouteError> {
        if walk.stages.len() > STAGES_MAX {
            return Err(RouteError::Stages { got: walk.stages.len() });
        }
        let offset = self.query.layers.start;
        let hops = walk.stages.iter().map(|stage| {
            let layers = offset + stage.layers.start as u32..offset + stage.layers.end as u32;
            Hop {
                node: self.nodes[stage.node],
                part: Part::layers(layers, self.query.n_layers),
                network_us: stage.network_ns / NS_PER_US,
                waiting_us: stage.enter_ns / NS_PER_US,
                compute_us: stage.compute_ns / NS_PER_US,
            }
        });
        Ok(Route { hops: hops.collect(), cost_ns: walk.cost_ns })
    }
}

/// The cheapest route of a query.
///
/// # Errors
/// [`RouteError`] if there is none.
pub fn best<'a>(
    claims: impl Iterator<Item = &'a Claims>,
    query: Query,
    scores: &Scores,
    now_ms: u64,
) -> Result<Route, RouteError> {
    Graph::new(claims, query, scores, now_ms)?.best()
}

/// A random route of a query, at most [`NEAR_PERMILLE`] above the cheapest.
///
/// # Errors
/// [`RouteError`] if there is none.
pub fn choose<'a>(
    claims: impl Iterator<Item = &'a Claims>,
    query: Query,
    scores: &Scores,
    now_ms: u64,
    rng: &mut SplitMix64,
) -> Result<Route, RouteError> {
    Graph::new(claims, query, scores, now_ms)?.choose(NEAR_PERMILLE, rng)
}

/// Why a node cannot be used: where to count it.
fn reason<'u>(
    claims: &Claims,
    query: &Query,
    scores: &Scores,
    now_ms: u64,
    unusable: &'u mut Unusable,
) -> Option<&'u mut u32> {
    let part = claims.part;
    let beyond = part.end_layer > query.n_layers || part.first_layer >= part.end_layer;
    if claims.state != State::Online || part.shards != 1 || beyond {
        return Some(&mut unusable.state);
    }
    let stays = [query.from, query.to].contains(&End::Node(claims.node));
    if stays || query.exclude.contains(&claims.node) || scores.banned(now_ms, &claims.node) {
        return Some(&mut unusable.failed);
    }
    if query.price_max_micro.is_some_and(|most| claims.price_micro > most) {
        return Some(&mut unusable.price);
    }
    if query.adapters.iter().any(|adapter| claims.adapters.binary_search(adapter).is_err()) {
        return Some(&mut unusable.adapters);
    }
    (query.provable && !claims.proves).then_some(&mut unusable.proofs)
}

/// A node as the programme sees it: its layers counted from the first of the route.
fn candidate(claims: &Claims, query: &Query, scores: &Scores) -> Candidate {
    let part = claims.part;
    let (start, end) = (query.layers.start, query.layers.end);
    let layer_ns = 1_000_000_000_000 / claims.decode_milli.max(1);
    let queue = u64::from(claims.queue_depth).saturating_mul(part.layer_count() as u64);
    let relay_us = if claims.relayed { RELAY_US } else { 0 };
    let room_us = if claims.free_positions < query.positions.into() { NO_ROOM_US } else { 0 };
    let failures_us = u64::from(scores.failures(&claims.node)).saturating_mul(FAILURE_US);
    let handicap_us = HOP_US.saturating_add(relay_us).saturating_add(room_us).saturating_add(failures_us);
    let whole = part.first_layer >= start && part.end_layer <= end;
    let clip = |layer: u32| layer.clamp(start, end) - start;
    Candidate {
        // A part that does not lie in the range can only be used where parts are cut.
        first: clip(part.first_layer) as usize,
        end: if whole || query.cut == Cut::Anywhere { clip(part.end_layer) as usize } else { 0 },
        begins: part.embed || start > 0,
        finishes: part.head || end < query.n_layers,
        layer_ns,
        enter_ns: handicap_us.saturating_mul(NS_PER_US).saturating_add(queue.saturating_mul(layer_ns)),
        last_ns: if end == query.n_layers { layer_ns.saturating_mul(query.head_layers.into()) } else { 0 },
    }
}

/// The best nodes of each layer, if it has more than [`HOLDERS_MAX`]: those that cost least for each layer that they hold, if the
/// asker used nobody else.
fn nearest<'a>(
    usable: Vec<&'a Claims>,
    query: &Query,
    from_ns: &[u64],
    to_ns: &[u64],
    scores: &Scores,
) -> Vec<&'a Claims> {
    let n_layers = (query.layers.end - query.layers.start) as usize;
    let all: Vec<Candidate> = usable.iter().map(|claims| candidate(claims, query, scores)).collect();
    let cost = |i: &usize| {
        let ways = from_ns[*i].saturating_add(to_ns[*i]).saturating_add(all[*i].enter_ns);
        (ways / (all[*i].end - all[*i].first).max(1) as u64).saturating_add(all[*i].layer_ns)
    };
    let mut order: Vec<usize> = (0..all.len()).filter(|i| all[*i].first < all[*i].end).collect();
    order.sort_by_cached_key(|i| (cost(i), usable[*i].node));
    let mut holders = vec![0usize; n_layers];
    let mut kept = vec![false; all.len()];
    for i in order {
        let layers = &mut holders[all[i].first..all[i].end];
        kept[i] = layers.iter().any(|count| *count < HOLDERS_MAX);
        if kept[i] {
            layers.iter_mut().for_each(|count| *count += 1);
        }
    }
    let kept = usable.into_iter().zip(kept).filter(|(_, kept)| *kept);
    kept.map(|(claims, _)| claims).collect()
}

/// Half round trips between an end of the route and every node; the longer one where two tell different ones.
fn ends(
    end: End,
    usable: &[&Claims],
    query: &Query,
    told: &BTreeMap<(NodeId, NodeId), u32>,
    places: &BTreeMap<NodeId, Option<Coordinate>>,
) -> Vec<u64> {
    let place = match end {
        End::Gateway => query.coordinate,
        End::Node(node) => places.get(&node).copied().flatten(),
    };
    let rtt_us = |claims: &Claims| match end {
        End::Gateway => query.rtts_us.get(&claims.node).copied(),
        End::Node(node) => {
            let theirs = claims.neighbours.iter().find(|other| other.node == node).map(|other| other.rtt_us);
            theirs.max(told.get(&(node, claims.node)).copied())
        }
    };
    let us = |claims: &Claims| rtt_us(claims).unwrap_or_else(|| computed_us(place, claims.coordinate));
    usable.iter().map(|claims| half_ns(us(claims))).collect()
}

fn half_ns(rtt_us: u32) -> u64 {
    u64::from(rtt_us) * NS_PER_US / 2
}
