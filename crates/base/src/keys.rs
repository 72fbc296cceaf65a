//! Node keys: secp256k1, so that a receipt is slashable by `ecrecover` on any EVM chain.
//!
//! A node key is the node's network identity and signs its receipts; it holds no funds. A node is
//! named by its Ethereum address, the last 20 bytes of Keccak-256 of the public key.

use crate::digest::{Digest, hex};
use core::fmt;
use k256::ecdsa::{RecoveryId, Signature, SigningKey, VerifyingKey};
use sha3::{Digest as _, Keccak256};

/// Ethereum-style address of a node key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub [u8; 20]);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{}", hex(&self.0))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

crate::cbor::cbor_bytes!(NodeId, 20);

/// Why a key was refused.
#[derive(Debug, thiserror::Error, Clone, Copy, PartialEq, Eq)]
#[error(
    "not a secp256k1 secret key: got {got} bytes, expected 32 that encode a number from 1 to the group order - 1"
)]
pub struct BadKey {
    /// Length of what was given.
    pub got: usize,
}

/// A node's secret key.
#[derive(Clone)]
pub struct NodeKey(SigningKey);

impl NodeKey {
    /// Reads a 32-byte big-endian secret.
    ///
    /// # Errors
    /// [`BadKey`] if it is not a secret key of the curve.
    pub fn from_bytes(bytes: &[u8]) -> Result<NodeKey, BadKey> {
        let refused = BadKey { got: bytes.len() };
        // k256 would take a shorter secret as well and fill it up with zeros.
        let secret: &[u8; 32] = bytes.try_into().map_err(|_| refused)?;
        SigningKey::from_slice(secret).map(NodeKey).map_err(|_| refused)
    }

    /// The 32-byte secret; the caller keeps it out of logs.
    #[must_use]
    pub fn to_bytes(&self) -> zeroize::Zeroizing<[u8; 32]> {
        zeroize::Zeroizing::new(self.0.to_bytes().into())
    }

    /// The compressed public key, 33 bytes (SEC 1, 2.3.3).
    #[must_use]
    pub fn public(&self) -> [u8; 33] {
        let point = self.0.verifying_key().to_encoded_point(true);
        point.as_bytes().try_into().expect("a compressed point has 33 bytes")
    }

    /// The node's name.
    #[must_use]
    pub fn id(&self) -> NodeId {
        address(self.0.verifying_key())
    }

    /// Signs a 32-byte hash; compact form of EIP-2098: r, then s with the parity in its top bit.
    #[must_use]
    pub fn sign(&self, hash: &Digest) -> CompactSignature {
        let (signature, recovery) =
            self.0.sign_prehash_recoverable(&hash.0).expect("any 32-byte hash can be signed");
        let mut bytes: [u8; 64] = signature.to_bytes().into();
        bytes[32] |= u8::from(recovery.is_y_odd()) << 7;
        CompactSignature(bytes)
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({})", self.id())
    }
}

/// An EIP-2098 signature, 64 bytes, low s.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CompactSignature(pub [u8; 64]);

impl CompactSignature {
    /// The node that signed `hash`; `None` if this is no valid low-s signature.
    #[must_use]
    pub fn recover(&self, hash: &Digest) -> Option<NodeId> {
        let mut bytes = self.0;
        let parity = bytes[32] >> 7;
        bytes[32] &= 0x7f;
        let signature = Signature::from_slice(&bytes).ok()?;
        // A high s would be a second valid signature of the same message (EIP-2).
        if signature.normalize_s().is_some() {
            return None;
        }
        let recovery = RecoveryId::from_byte(parity)?;
        let key = VerifyingKey::recover_from_prehash(&hash.0, &signature, recovery).ok()?;
        Some(address(&key))
    }
}

impl fmt::Debug for CompactSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

crate::cbor::cbor_bytes!(CompactSignature, 64);

/// Keccak-256, as Ethereum uses it (not the later SHA3-256).
#[must_use]
pub fn keccak256(parts: &[&[u8]]) -> Digest {
    let mut hasher = Keccak256::new();
    for part in parts {
        hasher.update(part);
    }
    Digest(hasher.finalize().into())
}

/// The node id of a public key in SEC 1 encoding (33 or 65 bytes); `None` if it is not a point.
#[must_use]
pub fn id_of_public(sec1: &[u8]) -> Option<NodeId> {
    VerifyingKey::from_sec1_bytes(sec1).ok().map(|key| address(&key))
}

fn address(key: &VerifyingKey) -> NodeId {
    let point = key.to_encoded_point(false);
    let hash = keccak256(&[&point.as_bytes()[1..]]);
    NodeId(hash.0[12..].try_into().expect("32 - 12 = 20 bytes"))
}
