//! Proofs of answers that nodes computed: each stage proves its own layers, all at once, and the gateway puts the proofs together and checks them.

use super::Gateway;
use super::link::{Heard, Link, Topic};
use super::replicas::Replicas;
use crate::api::limits::PROOF_TOKENS_MAX;
use crate::proving::{Answered, ProvesAnswers};
use lockstep_base::adapter::AdapterWeights;
use lockstep_base::keys::NodeId;
use lockstep_base::receipt_file::{ReceiptFile, StageRecord};
use lockstep_base::weights::ModelWeights;
use lockstep_mesh::message::{Message, Prove};
use lockstep_mesh::proofs::{ProofFetch, ProofPageError};
use lockstep_proof::decoder::statement::Claim;
use lockstep_proof::file::{AnswerFile, FileError, StageProof};
use lockstep_proof::key::Key;
use lockstep_proof::proof::Proof;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// A stage that has not proved its part within this time is given up: proofs of large stages take minutes.
const PROVE_TIMEOUT: Duration = Duration::from_secs(900);
/// A page of a proof that is there comes within this time.
const PAGE_TIMEOUT: Duration = Duration::from_secs(20);
/// Pages that wait to be looked at: only one is asked for at a time.
const PAGES_QUEUE: usize = 4;

/// Why there is no proof of an answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RouteProofError {
    /// Receipts without commitments.
    #[error("stage {stage} did not commit to its boundaries: the task was not opened as provable")]
    NotCommitted {
        /// Which stage.
        stage: usize,
    },
    /// Receipts of other stages than those of this route.
    #[error("the receipts are of {got} stages, the route has {expected}, or other nodes")]
    Route {
        /// Stages of the receipts.
        got: usize,
        /// Stages of the route.
        expected: usize,
    },
    /// A key in other stages.
    #[error("the key has stages that end at {got:?}, expected those of the nodes: {expected:?}")]
    Key {
        /// Ends of the key's stages.
        got: Vec<u32>,
        /// Ends of the nodes' parts.
        expected: Vec<u32>,
    },
    /// A node has no proof.
    #[error("stage {stage} ({node}) proves nothing: {why}")]
    Refused {
        /// Which stage.
        stage: usize,
        /// Its node.
        node: NodeId,
        /// What it said, or that it said nothing.
        why: String,
    },
    /// A node sent something else.
    #[error("stage {stage} ({node}): {error}")]
    Page {
        /// Which stage.
        stage: usize,
        /// Its node.
        node: NodeId,
        /// What was wrong.
        error: ProofPageError,
    },
    /// A proof that does not hold: its stage signed something else than it computes.
    #[error("stage {stage} ({node}): {error}")]
    Wrong {
        /// Which stage.
        stage: usize,
        /// Its node.
        node: NodeId,
        /// The first check that failed.
        error: FileError,
    },
    /// The whole does not hold, and it is nobody's proof.
    #[error(transparent)]
    File(#[from] FileError),
}

/// What a gateway checks proofs with.
#[derive(Clone, Copy, Debug)]
pub enum Checked<'a> {
    /// All weights of the model, and the adapter of the answer.
    Model(&'a ModelWeights, Option<&'a AdapterWeights>),
    /// The key of the model; and its embedding, whose rows go into the file.
    Key(&'a Key, &'a ModelWeights),
}

impl Gateway {
    /// The proof of the answer that `receipts` are about: of a task that was opened as provable, on this route, not too long ago. `came` is told of each stage whose proof
    /// has come, and its bytes.
    ///
    /// # Errors
    /// [`RouteProofError`], naming the stage.
    pub async fn prove(
        &self,
        receipts: &ReceiptFile,
        checked: Checked<'_>,
        came: &mut dyn FnMut(usize, usize),
    ) -> Result<AnswerFile, RouteProofError> {
        let (got, expected) = (receipts.stages.len(), self.stages.len());
        let serves = |(record, replicas): (&StageRecord, &Replicas)| {
            record.part == replicas.part && replicas.peers().iter().any(|peer| peer.node == record.node)
        };
        if got != expected || !receipts.stages.iter().zip(&self.stages).all(serves) {
            return Err(RouteProofError::Route { got, expected });
        }
        let key = match checked {
            Checked::Key(key, _) => Some(key),
            Checked::Model(..) => None,
        };
        let mut file = outline(receipts, key)?;
        let mut fetching = JoinSet::new();
        for (stage, record) in receipts.stages.iter().enumerate() {
            let refused = |why| RouteProofError::Refused { stage, node: record.node, why };
            let link = self.link_to(stage, record.node).await.map_err(refused)?;
            let prove = Prove {
                task: receipts.task,
                tokens: file.tokens.clone(),
                generated: file.generated as u32,
                parameters: receipts.parameters.clone(),
                weights: key.map(|key| lockstep_base::Digest(key.stages()[stage].root)),
            };
            fetching.spawn(async move { (stage, fetch(stage, &link, prove).await) });
        }
        while let Some(fetched) = fetching.join_next().await {
            let Ok((stage, proof)) = fetched else { continue };
            let proof = proof?;
            came(stage, proof.len());
            file.stages[stage].proof = Some(Proof::new(&proof));
        }
        if let Checked::Key(_, weights) = checked {
            file.open_rows(weights);
        }
        let verified = match checked {
            Checked::Model(weights, adapter) => file.verify_adapted(weights, self.model.root, adapter),
            Checked::Key(key, _) => file.verify_with_key(key),
        };
        match verified {
            Ok(()) => Ok(file),
            Err(error @ FileError::Refused { stage, .. }) => {
                Err(RouteProofError::Wrong { stage, node: receipts.stages[stage].node, error })
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The file without proofs: what the receipts say.
fn outline(receipts: &ReceiptFile, key: Option<&Key>) -> Result<AnswerFile, RouteProofError> {
    let ends: Vec<u32> = receipts.stages.iter().map(|record| record.part.end_layer).collect();
    if let Some(key) = key {
        let got: Vec<u32> = key.stages().iter().map(|stage| stage.end).collect();
        if got != ends {
            return Err(RouteProofError::Key { got, expected: ends });
        }
    }
    let count = receipts.stages.len();
    let stage = |(stage, record): (usize, &StageRecord)| {
        let closing =
            record.receipts.last().map(|signed| &signed.receipt).filter(|receipt| receipt.provable());
        let closing = closing.ok_or(RouteProofError::NotCommitted { stage })?;
        let leaving = (stage + 1 < count).then_some(closing.commit_out.0);
        Ok(StageProof { end: record.part.end_layer, leaving, proof: None })
    };
    let stages = receipts.stages.iter().enumerate().map(stage).collect::<Result<_, RouteProofError>>()?;
    let adapter = lockstep_runtime::audit::adapter_of(receipts);
    Ok(AnswerFile {
        root: receipts.model_root,
        tokens: receipts.tokens.clone(),
        generated: receipts.tokens.len().saturating_sub(receipts.prompt_tokens as usize),
        claimed: Claim::of(&receipts.parameters, receipts.sampler_seed).into(),
        adapter: (adapter != lockstep_base::Digest::ZERO).then_some(adapter),
        stages,
        sample: None,
        keyed: key.map(|key| lockstep_proof::file::Keyed { digest: key.digest(), tokens: Vec::new() }),
    })
}

/// The proof of one stage.
async fn fetch(stage: usize, link: &Arc<Link>, prove: Prove) -> Result<Vec<u8>, RouteProofError> {
    let node = link.peer.node;
    let refused = |why: String| RouteProofError::Refused { stage, node, why };
    let (sender, mut heard) = mpsc::channel(PAGES_QUEUE);
    let _listening = link.listen(prove.task, stage as u16, Topic::Proof, sender);
    let mut fetch = ProofFetch::new(prove);
    let mut patience = PROVE_TIMEOUT;
    loop {
        if !link.send(&fetch.request()) {
            return Err(refused("the connection is lost".into()));
        }
        let page = loop {
            match tokio::time::timeout(patience, heard.recv()).await {
                Ok(Some(Heard::Message(_, Message::Proof(page)))) => break page,
                Ok(Some(Heard::Message(_, Message::Error(fault)))) => return Err(refused(fault.text)),
                Ok(Some(Heard::Message(..))) => {}
                Ok(Some(Heard::Lost(_, why))) => return Err(refused(why)),
                Ok(None) => return Err(refused("the connection is lost".into())),
                Err(_) => return Err(refused(format!("no answer within {} s", patience.as_secs()))),
            }
        };
        patience = PAGE_TIMEOUT;
        let taken = fetch.accept(page).map_err(|error| RouteProofError::Page { stage, node, error })?;
        if let Some(proof) = taken {
            return Ok(proof);
        }
    }
}

/// Has the nodes of a route prove the answers that the API keeps.
#[derive(Debug, Clone)]
pub struct RouteProver {
    /// The route: every node of it proves.
    pub gateway: Arc<Gateway>,
    /// All weights of the model: proofs are checked before anybody gets them.
    pub weights: Arc<ModelWeights>,
    /// The adapter of the answers.
    pub adapter: Option<Arc<AdapterWeights>>,
    /// Where the gateway's tasks run.
    pub runtime: tokio::runtime::Handle,
}

impl ProvesAnswers for RouteProver {
    fn prove(&self, answered: &Answered, watch: &mut dyn FnMut(&'static str)) -> Result<AnswerFile, String> {
        let receipts = answered.receipts.as_deref().ok_or("the answer has no receipts")?;
        let receipts = ReceiptFile::from_bytes(receipts).map_err(|error| error.to_string())?;
        watch("the nodes");
        let checked = Checked::Model(&self.weights, self.adapter.as_deref());
        self.runtime
            .block_on(self.gateway.prove(&receipts, checked, &mut |_, _| {}))
            .map_err(|error| error.to_string())
    }

    fn tokens_max(&self) -> Option<usize> {
        // Nodes keep the rows of all positions that a task was opened for.
        Some(PROOF_TOKENS_MAX)
    }
}
