//! What a member shows: `[version, invite id, end, signature of the swarm, signature of the invite]`, deterministic CBOR.

use super::Invite;
use lockstep_base::Digest;
use lockstep_base::cbor::{self, CborError};
use lockstep_base::keys::{CompactSignature, NodeId, NodeKey};
use minicbor::{Decode, Encode};

/// Version of the format.
const VERSION: u8 = 1;
/// Bytes of a proof.
pub(super) const PROOF_BYTES_MAX: usize = 256;
/// Domain of what the swarm signs of an invite.
const INVITE_DOMAIN: &str = "lockstep/invite";
/// Domain of what an invite signs of a node.
const MEMBER_DOMAIN: &str = "lockstep/member";

/// Why somebody is no member.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProofError {
    /// Not a proof.
    #[error(transparent)]
    Cbor(#[from] CborError),
    /// Too long.
    #[error("a proof of membership of {got} bytes, expected at most {PROOF_BYTES_MAX}")]
    Length {
        /// Its length.
        got: usize,
    },
    /// Another version.
    #[error("a proof of membership of version {got}, expected {VERSION}")]
    Version {
        /// The version.
        got: u8,
    },
    /// A key that cannot sign receipts.
    #[error("the peer's key is not a node key")]
    NotANode,
    /// Another swarm invited it, or nobody.
    #[error("invited by {}, expected swarm {expected}", got.map_or_else(|| "nobody".to_owned(), |id| id.to_string()))]
    Swarm {
        /// Whose signature the invite has.
        got: Option<NodeId>,
        /// This swarm.
        expected: NodeId,
    },
    /// The invite is another node's.
    #[error("the invite is not accepted by node {node}")]
    Node {
        /// Who shows it.
        node: NodeId,
    },
    /// The invite has ended.
    #[error("the invite ended at {end} s, it is {now} s")]
    Expired {
        /// Its end.
        end: u64,
        /// The time.
        now: u64,
    },
    /// The swarm took it back.
    #[error("{id} is revoked")]
    Revoked {
        /// The invite, or the node.
        id: NodeId,
    },
}

/// What the swarm signs of an invite.
pub(super) fn invite_digest(swarm: NodeId, invite: NodeId, end: u64) -> Digest {
    Digest::tagged(INVITE_DOMAIN, &[&swarm.0, &invite.0, &end.to_be_bytes()])
}

fn member_digest(swarm: NodeId, invite: NodeId, node: NodeId) -> Digest {
    Digest::tagged(MEMBER_DOMAIN, &[&swarm.0, &invite.0, &node.0])
}

/// What a member shows.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Proof {
    #[n(0)]
    version: u8,
    #[n(1)]
    invite: NodeId,
    #[n(2)]
    end: u64,
    #[n(3)]
    granted: CompactSignature,
    #[n(4)]
    accepted: CompactSignature,
}

impl Proof {
    /// The node with `key` accepts an invite.
    #[must_use]
    pub fn new(invite: &Invite, key: &NodeKey) -> Proof {
        Proof {
            version: VERSION,
            invite: invite.id(),
            end: invite.end(),
            granted: invite.granted(),
            accepted: invite.key().sign(&member_digest(invite.swarm(), invite.id(), key.id())),
        }
    }

    /// Reads one.
    ///
    /// # Errors
    /// [`ProofError`] if it is none.
    pub fn parse(bytes: &[u8]) -> Result<Proof, ProofError> {
        if bytes.len() > PROOF_BYTES_MAX {
            return Err(ProofError::Length { got: bytes.len() });
        }
        let proof: Proof = cbor::decode("proof of membership", bytes)?;
        if proof.version == VERSION { Ok(proof) } else { Err(ProofError::Version { got: proof.version }) }
    }

    /// Its one encoding.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        cbor::encode(self)
    }

    /// Whether it makes `node` a member of `swarm` at the time `now`, in seconds; by which invite.
    ///
    /// # Errors
    /// [`ProofError`] saying why not.
    pub fn check(&self, swarm: NodeId, node: NodeId, now: u64) -> Result<NodeId, ProofError> {
        let got = self.granted.recover(&invite_digest(swarm, self.invite, self.end));
        if got != Some(swarm) {
            return Err(ProofError::Swarm { got, expected: swarm });
        }
        if self.accepted.recover(&member_digest(swarm, self.invite, node)) != Some(self.invite) {
            return Err(ProofError::Node { node });
        }
        if self.end <= now {
            return Err(ProofError::Expired { end: self.end, now });
        }
        Ok(self.invite)
    }
}
