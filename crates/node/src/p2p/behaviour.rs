//! What a peer does on a connection, put together: streams, identification, pings, the distributed hash table,
//! gossip, and the ways through address translation (relay v2, DCUtR, AutoNAT v2).
//!
//! Nothing here decides anything about models: [`super::drive`] turns events into answers to commands.

use super::book::AddressBook;
use super::hosts::HostLimit;
use super::limits as l;
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::gossipsub::{
    self, AllowAllSubscriptionFilter, IdentityTransform, MaxCountSubscriptionFilter, MessageAuthenticity,
    MessageId, PeerScoreParams, PeerScoreThresholds, TopicScoreParams, ValidationMode,
};
use libp2p::identity::Keypair;
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{PeerId, StreamProtocol, autonat, dcutr, identify, kad, ping, relay};
use libp2p_stream as streams;
use lockstep_base::Digest;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// Name of the distributed hash table: its own, so that peers of other networks never meet ours.
pub(super) const KAD_PROTOCOL: StreamProtocol = StreamProtocol::new("/lockstep/kad/1");
/// What identification calls the network.
const NETWORK_NAME: &str = "/lockstep/1";
/// Protocol of peers that relay.
pub(super) const RELAY_HOP: &str = "/libp2p/circuit/relay/0.2.0/hop";

pub(super) type Gossip =
    gossipsub::Behaviour<IdentityTransform, MaxCountSubscriptionFilter<AllowAllSubscriptionFilter>>;

#[derive(NetworkBehaviour)]
pub(super) struct Behaviour {
    limits: connection_limits::Behaviour,
    hosts: HostLimit,
    book: AddressBook,
    pub(super) streams: streams::Behaviour,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    pub(super) kad: kad::Behaviour<MemoryStore>,
    pub(super) gossip: Gossip,
    relay_client: relay::client::Behaviour,
    relay: Toggle<relay::Behaviour>,
    dcutr: dcutr::Behaviour,
    autonat: Toggle<autonat::v2::client::Behaviour>,
    autonat_server: autonat::v2::server::Behaviour,
}

impl Behaviour {
    /// The behaviour of the peer with `key`. Only a peer that `listens` is tested for reachability, and relays.
    pub(super) fn new(
        key: &Keypair,
        relay_client: relay::client::Behaviour,
        listens: bool,
    ) -> Result<Behaviour, String> {
        let peer = key.public().to_peer_id();
        let limits = ConnectionLimits::default()
            .with_max_pending_incoming(Some(l::PENDING_MAX))
            .with_max_pending_outgoing(Some(l::PENDING_MAX))
            .with_max_established_incoming(Some(l::INCOMING_MAX))
            .with_max_established_per_peer(Some(l::PER_PEER_MAX));
        let identify = identify::Config::new(NETWORK_NAME.into(), key.public())
            .with_agent_version(concat!("lockstep/", env!("CARGO_PKG_VERSION")).into())
            .with_push_listen_addr_updates(true)
            // What peers say of themselves is looked at before it is written down.
            .with_cache_size(0);
        let ping = ping::Config::new().with_interval(l::PING_INTERVAL).with_timeout(l::PING_TIMEOUT);
        let tests = autonat::v2::client::Config::default()
            .with_max_candidates(l::ADDRESSES_TESTED_MAX)
            .with_probe_interval(l::ADDRESS_TEST_INTERVAL);
        let tests = autonat::v2::client::Behaviour::new(rand_core::OsRng, tests);
        Ok(Behaviour {
            limits: connection_limits::Behaviour::new(limits),
            hosts: HostLimit::new(l::PER_HOST_MAX),
            book: AddressBook::new(),
            streams: streams::Behaviour::new(),
            identify: identify::Behaviour::new(identify),
            ping: ping::Behaviour::new(ping),
            kad: table(peer, listens),
            gossip: gossip(key)?,
            relay_client,
            relay: listens.then(|| relay::Behaviour::new(peer, relay_config())).into(),
            dcutr: dcutr::Behaviour::new(peer),
            autonat: listens.then_some(tests).into(),
            autonat_server: autonat::v2::server::Behaviour::default(),
        })
    }
}

fn relay_config() -> relay::Config {
    relay::Config {
        max_reservations: l::RELAY_RESERVATIONS_MAX,
        max_circuits: l::RELAY_CIRCUITS_MAX,
        max_circuit_duration: l::RELAY_CIRCUIT_TIME,
        max_circuit_bytes: l::RELAY_CIRCUIT_BYTES,
        ..relay::Config::default()
    }
}

/// The distributed hash table. It holds who serves which model and nothing else: values are never stored.
fn table(peer: PeerId, listens: bool) -> kad::Behaviour<MemoryStore> {
    let store = MemoryStoreConfig {
        max_records: 0,
        max_value_bytes: 0,
        max_providers_per_key: l::KAD_PROVIDERS_MAX,
        max_provided_keys: l::KAD_KEYS_MAX,
    };
    let mut config = kad::Config::new(KAD_PROTOCOL);
    config
        .set_query_timeout(l::KAD_QUERY_TIMEOUT)
        .set_max_packet_size(l::KAD_PACKET_BYTES)
        .set_provider_record_ttl(Some(l::KAD_PROVIDER_TTL))
        .set_provider_publication_interval(Some(l::KAD_PROVIDE_INTERVAL))
        // What peers ask us to store is looked at first: values are refused.
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        // Paths that share no peer: one liar does not decide what a query finds (S/Kademlia, 4.4).
        .disjoint_query_paths(true);
    let mut table = kad::Behaviour::with_config(peer, MemoryStore::with_config(peer, store), config);
    table.set_mode(Some(if listens { kad::Mode::Server } else { kad::Mode::Client }));
    table
}

/// Gossip: messages are signed by whoever publishes them, and passed on only after they were found valid.
fn gossip(key: &Keypair) -> Result<Gossip, String> {
    let mut config = gossipsub::ConfigBuilder::default();
    config
        .protocol_id_prefix("/lockstep/gossip")
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        .max_transmit_size(l::GOSSIP_BYTES_MAX)
        .max_messages_per_rpc(Some(l::GOSSIP_PER_RPC_MAX))
        .duplicate_cache_time(l::GOSSIP_KNOWN)
        // A message is its content: what is sent again in another envelope is known already.
        .message_id_fn(|message| {
            MessageId::from(Digest::of(&[message.topic.as_str().as_bytes(), b"\0", &message.data]).0.to_vec())
        });
    let config = config.build().map_err(|error| error.to_string())?;
    let filter = MaxCountSubscriptionFilter {
        filter: AllowAllSubscriptionFilter {},
        max_subscribed_topics: l::TOPICS_PER_PEER_MAX,
        max_subscriptions_per_request: l::GOSSIP_PER_RPC_MAX,
    };
    let mut gossip =
        Gossip::new_with_subscription_filter(MessageAuthenticity::Signed(key.clone()), config, filter)?;
    gossip.with_peer_score(score(), PeerScoreThresholds::default())?;
    Ok(gossip)
}

/// How peers are scored. Crowds behind one address lose, and so does whoever breaks the protocol.
fn score() -> PeerScoreParams {
    PeerScoreParams {
        ip_colocation_factor_weight: -1.0,
        ip_colocation_factor_threshold: l::GOSSIP_PEERS_PER_HOST,
        ip_colocation_factor_whitelist: [
            IpAddr::from(Ipv4Addr::LOCALHOST),
            IpAddr::from(Ipv6Addr::LOCALHOST),
        ]
        .into(),
        ..PeerScoreParams::default()
    }
}

/// How peers are scored in a topic. Topics are quiet, so nobody loses by saying little. Every invalid message costs, squared: with
/// the default thresholds one is forgiven, two end the exchange of gossip, three and the peer is not heard any more
/// until the score has decayed.
pub(super) fn topic_score() -> TopicScoreParams {
    TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 0.01,
        time_in_mesh_quantum: Duration::from_secs(1),
        time_in_mesh_cap: 100.0,
        first_message_deliveries_weight: 0.1,
        first_message_deliveries_decay: 0.9,
        first_message_deliveries_cap: 10.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: -10.0,
        invalid_message_deliveries_decay: 0.99,
        ..TopicScoreParams::default()
    }
}
