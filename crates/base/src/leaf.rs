//! Salted trace leaves, and the secrets that salts come from.
//!
//! `leaf = SHA-256(salt ‖ domain ‖ index ‖ bytes)`, 16 bytes each for salt, domain and index, then
//! at most [`LEAF_BYTES_MAX`] bytes of one op's output for one token. Without the salt a leaf of a
//! token id could be inverted by trying the vocabulary. Salts come from the gateway's 32-byte task
//! secret by a tree of hashes: an edge secret for each boundary between stages (both neighbours
//! hold it, so that out root and in root are equal), a stage secret for each stage's own leaves,
//! and from these one salt a leaf. Opening a leaf means showing its salt, which reveals no other.

use crate::digest::{DOMAIN_BYTES, Digest, domain_tag};
use crate::limits::LEAF_BYTES_MAX;
use crate::op::Place;
use minicbor::{Decode, Encode};

/// Bytes of a salt.
pub const SALT_BYTES: usize = 16;

/// The secret of one task, made by its gateway; whoever re-executes receipts needs it.
#[derive(Clone, PartialEq, Eq, Encode, Decode, zeroize::ZeroizeOnDrop)]
#[cbor(transparent)]
pub struct TaskSecret(#[cbor(n(0), with = "minicbor::bytes")] pub [u8; 32]);

impl core::fmt::Debug for TaskSecret {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("TaskSecret(..)")
    }
}

/// What one stage needs to know of the task secret.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct StageSecrets {
    /// Salts of the leaves that enter the stage.
    #[n(0)]
    pub input: Digest,
    /// Salts of the leaves that leave the stage.
    #[n(1)]
    pub output: Digest,
    /// Salts of the stage's own leaves: KV cache and trace.
    #[n(2)]
    pub own: Digest,
}

impl core::fmt::Debug for StageSecrets {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("StageSecrets(..)")
    }
}

impl TaskSecret {
    /// The secrets of stage `stage`: the edges on both its sides and its own.
    #[must_use]
    pub fn stage(&self, stage: u16) -> StageSecrets {
        let edge = |index: u16| Digest::tagged("lockstep/edge", &[&self.0, &index.to_be_bytes()]);
        StageSecrets {
            input: edge(stage),
            output: edge(stage + 1),
            own: Digest::tagged("lockstep/stage", &[&self.0, &stage.to_be_bytes()]),
        }
    }
}

/// Which leaf of a place: outputs above 2,048 bytes have several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeafIndex {
    /// The op, layer and token.
    pub place: Place,
    /// Which 2,048 bytes of the output.
    pub chunk: u32,
}

impl LeafIndex {
    /// The 16 hashed bytes: position (4), layer (2), op (1), zero (1), chunk (4), zeros (4);
    /// big-endian.
    #[must_use]
    pub fn bytes(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&self.place.position.to_be_bytes());
        bytes[4..6].copy_from_slice(&self.place.layer.to_be_bytes());
        bytes[6] = self.place.op as u8;
        bytes[8..12].copy_from_slice(&self.chunk.to_be_bytes());
        bytes
    }
}

/// Bytes whose hash begins with the salt of a leaf.
pub const SALT_MESSAGE_BYTES: usize = DOMAIN_BYTES + 32 + 16;
/// Bytes in front of those of the output in what is hashed to a leaf.
pub const HEADER_BYTES: usize = SALT_BYTES + DOMAIN_BYTES + 16;

/// What is hashed to the salt of a leaf under `secret` (an edge or stage secret): for whoever
/// hashes many leaves at once.
#[must_use]
pub fn salt_message(secret: &Digest, index: &LeafIndex) -> [u8; SALT_MESSAGE_BYTES] {
    let mut message = [0; SALT_MESSAGE_BYTES];
    message[..16].copy_from_slice(&domain_tag("lockstep/salt"));
    message[16..48].copy_from_slice(&secret.0);
    message[48..].copy_from_slice(&index.bytes());
    message
}

/// What stands in front of the bytes in what is hashed to a leaf.
#[must_use]
pub fn header(salt: &[u8; SALT_BYTES], index: &LeafIndex) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..16].copy_from_slice(salt);
    header[16..32].copy_from_slice(&domain_tag("lockstep/leaf"));
    header[32..].copy_from_slice(&index.bytes());
    header
}

/// The salt in the hash of a [`salt_message`].
#[must_use]
pub fn salt_of(hash: &Digest) -> [u8; SALT_BYTES] {
    hash.0[..SALT_BYTES].try_into().expect("16 of 32 bytes")
}

/// The salt of a leaf under `secret` (an edge or stage secret).
#[must_use]
pub fn salt(secret: &Digest, index: &LeafIndex) -> [u8; SALT_BYTES] {
    salt_of(&Digest::of(&[&salt_message(secret, index)]))
}

/// The hash of one leaf.
///
/// # Panics
/// If `bytes` is longer than [`LEAF_BYTES_MAX`]; [`leaves`] cuts.
#[must_use]
pub fn leaf_hash(secret: &Digest, index: &LeafIndex, bytes: &[u8]) -> Digest {
    assert!(bytes.len() <= LEAF_BYTES_MAX, "a leaf has at most {LEAF_BYTES_MAX} bytes");
    opened_leaf_hash(&salt(secret, index), index, bytes)
}

/// The hash of a leaf whose salt was shown.
#[must_use]
pub fn opened_leaf_hash(salt: &[u8; SALT_BYTES], index: &LeafIndex, bytes: &[u8]) -> Digest {
    Digest::of(&[&header(salt, index), bytes])
}

/// The leaves of one op's output, in order. An empty output is one empty leaf.
pub fn leaves<'a>(
    secret: &'a Digest,
    place: Place,
    first_chunk: u32,
    output: &'a [u8],
) -> impl Iterator<Item = (LeafIndex, &'a [u8], Digest)> + 'a {
    let count = output.len().div_ceil(LEAF_BYTES_MAX).max(1);
    (0..count).map(move |i| {
        let end = output.len().min((i + 1) * LEAF_BYTES_MAX);
        let bytes = &output[i * LEAF_BYTES_MAX..end];
        let index = LeafIndex { place, chunk: first_chunk + i as u32 };
        (index, bytes, leaf_hash(secret, &index, bytes))
    })
}
