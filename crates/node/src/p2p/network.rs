//! One libp2p swarm behind a handle: the border between this program and the network.
//!
//! Above it are streams to named peers, topics, a table of who provides what, and addresses; below it everything else. What the
//! streams promise is `sim/src/transport.rs`: bytes in order and once, losses reported, nothing after a loss.

use super::behaviour::Behaviour;
use super::drive::{Command, drive};
use super::gossip::{Heard, Judge, Topic};
use super::identity::{PeerAddress, keypair, node_of_peer};
use super::limits::{
    ACCEPT_QUEUE, COMMANDS_MAX, DIAL_TIMEOUT, GOSSIP_QUEUE, IDLE_TIMEOUT, KAD_QUERY_TIMEOUT,
};
use super::private::Membership;
use super::private::upgrade::Members;
use super::status::NetworkStatus;
use futures::StreamExt as _;
use libp2p::core::transport::Transport as _;
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::multiaddr::Protocol;
use libp2p::pnet::{PnetConfig, PreSharedKey};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, Swarm, noise, tcp, yamux};
use libp2p_stream as streams;
use lockstep_base::Digest;
use lockstep_base::keys::{NodeId, NodeKey};
use lockstep_mesh::frame::Channel;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Why the network could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NetworkError {
    /// The address to listen at is taken or not ours.
    #[error("cannot listen at {address}: {why}")]
    Listen {
        /// The address.
        address: Multiaddr,
        /// What the system says.
        why: String,
    },
    /// A peer answered under another key.
    #[error("the peer at {address} has key {got}, expected {expected}")]
    WrongKey {
        /// Where.
        address: Multiaddr,
        /// Its key.
        got: Box<PeerId>,
        /// The key in the address.
        expected: Box<PeerId>,
    },
    /// No connection.
    #[error("cannot reach {peer}: {why}")]
    Unreachable {
        /// Whom.
        peer: String,
        /// What the transport says.
        why: String,
    },
    /// The peer does not speak the protocol.
    #[error("peer {peer} refuses protocol {protocol}: {why}")]
    Protocol {
        /// Whom.
        peer: Box<PeerId>,
        /// The protocol.
        protocol: &'static str,
        /// What it says.
        why: String,
    },
    /// The transport could not be set up.
    #[error("cannot start the network: {0}")]
    Setup(String),
    /// Gossip refused.
    #[error("gossip: {0}")]
    Gossip(String),
    /// Too many topics.
    #[error("subscribed to {expected} topics already, expected at most that many")]
    Topics {
        /// How many there may be.
        expected: usize,
    },
    /// The distributed hash table refused.
    #[error("the table of providers: {0}")]
    Table(String),
    /// The swarm has ended.
    #[error("the network is shut down")]
    Closed,
}

/// A stream that a peer opened.
#[derive(Debug)]
pub struct Accepted {
    /// The peer's identity.
    pub peer: PeerId,
    /// Its node id.
    pub node: NodeId,
    /// The stream.
    pub stream: Stream,
}

/// Streams that peers open, channel by channel.
pub type Listening = Vec<(Channel, mpsc::Receiver<Accepted>)>;

/// How a peer takes part.
#[derive(Clone, Debug, Default)]
pub struct NetworkConfig {
    /// Addresses to listen at; none for a peer that only dials.
    pub listen: Vec<Multiaddr>,
    /// Addresses at which others reach this peer, as whoever set up its router or host name knows.
    pub external: Vec<Multiaddr>,
    /// The place in a private swarm; without one anybody may connect.
    pub private: Option<Arc<Membership>>,
}

/// A handle on the swarm. The swarm ends with the last handle.
#[derive(Clone)]
pub struct Network {
    commands: mpsc::Sender<Command>,
    control: streams::Control,
    /// The first address of each listener, with the peer id.
    pub addresses: Vec<PeerAddress>,
    /// Who we are.
    pub peer: PeerId,
    /// The place in a private swarm.
    pub membership: Option<Arc<Membership>>,
}

impl std::fmt::Debug for Network {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Network").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

impl Network {
    /// Starts a swarm under `key` that dials and is not dialled.
    ///
    /// # Errors
    /// [`NetworkError::Setup`].
    pub async fn start(key: &NodeKey) -> Result<Network, NetworkError> {
        Ok(Network::driven(swarm(key, false, None).map_err(NetworkError::Setup)?, Vec::new(), None))
    }

    /// Starts a swarm under `key`, listening at `address`, and hands out what peers open: every channel is there
    /// before the first peer can be.
    ///
    /// # Errors
    /// [`NetworkError::Listen`] if the address cannot be listened at.
    pub async fn listen(key: &NodeKey, address: Multiaddr) -> Result<(Network, Listening), NetworkError> {
        let config = NetworkConfig { listen: vec![address], ..NetworkConfig::default() };
        Network::with(key, &config).await
    }

    /// As [`Network::listen`], at any number of addresses.
    ///
    /// # Errors
    /// [`NetworkError::Listen`] naming the address that cannot be listened at.
    pub async fn with(key: &NodeKey, config: &NetworkConfig) -> Result<(Network, Listening), NetworkError> {
        let mut swarm =
            swarm(key, !config.listen.is_empty(), config.private.as_ref()).map_err(NetworkError::Setup)?;
        let control = swarm.behaviour().streams.new_control();
        let incoming = Channel::ALL.map(|channel| (channel, accept(control.clone(), channel)));
        let mut addresses = Vec::new();
        for address in &config.listen {
            let refused = |why: String| NetworkError::Listen { address: address.clone(), why };
            check_free(address).map_err(|error| refused(error.to_string()))?;
            let id = swarm.listen_on(address.clone()).map_err(|error| refused(error.to_string()))?;
            let own = Self::first_address(&mut swarm, id, key).await.map_err(refused)?;
            // Whoever names one address of the machine means to be found at it.
            if !is_any(address) {
                swarm.add_external_address(own.address.clone());
            }
            addresses.push(own);
        }
        for address in &config.external {
            swarm.add_external_address(address.clone());
        }
        Ok((Network::driven(swarm, addresses, config.private.clone()), Vec::from(incoming)))
    }

    fn driven(
        swarm: Swarm<Behaviour>,
        addresses: Vec<PeerAddress>,
        membership: Option<Arc<Membership>>,
    ) -> Network {
        let control = swarm.behaviour().streams.new_control();
        let peer = *swarm.local_peer_id();
        let (commands, queue) = mpsc::channel(COMMANDS_MAX);
        tokio::spawn(drive(swarm, queue));
        Network { commands, control, addresses, peer, membership }
    }

    /// Waits for the listener to tell its address (port 0 becomes a real one) or to fail.
    async fn first_address(
        swarm: &mut Swarm<Behaviour>,
        id: libp2p::core::transport::ListenerId,
        key: &NodeKey,
    ) -> Result<PeerAddress, String> {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::NewListenAddr { listener_id, address } if listener_id == id => {
                    let peer = *swarm.local_peer_id();
                    return Ok(PeerAddress { peer, node: key.id(), address });
                }
                SwarmEvent::ListenerClosed { listener_id, reason, .. } if listener_id == id => {
                    return Err(reason.err().map_or("the listener closed".into(), |e| e.to_string()));
                }
                SwarmEvent::ListenerError { listener_id, error } if listener_id == id => {
                    return Err(error.to_string());
                }
                _ => {}
            }
        }
    }

    async fn ask<T>(&self, command: Command, answer: oneshot::Receiver<T>) -> Result<T, NetworkError> {
        self.commands.send(command).await.map_err(|_| NetworkError::Closed)?;
        answer.await.map_err(|_| NetworkError::Closed)
    }

    /// Opens a stream to `peer`, dialling first where there is no connection.
    ///
    /// # Errors
    /// [`NetworkError`] naming the peer: unreachable, wrong key, protocol refused.
    pub async fn open(&self, peer: &PeerAddress, channel: Channel) -> Result<Stream, NetworkError> {
        let (reply, answer) = oneshot::channel();
        let dialled = self.ask(Command::Dial(peer.clone(), reply), answer);
        tokio::time::timeout(DIAL_TIMEOUT, dialled)
            .await
            .map_err(|_| unreachable(peer, "no answer within 10 s"))???;
        self.stream(peer.peer, channel.protocol()).await
    }

    /// Opens a stream for a protocol to a peer that is connected, or whose addresses the swarm knows.
    ///
    /// # Errors
    /// [`NetworkError`] naming the peer: unreachable, protocol refused.
    pub async fn stream(&self, peer: PeerId, protocol: &'static str) -> Result<Stream, NetworkError> {
        let mut control = self.control.clone();
        let opened = control.open_stream(peer, StreamProtocol::new(protocol));
        let opened = tokio::time::timeout(DIAL_TIMEOUT, opened).await;
        opened.map_err(|_| unreachable(&peer, "no stream within 10 s"))?.map_err(|error| {
            NetworkError::Protocol { peer: Box::new(peer), protocol, why: error.to_string() }
        })
    }

    /// Takes the streams that peers open under a protocol beside those of the mesh; once for each protocol.
    ///
    /// # Errors
    /// [`NetworkError::Setup`] if somebody takes them already.
    pub fn incoming(&self, protocol: &'static str) -> Result<streams::IncomingStreams, NetworkError> {
        let accepted = self.control.clone().accept(StreamProtocol::new(protocol));
        accepted.map_err(|_| NetworkError::Setup(format!("{protocol} is accepted twice")))
    }

    /// Connects to whoever is at `address`: under the key that the address names, or under any if it names none.
    ///
    /// # Errors
    /// [`NetworkError`] naming the address.
    pub async fn connect(&self, address: &Multiaddr) -> Result<PeerId, NetworkError> {
        let (reply, answer) = oneshot::channel();
        let dialled = self.ask(Command::Connect(address.clone(), reply), answer);
        tokio::time::timeout(DIAL_TIMEOUT, dialled)
            .await
            .map_err(|_| unreachable(address, "no answer within 10 s"))??
    }

    /// Hears a topic. `judge` decides what is passed on; what it accepts comes out of the receiver, and the topic is left when that
    /// is dropped.
    ///
    /// # Errors
    /// [`NetworkError`] if there are too many topics.
    pub async fn subscribe(&self, topic: Topic, judge: Judge) -> Result<mpsc::Receiver<Heard>, NetworkError> {
        let (sender, heard) = mpsc::channel(GOSSIP_QUEUE);
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Subscribe(topic, judge, sender, reply), answer).await??;
        Ok(heard)
    }

    /// Says something in a topic. Where nobody is there to hear it, it is lost.
    ///
    /// # Errors
    /// [`NetworkError`] if the message is too long.
    pub async fn publish(&self, topic: Topic, bytes: Vec<u8>) -> Result<(), NetworkError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Publish(topic, bytes, reply), answer).await?
    }

    /// Lets others find us under `key`, from now on.
    ///
    /// # Errors
    /// [`NetworkError`] if there are too many keys.
    pub async fn provide(&self, key: Digest) -> Result<(), NetworkError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Provide(key, reply), answer).await?
    }

    /// Peers that can be found under `key`; they are being dialled.
    ///
    /// # Errors
    /// [`NetworkError`] if too much is looked up at once.
    pub async fn lookup(&self, key: Digest) -> Result<Vec<PeerId>, NetworkError> {
        let (reply, answer) = oneshot::channel();
        let asked = self.ask(Command::Lookup(key, reply), answer);
        tokio::time::timeout(KAD_QUERY_TIMEOUT * 2, asked)
            .await
            .map_err(|_| NetworkError::Table("no answer".into()))??
    }

    /// Remembers addresses at which `peer` may be.
    ///
    /// # Errors
    /// [`NetworkError::Closed`].
    pub async fn remember(&self, peer: PeerId, addresses: Vec<Multiaddr>) -> Result<(), NetworkError> {
        self.commands.send(Command::Remember(peer, addresses)).await.map_err(|_| NetworkError::Closed)
    }

    /// Closes every connection with `peer`.
    ///
    /// # Errors
    /// [`NetworkError::Closed`].
    pub async fn disconnect(&self, peer: PeerId) -> Result<(), NetworkError> {
        self.commands.send(Command::Disconnect(peer)).await.map_err(|_| NetworkError::Closed)
    }

    /// What is known of peers and of our own addresses.
    ///
    /// # Errors
    /// [`NetworkError::Closed`].
    pub async fn status(&self) -> Result<NetworkStatus, NetworkError> {
        let (reply, answer) = oneshot::channel();
        self.ask(Command::Status(reply), answer).await
    }
}

fn unreachable(peer: &impl ToString, why: &str) -> NetworkError {
    NetworkError::Unreachable { peer: peer.to_string(), why: why.into() }
}

/// A swarm, or what the transport says. One that is private speaks TCP only, and to members only.
fn swarm(
    key: &NodeKey,
    listens: bool,
    membership: Option<&Arc<Membership>>,
) -> Result<Swarm<Behaviour>, String> {
    let builder = libp2p::SwarmBuilder::with_existing_identity(keypair(key)).with_tokio();
    let tcp = || tcp::Config::default().nodelay(true);
    let Some(membership) = membership else {
        return Ok(builder
            .with_tcp(tcp(), noise::Config::new, yamux::Config::default)
            .map_err(|error| error.to_string())?
            .with_quic()
            .with_relay_client(noise::Config::new, yamux::Config::default)
            .map_err(|error| error.to_string())?
            .with_behaviour(|key, relay| Ok(Behaviour::new(key, relay, listens)?))
            .map_err(|error| error.to_string())?
            .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE_TIMEOUT))
            .build());
    };
    let secret = PnetConfig::new(PreSharedKey::new(membership.secret()));
    let members = |key: &Keypair| -> Result<Members, noise::Error> {
        Ok(Members { noise: noise::Config::new(key)?, membership: membership.clone() })
    };
    Ok(builder
        .with_other_transport(|key| {
            let transport = tcp::tokio::Transport::new(tcp())
                .and_then(move |socket, _| secret.handshake(socket))
                .upgrade(Version::V1Lazy)
                .authenticate(members(key)?)
                .multiplex(yamux::Config::default())
                .timeout(DIAL_TIMEOUT);
            Ok(transport)
        })
        .map_err(|error| error.to_string())?
        .with_relay_client(members, yamux::Config::default)
        .map_err(|error| error.to_string())?
        .with_behaviour(|key, relay| Ok(Behaviour::new(key, relay, listens)?))
        .map_err(|error| error.to_string())?
        .with_swarm_config(|config| config.with_idle_connection_timeout(IDLE_TIMEOUT))
        .build())
}

/// Streams that peers open under `channel`. Peers whose key cannot sign are not heard.
fn accept(mut control: streams::Control, channel: Channel) -> mpsc::Receiver<Accepted> {
    let protocol = StreamProtocol::new(channel.protocol());
    let mut incoming = control.accept(protocol).expect("each channel is accepted once");
    let (sender, receiver) = mpsc::channel(ACCEPT_QUEUE);
    tokio::spawn(async move {
        while let Some((peer, stream)) = incoming.next().await {
            let Some(node) = node_of_peer(&peer) else { continue };
            if sender.send(Accepted { peer, node, stream }).await.is_err() {
                break;
            }
        }
    });
    receiver
}

/// libp2p listens with SO_REUSEPORT, under which a second listener on the same port silently takes
/// half of the connections. A plain bind says whether somebody is there.
fn check_free(address: &Multiaddr) -> std::io::Result<()> {
    let mut parts = address.iter();
    let ip: std::net::IpAddr = match parts.next() {
        Some(Protocol::Ip4(ip)) => ip.into(),
        Some(Protocol::Ip6(ip)) => ip.into(),
        _ => return Ok(()),
    };
    match parts.next() {
        Some(Protocol::Tcp(port)) if port != 0 => std::net::TcpListener::bind((ip, port)).map(drop),
        _ => Ok(()),
    }
}

/// Whether an address is any address of the machine.
fn is_any(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_unspecified(),
        Some(Protocol::Ip6(ip)) => ip.is_unspecified(),
        _ => true,
    }
}
