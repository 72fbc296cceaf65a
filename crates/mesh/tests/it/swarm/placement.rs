//! docs/spec/swarm.md, placement: the weakest layer first, two replicas before throughput, no gap, a bound that holds.

use crate::samples::{cases, id};
use lockstep_base::keys::NodeId;
use lockstep_base::rng::SplitMix64;
use lockstep_mesh::swarm::mover::{Mover, SETTLE_MS, Step};
use lockstep_mesh::swarm::placement::{Capacity, Loads, best_milli, choose, split};
use lockstep_mesh::swarm::rebalance::{leaves_gap, rebalance};
use lockstep_mesh::swarm::{Coverage, Holding, State};
use proptest::collection::vec;
use proptest::prelude::*;
use std::ops::Range;

/// Node number `n` with ids in order.
fn node(n: u64) -> NodeId {
    let mut id = [0; 20];
    id[..8].copy_from_slice(&n.to_be_bytes());
    NodeId(id)
}

fn holding(n: u64, window: Range<u32>, rate_milli: u64) -> Holding {
    let (embed, head) = (window.start == 0, false);
    Holding {
        node: node(n),
        first: window.start,
        end: window.end,
        rate_milli,
        state: State::Online,
        embed,
        head,
    }
}

#[test]
fn the_weakest_layers_are_filled_first() {
    // Shares 100 on 0..4 and 4..8 twice, 300 on 8..12 twice: a newcomer of four layers takes what has least.
    let mut all =
        vec![holding(1, 0..4, 400), holding(2, 0..4, 400), holding(3, 4..8, 400), holding(4, 4..8, 800)];
    all.extend([holding(5, 8..12, 1200), holding(6, 8..12, 1200)]);
    assert_eq!(choose(12, all.iter().copied(), &node(9), 4), 0..4);
    // A second replica comes before any throughput.
    all[4].state = State::Draining;
    assert_eq!(choose(12, all.iter().copied(), &node(9), 4), 8..12);
    // Joining ones count: nobody comes for the same layers.
    all[4].state = State::Joining;
    assert_eq!(choose(12, all.iter().copied(), &node(9), 4), 0..4);
    // More room than layers: all of them. What a node holds itself is no reason for or against.
    assert_eq!(choose(12, all.iter().copied(), &node(9), 99), 0..12);
    assert_eq!(choose(12, all.iter().copied(), &node(1), 4), 0..4);
    // Parts beyond the model count for nothing.
    assert_eq!(choose(12, [holding(1, 8..16, 4)].into_iter(), &node(0), 12), 0..12);
}

/// In an empty swarm those who come at once do not all begin at layer 0.
#[test]
fn equal_windows_are_spread_over_ids() {
    let firsts: std::collections::BTreeSet<u32> =
        (1..40).map(|n| choose(12, std::iter::empty(), &id(n), 4).start).collect();
    assert!(firsts.len() >= 7, "{firsts:?} of 9 windows");
}

/// Every window, with its strengths sorted: the plainest form of the rule.
fn chosen_plainly(loads: &Loads, layers: u32) -> Vec<u32> {
    let sorted = |first: usize| {
        let window = &loads.layers()[first..first + layers as usize];
        let mut sorted: Vec<(u32, u64)> =
            window.iter().map(|load| (load.replicas.min(2), load.rate_milli)).collect();
        sorted.sort_unstable();
        sorted
    };
    let firsts = 0..=loads.layers().len() - layers as usize;
    let best = firsts.clone().map(sorted).min().expect("a window");
    firsts.filter(|first| sorted(*first) == best).map(|first| first as u32).collect()
}

fn any_holdings() -> impl Strategy<Value = (u32, Vec<Holding>)> {
    (3u32..14, vec((any::<prop::sample::Index>(), 1u32..6, 1u64..1000), 1..14)).prop_map(
        |(n_layers, nodes)| {
            let nodes = (0..).zip(nodes).map(|(n, (at, layers, rate))| {
                let layers = layers.min(n_layers);
                let first = at.index((n_layers - layers + 1) as usize) as u32;
                holding(n, first..first + layers, rate * 1000)
            });
            (n_layers, nodes.collect())
        },
    )
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn a_window_is_lexicographically_smallest((n_layers, all) in any_holdings(), layers in 1u32..6, n: u64) {
        let layers = layers.min(n_layers);
        let loads = Loads::of(n_layers, all.iter());
        let window = loads.choose(layers, &node(n));
        prop_assert_eq!(window.end - window.start, layers);
        prop_assert!(chosen_plainly(&loads, layers).contains(&window.start));
    }

    /// No placement of these nodes is better than the bound; and the bound is the largest level with enough throughput.
    #[test]
    fn no_placement_is_above_the_bound((n_layers, all) in any_holdings(), seed: u64) {
        let nodes: Vec<(u32, u64)> = all.iter().map(|node| (node.layers(), node.rate_milli)).collect();
        let bound = best_milli(n_layers, &nodes);
        let mut rng = SplitMix64::new(seed);
        for _ in 0..20 {
            let placed = all.iter().map(|node| {
                let first = rng.below(u64::from(n_layers - node.layers() + 1)) as u32;
                Holding { first, end: first + node.layers(), ..*node }
            });
            let weakest = Coverage::of(n_layers, placed).weakest_milli();
            prop_assert!(weakest <= bound, "{} above {}, seed {}", weakest, bound, seed);
        }
        let sum = |level: u64| nodes.iter().map(|(n, rate)| (*rate).min(u64::from(*n) * level)).sum::<u64>();
        prop_assert!(sum(bound) >= u64::from(n_layers) * bound);
        prop_assert!(sum(bound + 1) < u64::from(n_layers) * (bound + 1));
    }

    /// Whoever goes leaves no gap, comes to another place, and repeats nothing that knows the same.
    #[test]
    fn who_goes_leaves_no_gap((n_layers, all) in any_holdings(), who in 0usize..14, word: u64) {
        let mine = all[who % all.len()];
        if let Some(to) = rebalance(n_layers, &all, &mine.node, word) {
            prop_assert!(!leaves_gap(n_layers, &all, &mine));
            prop_assert_eq!(to.end - to.start, mine.layers());
            prop_assert!(to != (mine.first..mine.end));
            prop_assert_eq!(rebalance(n_layers, &all, &mine.node, word), Some(to));
        }
    }

    /// Layers in proportion to speed: the slowest stage is as fast as any split makes it.
    #[test]
    fn a_split_is_the_fastest(n_layers in 1u32..9, nodes in vec((0u32..7, 0u64..50), 1..4)) {
        let nodes: Vec<Capacity> =
            nodes.into_iter().map(|(layers_max, rate_milli)| Capacity { layers_max, rate_milli }).collect();
        // Slowest stage as time per layer-rate, scaled so that it is exact: rates are below 50.
        let slowest = |layers: &[u32]| layers.iter().zip(&nodes).map(|(layers, node)| match (layers, node.rate_milli) {
            (0, _) => 0,
            (_, 0) => u128::MAX,
            (n, rate) => u128::from(*n) * SCALE / u128::from(rate),
        }).max();
        let mut best = None;
        every_split(n_layers, &nodes, &mut vec![], &mut |layers| {
            let time = slowest(layers).filter(|time| *time != u128::MAX);
            best = best.into_iter().chain(time).min();
        });
        let got = split(n_layers, &nodes);
        prop_assert_eq!(got.as_deref().and_then(slowest), best);
        if let Some(got) = got {
            prop_assert_eq!(got.iter().sum::<u32>(), n_layers);
            prop_assert!(got.iter().zip(&nodes).all(|(layers, node)| *layers <= node.layers_max));
        }
    }
}

/// A multiple of every number below 50: the least common multiple.
const SCALE: u128 = 3_099_044_504_245_996_706_400;

fn every_split(n_layers: u32, nodes: &[Capacity], layers: &mut Vec<u32>, found: &mut impl FnMut(&[u32])) {
    if layers.len() == nodes.len() {
        if n_layers == 0 {
            found(layers);
        }
        return;
    }
    for n in 0..=nodes[layers.len()].layers_max.min(n_layers) {
        layers.push(n);
        every_split(n_layers - n, nodes, layers, found);
        layers.pop();
    }
}

/// The number of a node.
fn turn(holding: &Holding) -> u64 {
    u64::from_be_bytes(holding.node.0[..8].try_into().expect("8 bytes"))
}

/// A balanced swarm stays; a layer short of a replica, or far below what it could have, is a reason to go.
#[test]
fn reasons_to_go() {
    let balanced: Vec<Holding> =
        (0..6).map(|n| holding(n, 4 * (n as u32 % 3)..4 * (n as u32 % 3) + 4, 1000)).collect();
    for n in 0..6 {
        assert_eq!(rebalance(12, &balanced, &node(n), 0), None);
    }
    // One of 0..4 died, 4..8 has four: one of those goes.
    let mut lopsided = balanced.clone();
    lopsided.remove(0);
    lopsided.extend([holding(7, 4..8, 1000), holding(8, 4..8, 1000)]);
    lopsided.sort_unstable_by_key(|holding| holding.node);
    let gone: Vec<u64> =
        lopsided.iter().filter(|one| rebalance(12, &lopsided, &one.node, 1).is_some()).map(turn).collect();
    assert!(
        !gone.is_empty() && gone.iter().all(|n| lopsided.iter().any(|one| turn(one) == *n && one.first == 4)),
        "{gone:?}"
    );
    assert_eq!(rebalance(12, &lopsided, &node(3), 1), None, "it would leave a gap");
    // Not while it is not online itself, and not if it is unknown.
    lopsided.last_mut().unwrap().state = State::Joining;
    assert_eq!(rebalance(12, &lopsided, &node(8), 1), None);
    assert_eq!(rebalance(12, &lopsided, &node(99), 1), None);
}

/// Four holders of 0..4, one of each other layer: somebody drains, looks again, and goes.
#[test]
fn who_goes_says_so_first() {
    let all = |me: State| {
        let mut all: Vec<Holding> = (0..4).map(|n| holding(n, 0..4, 1000)).collect();
        all.push(holding(5, 4..8, 1000));
        all[3].state = me;
        all
    };
    let mut mover = Mover::new(node(3), 8, 0, 7);
    let due = mover.due_ms();
    assert_eq!(mover.tick(due - 1, || unreachable!("it is not time")), None);
    assert_eq!(mover.tick(due, || all(State::Online)), Some(Step::Drain));
    assert_eq!(mover.tick(due + SETTLE_MS - 1, || unreachable!("it is not time")), None);
    assert_eq!(mover.tick(due + SETTLE_MS, || all(State::Draining)), Some(Step::Move(4..8)));
    assert!(mover.due_ms() > due + SETTLE_MS);
}

/// Three replicas of fast nodes beside a crowd of slow ones: all want to go at once. The lowest id stays, the others go then.
#[test]
fn those_who_go_at_once_leave_no_gap() {
    let (online, draining) = (State::Online, State::Draining);
    let at = |states: [State; 3]| {
        let mut all: Vec<Holding> = (1..=3).map(|n| holding(n, 0..4, 4_000_000)).collect();
        all.iter_mut().zip(states).for_each(|(one, state)| one.state = state);
        all.extend((10..90).map(|n| holding(n, 4..8, 4)));
        all
    };
    let mut movers: Vec<Mover> = (1..=3).map(|n| Mover::new(node(n), 8, 0, n)).collect();
    for mover in &mut movers {
        assert_eq!(mover.tick(mover.due_ms(), || at([online; 3])), Some(Step::Drain));
    }
    let looks: Vec<u64> = movers.iter().map(Mover::due_ms).collect();
    assert_eq!(movers[0].tick(looks[0], || at([draining; 3])), Some(Step::Stay));
    for i in [1, 2] {
        assert_eq!(movers[i].tick(looks[i], || at([draining; 3])), None);
    }
    let stayed = || at([online, draining, draining]);
    assert_eq!(movers[1].tick(looks[1] + SETTLE_MS, stayed), Some(Step::Move(4..8)));
    // If the lowest one is leaving for good, nobody else goes.
    for wait in 1..=2 {
        assert_eq!(movers[2].tick(looks[2] + wait * SETTLE_MS, || at([draining; 3])), None);
    }
    assert_eq!(movers[2].tick(looks[2] + 3 * SETTLE_MS, || at([draining; 3])), Some(Step::Stay));
}
