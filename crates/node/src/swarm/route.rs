//! A gateway over nodes that a swarm finds.

use super::find::REQUEST_POSITIONS;
use super::{FindError, Shared, Swarm, SwarmError, address_of};
use crate::gateway::{Gateway, GatewayError, LinkError, Options, Spares, StoreError};
use crate::p2p::{NetworkError, PeerAddress, node_of_peer};
use crate::service::ModelInfo;
use lockstep_base::Digest;
use lockstep_base::keys::{NodeId, NodeKey};
use lockstep_base::part::Part;
use lockstep_mesh::swarm::State;
use lockstep_mesh::swarm::directory::Entry;
use lockstep_mesh::swarm::routing::Query;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Nodes that may turn out to be gone before a gateway gives up.
const GONE_MAX: usize = 16;
/// Nodes that a gateway knows for a stage beside the one of its chain.
const REPLICAS_MAX: usize = 2;

/// Why there is no gateway over a swarm.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RouteFailure {
    /// No chain of nodes was heard of.
    #[error(transparent)]
    Swarm(#[from] SwarmError),
    /// A chain was, and it cannot be used.
    #[error(transparent)]
    Gateway(#[from] GatewayError),
    /// Announced nodes did not answer, and there is no way without them.
    #[error("{failed}; without the nodes that do not answer: {missing}")]
    Gone {
        /// What became of the last chain.
        failed: GatewayError,
        /// What is missing without it.
        missing: FindError,
    },
    /// The store of receipts.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Swarm {
    /// Finds nodes that serve all of `model` and connects to them; who was announced and does not answer is passed by.
    /// The swarm is to be kept as long as the gateway.
    ///
    /// # Errors
    /// [`RouteFailure`] if there is no complete chain of nodes that answer.
    pub async fn gateway(
        &self,
        key: NodeKey,
        model: ModelInfo,
        options: impl Fn() -> Result<Options, StoreError>,
    ) -> Result<Arc<Gateway>, RouteFailure> {
        let (root, n_layers) = (model.root, model.config.n_layers);
        self.find(&root, n_layers).await?;
        let mut gone = BTreeSet::new();
        let mut chain = self.with_replicas(&root, n_layers, &gone).await.map_err(SwarmError::from)?;
        loop {
            let network = self.network.clone();
            let spares = SwarmSpares { shared: self.shared.clone(), root };
            let options = Options { spares: Some(Arc::new(spares)), ..options()? };
            let error = match Gateway::over(network, key.clone(), model.clone(), chain, options).await {
                Ok(gateway) => return Ok(gateway),
                Err(error) => error,
            };
            let Some(node) = blamed(&error).filter(|_| gone.len() < GONE_MAX) else {
                return Err(error.into());
            };
            self.failed(node);
            gone.insert(node);
            chain = match self.with_replicas(&root, n_layers, &gone).await {
                Ok(chain) => chain,
                Err(missing) => return Err(RouteFailure::Gone { failed: error, missing }),
            };
        }
    }

    /// A chain, and some other nodes that serve the same parts: where one dies in the middle of an answer, another takes its place.
    async fn with_replicas(
        &self,
        root: &Digest,
        n_layers: u32,
        gone: &BTreeSet<NodeId>,
    ) -> Result<Vec<PeerAddress>, FindError> {
        let mut query = Query::new(n_layers, REQUEST_POSITIONS);
        query.exclude.clone_from(gone);
        let chain = self.route(root, query).await?;
        let mut peers = Vec::new();
        for stage in &chain {
            peers.push(stage.peer.clone());
            let others = serving_part(&self.shared, root, &stage.hop.part).into_iter();
            let others = others.filter(|peer| peer.node != stage.peer.node && !gone.contains(&peer.node));
            peers.extend(others.take(REPLICAS_MAX));
        }
        Ok(peers)
    }
}

/// Nodes that serve just this part and did not fail lately, the fastest first.
fn serving_part(shared: &Shared, root: &Digest, part: &Part) -> Vec<PeerAddress> {
    let (scope, now_ms) = (shared.scope(), shared.now_ms());
    let directory = shared.directory();
    let scores = shared.scores();
    let serves = |entry: &&Entry| {
        let claims = entry.claims();
        let banned = scores.banned(now_ms, &claims.node);
        claims.part == *part && claims.state == State::Online && !banned
    };
    let mut all: Vec<&Entry> = directory.for_model(root).filter(serves).collect();
    all.sort_by_key(|entry| std::cmp::Reverse(entry.claims().decode_milli));
    all.into_iter().filter_map(|entry| address_of(&entry.announcement, scope)).collect()
}

/// Nodes of the swarm that may take others' places.
struct SwarmSpares {
    shared: Arc<Shared>,
    root: Digest,
}

impl std::fmt::Debug for SwarmSpares {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SwarmSpares").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Spares for SwarmSpares {
    fn nodes(&self, part: &Part) -> Vec<PeerAddress> {
        serving_part(&self.shared, &self.root, part)
    }

    fn failed(&self, node: NodeId) {
        self.shared.scores().failed(self.shared.now_ms(), node);
    }
}

/// The node that an error is about.
fn blamed(error: &GatewayError) -> Option<NodeId> {
    let of = |text: &str| text.parse::<PeerAddress>().ok().map(|peer| peer.node);
    match error {
        GatewayError::Model { node, .. } | GatewayError::Opset { node, .. } => Some(*node),
        GatewayError::Network(error) | GatewayError::Link(LinkError::Network(error)) => match error {
            NetworkError::Unreachable { peer, .. } => of(peer),
            NetworkError::WrongKey { expected, .. } => node_of_peer(expected),
            NetworkError::Protocol { peer, .. } => node_of_peer(peer),
            _ => None,
        },
        GatewayError::Link(LinkError::Silent { peer, .. } | LinkError::WrongNode { peer, .. }) => of(peer),
        _ => None,
    }
}
