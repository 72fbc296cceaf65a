//! A chain of nodes that serve all of a model, from what they announce.

use super::limits::FIND_TIMEOUT;
use super::{Swarm, SwarmError, address_of};
use crate::p2p::PeerAddress;
use lockstep_base::Digest;
use lockstep_base::keys::NodeId;
use lockstep_base::rng::SplitMix64;
use lockstep_mesh::swarm::directory::Entry;
use lockstep_mesh::swarm::routing::{self, Hop, Query, RouteError};
use lockstep_mesh::swarm::{Coverage, Directory};
use std::collections::BTreeSet;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Positions that a request is taken to need, before it is there.
pub(super) const REQUEST_POSITIONS: u32 = 1024;
/// Between two looks at the directory, if nothing is heard meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Between two rounds of questions to peers.
const ASK_INTERVAL: Duration = Duration::from_secs(2);

/// Why there is no chain.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FindError {
    /// Nobody announces the model.
    #[error("nobody in the swarm serves model {root}: {peers} peers are connected")]
    Nobody {
        /// The model.
        root: Digest,
        /// Connected peers.
        peers: usize,
    },
    /// Some layers have no node.
    #[error("no node that takes tasks serves {} of model {root}; {nodes} nodes announce it", missing_parts(.holes, *.embeds, *.heads))]
    Holes {
        /// The model.
        root: Digest,
        /// Who announces any of it.
        nodes: usize,
        /// Layers without a node.
        holes: Vec<Range<u32>>,
        /// Whether somebody has the embedding.
        embeds: bool,
        /// Whether somebody has the head.
        heads: bool,
    },
    /// All layers have nodes, but there is no way through them.
    #[error("no way through the {nodes} nodes that announce model {root}: {why}")]
    Route {
        /// The model.
        root: Digest,
        /// Who announces any of it.
        nodes: usize,
        /// Why.
        why: RouteError,
    },
}

fn missing_parts(holes: &[Range<u32>], embeds: bool, heads: bool) -> String {
    let mut parts: Vec<String> =
        holes.iter().map(|hole| format!("layers {}..{}", hole.start, hole.end)).collect();
    parts.extend((!embeds).then(|| "the embedding".into()));
    parts.extend((!heads).then(|| "the head".into()));
    parts.join(", ")
}

impl Swarm {
    /// A chain of nodes for `query`, from what they announce, what they cost, and how they have behaved; one of those near the
    /// best. Nodes without an address that leads anywhere from here are not used.
    ///
    /// # Errors
    /// [`FindError`] saying what is missing.
    pub async fn route(&self, root: &Digest, mut query: Query) -> Result<Vec<Found>, FindError> {
        let peers = self.network.status().await.map_or_else(|_| Vec::new(), |status| status.peers);
        for peer in &peers {
            if let (Some(node), Some(rtt)) = (peer.node, peer.rtt) {
                query.rtts_us.insert(node, u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX));
            }
        }
        let (scope, now_ms, n_layers) = (self.shared.scope(), self.shared.now_ms(), query.n_layers);
        let mut rng = SplitMix64::new(rand::random());
        let directory = self.shared.directory();
        let scores = self.shared.scores();
        let reachable =
            directory.for_model(root).filter(|entry| address_of(&entry.announcement, scope).is_some());
        let chosen = routing::choose(reachable.map(Entry::claims), query, &scores, now_ms, &mut rng);
        let route = chosen.map_err(|why| missing(&directory, root, n_layers, peers.len(), why))?;
        let found = |hop: &Hop| {
            let entry = directory.get(root, &hop.node)?;
            Some(Found { peer: address_of(&entry.announcement, scope)?, hop: hop.clone() })
        };
        Ok(route.hops.iter().filter_map(found).collect())
    }

    /// Nodes that serve all of the model with `root`, in order, without those in `excluded`.
    ///
    /// # Errors
    /// [`FindError`] saying what is missing.
    pub async fn chain(
        &self,
        root: &Digest,
        n_layers: u32,
        excluded: &BTreeSet<NodeId>,
    ) -> Result<Vec<PeerAddress>, FindError> {
        let mut query = Query::new(n_layers, REQUEST_POSITIONS);
        query.exclude.clone_from(excluded);
        Ok(self.route(root, query).await?.into_iter().map(|found| found.peer).collect())
    }

    /// As [`Swarm::chain`], following the model and waiting for its nodes to be heard of.
    ///
    /// # Errors
    /// [`SwarmError::Find`] if there is no chain after [`FIND_TIMEOUT`].
    pub async fn find(&self, root: &Digest, n_layers: u32) -> Result<Vec<PeerAddress>, SwarmError> {
        self.follow(*root).await?;
        let began = Instant::now();
        let mut asked: Option<Instant> = None;
        loop {
            if asked.is_none_or(|asked| asked.elapsed() >= ASK_INTERVAL) {
                asked = Some(Instant::now());
                self.pull(root).await;
            }
            match self.chain(root, n_layers, &BTreeSet::new()).await {
                Ok(chain) => return Ok(chain),
                Err(error) if began.elapsed() >= FIND_TIMEOUT => return Err(error.into()),
                Err(_) => self.news(LOOK_INTERVAL).await,
            }
        }
    }

    /// A node did not do what it announced: it is left alone for a while, longer each time.
    pub fn failed(&self, node: NodeId) {
        self.shared.scores().failed(self.shared.now_ms(), node);
    }

    /// A node served a request for the model with `root`.
    pub fn served(&self, root: &Digest, node: NodeId) {
        self.shared.scores().served(&node);
        self.shared.directory().served(root, &node);
    }
}

/// A stage of a route, and where it is.
#[derive(Clone, Debug)]
pub struct Found {
    /// The node's address.
    pub peer: PeerAddress,
    /// What it does, and what that costs.
    pub hop: Hop,
}

fn missing(directory: &Directory, root: &Digest, n_layers: u32, peers: usize, why: RouteError) -> FindError {
    let nodes = directory.for_model(root).count();
    if nodes == 0 {
        return FindError::Nobody { root: *root, peers };
    }
    let coverage: Coverage = directory.coverage(root, n_layers);
    if coverage.complete() {
        return FindError::Route { root: *root, nodes, why };
    }
    FindError::Holes {
        root: *root,
        nodes,
        holes: coverage.holes(),
        embeds: coverage.embeds > 0,
        heads: coverage.heads > 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is missing is said in words.
    #[test]
    fn holes_are_named() {
        assert_eq!(missing_parts(&[1..3, 5..6], true, false), "layers 1..3, layers 5..6, the head");
    }
}
