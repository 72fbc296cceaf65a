//! The gateway: requests in, routes of nodes, verified receipts out. Any client may be its own
//! gateway; nothing here needs to be trusted by the nodes or by whoever checks the receipts.

mod answer;
mod link;
mod prove;
mod replicas;
mod store;

pub use link::{Link, LinkError};
pub use prove::{Checked, RouteProofError, RouteProver};
pub use replicas::Spares;
pub use store::{ReceiptStore, StoreError};

use crate::p2p::{Network, NetworkError, PeerAddress};
use crate::service::{
    EVENT_QUEUE, Failure, FailureKind, GenerateEvent, GenerateRequest, Generator, ModelInfo,
};
use answer::Answer;
use link::{Heard, Topic};
use lockstep_base::Digest;
use lockstep_base::adapter::{AdapterError, AdapterWeights};
use lockstep_base::keys::{NodeId, NodeKey};
use lockstep_base::leaf::TaskSecret;
use lockstep_base::params::{client_seed, network_seed};
use lockstep_base::part::{Part, PartError};
use lockstep_base::receipt_file::ReceiptFile;
use lockstep_mesh::leaves::{LeavesError, LeavesFetch};
use lockstep_mesh::message::Message;
use lockstep_mesh::request::RouteConfig;
use replicas::{Need, Replicas, Serving};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::mpsc;

/// A node that does not show a page of leaves within this time refuses to.
const LEAVES_TIMEOUT: Duration = Duration::from_secs(20);
/// Pages of leaves that wait to be looked at: only one is asked for at a time.
const LEAVES_QUEUE: usize = 4;

/// Why there is no gateway.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// The network.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A node.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A node serves another model.
    #[error("node {node} serves model {got}, expected {expected}")]
    Model {
        /// Which node.
        node: NodeId,
        /// Its model root.
        got: Digest,
        /// Ours.
        expected: Digest,
    },
    /// A node computes otherwise.
    #[error("node {node} computes with opset {got:?}, expected {expected:?}")]
    Opset {
        /// Which node.
        node: NodeId,
        /// Its opset.
        got: String,
        /// Ours.
        expected: String,
    },
    /// The nodes do not make one model.
    #[error("the nodes do not make a route: {0}")]
    Route(#[from] PartError),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a route cannot serve its model under an adapter.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdaptedError {
    /// A node does not have it.
    #[error("node {node} does not serve adapter {adapter}: start it with --adapter")]
    Missing {
        /// Which node.
        node: NodeId,
        /// Root of the adapter.
        adapter: Digest,
    },
    /// An adapter of another model.
    #[error(transparent)]
    Misfit(#[from] AdapterError),
}

/// Why leaves were not fetched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RevealError {
    /// There is no such stage.
    #[error("stage {got}, expected below {stages}")]
    Stage {
        /// The stage asked for.
        got: usize,
        /// Stages of the route.
        stages: usize,
    },
    /// The node refuses, which is a fault of its own.
    #[error("stage {stage} ({node}) does not show its leaves: {why}")]
    Refused {
        /// Which stage.
        stage: usize,
        /// Its node.
        node: NodeId,
        /// What it said, or that it said nothing.
        why: String,
    },
    /// It sent something else.
    #[error(transparent)]
    Leaves(#[from] LeavesError),
}

/// What a gateway does beyond answering.
#[derive(Debug, Default)]
pub struct Options {
    /// Ask the stages to commit to every op output, not only to boundaries and KV cache.
    pub full_trace: bool,
    /// Where receipts are kept.
    pub store: Option<ReceiptStore>,
    /// Who knows more nodes.
    pub spares: Option<Arc<dyn Spares>>,
}

/// A route of nodes behind the generator interface.
#[derive(Debug)]
pub struct Gateway {
    key: NodeKey,
    network: Network,
    model: ModelInfo,
    /// The stages in order, and the nodes that serve each.
    stages: Vec<Replicas>,
    options: Options,
    last: Mutex<Option<Digest>>,
    revealing: tokio::sync::Mutex<()>,
}

impl Gateway {
    /// Connects to `peers` (in any order) and checks that they serve all of `model`. Where several serve the same part, each of them may take another one's place.
    ///
    /// # Errors
    /// [`GatewayError`] naming the node that does not fit.
    pub async fn connect(
        key: NodeKey,
        model: ModelInfo,
        peers: Vec<PeerAddress>,
        options: Options,
    ) -> Result<Arc<Gateway>, GatewayError> {
        Gateway::over(Network::start(&key).await?, key, model, peers, options).await
    }

    /// As [`Gateway::connect`], over a network that is there already, under the same key.
    ///
    /// # Errors
    /// [`GatewayError`] naming the node that does not fit.
    pub async fn over(
        network: Network,
        key: NodeKey,
        model: ModelInfo,
        peers: Vec<PeerAddress>,
        options: Options,
    ) -> Result<Arc<Gateway>, GatewayError> {
        let mut links = Vec::new();
        for peer in peers {
            let link = Link::connect(&network, peer).await?;
            let (node, info) = (link.peer.node, &link.info);
            if info.model_root != model.root {
                return Err(GatewayError::Model { node, got: info.model_root, expected: model.root });
            }
            if info.opset != model.config.opset {
                return Err(GatewayError::Opset {
                    node,
                    got: info.opset.clone(),
                    expected: model.config.opset.clone(),
                });
            }
            links.push(link);
        }
        let stages = replicas::stages(links, model.config.n_layers)?;
        Ok(Arc::new(Gateway {
            key,
            network,
            model,
            stages,
            options,
            last: Mutex::default(),
            revealing: tokio::sync::Mutex::default(),
        }))
    }

    /// The nodes, stage by stage, with their parts.
    #[must_use]
    pub fn nodes(&self) -> Vec<(usize, PeerAddress, Part)> {
        let of = |(stage, replicas): (usize, &Replicas)| -> Vec<_> {
            replicas.peers().into_iter().map(|peer| (stage, peer, replicas.part)).collect()
        };
        self.stages.iter().enumerate().flat_map(of).collect()
    }

    /// How many stages a route has.
    #[must_use]
    pub fn stage_count(&self) -> usize {
        self.stages.len()
    }

    /// The first node that proves nothing, if there is one.
    #[must_use]
    pub fn not_proving(&self) -> Option<NodeId> {
        self.stages.iter().find_map(Replicas::not_proving)
    }

    /// Whether every stage serves `adapter` and it is one of this model.
    fn check_adapter(&self, adapter: &AdapterWeights) -> Result<(), AdaptedError> {
        adapter.check_fits(self.model.root, &self.model.config, 0, &[])?;
        for stage in &self.stages {
            if let Some(node) = stage.without_adapter(adapter.root) {
                return Err(AdaptedError::Missing { node, adapter: adapter.root });
            }
        }
        Ok(())
    }

    /// An open link to `node`, which served `stage`.
    async fn link_to(&self, stage: usize, node: NodeId) -> Result<Arc<Link>, String> {
        let stage = self.stages.get(stage).ok_or("there is no such stage")?;
        stage.link_to(&self.network, node).await
    }

    /// A node for each stage.
    async fn serving(&self, adapter: Digest, provable: bool) -> Result<Vec<Serving>, Failure> {
        let mut all = Vec::with_capacity(self.stages.len());
        for stage in 0..self.stages.len() {
            let need = Need { model_root: self.model.root, tried: &[], adapter, provable };
            all.push(self.pick(stage, &need).await.map_err(|message| Failure {
                kind: FailureKind::Stage,
                stage: Some(stage),
                message,
            })?);
        }
        Ok(all)
    }

    /// A node for one stage.
    async fn pick(&self, stage: usize, need: &Need<'_>) -> Result<Serving, String> {
        self.stages[stage].pick(&self.network, self.options.spares.as_deref(), need).await
    }

    fn route_config(
        &self,
        request: &GenerateRequest,
        adapter: Digest,
        serving: &[Serving],
    ) -> Result<RouteConfig, Failure> {
        let config = &self.model.config;
        let mut parameters = request.parameters.clone();
        parameters.max_tokens = request.budget(config)?;
        let task = Digest(rand::random());
        let sampler_seed = match request.seed {
            Some(seed) => client_seed(seed, request.choice),
            // Until there is a public beacon, the gateway draws one itself.
            None => network_seed(&task, &Digest(rand::random()), request.choice),
        };
        Ok(RouteConfig {
            task,
            secret: TaskSecret(rand::random()),
            owner: self.key.id(),
            model_root: self.model.root,
            opset: config.opset.clone(),
            n_layers: config.n_layers,
            vocab: config.vocab,
            context: config.context,
            parameters,
            sampler_seed,
            prompt: request.prompt.clone(),
            answered: Vec::new(),
            full_trace: self.options.full_trace,
            logprobs: request.top_logprobs.map(|top| top as u8),
            audit_class: Digest::ZERO,
            adapter,
            provable: request.provable,
            stages: serving.iter().map(Serving::stage).collect(),
        })
    }

    /// Asks `stage` for the leaves of the span at `first_token` and puts them into `file`.
    ///
    /// # Errors
    /// [`RevealError`] if the stage does not show them.
    pub async fn reveal(
        &self,
        file: &mut ReceiptFile,
        stage: usize,
        first_token: u32,
    ) -> Result<(), RevealError> {
        let stages = file.stages.len();
        let Some(record) = file.stages.get(stage) else {
            return Err(RevealError::Stage { got: stage, stages });
        };
        let node = record.node;
        let refused = |why: String| RevealError::Refused { stage, node, why };
        // One at a time: two would hear each other's pages.
        let _alone = self.revealing.lock().await;
        let link = self.link_to(stage, node).await.map_err(refused)?;
        let (sender, mut heard) = mpsc::channel(LEAVES_QUEUE);
        let _listening = link.listen(file.task, stage as u16, Topic::Leaves, sender);
        let mut fetch = LeavesFetch::new(file.task, first_token);
        let span = loop {
            if !link.send(&fetch.request()) {
                return Err(refused("the connection is lost".into()));
            }
            match tokio::time::timeout(LEAVES_TIMEOUT, heard.recv()).await {
                Ok(Some(Heard::Message(_, Message::Leaves(page)))) => {
                    if let Some(span) = fetch.accept(page)? {
                        break span;
                    }
                }
                Ok(Some(Heard::Message(_, Message::Error(fault)))) => return Err(refused(fault.text)),
                Ok(Some(Heard::Message(..))) => {}
                Ok(Some(Heard::Lost(_, why))) => return Err(refused(why)),
                Ok(None) => return Err(refused("the connection is lost".into())),
                Err(_) => return Err(refused("no answer within 20 s".into())),
            }
        };
        let served = &mut file.stages[stage].served;
        served.retain(|span| span.first_token != first_token);
        served.push(span);
        Ok(())
    }

    /// Task id of the last answer that was completed.
    #[must_use]
    pub fn last_task(&self) -> Option<Digest> {
        *self.last.lock().expect("no thread panics while it holds the id")
    }

    fn keep(&self, file: &ReceiptFile) -> Result<(), StoreError> {
        *self.last.lock().expect("no thread panics while it holds the id") = Some(file.task);
        self.options.store.as_ref().map_or(Ok(()), |store| store.insert(file))
    }
}

/// A gateway as a generator, with or without an adapter: what the API serves from.
#[derive(Debug, Clone)]
pub struct RoutedGenerator {
    gateway: Arc<Gateway>,
    info: ModelInfo,
}

impl RoutedGenerator {
    /// The model of the route.
    #[must_use]
    pub fn new(gateway: Arc<Gateway>) -> RoutedGenerator {
        RoutedGenerator { info: gateway.model.clone(), gateway }
    }

    /// The same model under `adapter`, asked for as `id`.
    ///
    /// # Errors
    /// [`AdaptedError`] if the adapter does not fit the model, or names the first node that does not serve it.
    pub fn adapted(&self, id: &str, adapter: &AdapterWeights) -> Result<RoutedGenerator, AdaptedError> {
        self.gateway.check_adapter(adapter)?;
        let info = self.info.adapted(id, adapter);
        Ok(RoutedGenerator { gateway: self.gateway.clone(), info })
    }
}

impl Generator for RoutedGenerator {
    fn model(&self) -> &ModelInfo {
        &self.info
    }

    fn generate(&self, request: GenerateRequest) -> mpsc::Receiver<GenerateEvent> {
        let (sender, receiver) = mpsc::channel(EVENT_QUEUE);
        let (gateway, adapter) = (self.gateway.clone(), self.info.adapter_root());
        tokio::spawn(async move {
            if let Err(failure) = Answer::run(&gateway, &request, adapter, &sender).await {
                // Nobody listens any more: there is nobody to tell.
                let _ = sender.send(GenerateEvent::Failed(failure)).await;
            }
        });
        receiver
    }
}
