//! What each peer knows, computed when it looks.
//!
//! An announcement arrives at a peer after a delay, or never; both are drawn from (seed, speaker, hearer, number), so asking twice gives the same.
//! A peer knows of each speaker the last announcement that arrived, until its lease, from then on, ends: what a directory with that input knows.

use super::{Config, drawn};
use lockstep_mesh::swarm::limits::LEASE_MAX_MS;
use lockstep_mesh::swarm::{Announcement, Claims, Holding};
use std::collections::VecDeque;

/// An announcement and when it was said.
#[derive(Clone, Debug)]
struct Said {
    at_ms: u64,
    announcement: Announcement,
    holding: Option<Holding>,
}

/// Everything that was said lately.
#[derive(Debug)]
pub struct Gossip {
    seed: u64,
    loss_permille: u64,
    delay_max_ms: u64,
    said: Vec<VecDeque<Said>>,
    count: u64,
}

impl Gossip {
    /// Gossip of so many speakers.
    #[must_use]
    pub fn new(config: &Config, speakers: usize) -> Gossip {
        let (loss_permille, delay_max_ms) = (config.loss_permille, config.delay_max_ms);
        Gossip {
            seed: config.seed,
            loss_permille,
            delay_max_ms,
            said: vec![VecDeque::new(); speakers],
            count: 0,
        }
    }

    /// A speaker says something.
    pub fn say(&mut self, now_ms: u64, speaker: usize, announcement: Announcement) {
        let past_ms = now_ms.saturating_sub(u64::from(LEASE_MAX_MS) + self.delay_max_ms);
        let said = &mut self.said[speaker];
        while said.front().is_some_and(|first| first.at_ms < past_ms) {
            said.pop_front();
        }
        let holding = Holding::of(announcement.claims());
        said.push_back(Said { at_ms: now_ms, announcement, holding });
        self.count += 1;
    }

    /// Announcements so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// When an announcement of a speaker arrives at a hearer, if it does.
    #[must_use]
    pub fn arrives_ms(&self, at_ms: u64, speaker: usize, hearer: usize, sequence: u64) -> Option<u64> {
        if speaker == hearer {
            return Some(at_ms);
        }
        let word = drawn(self.seed, [speaker as u64, hearer as u64, sequence], u64::MAX);
        let delay = word % self.delay_max_ms.max(1);
        ((word >> 32) % 1000 >= self.loss_permille).then_some(at_ms + delay)
    }

    /// What a peer knows of every speaker now, by node id.
    pub fn known(&self, now_ms: u64, hearer: usize) -> impl Iterator<Item = (usize, &Claims)> {
        self.heard(now_ms, hearer).map(|(speaker, said)| (speaker, said.announcement.claims()))
    }

    /// What a peer knows that others hold, by node id.
    #[must_use]
    pub fn holdings(&self, now_ms: u64, hearer: usize) -> Vec<Holding> {
        self.heard(now_ms, hearer).filter_map(|(_, said)| said.holding).collect()
    }

    fn heard(&self, now_ms: u64, hearer: usize) -> impl Iterator<Item = (usize, &Said)> {
        self.said
            .iter()
            .enumerate()
            .filter_map(move |(speaker, said)| {
                said.iter().rev().find_map(|said| {
                    let claims = said.announcement.claims();
                    let arrived = self.arrives_ms(said.at_ms, speaker, hearer, claims.sequence)?;
                    (arrived <= now_ms).then_some((speaker, said, arrived + u64::from(claims.lease_ms)))
                })
            })
            .filter_map(move |(speaker, said, ends_ms)| (ends_ms > now_ms).then_some((speaker, said)))
    }
}
