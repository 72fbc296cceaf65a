//! Log-probabilities as OpenAI shows them, from the integers that a token was drawn from.
//!
//! `ln p(token) = (logit - largest) 2^-F - ln(weight sum 2^-24)` at temperature 1. Floats appear
//! here only, for people to read: nothing is decided by them.

use crate::text::ShownToken;
use lockstep_model::tokenizer::Tokenizer;
use lockstep_runtime::sample::Distribution;
use serde_json::{Map, Value, json};

/// Fractional bits of the weights in a distribution.
const WEIGHT_FRAC: i32 = 24;

/// Natural logarithm of the probability of a token with this logit.
fn logprob(distribution: &Distribution, logit: i32) -> f64 {
    let below = f64::from(logit) - f64::from(distribution.largest);
    let sum = distribution.weight_sum as f64 * 2f64.powi(-WEIGHT_FRAC);
    below * 2f64.powi(-i32::from(distribution.frac)) - sum.ln()
}

/// A token as text; control tokens by their name.
fn label(tokenizer: &Tokenizer, token: u32) -> String {
    match tokenizer.token_bytes(token) {
        Some(bytes) if !bytes.is_empty() => String::from_utf8_lossy(bytes).into_owned(),
        _ => tokenizer.token_name(token).unwrap_or_default(),
    }
}

fn chat_entry(tokenizer: &Tokenizer, distribution: &Distribution, token: u32, logit: i32) -> Value {
    json!({
        "token": label(tokenizer, token),
        "logprob": logprob(distribution, logit),
        "bytes": tokenizer.token_bytes(token).unwrap_or_default(),
    })
}

/// `logprobs` of a chat choice: `{"content": [{token, logprob, bytes, top_logprobs}], "refusal": null}`.
#[must_use]
pub fn chat(tokenizer: &Tokenizer, tokens: &[ShownToken]) -> Value {
    let entry = |shown: &ShownToken| {
        let distribution = shown.distribution.as_ref()?;
        let mut entry = chat_entry(tokenizer, distribution, shown.token, distribution.chosen);
        let top =
            distribution.top.iter().map(|(token, logit)| chat_entry(tokenizer, distribution, *token, *logit));
        entry["top_logprobs"] = top.collect();
        Some(entry)
    };
    let content: Vec<Value> = tokens.iter().filter_map(entry).collect();
    json!({ "content": content, "refusal": null })
}

/// `logprobs` of a completion choice: four lists side by side.
#[must_use]
pub fn completion(tokenizer: &Tokenizer, tokens: &[ShownToken]) -> Value {
    let (mut texts, mut logprobs, mut tops, mut offsets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for shown in tokens {
        let Some(distribution) = &shown.distribution else { continue };
        let top = distribution
            .top
            .iter()
            .map(|(token, logit)| (label(tokenizer, *token), json!(logprob(distribution, *logit))));
        texts.push(label(tokenizer, shown.token));
        logprobs.push(logprob(distribution, distribution.chosen));
        tops.push(Value::Object(top.collect::<Map<_, _>>()));
        offsets.push(shown.offset);
    }
    json!({ "tokens": texts, "token_logprobs": logprobs, "top_logprobs": tops, "text_offset": offsets })
}
