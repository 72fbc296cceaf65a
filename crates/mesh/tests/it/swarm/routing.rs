//! docs/spec/swarm.md, routing: the programme finds what trying everything finds; constraints; near-best draws.

use super::{claims, many_key};
use crate::samples::{cases, id};
use lockstep_base::Digest;
use lockstep_base::keys::NodeId;
use lockstep_base::part::Part;
use lockstep_base::rng::SplitMix64;
use lockstep_mesh::swarm::routing::{Cut, End, Graph, Query, RouteError, Unusable, best, choose};
use lockstep_mesh::swarm::routing::{HOLDERS_MAX, HOP_US, NO_ROOM_US, RELAY_US, RTT_UNKNOWN_US};
use lockstep_mesh::swarm::scores::{BAN_MAX_MS, BAN_MS, SCORES_MAX, Scores};
use lockstep_mesh::swarm::{Claims, Coordinate, Neighbour, State};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::ops::Range;

/// Node number `n` holds `layers` of `n_layers`: one layer takes a millisecond.
fn stage(n: u32, layers: Range<u32>, n_layers: u32) -> Claims {
    let part = Part::layers(layers, n_layers);
    Claims { part, free_positions: 1000, ..claims(&many_key(n), 0..1, 1) }
}

fn find(all: &[Claims], query: Query) -> Result<Vec<(NodeId, Range<u32>)>, RouteError> {
    let route = best(all.iter(), query, &Scores::new(), 0)?;
    Ok(route.hops.iter().map(|hop| (hop.node, hop.part.first_layer..hop.part.end_layer)).collect())
}

/// Any small swarm: layers, nodes with any parts, speeds, queues, handicaps and round trips.
fn any_swarm(seed: u64) -> (u32, Vec<Claims>, Query) {
    let mut rng = SplitMix64::new(seed);
    let n_layers = 1 + rng.below(5) as u32;
    let count = 1 + rng.below(5) as u32;
    let mut all: Vec<Claims> = (0..count)
        .map(|n| {
            let first = rng.below(n_layers.into()) as u32;
            let first = if rng.below(2) == 0 { 0 } else { first };
            let end = first + 1 + rng.below(u64::from(n_layers - first)) as u32;
            Claims {
                decode_milli: 1 + rng.below(100_000),
                queue_depth: rng.below(2) as u32,
                relayed: rng.below(4) == 0,
                coordinate: (rng.below(2) == 0).then(|| Coordinate {
                    x_us: rng.below(100_000) as i32,
                    ..Coordinate::unknown(rng.next_u64())
                }),
                ..stage(n, first..end, n_layers)
            }
        })
        .collect();
    let ids: Vec<NodeId> = all.iter().map(|claims| claims.node).collect();
    for claims in &mut all {
        for other in ids.iter().filter(|other| **other != claims.node) {
            if rng.below(2) == 0 {
                claims.neighbours.push(Neighbour { node: *other, rtt_us: rng.below(300_000) as u32 });
            }
        }
    }
    let mut query = Query::new(n_layers, 100);
    query.rtts_us = ids.into_iter().filter(|_| rng.below(2) == 0).map(|id| (id, 0)).collect();
    for rtt_us in query.rtts_us.values_mut() {
        *rtt_us = rng.below(300_000) as u32;
    }
    query.cut = if rng.below(3) == 0 { Cut::Parts } else { Cut::Anywhere };
    query.head_layers = rng.below(3) as u32;
    (n_layers, all, query)
}

/// The formula of the documentation, for one chain: nanoseconds.
fn cost_ns(all: &[Claims], query: &Query, chain: &[(usize, Range<u32>)]) -> u64 {
    let rtt_us = |from: usize, to: usize| {
        let told =
            |a: usize, b: usize| all[a].neighbours.iter().find(|n| n.node == all[b].node).map(|n| n.rtt_us);
        let places = all[from].coordinate.zip(all[to].coordinate);
        let computed = places.map_or(RTT_UNKNOWN_US, |(a, b)| a.rtt_us(&b));
        told(from, to).max(told(to, from)).unwrap_or(computed)
    };
    let asked = |node: usize| query.rtts_us.get(&all[node].node).copied().unwrap_or(RTT_UNKNOWN_US);
    let mut cost = u64::from(asked(chain[0].0)) * 500 + u64::from(asked(chain[chain.len() - 1].0)) * 500;
    for pair in chain.windows(2) {
        cost += u64::from(rtt_us(pair[0].0, pair[1].0)) * 500;
    }
    for (node, layers) in chain {
        let claims = &all[*node];
        let layer_ns = 1_000_000_000_000 / claims.decode_milli;
        let head = if layers.end == query.n_layers { query.head_layers } else { 0 };
        let computed = u64::from(layers.end - layers.start + head);
        let waits = u64::from(claims.queue_depth) * claims.part.layer_count() as u64;
        let handicap_us = HOP_US + if claims.relayed { RELAY_US } else { 0 };
        cost += handicap_us * 1000 + (computed + waits) * layer_ns;
    }
    cost
}

/// Every chain that uses each node once.
fn every_chain(
    all: &[Claims],
    query: &Query,
    layer: u32,
    chain: &mut Vec<(usize, Range<u32>)>,
    found: &mut impl FnMut(&[(usize, Range<u32>)]),
) {
    if layer == query.n_layers {
        return found(chain);
    }
    for node in 0..all.len() {
        let part = all[node].part;
        let holds = (part.first_layer..part.end_layer).contains(&layer);
        let enters = query.cut == Cut::Anywhere || part.first_layer == layer;
        if !holds || !enters || chain.iter().any(|(used, _)| *used == node) {
            continue;
        }
        let first_end = if query.cut == Cut::Anywhere { layer + 1 } else { part.end_layer };
        for end in first_end..=part.end_layer {
            chain.push((node, layer..end));
            every_chain(all, query, end, chain, found);
            chain.pop();
        }
    }
}

proptest! {
    #![proptest_config(cases(2000))]

    /// Thousands of small swarms: the cost of the route is the least of all chains, and is the formula's.
    #[test]
    fn the_best_route_is_the_best_of_all(seed: u64) {
        let (_, all, query) = any_swarm(seed);
        let mut least: Option<u64> = None;
        every_chain(&all, &query, 0, &mut vec![], &mut |chain| {
            least = least.into_iter().chain([cost_ns(&all, &query, chain)]).min();
        });
        match best(all.iter(), query.clone(), &Scores::new(), 0) {
            Ok(route) => {
                prop_assert_eq!(Some(route.cost_ns), least, "seed {}", seed);
                let chain: Vec<(usize, Range<u32>)> = route.hops.iter().map(|hop| {
                    let node = all.iter().position(|claims| claims.node == hop.node).expect("a node");
                    (node, hop.part.first_layer..hop.part.end_layer)
                }).collect();
                prop_assert_eq!(cost_ns(&all, &query, &chain), route.cost_ns, "seed {}", seed);
                let nodes: BTreeSet<NodeId> = route.hops.iter().map(|hop| hop.node).collect();
                prop_assert_eq!(nodes.len(), route.hops.len(), "seed {}: a node twice", seed);
                let parts: Vec<Part> = route.hops.iter().map(|hop| hop.part).collect();
                prop_assert_eq!(Part::check_route(&parts, query.n_layers), Ok(()));
            }
            Err(error) => prop_assert_eq!(least, None, "seed {}: {}", seed, error),
        }
    }

    /// Drawn routes are chains as well, and cost no more than they may.
    #[test]
    fn drawn_routes_are_near_the_best(seed: u64, near in 0u64..1000) {
        let (_, all, query) = any_swarm(seed);
        let graph = Graph::new(all.iter(), query.clone(), &Scores::new(), 0).expect("layers");
        let Ok(best) = graph.best() else { return Ok(()) };
        let mut rng = SplitMix64::new(seed);
        for _ in 0..5 {
            let route = graph.choose(near, &mut rng).expect("there is a route");
            prop_assert!(route.cost_ns <= best.cost_ns + best.cost_ns * near / 1000, "seed {}", seed);
            let parts: Vec<Part> = route.hops.iter().map(|hop| hop.part).collect();
            prop_assert_eq!(Part::check_route(&parts, query.n_layers), Ok(()));
        }
    }
}

#[test]
fn equal_routes_are_all_drawn() {
    let all: Vec<Claims> = (0..6).map(|n| stage(n, if n < 3 { 0..4 } else { 4..8 }, 8)).collect();
    let mut rng = SplitMix64::new(3);
    let mut drawn = BTreeSet::new();
    for _ in 0..200 {
        let route = choose(all.iter(), Query::new(8, 1), &Scores::new(), 0, &mut rng).unwrap();
        drawn.insert(route.hops.iter().map(|hop| hop.node).collect::<Vec<_>>());
    }
    assert_eq!(drawn.len(), 9);
}

/// A fast node in the middle of a slow one's layers: the cheapest chain would come back to the slow one.
#[test]
fn a_route_never_comes_back() {
    let near = |n| Neighbour { node: many_key(n).id(), rtt_us: 0 };
    let slow = Claims { decode_milli: 1_000, neighbours: vec![near(1)], ..stage(0, 0..6, 6) };
    let fast = Claims { decode_milli: 1_000_000, ..stage(1, 2..4, 6) };
    let query = Query { cut: Cut::Anywhere, ..Query::new(6, 1) };
    assert_eq!(find(&[slow, fast], query).unwrap(), [(many_key(0).id(), 0..6)]);
}

#[test]
fn constraints_exclude_nodes() {
    let all = |change: fn(&mut Claims)| {
        let mut all = vec![stage(0, 0..4, 8), stage(1, 4..8, 8), stage(2, 4..8, 8)];
        all[1].decode_milli *= 2;
        change(&mut all[1]);
        all
    };
    let used = |change, query| find(&all(change), query).unwrap()[1].0;
    let (fast, other) = (many_key(1).id(), many_key(2).id());
    let query = || Query::new(8, 500);
    assert_eq!(used(|_| (), query()), fast);
    assert_eq!(used(|_| (), Query { exclude: [fast].into(), ..query() }), other);
    assert_eq!(used(|claims| claims.state = State::Draining, query()), other);
    assert_eq!(used(|claims| claims.state = State::Joining, query()), other);
    assert_eq!(used(|claims| claims.free_positions = 499, query()), other);
    assert_eq!(used(|claims| claims.queue_depth = 9, query()), other);
    assert_eq!(used(|claims| claims.relayed = true, query()), other);
    assert_eq!(used(|claims| claims.price_micro = 6, Query { price_max_micro: Some(5), ..query() }), other);
    assert_eq!(used(|claims| claims.part.shards = 2, query()), other);
    // A route to a full node is better than none.
    let full: Vec<Claims> =
        all(|_| ()).into_iter().take(2).map(|c| Claims { free_positions: 0, ..c }).collect();
    let route = best(full.iter(), query(), &Scores::new(), 0).unwrap();
    assert!(route.cost_ns > 2 * NO_ROOM_US * 1000);
}

/// Of very many holders the best are considered: the route is that among all, where the rough measure is exact.
#[test]
fn of_many_holders_the_best_are_considered() {
    let all: Vec<Claims> =
        (0..400).map(|n| Claims { decode_milli: 1_000 + u64::from(n), ..stage(n, 0..4, 4) }).collect();
    let graph = Graph::new(all.iter(), Query::new(4, 1), &Scores::new(), 0).unwrap();
    assert_eq!(graph.candidates(), HOLDERS_MAX);
    assert_eq!(graph.best().unwrap().hops[0].node, many_key(399).id());
}

#[test]
fn why_there_is_no_route() {
    let whole = |n| stage(n, 0..8, 8);
    let adapters = vec![Digest([4; 32])];
    let query = Query { adapters: adapters.clone(), provable: true, ..Query::new(8, 1) };
    let all = [whole(0), Claims { adapters, ..whole(1) }, Claims { state: State::Joining, ..whole(2) }];
    let unusable = Unusable { state: 1, adapters: 1, proofs: 1, ..Unusable::default() };
    assert_eq!(find(&all, query).unwrap_err(), RouteError::Gap { layer: 0, unusable });
    // Parts that overlap make a chain only where they may be cut.
    let overlapping = [stage(0, 0..5, 8), stage(1, 3..8, 8)];
    let error = find(&overlapping, Query::new(8, 1)).unwrap_err();
    assert_eq!(error, RouteError::Chain { candidates: 2, unusable: Unusable::default() });
    assert_eq!(find(&overlapping, Query { cut: Cut::Anywhere, ..Query::new(8, 1) }).unwrap().len(), 2);
    let hole = [stage(0, 0..5, 8), stage(1, 6..8, 8)];
    assert!(matches!(find(&hole, Query::new(8, 1)), Err(RouteError::Gap { layer: 5, .. })));
    let beyond = Query { layers: 4..9, ..Query::new(8, 1) };
    assert_eq!(find(&hole, beyond).unwrap_err(), RouteError::Layers { layers: 4..9, n_layers: 8 });
}

/// A stage is replaced between two that stay: the round trips to them count, and they are not used again.
#[test]
fn a_stage_is_replaced() {
    let (before, after) = (many_key(0).id(), many_key(9).id());
    let near = |n: u32, rtt_us| Claims {
        neighbours: vec![Neighbour { node: before, rtt_us }, Neighbour { node: after, rtt_us }],
        ..stage(n, 3..6, 9)
    };
    let all = [stage(0, 0..9, 9), near(1, 80_000), near(2, 20_000), near(3, 40_000), stage(9, 6..9, 9)];
    let query = Query {
        layers: 3..6,
        from: End::Node(before),
        to: End::Node(after),
        exclude: [many_key(2).id()].into(),
        ..Query::new(9, 1)
    };
    let route = best(all.iter(), query, &Scores::new(), 0).unwrap();
    assert_eq!((route.hops[0].node, route.hops.len()), (many_key(3).id(), 1));
    assert_eq!(route.hops[0].part, Part::layers(3..6, 9));
    // 20 ms there and 20 ms on, a millisecond for the hop and each of three layers.
    assert_eq!(route.cost_ns, 44_000_000);
    let hop = &route.hops[0];
    assert_eq!((hop.network_us, hop.waiting_us, hop.compute_us), (20_000, 1_000, 3_000));
}

#[test]
fn who_fails_is_left_alone_for_twice_as_long() {
    let mut scores = Scores::new();
    let mut now_ms = 1_000;
    for doubled in 0..12 {
        scores.failed(now_ms, id(1));
        let ban_ms = (BAN_MS << doubled).min(BAN_MAX_MS);
        assert!(scores.banned(now_ms + ban_ms - 1, &id(1)) && !scores.banned(now_ms + ban_ms, &id(1)));
        now_ms += ban_ms;
    }
    assert_eq!((scores.failures(&id(1)), scores.failures(&id(2))), (12, 0));
    // What it serves makes good for what it did not.
    (0..20).for_each(|_| scores.served(&id(1)));
    assert_eq!(scores.failures(&id(1)), 0);
    // A banned node is no candidate; afterwards it has a handicap.
    let all = [stage(0, 0..4, 4), stage(1, 0..4, 4)];
    let node =
        |scores: &Scores, now_ms| best(all.iter(), Query::new(4, 1), scores, now_ms).unwrap().hops[0].node;
    let first = node(&scores, 0);
    scores.failed(0, first);
    assert!(node(&scores, 0) != first && node(&scores, BAN_MS) != first);
    scores.served(&first);
    assert_eq!(node(&scores, BAN_MS), first);
}

#[test]
fn scores_are_bounded() {
    let mut scores = Scores::new();
    for n in 0..SCORES_MAX as u64 + 100 {
        let mut id = [0; 20];
        id[..8].copy_from_slice(&n.to_be_bytes());
        scores.failed(n, NodeId(id));
    }
    assert_eq!(scores.failures(&NodeId([0; 20])), 0, "the ban that ended first is forgotten");
}
