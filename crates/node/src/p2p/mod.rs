//! The network of nodes by libp2p 0.56: TCP and QUIC, Noise, Yamux, and what lets peers find each other.
//!
//! A peer *is* its key: the libp2p identity is the node key (secp256k1), so whoever completes the
//! handshake under a peer id can sign receipts under the matching node id, and nobody else
//! can. [`Network`] opens and accepts streams, publishes and hears topics, and looks up who provides what; what travels is
//! decided by the state machines of `lockstep-mesh`, what a swarm is by [`crate::swarm`]. docs/spec/network.md has the protocols.

mod behaviour;
mod book;
mod drive;
mod gossip;
mod hosts;
mod identity;
pub mod limits;
mod network;
mod outbox;
pub mod private;
pub mod reach;
mod serve;
mod status;
mod stream;

pub use gossip::{Heard, Judge, Topic, Verdict};
pub use identity::{
    PeerAddress, PeerAddressError, keypair, load_or_create_key, node_of_peer, peer_of_key, random_key,
};
pub use network::{Accepted, Listening, Network, NetworkConfig, NetworkError};
pub use serve::serve;
pub use status::{NetworkStatus, PeerStatus, Tested};
pub use stream::{FrameReader, FrameWriter, StreamError, split};
