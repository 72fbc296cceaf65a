//! Every way in which a request can be wrong, in OpenAI's shape and with its status code.

use crate::http::{Response, connect, get, post, post_text, raw, send};
use crate::support::{Act, MODEL, Script, Server};
use lockstep_node::api::ApiConfig;
use lockstep_node::api::limits::BODY_BYTES_MAX;
use serde_json::{Value, json};
use std::io::Write;

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// Checks the shape; gives (status, type, param, code, message).
fn error(response: &Response) -> (u16, String, Value, Value, String) {
    let body = response.json();
    let error = body["error"].as_object().unwrap_or_else(|| panic!("no error in {body}"));
    assert_eq!(error.keys().collect::<Vec<_>>(), ["message", "type", "param", "code"]);
    let text = |key: &str| error[key].as_str().unwrap_or_default().to_owned();
    (response.status, text("type"), error["param"].clone(), error["code"].clone(), text("message"))
}

fn chat_with(fields: Value) -> Value {
    let mut body =
        json!({ "model": MODEL, "messages": [{ "role": "user", "content": "hi" }], "max_tokens": 2 });
    merge(&mut body, fields);
    body
}

fn completion_with(fields: Value) -> Value {
    let mut body = json!({ "model": MODEL, "prompt": "once", "max_tokens": 2 });
    merge(&mut body, fields);
    body
}

fn merge(body: &mut Value, fields: Value) {
    let Value::Object(fields) = fields else { panic!("an object") };
    for (name, value) in fields {
        body[name] = value;
    }
}

#[test]
fn fields_that_are_wrong_are_named() {
    let server = Server::tiny();
    let chat = [
        (json!({ "model": null }), "model", "missing_required_parameter"),
        (json!({ "model": 3 }), "model", "invalid_type"),
        (json!({ "messages": null }), "messages", "missing_required_parameter"),
        (json!({ "messages": [] }), "messages", "invalid_value"),
        (json!({ "messages": "hi" }), "messages", "invalid_type"),
        (json!({ "messages": ["hi"] }), "messages[0]", "invalid_type"),
        (json!({ "messages": [{ "content": "hi" }] }), "messages[0].role", "missing_required_parameter"),
        (json!({ "messages": [{ "role": "king", "content": "hi" }] }), "messages[0].role", "invalid_value"),
        (json!({ "messages": [{ "role": "tool", "content": "hi" }] }), "messages[0].role", "invalid_value"),
        (json!({ "messages": [{ "role": "user" }] }), "messages[0].content", "missing_required_parameter"),
        (json!({ "messages": [{ "role": "user", "content": 1 }] }), "messages[0].content", "invalid_type"),
        (
            json!({ "messages": [{ "role": "user", "content": [{ "type": "image_url" }] }] }),
            "messages[0].content[0]",
            "invalid_value",
        ),
        (
            json!({ "messages": [{ "role": "user", "content": "hi", "name": "x" }] }),
            "messages[0].name",
            "unsupported_parameter",
        ),
        (
            json!({ "messages": [{ "role": "user", "content": "hi", "x": 1 }] }),
            "messages[0].x",
            "unknown_parameter",
        ),
        (json!({ "temperature": 2.1 }), "temperature", "invalid_value"),
        (json!({ "temperature": "hot" }), "temperature", "invalid_type"),
        (json!({ "top_p": -0.1 }), "top_p", "invalid_value"),
        (json!({ "n": 0 }), "n", "invalid_value"),
        (json!({ "n": 9 }), "n", "invalid_value"),
        (json!({ "n": 1.5 }), "n", "invalid_value"),
        (json!({ "max_tokens": 0 }), "max_tokens", "invalid_value"),
        (json!({ "max_tokens": 2, "max_completion_tokens": 2 }), "max_tokens", "invalid_value"),
        (json!({ "stop": 1 }), "stop", "invalid_type"),
        (json!({ "stop": [""] }), "stop", "invalid_value"),
        (json!({ "stop": ["a", "b", "c", "d", "e"] }), "stop", "invalid_value"),
        (json!({ "seed": 1.5 }), "seed", "invalid_type"),
        (json!({ "stream": 1 }), "stream", "invalid_type"),
        (json!({ "stream_options": { "include_usage": true } }), "stream_options", "invalid_value"),
        (json!({ "stream": true, "stream_options": { "x": 1 } }), "stream_options.x", "unknown_parameter"),
        (json!({ "top_logprobs": 3 }), "top_logprobs", "invalid_value"),
        (json!({ "logprobs": true, "top_logprobs": 21 }), "top_logprobs", "invalid_value"),
        (json!({ "logprobs": 3 }), "logprobs", "invalid_type"),
        (json!({ "tools": [{ "type": "function" }] }), "tools", "unsupported_parameter"),
        (json!({ "tool_choice": "required" }), "tool_choice", "unsupported_parameter"),
        (json!({ "response_format": { "type": "json_object" } }), "response_format", "unsupported_parameter"),
        (json!({ "logit_bias": { "5": 10 } }), "logit_bias", "unsupported_parameter"),
        (json!({ "presence_penalty": 0.5 }), "presence_penalty", "unsupported_parameter"),
        (json!({ "frequency_penalty": -1 }), "frequency_penalty", "unsupported_parameter"),
        (json!({ "store": true }), "store", "unsupported_parameter"),
        (json!({ "lockstep": { "receipt": true } }), "lockstep.receipt", "unknown_parameter"),
        (json!({ "lockstep": { "top_k": -1 } }), "lockstep.top_k", "invalid_value"),
        (json!({ "no_such_field": 1 }), "no_such_field", "unknown_parameter"),
    ];
    let completions = [
        (json!({ "prompt": null }), "prompt", "missing_required_parameter"),
        (json!({ "prompt": [] }), "prompt", "invalid_type"),
        (json!({ "prompt": [-1] }), "prompt", "invalid_type"),
        (json!({ "prompt": ["a", 1] }), "prompt", "invalid_type"),
        (json!({ "prompt": [[]] }), "prompt", "invalid_value"),
        (json!({ "prompt": [99_999] }), "prompt", "invalid_value"),
        (json!({ "prompt": vec!["a"; 9] }), "prompt", "invalid_value"),
        (json!({ "prompt": ["a", "a", "a"], "n": 8 }), "n", "invalid_value"),
        (json!({ "echo": true }), "echo", "unsupported_parameter"),
        (json!({ "best_of": 3 }), "best_of", "unsupported_parameter"),
        (json!({ "suffix": "end" }), "suffix", "unsupported_parameter"),
        (json!({ "logprobs": 6 }), "logprobs", "invalid_value"),
        (json!({ "messages": [] }), "messages", "unknown_parameter"),
    ];
    let chat = chat.into_iter().map(|(fields, param, code)| (CHAT, chat_with(fields), param, code));
    let completions = completions
        .into_iter()
        .map(|(fields, param, code)| (COMPLETIONS, completion_with(fields), param, code));
    for (path, body, param, code) in chat.chain(completions) {
        let (status, kind, got_param, got_code, message) = error(&post(server.address, path, &body));
        assert_eq!((status, kind.as_str()), (400, "invalid_request_error"), "{body}: {message}");
        assert_eq!((got_param, got_code), (json!(param), json!(code)), "{body}: {message}");
        assert!(message.contains(param.split('[').next().unwrap_or(param)), "{message:?} names {param}");
    }
}

/// Fields that ask for nothing, or speak about accounts, change nothing.
#[test]
fn neutral_values_are_taken() {
    let server = Server::tiny();
    let fields = json!({
        "temperature": 0, "n": 1, "presence_penalty": 0.0, "frequency_penalty": 0, "logit_bias": {}, "tools": [],
        "tool_choice": "none", "response_format": { "type": "text" }, "user": "me", "metadata": { "a": "b" },
        "store": false, "service_tier": "auto", "stop": null, "seed": null, "parallel_tool_calls": true, "logprobs": false,
        "top_logprobs": 0,
    });
    assert_eq!(post(server.address, CHAT, &chat_with(fields)).status, 200);
    let fields = json!({ "echo": false, "best_of": 1, "suffix": null, "stop": "zz", "logprobs": null });
    assert_eq!(post(server.address, COMPLETIONS, &completion_with(fields)).status, 200);
}

#[test]
fn an_unknown_model_is_404_with_the_code_that_clients_know() {
    let server = Server::tiny();
    let (status, _, param, code, message) =
        error(&post(server.address, CHAT, &chat_with(json!({ "model": "gpt-9" }))));
    assert_eq!((status, param, code), (404, json!("model"), json!("model_not_found")));
    assert!(message.contains("gpt-9") && message.contains(MODEL), "{message}");
    assert_eq!(error(&get(server.address, "/v1/models/gpt-9")).0, 404);
}

#[test]
fn a_prompt_longer_than_the_context_has_its_own_code() {
    let server = Server::tiny();
    let (status, _, param, code, message) =
        error(&post(server.address, COMPLETIONS, &completion_with(json!({ "prompt": "a".repeat(200) }))));
    assert_eq!((status, param, code), (400, json!("prompt"), json!("context_length_exceeded")));
    assert!(message.contains("201 tokens") && message.contains("160"), "{message}");
    let long = json!({ "messages": [{ "role": "user", "content": "a".repeat(200) }] });
    let (status, _, param, code, _) = error(&post(server.address, CHAT, &chat_with(long)));
    assert_eq!((status, param, code), (400, json!("messages"), json!("context_length_exceeded")));
}

#[test]
fn paths_methods_types_and_sizes() {
    let server = Server::tiny();
    let at = server.address;
    let (status, _, _, code, message) = error(&get(at, "/v1/embeddings"));
    assert_eq!((status, code), (404, json!("unknown_url")));
    assert!(message.contains("/v1/embeddings") && message.contains("/v1/chat/completions"), "{message}");
    let (status, _, _, code, message) = error(&get(at, CHAT));
    assert_eq!((status, code), (405, json!("method_not_allowed")));
    assert!(message.contains("expected POST"), "{message}");
    assert_eq!(error(&send(at, "POST", "/v1/models", "", b"")).0, 405);
    for kind in ["", "content-type: text/plain\r\n", "content-type: application/x-www-form-urlencoded\r\n"] {
        let (status, _, _, code, message) = error(&send(at, "POST", CHAT, kind, b"{}"));
        assert_eq!((status, code), (415, json!("unsupported_media_type")), "{kind}");
        assert!(message.contains("expected application/json"), "{message}");
    }
    let charset = "content-type: application/json; charset=utf-8\r\n";
    assert_eq!(send(at, "POST", CHAT, charset, chat_with(json!({})).to_string().as_bytes()).status, 200);
    let huge = chat_with(json!({ "user": "x".repeat(BODY_BYTES_MAX) })).to_string();
    let (status, _, _, code, message) = error(&post_text(at, CHAT, &huge));
    assert_eq!((status, code), (413, json!("body_too_large")));
    assert!(
        message.contains(&huge.len().to_string()) && message.contains(&BODY_BYTES_MAX.to_string()),
        "{message}"
    );
}

/// Without a content length the limit counts too.
#[test]
fn a_chunked_body_has_the_same_limit() {
    let server = Server::tiny();
    let head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut bytes = head.as_bytes().to_vec();
    let chunk = vec![b' '; 64 << 10];
    for _ in 0..=BODY_BYTES_MAX / chunk.len() {
        bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        bytes.extend_from_slice(&chunk);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    let response = crate::http::parse(&raw(server.address, &bytes));
    assert_eq!(error(&response).0, 413);
}

#[test]
fn malformed_json_says_where() {
    let server = Server::tiny();
    let deep = "[".repeat(100_000);
    for body in ["", "{", "[]", "null", "{\"model\": \"tiny\",}", "{\"model\": \"\u{1}\"}", deep.as_str()] {
        let (status, kind, _, _, message) = error(&post_text(server.address, CHAT, body));
        assert_eq!(
            (status, kind.as_str()),
            (400, "invalid_request_error"),
            "{}",
            &body[..body.len().min(40)]
        );
        assert!(message.contains("JSON") || message.contains("expected an object"), "{message}");
    }
    let response =
        send(server.address, "POST", CHAT, "content-type: application/json\r\n", b"{\"model\": \"\xff\"}");
    assert_eq!(error(&response).0, 400, "invalid UTF-8");
}

/// Bytes that are no HTTP end their own connection and nobody else's.
#[test]
fn malformed_http_leaves_the_server_alive() {
    let server = Server::tiny();
    let long_header = format!("GET /healthz HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(1 << 20));
    let cases: [&[u8]; 6] = [
        b"\r\n\r\n",
        b"GARBAGE\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\ncontent-length: -5\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        long_header.as_bytes(),
    ];
    for bytes in cases {
        let mut stream = connect(server.address);
        let _ = stream.write_all(bytes);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = std::io::Read::read_to_end(&mut stream, &mut answer);
        let text = String::from_utf8_lossy(&answer);
        assert!(
            answer.is_empty() || text.starts_with("HTTP/1.1 4"),
            "{:?} gave {text:?}",
            String::from_utf8_lossy(&bytes[..bytes.len().min(40)])
        );
    }
    assert_eq!(get(server.address, "/healthz").status, 200);
}

/// A body that ends early is a client that went away, not a request.
#[test]
fn a_body_that_ends_early_starts_nothing() {
    let script = Script::new(Act::Say(vec![300]));
    let server = Server::start(script.clone());
    let body = chat_with(json!({})).to_string();
    let head = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = connect(server.address);
    stream.write_all(head.as_bytes()).expect("write");
    stream.write_all(&body.as_bytes()[..body.len() / 2]).expect("write");
    drop(stream);
    assert_eq!(get(server.address, "/healthz").status, 200);
    assert_eq!(script.started.load(std::sync::atomic::Ordering::SeqCst), 0);
}

#[test]
fn more_requests_than_places_are_429_and_places_come_free() {
    let script = Script::new(Act::Endless);
    let server = Server::with(script.clone(), &ApiConfig { requests_max: 1 });
    let body = completion_with(json!({ "stream": true, "max_tokens": 100 })).to_string();
    let mut held = connect(server.address);
    let head = format!(
        "POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    held.write_all(head.as_bytes()).expect("write");
    let mut first = [0; 512];
    assert!(std::io::Read::read(&mut held, &mut first).expect("the stream begins") > 0);
    let (status, kind, _, code, _) = error(&post(server.address, COMPLETIONS, &completion_with(json!({}))));
    assert_eq!((status, kind.as_str(), code), (429, "rate_limit_error", json!("rate_limit_exceeded")));
    drop(held);
    script.wait_idle();
    let began = std::time::Instant::now();
    while get(server.address, "/healthz").json()["requests"] != 0 {
        assert!(began.elapsed().as_secs() < 20, "the place of a client that went away stays taken");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
