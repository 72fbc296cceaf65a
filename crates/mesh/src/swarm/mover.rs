//! When a node looks for better layers, and how it goes without leaving a gap.
//!
//! ```text
//! settled ── at random times, mean 120 s (30 s in a small swarm): rebalance says where ──> Drain ── 6 s later ──> Move (fetch, JOINING)
//!                                                                    │
//!                                                                    └── others went from the same layers ──> Stay
//! ```
//!
//! Two nodes may see each other as the replica that remains and both go. So a node that wants to go says so first
//! (DRAINING), and looks again when everybody must have heard it: if one of its layers has nobody else
//! online, the one with the lowest id among those draining there stays, the others wait for it, and if it does not
//! (it may be shutting down) they stay as well.

use super::announcement::State;
use super::coverage::Holding;
use super::plan::PLANNED_NODES_MAX;
use super::rebalance::{leaves_gap, rebalance};
use lockstep_base::keys::NodeId;
use lockstep_base::rng::SplitMix64;
use std::ops::Range;

/// Milliseconds between two checks, on average: the times are spread evenly between nothing and twice this.
pub const CHECK_MEAN_MS: u64 = 120_000;
/// The same in a swarm so small that it is planned: nodes take turns there, and most checks end with somebody else's.
pub const CHECK_MEAN_SMALL_MS: u64 = 30_000;
/// Milliseconds in which an announcement is heard by everybody, or is lost.
pub const SETTLE_MS: u64 = 6_000;
/// Times that a node waits for another one to stay.
const WAITS_MAX: u32 = 3;

/// What a node does next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Announce DRAINING and go on serving what is open.
    Drain,
    /// Take these layers: announce JOINING, fetch them, then ONLINE.
    Move(Range<u32>),
    /// Stay after all: announce ONLINE again.
    Stay,
}

#[derive(Debug)]
enum Phase {
    Settled { check_ms: u64 },
    Leaving { to: Range<u32>, look_ms: u64, waits: u32 },
}

/// One node that looks for the layers where it helps most.
#[derive(Debug)]
pub struct Mover {
    me: NodeId,
    n_layers: u32,
    rng: SplitMix64,
    phase: Phase,
}

impl Mover {
    /// Whoever has just joined. `seed` chooses the times of its checks.
    #[must_use]
    pub fn new(me: NodeId, n_layers: u32, now_ms: u64, seed: u64) -> Mover {
        let mut mover =
            Mover { me, n_layers, rng: SplitMix64::new(seed), phase: Phase::Settled { check_ms: 0 } };
        mover.settle(now_ms, CHECK_MEAN_MS);
        mover
    }

    /// When it wants to be asked again, milliseconds.
    #[must_use]
    pub fn due_ms(&self) -> u64 {
        match &self.phase {
            Phase::Settled { check_ms } => *check_ms,
            Phase::Leaving { look_ms, .. } => *look_ms,
        }
    }

    /// What to do now. `holdings` are everybody's by node id, mine among them as I announced it last; they are asked for only when
    /// it is time.
    pub fn tick(&mut self, now_ms: u64, holdings: impl FnOnce() -> Vec<Holding>) -> Option<Step> {
        if now_ms < self.due_ms() {
            return None;
        }
        let holdings = holdings();
        let mean_ms = if holdings.len() <= PLANNED_NODES_MAX { CHECK_MEAN_SMALL_MS } else { CHECK_MEAN_MS };
        match &mut self.phase {
            Phase::Settled { .. } => {
                let word = self.rng.next_u64();
                let Some(to) = rebalance(self.n_layers, &holdings, &self.me, word) else {
                    self.settle(now_ms, mean_ms);
                    return None;
                };
                self.phase = Phase::Leaving { to, look_ms: now_ms.saturating_add(SETTLE_MS), waits: 0 };
                Some(Step::Drain)
            }
            Phase::Leaving { to, look_ms, waits } => {
                let mine = holdings.iter().find(|holding| holding.node == self.me);
                let gap = mine.is_none_or(|mine| leaves_gap(self.n_layers, &holdings, mine));
                if !gap {
                    let to = to.clone();
                    self.settle(now_ms, mean_ms);
                    return Some(Step::Move(to));
                }
                *waits += 1;
                if *waits <= WAITS_MAX && mine.is_some_and(|mine| another_stays(&holdings, mine)) {
                    *look_ms = now_ms.saturating_add(SETTLE_MS);
                    return None;
                }
                self.settle(now_ms, mean_ms);
                Some(Step::Stay)
            }
        }
    }

    fn settle(&mut self, now_ms: u64, mean_ms: u64) {
        let wait_ms = self.rng.below(2 * mean_ms);
        self.phase = Phase::Settled { check_ms: now_ms.saturating_add(wait_ms) };
    }
}

/// Whether each layer that would be a gap is also left by a node with a lower id, which has to stay.
fn another_stays(holdings: &[Holding], mine: &Holding) -> bool {
    let covered = |layer: u32, by: &dyn Fn(&Holding) -> bool| {
        holdings
            .iter()
            .any(|other| (other.first..other.end).contains(&layer) && other.node != mine.node && by(other))
    };
    (mine.first..mine.end).all(|layer| {
        covered(layer, &|other| other.state == State::Online)
            || covered(layer, &|other| other.state == State::Draining && other.node < mine.node)
    })
}
