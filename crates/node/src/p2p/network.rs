//! One libp2p swarm behind a handle: dial, open a stream, accept streams.

use super::identity::{PeerAddress, keypair, node_of_peer};
use futures::StreamExt as _;
use libp2p::connection_limits::{self, ConnectionLimits};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, NetworkBehaviour, SwarmEvent};
use libp2p::{Multiaddr, PeerId, Stream, StreamProtocol, Swarm, noise, tcp, yamux};
use libp2p_stream as streams;
use lockstep_base::keys::{NodeId, NodeKey};
use lockstep_mesh::frame::Channel;
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// An idle connection is closed after this long.
const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// A dial that has not ended after this long has failed.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
/// Commands that wait for the swarm.
const COMMANDS_MAX: usize = 64;
/// Incoming streams that wait to be taken, per protocol.
const ACCEPT_QUEUE: usize = 64;
/// Connections that peers have opened.
const INCOMING_MAX: u32 = 512;
/// Connections with one peer: one each way, and one that is about to be noticed as dead each way.
const PER_PEER_MAX: u32 = 4;
/// Connections whose handshake has not ended, each way.
const PENDING_MAX: u32 = 128;

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
        got: PeerId,
        /// The key in the address.
        expected: PeerId,
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
        peer: PeerId,
        /// The protocol.
        protocol: &'static str,
        /// What it says.
        why: String,
    },
    /// The transport could not be set up.
    #[error("cannot start the network: {0}")]
    Setup(String),
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

enum Command {
    Dial(PeerAddress, oneshot::Sender<Result<(), NetworkError>>),
}

#[derive(NetworkBehaviour)]
struct Behaviour {
    limits: connection_limits::Behaviour,
    streams: streams::Behaviour,
}

impl Behaviour {
    fn new() -> Behaviour {
        let limits = ConnectionLimits::default()
            .with_max_pending_incoming(Some(PENDING_MAX))
            .with_max_pending_outgoing(Some(PENDING_MAX))
            .with_max_established_incoming(Some(INCOMING_MAX))
            .with_max_established_per_peer(Some(PER_PEER_MAX));
        Behaviour { limits: connection_limits::Behaviour::new(limits), streams: streams::Behaviour::new() }
    }
}

/// A handle on the swarm. The swarm ends with the last handle.
#[derive(Clone)]
pub struct Network {
    commands: mpsc::Sender<Command>,
    control: streams::Control,
    /// Addresses that are listened at, with the peer id.
    pub addresses: Vec<PeerAddress>,
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
        Ok(Network::driven(swarm(key).map_err(NetworkError::Setup)?, Vec::new()))
    }

    /// Starts a swarm under `key`, listening at `address`, and hands out what peers open: every channel is there
    /// before the first peer can be.
    ///
    /// # Errors
    /// [`NetworkError::Listen`] if the address cannot be listened at.
    pub async fn listen(key: &NodeKey, address: Multiaddr) -> Result<(Network, Listening), NetworkError> {
        let mut swarm = swarm(key).map_err(NetworkError::Setup)?;
        let control = swarm.behaviour().streams.new_control();
        let incoming = Channel::ALL.map(|channel| (channel, accept(control.clone(), channel)));
        let refused = |why: String| NetworkError::Listen { address: address.clone(), why };
        check_free(&address).map_err(|error| refused(error.to_string()))?;
        let id = swarm.listen_on(address.clone()).map_err(|error| refused(error.to_string()))?;
        let own = Self::first_address(&mut swarm, id, key).await.map_err(refused)?;
        Ok((Network::driven(swarm, vec![own]), Vec::from(incoming)))
    }

    fn driven(swarm: Swarm<Behaviour>, addresses: Vec<PeerAddress>) -> Network {
        let control = swarm.behaviour().streams.new_control();
        let (commands, queue) = mpsc::channel(COMMANDS_MAX);
        tokio::spawn(drive(swarm, queue));
        Network { commands, control, addresses }
    }

    /// Waits for the listener to tell its address (port 0 becomes a real one) or to fail.
    async fn first_address(
        swarm: &mut Swarm<Behaviour>,
        id: libp2p::core::transport::ListenerId,
        key: &NodeKey,
    ) -> Result<PeerAddress, String> {
        loop {
            match swarm.select_next_some().await {
                SwarmEvent::NewListenAddr { address, .. } => {
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

    /// Opens a stream to `peer`, dialling first where there is no connection.
    ///
    /// # Errors
    /// [`NetworkError`] naming the peer: unreachable, wrong key, protocol refused.
    pub async fn open(&self, peer: &PeerAddress, channel: Channel) -> Result<Stream, NetworkError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Dial(peer.clone(), reply)).await.map_err(|_| NetworkError::Closed)?;
        let unreachable = |why: &str| NetworkError::Unreachable { peer: peer.to_string(), why: why.into() };
        tokio::time::timeout(DIAL_TIMEOUT, answer)
            .await
            .map_err(|_| unreachable("no answer within 10 s"))?
            .map_err(|_| NetworkError::Closed)??;
        let protocol = channel.protocol();
        let mut control = self.control.clone();
        let opened =
            tokio::time::timeout(DIAL_TIMEOUT, control.open_stream(peer.peer, StreamProtocol::new(protocol)))
                .await;
        opened.map_err(|_| unreachable("no stream within 10 s"))?.map_err(|error| NetworkError::Protocol {
            peer: peer.peer,
            protocol,
            why: error.to_string(),
        })
    }
}

/// A swarm, or what the transport says.
fn swarm(key: &NodeKey) -> Result<Swarm<Behaviour>, String> {
    Ok(libp2p::SwarmBuilder::with_existing_identity(keypair(key))
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
        .map_err(|error| error.to_string())?
        .with_behaviour(|_| Behaviour::new())
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

type Waiting = HashMap<ConnectionId, (PeerAddress, oneshot::Sender<Result<(), NetworkError>>)>;

/// Runs the swarm until every handle is gone.
async fn drive(mut swarm: Swarm<Behaviour>, mut queue: mpsc::Receiver<Command>) {
    let mut waiting: Waiting = HashMap::new();
    loop {
        tokio::select! {
            command = queue.recv() => match command {
                None => return,
                Some(Command::Dial(peer, reply)) => dial(&mut swarm, &mut waiting, peer, reply),
            },
            event = swarm.select_next_some() => match event {
                SwarmEvent::ConnectionEstablished { connection_id, .. } => {
                    if let Some((_, reply)) = waiting.remove(&connection_id) {
                        let _ = reply.send(Ok(()));
                    }
                }
                SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => {
                    if let Some((peer, reply)) = waiting.remove(&connection_id) {
                        let _ = reply.send(Err(dial_error(&peer, error)));
                    }
                }
                _ => {}
            },
        }
    }
}

fn dial(
    swarm: &mut Swarm<Behaviour>,
    waiting: &mut Waiting,
    peer: PeerAddress,
    reply: oneshot::Sender<Result<(), NetworkError>>,
) {
    if swarm.is_connected(&peer.peer) {
        let _ = reply.send(Ok(()));
        return;
    }
    let options = DialOpts::peer_id(peer.peer)
        .addresses(vec![peer.address.clone()])
        .condition(PeerCondition::Always)
        .build();
    let id = options.connection_id();
    match swarm.dial(options) {
        Ok(()) => {
            waiting.insert(id, (peer, reply));
        }
        Err(error) => {
            let _ = reply.send(Err(dial_error(&peer, error)));
        }
    }
}

fn dial_error(peer: &PeerAddress, error: DialError) -> NetworkError {
    match error {
        DialError::WrongPeerId { obtained, .. } => {
            NetworkError::WrongKey { address: peer.address.clone(), got: obtained, expected: peer.peer }
        }
        error => NetworkError::Unreachable { peer: peer.to_string(), why: error.to_string() },
    }
}
