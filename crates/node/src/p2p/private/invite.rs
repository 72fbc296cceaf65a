//! The two files of a private swarm: its key, and invites.
//!
//! ```text
//! lockstep swarm key, version 1          lockstep invite, version 1
//! key 64 digits                          swarm 0x...
//! secret 64 digits                       secret 64 digits
//! version 3                              key 64 digits
//! revoked 0x...                          end 1800000000
//! ...                                    signature 128 digits
//!                                        join ADDRESS
//!                                        ...
//! ```
//!
//! Whoever has an invite is a member until it ends or is revoked: it is to be kept like a key.

use super::proof::invite_digest;
use super::revoked::{REVOKED_MAX, Revocations};
use crate::p2p::random_key;
use crate::swarm::JoinAddress;
use lockstep_base::digest::{hex, unhex};
use lockstep_base::keys::{CompactSignature, NodeId, NodeKey};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::Read as _;
use std::path::Path;

/// First line of a swarm's key.
const KEY_HEADER: &str = "lockstep swarm key, version 1";
/// First line of an invite.
const INVITE_HEADER: &str = "lockstep invite, version 1";
/// Bytes of either file.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Addresses of an invite.
const JOIN_MAX: usize = 16;

/// Why a file is no swarm key and no invite.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InviteError {
    /// It cannot be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// Another kind of file.
    #[error("the first line is not {expected:?}")]
    Header {
        /// What it should be.
        expected: &'static str,
    },
    /// A line is missing or wrong.
    #[error("no {field}, or one that is none")]
    Field {
        /// Of what.
        field: &'static str,
    },
    /// Too many of something.
    #[error("{got} {what}, expected at most {limit}")]
    Count {
        /// Of what.
        what: &'static str,
        /// How many.
        got: usize,
        /// The limit.
        limit: usize,
    },
    /// The swarm that is named did not sign it.
    #[error("the invite is not signed by its swarm")]
    Signature,
}

/// The key of a private swarm: who has it invites and revokes.
#[derive(Clone, Debug)]
pub struct SwarmKey {
    key: NodeKey,
    secret: [u8; 32],
    version: u64,
    revoked: BTreeSet<NodeId>,
}

/// The right to take part.
#[derive(Clone, Debug)]
pub struct Invite {
    swarm: NodeId,
    secret: [u8; 32],
    key: NodeKey,
    end: u64,
    granted: CompactSignature,
    join: Vec<JoinAddress>,
}

impl SwarmKey {
    /// The key of a new swarm.
    #[must_use]
    pub fn random() -> SwarmKey {
        SwarmKey { key: random_key(), secret: rand::random(), version: 1, revoked: BTreeSet::new() }
    }

    /// The swarm.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.key.id()
    }

    /// A fresh invite, good until `end` in seconds since 1970.
    #[must_use]
    pub fn invite(&self, end: u64, join: Vec<JoinAddress>) -> Invite {
        let key = random_key();
        let granted = self.key.sign(&invite_digest(self.id(), key.id(), end));
        Invite { swarm: self.id(), secret: self.secret, key, end, granted, join }
    }

    /// Takes back an invite, or excludes a node.
    pub fn revoke(&mut self, id: NodeId) {
        if self.revoked.insert(id) {
            self.version += 1;
        }
    }

    /// Whether the list is full.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.revoked.len() >= REVOKED_MAX
    }

    /// The signed list of those who are revoked.
    #[must_use]
    pub fn revocations(&self) -> Vec<u8> {
        Revocations::sign(&self.key, self.version, &self.revoked).to_bytes()
    }

    /// Reads the file.
    ///
    /// # Errors
    /// [`InviteError`] naming what is wrong.
    pub fn read(path: &Path) -> Result<SwarmKey, InviteError> {
        let lines = Lines::read(path, KEY_HEADER)?;
        let revoked = lines.all("revoked").map(node_id);
        let revoked: Option<BTreeSet<NodeId>> = revoked.collect();
        let revoked = revoked.ok_or(InviteError::Field { field: "revoked id" })?;
        if revoked.len() > REVOKED_MAX {
            return Err(InviteError::Count { what: "revoked ids", got: revoked.len(), limit: REVOKED_MAX });
        }
        Ok(SwarmKey {
            key: lines.key("key")?,
            secret: lines.bytes("secret")?,
            version: lines.number("version")?,
            revoked,
        })
    }

    /// Its file.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "{KEY_HEADER}\nkey {}\nsecret {}\nversion {}\n",
            hex(&*self.key.to_bytes()),
            hex(&self.secret),
            self.version
        );
        for id in &self.revoked {
            let _ = writeln!(text, "revoked {id}");
        }
        text
    }
}

impl Invite {
    /// By which it can be revoked.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.key.id()
    }

    /// The swarm.
    #[must_use]
    pub fn swarm(&self) -> NodeId {
        self.swarm
    }

    /// When it ends, seconds since 1970.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Where to join.
    #[must_use]
    pub fn join(&self) -> &[JoinAddress] {
        &self.join
    }

    pub(super) fn secret(&self) -> [u8; 32] {
        self.secret
    }

    pub(super) fn key(&self) -> &NodeKey {
        &self.key
    }

    pub(super) fn granted(&self) -> CompactSignature {
        self.granted
    }

    /// Reads the file.
    ///
    /// # Errors
    /// [`InviteError`] naming what is wrong.
    pub fn read(path: &Path) -> Result<Invite, InviteError> {
        let lines = Lines::read(path, INVITE_HEADER)?;
        let swarm = lines.one("swarm").and_then(node_id).ok_or(InviteError::Field { field: "swarm" })?;
        let join: Option<Vec<JoinAddress>> = lines.all("join").map(|text| text.parse().ok()).collect();
        let join = join.ok_or(InviteError::Field { field: "address to join at" })?;
        if join.len() > JOIN_MAX {
            return Err(InviteError::Count { what: "addresses", got: join.len(), limit: JOIN_MAX });
        }
        let invite = Invite {
            swarm,
            secret: lines.bytes("secret")?,
            key: lines.key("key")?,
            end: lines.number("end")?,
            granted: CompactSignature(lines.bytes("signature")?),
            join,
        };
        let signed = invite_digest(swarm, invite.id(), invite.end);
        if invite.granted.recover(&signed) == Some(swarm) { Ok(invite) } else { Err(InviteError::Signature) }
    }

    /// Its file.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = format!(
            "{INVITE_HEADER}\nswarm {}\nsecret {}\nkey {}\nend {}\nsignature {}\n",
            self.swarm,
            hex(&self.secret),
            hex(&*self.key.to_bytes()),
            self.end,
            hex(&self.granted.0)
        );
        for address in &self.join {
            let _ = writeln!(text, "join {address}");
        }
        text
    }
}

fn node_id(text: &str) -> Option<NodeId> {
    unhex(text.strip_prefix("0x")?)?.try_into().ok().map(NodeId)
}

/// `FIELD VALUE` lines after a head line.
struct Lines(Vec<(String, String)>);

impl Lines {
    fn read(path: &Path, header: &'static str) -> Result<Lines, InviteError> {
        let mut text = String::new();
        std::fs::File::open(path)?.take(FILE_BYTES_MAX).read_to_string(&mut text)?;
        let mut lines = text.lines();
        if lines.next() != Some(header) {
            return Err(InviteError::Header { expected: header });
        }
        let pair =
            |line: &str| line.split_once(' ').map(|(field, value)| (field.into(), value.trim().into()));
        Ok(Lines(lines.filter_map(pair).collect()))
    }

    fn all(&self, field: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(other, _)| other == field).map(|(_, value)| value.as_str())
    }

    fn one(&self, field: &str) -> Option<&str> {
        self.all(field).next()
    }

    fn bytes<const N: usize>(&self, field: &'static str) -> Result<[u8; N], InviteError> {
        let bytes = self.one(field).and_then(unhex).and_then(|bytes| bytes.try_into().ok());
        bytes.ok_or(InviteError::Field { field })
    }

    fn key(&self, field: &'static str) -> Result<NodeKey, InviteError> {
        NodeKey::from_bytes(&self.bytes::<32>(field)?).map_err(|_| InviteError::Field { field })
    }

    fn number(&self, field: &'static str) -> Result<u64, InviteError> {
        self.one(field).and_then(|text| text.parse().ok()).ok_or(InviteError::Field { field })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both files are read back; one that was changed, or is another kind, is refused.
    #[test]
    fn files_are_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let mut swarm = SwarmKey::random();
        let invite = swarm.invite(1_800_000_000, vec!["example.org:4001".parse().unwrap()]);
        swarm.revoke(invite.id());
        std::fs::write(&path, swarm.to_text()).unwrap();
        assert_eq!(SwarmKey::read(&path).unwrap().to_text(), swarm.to_text());
        assert!(matches!(Invite::read(&path), Err(InviteError::Header { .. })));
        std::fs::write(&path, invite.to_text()).unwrap();
        assert_eq!(Invite::read(&path).unwrap().to_text(), invite.to_text());
        std::fs::write(&path, invite.to_text().replace("end 1800000000", "end 1900000000")).unwrap();
        assert!(matches!(Invite::read(&path), Err(InviteError::Signature)));
        std::fs::write(&path, invite.to_text().replace("secret ", "secret x")).unwrap();
        assert!(matches!(Invite::read(&path), Err(InviteError::Field { field: "secret" })));
    }
}
