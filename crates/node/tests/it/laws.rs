//! The laws of a transport (`sim/src/transport.rs`), kept by libp2p over TCP on loopback: the same suite that the simulated
//! network passes.

use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use lockstep_mesh::frame::Channel;
use lockstep_node::p2p::{Accepted, Listening, Network, NetworkConfig, PeerAddress, random_key};
use lockstep_sim::net::{Peer, Stream};
use lockstep_sim::transport::{Arrival, Transport, laws};
use std::collections::{BTreeSet, HashMap};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

/// Nothing more is under way when nothing has arrived for this long.
const QUIET: Duration = Duration::from_millis(700);
/// Longer than a loss takes to be noticed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Peers in one process, everybody connected to everybody.
struct Loopback {
    peers: Vec<Option<Network>>,
    addresses: Vec<PeerAddress>,
    accepting: Vec<Vec<JoinHandle<()>>>,
    writers: HashMap<Stream, libp2p::Stream>,
    sender: mpsc::Sender<Arrival>,
    arrivals: mpsc::Receiver<Arrival>,
    reported: BTreeSet<(Peer, Peer)>,
    /// Last, so that everything else goes first.
    runtime: Runtime,
}

impl Loopback {
    fn new(count: usize, listen: &str) -> Loopback {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (sender, arrivals) = mpsc::channel();
        let mut loopback = Loopback {
            peers: Vec::new(),
            addresses: Vec::new(),
            accepting: Vec::new(),
            writers: HashMap::new(),
            sender,
            arrivals,
            reported: BTreeSet::new(),
            runtime,
        };
        let mut listening = Vec::new();
        for _ in 0..count {
            let config = NetworkConfig { listen: vec![listen.parse().unwrap()], ..NetworkConfig::default() };
            let started = loopback.runtime.block_on(Network::with(&random_key(), &config));
            let (network, channels) = started.unwrap();
            loopback.addresses.push(network.addresses[0].clone());
            loopback.peers.push(Some(network));
            listening.push(channels);
        }
        for (at, channels) in listening.into_iter().enumerate() {
            let tasks = loopback.accept(at, channels);
            loopback.accepting.push(tasks);
        }
        for from in 0..count {
            for to in from + 1..count {
                let address = loopback.addresses[to].to_string().parse().unwrap();
                let network = loopback.peers[from].clone().unwrap();
                loopback.runtime.block_on(network.connect(&address)).unwrap();
            }
        }
        loopback
    }

    fn accept(&self, at: Peer, channels: Listening) -> Vec<JoinHandle<()>> {
        let accept = |(channel, mut streams): (Channel, tokio::sync::mpsc::Receiver<Accepted>)| {
            let (sender, addresses) = (self.sender.clone(), self.addresses.clone());
            self.runtime.spawn(async move {
                while let Some(accepted) = streams.recv().await {
                    let from = addresses.iter().position(|peer| peer.peer == accepted.peer).unwrap();
                    let (stream, sender) = (Stream { from, to: at, channel }, sender.clone());
                    tokio::spawn(read(stream, accepted.stream, sender));
                }
            })
        };
        channels.into_iter().map(accept).collect()
    }

    fn is_lost(&self, at: Peer, peer: Peer) -> bool {
        let network = self.peers[at].clone().unwrap();
        let status = self.runtime.block_on(network.status()).unwrap();
        !status.peers.iter().any(|other| other.peer == self.addresses[peer].peer)
    }

    fn drain(&self, arrivals: &mut Vec<Arrival>) {
        while let Ok(arrival) = self.arrivals.recv_timeout(QUIET) {
            // What is on its way to the dead is read by nobody.
            if matches!(&arrival, Arrival::Bytes(stream, _) if self.peers[stream.to].is_some()) {
                arrivals.push(arrival);
            }
        }
    }
}

async fn read(stream: Stream, mut bytes: libp2p::Stream, sender: mpsc::Sender<Arrival>) {
    let mut buffer = vec![0; 4096];
    while let Ok(count) = bytes.read(&mut buffer).await {
        if count == 0 || sender.send(Arrival::Bytes(stream, buffer[..count].to_vec())).is_err() {
            return;
        }
    }
}

impl Transport for Loopback {
    fn open(&mut self, from: Peer, to: Peer, protocol: &str) -> Result<Stream, String> {
        let channel = Channel::of_protocol(protocol).map_err(|error| error.to_string())?;
        let stream = Stream { from, to, channel };
        // Nobody dials himself: such a stream needs no network.
        if from != to {
            let network = self.peers[from].clone().ok_or("the peer is dead")?;
            let opened = self.runtime.block_on(network.open(&self.addresses[to], channel));
            self.writers.insert(stream, opened.map_err(|error| error.to_string())?);
        }
        Ok(stream)
    }

    fn send(&mut self, stream: Stream, bytes: &[u8]) {
        if stream.from == stream.to {
            self.sender.send(Arrival::Bytes(stream, bytes.to_vec())).unwrap();
        }
        if let Some(writer) = self.writers.get_mut(&stream) {
            let written = async {
                writer.write_all(bytes).await?;
                writer.flush().await
            };
            let written = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, written).await });
            if !matches!(written, Ok(Ok(()))) {
                self.writers.remove(&stream);
            }
        }
    }

    fn kill(&mut self, peer: Peer) {
        self.writers.retain(|stream, _| stream.from != peer);
        self.accepting[peer].drain(..).for_each(|task| task.abort());
        self.peers[peer] = None;
    }

    fn settle(&mut self) -> Vec<Arrival> {
        let mut arrivals = Vec::new();
        self.drain(&mut arrivals);
        let alive: Vec<Peer> = (0..self.peers.len()).filter(|peer| self.peers[*peer].is_some()).collect();
        for peer in (0..self.peers.len()).filter(|peer| self.peers[*peer].is_none()) {
            for at in &alive {
                if !self.reported.insert((*at, peer)) {
                    continue;
                }
                let began = Instant::now();
                while !self.is_lost(*at, peer) {
                    assert!(began.elapsed() < PATIENCE, "peer {at} does not notice that {peer} is gone");
                    std::thread::sleep(Duration::from_millis(50));
                }
                self.drain(&mut arrivals);
                arrivals.push(Arrival::Lost { at: *at, peer });
            }
        }
        for at in &alive {
            for peer in alive.iter().filter(|peer| *peer != at) {
                assert!(!self.is_lost(*at, *peer), "peer {at} has lost {peer}, which is alive");
            }
        }
        arrivals
    }
}

#[test]
fn tcp_keeps_the_laws_of_a_transport() {
    laws(7, |peers| Loopback::new(peers, "/ip4/127.0.0.1/tcp/0"));
}
