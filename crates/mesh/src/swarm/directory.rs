//! What one peer knows of the swarm: the newest announcement of each (node, model), as long as its lease lasts.
//!
//! Leases count from when an announcement is heard, on the hearer's own clock: the sender's clock does not matter, and
//! who says nothing for a lease is gone. What ended is remembered for a while, so that it cannot be said again.
//!
//! Identities cost nothing, so everything has a limit. When there is no room, those go first that are of a model that is
//! not followed, have served least, and are known for the shortest time; a newcomer that would go first itself is
//! refused. A flood of new names thus finds the old ones in their places.

mod ended;
mod ranking;

use super::announcement::{Announcement, AnnouncementError, Claims, Unverified};
use super::coverage::{Coverage, Holding};
use super::limits;
use ended::Ended;
use lockstep_base::Digest;
use lockstep_base::keys::NodeId;
use ranking::{Rank, Ranking};
use std::collections::{BTreeMap, BTreeSet};

/// Milliseconds in which a node's announcements are counted.
const MINUTE_MS: u64 = 60_000;

/// How much a directory keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Announcements.
    pub entries: usize,
    /// Announcements of one model.
    pub model_entries: usize,
    /// Bytes of all announcements.
    pub bytes: usize,
    /// Models of one node.
    pub node_models: usize,
    /// Announcements of one node in a minute.
    pub node_per_minute: u32,
    /// Ended announcements that are remembered.
    pub ended: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            entries: limits::ENTRIES_MAX,
            model_entries: limits::MODEL_ENTRIES_MAX,
            bytes: limits::DIRECTORY_BYTES_MAX,
            node_models: limits::NODE_MODELS_MAX,
            node_per_minute: limits::NODE_ANNOUNCEMENTS_PER_MINUTE,
            ended: limits::ENDED_MAX,
        }
    }
}

/// An announcement whose lease lasts.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The newest announcement.
    pub announcement: Announcement,
    /// When the node was first heard of, and has been known since.
    pub known_since_ms: u64,
    /// When its lease ends if nothing more is heard.
    pub ends_ms: u64,
    /// Requests that it served for whoever keeps this directory.
    pub served: u64,
}

impl Entry {
    /// What it says.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        self.announcement.claims()
    }
}

/// What an announcement brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// A node, or a model of it, that was not known.
    New,
    /// Part or state of a known one changed.
    Changed,
    /// Known, and still there.
    Renewed,
}

/// Why an announcement was not taken.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum HearError {
    /// Not one.
    #[error(transparent)]
    Announcement(#[from] AnnouncementError),
    /// Heard before, or overtaken by a later one. Nobody is to blame: gossip repeats itself.
    #[error("announcement {got:?} of {node} is not later than {known:?}")]
    Old {
        /// The node.
        node: NodeId,
        /// Start and sequence of this one.
        got: (u64, u64),
        /// Those of the newest one heard.
        known: (u64, u64),
    },
    /// The node says too much.
    #[error("{node} announced {got} times in a minute, expected at most {limit}")]
    Rate {
        /// The node.
        node: NodeId,
        /// Announcements with this one.
        got: u32,
        /// The limit.
        limit: u32,
    },
    /// The node serves too many models.
    #[error("{node} announces {got} models, expected at most {limit}")]
    Models {
        /// The node.
        node: NodeId,
        /// Models with this one.
        got: usize,
        /// The limit.
        limit: usize,
    },
    /// No room, and everybody who is known is more useful.
    #[error("no room for {node}: {what} {limit} are in use")]
    Full {
        /// The node.
        node: NodeId,
        /// What there is no more of.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}

impl HearError {
    /// Whether no honest peer passes such bytes on. The other errors say nothing about whoever passed them on: they
    /// depend on what the hearer knew before.
    #[must_use]
    pub fn hostile(&self) -> bool {
        matches!(self, HearError::Announcement(_))
    }
}

/// What one node said lately.
#[derive(Clone, Copy, Debug)]
struct Speaker {
    minute_began_ms: u64,
    said: u32,
    models: usize,
}

/// What one peer knows of the swarm.
#[derive(Debug)]
pub struct Directory {
    limits: Limits,
    entries: BTreeMap<(Digest, NodeId), Entry>,
    by_end: BTreeSet<(u64, Digest, NodeId)>,
    ranking: Ranking,
    speakers: BTreeMap<NodeId, Speaker>,
    ended: Ended,
    followed: BTreeSet<Digest>,
    bytes: usize,
}

impl Directory {
    /// An empty one.
    #[must_use]
    pub fn new(limits: Limits) -> Directory {
        Directory {
            limits,
            entries: BTreeMap::new(),
            by_end: BTreeSet::new(),
            ranking: Ranking::default(),
            speakers: BTreeMap::new(),
            ended: Ended::new(limits.ended),
            followed: BTreeSet::new(),
            bytes: 0,
        }
    }

    /// Prefers announcements of a model: others make room for them.
    pub fn follow(&mut self, model_root: Digest) {
        if !self.followed.insert(model_root) {
            return;
        }
        let nodes: Vec<NodeId> = self.for_model(&model_root).map(|entry| entry.claims().node).collect();
        for node in nodes {
            self.rerank((model_root, node), |_| {});
        }
    }

    /// Takes what somebody says, or what somebody passes on.
    ///
    /// # Errors
    /// [`HearError`] if it is nothing new or there is no place for it. The signature, which costs most, is looked at last.
    pub fn hear(&mut self, now_ms: u64, bytes: &[u8]) -> Result<News, HearError> {
        let unverified = Unverified::read(bytes)?;
        self.check_later(unverified.claims())?;
        self.hear_verified(now_ms, unverified.verify(bytes)?)
    }

    /// The same for an announcement whose signature is checked already.
    ///
    /// # Errors
    /// [`HearError`] if it is nothing new or there is no place for it.
    pub fn hear_verified(&mut self, now_ms: u64, announcement: Announcement) -> Result<News, HearError> {
        let claims = announcement.claims();
        let key = (claims.model_root, claims.node);
        self.check_later(claims)?;
        self.check_speaker(now_ms, &key)?;
        self.make_room(now_ms, &key, announcement.bytes().len())?;

        let ends_ms = now_ms.saturating_add(claims.lease_ms.into());
        let (part, state) = (claims.part, claims.state);
        let before = self.take(&key);
        let news = match &before {
            None => News::New,
            Some(entry) if (entry.claims().part, entry.claims().state) != (part, state) => News::Changed,
            Some(_) => News::Renewed,
        };
        let (known_since_ms, served) =
            before.map_or((now_ms, 0), |entry| (entry.known_since_ms, entry.served));
        self.put(key, Entry { announcement, known_since_ms, ends_ms, served });
        self.ended.forget(&key);
        self.count(now_ms, &key.1, news == News::New);
        Ok(news)
    }

    /// Forgets those whose lease ended, and says who they are.
    pub fn tick(&mut self, now_ms: u64) -> Vec<Announcement> {
        let mut gone = Vec::new();
        while let Some((_, root, node)) = self.by_end.first().copied().filter(|(end, ..)| *end <= now_ms) {
            gone.extend(self.end(&(root, node)));
        }
        gone
    }

    /// Forgets one node's announcement before its end.
    pub fn forget(&mut self, model_root: &Digest, node: &NodeId) -> Option<Announcement> {
        self.end(&(*model_root, *node))
    }

    /// A node served a request: it is the last to make room for others.
    pub fn served(&mut self, model_root: &Digest, node: &NodeId) {
        self.rerank((*model_root, *node), |entry| entry.served = entry.served.saturating_add(1));
    }

    /// Who announces a model, by node. Entries whose lease ended are there until the next [`tick`](Directory::tick).
    pub fn for_model(&self, model_root: &Digest) -> impl Iterator<Item = &Entry> + Clone {
        let (first, last) = (NodeId([0; 20]), NodeId([0xff; 20]));
        self.entries.range((*model_root, first)..=(*model_root, last)).map(|(_, entry)| entry)
    }

    /// One node's announcement of a model.
    #[must_use]
    pub fn get(&self, model_root: &Digest, node: &NodeId) -> Option<&Entry> {
        self.entries.get(&(*model_root, *node))
    }

    /// Models that somebody announces, with the number of nodes.
    #[must_use]
    pub fn models(&self) -> BTreeMap<Digest, usize> {
        self.entries.keys().fold(BTreeMap::new(), |mut models, (root, _)| {
            *models.entry(*root).or_default() += 1;
            models
        })
    }

    /// What is held of a model of `n_layers` layers.
    #[must_use]
    pub fn coverage(&self, model_root: &Digest, n_layers: u32) -> Coverage {
        Coverage::of(n_layers, self.holdings(model_root))
    }

    /// What each node holds of a model, by node.
    pub fn holdings(&self, model_root: &Digest) -> impl Iterator<Item = Holding> {
        self.for_model(model_root).filter_map(|entry| Holding::of(entry.claims()))
    }

    /// Everybody who is known, by model and node.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// Announcements that are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nobody is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of all announcements.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn check_later(&self, claims: &Claims) -> Result<(), HearError> {
        let key = (claims.model_root, claims.node);
        let known = self.entries.get(&key).map(|entry| entry.claims().order());
        match known.or_else(|| self.ended.order(&key)) {
            Some(known) if claims.order() <= known => {
                Err(HearError::Old { node: claims.node, got: claims.order(), known })
            }
            _ => Ok(()),
        }
    }

    fn check_speaker(&self, now_ms: u64, key: &(Digest, NodeId)) -> Result<(), HearError> {
        let Some(speaker) = self.speakers.get(&key.1) else { return Ok(()) };
        let node = key.1;
        let same_minute = now_ms.saturating_sub(speaker.minute_began_ms) < MINUTE_MS;
        let got = if same_minute { speaker.said.saturating_add(1) } else { 1 };
        if got > self.limits.node_per_minute {
            return Err(HearError::Rate { node, got, limit: self.limits.node_per_minute });
        }
        let got = speaker.models + usize::from(!self.entries.contains_key(key));
        if got > self.limits.node_models {
            return Err(HearError::Models { node, got, limit: self.limits.node_models });
        }
        Ok(())
    }

    fn count(&mut self, now_ms: u64, node: &NodeId, new: bool) {
        let fresh = Speaker { minute_began_ms: now_ms, said: 0, models: 0 };
        let speaker = self.speakers.entry(*node).or_insert(fresh);
        if now_ms.saturating_sub(speaker.minute_began_ms) >= MINUTE_MS {
            (speaker.minute_began_ms, speaker.said) = (now_ms, 0);
        }
        speaker.said += 1;
        speaker.models += usize::from(new);
    }

    /// Lets those go who are less useful than `key`, until there is room for it.
    fn make_room(&mut self, now_ms: u64, key: &(Digest, NodeId), bytes: usize) -> Result<(), HearError> {
        let before = self.entries.get(key);
        let freed = before.map_or(0, |entry| entry.announcement.bytes().len());
        let mine =
            before.map_or_else(|| self.rank(key, now_ms, 0), |e| self.rank(key, e.known_since_ms, e.served));
        let new = usize::from(before.is_none());
        let Limits { entries, model_entries, bytes: bytes_max, .. } = self.limits;
        loop {
            let (worst, what, limit) = if self.ranking.of_model(&key.0) + new > model_entries {
                (self.ranking.worst_of(&key.0), "announcements of one model,", model_entries)
            } else if self.entries.len() + new > entries {
                (self.ranking.worst(), "announcements,", entries)
            } else if self.bytes - freed + bytes > bytes_max {
                (self.ranking.worst(), "bytes of announcements,", bytes_max)
            } else {
                return Ok(());
            };
            match worst.filter(|rank| rank.less_useful_than(&mine)) {
                Some(rank) => drop(self.end(&rank.key())),
                None => return Err(HearError::Full { node: key.1, what, limit }),
            }
        }
    }

    fn rank(&self, key: &(Digest, NodeId), known_since_ms: u64, served: u64) -> Rank {
        Rank::new(self.followed.contains(&key.0), served, known_since_ms, *key)
    }

    fn put(&mut self, key: (Digest, NodeId), entry: Entry) {
        self.bytes += entry.announcement.bytes().len();
        self.by_end.insert((entry.ends_ms, key.0, key.1));
        self.ranking.insert(self.rank(&key, entry.known_since_ms, entry.served));
        self.entries.insert(key, entry);
    }

    fn take(&mut self, key: &(Digest, NodeId)) -> Option<Entry> {
        let entry = self.entries.remove(key)?;
        self.bytes -= entry.announcement.bytes().len();
        self.by_end.remove(&(entry.ends_ms, key.0, key.1));
        self.ranking.remove(key);
        Some(entry)
    }

    fn rerank(&mut self, key: (Digest, NodeId), change: impl FnOnce(&mut Entry)) {
        if let Some(mut entry) = self.take(&key) {
            change(&mut entry);
            self.put(key, entry);
        }
    }

    /// The end of an entry: it is remembered, so that nobody says it again. A node without entries is no speaker.
    fn end(&mut self, key: &(Digest, NodeId)) -> Option<Announcement> {
        let entry = self.take(key)?;
        self.ended.remember(*key, entry.claims().order());
        if let Some(speaker) = self.speakers.get_mut(&key.1) {
            speaker.models = speaker.models.saturating_sub(1);
            if speaker.models == 0 {
                self.speakers.remove(&key.1);
            }
        }
        Some(entry.announcement)
    }
}
