//! The JSON of answers: one place for both endpoints, whole and streamed.

use super::logprobs;
use super::proofs::Keep;
use crate::text::{AnswerEnd, Piece, ShownToken};
use lockstep_model::tokenizer::Tokenizer;
use rand::TryRngCore;
use rand::rngs::OsRng;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// Hexadecimal digits of the model root in `system_fingerprint`.
const FINGERPRINT_DIGITS: usize = 12;

/// Which endpoint answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// `/v1/completions`.
    Completion,
    /// `/v1/chat/completions`.
    Chat,
}

/// What all parts of one response have in common.
#[derive(Debug, Clone)]
pub struct Shape {
    style: Style,
    id: String,
    created: u64,
    model: String,
    root: String,
    adapter: Option<String>,
    tokenizer: Arc<Tokenizer>,
    /// Whether log-probabilities were asked for.
    logprobs: bool,
    /// Whether the receipt file was asked for.
    receipt_file: bool,
    /// Whether the usage comes in a stream.
    include_usage: bool,
    /// Where the answer is kept for a proof.
    keep: Option<Keep>,
}

/// What the client asked to see.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Log-probabilities.
    pub logprobs: bool,
    /// The receipt file.
    pub receipt_file: bool,
    /// The usage at the end of a stream.
    pub include_usage: bool,
    /// A proof, later.
    pub keep: Option<Keep>,
}

/// Tokens in and out of one request.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Tokens of the prompts, each counted once.
    pub prompt_tokens: u64,
    /// Tokens of all answers.
    pub completion_tokens: u64,
}

impl Usage {
    fn json(self) -> Value {
        json!({
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        })
    }
}

/// One complete choice.
#[derive(Debug)]
pub struct Choice {
    /// All of its text.
    pub text: String,
    /// The tokens of that text.
    pub tokens: Vec<ShownToken>,
    /// How it ended.
    pub end: Box<AnswerEnd>,
}

impl Shape {
    /// For a new response.
    #[must_use]
    pub fn new(
        style: Style,
        model: &crate::service::ModelInfo,
        tokenizer: Arc<Tokenizer>,
        wanted: Wanted,
    ) -> Shape {
        let prefix = match style {
            Style::Completion => "cmpl",
            Style::Chat => "chatcmpl",
        };
        Shape {
            style,
            id: format!("{prefix}-{}", random_id()),
            created: now_unix_seconds(),
            model: model.id.clone(),
            root: model.root.hex(),
            adapter: model.adapter.as_ref().map(|adapter| adapter.root.hex()),
            tokenizer,
            logprobs: wanted.logprobs,
            receipt_file: wanted.receipt_file,
            include_usage: wanted.include_usage,
            keep: wanted.keep,
        }
    }

    fn envelope(&self, object: &str, choices: &[Value]) -> Value {
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": format!("fp_{}", &self.root[..FINGERPRINT_DIGITS]),
            "choices": choices,
        })
    }

    fn logprobs(&self, tokens: &[ShownToken]) -> Value {
        match self.style {
            _ if !self.logprobs => Value::Null,
            Style::Completion => logprobs::completion(&self.tokenizer, tokens),
            Style::Chat => logprobs::chat(&self.tokenizer, tokens),
        }
    }

    /// The answer to a request without streaming.
    #[must_use]
    pub fn whole(&self, choices: &[Choice], usage: Usage) -> Value {
        let object = match self.style {
            Style::Completion => "text_completion",
            Style::Chat => "chat.completion",
        };
        let shown = choices.iter().enumerate().map(|(index, choice)| {
            let mut shown = json!({ "index": index });
            match self.style {
                Style::Completion => shown["text"] = json!(choice.text),
                Style::Chat => {
                    shown["message"] =
                        json!({ "role": "assistant", "content": choice.text, "refusal": null });
                }
            }
            shown["logprobs"] = self.logprobs(&choice.tokens);
            shown["finish_reason"] = json!(choice.end.done.reason.as_str());
            shown
        });
        let mut body = self.envelope(object, &shown.collect::<Vec<_>>());
        body["usage"] = usage.json();
        let ours = choices.iter().enumerate().map(|(index, choice)| self.about(index, &choice.end));
        body["lockstep"] = self.ours(&ours.collect::<Vec<_>>());
        body
    }

    fn chunk(&self, choices: &[Value]) -> Value {
        let object = match self.style {
            Style::Completion => "text_completion",
            Style::Chat => "chat.completion.chunk",
        };
        let mut chunk = self.envelope(object, choices);
        if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    fn choice_chunk(
        &self,
        index: usize,
        text: Option<&str>,
        tokens: &[ShownToken],
        finish: Option<&str>,
    ) -> Value {
        let mut choice = json!({ "index": index });
        match self.style {
            Style::Completion => choice["text"] = json!(text.unwrap_or_default()),
            Style::Chat => {
                choice["delta"] = text.map_or_else(|| json!({}), |text| json!({ "content": text }));
            }
        }
        choice["logprobs"] = if finish.is_some() { Value::Null } else { self.logprobs(tokens) };
        choice["finish_reason"] = json!(finish);
        self.chunk(&[choice])
    }

    /// What a stream begins with: in a chat the role of each choice.
    #[must_use]
    pub fn opening(&self, choices: usize) -> Vec<Value> {
        if self.style == Style::Completion {
            return Vec::new();
        }
        let delta = json!({ "role": "assistant", "content": "", "refusal": null });
        let choice =
            |index| json!({ "index": index, "delta": delta, "logprobs": null, "finish_reason": null });
        (0..choices).map(|index| self.chunk(&[choice(index)])).collect()
    }

    /// A part of a choice's text.
    #[must_use]
    pub fn piece(&self, index: usize, piece: &Piece) -> Value {
        self.choice_chunk(index, Some(&piece.text), &piece.tokens, None)
    }

    /// The end of a choice.
    #[must_use]
    pub fn end(&self, index: usize, end: &AnswerEnd) -> Value {
        let mut chunk = self.choice_chunk(index, None, &[], Some(end.done.reason.as_str()));
        chunk["lockstep"] = self.ours(&[self.about(index, end)]);
        chunk
    }

    /// What a stream ends with: the usage, where it was asked for.
    #[must_use]
    pub fn closing(&self, usage: Usage) -> Option<Value> {
        let mut chunk = self.chunk(&[]);
        chunk["usage"] = usage.json();
        self.include_usage.then_some(chunk)
    }

    /// The one field of ours.
    fn ours(&self, choices: &[Value]) -> Value {
        let mut ours = json!({ "model_root": self.root, "choices": choices });
        if let Some(adapter) = &self.adapter {
            ours["adapter_root"] = json!(adapter);
        }
        ours
    }

    fn about(&self, index: usize, end: &AnswerEnd) -> Value {
        let done = &end.done;
        let stage = |(stage, at): (usize, &crate::service::RouteStage)| json!({ "stage": stage, "node": at.node, "part": at.part });
        let mut about = json!({
            "index": index,
            "route": done.route.iter().enumerate().map(stage).collect::<Vec<_>>(),
            "receipts": done.receipts.as_ref().map(|receipts| &receipts.summary),
            "timings": {
                "prompt_seconds": done.timings.prompt_seconds,
                "generate_seconds": done.timings.generate_seconds,
            },
        });
        if self.receipt_file {
            let file = done.receipts.as_ref().map(|receipts| base64(&receipts.file));
            about["receipt_file"] = json!(file);
        }
        if let Some(keep) = &self.keep {
            about["proof"] = keep.answered(&end.tokens, &end.done);
        }
        about
    }
}

/// 12 random bytes in hex.
fn random_id() -> String {
    let mut bytes = [0; 12];
    // An id is a name, not a secret: where the system has no randomness the clock must do.
    if OsRng.try_fill_bytes(&mut bytes).is_err() {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_nanos() as u64);
        bytes[..8].copy_from_slice(&nanos.to_be_bytes());
    }
    lockstep_base::digest::hex(&bytes)
}

/// Seconds since 1970, UTC.
#[must_use]
pub fn now_unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs())
}

/// Base64 with padding (RFC 4648, section 4): how a receipt file travels in JSON.
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let word =
            chunk.iter().fold(0u32, |word, byte| word << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for digit in 0..4 {
            let value = (word >> (18 - 6 * digit)) & 63;
            text.push(if digit <= chunk.len() { DIGITS[value as usize] as char } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64;

    /// RFC 4648, section 10.
    #[test]
    fn base64_gives_the_vectors_of_the_rfc() {
        let vectors = [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
            ("foobar", "Zm9vYmFy"),
        ];
        for (bytes, text) in vectors {
            assert_eq!(base64(bytes.as_bytes()), text, "of {bytes:?}");
        }
    }
}
