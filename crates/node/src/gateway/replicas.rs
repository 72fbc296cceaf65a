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
    nodes: Vec<Replica>,
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
    let mut stages: Vec<Replicas> =
        chain.into_iter().map(|part| Replicas { part, nodes: Vec::new() }).collect();
    for link in links {
        let stage = stages.iter_mut().find(|stage| stage.part == link.info.part);
        // One node may have been named twice.
        if let Some(stage) = stage.filter(|stage| stage.peers().all(|peer| peer.node != link.peer.node)) {
            stage.nodes.push(Replica::new(link));
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
    pub(super) fn peers(&self) -> impl Iterator<Item = &PeerAddress> {
        self.nodes.iter().map(|node| &node.peer)
    }

    /// The first of them that proves nothing.
    pub(super) fn not_proving(&self) -> Option<NodeId> {
        self.nodes.iter().find(|node| !node.proves).map(|node| node.peer.node)
    }

    /// The first of them that does not serve `adapter`.
    pub(super) fn without_adapter(&self, adapter: Digest) -> Option<NodeId> {
        self.nodes.iter().find(|node| !node.adapters.contains(&adapter)).map(|node| node.peer.node)
    }

    /// An open link to one of them.
    pub(super) async fn link_to(&self, network: &Network, node: NodeId) -> Result<Arc<Link>, String> {
        match self.nodes.iter().find(|replica| replica.peer.node == node) {
            Some(replica) => replica.open(network, &self.part).await,
            None => Err(format!("node {node} is not on this route")),
        }
    }

    /// The one with the fewest requests of those that can be reached and were not `tried`.
    pub(super) async fn pick(&self, network: &Network, tried: &[NodeId]) -> Result<Serving, String> {
        let untried = |replica: &&Replica| !tried.contains(&replica.peer.node);
        let mut all: Vec<&Replica> = self.nodes.iter().filter(untried).collect();
        all.sort_by_key(|replica| (replica.failed_lately(), Arc::strong_count(&replica.serving)));
        let mut why = format!("nobody serves {}", self.part);
        for replica in all {
            match replica.open(network, &self.part).await {
                Ok(link) => {
                    return Ok(Serving { link, part: self.part, _counted: replica.serving.clone() });
                }
                Err(error) => why = error,
            }
        }
        Err(why)
    }
}
