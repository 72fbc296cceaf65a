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
//! swarm is linear in its size.

use super::announcement::State;
use super::coverage::Holding;
use super::placement::{Loads, Strength, best_milli, counts};
use lockstep_base::keys::NodeId;
use std::ops::Range;

/// A node goes if the weakest layer has less of what it could have, thousandths.
pub const URGENT_PERMILLE: u64 = 750;
/// One check in [`PATIENT_CHANCE`] goes below this, thousandths.
pub const PATIENT_PERMILLE: u64 = 920;
/// See [`PATIENT_PERMILLE`].
pub const PATIENT_CHANCE: u64 = 4;
/// Times that everybody moves in a simulation, at most: a fixed point is mostly reached after three.
const ROUNDS_MAX: usize = 6;

/// Where `me` should go, if it should go anywhere. `word` is a random word.
///
/// `holdings` are everybody's, mine among them, by node id: then whoever knows the same decides the same.
#[must_use]
pub fn rebalance(n_layers: u32, holdings: &[Holding], me: &NodeId, word: u64) -> Option<Range<u32>> {
    let mine = *holdings.iter().find(|holding| holding.node == *me)?;
    if mine.state != State::Online || !counts(&mine, n_layers) || leaves_gap(holdings, &mine) {
        return None;
    }
    let mut loads = Loads::of(n_layers, holdings.iter());
    let now = loads.weakest();
    let nodes: Vec<&Holding> = holdings.iter().filter(|holding| counts(holding, n_layers)).collect();
    let capacities: Vec<(u32, u64)> = nodes.iter().map(|node| (node.layers(), node.rate_milli)).collect();
    let bound = best_milli(n_layers, &capacities);
    let patient = word.is_multiple_of(PATIENT_CHANCE);
    let limit = if patient { PATIENT_PERMILLE } else { URGENT_PERMILLE };
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
    loads.remove(&old, mine.share_milli());
    let new = loads.choose(mine.layers(), me);
    if new == old {
        return None;
    }
    loads.add(&new, mine.share_milli());
    if loads.weakest_in(&old) <= now {
        return None;
    }
    let pays = |then: Strength| {
        then.replicas() > now.replicas()
            || (then.replicas() == now.replicas() && room(now, then.rate_milli()))
    };
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

/// Whether some layer of `mine` is held by nobody else who takes tasks.
#[must_use]
pub fn leaves_gap(holdings: &[Holding], mine: &Holding) -> bool {
    let mut others = vec![0u32; mine.layers() as usize];
    let online = holdings.iter().filter(|other| other.state == State::Online && other.node != mine.node);
    for other in online {
        for layer in other.first.max(mine.first)..other.end.min(mine.end) {
            others[(layer - mine.first) as usize] += 1;
        }
    }
    others.contains(&0)
}
