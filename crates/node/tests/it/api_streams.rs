//! Streams: framing, order, whole characters, and the same text as without streaming.

use crate::http::{Response, post};
use crate::support::{Act, MODEL, Script, Server, token};
use serde_json::{Value, json};

fn stream(server: &Server, path: &str, mut body: Value) -> Response {
    body["model"] = json!(MODEL);
    body["stream"] = json!(true);
    let response = post(server.address, path, &body);
    assert_eq!(response.status, 200, "{}", response.text());
    response
}

/// The chunks of a stream that ends as it should.
fn chunks(response: &Response) -> Vec<Value> {
    let mut events = response.events();
    assert_eq!(events.pop().as_deref(), Some("[DONE]"));
    events.iter().map(|event| serde_json::from_str(event).expect("JSON in every event")).collect()
}

#[test]
fn a_chat_stream_opens_with_the_role_and_closes_with_the_reason() {
    let server = Server::start(Script::new(Act::Say("hello".chars().map(token).collect())));
    let body = json!({ "messages": [{ "role": "user", "content": "hi" }], "stream_options": { "include_usage": true } });
    let chunks = chunks(&stream(&server, "/v1/chat/completions", body));
    assert_eq!(
        chunks[0]["choices"][0]["delta"],
        json!({ "role": "assistant", "content": "", "refusal": null })
    );
    let content: String =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(content, "hello");
    let usage = chunks.last().expect("chunks");
    assert_eq!((&usage["choices"], &usage["usage"]["completion_tokens"]), (&json!([]), &json!(5)));
    let end = &chunks[chunks.len() - 2];
    assert_eq!(
        (&end["choices"][0]["delta"], &end["choices"][0]["finish_reason"]),
        (&json!({}), &json!("length"))
    );
    assert_eq!(end["lockstep"]["choices"][0]["receipts"], json!({ "count": 1 }));
    for chunk in &chunks {
        assert_eq!((&chunk["object"], &chunk["id"]), (&json!("chat.completion.chunk"), &chunks[0]["id"]));
    }
    for chunk in &chunks[..chunks.len() - 1] {
        assert_eq!(chunk["usage"], Value::Null);
        assert!(chunk.get("usage").is_some(), "null where the usage is to come");
    }
}

#[test]
fn without_the_option_there_is_no_usage() {
    let server = Server::start(Script::new(Act::Say(vec![token('a')])));
    let chunks = chunks(&stream(&server, "/v1/completions", json!({ "prompt": "x" })));
    assert!(chunks.iter().all(|chunk| chunk.get("usage").is_none()));
    assert_eq!(chunks.last().expect("chunks")["choices"][0]["finish_reason"], "length");
}

/// Token by token a stream gives what a whole answer gives, log-probabilities too, for several
/// choices that interleave.
#[test]
fn a_stream_gives_the_same_text_as_a_whole_answer() {
    let server = Server::tiny();
    let body =
        json!({ "model": MODEL, "prompt": "once", "max_tokens": 40, "seed": 3, "n": 3, "logprobs": 1 });
    let whole = post(server.address, "/v1/completions", &body).json();
    let mut texts = vec![String::new(); 3];
    let mut tokens = [0; 3];
    for chunk in chunks(&stream(&server, "/v1/completions", body)) {
        let choice = &chunk["choices"][0];
        let index = choice["index"].as_u64().expect("an index") as usize;
        texts[index].push_str(choice["text"].as_str().expect("text"));
        tokens[index] += choice["logprobs"]["tokens"].as_array().map_or(0, Vec::len);
    }
    for index in 0..3 {
        let choice = &whole["choices"][index];
        assert_eq!(choice["text"], json!(texts[index]), "choice {index}");
        assert_eq!(choice["logprobs"]["tokens"].as_array().map(Vec::len), Some(tokens[index]));
    }
}

/// No piece of a stream ends inside a character: bytes that wait for their rest stay back.
#[test]
fn characters_are_never_split() {
    let text = "é😀 a中";
    let tokens: Vec<u32> = text.bytes().map(|byte| 3 + u32::from(byte)).collect();
    let server = Server::start(Script::new(Act::Say(tokens)));
    let chunks = chunks(&stream(&server, "/v1/completions", json!({ "prompt": "x", "max_tokens": 50 })));
    let pieces: Vec<&str> =
        chunks.iter().map(|chunk| chunk["choices"][0]["text"].as_str().expect("text")).collect();
    assert_eq!(pieces, ["é", "😀", " ", "a", "中", ""]);
    // A character that never becomes whole is U+FFFD, at the end.
    let server =
        Server::start(Script::new(Act::Say("😀".bytes().take(2).map(|byte| 3 + u32::from(byte)).collect())));
    let chunks = self::chunks(&stream(&server, "/v1/completions", json!({ "prompt": "x" })));
    assert_eq!(chunks[0]["choices"][0]["text"], "\u{fffd}");
}

#[test]
fn nothing_of_a_stop_string_is_ever_streamed() {
    let server = Server::start(Script::new(Act::Say("one two three".chars().map(token).collect())));
    let chunks = chunks(&stream(&server, "/v1/completions", json!({ "prompt": "x", "stop": "two" })));
    let text: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, "one ");
    assert_eq!(chunks.last().expect("chunks")["choices"][0]["finish_reason"], "stop");
}

/// Line ends and quotes of a text stay inside their event.
#[test]
fn texts_cannot_break_the_framing() {
    let text = "data: [DONE]\n\n\r\n\"}";
    let tokens: Vec<u32> = text.bytes().map(|byte| 3 + u32::from(byte)).collect();
    let server = Server::start(Script::new(Act::Say(tokens)));
    let chunks = chunks(&stream(&server, "/v1/completions", json!({ "prompt": "x", "max_tokens": 50 })));
    let got: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
    assert_eq!(got, text);
}
