//! Whether a node should hold other layers than it does.
//!
//! Petals' rule (`should_choose_other_blocks`): take yourself away; if that leaves a gap, stay. Go where you would help most;
//! if that is where you are, stay. Then let everybody do the same until nobody moves: if the weakest layer is below
//! 3/4 of what it would be then, go.
//!
//! Here, besides: what is left behind has to be stronger than the weakest layer was (of those who could go, those go who are missed
//! least; Parallax calls this trimming). A missing replica is a reason to go at any throughput; and between 3/4 and 92 % one in four checks goes, so
//! that a swarm comes within a tenth of the best without everybody moving for little. What others do is simulated only
//! if it can matter: not if the weakest layer is within reach of the bound of all placements
//! ([`best_milli`]), which costs one pass over the nodes. So a check in a balanced
//! swarm is linear in its size. Small swarms follow a plan instead ([`plan`](super::plan)), step by step.

use super::announcement::State;
use super::coverage::Holding;
use super::placement::{Loads, Strength, best_milli, counts};
use super::plan::{PLANNED_NODES_MAX, afresh, improve};
use lockstep_base::keys::NodeId;
use std::ops::Range;

/// A node goes if the weakest layer has less of what it could have, thousandths.
pub const URGENT_PERMILLE: u64 = 750;
/// One check in [`PATIENT_CHANCE`] goes below this, thousandths.
pub const PATIENT_PERMILLE: u64 = 920;
/// See [`PATIENT_PERMILLE`].
pub const PATIENT_CHANCE: u64 = 4;
/// A small swarm, which takes turns, goes on to its plan below this, thousandths.
pub const PLANNED_PERMILLE: u64 = 970;
/// Times that everybody moves in a simulation, at most: a fixed point is mostly reached after three.
const ROUNDS_MAX: usize = 6;

/// Where `me` should go, if it should go anywhere. `word` is a random word.
///
/// `holdings` are everybody's, mine among them, by node id: then whoever knows the same decides the same.
#[must_use]
pub fn rebalance(n_layers: u32, holdings: &[Holding], me: &NodeId, word: u64) -> Option<Range<u32>> {
    let mine = *holdings.iter().find(|holding| holding.node == *me)?;
    if mine.state != State::Online || !counts(&mine, n_layers) || leaves_gap(n_layers, holdings, &mine) {
        return None;
    }
    let mut loads = Loads::of(n_layers, holdings.iter());
    let now = loads.weakest();
    let nodes: Vec<&Holding> = holdings.iter().filter(|holding| counts(holding, n_layers)).collect();
    let capacities: Vec<(u32, u64)> = nodes.iter().map(|node| (node.layers(), node.rate_milli)).collect();
    let bound = best_milli(n_layers, &capacities);
    // In a small swarm turns are taken, so that nobody has to wait for chance.
    let small = nodes.len() <= PLANNED_NODES_MAX;
    let patient = small || word.is_multiple_of(PATIENT_CHANCE);
    let limit = match (small, patient) {
        (true, _) => PLANNED_PERMILLE,
        (false, true) => PATIENT_PERMILLE,
        (false, false) => URGENT_PERMILLE,
    };
    let room = |now: Strength, best_milli: u64| {
        u128::from(now.rate_milli()) * 1000 < u128::from(best_milli) * u128::from(limit)
    };
    let replicas = capacities.iter().map(|(layers, _)| u64::from(*layers)).sum::<u64>() / u64::from(n_layers);
    if u64::from(now.replicas()) >= replicas.min(super::placement::REPLICAS_WANTED.into())
        && !room(now, bound)
    {
        return None;
    }

    let old = mine.first..mine.end;
    let better = |now: Strength, then: Strength| {
        then.replicas() > now.replicas()
            || (then.replicas() == now.replicas() && room(now, then.rate_milli()))
    };
    let pays = |then: Strength| better(now, then);
    if small {
        return planned(n_layers, holdings, &nodes, &mine, now, better)
            .filter(|(_, then)| pays(*then))
            .map(|(to, _)| to);
    }
    loads.remove(&old, mine.share_milli());
    let new = loads.choose(mine.layers(), me);
    loads.add(&new, mine.share_milli());
    if new == old || loads.weakest_in(&old) <= now {
        return None;
    }
    let mut windows: Vec<Range<u32>> =
        nodes.iter().map(|node| if node.node == *me { new.clone() } else { node.first..node.end }).collect();
    for _ in 0..ROUNDS_MAX {
        if pays(loads.weakest()) {
            return Some(new);
        }
        if !everybody_moves(&mut loads, &nodes, &mut windows) {
            break;
        }
    }
    pays(loads.weakest()).then_some(new)
}

/// My place in the plan of a small swarm, if it is my turn to go there, and the weakest layer of the plan.
///
/// Whoever makes the swarm better by going alone goes. If nobody does, two or more have to change places: then the first of those who
/// weaken nothing goes. Every other step makes the swarm better, so steps do not go round in circles.
fn planned(
    n_layers: u32,
    holdings: &[Holding],
    nodes: &[&Holding],
    mine: &Holding,
    now: Strength,
    pays: impl Fn(Strength, Strength) -> bool,
) -> Option<(Range<u32>, Strength)> {
    let windows: Vec<Range<u32>> = nodes.iter().map(|node| node.first..node.end).collect();
    let near = improve(n_layers, nodes, &windows);
    let far = improve(n_layers, nodes, &afresh(n_layers, nodes));
    let place = |windows: &mut dyn Iterator<Item = Range<u32>>| {
        let mut loads = Loads::new(n_layers);
        nodes.iter().zip(windows).for_each(|(node, window)| loads.add(&window, node.share_milli()));
        loads
    };
    // A plan that begins afresh moves more nodes: it has to be better by as much as makes anybody move.
    let (value, afar) =
        (place(&mut near.iter().cloned()).weakest(), place(&mut far.iter().cloned()).weakest());
    let plan = if pays(value, afar) { far } else { near };
    let before = place(&mut windows.iter().cloned()).sorted();
    let step = |i: usize| {
        let after = (0..nodes.len()).map(|k| if k == i { plan[k].clone() } else { windows[k].clone() });
        place(&mut after.into_iter()).sorted()
    };
    let me = nodes.iter().position(|node| node.node == mine.node)?;
    let may = |i: &usize| nodes[*i].state == State::Online && !leaves_gap(n_layers, holdings, nodes[*i]);
    let displaced: Vec<usize> = (0..nodes.len()).filter(|i| plan[*i] != windows[*i]).filter(may).collect();
    let turn = if displaced.iter().any(|i| step(*i) > before) {
        step(me) > before
    } else {
        let first = displaced.iter().find(|i| step(**i).first().is_some_and(|weakest| *weakest >= now));
        first == Some(&me)
    };
    turn.then(|| (plan[me].clone(), place(&mut plan.iter().cloned()).weakest()))
}

/// One round: in order of ids, each goes where it helps most. Whether anybody went.
fn everybody_moves(loads: &mut Loads, nodes: &[&Holding], windows: &mut [Range<u32>]) -> bool {
    let mut moved = false;
    for (node, window) in nodes.iter().zip(windows) {
        let before = loads.weakest();
        loads.remove(window, node.share_milli());
        let mut new = loads.choose(node.layers(), &node.node);
        loads.add(&new, node.share_milli());
        // Going back and forth between places that are as good is no improvement.
        if new != *window && loads.weakest() < before {
            loads.remove(&new, node.share_milli());
            loads.add(window, node.share_milli());
            new = window.clone();
        }
        moved |= new != *window;
        *window = new;
    }
    moved
}

/// Whether some layer of `mine` is held by nobody else who takes tasks. Where a layer is missing already, no task is served
/// and nothing is lost: then nobody leaves a gap.
#[must_use]
pub fn leaves_gap(n_layers: u32, holdings: &[Holding], mine: &Holding) -> bool {
    let mut others = vec![0u32; n_layers as usize];
    let online = holdings.iter().filter(|other| other.state == State::Online && other.node != mine.node);
    for other in online.filter(|other| other.end <= n_layers) {
        for layer in other.first..other.end {
            others[layer as usize] += 1;
        }
    }
    let held = |layer: usize| (mine.first as usize..mine.end as usize).contains(&layer);
    let missing = |layer: usize| others[layer] == 0;
    let broken = (0..others.len()).any(|layer| missing(layer) && !held(layer));
    !broken && (0..others.len()).any(|layer| missing(layer) && held(layer))
}
