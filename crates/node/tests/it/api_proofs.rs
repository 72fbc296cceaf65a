//! Proofs through the API: kept with the answer, made when they are asked for, and what `verify-proof` accepts (docs/claims/proofs.md).

use crate::http::{get, post};
use crate::support::{MODEL, Server, config, root, served, tiny, tokenizer, weights};
use lockstep_node::api::ApiConfig;
use lockstep_node::api::proofs::KEPT_MAX;
use lockstep_node::local::LocalGenerator;
use lockstep_node::proving::Prover;
use lockstep_proof::file::{AnswerFile, Claimed};
use lockstep_runtime::forward::Engine;
use lockstep_runtime::kernels::Compute;
use lockstep_runtime::synthetic;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;

/// The tiny model, with a prover.
fn proving() -> Server {
    let ends = vec![config().n_layers as usize];
    let prover =
        Prover::new(weights(), Arc::new(Compute::new(1)), root(), ends).expect("a model with proofs");
    Server::of(vec![served(tiny()).proving(Arc::new(prover))], &ApiConfig::default())
}

fn request(prompt: &str, max_tokens: u32, more: &Value) -> Value {
    let mut body = json!({
        "model": MODEL, "prompt": prompt, "max_tokens": max_tokens, "temperature": 0, "lockstep": { "proof": "on-request" },
    });
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body
}

fn id(answer: &Value) -> String {
    answer["lockstep"]["choices"][0]["proof"]["id"].as_str().expect("an id").to_owned()
}

/// Asks until the proof is there, or is not.
fn proof(server: &Server, id: &str) -> crate::http::Response {
    for _ in 0..2000 {
        let response = get(server.address, &format!("/v1/proofs/{id}"));
        if response.status != 202 {
            return response;
        }
        assert_eq!(response.header("retry-after"), Some("1"));
        let status = response.json()["status"].clone();
        assert!(status == "queued" || status == "proving", "{status}");
        std::thread::sleep(Duration::from_millis(20));
    }
    panic!("no proof after 40 s");
}

/// The proof is of the very answer, streamed or whole, and verifies with the model.
#[test]
fn answers_are_proved_on_request() {
    let server = proving();
    let answer = post(server.address, "/v1/completions", &request("once", 4, &json!({}))).json();
    let response = proof(&server, &id(&answer));
    assert_eq!((response.status, response.header("content-type")), (200, Some("application/octet-stream")));
    let file = AnswerFile::from_bytes(&response.body).expect("a proof");
    assert_eq!(file.verify(&weights(), root()), Ok(()));
    let tokenizer = tokenizer();
    let mut stream = tokenizer.decode_continuation();
    let mut text: String = file.answer().iter().map(|token| stream.push(*token)).collect();
    text.push_str(&stream.finish());
    assert_eq!(json!(text), answer["choices"][0]["text"]);
    assert_eq!(json!(file.generated), answer["usage"]["completion_tokens"]);
    // It is made once.
    assert_eq!(get(server.address, &format!("/v1/proofs/{}", id(&answer))).body, response.body);

    let streamed = post(server.address, "/v1/completions", &request("once", 4, &json!({ "stream": true })));
    let events = streamed.events();
    let end = events.iter().filter_map(|event| serde_json::from_str::<Value>(event).ok());
    let end = end.rev().find(|event| event["lockstep"].is_object()).expect("an end");
    assert_eq!(proof(&server, &id(&end)).status, 200);
}

/// What has no proof is refused before it is answered, or says why when its proof is asked for.
#[test]
fn what_has_no_proof_is_refused() {
    let server = proving();
    for (more, expected) in [
        (json!({ "n": 2 }), "one answer is proved at a time"),
        (json!({ "prompt": ["a", "b"] }), "one answer is proved at a time"),
        (json!({ "lockstep": { "proof": "now" } }), "on-request"),
        (json!({ "lockstep": { "proof": true } }), "proof"),
    ] {
        let response = post(server.address, "/v1/completions", &request("once", 2, &more));
        assert!(response.status == 400 && response.text().contains(expected), "{more}: {}", response.text());
    }
    let plain = post(Server::tiny().address, "/v1/completions", &request("once", 2, &json!({})));
    assert!(plain.text().contains("no proofs are made here"), "{}", plain.text());
    let unknown = get(server.address, "/v1/proofs/proof-00");
    assert_eq!((unknown.status, &unknown.json()["error"]["code"]), (404, &json!("proof_not_found")));

    let long = "once ".repeat(25);
    let answer = post(server.address, "/v1/completions", &request(&long, 12, &json!({}))).json();
    let refused = proof(&server, &id(&answer));
    assert_eq!((refused.status, &refused.json()["error"]["code"]), (422, &json!("no_proof")));
    assert!(refused.text().contains("expected at most 128"), "{}", refused.text());
    let longer = post(server.address, "/v1/completions", &request(&"once ".repeat(26), 12, &json!({})));
    assert!(longer.status == 400 && longer.text().contains("expected at most 127"), "{}", longer.text());
}

/// Drawn tokens are proved with their seed, which the response need not tell; a model under an adapter has proofs of its own.
#[test]
fn drawn_tokens_and_adapters_are_proved() {
    let (weights, compute) = (weights(), Arc::new(Compute::new(1)));
    let ends = vec![config().n_layers as usize];
    let prover = Prover::new(weights.clone(), compute.clone(), root(), ends).expect("a model with proofs");
    let adapter = Arc::new(synthetic::adapter(&weights, root(), 3, 9));
    let base = LocalGenerator::new(Engine::new(weights.clone(), compute), root()).expect("a whole model");
    let poet = base.adapted("poet", adapter.clone()).expect("it fits");
    let models = vec![
        served(Arc::new(base)).proving(Arc::new(prover.clone())),
        served(Arc::new(poet)).proving(Arc::new(prover.adapted(adapter.clone()))),
    ];
    let server = Server::of(models, &ApiConfig::default());
    for (model, adapter) in [(MODEL, None), ("poet", Some(&*adapter))] {
        for more in [json!({ "seed": 7 }), json!({})] {
            let mut body = request("once", 4, &more);
            (body["model"], body["temperature"], body["top_p"]) = (json!(model), json!(0.9), json!(0.8));
            let answer = post(server.address, "/v1/completions", &body).json();
            let response = proof(&server, &id(&answer));
            assert_eq!(response.status, 200, "{}", response.text());
            let file = AnswerFile::from_bytes(&response.body).expect("a proof");
            assert_eq!(file.verify_adapted(&weights, root(), adapter), Ok(()), "{model} {more}");
            assert!(matches!(file.claimed, Claimed::Sampled(_)), "{:?}", file.claimed);
            assert_eq!(json!(file.generated), answer["usage"]["completion_tokens"]);
        }
    }
}

/// Nobody can fill the memory: the oldest answer is forgotten.
#[test]
fn old_answers_are_forgotten() {
    let server = proving();
    let ask = || id(&post(server.address, "/v1/completions", &request("a", 1, &json!({}))).json());
    let first = ask();
    let second = ask();
    (2..=KEPT_MAX).for_each(|_| drop(ask()));
    assert_eq!(get(server.address, &format!("/v1/proofs/{first}")).status, 404);
    assert_eq!(proof(&server, &second).status, 200);
}
