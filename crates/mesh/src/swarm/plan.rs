//! A better placement of the nodes that are there: what a small swarm moves towards.
//!
//! In a large swarm the places where each helps most add up to nearly the best placement. In a small one of unequal nodes they do
//! not: a node that holds half of the model fits in one or two ways. So small swarms are planned by ruin and
//! recreate (Schrimpf et al. 2000): take a few nodes out, put them back in any order, each where it helps most, and keep the result if
//! it is no worse. Placements are compared by all their strengths, weakest first.
//!
//! The plan is a function of what is known: nodes that know the same plan the same, without a word.

use super::coverage::Holding;
use super::placement::Loads;
use lockstep_base::rng::SplitMix64;
use std::ops::Range;

/// Nodes of a swarm that is planned.
pub const PLANNED_NODES_MAX: usize = 64;
/// Attempts of a plan.
const ATTEMPTS: u32 = 2_000;
/// Nodes that are taken out at once.
const RUIN_MAX: u64 = 6;
/// Seed of all plans: everybody's is the same.
const SEED: u64 = 0x6c6f_636b_7374_6570;

/// Better windows for `nodes`, which begin at `windows`.
#[must_use]
pub fn improve(n_layers: u32, nodes: &[&Holding], windows: &[Range<u32>]) -> Vec<Range<u32>> {
    let begun = windows;
    let mut windows = windows.to_vec();
    let mut loads = Loads::new(n_layers);
    for (node, window) in nodes.iter().zip(&windows) {
        loads.add(window, node.share_milli());
    }
    let mut worth = loads.sorted();
    let mut rng = SplitMix64::new(SEED);
    for _ in 0..ATTEMPTS {
        let mut tried = loads.clone();
        let out = some_of(nodes.len(), &mut rng);
        for i in &out {
            tried.remove(&windows[*i], nodes[*i].share_milli());
        }
        let mut back: Vec<(usize, Range<u32>)> = Vec::with_capacity(out.len());
        for i in out {
            let window = tried.choose(nodes[i].layers(), &nodes[i].node);
            tried.add(&window, nodes[i].share_milli());
            back.push((i, window));
        }
        let then = tried.sorted();
        if then >= worth {
            (loads, worth) = (tried, then);
            for (i, window) in back {
                windows[i] = window;
            }
        }
    }
    // Who need not move for this, stays.
    for (i, node) in nodes.iter().enumerate() {
        let mut tried = loads.clone();
        tried.remove(&windows[i], node.share_milli());
        tried.add(&begun[i], node.share_milli());
        if windows[i] != begun[i] && tried.sorted() >= worth {
            loads = tried;
            windows[i] = begun[i].clone();
        }
    }
    windows
}

/// The windows that nodes take who come to nobody, the fastest first: another beginning for [`improve`], the same whatever was before.
#[must_use]
pub fn afresh(n_layers: u32, nodes: &[&Holding]) -> Vec<Range<u32>> {
    let mut loads = Loads::new(n_layers);
    let mut order: Vec<usize> = (0..nodes.len()).collect();
    order.sort_unstable_by_key(|i| (std::cmp::Reverse(nodes[*i].rate_milli), nodes[*i].node));
    let mut windows = vec![0..0; nodes.len()];
    for i in order {
        windows[i] = loads.choose(nodes[i].layers(), &nodes[i].node);
        loads.add(&windows[i], nodes[i].share_milli());
    }
    windows
}

/// A few different numbers below `count`, in any order.
fn some_of(count: usize, rng: &mut SplitMix64) -> Vec<usize> {
    let wanted = (1 + rng.below(RUIN_MAX) as usize).min(count);
    let mut some: Vec<usize> = Vec::with_capacity(wanted);
    while some.len() < wanted {
        let i = rng.below(count as u64) as usize;
        if !some.contains(&i) {
            some.push(i);
        }
    }
    some
}
