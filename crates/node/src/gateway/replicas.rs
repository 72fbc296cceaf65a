//! The nodes that serve one part of a model: which of them gets a request, and which takes the place of one that is lost.

use super::link::Link;
use crate::p2p::{Network, PeerAddress};
use lockstep_base::Digest;
use lockstep_base::keys::NodeId;
use lockstep_base::part::{Part, PartError};
use lockstep_mesh::request::RouteStage;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A node that could not be reached is asked last for this long.
const BACK_OFF: Duration = Duration::from_secs(10);
/// Nodes of a swarm that are tried for one place.
const SPARES_MAX: usize = 4;

/// Who knows more nodes: a swarm, where some come and go while a gateway runs.
pub trait Spares: std::fmt::Debug + Send + Sync {
    /// Nodes that say that they serve this part now, best first.
    fn nodes(&self, part: &Part) -> Vec<PeerAddress>;

    /// A node was not there, or was lost.
    fn failed(&self, node: NodeId);
}

/// A node.
#[derive(Debug)]
struct Replica {
    peer: PeerAddress,
    adapters: Vec<Digest>,
    proves: bool,
    link: tokio::sync::Mutex<Arc<Link>>,
    /// One more reference for each request that it serves.
    serving: Arc<()>,
    failed: Mutex<Option<Instant>>,
}

/// The nodes of one stage.
#[derive(Debug)]
pub(super) struct Replicas {
    /// What they serve.
    pub(super) part: Part,
    nodes: Mutex<Vec<Arc<Replica>>>,
}

/// What a request needs of a node, beside the part.
#[derive(Debug)]
pub(super) struct Need<'a> {
    /// The model.
    pub(super) model_root: Digest,
    /// Nodes that were lost in this request.
    pub(super) tried: &'a [NodeId],
    /// The adapter, zero without.
    pub(super) adapter: Digest,
    /// Whether it proves what it computed.
    pub(super) provable: bool,
}

impl Need<'_> {
    fn met_by(&self, node: NodeId, adapters: &[Digest], proves: bool) -> bool {
        let adapted = self.adapter == Digest::ZERO || adapters.contains(&self.adapter);
        !self.tried.contains(&node) && adapted && (proves || !self.provable)
    }
}

/// A node that serves a request, until the value is dropped.
#[derive(Debug)]
pub(super) struct Serving {
    /// The way to it.
    pub(super) link: Arc<Link>,
    part: Part,
    _counted: Arc<()>,
}

impl Serving {
    /// The node as a stage of a route.
    pub(super) fn stage(&self) -> RouteStage {
        let peer = &self.link.peer;
        RouteStage { node: peer.node, address: peer.to_string(), part: self.part }
    }
}

/// The stages of a whole model among the parts of `links`: the fewest that make one.
pub(super) fn stages(links: Vec<Arc<Link>>, n_layers: u32) -> Result<Vec<Replicas>, PartError> {
    let mut parts: Vec<Part> = Vec::new();
    for link in &links {
        if !parts.contains(&link.info.part) {
            parts.push(link.info.part);
        }
    }
    parts.sort_by_key(|part| (part.first_layer, part.end_layer));
    let chain = chain(&parts, n_layers).unwrap_or(parts);
    Part::check_route(&chain, n_layers)?;
    let stages: Vec<Replicas> =
        chain.into_iter().map(|part| Replicas { part, nodes: Mutex::default() }).collect();
    for link in links {
        if let Some(stage) = stages.iter().find(|stage| stage.part == link.info.part) {
            stage.add(link);
        }
    }
    Ok(stages)
}

/// The fewest of `parts` that are one model, in order: breadth first.
fn chain(parts: &[Part], n_layers: u32) -> Option<Vec<Part>> {
    let mut before: Vec<Option<usize>> = vec![None; parts.len()];
    let mut queue: VecDeque<usize> = (0..parts.len()).filter(|at| parts[*at].embed).collect();
    let mut seen: Vec<bool> = parts.iter().map(|part| part.embed).collect();
    while let Some(at) = queue.pop_front() {
        if parts[at].head {
            let mut chain: Vec<Part> =
                std::iter::successors(Some(at), |at| before[*at]).map(|at| parts[at]).collect();
            chain.reverse();
            return Part::check_route(&chain, n_layers).is_ok().then_some(chain);
        }
        for next in 0..parts.len() {
            if !seen[next] && !parts[next].embed && parts[next].first_layer == parts[at].end_layer {
                (seen[next], before[next]) = (true, Some(at));
                queue.push_back(next);
            }
        }
    }
    None
}

impl Replica {
    fn new(link: Arc<Link>) -> Replica {
        Replica {
            peer: link.peer.clone(),
            adapters: link.info.adapters.clone(),
            proves: link.info.proves,
            link: tokio::sync::Mutex::new(link),
            serving: Arc::new(()),
            failed: Mutex::default(),
        }
    }

    /// A link that is open: the one that is there, or another one.
    async fn open(&self, network: &Network, part: &Part) -> Result<Arc<Link>, String> {
        let mut link = self.link.lock().await;
        if !link.is_open() {
            let opened = Link::connect(network, self.peer.clone()).await;
            let failed = || {
                *self.failed.lock().expect("no thread panics while it holds the time") = Some(Instant::now());
            };
            let opened = opened.map_err(|error| {
                failed();
                error.to_string()
            })?;
            if opened.info.part != *part || opened.info.model_root != link.info.model_root {
                failed();
                return Err(format!(
                    "node {} serves {} now, expected {part}",
                    self.peer.node, opened.info.part
                ));
            }
            *link = opened;
        }
        Ok(link.clone())
    }

    fn failed_lately(&self) -> bool {
        let failed = *self.failed.lock().expect("no thread panics while it holds the time");
        failed.is_some_and(|at| at.elapsed() < BACK_OFF)
    }
}

impl Replicas {
    /// All of them, as they are now.
    fn all(&self) -> Vec<Arc<Replica>> {
        self.nodes.lock().expect("no thread panics while it holds the nodes").clone()
    }

    /// One more, unless it is known: then that one.
    fn add(&self, link: Arc<Link>) -> Arc<Replica> {
        let mut nodes = self.nodes.lock().expect("no thread panics while it holds the nodes");
        if let Some(known) = nodes.iter().find(|known| known.peer.node == link.peer.node) {
            return known.clone();
        }
        let replica = Arc::new(Replica::new(link));
        nodes.push(replica.clone());
        replica
    }

    pub(super) fn peers(&self) -> Vec<PeerAddress> {
        self.all().iter().map(|node| node.peer.clone()).collect()
    }

    /// The first of them that proves nothing.
    pub(super) fn not_proving(&self) -> Option<NodeId> {
        self.all().iter().find(|node| !node.proves).map(|node| node.peer.node)
    }

    /// The first of them that does not serve `adapter`.
    pub(super) fn without_adapter(&self, adapter: Digest) -> Option<NodeId> {
        self.all().iter().find(|node| !node.adapters.contains(&adapter)).map(|node| node.peer.node)
    }

    /// An open link to one of them.
    pub(super) async fn link_to(&self, network: &Network, node: NodeId) -> Result<Arc<Link>, String> {
        match self.all().iter().find(|replica| replica.peer.node == node) {
            Some(replica) => replica.open(network, &self.part).await,
            None => Err(format!("node {node} is not on this route")),
        }
    }

    /// The one with the fewest requests of those that can be reached and do what is needed; else one that the swarm knows.
    pub(super) async fn pick(
        &self,
        network: &Network,
        spares: Option<&dyn Spares>,
        need: &Need<'_>,
    ) -> Result<Serving, String> {
        let serving =
            |link, replica: &Replica| Serving { link, part: self.part, _counted: replica.serving.clone() };
        if let (Some(spares), Some(lost)) = (spares, need.tried.last()) {
            spares.failed(*lost);
        }
        let mut all = self.all();
        all.retain(|replica| need.met_by(replica.peer.node, &replica.adapters, replica.proves));
        all.sort_by_key(|replica| (replica.failed_lately(), Arc::strong_count(&replica.serving)));
        let mut why = format!("nobody serves {}", self.part);
        for replica in &all {
            match replica.open(network, &self.part).await {
                Ok(link) => return Ok(serving(link, replica)),
                Err(error) => {
                    spares.iter().for_each(|spares| spares.failed(replica.peer.node));
                    why = error;
                }
            }
        }
        let known = self.peers();
        let more = spares.map_or_else(Vec::new, |spares| spares.nodes(&self.part));
        let more = more.into_iter().filter(|peer| known.iter().all(|known| known.node != peer.node));
        for peer in more.filter(|peer| !need.tried.contains(&peer.node)).take(SPARES_MAX) {
            let node = peer.node;
            match Link::connect(network, peer).await {
                Ok(link) if link.info.part == self.part && link.info.model_root == need.model_root => {
                    let (adapters, proves) = (&link.info.adapters, link.info.proves);
                    if need.met_by(node, adapters, proves) {
                        let replica = self.add(link.clone());
                        return Ok(serving(link, &replica));
                    }
                    // It does what it announces, which is not what is needed here.
                    continue;
                }
                Ok(link) => {
                    why = format!("node {node} serves {}, expected {}", link.info.part, self.part);
                }
                Err(error) => why = error.to_string(),
            }
            spares.iter().for_each(|spares| spares.failed(node));
        }
        Err(why)
    }
}
