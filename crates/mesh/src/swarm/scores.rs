//! Who failed lately: a node that fails is left alone for 15 s, then 30 s, then a minute, up to an hour.
//!
//! After its ban a node may be tried again, at a handicap that goes with every request that it serves; so an honest node
//! that was restarted comes back, and one that always fails costs a request an hour.

use lockstep_base::keys::NodeId;
use std::collections::{BTreeMap, BTreeSet};

/// Milliseconds of the first ban; it doubles with every failure.
pub const BAN_MS: u64 = 15_000;
/// Milliseconds of the longest ban.
pub const BAN_MAX_MS: u64 = 3_600_000;
/// Microseconds of handicap in routes for each failure that is not made good.
pub const FAILURE_US: u64 = 200_000;
/// Nodes whose failures are remembered.
pub const SCORES_MAX: usize = 16_384;

#[derive(Clone, Copy, Debug, Default)]
struct Score {
    failures: u32,
    banned_until_ms: u64,
}

/// The failures of nodes, as one gateway saw them.
#[derive(Clone, Debug, Default)]
pub struct Scores {
    scores: BTreeMap<NodeId, Score>,
    by_end: BTreeSet<(u64, NodeId)>,
}

impl Scores {
    /// Nobody failed yet.
    #[must_use]
    pub fn new() -> Scores {
        Scores::default()
    }

    /// A node failed: it is banned from now on, for twice as long as the last time.
    pub fn failed(&mut self, now_ms: u64, node: NodeId) {
        let score = self.scores.entry(node).or_default();
        self.by_end.remove(&(score.banned_until_ms, node));
        let ban_ms = BAN_MS.checked_shl(score.failures.min(32)).unwrap_or(BAN_MAX_MS).min(BAN_MAX_MS);
        score.failures = score.failures.saturating_add(1);
        score.banned_until_ms = now_ms.saturating_add(ban_ms);
        self.by_end.insert((score.banned_until_ms, node));
        while self.scores.len() > SCORES_MAX {
            let Some((_, first)) = self.by_end.pop_first() else { return };
            self.scores.remove(&first);
        }
    }

    /// A node served a request: one failure is made good.
    pub fn served(&mut self, node: &NodeId) {
        let Some(score) = self.scores.get_mut(node) else { return };
        score.failures -= 1;
        if score.failures == 0 {
            self.by_end.remove(&(score.banned_until_ms, *node));
            self.scores.remove(node);
        }
    }

    /// Whether a node is left alone now.
    #[must_use]
    pub fn banned(&self, now_ms: u64, node: &NodeId) -> bool {
        self.scores.get(node).is_some_and(|score| now_ms < score.banned_until_ms)
    }

    /// Failures of a node that are not made good.
    #[must_use]
    pub fn failures(&self, node: &NodeId) -> u32 {
        self.scores.get(node).map_or(0, |score| score.failures)
    }
}
