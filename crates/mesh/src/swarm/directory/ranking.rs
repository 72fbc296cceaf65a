//! Who makes room first: not of a followed model, served least, known for the shortest time.

use lockstep_base::Digest;
use lockstep_base::keys::NodeId;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

type Key = (Digest, NodeId);

/// How useful an entry is; the smallest goes first. The key makes it unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    followed: bool,
    served: u64,
    known_since_ms: Reverse<u64>,
    key: Key,
}

impl Rank {
    pub(super) fn new(followed: bool, served: u64, known_since_ms: u64, key: Key) -> Rank {
        Rank { followed, served, known_since_ms: Reverse(known_since_ms), key }
    }

    /// Between equals nobody makes room: `key` is no reason.
    pub(super) fn less_useful_than(&self, other: &Rank) -> bool {
        (self.followed, self.served, self.known_since_ms)
            < (other.followed, other.served, other.known_since_ms)
    }

    pub(super) fn key(&self) -> Key {
        self.key
    }
}

/// All entries by rank, together and for each model.
#[derive(Debug, Default)]
pub(super) struct Ranking {
    ranks: BTreeMap<Key, Rank>,
    all: BTreeSet<Rank>,
    models: BTreeMap<Digest, BTreeSet<Rank>>,
}

impl Ranking {
    pub(super) fn insert(&mut self, rank: Rank) {
        self.remove(&rank.key);
        self.ranks.insert(rank.key, rank);
        self.all.insert(rank);
        self.models.entry(rank.key.0).or_default().insert(rank);
    }

    pub(super) fn remove(&mut self, key: &Key) {
        let Some(rank) = self.ranks.remove(key) else { return };
        self.all.remove(&rank);
        if let Some(model) = self.models.get_mut(&key.0) {
            model.remove(&rank);
            if model.is_empty() {
                self.models.remove(&key.0);
            }
        }
    }

    pub(super) fn worst(&self) -> Option<Rank> {
        self.all.first().copied()
    }

    pub(super) fn worst_of(&self, root: &Digest) -> Option<Rank> {
        self.models.get(root)?.first().copied()
    }

    /// Entries of one model.
    pub(super) fn of_model(&self, root: &Digest) -> usize {
        self.models.get(root).map_or(0, BTreeSet::len)
    }
}
