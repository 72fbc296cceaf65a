//! `"proof": "on-request"`: the tokens of an answer are kept for a while, and whoever knows the answer's proof id gets a proof of it, which is made when it is
//! asked for first.
//!
//! ```text
//! POST /v1/…            {"lockstep": {"proof": "on-request"}, …}   ->  lockstep.choices[0].proof = {"id": …}
//! GET  /v1/proofs/{id}  202 {"status": "queued" | "proving", "phase": …}  then  200 application/octet-stream: what `lockstep prove` writes
//!                       404 unknown, or forgotten    422 this answer has no proof, and why    429 too many are being made
//! ```
//!
//! One proof is made at a time. Answers and proofs live in memory; of [`KEPT_MAX`] the oldest is forgotten first.

use super::Api;
use super::error::ApiError;
use super::limits::PROOF_TOKENS_MAX;
use crate::proving::{Answered, ProvesAnswers};
use crate::service::Done;
use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use lockstep_base::params::Parameters;
use lockstep_proof::decoder::statement::Claim;
use rand::TryRngCore as _;
use rand::rngs::OsRng;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

/// Answers that are kept, with or without their proofs.
pub const KEPT_MAX: usize = 64;
/// Proofs that are being made or wait for it.
pub const QUEUE_MAX: usize = 4;
/// After how many seconds a client should ask again.
const RETRY_SECONDS: &str = "1";

/// What is known of a proof.
#[derive(Clone)]
enum Status {
    /// Nobody has asked for it.
    Kept,
    /// It waits for another one.
    Queued,
    /// It is being made.
    Proving(&'static str),
    /// It is there.
    Done(Arc<Vec<u8>>),
    /// There is none.
    Failed(String),
}

struct Entry {
    id: String,
    answered: Arc<Answered>,
    prover: Arc<dyn ProvesAnswers>,
    status: Status,
}

/// The answers that can be proved.
#[derive(Clone)]
pub struct Proofs {
    entries: Arc<Mutex<VecDeque<Entry>>>,
    /// Who makes one.
    worker: Arc<Semaphore>,
    /// Who makes one or waits for it.
    queue: Arc<Semaphore>,
}

impl std::fmt::Debug for Proofs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proofs").field("waiting", &(QUEUE_MAX - self.queue.available_permits())).finish()
    }
}

impl Default for Proofs {
    fn default() -> Proofs {
        Proofs {
            entries: Arc::default(),
            worker: Arc::new(Semaphore::new(1)),
            queue: Arc::new(Semaphore::new(QUEUE_MAX)),
        }
    }
}

/// Keeps the answer to one prompt.
#[derive(Debug, Clone)]
pub struct Keep {
    /// Where.
    pub proofs: Proofs,
    /// Who could prove it.
    pub prover: Arc<dyn ProvesAnswers>,
    /// The prompt.
    pub prompt: Vec<u32>,
    /// How the answer's tokens are chosen.
    pub parameters: Parameters,
}

impl Keep {
    /// What a response says of the proof of an answer.
    #[must_use]
    pub fn answered(&self, answer: &[u32], done: &Done) -> Value {
        let answered = Answered {
            tokens: [&self.prompt[..], answer].concat(),
            generated: answer.len(),
            claimed: Claim::of(&self.parameters, done.sampler_seed).into(),
            receipts: done.receipts.as_ref().map(|receipts| receipts.file.clone()),
        };
        match secret_id() {
            Some(id) => {
                self.proofs.keep(id.clone(), answered, self.prover.clone());
                json!({ "id": id })
            }
            None => json!({ "error": "this machine has no randomness now: the answer is not kept" }),
        }
    }
}

/// A name that nobody guesses: whoever knows it gets prompt and answer. None where the system has no randomness.
fn secret_id() -> Option<String> {
    let mut bytes = [0; 16];
    OsRng.try_fill_bytes(&mut bytes).ok()?;
    Some(format!("proof-{}", lockstep_base::digest::hex(&bytes)))
}

impl Proofs {
    fn keep(&self, id: String, answered: Answered, prover: Arc<dyn ProvesAnswers>) {
        let got = answered.tokens.len();
        let status = match got > PROOF_TOKENS_MAX {
            true => Status::Failed(format!(
                "this answer has no proof: {got} tokens with the prompt, expected at most {PROOF_TOKENS_MAX}"
            )),
            false => Status::Kept,
        };
        let entry = Entry { id, answered: Arc::new(answered), prover, status };
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.len() == KEPT_MAX {
            entries.pop_front();
        }
        entries.push_back(entry);
    }

    fn with<T>(&self, id: &str, f: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        entries.iter_mut().find(|entry| entry.id == id).map(f)
    }

    fn set(&self, id: &str, status: Status) {
        self.with(id, |entry| entry.status = status);
    }

    /// Begins to make a proof that nobody has asked for yet.
    fn start(&self, id: &str) -> Result<Status, ApiError> {
        let Ok(place) = self.queue.clone().try_acquire_owned() else {
            return Err(ApiError::busy(format!(
                "{QUEUE_MAX} proofs are being made, expected fewer; try again"
            )));
        };
        let begun = self.with(id, |entry| {
            // Two may have asked at once.
            let first = matches!(entry.status, Status::Kept);
            if first {
                entry.status = Status::Queued;
            }
            first.then(|| (entry.answered.clone(), entry.prover.clone()))
        });
        if let Some(Some((answered, prover))) = begun {
            let (proofs, id) = (self.clone(), id.to_owned());
            tokio::spawn(async move {
                let _place = place;
                let Ok(_turn) = proofs.worker.clone().acquire_owned().await else { return };
                let (maker, of) = (proofs.clone(), id.clone());
                let work = move || {
                    let mut watch = |phase| maker.set(&of, Status::Proving(phase));
                    prover.prove(&answered, &mut watch)
                };
                let status = match tokio::task::spawn_blocking(work).await {
                    Ok(Ok(file)) => Status::Done(Arc::new(file.to_bytes())),
                    Ok(Err(error)) => Status::Failed(format!("this answer has no proof: {error}")),
                    Err(_) => Status::Failed("the prover did not finish".into()),
                };
                proofs.set(&id, status);
            });
        }
        Ok(Status::Queued)
    }
}

/// `GET /v1/proofs/{id}`.
pub(super) async fn get(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Response, ApiError> {
    let unknown = || {
        let message = format!("there is no answer to prove with the id {id:?}: it is unknown, or forgotten");
        ApiError::client(StatusCode::NOT_FOUND, message, Some("proof_not_found"))
    };
    let status = match api.proofs.with(&id, |entry| entry.status.clone()).ok_or_else(unknown)? {
        Status::Kept => api.proofs.start(&id)?,
        status => status,
    };
    let waits = |about: Value| {
        (StatusCode::ACCEPTED, [(header::RETRY_AFTER, RETRY_SECONDS)], Json(about)).into_response()
    };
    Ok(match status {
        Status::Kept | Status::Queued => waits(json!({ "id": id, "status": "queued" })),
        Status::Proving(phase) => waits(json!({ "id": id, "status": "proving", "phase": phase })),
        Status::Done(bytes) => {
            ([(header::CONTENT_TYPE, "application/octet-stream")], bytes.as_ref().clone()).into_response()
        }
        Status::Failed(why) => {
            return Err(ApiError::client(StatusCode::UNPROCESSABLE_ENTITY, why, Some("no_proof")));
        }
    })
}
