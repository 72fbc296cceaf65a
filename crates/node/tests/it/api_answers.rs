//! Answers without streaming: shapes, seeds, choices, log-probabilities, stop strings, usage.

use crate::http::{get, post};
use crate::support::{Act, MODEL, RECEIPT_FILE, Script, Server, token};
use lockstep_base::Digest;
use lockstep_node::api::shape::base64;
use serde_json::{Value, json};

fn completion(server: &Server, fields: Value) -> Value {
    let mut body = json!({ "model": MODEL, "prompt": "once upon", "max_tokens": 12, "seed": 5 });
    for (name, value) in fields.as_object().expect("an object") {
        body[name] = value.clone();
    }
    let response = post(server.address, "/v1/completions", &body);
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()
}

fn chat(server: &Server, fields: Value) -> Value {
    let mut body = json!({ "model": MODEL, "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 12, "seed": 5 });
    for (name, value) in fields.as_object().expect("an object") {
        body[name] = value.clone();
    }
    let response = post(server.address, "/v1/chat/completions", &body);
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()
}

fn says(text: &str) -> Server {
    Server::start(Script::new(Act::Say(text.chars().map(token).collect())))
}

#[test]
fn models_are_listed_with_their_root() {
    let server = Server::tiny();
    let list = get(server.address, "/v1/models").json();
    assert_eq!(
        (&list["object"], &list["data"][0]["id"], &list["data"][0]["object"]),
        (&json!("list"), &json!(MODEL), &json!("model"))
    );
    assert_eq!(list["data"][0]["lockstep"]["model_root"], json!(Digest::of(&[b"tiny"]).hex()));
    assert_eq!(get(server.address, "/v1/models/tiny").json(), list["data"][0]);
}

#[test]
fn a_completion_has_the_upstream_shape_and_one_field_of_ours() {
    let server = Server::tiny();
    let body = completion(&server, json!({}));
    let keys: Vec<&str> = body.as_object().expect("object").keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        ["id", "object", "created", "model", "system_fingerprint", "choices", "usage", "lockstep"]
    );
    assert!(body["id"].as_str().is_some_and(|id| id.starts_with("cmpl-")));
    assert_eq!((&body["object"], &body["model"]), (&json!("text_completion"), &json!(MODEL)));
    let root = Digest::of(&[b"tiny"]).hex();
    assert_eq!(body["system_fingerprint"], json!(format!("fp_{}", &root[..12])));
    assert_eq!(body["choices"][0]["finish_reason"], "length");
    assert_eq!(body["choices"][0]["logprobs"], Value::Null);
    // BOS and nine characters.
    assert_eq!(body["usage"], json!({ "prompt_tokens": 10, "completion_tokens": 12, "total_tokens": 22 }));
    assert_eq!(body["lockstep"]["model_root"], json!(root));
    assert_eq!(body["lockstep"]["choices"][0]["route"][0]["node"], "local");
    assert_eq!(body["lockstep"]["choices"][0].get("receipt_file"), None);
}

#[test]
fn a_chat_has_the_upstream_shape() {
    let body = chat(&says("hello."), json!({}));
    assert_eq!(body["object"], "chat.completion");
    assert_eq!(
        body["choices"][0]["message"],
        json!({ "role": "assistant", "content": "hello.", "refusal": null })
    );
    assert_eq!(body["choices"][0]["finish_reason"], "length");
}

/// Parts of a content and the newer name of the system role reach the template as one text.
#[test]
fn messages_go_through_the_template() {
    let parts = json!([{ "type": "text", "text": "a" }, { "type": "text", "text": "b" }]);
    let messages = json!([{ "role": "developer", "content": "be" }, { "role": "user", "content": parts }]);
    let usage = chat(&says("x"), json!({ "messages": messages }))["usage"]["prompt_tokens"].clone();
    assert_eq!(usage, json!(1 + "system, be. user, ab. assistant, ".len()));
}

#[test]
fn the_same_seed_gives_the_same_bytes_on_both_endpoints_and_the_seed_matters() {
    let server = Server::tiny();
    let text = |body: Value| body["choices"][0]["text"].clone();
    let first = text(completion(&server, json!({})));
    assert_eq!(text(completion(&server, json!({}))), first);
    assert_ne!(text(completion(&server, json!({ "seed": 6 }))), first);
    assert_ne!(text(completion(&server, json!({ "seed": -5 }))), first);
    let content =
        |seed: u64| chat(&server, json!({ "seed": seed }))["choices"][0]["message"]["content"].clone();
    assert_eq!(content(5), content(5));
    // The whole range of seeds is taken.
    assert_eq!(content(u64::MAX), content(u64::MAX));
    let greedy = |seed: u64| text(completion(&server, json!({ "temperature": 0, "seed": seed })));
    assert_eq!(greedy(1), greedy(2), "greedy decoding draws nothing");
}

/// Choice i of a request is choice i of any other request with that seed; prompts do not mix.
#[test]
fn choices_use_their_index_as_seed() {
    let server = Server::tiny();
    let texts = |body: &Value| -> Vec<String> {
        let choices = body["choices"].as_array().expect("choices");
        for (at, choice) in choices.iter().enumerate() {
            assert_eq!(choice["index"], json!(at));
        }
        choices.iter().map(|choice| choice["text"].as_str().expect("text").to_owned()).collect()
    };
    let three = completion(&server, json!({ "n": 3 }));
    let found = texts(&three);
    assert_eq!(found[0], texts(&completion(&server, json!({})))[0]);
    assert!(found[0] != found[1] && found[1] != found[2] && found[0] != found[2], "{found:?}");
    assert_eq!(three["usage"], json!({ "prompt_tokens": 10, "completion_tokens": 36, "total_tokens": 46 }));
    let two = completion(&server, json!({ "prompt": ["once upon", "a cat"], "n": 2 }));
    let both = texts(&two);
    assert_eq!(both[..2], found[..2]);
    assert_eq!(both[2..], texts(&completion(&server, json!({ "prompt": "a cat", "n": 2 })))[..]);
    assert_eq!(two["usage"]["prompt_tokens"], json!(10 + 6));
}

/// Tokens as a prompt are taken as they are.
#[test]
fn a_prompt_of_tokens_is_the_prompt_of_its_text() {
    let server = Server::tiny();
    let tokens: Vec<u32> = std::iter::once(1).chain("once upon".chars().map(token)).collect();
    let text = completion(&server, json!({}))["choices"][0]["text"].clone();
    assert_eq!(completion(&server, json!({ "prompt": tokens }))["choices"][0]["text"], text);
    assert_eq!(completion(&server, json!({ "prompt": [tokens] }))["choices"][0]["text"], text);
}

#[test]
fn a_stop_string_across_tokens_ends_the_answer() {
    let server = says("a little cat sat");
    let body = completion(&server, json!({ "stop": ["le c", "zzz"], "logprobs": null }));
    assert_eq!(
        (&body["choices"][0]["text"], &body["choices"][0]["finish_reason"]),
        (&json!("a litt"), &json!("stop"))
    );
    let body = chat(&server, json!({ "stop": " sat" }));
    assert_eq!(
        (&body["choices"][0]["message"]["content"], &body["choices"][0]["finish_reason"]),
        (&json!("a little cat"), &json!("stop"))
    );
}

/// The generator is told to end, and its receipts still come.
#[test]
fn a_stop_string_ends_the_generator_with_its_receipts() {
    let script = Script::new(Act::UntilEnded("say stop now".chars().map(token).collect()));
    let server = Server::start(script.clone());
    let body = completion(&server, json!({ "stop": "stop" }));
    assert_eq!(
        (&body["choices"][0]["text"], &body["choices"][0]["finish_reason"]),
        (&json!("say "), &json!("stop"))
    );
    assert_eq!(body["lockstep"]["choices"][0]["receipts"], json!({ "count": 1 }));
    script.wait_idle();
}

#[test]
fn a_stop_token_is_counted_and_not_shown() {
    let server = Server::start(Script::new(Act::Say(vec![token('a'), token('b'), 2])));
    let body = completion(&server, json!({}));
    assert_eq!((&body["choices"][0]["text"], &body["usage"]["completion_tokens"]), (&json!("ab"), &json!(3)));
}

/// The file holds the task secret: it comes only to whoever asks.
#[test]
fn the_receipt_file_comes_only_on_request() {
    let server = says("a");
    assert_eq!(completion(&server, json!({}))["lockstep"]["choices"][0].get("receipt_file"), None);
    let asked = completion(&server, json!({ "lockstep": { "receipt_file": true } }));
    assert_eq!(asked["lockstep"]["choices"][0]["receipt_file"], json!(base64(RECEIPT_FILE)));
}

/// Chat log-probabilities: each token, its bytes, the best alternatives in order; they are
/// logarithms of probabilities, so that all of them sum to at most 1.
#[test]
fn chat_logprobs_are_logarithms_of_probabilities() {
    let server = Server::tiny();
    let body = chat(&server, json!({ "logprobs": true, "top_logprobs": 20, "temperature": 0 }));
    let content = body["choices"][0]["logprobs"]["content"].as_array().expect("content").clone();
    assert_eq!(content.len(), 12);
    let mut text = Vec::new();
    for entry in &content {
        let top = entry["top_logprobs"].as_array().expect("alternatives");
        let logprobs: Vec<f64> = top.iter().map(|one| one["logprob"].as_f64().expect("a number")).collect();
        assert_eq!(logprobs.len(), 20);
        assert!(logprobs.is_sorted_by(|a, b| a >= b), "{logprobs:?}");
        assert!(logprobs.iter().map(|one| one.exp()).sum::<f64>() <= 1.0 + 1e-6, "{logprobs:?}");
        assert_eq!(
            (&entry["token"], &entry["logprob"]),
            (&top[0]["token"], &top[0]["logprob"]),
            "greedy takes the best"
        );
        text.extend(
            entry["bytes"].as_array().expect("bytes").iter().map(|byte| byte.as_u64().expect("a byte") as u8),
        );
    }
    assert_eq!(body["choices"][0]["message"]["content"], json!(String::from_utf8_lossy(&text)));
    let none = chat(&server, json!({ "logprobs": true }));
    assert_eq!(none["choices"][0]["logprobs"]["content"][0]["top_logprobs"], json!([]));
}

#[test]
fn completion_logprobs_are_four_lists_side_by_side() {
    let server = Server::tiny();
    let body = completion(&server, json!({ "logprobs": 2, "max_tokens": 6 }));
    let logprobs = &body["choices"][0]["logprobs"];
    for key in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
        assert_eq!(logprobs[key].as_array().map(Vec::len), Some(6), "{key}");
    }
    let text = body["choices"][0]["text"].as_str().expect("text");
    for offset in logprobs["text_offset"].as_array().expect("offsets") {
        assert!(offset.as_u64().is_some_and(|offset| offset as usize <= text.chars().count()));
    }
}
