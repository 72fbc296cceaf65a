//! Limits of the network, with their units: what a peer, or all of them together, may cost.

use std::time::Duration;

/// An idle connection is closed after this long.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// A dial that has not ended after this long has failed, and so has opening a stream.
pub const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Commands that wait for the swarm.
pub const COMMANDS_MAX: usize = 64;
/// Incoming streams that wait to be taken, per protocol.
pub const ACCEPT_QUEUE: usize = 64;

/// Connections that peers have opened.
pub const INCOMING_MAX: u32 = 512;
/// Connections with one peer: one each way, as many that are about to be noticed as dead, and those by which
/// each tests whether the other's addresses can be reached.
pub const PER_PEER_MAX: u32 = 8;
/// Connections from one address (a /64 in IPv6), loopback excepted: what a flood from one machine gets.
pub const PER_HOST_MAX: usize = 64;
/// Connections whose handshake has not ended, each way: what slow peers can hold open, for 10 s each.
pub const PENDING_MAX: u32 = 128;

/// Addresses of one peer that are believed.
pub const PEER_ADDRESSES_MAX: usize = 8;
/// Bytes of one address.
pub const ADDRESS_BYTES_MAX: usize = 256;
/// Peers whose addresses are remembered beyond the routing table.
pub const ADDRESS_BOOK_PEERS: usize = 1024;
/// Addresses of our own whose reachability is tested.
pub const ADDRESSES_TESTED_MAX: usize = 4;
/// Time between two such tests.
pub const ADDRESS_TEST_INTERVAL: Duration = Duration::from_secs(15);
/// Failed tests, without one that succeeded, after which a node looks for relays.
pub const FAILED_TESTS_BEFORE_RELAY: u32 = 3;

/// Bytes of one gossip message.
pub const GOSSIP_BYTES_MAX: usize = 16 << 10;
/// Messages, subscriptions and control messages of one gossip exchange.
pub const GOSSIP_PER_RPC_MAX: usize = 128;
/// Topics that one peer may be subscribed to.
pub const TOPICS_PER_PEER_MAX: usize = 256;
/// Topics that we are subscribed to.
pub const TOPICS_MAX: usize = 64;
/// Messages of one topic that wait for whoever reads them; more are dropped, as gossip may be.
pub const GOSSIP_QUEUE: usize = 256;
/// How long a message is known, so that it is neither read nor passed on twice.
pub const GOSSIP_KNOWN: Duration = Duration::from_secs(120);
/// Peers behind one address that gossip with us before each of them scores lower (squared).
pub const GOSSIP_PEERS_PER_HOST: f64 = 16.0;

/// Keys of the distributed hash table that a node keeps providers of.
pub const KAD_KEYS_MAX: usize = 4096;
/// Providers kept of one key.
pub const KAD_PROVIDERS_MAX: usize = 64;
/// How long a provider is believed.
pub const KAD_PROVIDER_TTL: Duration = Duration::from_secs(30 * 60);
/// How often a provider says so again.
pub const KAD_PROVIDE_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// A query of the table ends after this long.
pub const KAD_QUERY_TIMEOUT: Duration = Duration::from_secs(20);
/// Bytes of one message of the table.
pub const KAD_PACKET_BYTES: usize = 16 << 10;
/// Providers that one look-up gives.
pub const LOOKUP_PEERS_MAX: usize = 64;
/// Look-ups that run at a time.
pub const LOOKUPS_MAX: usize = 32;

/// Relays that a node asks to be reached through.
pub const RELAYS_MAX: usize = 2;
/// Peers that one relay serves.
pub const RELAY_RESERVATIONS_MAX: usize = 64;
/// Connections through one relay.
pub const RELAY_CIRCUITS_MAX: usize = 32;
/// How long one of them may last.
pub const RELAY_CIRCUIT_TIME: Duration = Duration::from_secs(15 * 60);
/// Bytes through one of them: rows of some thousand positions.
pub const RELAY_CIRCUIT_BYTES: u64 = 64 << 20;

/// Time between two pings of a connection.
pub const PING_INTERVAL: Duration = Duration::from_secs(10);
/// A peer that has not answered a ping within this time has not answered.
pub const PING_TIMEOUT: Duration = Duration::from_secs(15);
