//! The list of those who may not take part any more: `[swarm, version, ids, signature]`, deterministic CBOR.

use lockstep_base::Digest;
use lockstep_base::cbor::{self, CborError};
use lockstep_base::keys::{CompactSignature, NodeId, NodeKey};
use minicbor::{Decode, Encode};
use std::collections::BTreeSet;

/// Ids on a list: as many as one gossip message holds with room to spare.
pub(super) const REVOKED_MAX: usize = 700;
/// Bytes of a list.
const LIST_BYTES_MAX: usize = 16_000;
/// Domain of the signed digest.
const DOMAIN: &str = "lockstep/revoked";

/// Why bytes are no list.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RevocationsError {
    /// Not a list.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// Too long.
    #[error("a list of revocations of {got} {what}, expected at most {limit}")]
    Length {
        /// Of what.
        what: &'static str,
        /// How many.
        got: usize,
        /// The limit.
        limit: usize,
    },
    /// Ids that are not strictly ascending.
    #[error("revoked ids are not strictly ascending")]
    Order,
    /// Signed by somebody else.
    #[error("a list of revocations signed by {}, expected swarm {expected}", got.map_or_else(|| "nobody".to_owned(), |id| id.to_string()))]
    Signer {
        /// By whom, if by anybody.
        got: Option<NodeId>,
        /// This swarm.
        expected: NodeId,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
struct Wire {
    #[n(0)]
    swarm: NodeId,
    #[n(1)]
    version: u64,
    #[n(2)]
    ids: Vec<NodeId>,
    #[n(3)]
    signature: Option<CompactSignature>,
}

/// A list that the swarm signed, or the empty one of version 0, which needs no signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocations {
    ids: BTreeSet<NodeId>,
    wire: Wire,
}

fn digest(swarm: NodeId, version: u64, ids: &[NodeId]) -> Digest {
    let ids: Vec<u8> = ids.iter().flat_map(|id| id.0).collect();
    Digest::tagged(DOMAIN, &[&swarm.0, &version.to_be_bytes(), &ids])
}

impl Revocations {
    /// Nobody is revoked.
    #[must_use]
    pub fn none(swarm: NodeId) -> Revocations {
        Revocations {
            ids: BTreeSet::new(),
            wire: Wire { swarm, version: 0, ids: Vec::new(), signature: None },
        }
    }

    /// Signs a list.
    #[must_use]
    pub fn sign(key: &NodeKey, version: u64, ids: &BTreeSet<NodeId>) -> Revocations {
        let list: Vec<NodeId> = ids.iter().copied().take(REVOKED_MAX).collect();
        let signature = Some(key.sign(&digest(key.id(), version, &list)));
        let wire = Wire { swarm: key.id(), version, ids: list, signature };
        Revocations { ids: wire.ids.iter().copied().collect(), wire }
    }

    /// Reads a list of `swarm`.
    ///
    /// # Errors
    /// [`RevocationsError`] if it is none, or signed by somebody else.
    pub fn parse(bytes: &[u8], swarm: NodeId) -> Result<Revocations, RevocationsError> {
        let at_most = |what, got, limit| {
            if got <= limit { Ok(()) } else { Err(RevocationsError::Length { what, got, limit }) }
        };
        at_most("bytes", bytes.len(), LIST_BYTES_MAX)?;
        let wire: Wire = cbor::decode("list of revocations", bytes)?;
        at_most("ids", wire.ids.len(), REVOKED_MAX)?;
        if wire.ids.windows(2).any(|pair| pair[0] >= pair[1]) {
            return Err(RevocationsError::Order);
        }
        let nobody = wire.version == 0 && wire.ids.is_empty() && wire.signature.is_none();
        let signed = digest(swarm, wire.version, &wire.ids);
        let got = wire.signature.and_then(|signature| signature.recover(&signed));
        if wire.swarm != swarm || !(nobody || got == Some(swarm)) {
            return Err(RevocationsError::Signer { got, expected: swarm });
        }
        Ok(Revocations { ids: wire.ids.iter().copied().collect(), wire })
    }

    /// Its one encoding.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        cbor::encode(&self.wire)
    }

    /// A later one replaces an earlier one.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.wire.version
    }

    /// Whether an invite or a node is on it.
    #[must_use]
    pub fn contains(&self, id: &NodeId) -> bool {
        self.ids.contains(id)
    }
}
