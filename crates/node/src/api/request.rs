//! What a client may ask for, parsed at the edge: floats become integers here and nowhere later.

use super::error::ApiError;
use super::fields::{Fields, INVALID_TYPE, INVALID_VALUE};
use super::limits::{
    COMPLETION_LOGPROBS_MAX, CONTENT_PARTS_MAX, DEFAULT_COMPLETION_TOKENS, MAX_TOKENS_MAX, MESSAGES_MAX,
    N_MAX, PROMPTS_MAX, STOP_BYTES_MAX, STOP_STRINGS_MAX, TEMPERATURE_MAX,
};
use lockstep_base::limits::{TOP_K_MAX, TOP_LOGPROBS_MAX};
use lockstep_base::params::{ONE_Q16, Parameters};
use lockstep_model::chat::Message;
use serde_json::{Value, json};

/// What both endpoints share.
#[derive(Debug, Clone, PartialEq)]
pub struct Common {
    /// The model's id.
    pub model: String,
    /// Sampling; without stop tokens, which are the model's.
    pub parameters: Parameters,
    /// The client's seed.
    pub seed: Option<u64>,
    /// Choices to each prompt.
    pub n: u32,
    /// Whether the answer is streamed.
    pub stream: bool,
    /// Whether a stream ends with the usage.
    pub include_usage: bool,
    /// Alternatives whose log-probabilities are wanted.
    pub top_logprobs: Option<u32>,
    /// Whether the receipt file is wanted.
    pub receipt_file: bool,
    /// Whether the answer is kept for a proof.
    pub proof: bool,
}

/// A prompt of `/v1/completions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Prompt {
    /// Text, to be tokenised; BOS is put in front.
    Text(String),
    /// Tokens as they are.
    Tokens(Vec<u32>),
}

/// `POST /v1/completions`.
#[derive(Debug, Clone, PartialEq)]
pub struct CompletionRequest {
    /// The prompts; each gets `n` choices.
    pub prompts: Vec<Prompt>,
    /// The rest.
    pub common: Common,
}

/// `POST /v1/chat/completions`.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatRequest {
    /// The turns so far.
    pub messages: Vec<Message>,
    /// The rest.
    pub common: Common,
}

/// Fields about accounts, billing, caches: they change nothing here.
const IGNORED: [&str; 6] =
    ["user", "metadata", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "service_tier"];

impl CompletionRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// 400 naming the first field that is missing, malformed, out of range or not served.
    pub fn parse(body: &[u8]) -> Result<CompletionRequest, ApiError> {
        let mut fields = Fields::parse(body)?;
        let model = model(&mut fields)?;
        let prompts = prompts(&mut fields)?;
        for (name, neutral) in [("echo", json!(false)), ("best_of", json!(1))] {
            fields.unsupported(name, &[neutral])?;
        }
        fields.unsupported("suffix", &[json!("")])?;
        let max_tokens =
            fields.integer("max_tokens", 1, MAX_TOKENS_MAX)?.unwrap_or(DEFAULT_COMPLETION_TOKENS);
        let top_logprobs = fields.integer("logprobs", 0, COMPLETION_LOGPROBS_MAX)?.map(|top| top as u32);
        let common = common(&mut fields, model, max_tokens as u32, top_logprobs)?;
        fields.finish()?;
        Ok(CompletionRequest { prompts, common })
    }
}

impl ChatRequest {
    /// Reads a body.
    ///
    /// # Errors
    /// 400 naming the first field that is missing, malformed, out of range or not served.
    pub fn parse(body: &[u8]) -> Result<ChatRequest, ApiError> {
        let mut fields = Fields::parse(body)?;
        let model = model(&mut fields)?;
        let messages = messages(&mut fields)?;
        for name in ["tools", "functions"] {
            fields.unsupported(name, &[json!([])])?;
        }
        for name in ["tool_choice", "function_call"] {
            fields.unsupported(name, &[json!("none"), json!("auto")])?;
        }
        fields.unsupported("response_format", &[json!({"type": "text"})])?;
        fields.unsupported("modalities", &[json!(["text"])])?;
        for name in ["audio", "prediction", "web_search_options", "reasoning_effort", "verbosity"] {
            fields.unsupported(name, &[])?;
        }
        fields.unsupported("store", &[json!(false)])?;
        fields.unsupported("parallel_tool_calls", &[json!(true), json!(false)])?;
        let max_tokens = chat_max_tokens(&mut fields)?;
        let top_logprobs = chat_logprobs(&mut fields)?;
        let common = common(&mut fields, model, max_tokens, top_logprobs)?;
        fields.finish()?;
        Ok(ChatRequest { messages, common })
    }
}

fn model(fields: &mut Fields) -> Result<String, ApiError> {
    fields.string("model")?.ok_or_else(|| missing("model", "the id of a model (GET /v1/models lists them)"))
}

fn missing(param: &str, expected: &str) -> ApiError {
    ApiError::field(param, "missing_required_parameter", format!("{param} is missing, expected {expected}"))
}

fn common(
    fields: &mut Fields,
    model: String,
    max_tokens: u32,
    top_logprobs: Option<u32>,
) -> Result<Common, ApiError> {
    fields.ignore(&IGNORED);
    for name in ["presence_penalty", "frequency_penalty"] {
        fields.unsupported(name, &[json!(0)])?;
    }
    fields.unsupported("logit_bias", &[json!({})])?;
    let q16 = |value: f64| (value * f64::from(ONE_Q16)).round() as u32;
    let temperature = fields.number("temperature", 0.0, TEMPERATURE_MAX)?.unwrap_or(1.0);
    let top_p = fields.number("top_p", 0.0, 1.0)?.unwrap_or(1.0);
    let stop = stop(fields)?;
    let seed = fields.seed("seed")?;
    let n = fields.integer("n", 1, N_MAX)?.unwrap_or(1) as u32;
    let stream = fields.bool("stream")?.unwrap_or(false);
    let include_usage = stream_options(fields, stream)?;
    let (mut receipt_file, mut proof, mut top_k) = (false, false, 0);
    if let Some(mut ours) = fields.object("lockstep")? {
        receipt_file = ours.bool("receipt_file")?.unwrap_or(false);
        proof = on_request(&mut ours)?;
        top_k = ours.integer("top_k", 0, i64::from(TOP_K_MAX))?.unwrap_or(0) as u32;
        ours.finish()?;
    }
    let parameters = Parameters {
        temperature_q16: q16(temperature),
        top_k,
        top_p_q16: q16(top_p),
        max_tokens,
        stop_tokens: Vec::new(),
        stop,
    };
    Ok(Common { model, parameters, seed, n, stream, include_usage, top_logprobs, receipt_file, proof })
}

/// Whether a proof of the answer can be asked for later.
fn on_request(ours: &mut Fields) -> Result<bool, ApiError> {
    match ours.string("proof")?.as_deref() {
        None => Ok(false),
        Some("on-request") => Ok(true),
        Some(got) => Err(ours.out_of_range("proof", &json!(got), "\"on-request\"")),
    }
}

fn stream_options(fields: &mut Fields, stream: bool) -> Result<bool, ApiError> {
    let Some(mut options) = fields.object("stream_options")? else { return Ok(false) };
    if !stream {
        return Err(ApiError::field(
            "stream_options",
            INVALID_VALUE,
            "stream_options is given, expected only with stream = true",
        ));
    }
    let include_usage = options.bool("include_usage")?.unwrap_or(false);
    options.unsupported("include_obfuscation", &[json!(false)])?;
    options.finish()?;
    Ok(include_usage)
}

/// A text or a list of texts.
fn stop(fields: &mut Fields) -> Result<Vec<String>, ApiError> {
    let texts = fields.other("stop", "a string or a list of strings", |value| match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(texts) => texts.iter().map(|text| text.as_str().map(String::from)).collect(),
        _ => None,
    })?;
    let texts = texts.unwrap_or_default();
    if texts.len() > STOP_STRINGS_MAX {
        let message = format!("stop has {} strings, expected at most {STOP_STRINGS_MAX}", texts.len());
        return Err(ApiError::field("stop", INVALID_VALUE, message));
    }
    match texts.iter().find(|text| text.is_empty() || text.len() > STOP_BYTES_MAX) {
        None => Ok(texts),
        Some(text) => {
            let message = format!("a stop string has {} bytes, expected 1 to {STOP_BYTES_MAX}", text.len());
            Err(ApiError::field("stop", INVALID_VALUE, message))
        }
    }
}

/// `max_completion_tokens`, or its older name; by default the context is the limit.
fn chat_max_tokens(fields: &mut Fields) -> Result<u32, ApiError> {
    let newer = fields.integer("max_completion_tokens", 1, MAX_TOKENS_MAX)?;
    let older = fields.integer("max_tokens", 1, MAX_TOKENS_MAX)?;
    if newer.is_some() && older.is_some() {
        let message = "max_tokens and max_completion_tokens are both given, expected one of them";
        return Err(ApiError::field("max_tokens", INVALID_VALUE, message));
    }
    Ok(newer.or(older).unwrap_or(MAX_TOKENS_MAX) as u32)
}

fn chat_logprobs(fields: &mut Fields) -> Result<Option<u32>, ApiError> {
    let logprobs = fields.bool("logprobs")?.unwrap_or(false);
    let top = fields.integer("top_logprobs", 0, i64::from(TOP_LOGPROBS_MAX))?;
    match (logprobs, top) {
        (false, Some(top)) if top > 0 => {
            let message = "top_logprobs is given, expected only with logprobs = true";
            Err(ApiError::field("top_logprobs", INVALID_VALUE, message))
        }
        (false, _) => Ok(None),
        (true, top) => Ok(Some(top.unwrap_or(0) as u32)),
    }
}

fn prompts(fields: &mut Fields) -> Result<Vec<Prompt>, ApiError> {
    const EXPECTED: &str = "a string, a list of strings, a list of tokens or a list of those";
    let read = |value: &Value| match value {
        Value::String(text) => Some(vec![Prompt::Text(text.clone())]),
        Value::Array(items) if items.is_empty() => None,
        Value::Array(items) if items.iter().all(Value::is_number) => {
            Some(vec![Prompt::Tokens(tokens(items)?)])
        }
        Value::Array(items) => items.iter().map(one_prompt).collect(),
        _ => None,
    };
    let prompts = fields.other("prompt", EXPECTED, read)?.ok_or_else(|| missing("prompt", EXPECTED))?;
    if prompts.len() > PROMPTS_MAX {
        let message = format!("prompt has {} prompts, expected at most {PROMPTS_MAX}", prompts.len());
        return Err(ApiError::field("prompt", INVALID_VALUE, message));
    }
    Ok(prompts)
}

fn one_prompt(value: &Value) -> Option<Prompt> {
    match value {
        Value::String(text) => Some(Prompt::Text(text.clone())),
        Value::Array(items) => tokens(items).map(Prompt::Tokens),
        _ => None,
    }
}

fn tokens(items: &[Value]) -> Option<Vec<u32>> {
    items.iter().map(|item| item.as_u64().and_then(|token| u32::try_from(token).ok())).collect()
}

fn messages(fields: &mut Fields) -> Result<Vec<Message>, ApiError> {
    const EXPECTED: &str = "a list of messages";
    let items = fields
        .other("messages", EXPECTED, |value| value.as_array().cloned())?
        .ok_or_else(|| missing("messages", EXPECTED))?;
    if items.is_empty() || items.len() > MESSAGES_MAX {
        let message = format!("messages has {} messages, expected 1 to {MESSAGES_MAX}", items.len());
        return Err(ApiError::field("messages", INVALID_VALUE, message));
    }
    items.into_iter().enumerate().map(|(index, item)| message(index, item)).collect()
}

/// Roles that carry text alone.
const ROLES: [&str; 4] = ["system", "developer", "user", "assistant"];

fn message(index: usize, item: Value) -> Result<Message, ApiError> {
    // As in a body with one field, so that messages name the field by its path.
    let path = format!("messages[{index}]");
    let mut whole = Fields::one(&path, item);
    let mut fields = whole.object(&path)?.ok_or_else(|| missing(&path, "a message"))?;
    let role = fields.string("role")?.ok_or_else(|| missing(&fields.path("role"), "a role"))?;
    if !ROLES.contains(&role.as_str()) {
        return Err(fields.out_of_range("role", &json!(role), &format!("one of {}", ROLES.join(", "))));
    }
    let content = fields.take("content").ok_or_else(|| missing(&fields.path("content"), "a text"))?;
    let content = content_text(&fields.path("content"), content)?;
    for name in ["name", "refusal", "audio", "tool_call_id"] {
        fields.unsupported(name, &[])?;
    }
    for name in ["tool_calls", "annotations"] {
        fields.unsupported(name, &[json!([])])?;
    }
    fields.unsupported("function_call", &[])?;
    fields.finish()?;
    // OpenAI's newer name for the same role; templates know the older one.
    let role = if role == "developer" { "system".into() } else { role };
    Ok(Message { role, content })
}

/// A text, or a list of text parts.
fn content_text(path: &str, content: Value) -> Result<String, ApiError> {
    let expected = "a string or a list of text parts";
    let parts = match content {
        Value::String(text) => return Ok(text),
        Value::Array(parts) => parts,
        _ => {
            return Err(ApiError::field(
                path,
                INVALID_TYPE,
                format!("{path} is of another type, expected {expected}"),
            ));
        }
    };
    if parts.len() > CONTENT_PARTS_MAX {
        let message = format!("{path} has {} parts, expected at most {CONTENT_PARTS_MAX}", parts.len());
        return Err(ApiError::field(path, INVALID_VALUE, message));
    }
    let mut text = String::new();
    for (index, part) in parts.iter().enumerate() {
        match (part["type"].as_str(), part["text"].as_str()) {
            (Some("text"), Some(part)) => text.push_str(part),
            _ => {
                let path = format!("{path}[{index}]");
                let message = format!(
                    "{path} is not a text part, expected {{\"type\": \"text\", \"text\": …}}: this model reads text only"
                );
                return Err(ApiError::field(&path, INVALID_VALUE, message));
            }
        }
    }
    Ok(text)
}
