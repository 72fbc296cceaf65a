//! Announcements whose lease ended: saying them again brings nobody back.

use lockstep_base::Digest;
use lockstep_base::keys::NodeId;
use std::collections::{BTreeMap, BTreeSet};

type Key = (Digest, NodeId);

/// The last announcements of those who are gone, oldest forgotten first.
#[derive(Debug)]
pub(super) struct Ended {
    limit: usize,
    serial: u64,
    last: BTreeMap<Key, ((u64, u64), u64)>,
    by_age: BTreeSet<(u64, Key)>,
}

impl Ended {
    pub(super) fn new(limit: usize) -> Ended {
        Ended { limit, serial: 0, last: BTreeMap::new(), by_age: BTreeSet::new() }
    }

    /// The start and sequence of the last announcement of `key`.
    pub(super) fn order(&self, key: &Key) -> Option<(u64, u64)> {
        self.last.get(key).map(|(order, _)| *order)
    }

    pub(super) fn remember(&mut self, key: Key, order: (u64, u64)) {
        self.forget(&key);
        self.serial += 1;
        self.last.insert(key, (order, self.serial));
        self.by_age.insert((self.serial, key));
        while self.last.len() > self.limit {
            let Some((_, oldest)) = self.by_age.pop_first() else { return };
            self.last.remove(&oldest);
        }
    }

    pub(super) fn forget(&mut self, key: &Key) {
        if let Some((_, serial)) = self.last.remove(key) {
            self.by_age.remove(&(serial, *key));
        }
    }
}
