//! Node keys as libp2p identities, the key file, and addresses of peers.

use libp2p::identity::{Keypair, PublicKey, secp256k1};
use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use lockstep_base::keys::{NodeId, NodeKey, id_of_public};
use std::fmt;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::str::FromStr;

/// Bytes of a key file that are read: no key is longer.
const KEY_FILE_BYTES_MAX: u64 = 256;

/// The libp2p identity of a node key.
#[must_use]
pub fn keypair(key: &NodeKey) -> Keypair {
    let mut bytes = *key.to_bytes();
    let secret = secp256k1::SecretKey::try_from_bytes(&mut bytes).expect("a node key is a secret key");
    secp256k1::Keypair::from(secret).into()
}

/// The peer id of a node key.
#[must_use]
pub fn peer_of_key(key: &NodeKey) -> PeerId {
    keypair(key).public().to_peer_id()
}

/// The node behind a peer id; `None` if the peer's key is not secp256k1 (its id is then a hash,
/// and it can sign no receipts).
#[must_use]
pub fn node_of_peer(peer: &PeerId) -> Option<NodeId> {
    const IDENTITY_HASH: u64 = 0;
    let hash = peer.as_ref();
    if hash.code() != IDENTITY_HASH {
        return None;
    }
    let key = PublicKey::try_decode_protobuf(hash.digest()).ok()?.try_into_secp256k1().ok()?;
    id_of_public(&key.to_bytes())
}

/// Reads the node key at `path`, or makes one there (readable by its owner only).
///
/// # Errors
/// What the file system says, or that the file holds no key.
pub fn load_or_create_key(path: &Path) -> std::io::Result<NodeKey> {
    let named =
        |error: std::io::Error| std::io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    match read_key_file(path) {
        Ok(bytes) => parse_key(&bytes).ok_or_else(|| {
            std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                format!(
                    "{}: not a node key: got {} bytes (of at most {KEY_FILE_BYTES_MAX}), expected 64 hexadecimal digits of a secp256k1 secret",
                    path.display(),
                    bytes.len()
                ),
            )
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = random_key();
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent).map_err(named)?;
            }
            let mut options = std::fs::OpenOptions::new();
            options.write(true).create_new(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            let mut file = options.open(path).map_err(named)?;
            writeln!(file, "{}", lockstep_base::digest::hex(&*key.to_bytes())).map_err(named)?;
            Ok(key)
        }
        Err(error) => Err(named(error)),
    }
}

fn read_key_file(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(KEY_FILE_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn parse_key(bytes: &[u8]) -> Option<NodeKey> {
    let text = std::str::from_utf8(bytes).ok()?;
    NodeKey::from_bytes(&lockstep_base::digest::unhex(text.trim())?).ok()
}

/// A fresh key from the operating system's randomness.
#[must_use]
pub fn random_key() -> NodeKey {
    loop {
        // All but about 2^-128 of all 32-byte strings are secret keys.
        if let Ok(key) = NodeKey::from_bytes(&rand::random::<[u8; 32]>()) {
            return key;
        }
    }
}

/// Where a peer listens and who it is: `/ip4/1.2.3.4/tcp/4001/p2p/16Uiu2…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// Its identity.
    pub peer: PeerId,
    /// Its node id.
    pub node: NodeId,
    /// Its address, without the peer id.
    pub address: Multiaddr,
}

/// Why a text is no peer address.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PeerAddressError {
    /// Not a multiaddr.
    #[error("{text:?} is not a peer address: {why}; expected /ip4/HOST/tcp/PORT/p2p/PEER")]
    Syntax {
        /// What was given.
        text: String,
        /// What the parser says.
        why: String,
    },
    /// No peer id at the end.
    #[error("{text:?} names no peer, expected /p2p/PEER at its end: without it, anybody could answer")]
    NoPeer {
        /// What was given.
        text: String,
    },
    /// The peer's key cannot sign receipts.
    #[error("peer {peer} has no secp256k1 key, expected a node key")]
    NotANode {
        /// The peer.
        peer: PeerId,
    },
}

impl FromStr for PeerAddress {
    type Err = PeerAddressError;

    fn from_str(text: &str) -> Result<PeerAddress, PeerAddressError> {
        let syntax =
            |why: &dyn fmt::Display| PeerAddressError::Syntax { text: text.into(), why: why.to_string() };
        let mut address = Multiaddr::from_str(text).map_err(|error| syntax(&error))?;
        let Some(Protocol::P2p(peer)) = address.pop() else {
            return Err(PeerAddressError::NoPeer { text: text.into() });
        };
        let node = node_of_peer(&peer).ok_or(PeerAddressError::NotANode { peer })?;
        Ok(PeerAddress { peer, node, address })
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/p2p/{}", self.address, self.peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// interfaces.md, identity: the libp2p identity and the signer of receipts are one key.
    #[test]
    fn a_peer_id_names_the_node_that_signs() {
        let key = random_key();
        assert_eq!(node_of_peer(&peer_of_key(&key)), Some(key.id()));
    }

    /// A key file is made once and read back; a file that is no key is refused, not replaced.
    #[test]
    fn the_key_file_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sub").join("node.key");
        let made = load_or_create_key(&path).unwrap();
        assert_eq!(load_or_create_key(&path).unwrap().id(), made.id());
        std::fs::write(&path, "not a key").unwrap();
        assert!(load_or_create_key(&path).unwrap_err().to_string().contains("got 9 bytes"));
        assert_eq!(std::fs::read(&path).unwrap(), b"not a key");
    }

    /// Addresses without a peer, or of peers that cannot sign, are refused.
    #[test]
    fn addresses_name_a_node() {
        let key = random_key();
        let text = format!("/ip4/127.0.0.1/tcp/4001/p2p/{}", peer_of_key(&key));
        let address: PeerAddress = text.parse().unwrap();
        assert_eq!((address.node, address.to_string()), (key.id(), text));
        assert!(matches!(
            "/ip4/127.0.0.1/tcp/4001".parse::<PeerAddress>(),
            Err(PeerAddressError::NoPeer { .. })
        ));
        assert!(matches!("localhost:4001".parse::<PeerAddress>(), Err(PeerAddressError::Syntax { .. })));
    }
}
