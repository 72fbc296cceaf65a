//! What I say of myself, and when.
//!
//! ```text
//!            join(part)                 online()                 drain()
//!   (new) ────────────────> JOINING ──────────────> ONLINE ──────────────> DRAINING
//!                              ^                       ^   online()           │
//!                              │                       └──────────────────────┤
//!                              └────────────── join(part) ────────────────────┘
//! ```
//!
//! A change of state, part, price or address is said at once, the rest (rates, queue, room, round trips) with the
//! next regular announcement: three in a lease, at jittered times, so that two may be lost and a swarm that
//! was started at once does not speak at once. The lease grows with the swarm, so that nobody has to hear more than
//! a bounded number of announcements a minute.

use super::announcement::{Announcement, AnnouncementError, Claims, Neighbour, State};
use super::coordinate::Coordinate;
use super::limits;
use lockstep_base::Digest;
use lockstep_base::keys::NodeKey;
use lockstep_base::part::Part;

/// What a node offers besides its layers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Measured decoding, milli-tokens per second through one layer.
    pub decode_milli: u64,
    /// Measured prefill, milli-tokens per second through one layer.
    pub prefill_milli: u64,
    /// KV positions that are free.
    pub free_positions: u64,
    /// Steps that wait.
    pub queue_depth: u32,
    /// Adapters, most wanted first.
    pub adapters: Vec<Digest>,
    /// Price, micro-units per 1,000 tokens.
    pub price_micro: u64,
    /// Addresses, best first.
    pub addresses: Vec<String>,
    /// Reached through a relay only.
    pub relayed: bool,
    /// Round trips, as many as are known.
    pub neighbours: Vec<Neighbour>,
    /// Proves what it computed.
    pub proves: bool,
}

impl Offer {
    /// The same within the limits: what is too much is left out, the nearest neighbours are kept.
    fn cut(mut self) -> Offer {
        self.decode_milli = self.decode_milli.clamp(1, limits::RATE_MAX_MILLI);
        self.prefill_milli = self.prefill_milli.clamp(1, limits::RATE_MAX_MILLI);
        self.adapters.truncate(limits::ADAPTERS_MAX);
        self.addresses.truncate(limits::ADDRESSES_MAX);
        self.neighbours.sort_unstable_by_key(|neighbour| (neighbour.rtt_us, neighbour.node));
        self.neighbours.truncate(limits::NEIGHBOURS_MAX);
        for neighbour in &mut self.neighbours {
            neighbour.rtt_us = neighbour.rtt_us.min(limits::RTT_MAX_US);
        }
        self
    }
}

/// Why a member does not do what it was told.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemberError {
    /// Not a step of a node's life.
    #[error("a member that is {from:?} cannot become {to:?}")]
    Step {
        /// What it is.
        from: State,
        /// What it was told to become.
        to: State,
    },
    /// What it would say is no announcement.
    #[error(transparent)]
    Announcement(#[from] AnnouncementError),
}

/// One node as a member of the swarm of one model.
#[derive(Debug)]
pub struct Member {
    key: NodeKey,
    claims: Claims,
    said_ms: Option<u64>,
    due_ms: u64,
    changed: bool,
    leaving: bool,
    left: bool,
}

impl Member {
    /// A node that begins to fetch `part`. `start` is larger than at every earlier start of this key.
    ///
    /// # Errors
    /// [`MemberError::Announcement`] if part or addresses are not within the limits.
    pub fn new(
        key: NodeKey,
        start: u64,
        model_root: Digest,
        part: Part,
        offer: Offer,
    ) -> Result<Member, MemberError> {
        let offer = offer.cut();
        let claims = Claims {
            version: limits::SWARM_VERSION,
            node: key.id(),
            model_root,
            part,
            state: State::Joining,
            start,
            sequence: 0,
            lease_ms: limits::LEASE_DEFAULT_MS,
            decode_milli: offer.decode_milli,
            prefill_milli: offer.prefill_milli,
            free_positions: offer.free_positions,
            queue_depth: offer.queue_depth,
            adapters: offer.adapters,
            price_micro: offer.price_micro,
            addresses: offer.addresses,
            relayed: offer.relayed,
            neighbours: offer.neighbours,
            proves: offer.proves,
            coordinate: None,
        };
        let mut member =
            Member { key, claims, said_ms: None, due_ms: 0, changed: true, leaving: false, left: false };
        member.change(|_| {})?;
        Ok(member)
    }

    /// What it would say now.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Where it is in its life.
    #[must_use]
    pub fn state(&self) -> State {
        self.claims.state
    }

    /// Begins to fetch another part. A member that is online drains first.
    ///
    /// # Errors
    /// [`MemberError`] if it is online, or no model has that part.
    pub fn join(&mut self, part: Part) -> Result<(), MemberError> {
        if self.claims.state == State::Online {
            return Err(MemberError::Step { from: State::Online, to: State::Joining });
        }
        self.change(|claims| (claims.part, claims.state) = (part, State::Joining))
    }

    /// Takes tasks from now on: weights are there and checked, or it stays after all.
    ///
    /// # Errors
    /// [`MemberError::Step`] if it was online before.
    pub fn online(&mut self) -> Result<(), MemberError> {
        self.step(State::Online, &[State::Joining, State::Draining])
    }

    /// Takes nothing new from now on.
    ///
    /// # Errors
    /// [`MemberError::Step`] if it was draining before.
    pub fn drain(&mut self) -> Result<(), MemberError> {
        self.step(State::Draining, &[State::Joining, State::Online])
    }

    /// Says good-bye with the next announcement: the shortest lease, and nothing more.
    pub fn leave(&mut self) {
        (self.claims.state, self.changed, self.leaving) = (State::Draining, true, true);
    }

    /// What it offers now.
    ///
    /// # Errors
    /// [`MemberError::Announcement`] if an address cannot be announced.
    pub fn offer(&mut self, offer: Offer) -> Result<(), MemberError> {
        let (changed, before) = (self.changed, self.claims.clone());
        let offer = offer.cut();
        self.change(|claims| {
            claims.decode_milli = offer.decode_milli;
            claims.prefill_milli = offer.prefill_milli;
            claims.free_positions = offer.free_positions;
            claims.queue_depth = offer.queue_depth;
            claims.adapters = offer.adapters;
            claims.price_micro = offer.price_micro;
            claims.addresses = offer.addresses;
            claims.relayed = offer.relayed;
            claims.neighbours = offer.neighbours;
            claims.proves = offer.proves;
        })?;
        let now = &self.claims;
        let urgent = (&before.adapters, before.price_micro, &before.addresses, before.relayed, before.proves)
            != (&now.adapters, now.price_micro, &now.addresses, now.relayed, now.proves);
        self.changed = changed || urgent;
        Ok(())
    }

    /// Where it lies in the network, to be said with the next regular announcement.
    pub fn locate(&mut self, coordinate: Coordinate) {
        self.claims.coordinate = Some(coordinate).filter(Coordinate::possible);
    }

    /// When [`tick`](Member::tick) has something to say, milliseconds.
    #[must_use]
    pub fn due_ms(&self) -> u64 {
        match (self.left, self.changed, self.said_ms) {
            (true, ..) => u64::MAX,
            (_, true, None) => 0,
            (_, true, Some(said)) => self.due_ms.min(said.saturating_add(limits::ANNOUNCE_GAP_MS)),
            (_, false, _) => self.due_ms,
        }
    }

    /// The announcement that is due, if one is. `members` is how many the swarm has as far as is known, `word` a random word.
    pub fn tick(&mut self, now_ms: u64, members: usize, word: u64) -> Option<Announcement> {
        if now_ms < self.due_ms() {
            return None;
        }
        self.claims.lease_ms = if self.leaving { limits::LEASE_MIN_MS } else { lease_ms(members) };
        self.claims.sequence += 1;
        let interval_ms = u64::from(self.claims.lease_ms) / limits::ANNOUNCEMENTS_PER_LEASE;
        self.due_ms = now_ms.saturating_add(jittered(interval_ms, word));
        (self.said_ms, self.changed, self.left) = (Some(now_ms), false, self.leaving);
        Some(Announcement::sign(self.claims.clone(), &self.key).expect("claims are checked when they change"))
    }

    fn step(&mut self, to: State, from: &[State]) -> Result<(), MemberError> {
        if !from.contains(&self.claims.state) {
            return Err(MemberError::Step { from: self.claims.state, to });
        }
        self.change(|claims| claims.state = to)
    }

    /// Changes the claims, if they can be announced then.
    fn change(&mut self, change: impl FnOnce(&mut Claims)) -> Result<(), MemberError> {
        let mut claims = self.claims.clone();
        change(&mut claims);
        claims.put_in_order();
        claims.check()?;
        (self.claims, self.changed) = (claims, true);
        Ok(())
    }
}

/// The lease in a swarm of so many members, milliseconds.
#[must_use]
pub fn lease_ms(members: usize) -> u32 {
    let members = u32::try_from(members).unwrap_or(u32::MAX);
    members.saturating_mul(limits::LEASE_MS_PER_MEMBER).clamp(limits::LEASE_DEFAULT_MS, limits::LEASE_MAX_MS)
}

/// Seven to nine eighths of `interval_ms`, by a random word.
pub(super) fn jittered(interval_ms: u64, word: u64) -> u64 {
    let quarter = interval_ms / 4 + 1;
    interval_ms - interval_ms / 8 + ((u128::from(word) * u128::from(quarter)) >> 64) as u64
}
