//! The network of nodes: TCP, Noise, Yamux by libp2p 0.56, and nothing above byte streams.
//!
//! A peer *is* its key: the libp2p identity is the node key (secp256k1), so whoever completes the
//! Noise handshake under a peer id can sign receipts under the matching node id, and nobody else
//! can. [`Network`] opens and accepts streams of the two protocols; what travels on them is
//! decided by the state machines of `lockstep-mesh`.

mod identity;
mod network;
mod outbox;
mod serve;
mod stream;

pub use identity::{
    PeerAddress, PeerAddressError, keypair, load_or_create_key, node_of_peer, peer_of_key, random_key,
};
pub use network::{Accepted, Listening, Network, NetworkError};
pub use serve::serve;
pub use stream::{FrameReader, FrameWriter, StreamError, split};
