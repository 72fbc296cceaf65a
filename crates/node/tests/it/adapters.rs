//! Adapters (`docs/claims/adapters.md`): an answer under one is what the runtime computes under it, whoever else is in
//! the batch; it is another model by name; receipts say which adapter it was, and two stages agree on it.

use crate::http::{get, post};
use crate::mesh::{ROOT, collect, engine as part_engine, gateway, info, node_under, request, weights};
use crate::support::{MODEL, Server, config, served, token, tokenizer};
use lockstep_base::Digest;
use lockstep_base::adapter::{AdapterError, AdapterWeights, Target};
use lockstep_base::params::{ONE_Q16, Parameters, client_seed, draw};
use lockstep_base::part::Part;
use lockstep_base::weights::WeightFormat;
use lockstep_node::api::{ApiConfig, Served};
use lockstep_node::gateway::{AdaptedError, Options, RoutedGenerator};
use lockstep_node::local::LocalGenerator;
use lockstep_node::p2p::random_key;
use lockstep_node::service::{FailureKind, GenerateRequest, Generator};
use lockstep_node::text::Assembler;
use lockstep_runtime::audit::{AuditError, Verdict, audit, audit_adapted};
use lockstep_runtime::forward::Engine;
use lockstep_runtime::kernels::{Compute, Kernel};
use lockstep_runtime::observe::Silent;
use lockstep_runtime::{sample, synthetic};
use serde_json::json;
use std::sync::Arc;

const TINY_ROOT: Digest = Digest([9; 32]);

fn tiny() -> Engine {
    let weights = synthetic::model(&config(), WeightFormat::Int8, 7);
    Engine::new(Arc::new(weights), Arc::new(Compute::new(2)))
}

fn adapters(engine: &Engine) -> [Arc<AdapterWeights>; 2] {
    [(3, 11), (40, 12)]
        .map(|(rank, seed)| Arc::new(synthetic::adapter(&engine.weights, TINY_ROOT, rank, seed)))
}

/// Tokens of an answer straight from the runtime: one sequence, one token at a time, alone.
pub(crate) fn direct(
    engine: &Engine,
    adapter: Option<&Arc<AdapterWeights>>,
    prompt: &[u32],
    parameters: &Parameters,
    seed: u64,
) -> Vec<u32> {
    let mut cache = engine.new_cache().with_adapter(adapter.cloned());
    let (mut fed, mut answer) = (prompt.to_vec(), Vec::new());
    let frac = i32::from(engine.weights.head.as_ref().expect("a head").out_frac);
    while answer.len() < parameters.max_tokens as usize {
        let mut logits = Vec::new();
        for token in fed.drain(..) {
            let mut x = engine.embed(&[token], cache.len(), &mut Silent).expect("a token");
            engine.layers(&mut x, &mut cache, &mut Silent).expect("in range");
            logits = engine.logits(&x, &[cache.len() - 1], &mut Silent).expect("in range");
        }
        let word = draw(&client_seed(seed, 0), cache.len() as u32);
        let table = &engine.weights.tables.exp2_sample;
        let token = sample::sample(&logits, frac, parameters, word, table);
        answer.push(token);
        fed.push(token);
        if parameters.stop_tokens.contains(&token) {
            break;
        }
    }
    answer
}

fn parameters(max_tokens: u32) -> Parameters {
    Parameters { temperature_q16: ONE_Q16, ..Parameters::greedy(max_tokens) }
}

fn prompt(text: &str) -> Vec<u32> {
    std::iter::once(1).chain(text.chars().map(token)).collect()
}

/// Three models, four prompts each (one longer than a chunk of prefill), all at once: every answer is the runtime's own.
#[tokio::test(flavor = "multi_thread")]
async fn answers_of_a_batch_are_those_of_the_runtime_alone() {
    let engine = tiny();
    let [one, two] = adapters(&engine);
    let base = LocalGenerator::new(engine.clone(), TINY_ROOT).expect("a whole model");
    let models = [
        (None, base.clone()),
        (Some(&one), base.adapted("one", one.clone()).expect("it fits")),
        (Some(&two), base.adapted("two", two.clone()).expect("it fits")),
    ];
    let prompts: Vec<Vec<u32>> = [3, 20, 50, 135]
        .map(|length| prompt("once upon a time there was a ").into_iter().cycle().take(length).collect())
        .into();
    let mut running = Vec::new();
    for (index, prompt) in prompts.iter().enumerate() {
        for (adapter, generator) in &models {
            let mut request = GenerateRequest::new(prompt.clone(), parameters(12 + index as u32));
            request.seed = Some(4);
            let expected = direct(&engine, *adapter, prompt, &request.parameters, 4);
            let generator = generator.clone();
            let answer = tokio::spawn(async move { collect(&generator, request).await });
            running.push((generator_id(*adapter, &one), index, answer, expected));
        }
    }
    let mut seen: Vec<Vec<Vec<u32>>> = vec![Vec::new(); prompts.len()];
    for (id, index, answer, expected) in running {
        let answer = answer.await.expect("it ends");
        assert_eq!(answer.tokens, expected, "{id}, prompt {index}: {:?}", answer.failure);
        seen[index].push(expected);
    }
    for answers in seen {
        assert!(
            answers[0] != answers[1] && answers[1] != answers[2] && answers[0] != answers[2],
            "{answers:?}"
        );
    }
}

fn generator_id(adapter: Option<&Arc<AdapterWeights>>, one: &Arc<AdapterWeights>) -> &'static str {
    match adapter {
        None => "base",
        Some(adapter) if Arc::ptr_eq(adapter, one) => "one",
        Some(_) => "two",
    }
}

/// A sequence that leaves the arithmetic's range ends alone: its neighbours get what they would get without it.
#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_one_sequence_is_its_own() {
    let engine = tiny();
    let [one, _] = adapters(&engine);
    let mut broken = AdapterWeights::clone(&one);
    let part = broken.layers[2].get(Target::Q).expect("a part").clone();
    let mut a = part.a.clone();
    a.bias = vec![40_000; a.rows];
    broken.layers[2].set(Target::Q, lockstep_base::adapter::LowRank { a, ..part });
    let base = LocalGenerator::new(engine.clone(), TINY_ROOT).expect("a whole model");
    let broken = base.adapted("broken", Arc::new(broken)).expect("the shapes fit");
    let good = base.adapted("one", one.clone()).expect("it fits");
    let request = |max| {
        let mut request = GenerateRequest::new(prompt("a cat sat on a mat"), parameters(max));
        request.seed = Some(8);
        request
    };
    let expected = direct(&engine, Some(&one), &prompt("a cat sat on a mat"), &parameters(40), 8);
    let (alone, [a, b, c]) = (collect(&broken, request(5)).await, [request(40), request(5), request(40)]);
    let failure = alone.failure.expect("40,000 is no 16-bit number");
    let (a, b, c) = tokio::join!(collect(&good, a), collect(&broken, b), collect(&base, c));
    assert_eq!(failure.kind, FailureKind::Compute, "{failure}");
    assert!(failure.message.contains("layer 2") || failure.message.contains("adapter_codes"), "{failure}");
    assert_eq!((a.tokens, a.failure), (expected, None));
    assert_eq!((b.tokens.len(), b.failure), (0, Some(failure)));
    assert_eq!((c.tokens.len(), c.failure), (40, None));
}

/// The models of a server: the base and two adapters.
fn server(engine: &Engine) -> Server {
    let base = LocalGenerator::new(engine.clone(), TINY_ROOT).expect("a whole model");
    let mut models: Vec<Served> = vec![served(Arc::new(base.clone()))];
    for (id, adapter) in ["poet", "team/clerk"].into_iter().zip(adapters(engine)) {
        let generator = base.adapted(id, adapter).expect("it fits");
        models.push(models[0].with_generator(Arc::new(generator)));
    }
    Server::of(models, &ApiConfig::default())
}

/// Adapters are models of the API: listed with their parent and root, asked for by name.
#[test]
fn adapters_are_listed_with_their_parent() {
    let engine = tiny();
    let server = server(&engine);
    let list = get(server.address, "/v1/models").json();
    let ids: Vec<&str> =
        list["data"].as_array().expect("a list").iter().filter_map(|model| model["id"].as_str()).collect();
    assert_eq!(ids, [MODEL, "poet", "team/clerk"]);
    assert_eq!(list["data"][0]["lockstep"]["parent"], json!(null));
    let [one, two] = adapters(&engine);
    for (index, adapter, rank) in [(1, one, 3), (2, two, 40)] {
        let ours = &list["data"][index]["lockstep"];
        let got = (&ours["parent"], &ours["adapter_root"], &ours["rank"], &ours["model_root"]);
        assert_eq!(got, (&json!(MODEL), &json!(adapter.root.hex()), &json!(rank), &json!(TINY_ROOT.hex())));
    }
    assert_eq!(get(server.address, "/v1/models/team/clerk").json(), list["data"][2]);
    let unknown = post(server.address, "/v1/completions", &json!({ "model": "nobody", "prompt": "a" }));
    assert_eq!(unknown.status, 404);
    assert!(unknown.text().contains("poet"), "it says what there is: {}", unknown.text());
}

/// Twelve clients at once, each with its model: the text of each is the text of the runtime's own tokens.
#[test]
fn clients_get_the_model_that_they_name() {
    let engine = tiny();
    let server = server(&engine);
    let [one, two] = adapters(&engine);
    let stop = engine.weights.config.eos.clone();
    let ask = |model: &str, adapter: Option<&Arc<AdapterWeights>>, seed: u64| {
        let body = json!({ "model": model, "prompt": "once upon", "max_tokens": 20, "seed": seed, "temperature": 1 });
        let response = post(server.address, "/v1/completions", &body);
        assert_eq!(response.status, 200, "{}", response.text());
        let body = response.json();
        let root = adapter.map_or(json!(null), |adapter| json!(adapter.root.hex()));
        assert_eq!((&body["model"], &body["lockstep"]["adapter_root"]), (&json!(model), &root));
        let parameters = Parameters { stop_tokens: stop.clone(), ..parameters(20) };
        let tokens = direct(&engine, adapter, &prompt("once upon"), &parameters, seed);
        let tokenizer = tokenizer();
        let mut text = Assembler::new(tokenizer.decode_continuation(), &[]);
        let shown = tokens.into_iter().filter(|token| !stop.contains(token));
        let mut expected: String = shown.map(|token| text.push(token, None).text).collect();
        expected.push_str(&text.finish().text);
        assert_eq!(body["choices"][0]["text"], json!(expected), "{model}, seed {seed}");
        expected
    };
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .flat_map(|seed| {
                [(MODEL, None, seed), ("poet", Some(&one), seed), ("team/clerk", Some(&two), seed)]
            })
            .map(|(model, adapter, seed)| scope.spawn(move || ask(model, adapter, seed)))
            .collect();
        let texts: Vec<String> = clients.into_iter().map(|client| client.join().expect("a client")).collect();
        for three in texts.chunks(3) {
            assert!(three[0] != three[1] && three[1] != three[2] && three[0] != three[2], "{three:?}");
        }
    });
}

/// An adapter of another model, or of another shape, is refused before it is served.
#[test]
fn adapters_of_other_models_are_refused() {
    let engine = tiny();
    let base = LocalGenerator::new(engine.clone(), TINY_ROOT).expect("a whole model");
    let foreign = Arc::new(synthetic::adapter(&engine.weights, ROOT, 3, 11));
    let error = base.adapted("x", foreign).unwrap_err();
    assert_eq!(error, AdapterError::Base { got: TINY_ROOT, expected: ROOT });
    let other = synthetic::model(&synthetic::small_config(), WeightFormat::Int8, 7);
    let mut shorter = synthetic::adapter(&other, TINY_ROOT, 3, 11);
    shorter.config.rank = 4;
    let error = base.adapted("x", Arc::new(shorter)).unwrap_err();
    assert!(error.to_string().ends_with("rows of A is 3, expected 4"), "{error}");
}

/// Two stages: three answers at once, each the bytes of one process under the same adapter; receipts name it, verify under
/// it and under nothing else. An adapter that a node does not have is refused by the node's name.
#[tokio::test(flavor = "multi_thread")]
async fn two_stages_serve_adapters_and_sign_for_them() {
    let parts = Part::split(4, 2);
    let [one, two, absent] = [21, 22, 23].map(|seed| Arc::new(synthetic::adapter(&weights(), ROOT, 5, seed)));
    let mut nodes = Vec::new();
    for part in &parts {
        let own = [&one, &two].map(|adapter| Arc::new(adapter.restrict(part)));
        assert_eq!(own[0].root, one.root);
        nodes.push(node_under(*part, own.into()).await);
    }
    let routed = RoutedGenerator::new(gateway(&nodes).await);
    let under_one = routed.adapted("one", &one).expect("the nodes have it");
    let under_two = routed.adapted("two", &two).expect("the nodes have it");
    let whole = part_engine(&Part::whole(4), Kernel::detect(), 1);
    let local = LocalGenerator::new(whole.clone(), ROOT).expect("a whole model");
    let (a, b, c) = tokio::join!(
        collect(&routed, request(40)),
        collect(&under_one, request(40)),
        collect(&under_two, request(40)),
    );
    let choices = [(a, None), (b, Some(&one)), (c, Some(&two))];
    for (answer, adapter) in &choices {
        let expected = match adapter {
            None => collect(&local, request(40)).await,
            Some(adapter) => {
                let adapted = local.adapted("x", Arc::clone(adapter)).expect("it fits");
                collect(&adapted, request(40)).await
            }
        };
        assert_eq!(answer.tokens, expected.tokens, "{:?}", answer.failure);
        let file = answer.file.as_ref().expect("receipts");
        let root = adapter.map_or(Digest::ZERO, |adapter| adapter.root);
        let receipts = || file.stages.iter().flat_map(|stage| &stage.receipts);
        assert!(receipts().count() >= 4 && receipts().all(|signed| signed.receipt.adapters == root));
        let verdict = audit_adapted(file, &ROOT, &whole, *adapter, &mut |_, _| {});
        assert!(matches!(verdict, Ok(Verdict::Verified { .. })), "{verdict:?}");
        let other = audit_adapted(file, &ROOT, &whole, Some(&absent), &mut |_, _| {});
        assert_eq!(other, Err(AuditError::Adapter { got: root, expected: absent.root }));
    }
    assert_ne!(choices[0].0.tokens, choices[1].0.tokens);
    let blind = audit(choices[1].0.file.as_ref().expect("receipts"), &ROOT, &whole, &mut |_, _| {});
    assert_eq!(blind, Err(AuditError::Adapter { got: one.root, expected: Digest::ZERO }));

    let error = routed.adapted("absent", &absent).unwrap_err();
    assert!(matches!(&error, AdaptedError::Missing { adapter, .. } if *adapter == absent.root), "{error}");
    let foreign = synthetic::adapter(&weights(), TINY_ROOT, 5, 21);
    assert!(matches!(routed.adapted("x", &foreign), Err(AdaptedError::Misfit(AdapterError::Base { .. }))));
}

/// A node without the adapter is named before anything is asked of it, and serves the model as before.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_the_adapter_is_named() {
    let part = Part::whole(4);
    let one = Arc::new(synthetic::adapter(&weights(), ROOT, 5, 21));
    let node = node_under(part, Vec::new()).await;
    let peers = vec![node.address.clone()];
    let gateway = lockstep_node::gateway::Gateway::connect(random_key(), info(), peers, Options::default())
        .await
        .expect("a route");
    let routed = RoutedGenerator::new(gateway);
    let error = routed.adapted("one", &one).unwrap_err().to_string();
    assert!(error.contains(&node.address.node.to_string()) && error.contains("--adapter"), "{error}");
    assert_eq!(routed.model().adapter, None);
    let answer = collect(&routed, request(12)).await;
    assert_eq!(answer.tokens.len(), 12, "{:?}", answer.failure);
}
