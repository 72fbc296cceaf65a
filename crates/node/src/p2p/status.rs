//! What a peer knows of itself and of those that it is connected to.

use libp2p::{Multiaddr, PeerId};
use lockstep_base::keys::NodeId;
use std::time::Duration;

/// The state of the network as this process sees it.
#[derive(Clone, Debug)]
pub struct NetworkStatus {
    /// Who we are.
    pub peer: PeerId,
    /// Addresses that are listened at.
    pub listening: Vec<Multiaddr>,
    /// Addresses at which others can reach us: configured, found by AutoNAT, or through a relay.
    pub external: Vec<Multiaddr>,
    /// Own addresses that others tested.
    pub tested: Vec<Tested>,
    /// Relays that were asked to let others reach us.
    pub relays: Vec<PeerId>,
    /// Peers in the routing table of the distributed hash table.
    pub table: usize,
    /// Connected peers, by id.
    pub peers: Vec<PeerStatus>,
}

impl NetworkStatus {
    /// Whether there is a connection with a node.
    #[must_use]
    pub fn is_connected(&self, node: NodeId) -> bool {
        self.peers.iter().any(|peer| peer.node == Some(node))
    }
}

/// An own address that a peer dialled because we asked it to.
#[derive(Clone, Debug)]
pub struct Tested {
    /// The address.
    pub address: Multiaddr,
    /// Why it could not be reached.
    pub result: Result<(), String>,
}

/// A connected peer.
#[derive(Clone, Debug)]
pub struct PeerStatus {
    /// Who.
    pub peer: PeerId,
    /// The node, if its key can sign.
    pub node: Option<NodeId>,
    /// The other end of one connection.
    pub address: Option<Multiaddr>,
    /// Where it says it listens, as far as that is believed.
    pub addresses: Vec<Multiaddr>,
    /// Whether every connection leads through a relay.
    pub relayed: bool,
    /// The last round trip that was measured.
    pub rtt: Option<Duration>,
    /// Its program.
    pub agent: String,
    /// Its score in gossip; below 0 is bad.
    pub score: Option<f64>,
}
