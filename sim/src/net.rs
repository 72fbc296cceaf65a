//! A network in memory: a queue of events in virtual time.
//!
//! Bytes of one stream arrive in order and exactly once, cut into pieces of any size, after any
//! delay; streams do not wait for each other. When a peer dies, what it sent last may or may not
//! arrive, then every other peer is told. That is what TCP gives, and no more.

use lockstep_base::rng::SplitMix64;
use lockstep_mesh::frame::Channel;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

/// Index of a peer in the network.
pub type Peer = usize;

/// One direction of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stream {
    /// Who writes.
    pub from: Peer,
    /// Who reads.
    pub to: Peer,
    /// The protocol.
    pub channel: Channel,
}

/// Something that happens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Happening {
    /// Bytes arrive.
    Bytes {
        /// On which stream.
        stream: Stream,
        /// The bytes.
        bytes: Vec<u8>,
        /// Of which connection of the two.
        connection: u64,
    },
    /// `at` learns that `peer` is gone.
    Lost {
        /// Who learns it.
        at: Peer,
        /// Who is gone.
        peer: Peer,
    },
    /// A timer that `at` set.
    Timer {
        /// Who set it.
        at: Peer,
        /// Its meaning to whoever set it.
        tag: u64,
    },
}

/// Longest delay of a piece of bytes, milliseconds.
pub const DELAY_MAX_MS: u64 = 40;
/// Longest piece, bytes. Frames are cut into pieces of 1 to this many bytes, or arrive whole.
pub const PIECE_MAX: u64 = 3000;

/// The network.
#[derive(Debug)]
pub struct Net {
    rng: SplitMix64,
    now_ms: u64,
    serial: u64,
    queue: BinaryHeap<Reverse<(u64, u64, Happening)>>,
    /// When the last piece of a stream arrives: the next one is not earlier.
    busy_until: BTreeMap<Stream, u64>,
    dead: BTreeSet<Peer>,
    /// Pairs that do not talk any more.
    cut: BTreeSet<(Peer, Peer)>,
    /// Pairs that the network keeps apart, until when.
    severed: BTreeMap<(Peer, Peer), u64>,
    /// How often pairs were joined again.
    connections: BTreeMap<(Peer, Peer), u64>,
    peers: usize,
}

impl Net {
    /// A network of `peers` peers.
    #[must_use]
    pub fn new(seed: u64, peers: usize) -> Net {
        Net {
            rng: SplitMix64::new(seed),
            now_ms: 0,
            serial: 0,
            queue: BinaryHeap::new(),
            busy_until: BTreeMap::new(),
            dead: BTreeSet::new(),
            cut: BTreeSet::new(),
            severed: BTreeMap::new(),
            connections: BTreeMap::new(),
            peers,
        }
    }

    /// The virtual time.
    #[must_use]
    pub fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// A number below `bound` from the run's seed.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.rng.below(bound)
    }

    /// Whether `peer` is alive.
    #[must_use]
    pub fn alive(&self, peer: Peer) -> bool {
        !self.dead.contains(&peer)
    }

    /// Writes to a stream. Nothing happens if either end is dead or the two are cut off.
    pub fn send(&mut self, stream: Stream, bytes: &[u8]) {
        if !self.connected(stream.from, stream.to) {
            return;
        }
        let whole = self.rng.below(2) == 0;
        let mut rest = bytes;
        while !rest.is_empty() {
            let size = if whole { rest.len() } else { 1 + self.rng.below(PIECE_MAX) as usize };
            let (piece, after) = rest.split_at(size.min(rest.len()));
            rest = after;
            let delay = self.rng.below(DELAY_MAX_MS);
            let at = (self.now_ms + delay).max(self.busy_until.get(&stream).copied().unwrap_or(0));
            self.busy_until.insert(stream, at);
            let connection = self.connection(&stream);
            self.push(at, Happening::Bytes { stream, bytes: piece.to_vec(), connection });
        }
    }

    /// Wakes `at` after `delay_ms`.
    pub fn timer(&mut self, at: Peer, delay_ms: u64, tag: u64) {
        self.push(self.now_ms + delay_ms, Happening::Timer { at, tag });
    }

    /// Kills a peer; the others learn it a little later.
    pub fn kill(&mut self, peer: Peer) {
        if !self.dead.insert(peer) {
            return;
        }
        for other in (0..self.peers).filter(|other| *other != peer) {
            let delay = self.rng.below(DELAY_MAX_MS);
            self.push(self.now_ms + delay, Happening::Lost { at: other, peer });
            // From then on nothing that it sent arrives.
        }
    }

    /// Ends the connection of two peers that live on: what `at` does with a peer that sends
    /// garbage. Both learn it.
    pub fn cut(&mut self, at: Peer, peer: Peer) {
        if self.cut.insert((at.min(peer), at.max(peer))) {
            self.push(self.now_ms, Happening::Lost { at, peer });
            let delay = self.rng.below(DELAY_MAX_MS);
            self.push(self.now_ms + delay, Happening::Lost { at: peer, peer: at });
        }
    }

    /// Keeps two peers apart for so many milliseconds: what they sent each other last is lost, and both learn it.
    pub fn sever(&mut self, a: Peer, b: Peer, for_ms: u64) {
        if self.connected(a, b) {
            self.cut(a, b);
            self.severed.insert((a.min(b), a.max(b)), self.now_ms + for_ms);
        }
    }

    /// Connects two peers again that the network kept apart; whether they can talk.
    pub fn join(&mut self, a: Peer, b: Peer) -> bool {
        let pair = (a.min(b), a.max(b));
        if self.severed.get(&pair).is_some_and(|until| self.now_ms >= *until) {
            self.severed.remove(&pair);
            self.cut.remove(&pair);
            *self.connections.entry(pair).or_default() += 1;
        }
        self.connected(a, b)
    }

    fn connection(&self, stream: &Stream) -> u64 {
        self.connections.get(&pair(stream)).copied().unwrap_or(0)
    }

    /// Whether two peers can talk.
    #[must_use]
    pub fn connected(&self, a: Peer, b: Peer) -> bool {
        self.alive(a) && self.alive(b) && !self.cut.contains(&(a.min(b), a.max(b)))
    }

    /// The next thing that happens to a living peer; time moves to it.
    pub fn next_happening(&mut self) -> Option<Happening> {
        while let Some(Reverse((at_ms, _, happening))) = self.queue.pop() {
            self.now_ms = self.now_ms.max(at_ms);
            match &happening {
                Happening::Bytes { stream, .. } if !self.alive(stream.to) => {}
                Happening::Bytes { stream, .. } if self.cut.contains(&pair(stream)) => {}
                Happening::Bytes { stream, connection, .. } if *connection != self.connection(stream) => {}
                Happening::Lost { at, peer } => {
                    if !self.alive(*peer) {
                        self.cut.insert((*at.min(peer), *at.max(peer)));
                    }
                    if self.alive(*at) {
                        return Some(happening);
                    }
                }
                Happening::Timer { at, .. } if !self.alive(*at) => {}
                _ => return Some(happening),
            }
        }
        None
    }

    fn push(&mut self, at_ms: u64, happening: Happening) {
        self.serial += 1;
        self.queue.push(Reverse((at_ms, self.serial, happening)));
    }
}

fn pair(stream: &Stream) -> (Peer, Peer) {
    (stream.from.min(stream.to), stream.from.max(stream.to))
}
