//! What a node says of itself, signed by its key.
//!
//! ```text
//! announcement = [claims, signature 64]          deterministic CBOR (RFC 8949, 4.2)
//! claims       = [version, node, model root, part, state, start, sequence, lease ms, decode, prefill,
//!                 free positions, queue depth, adapters, price, addresses, relayed, neighbours, proves, coordinate]
//! signed       = SHA-256("lockstep/swarm" padded to 16 ‖ claims)
//! ```
//!
//! Claims are claims: the signature says who made them, nothing says that they are true. Whoever uses them
//! keeps a score and pays for answers, not for announcements. (`start`, `sequence`) orders what
//! one node says; nobody's clock is compared with anybody else's.

use super::coordinate::Coordinate;
use super::limits;
use lockstep_base::Digest;
use lockstep_base::cbor::{self, CborError};
use lockstep_base::keys::{CompactSignature, NodeId, NodeKey};
use lockstep_base::limits::LAYERS_MAX;
use lockstep_base::part::Part;
use minicbor::{Decode, Encode};
use std::sync::Arc;

/// Domain of the signed digest.
const DOMAIN: &str = "lockstep/swarm";

/// Where a node is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Encode, Decode)]
#[cbor(index_only)]
pub enum State {
    /// Fetching or checking its weights: counts for whoever chooses layers, not for routes.
    #[n(0)]
    Joining,
    /// Takes tasks.
    #[n(1)]
    Online,
    /// Finishes what it has and takes nothing new.
    #[n(2)]
    Draining,
}

/// A round trip that a node measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Neighbour {
    /// To whom.
    #[n(0)]
    pub node: NodeId,
    /// The round trip, microseconds.
    #[n(1)]
    pub rtt_us: u32,
}

/// What a node says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Claims {
    /// Version of this format.
    #[n(0)]
    pub version: u8,
    /// Who says it.
    #[n(1)]
    pub node: NodeId,
    /// The model.
    #[n(2)]
    pub model_root: Digest,
    /// What the node serves of it.
    #[n(3)]
    pub part: Part,
    /// Where the node is in its life.
    #[n(4)]
    pub state: State,
    /// Larger at every start of the node: seconds of its own clock will do.
    #[n(5)]
    pub start: u64,
    /// Larger with every announcement of one start.
    #[n(6)]
    pub sequence: u64,
    /// Milliseconds, from when it is heard, for which it is to be believed.
    #[n(7)]
    pub lease_ms: u32,
    /// Measured decoding, milli-tokens per second through one layer.
    #[n(8)]
    pub decode_milli: u64,
    /// Measured prefill, milli-tokens per second through one layer.
    #[n(9)]
    pub prefill_milli: u64,
    /// KV positions that are free.
    #[n(10)]
    pub free_positions: u64,
    /// Steps that wait.
    #[n(11)]
    pub queue_depth: u32,
    /// Roots of the adapters that tasks may ask for, ascending.
    #[n(12)]
    pub adapters: Vec<Digest>,
    /// Price, micro-units per 1,000 tokens.
    #[n(13)]
    pub price_micro: u64,
    /// How to reach the node, best first, in the form of the transport.
    #[n(14)]
    pub addresses: Vec<String>,
    /// Whether it is reached through a relay only.
    #[n(15)]
    pub relayed: bool,
    /// Round trips to a few other nodes, ascending by node.
    #[n(16)]
    pub neighbours: Vec<Neighbour>,
    /// Whether it proves what it computed.
    #[n(17)]
    pub proves: bool,
    /// Where it lies in the network, if it knows.
    #[n(18)]
    pub coordinate: Option<Coordinate>,
}

/// Why bytes are no announcement, or claims cannot be one.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnnouncementError {
    /// More bytes than any announcement has.
    #[error("an announcement of {got} bytes, expected at most {limit}")]
    Size {
        /// Bytes.
        got: usize,
        /// The limit.
        limit: usize,
    },
    /// Not deterministic CBOR of an announcement.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// Another version.
    #[error("an announcement of version {got}, expected {}", limits::SWARM_VERSION)]
    Version {
        /// The version.
        got: u8,
    },
    /// A part that no model has.
    #[error(
        "an announcement of {part:?}, expected a range of at most {LAYERS_MAX} layers that is empty only beside embedding or head, the embedding before layer 0, a shard of its shards"
    )]
    Part {
        /// The part.
        part: Part,
    },
    /// Something is too long or too large.
    #[error("{field} of an announcement is {got}, expected at most {limit}")]
    Limit {
        /// Which field.
        field: &'static str,
        /// Its length or value.
        got: u64,
        /// The limit.
        limit: u64,
    },
    /// Something is too small.
    #[error("{field} of an announcement is {got}, expected at least {limit}")]
    Least {
        /// Which field.
        field: &'static str,
        /// Its value.
        got: u64,
        /// The limit.
        limit: u64,
    },
    /// An address that is empty or steers a terminal.
    #[error("address {index} of an announcement is empty or has control characters")]
    Address {
        /// Which one.
        index: usize,
    },
    /// A list that is not strictly ascending.
    #[error("{field} of an announcement are not strictly ascending at {index}")]
    Order {
        /// Which field.
        field: &'static str,
        /// Where.
        index: usize,
    },
    /// A node that tells its round trip to itself.
    #[error("an announcement of {node} tells its round trip to itself")]
    Itself {
        /// The node.
        node: NodeId,
    },
    /// A place that is nowhere.
    #[error(
        "an announcement lies at {coordinate:?}, expected axes within 60 s, an error of at most 1000 thousandths"
    )]
    Coordinate {
        /// The place.
        coordinate: Coordinate,
    },
    /// Signed by somebody else, or by nobody.
    #[error("an announcement of {expected} is signed by {}", got.map_or_else(|| "nobody".to_owned(), |node| node.to_string()))]
    Signer {
        /// Whose signature it is, if it is one.
        got: Option<NodeId>,
        /// Who should have signed.
        expected: NodeId,
    },
}

/// Claims with a signature whose signer is not known yet.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub(super) struct Unverified {
    #[n(0)]
    claims: Claims,
    #[n(1)]
    signature: CompactSignature,
}

/// Signed claims: whoever has one knows that the node made them and that they are within the limits.
#[derive(Clone, PartialEq, Eq)]
pub struct Announcement(Arc<Signed>);

#[derive(PartialEq, Eq)]
struct Signed {
    claims: Claims,
    bytes: Vec<u8>,
}

impl Announcement {
    /// Signs `claims`, with its lists put into order.
    ///
    /// # Errors
    /// [`AnnouncementError`] if they are not within the limits or are another node's.
    pub fn sign(mut claims: Claims, key: &NodeKey) -> Result<Announcement, AnnouncementError> {
        claims.put_in_order();
        claims.check()?;
        if key.id() != claims.node {
            return Err(AnnouncementError::Signer { got: Some(key.id()), expected: claims.node });
        }
        let signature = key.sign(&claims.digest());
        let signed = Unverified { claims, signature };
        let bytes = cbor::encode(&signed);
        Ok(Announcement(Arc::new(Signed { claims: signed.claims, bytes })))
    }

    /// Reads an announcement and checks limits and signature.
    ///
    /// # Errors
    /// [`AnnouncementError`] if it is not exactly one announcement of the node that it names.
    pub fn parse(bytes: &[u8]) -> Result<Announcement, AnnouncementError> {
        Unverified::read(bytes)?.verify(bytes)
    }

    /// Its one encoding.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    /// What it says.
    #[must_use]
    pub fn claims(&self) -> &Claims {
        &self.0.claims
    }
}

impl core::fmt::Debug for Announcement {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_tuple("Announcement").field(self.claims()).finish()
    }
}

impl Unverified {
    /// Everything but the signature, which costs more than all the rest.
    pub(super) fn read(bytes: &[u8]) -> Result<Unverified, AnnouncementError> {
        let limit = limits::ANNOUNCEMENT_BYTES_MAX;
        if bytes.len() > limit {
            return Err(AnnouncementError::Size { got: bytes.len(), limit });
        }
        let unverified: Unverified = cbor::decode("announcement", bytes)?;
        unverified.claims.check()?;
        Ok(unverified)
    }

    pub(super) fn claims(&self) -> &Claims {
        &self.claims
    }

    /// `bytes` are those that were read.
    pub(super) fn verify(self, bytes: &[u8]) -> Result<Announcement, AnnouncementError> {
        let expected = self.claims.node;
        let got = self.signature.recover(&self.claims.digest());
        if got != Some(expected) {
            return Err(AnnouncementError::Signer { got, expected });
        }
        Ok(Announcement(Arc::new(Signed { claims: self.claims, bytes: bytes.to_vec() })))
    }
}

impl Claims {
    /// What is signed.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::tagged(DOMAIN, &[&cbor::encode(self)])
    }

    /// Where it stands among the announcements of its node: later ones replace earlier ones.
    #[must_use]
    pub fn order(&self) -> (u64, u64) {
        (self.start, self.sequence)
    }

    /// Sorts the lists, without what is in them twice.
    pub(super) fn put_in_order(&mut self) {
        self.adapters.sort_unstable();
        self.adapters.dedup();
        self.neighbours.sort_unstable_by_key(|neighbour| neighbour.node);
        self.neighbours.dedup_by_key(|neighbour| neighbour.node);
    }

    pub(super) fn check(&self) -> Result<(), AnnouncementError> {
        if self.version != limits::SWARM_VERSION {
            return Err(AnnouncementError::Version { got: self.version });
        }
        if !possible(&self.part) {
            return Err(AnnouncementError::Part { part: self.part });
        }
        between("lease", self.lease_ms.into(), limits::LEASE_MIN_MS.into(), limits::LEASE_MAX_MS.into())?;
        between("decode rate", self.decode_milli, 1, limits::RATE_MAX_MILLI)?;
        between("prefill rate", self.prefill_milli, 1, limits::RATE_MAX_MILLI)?;
        at_most("adapters", self.adapters.len() as u64, limits::ADAPTERS_MAX as u64)?;
        at_most("addresses", self.addresses.len() as u64, limits::ADDRESSES_MAX as u64)?;
        at_most("neighbours", self.neighbours.len() as u64, limits::NEIGHBOURS_MAX as u64)?;
        ascending("adapters", self.adapters.iter())?;
        ascending("neighbours", self.neighbours.iter().map(|neighbour| &neighbour.node))?;
        for (index, address) in self.addresses.iter().enumerate() {
            at_most("an address", address.len() as u64, limits::ADDRESS_BYTES_MAX as u64)?;
            if address.is_empty() || address.chars().any(char::is_control) {
                return Err(AnnouncementError::Address { index });
            }
        }
        if let Some(coordinate) = self.coordinate.filter(|coordinate| !coordinate.possible()) {
            return Err(AnnouncementError::Coordinate { coordinate });
        }
        for neighbour in &self.neighbours {
            at_most("a round trip", neighbour.rtt_us.into(), limits::RTT_MAX_US.into())?;
            if neighbour.node == self.node {
                return Err(AnnouncementError::Itself { node: self.node });
            }
        }
        Ok(())
    }
}

/// Whether some model may have this part. How many layers it has is known to whoever serves it.
fn possible(part: &Part) -> bool {
    let range = part.first_layer <= part.end_layer && part.end_layer <= LAYERS_MAX;
    let filled = part.first_layer < part.end_layer || part.embed || part.head;
    range && filled && (!part.embed || part.first_layer == 0) && part.shard < part.shards
}

fn at_most(field: &'static str, got: u64, limit: u64) -> Result<(), AnnouncementError> {
    if got <= limit { Ok(()) } else { Err(AnnouncementError::Limit { field, got, limit }) }
}

fn between(field: &'static str, got: u64, least: u64, most: u64) -> Result<(), AnnouncementError> {
    if got < least {
        return Err(AnnouncementError::Least { field, got, limit: least });
    }
    at_most(field, got, most)
}

fn ascending<'a, T: Ord + 'a>(
    field: &'static str,
    items: impl Iterator<Item = &'a T> + Clone,
) -> Result<(), AnnouncementError> {
    match items.clone().zip(items.skip(1)).position(|(before, after)| before >= after) {
        Some(index) => Err(AnnouncementError::Order { field, index: index + 1 }),
        None => Ok(()),
    }
}
