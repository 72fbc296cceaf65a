//! The HTTP API, as OpenAI's clients speak it: `/v1/models`, `/v1/completions`,
//! `/v1/chat/completions`. What is served here behaves as upstream does; what is not is refused
//! with a message that names the field. Our own data ride in one field, `lockstep`.
//!
//! Nothing is logged and nothing is written: a prompt lives in memory while it is answered, and longer only where the client asks for a
//! proof ([`proofs`]).
//!
//! ```text
//! body -> request (parse) -> Served (tokens) -> Generator -> text -> respond + shape -> JSON or SSE
//! ```

pub mod error;
pub mod fields;
pub mod limits;
pub mod logprobs;
pub mod proofs;
pub mod request;
pub mod respond;
pub mod served;
pub mod shape;

pub use served::{PromptError, Served};

use crate::service::GenerateRequest;
use crate::text::{self, Beginning};
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Json, extract::Path};
use error::ApiError;
use limits::{ANSWERS_MAX, BODY_BYTES_MAX, BODY_TIMEOUT, REQUESTS_MAX};
use proofs::Proofs;
use request::{ChatRequest, Common, CompletionRequest};
use respond::Answers;
use serde_json::{Value, json};
use shape::{Shape, Style, Wanted};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// What can be set from outside.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// Requests that are answered at once; more are answered with 429.
    pub requests_max: usize,
}

impl Default for ApiConfig {
    fn default() -> ApiConfig {
        ApiConfig { requests_max: REQUESTS_MAX }
    }
}

struct Api {
    models: Vec<Served>,
    slots: Arc<Semaphore>,
    requests_max: usize,
    proofs: Proofs,
}

/// The API over `models`.
pub fn router(models: Vec<Served>, config: &ApiConfig) -> Router {
    let requests_max = config.requests_max.min(Semaphore::MAX_PERMITS);
    let api = Arc::new(Api {
        models,
        slots: Arc::new(Semaphore::new(requests_max)),
        requests_max,
        proofs: Proofs::default(),
    });
    Router::new()
        .route("/healthz", get(health))
        .route("/v1/models", get(list_models))
        .route("/v1/models/{*id}", get(show_model))
        .route("/v1/proofs/{id}", get(proofs::get))
        .route("/v1/completions", post(completions))
        .route("/v1/chat/completions", post(chat))
        .fallback(unknown_path)
        .method_not_allowed_fallback(wrong_method)
        .with_state(api)
}

async fn health(State(api): State<Arc<Api>>) -> Json<Value> {
    let running = api.requests_max - api.slots.available_permits();
    Json(json!({ "status": "ok", "models": api.models.len(), "requests": running }))
}

async fn list_models(State(api): State<Arc<Api>>) -> Json<Value> {
    let data: Vec<Value> = api.models.iter().map(Served::json).collect();
    Json(json!({ "object": "list", "data": data }))
}

async fn show_model(State(api): State<Arc<Api>>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    api.model(&id).map(|served| Json(served.json()))
}

async fn unknown_path(method: Method, uri: Uri) -> ApiError {
    let message = format!(
        "unknown path: {method} {}, expected GET /v1/models, GET /v1/proofs/ID, POST /v1/completions, POST /v1/chat/completions or GET /healthz",
        uri.path()
    );
    ApiError::client(StatusCode::NOT_FOUND, message, Some("unknown_url"))
}

async fn wrong_method(method: Method, uri: Uri) -> ApiError {
    let expected = if uri.path().ends_with("completions") { "POST" } else { "GET" };
    let message = format!("method {method} is not allowed for {}, expected {expected}", uri.path());
    ApiError::client(StatusCode::METHOD_NOT_ALLOWED, message, Some("method_not_allowed"))
}

async fn completions(State(api): State<Arc<Api>>, request: Request) -> Result<Response, ApiError> {
    let request = CompletionRequest::parse(&body(request).await?)?;
    let served = api.model(&request.common.model)?.clone();
    let beginning = Beginning::of_completion(&request.prompts);
    let prompts = served.clone().encode_prompts(request.prompts).await?;
    api.answer(served, Style::Completion, prompts, beginning, request.common).await
}

async fn chat(State(api): State<Arc<Api>>, request: Request) -> Result<Response, ApiError> {
    let request = ChatRequest::parse(&body(request).await?)?;
    let served = api.model(&request.common.model)?.clone();
    let prompt = served.clone().encode_chat(request.messages).await?;
    api.answer(served, Style::Chat, vec![prompt], Beginning::Fresh, request.common).await
}

impl Api {
    fn model(&self, id: &str) -> Result<&Served, ApiError> {
        let found = self.models.iter().find(|served| served.generator.model().id == id);
        found.ok_or_else(|| {
            let served: Vec<&str> =
                self.models.iter().map(|served| served.generator.model().id.as_str()).collect();
            ApiError::unknown_model(id, &served)
        })
    }

    async fn answer(
        &self,
        served: Served,
        style: Style,
        prompts: Vec<Vec<u32>>,
        beginning: Beginning,
        common: Common,
    ) -> Result<Response, ApiError> {
        let n = common.n as usize;
        if prompts.len() * n > ANSWERS_MAX {
            let message = format!(
                "{} prompts with n = {n} ask for {} answers, expected at most {ANSWERS_MAX}",
                prompts.len(),
                prompts.len() * n
            );
            return Err(ApiError::field("n", fields::INVALID_VALUE, message));
        }
        let permit = self.slots.clone().try_acquire_owned().map_err(|_| {
            ApiError::busy(format!(
                "{} requests are being answered, expected fewer; try again",
                self.requests_max
            ))
        })?;
        let keep = served.keep(&self.proofs, &prompts, &common)?;
        let model = served.generator.model();
        let mut receivers = Vec::with_capacity(prompts.len() * n);
        for prompt in prompts {
            served.check_prompt(style, &prompt)?;
            for choice in 0..common.n {
                let mut request = GenerateRequest::new(prompt.clone(), common.parameters.clone());
                request.parameters.stop_tokens.clone_from(&model.config.eos);
                request.seed = common.seed;
                request.choice = choice;
                request.top_logprobs = common.top_logprobs;
                request.receipt_file = common.receipt_file;
                request.provable = keep.is_some();
                receivers.push(text::answer(
                    served.generator.as_ref(),
                    served.tokenizer.clone(),
                    request,
                    beginning,
                ));
            }
        }
        let wanted = Wanted {
            logprobs: common.top_logprobs.is_some(),
            receipt_file: common.receipt_file,
            include_usage: common.include_usage,
            keep,
        };
        let shape = Shape::new(style, model, served.tokenizer.clone(), wanted);
        let answers = Answers::new(receivers, n, permit);
        if common.stream { answers.streamed(shape).await } else { answers.whole(&shape).await }
    }
}

/// The bytes of a JSON body.
async fn body(request: Request) -> Result<Vec<u8>, ApiError> {
    check_content_type(request.headers())?;
    let too_large = |got: &str| {
        let message = format!("the body has {got} bytes, expected at most {BODY_BYTES_MAX}");
        ApiError::client(StatusCode::PAYLOAD_TOO_LARGE, message, Some("body_too_large"))
    };
    let stated = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if let Some(got) = stated.filter(|got| *got > BODY_BYTES_MAX as u64) {
        return Err(too_large(&got.to_string()));
    }
    let read = tokio::time::timeout(BODY_TIMEOUT, read_body(request.into_body()));
    match read.await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(BodyError::TooLarge)) => Err(too_large("more")),
        Ok(Err(BodyError::Broken(why))) => Err(ApiError::invalid(format!("the body ended early: {why}"))),
        Err(_) => {
            let message = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
            Err(ApiError::client(StatusCode::REQUEST_TIMEOUT, message, Some("body_timeout")))
        }
    }
}

enum BodyError {
    TooLarge,
    Broken(String),
}

async fn read_body(body: Body) -> Result<Vec<u8>, BodyError> {
    match to_bytes(body, BODY_BYTES_MAX).await {
        Ok(bytes) => Ok(bytes.into()),
        // axum's error says only in words whether the limit or the connection ended it.
        Err(error) => {
            let why = error.to_string();
            Err(if why.contains("limit") { BodyError::TooLarge } else { BodyError::Broken(why) })
        }
    }
}

fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let got = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("none");
    let essence = got.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let message = format!("content type {got}, expected application/json");
    Err(ApiError::client(StatusCode::UNSUPPORTED_MEDIA_TYPE, message, Some("unsupported_media_type")))
}
