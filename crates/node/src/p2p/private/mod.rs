//! Private swarms: who may take part is decided by a key, told by invites, and taken back by a signed list.
//!
//! ```text
//! swarm key ──signs──> invite key, end          "whoever has this invite may take part until then"
//! invite key ──signs──> node key                "and that is me"
//! swarm key ──signs──> version, revoked ids     of invites and of nodes; a later version replaces
//! ```
//!
//! Two doors. The first is a secret of the swarm that every invite holds: under it each connection is encrypted from its first byte
//! (libp2p's pre-shared key, `/key/swarm/psk`), so a stranger gets 24 random bytes and nothing that it can read.
//! The second is the pair of signatures, shown by both sides right after the handshake that proves the node's key and before anything
//! else: whoever was revoked still knows the secret, and gets no further than that.

mod invite;
mod proof;
mod revoked;
pub(super) mod upgrade;

pub use invite::{Invite, InviteError, SwarmKey};
pub use proof::{Proof, ProofError};
pub use revoked::{Revocations, RevocationsError};

use crate::p2p::node_of_peer;
use libp2p::PeerId;
use lockstep_base::keys::{NodeId, NodeKey};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

/// Invites of peers that are remembered.
const ADMITTED_MAX: usize = 4096;

/// A node's place in a private swarm.
#[derive(Debug)]
pub struct Membership {
    swarm: NodeId,
    secret: [u8; 32],
    proof: Vec<u8>,
    revoked: RwLock<Revocations>,
    /// By which invite a peer came in.
    admitted: Mutex<HashMap<PeerId, NodeId>>,
    /// Where the list of revocations is kept.
    path: Option<PathBuf>,
}

impl Membership {
    /// The place of the node with `key` by an invite. The list of revocations that is known is read from `path`, and kept there.
    #[must_use]
    pub fn new(invite: &Invite, key: &NodeKey, path: Option<PathBuf>) -> Arc<Membership> {
        let swarm = invite.swarm();
        let known = path.as_ref().and_then(|path| std::fs::read(path).ok());
        let known = known.and_then(|bytes| Revocations::parse(&bytes, swarm).ok());
        Arc::new(Membership {
            swarm,
            secret: invite.secret(),
            proof: Proof::new(invite, key).to_bytes(),
            revoked: RwLock::new(known.unwrap_or_else(|| Revocations::none(swarm))),
            admitted: Mutex::default(),
            path,
        })
    }

    /// The swarm.
    #[must_use]
    pub fn swarm(&self) -> NodeId {
        self.swarm
    }

    pub(super) fn secret(&self) -> [u8; 32] {
        self.secret
    }

    /// What this node shows.
    #[must_use]
    pub fn proof(&self) -> &[u8] {
        &self.proof
    }

    /// Whether `peer` may take part, by what it shows.
    ///
    /// # Errors
    /// [`ProofError`] saying why not.
    pub fn admit(&self, peer: &PeerId, shown: &[u8]) -> Result<(), ProofError> {
        let node = node_of_peer(peer).ok_or(ProofError::NotANode)?;
        let invite = Proof::parse(shown)?.check(self.swarm, node, seconds_now())?;
        let revoked = self.revoked.read().expect("no thread panics while it reads the list");
        for id in [invite, node] {
            if revoked.contains(&id) {
                return Err(ProofError::Revoked { id });
            }
        }
        let mut admitted = self.admitted.lock().expect("no thread panics while it holds the peers");
        if admitted.len() < ADMITTED_MAX || admitted.contains_key(peer) {
            admitted.insert(*peer, invite);
        }
        Ok(())
    }

    /// Whether a peer that is connected has been revoked since.
    #[must_use]
    pub fn is_revoked(&self, peer: &PeerId) -> bool {
        let revoked = self.revoked.read().expect("no thread panics while it reads the list");
        let admitted = self.admitted.lock().expect("no thread panics while it holds the peers");
        let invite = admitted.get(peer).copied();
        invite.into_iter().chain(node_of_peer(peer)).any(|id| revoked.contains(&id))
    }

    /// The list as it is told to others.
    #[must_use]
    pub fn revocations(&self) -> Vec<u8> {
        self.revoked.read().expect("no thread panics while it reads the list").to_bytes()
    }

    /// Takes a list that somebody passes on; whether it is news.
    ///
    /// # Errors
    /// [`RevocationsError`] if the swarm did not sign it.
    pub fn hear(&self, bytes: &[u8]) -> Result<bool, RevocationsError> {
        let heard = Revocations::parse(bytes, self.swarm)?;
        let mut revoked = self.revoked.write().expect("no thread panics while it writes the list");
        if heard.version() <= revoked.version() {
            return Ok(false);
        }
        *revoked = heard;
        if let Some(path) = &self.path {
            // Without the file the list is heard again from the first peer.
            let _ = path.parent().map(std::fs::create_dir_all);
            let _ = std::fs::write(path, bytes);
        }
        Ok(true)
    }
}

/// Seconds since 1970, by this machine's clock.
#[must_use]
pub fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::p2p::{peer_of_key, random_key};

    fn member(swarm: &SwarmKey, key: &NodeKey) -> (Invite, Arc<Membership>) {
        let invite = swarm.invite(seconds_now() + 60, Vec::new());
        (invite.clone(), Membership::new(&invite, key, None))
    }

    /// Members admit each other; strangers, members of other swarms and borrowed proofs are refused.
    #[test]
    fn members_admit_members() {
        let (swarm, other) = (SwarmKey::random(), SwarmKey::random());
        let (a, b, c) = (random_key(), random_key(), random_key());
        let (_, alice) = member(&swarm, &a);
        let (_, bob) = member(&swarm, &b);
        let (_, carol) = member(&other, &c);
        alice.admit(&peer_of_key(&b), bob.proof()).unwrap();
        bob.admit(&peer_of_key(&a), alice.proof()).unwrap();
        assert!(matches!(alice.admit(&peer_of_key(&c), carol.proof()), Err(ProofError::Swarm { .. })));
        assert!(matches!(alice.admit(&peer_of_key(&c), bob.proof()), Err(ProofError::Node { .. })));
        assert!(alice.admit(&peer_of_key(&c), b"let me in").is_err());
    }

    /// An invite ends.
    #[test]
    fn an_invite_ends() {
        let (swarm, a, b) = (SwarmKey::random(), random_key(), random_key());
        let (_, alice) = member(&swarm, &a);
        let old = swarm.invite(seconds_now() - 1, Vec::new());
        let bob = Membership::new(&old, &b, None);
        assert!(matches!(alice.admit(&peer_of_key(&b), bob.proof()), Err(ProofError::Expired { .. })));
    }

    /// Whoever is revoked, by invite or by node, is out; the list survives a restart and an older one changes nothing.
    #[test]
    fn the_revoked_are_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub").join("revoked");
        let (mut swarm, a, b, c) = (SwarmKey::random(), random_key(), random_key(), random_key());
        let invite = swarm.invite(seconds_now() + 60, Vec::new());
        let alice = Membership::new(&invite, &a, Some(path.clone()));
        let (of_bob, bob) = member(&swarm, &b);
        let (_, carol) = member(&swarm, &c);
        alice.admit(&peer_of_key(&b), bob.proof()).unwrap();
        let empty = swarm.revocations();
        swarm.revoke(of_bob.id());
        swarm.revoke(c.id());
        assert!(alice.hear(&swarm.revocations()).unwrap());
        assert!(alice.is_revoked(&peer_of_key(&b)) && alice.is_revoked(&peer_of_key(&c)));
        assert!(!alice.hear(&empty).unwrap());
        for (key, membership) in [(&b, &bob), (&c, &carol)] {
            let refused = alice.admit(&peer_of_key(key), membership.proof());
            assert!(matches!(refused, Err(ProofError::Revoked { .. })), "{refused:?}");
        }
        let again = Membership::new(&invite, &a, Some(path));
        assert!(again.admit(&peer_of_key(&b), bob.proof()).is_err(), "the list is kept");
        assert!(alice.hear(&SwarmKey::random().revocations()).is_err(), "lists of other swarms are refused");
    }
}
