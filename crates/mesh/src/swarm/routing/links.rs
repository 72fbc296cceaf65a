//! Half round trips between nodes: measured, else computed from where they lie, else unknown.

use super::{RTT_UNKNOWN_US, half_ns};
use crate::swarm::announcement::Claims;
use crate::swarm::coordinate::Coordinate;
use lockstep_base::keys::NodeId;

/// What is known of the ways between candidates, by index.
#[derive(Debug)]
pub(super) struct Links {
    measured: Vec<Vec<(usize, u64)>>,
    places: Vec<Option<Coordinate>>,
}

impl Links {
    /// What `usable` tell, who are in order of ids. Where two tell different round trips, the longer one counts.
    pub(super) fn new(usable: &[&Claims]) -> Links {
        let nodes: Vec<NodeId> = usable.iter().map(|claims| claims.node).collect();
        let mut measured = vec![Vec::new(); nodes.len()];
        for (from, claims) in usable.iter().enumerate() {
            for neighbour in &claims.neighbours {
                if let Ok(to) = nodes.binary_search(&neighbour.node) {
                    measured[from].push((to, half_ns(neighbour.rtt_us)));
                    measured[to].push((from, half_ns(neighbour.rtt_us)));
                }
            }
        }
        for links in &mut measured {
            links.sort_unstable_by_key(|(to, ns)| (*to, core::cmp::Reverse(*ns)));
            links.dedup_by_key(|(to, _)| *to);
        }
        Links { measured, places: usable.iter().map(|claims| claims.coordinate).collect() }
    }

    /// Half the round trip between two of them, nanoseconds.
    pub(super) fn ns(&self, from: usize, to: usize) -> u64 {
        let links = &self.measured[from];
        match links.binary_search_by_key(&to, |(node, _)| *node) {
            Ok(at) => links[at].1,
            Err(_) => half_ns(computed_us(self.places[from], self.places[to])),
        }
    }
}

/// The round trip between two places, microseconds.
pub(super) fn computed_us(a: Option<Coordinate>, b: Option<Coordinate>) -> u32 {
    a.zip(b).map_or(RTT_UNKNOWN_US, |(a, b)| a.rtt_us(&b))
}
