//! A peer in a swarm: joins by any address, hears who serves what, is found, and finds its way back when peers go.
//!
//! Nobody is in charge. What is said of nodes is signed by them ([`lockstep_mesh::swarm`]) and reaches a peer in three ways: by
//! gossip in the topic of a model, by asking the peers that it is connected to ([`exchange`]), and from those whom the table of
//! providers names. Each way alone is enough; a liar on one of them can leave things out and can invent none.
//! Peers that were met are kept in a file ([`known`]): the swarm goes on when those whom everybody
//! joined at are gone. Formats and rules: docs/spec/network.md.

mod address;
mod announce;
mod answer;
pub mod exchange;
mod find;
pub mod known;
pub mod limits;
mod maintain;
mod measure;
mod route;
pub mod survey;

pub use address::{JoinAddress, JoinAddressError};
pub use announce::{Announcing, Serving};
pub use find::{FindError, Found};
pub use measure::{Measured, measure};
pub use route::RouteFailure;

use crate::p2p::reach::{Scope, believed, peer_at_end, scope_of_way};
use crate::p2p::{Heard, Network, NetworkError, PeerAddress, Topic, Verdict};
use exchange::{Answer, ExchangeError, Request, ask};
use known::KnownPeers;
use libp2p::{Multiaddr, PeerId};
use lockstep_base::Digest;
use lockstep_mesh::swarm::scores::Scores;
use lockstep_mesh::swarm::{Announcement, Directory, HearError};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

/// Domain of the keys of the table of providers.
const KEY_DOMAIN: &str = "lockstep/serves";

/// The key under which nodes that serve a model are found.
#[must_use]
pub fn key_of_model(root: &Digest) -> Digest {
    Digest::tagged(KEY_DOMAIN, &[&root.0])
}

/// Why a peer is in no swarm.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SwarmError {
    /// The network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// No address answered.
    #[error("cannot join: {}", .0.join("; "))]
    Join(Vec<String>),
    /// The file of known peers.
    #[error("known peers: {0}")]
    Known(#[from] std::io::Error),
    /// Nobody serves a whole model.
    #[error(transparent)]
    Find(#[from] FindError),
    /// What a node would say of itself.
    #[error(transparent)]
    Member(#[from] lockstep_mesh::swarm::member::MemberError),
}

/// How a peer is in a swarm.
#[derive(Clone, Debug, Default)]
pub struct SwarmConfig {
    /// Where to join. None for the first peer of a swarm.
    pub join: Vec<JoinAddress>,
    /// The file of known peers; none are kept without one.
    pub known: Option<PathBuf>,
}

/// What the tasks of a swarm share.
pub(super) struct Shared {
    began: Instant,
    directory: Mutex<Directory>,
    known: Mutex<KnownPeers>,
    followed: Mutex<BTreeSet<Digest>>,
    scores: Mutex<Scores>,
    /// The narrowest scope of a connected peer: addresses of a narrower one are nobody's.
    scope: Mutex<Scope>,
    /// Something was heard.
    news: Notify,
}

impl Shared {
    fn directory(&self) -> MutexGuard<'_, Directory> {
        self.directory.lock().expect("no thread panics while it holds the directory")
    }

    fn known(&self) -> MutexGuard<'_, KnownPeers> {
        self.known.lock().expect("no thread panics while it holds the known peers")
    }

    fn followed(&self) -> MutexGuard<'_, BTreeSet<Digest>> {
        self.followed.lock().expect("no thread panics while it holds the models")
    }

    /// Locked after the directory where both are.
    fn scores(&self) -> MutexGuard<'_, Scores> {
        self.scores.lock().expect("no thread panics while it holds the scores")
    }

    fn scope(&self) -> Scope {
        *self.scope.lock().expect("no thread panics while it holds the scope")
    }

    fn now_ms(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// Takes an announcement, however it came.
    fn hear(&self, bytes: &[u8]) -> Result<(), HearError> {
        self.directory().hear(self.now_ms(), bytes)?;
        self.news.notify_waiters();
        Ok(())
    }

    /// Judges an announcement that gossip brought in the topic of `root`.
    fn judge(&self, root: &Digest, heard: &Heard) -> Verdict {
        // Cheap before dear: the signature is looked at by the directory, and by it alone.
        match self.hear(&heard.bytes) {
            Ok(()) if self.is_about(root, heard) => Verdict::Accept,
            // Signed by its node, and in the topic of another model.
            Ok(()) => Verdict::Reject,
            Err(error) if error.hostile() => Verdict::Reject,
            Err(_) => Verdict::Ignore,
        }
    }

    fn is_about(&self, root: &Digest, heard: &Heard) -> bool {
        Announcement::parse(&heard.bytes).is_ok_and(|announcement| announcement.claims().model_root == *root)
    }
}

/// A peer's place in a swarm. Everything that it does ends with the value.
pub struct Swarm {
    /// The network below.
    pub network: Network,
    shared: Arc<Shared>,
    tasks: Mutex<JoinSet<()>>,
}

impl std::fmt::Debug for Swarm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Swarm").field("network", &self.network).finish_non_exhaustive()
    }
}

impl Swarm {
    /// Begins or joins a swarm over `network`. Where none of the addresses answers, the known peers are tried; where none of
    /// those does and there was something to join, that is an error, but the swarm is returned as well: it goes on trying.
    ///
    /// # Errors
    /// [`SwarmError`] if the file of known peers cannot be read or the network is in a swarm already.
    pub async fn start(
        network: Network,
        config: SwarmConfig,
    ) -> Result<(Arc<Swarm>, Result<(), SwarmError>), SwarmError> {
        let known = KnownPeers::open(config.known.clone())?;
        let shared = Arc::new(Shared {
            began: Instant::now(),
            directory: Mutex::new(Directory::new(lockstep_mesh::swarm::directory::Limits::default())),
            known: Mutex::new(known),
            followed: Mutex::default(),
            scores: Mutex::new(Scores::new()),
            scope: Mutex::new(Scope::Global),
            news: Notify::new(),
        });
        // Being in this topic connects peers across models. In a private swarm it carries the list of the revoked, else nothing.
        let membership = network.membership.clone();
        let judge =
            move |heard: &Heard| match membership.as_ref().map(|membership| membership.hear(&heard.bytes)) {
                Some(Ok(true)) => Verdict::Accept,
                Some(Ok(false)) => Verdict::Ignore,
                Some(Err(_)) | None => Verdict::Reject,
            };
        let everybody = network.subscribe(Topic::Swarm, Box::new(judge)).await?;
        let swarm = Arc::new(Swarm { network, shared, tasks: Mutex::default() });
        let joined = swarm.join(&config.join).await;
        swarm.spawn(async move {
            // Judging was all that there was to do.
            let mut everybody = everybody;
            while everybody.recv().await.is_some() {}
        });
        let (network, shared) = (swarm.network.clone(), swarm.shared.clone());
        swarm.spawn(async move {
            let _ = answer::answer_all(network, shared).await;
        });
        swarm.spawn(maintain::maintain(swarm.network.clone(), swarm.shared.clone(), config.join));
        Ok((swarm, joined))
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().expect("no thread panics while it spawns").spawn(task);
    }

    async fn join(&self, addresses: &[JoinAddress]) -> Result<(), SwarmError> {
        if addresses.is_empty() {
            return Ok(());
        }
        let mut dials = JoinSet::new();
        let mut failures = Vec::new();
        for address in addresses {
            match address.resolve().await {
                Ok(found) => {
                    for address in found {
                        let network = self.network.clone();
                        dials.spawn(async move { network.connect(&address).await });
                    }
                }
                Err(error) => failures.push(format!("{address}: {error}")),
            }
        }
        let mut joined = false;
        while let Some(dialled) = dials.join_next().await {
            match dialled {
                Ok(Ok(_)) => joined = true,
                Ok(Err(error)) => failures.push(error.to_string()),
                Err(_) => {}
            }
        }
        if !joined {
            let known = self.shared.known().due(Instant::now());
            let count = known.len();
            joined = maintain::redial(&self.network, &self.shared, known).await > 0;
            failures.push(format!("none of {count} peers known from before answers either"));
        }
        if joined { Ok(()) } else { Err(SwarmError::Join(failures)) }
    }

    /// Hears who serves the model with this root, from now on.
    ///
    /// # Errors
    /// [`SwarmError::Network`] if too many models are followed.
    pub async fn follow(&self, root: Digest) -> Result<(), SwarmError> {
        if !self.shared.followed().insert(root) {
            return Ok(());
        }
        self.shared.directory().follow(root);
        let shared = self.shared.clone();
        let judge = Box::new(move |heard: &Heard| shared.judge(&root, heard));
        let heard = self.network.subscribe(Topic::Model(root), judge).await?;
        self.spawn(remember(self.network.clone(), self.shared.clone(), heard));
        self.spawn(maintain::look_up(self.network.clone(), self.shared.clone(), root));
        Ok(())
    }

    /// What is known of the swarm.
    pub fn directory<T>(&self, read: impl FnOnce(&mut Directory) -> T) -> T {
        read(&mut self.shared.directory())
    }

    /// Asks connected peers what they know of `root`; how many answered.
    pub async fn pull(&self, root: &Digest) -> usize {
        let peers = self.network.status().await.map_or_else(|_| Vec::new(), |status| status.peers);
        maintain::pull(&self.network, &self.shared, peers.iter().map(|peer| peer.peer).collect(), root).await
    }

    /// Waits until something is heard, or for so long.
    pub async fn news(&self, at_most: Duration) {
        let _ = tokio::time::timeout(at_most, self.shared.news.notified()).await;
    }

    /// Asks one peer one question.
    ///
    /// # Errors
    /// [`AskError`] naming what went wrong.
    pub async fn ask(&self, peer: PeerId, request: Request) -> Result<Answer, AskError> {
        ask_peer(&self.network, peer, request).await
    }

    /// How long `count` bytes from a peer take.
    ///
    /// # Errors
    /// [`AskError`] naming what went wrong.
    pub async fn throughput(&self, peer: PeerId, count: u32) -> Result<Duration, AskError> {
        let stream = self.network.stream(peer, exchange::PROTOCOL).await?;
        Ok(exchange::measure(stream, count).await?)
    }
}

/// Why a peer gave no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AskError {
    /// No stream.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// No answer.
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
}

async fn ask_peer(network: &Network, peer: PeerId, request: Request) -> Result<Answer, AskError> {
    let stream = network.stream(peer, exchange::PROTOCOL).await?;
    Ok(ask(stream, request).await?)
}

/// Writes down where announced nodes are, so that they can be dialled by name.
async fn remember(network: Network, shared: Arc<Shared>, mut heard: mpsc::Receiver<Heard>) {
    while let Some(heard) = heard.recv().await {
        if let Ok(announcement) = Announcement::parse(&heard.bytes)
            && let Some((peer, addresses)) = ways(&announcement, shared.scope())
        {
            let _ = network.remember(peer, addresses).await;
        }
    }
}

/// The peer that an announcement is about and the ways to it that lead somewhere from here: only those that name its key.
fn ways(announcement: &Announcement, scope: Scope) -> Option<(PeerId, Vec<Multiaddr>)> {
    let claims = announcement.claims();
    let parsed: Vec<PeerAddress> = claims.addresses.iter().filter_map(|text| text.parse().ok()).collect();
    let mut own = parsed.into_iter().filter(|address| address.node == claims.node).peekable();
    let peer = own.peek()?.peer;
    let ways = own.map(|own| own.address).filter(|way| scope_of_way(way).is_some_and(|way| way >= scope));
    Some((peer, ways.collect()))
}

/// Where an announced node is, by its best address.
fn address_of(announcement: &Announcement, scope: Scope) -> Option<PeerAddress> {
    let (peer, ways) = ways(announcement, scope)?;
    let address = ways.into_iter().next()?;
    Some(PeerAddress { peer, node: announcement.claims().node, address })
}

/// Where a connected peer can be reached by others: where it says that it listens, the widest scope first.
fn reachable_at(peer: &crate::p2p::PeerStatus) -> Option<PeerAddress> {
    let met = peer.address.as_ref()?;
    let mut ways = believed(&peer.addresses, met);
    ways.sort_by_key(|way| std::cmp::Reverse(scope_of_way(way)));
    let address = ways.into_iter().next()?;
    Some(PeerAddress { peer: peer.peer, node: peer.node?, address })
}

/// Takes a peer's address as text, for dialling.
fn parse_peer(text: &str) -> Option<PeerAddress> {
    let address: Multiaddr = text.parse().ok()?;
    peer_at_end(&address)?;
    text.parse().ok()
}
