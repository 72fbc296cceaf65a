//! What happens when an answer fails or its reader goes away.

use crate::http::{connect, get, post};
use crate::support::{Act, MODEL, Script, Server, token};
use lockstep_node::service::{Failure, FailureKind};
use serde_json::{Value, json};
use std::io::{Read, Write};

const PATH: &str = "/v1/completions";

fn body(stream: bool) -> Value {
    json!({ "model": MODEL, "prompt": "x", "stream": stream, "max_tokens": 100 })
}

fn failing(after: &str, kind: FailureKind, stage: Option<usize>) -> Server {
    let failure = Failure { kind, stage, message: "the node vanished".into() };
    Server::start(Script::new(Act::Fail(after.chars().map(token).collect(), failure)))
}

/// Each kind of failure has the status code on which clients act, streamed or not.
#[test]
fn failures_have_status_codes() {
    let cases = [
        (FailureKind::Invalid, 400, "invalid_request_error", Value::Null),
        (FailureKind::Busy, 429, "rate_limit_error", json!("rate_limit_exceeded")),
        (FailureKind::Compute, 500, "server_error", json!("compute_failed")),
        (FailureKind::Stage, 502, "server_error", json!("stage_failed")),
        (FailureKind::Unavailable, 503, "server_error", json!("unavailable")),
    ];
    for (kind, status, class, code) in cases {
        let server = failing("", kind, None);
        for stream in [false, true] {
            let response = post(server.address, PATH, &body(stream));
            let error = response.json()["error"].clone();
            assert_eq!(
                (response.status, &error["type"], &error["code"]),
                (status, &json!(class), &code),
                "{kind:?}, stream {stream}"
            );
        }
    }
}

#[test]
fn a_failed_stage_is_named() {
    let server = failing("ab", FailureKind::Stage, Some(1));
    let response = post(server.address, PATH, &body(false));
    assert_eq!(response.status, 502);
    assert_eq!(response.json()["error"]["message"], "stage 1: the node vanished");
}

/// A stream that has begun ends with an error event and without `[DONE]`.
#[test]
fn a_stream_that_fails_says_so_and_is_not_done() {
    let server = failing("ab", FailureKind::Stage, Some(2));
    let response = post(server.address, PATH, &body(true));
    assert_eq!(response.status, 200);
    let events = response.events();
    let text: String = events
        .iter()
        .filter_map(|event| {
            serde_json::from_str::<Value>(event).ok()?["choices"][0]["text"].as_str().map(String::from)
        })
        .collect();
    assert_eq!(text, "ab");
    let last: Value = serde_json::from_str(events.last().expect("events")).expect("JSON");
    assert_eq!(last["error"]["message"], "stage 2: the node vanished");
    assert_eq!(last["error"]["code"], "stage_failed");
    assert!(!events.contains(&"[DONE]".into()));
}

/// With several choices the first failure ends all of them.
#[test]
fn one_failed_choice_fails_the_request() {
    let server = failing("a", FailureKind::Stage, Some(0));
    let mut body = body(false);
    body["n"] = json!(3);
    assert_eq!(post(server.address, PATH, &body).status, 502);
}

/// Sends a request and gives the connection while its answer runs.
fn begin(server: &Server, body: &Value) -> std::net::TcpStream {
    let body = body.to_string();
    let mut stream = connect(server.address);
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("write");
    stream
}

#[test]
fn a_streaming_client_that_goes_away_cancels_its_answers() {
    let script = Script::new(Act::Endless);
    let server = Server::start(script.clone());
    let mut several = body(true);
    several["n"] = json!(4);
    let mut stream = begin(&server, &several);
    let mut some = [0; 2048];
    assert!(stream.read(&mut some).expect("the stream begins") > 0);
    drop(stream);
    script.wait_idle();
    assert_eq!(script.started.load(std::sync::atomic::Ordering::SeqCst), 4);
    assert_eq!(get(server.address, "/healthz").status, 200);
}

#[test]
fn a_waiting_client_that_goes_away_cancels_its_answer() {
    let script = Script::new(Act::Endless);
    let server = Server::start(script.clone());
    let stream = begin(&server, &body(false));
    let began = std::time::Instant::now();
    while script.started.load(std::sync::atomic::Ordering::SeqCst) == 0 {
        assert!(began.elapsed().as_secs() < 20, "the answer never began");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    drop(stream);
    script.wait_idle();
}
