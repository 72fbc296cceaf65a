//! The one task that owns the swarm: commands of handles in, events of peers in, answers out.

use super::behaviour::{Behaviour, BehaviourEvent, KAD_PROTOCOL, RELAY_HOP, topic_score};
use super::gossip::{Heard, Judge, Topic, Verdict};
use super::identity::{PeerAddress, node_of_peer};
use super::limits as l;
use super::network::NetworkError;
use super::reach::{believed, is_relayed, peer_at_end, scope_of_way, without_peer};
use super::status::{NetworkStatus, PeerStatus, Tested};
use futures::StreamExt as _;
use libp2p::core::ConnectedPoint;
use libp2p::gossipsub::{self, PublishError, TopicHash};
use libp2p::kad::{self, GetProvidersOk, InboundRequest, QueryId, QueryResult};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Swarm, identify, relay};
use lockstep_base::Digest;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

pub(super) type Reply<T> = oneshot::Sender<Result<T, NetworkError>>;

pub(super) enum Command {
    /// Be connected to a peer.
    Dial(PeerAddress, Reply<()>),
    /// Be connected to whoever answers at an address.
    Connect(Multiaddr, Reply<PeerId>),
    /// Hear a topic.
    Subscribe(Topic, Judge, mpsc::Sender<Heard>, Reply<()>),
    /// Say something in a topic; the number of neighbours that hear it at once is not known.
    Publish(Topic, Vec<u8>, Reply<()>),
    /// Be found under a key of the table.
    Provide(Digest, Reply<()>),
    /// Who can be found under a key of the table.
    Lookup(Digest, Reply<Vec<PeerId>>),
    /// Addresses that a peer says it has.
    Remember(PeerId, Vec<Multiaddr>),
    /// Close every connection with a peer.
    Disconnect(PeerId),
    /// What is known.
    Status(oneshot::Sender<NetworkStatus>),
}

enum Waiting {
    Peer(PeerAddress, Reply<()>),
    Address(Multiaddr, Reply<PeerId>),
}

struct Subscription {
    judge: Judge,
    to: mpsc::Sender<Heard>,
}

struct Lookup {
    found: Vec<PeerId>,
    reply: Option<Reply<Vec<PeerId>>>,
}

/// What is known of a connected peer.
#[derive(Default)]
struct Known {
    /// Where the other end of each connection is.
    connections: BTreeMap<ConnectionId, Multiaddr>,
    rtt: Option<Duration>,
    agent: String,
    relays: bool,
    /// Where it says it listens, as far as that is believed.
    addresses: Vec<Multiaddr>,
}

/// Runs the swarm until every handle is gone.
pub(super) async fn drive(swarm: Swarm<Behaviour>, mut queue: mpsc::Receiver<Command>) {
    let mut driver = Driver {
        swarm,
        waiting: HashMap::new(),
        topics: HashMap::new(),
        lookups: HashMap::new(),
        peers: HashMap::new(),
        tested: BTreeMap::new(),
        failed_tests: 0,
        relays: Vec::new(),
    };
    loop {
        tokio::select! {
            command = queue.recv() => match command {
                None => return,
                Some(command) => driver.command(command),
            },
            event = driver.swarm.select_next_some() => driver.event(event),
        }
    }
}

struct Driver {
    swarm: Swarm<Behaviour>,
    waiting: HashMap<ConnectionId, Waiting>,
    topics: HashMap<TopicHash, Subscription>,
    lookups: HashMap<QueryId, Lookup>,
    peers: HashMap<PeerId, Known>,
    /// Own addresses that were tested from outside, and what came of it.
    tested: BTreeMap<Multiaddr, Result<(), String>>,
    failed_tests: u32,
    /// Relays that were asked.
    relays: Vec<PeerId>,
}

impl Driver {
    fn command(&mut self, command: Command) {
        match command {
            Command::Dial(peer, reply) => self.dial(peer, reply),
            Command::Connect(address, reply) => self.connect(address, reply),
            Command::Subscribe(topic, judge, to, reply) => {
                let _ = reply.send(self.subscribe(topic, judge, to));
            }
            Command::Publish(topic, bytes, reply) => {
                let _ = reply.send(self.publish(topic, bytes));
            }
            Command::Provide(key, reply) => {
                let told = self.swarm.behaviour_mut().kad.start_providing(kad::RecordKey::new(&key.0));
                let _ = reply.send(told.map(drop).map_err(|error| NetworkError::Table(error.to_string())));
            }
            Command::Lookup(key, reply) => self.lookup(key, reply),
            Command::Remember(peer, addresses) => {
                for address in addresses.into_iter().take(l::PEER_ADDRESSES_MAX) {
                    self.swarm.add_peer_address(peer, address);
                }
            }
            Command::Disconnect(peer) => {
                let _ = self.swarm.disconnect_peer_id(peer);
            }
            Command::Status(reply) => {
                let _ = reply.send(self.status());
            }
        }
    }

    fn dial(&mut self, peer: PeerAddress, reply: Reply<()>) {
        if self.swarm.is_connected(&peer.peer) {
            let _ = reply.send(Ok(()));
            return;
        }
        let options = DialOpts::peer_id(peer.peer)
            .addresses(vec![peer.address.clone()])
            .extend_addresses_through_behaviour()
            .condition(PeerCondition::Always)
            .build();
        let id = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => drop(self.waiting.insert(id, Waiting::Peer(peer, reply))),
            Err(error) => drop(reply.send(Err(dial_error(&peer, error)))),
        }
    }

    fn connect(&mut self, address: Multiaddr, reply: Reply<PeerId>) {
        let peer = peer_at_end(&address);
        if let Some(peer) = peer.filter(|peer| self.swarm.is_connected(peer)) {
            let _ = reply.send(Ok(peer));
            return;
        }
        let options = match peer {
            Some(peer) => DialOpts::peer_id(peer)
                .addresses(vec![without_peer(&address)])
                .condition(PeerCondition::Always)
                .build(),
            None => DialOpts::unknown_peer_id().address(address.clone()).build(),
        };
        let id = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => drop(self.waiting.insert(id, Waiting::Address(address, reply))),
            Err(error) => drop(reply.send(Err(connect_error(&address, error)))),
        }
    }

    fn subscribe(&mut self, topic: Topic, judge: Judge, to: mpsc::Sender<Heard>) -> Result<(), NetworkError> {
        let ident = topic.ident();
        if self.topics.len() >= l::TOPICS_MAX && !self.topics.contains_key(&ident.hash()) {
            return Err(NetworkError::Topics { expected: l::TOPICS_MAX });
        }
        let gossip = &mut self.swarm.behaviour_mut().gossip;
        gossip.subscribe(&ident).map_err(|error| NetworkError::Gossip(error.to_string()))?;
        gossip
            .set_topic_params(ident.clone(), topic_score())
            .map_err(|error| NetworkError::Gossip(error.to_string()))?;
        self.topics.insert(ident.hash(), Subscription { judge, to });
        Ok(())
    }

    fn publish(&mut self, topic: Topic, bytes: Vec<u8>) -> Result<(), NetworkError> {
        if bytes.len() > l::GOSSIP_BYTES_MAX {
            return Err(NetworkError::Gossip(format!(
                "a message of {} bytes, expected at most {}",
                bytes.len(),
                l::GOSSIP_BYTES_MAX
            )));
        }
        match self.swarm.behaviour_mut().gossip.publish(topic.ident(), bytes) {
            // Nobody is there to hear it, or everybody has heard it: it will be said again.
            Ok(_) | Err(PublishError::NoPeersSubscribedToTopic | PublishError::Duplicate) => Ok(()),
            Err(error) => Err(NetworkError::Gossip(error.to_string())),
        }
    }

    fn lookup(&mut self, key: Digest, reply: Reply<Vec<PeerId>>) {
        if self.lookups.len() >= l::LOOKUPS_MAX {
            let _ = reply.send(Err(NetworkError::Table("too many look-ups at once".into())));
            return;
        }
        let id = self.swarm.behaviour_mut().kad.get_providers(kad::RecordKey::new(&key.0));
        self.lookups.insert(id, Lookup { found: Vec::new(), reply: Some(reply) });
    }

    fn event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::ConnectionEstablished { connection_id, peer_id, endpoint, .. } => {
                let address = match &endpoint {
                    ConnectedPoint::Dialer { address, .. } => without_peer(address),
                    ConnectedPoint::Listener { send_back_addr, .. } => without_peer(send_back_addr),
                };
                self.peers.entry(peer_id).or_default().connections.insert(connection_id, address);
                match self.waiting.remove(&connection_id) {
                    Some(Waiting::Peer(_, reply)) => drop(reply.send(Ok(()))),
                    Some(Waiting::Address(_, reply)) => drop(reply.send(Ok(peer_id))),
                    None => {}
                }
            }
            SwarmEvent::ConnectionClosed { connection_id, peer_id, num_established, .. } => {
                if let Some(peer) = self.peers.get_mut(&peer_id) {
                    peer.connections.remove(&connection_id);
                }
                if num_established == 0 {
                    self.peers.remove(&peer_id);
                    self.relays.retain(|relay| *relay != peer_id);
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                match self.waiting.remove(&connection_id) {
                    Some(Waiting::Peer(peer, reply)) => drop(reply.send(Err(dial_error(&peer, error)))),
                    Some(Waiting::Address(address, reply)) => {
                        let _ = reply.send(Err(connect_error(&address, error)));
                    }
                    None => {}
                }
            }
            SwarmEvent::Behaviour(event) => self.behaviour(event),
            _ => {}
        }
    }

    fn behaviour(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Gossip(gossipsub::Event::Message { propagation_source, message_id, message }) => {
                let verdict = self.judge(propagation_source, message);
                let gossip = &mut self.swarm.behaviour_mut().gossip;
                gossip.report_message_validation_result(&message_id, &propagation_source, verdict.into());
            }
            BehaviourEvent::Identify(identify::Event::Received { connection_id, peer_id, info }) => {
                self.identified(connection_id, peer_id, &info);
            }
            BehaviourEvent::Ping(event) => {
                if let (Some(peer), Ok(rtt)) = (self.peers.get_mut(&event.peer), event.result) {
                    peer.rtt = Some(rtt);
                }
            }
            BehaviourEvent::Kad(event) => self.table(event),
            BehaviourEvent::Autonat(event) => {
                let result = event.result.map_err(|error| error.to_string());
                match &result {
                    Ok(()) => self.failed_tests = 0,
                    Err(_) => self.failed_tests += 1,
                }
                if self.tested.len() < l::ADDRESSES_TESTED_MAX || self.tested.contains_key(&event.tested_addr)
                {
                    self.tested.insert(event.tested_addr, result);
                }
                self.seek_relay();
            }
            BehaviourEvent::RelayClient(relay::client::Event::ReservationReqAccepted {
                relay_peer_id,
                ..
            }) if !self.relays.contains(&relay_peer_id) => {
                self.relays.push(relay_peer_id);
            }
            _ => {}
        }
    }

    fn judge(&mut self, from: PeerId, message: gossipsub::Message) -> Verdict {
        let Some(subscription) = self.topics.get_mut(&message.topic) else { return Verdict::Ignore };
        let author = message.source.and_then(|peer| node_of_peer(&peer));
        let heard = Heard { author, from, bytes: message.data };
        let verdict = (subscription.judge)(&heard);
        if verdict == Verdict::Accept
            && subscription.to.try_send(heard).is_err()
            && subscription.to.is_closed()
        {
            self.topics.remove(&message.topic);
            let topic = gossipsub::IdentTopic::new(message.topic.into_string());
            self.swarm.behaviour_mut().gossip.unsubscribe(&topic);
        }
        verdict
    }

    fn identified(&mut self, connection: ConnectionId, id: PeerId, info: &identify::Info) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Some(met) = peer.connections.get(&connection) else { return };
        peer.agent = info.agent_version.chars().filter(|c| !c.is_control()).take(64).collect();
        peer.addresses = believed(&info.listen_addrs, met);
        let speaks = |name: &str| info.protocols.iter().any(|protocol| protocol.as_ref() == name);
        peer.relays = speaks(RELAY_HOP) && !is_relayed(met);
        let provides = speaks(KAD_PROTOCOL.as_ref());
        for address in peer.addresses.clone() {
            self.swarm.add_peer_address(id, address.clone());
            if provides {
                self.swarm.behaviour_mut().kad.add_address(&id, address);
            }
        }
    }

    fn table(&mut self, event: kad::Event) {
        match event {
            kad::Event::OutboundQueryProgressed {
                id,
                result: QueryResult::GetProviders(result),
                step,
                ..
            } => {
                let Some(lookup) = self.lookups.get_mut(&id) else { return };
                let mut new = Vec::new();
                if let Ok(GetProvidersOk::FoundProviders { providers, .. }) = result {
                    for peer in providers {
                        if lookup.found.len() < l::LOOKUP_PEERS_MAX && !lookup.found.contains(&peer) {
                            lookup.found.push(peer);
                            new.push(peer);
                        }
                    }
                }
                if step.last {
                    let found = std::mem::take(&mut lookup.found);
                    if let Some(reply) = lookup.reply.take() {
                        let _ = reply.send(Ok(found));
                    }
                    self.lookups.remove(&id);
                }
                // Their addresses are known as long as the query runs: they go into the address book by being dialled.
                for peer in new {
                    if !self.swarm.is_connected(&peer) && peer != *self.swarm.local_peer_id() {
                        let _ = self.swarm.dial(DialOpts::peer_id(peer).build());
                    }
                }
            }
            kad::Event::InboundRequest { request: InboundRequest::AddProvider { record: Some(record) } } => {
                // The table has checked that the provider is the sender. A full store refuses.
                let _ =
                    kad::store::RecordStore::add_provider(self.swarm.behaviour_mut().kad.store_mut(), record);
            }
            _ => {}
        }
    }

    /// A node that nobody can reach asks public peers to be reached through them.
    fn seek_relay(&mut self) {
        let reachable = self.swarm.external_addresses().next().is_some();
        if reachable || self.failed_tests < l::FAILED_TESTS_BEFORE_RELAY || self.relays.len() >= l::RELAYS_MAX
        {
            return;
        }
        let found = self.peers.iter().filter(|(id, peer)| peer.relays && !self.relays.contains(id));
        let way = found.filter_map(|(id, peer)| {
            let address = peer.addresses.iter().find(|address| scope_of_way(address).is_some())?;
            Some((*id, address.clone().with(Protocol::P2p(*id)).with(Protocol::P2pCircuit)))
        });
        let Some((id, way)) = way.min() else { return };
        if self.swarm.listen_on(way).is_ok() {
            self.relays.push(id);
            // Others need not look for us where nobody can reach us.
            self.swarm.behaviour_mut().kad.set_mode(Some(kad::Mode::Client));
        }
    }

    fn status(&mut self) -> NetworkStatus {
        let gossip = &self.swarm.behaviour().gossip;
        let mut peers: Vec<PeerStatus> = self
            .peers
            .iter()
            .map(|(id, peer)| PeerStatus {
                peer: *id,
                node: node_of_peer(id),
                address: peer.connections.values().next().cloned(),
                addresses: peer.addresses.clone(),
                relayed: peer.connections.values().all(is_relayed),
                rtt: peer.rtt,
                agent: peer.agent.clone(),
                score: gossip.peer_score(id),
            })
            .collect();
        peers.sort_by_key(|peer| peer.peer);
        let tested = self.tested.iter();
        NetworkStatus {
            peer: *self.swarm.local_peer_id(),
            listening: self.swarm.listeners().map(without_peer).collect(),
            external: self.swarm.external_addresses().map(without_peer).collect(),
            tested: tested
                .map(|(address, result)| Tested { address: address.clone(), result: result.clone() })
                .collect(),
            relays: self.relays.clone(),
            table: self.swarm.behaviour_mut().kad.kbuckets().map(|bucket| bucket.num_entries()).sum(),
            peers,
        }
    }
}

fn dial_error(peer: &PeerAddress, error: DialError) -> NetworkError {
    match error {
        DialError::WrongPeerId { obtained, .. } => NetworkError::WrongKey {
            address: peer.address.clone(),
            got: Box::new(obtained),
            expected: Box::new(peer.peer),
        },
        error => NetworkError::Unreachable { peer: peer.to_string(), why: error.to_string() },
    }
}

fn connect_error(address: &Multiaddr, error: DialError) -> NetworkError {
    match (error, peer_at_end(address)) {
        (DialError::WrongPeerId { obtained, .. }, Some(expected)) => NetworkError::WrongKey {
            address: without_peer(address),
            got: Box::new(obtained),
            expected: Box::new(expected),
        },
        (error, _) => NetworkError::Unreachable { peer: address.to_string(), why: error.to_string() },
    }
}
