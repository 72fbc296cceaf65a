//! A server in this process, over a tiny model with random weights or over a script.

use lockstep_base::Digest;
use lockstep_base::config::ModelConfig;
use lockstep_base::weights::{ModelWeights, WeightFormat};
use lockstep_model::chat::ChatTemplate;
use lockstep_model::tokenizer::{Tokenizer, TokenizerKind};
use lockstep_node::api::{self, ApiConfig, Served};
use lockstep_node::local::LocalGenerator;
use lockstep_node::service::{
    Done, EVENT_QUEUE, Failure, FinishReason, GenerateEvent, GenerateRequest, Generator, ModelInfo, Receipts,
    RouteStage, Timings,
};
use lockstep_runtime::forward::Engine;
use lockstep_runtime::kernels::Compute;
use lockstep_runtime::synthetic;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Characters of the tiny vocabulary after 3 special and 256 byte tokens.
pub(crate) const CHARACTERS: &str = "abcdefghijklmnopqrstuvwxyz .,!";
/// Tokens of the tiny vocabulary.
pub(crate) const VOCAB: u32 = 3 + 256 + CHARACTERS.len() as u32;
/// Model id of the tiny model.
pub(crate) const MODEL: &str = "tiny";
/// A template with roles, so that tests see what the model was given.
pub(crate) const TEMPLATE: &str =
    "{% for m in messages %}{{ m.role }}, {{ m.content }}. {% endfor %}assistant, ";

/// The vocabulary as a file: one character a line.
pub(crate) fn vocabulary() -> String {
    let lines = ["<unk>", "<s>", "</s>"].into_iter().map(String::from);
    lines.chain(CHARACTERS.chars().map(String::from)).map(|line| line + "\n").collect()
}

/// The token of one character, or of one byte.
pub(crate) fn token(character: char) -> u32 {
    CHARACTERS.find(character).map_or(3 + character as u32, |at| 259 + at as u32)
}

pub(crate) fn tokenizer() -> Arc<Tokenizer> {
    let tokenizer =
        Tokenizer::from_bytes(TokenizerKind::CharsBytes, vocabulary().as_bytes()).expect("tokenizer");
    Arc::new(tokenizer.with_special(Some(1), vec![2]).expect("special tokens"))
}

pub(crate) fn config() -> ModelConfig {
    ModelConfig { name: MODEL.into(), vocab: VOCAB, context: 160, ..synthetic::small_config() }
}

pub(crate) fn served(generator: Arc<dyn Generator>) -> Served {
    Served::new(generator, tokenizer(), ChatTemplate::new(TEMPLATE).expect("template"))
}

/// The engine of the tiny model.
fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| {
        let weights = Arc::new(synthetic::model(&config(), WeightFormat::Int8, 7));
        Engine::new(weights, Arc::new(Compute::new(1)))
    })
}

/// The weights of the tiny model.
pub(crate) fn weights() -> Arc<ModelWeights> {
    engine().weights.clone()
}

/// The root by which the tiny model is known.
pub(crate) fn root() -> Digest {
    Digest::of(&[b"tiny"])
}

/// The tiny model in this process.
pub(crate) fn tiny() -> Arc<dyn Generator> {
    Arc::new(LocalGenerator::new(engine().clone(), root()).expect("a whole model"))
}

/// What a scripted generator does.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Gives these tokens and is done, with receipts.
    Say(Vec<u32>),
    /// Gives these tokens and fails.
    Fail(Vec<u32>, Failure),
    /// Gives one token after another until nobody listens or it is told to end.
    Endless,
    /// Waits for the signal to end after these tokens, then is done with receipts.
    UntilEnded(Vec<u32>),
}

/// A generator that follows a script and counts what runs.
#[derive(Debug)]
pub(crate) struct Script {
    info: ModelInfo,
    act: Act,
    pub(crate) running: Arc<AtomicUsize>,
    pub(crate) started: Arc<AtomicUsize>,
}

impl Script {
    pub(crate) fn new(act: Act) -> Arc<Script> {
        let info = ModelInfo::new(config(), Digest::of(&[b"script"]));
        Arc::new(Script { info, act, running: Arc::default(), started: Arc::default() })
    }

    /// Waits until nothing runs any more.
    pub(crate) fn wait_idle(&self) {
        let began = Instant::now();
        while self.running.load(Ordering::SeqCst) > 0 {
            assert!(began.elapsed() < Duration::from_secs(20), "a cancelled answer still runs");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Generator for Script {
    fn model(&self) -> &ModelInfo {
        &self.info
    }

    fn generate(&self, request: GenerateRequest) -> mpsc::Receiver<GenerateEvent> {
        let (sender, receiver) = mpsc::channel(EVENT_QUEUE);
        let (act, running) = (self.act.clone(), self.running.clone());
        self.started.fetch_add(1, Ordering::SeqCst);
        running.fetch_add(1, Ordering::SeqCst);
        std::thread::spawn(move || {
            perform(act, &request, &sender);
            running.fetch_sub(1, Ordering::SeqCst);
        });
        receiver
    }
}

fn perform(act: Act, request: &GenerateRequest, sender: &mpsc::Sender<GenerateEvent>) {
    let start = request.prompt.len() as u32;
    let say = |tokens: &[u32]| {
        let events = (start..).zip(tokens).map(|(position, token)| GenerateEvent::Token {
            token: *token,
            position,
            distribution: None,
        });
        events.into_iter().all(|event| sender.blocking_send(event).is_ok())
    };
    let last = match act {
        Act::Say(tokens) => say(&tokens).then(|| done(FinishReason::Length)),
        Act::Fail(tokens, failure) => say(&tokens).then_some(GenerateEvent::Failed(failure)),
        Act::Endless => {
            while !request.end.is_set() && say(&[token('a')]) {
                std::thread::sleep(Duration::from_millis(1));
            }
            Some(done(FinishReason::Length))
        }
        Act::UntilEnded(tokens) => {
            let said = say(&tokens);
            while said && !request.end.is_set() && !sender.is_closed() {
                std::thread::sleep(Duration::from_millis(1));
            }
            said.then(|| done(FinishReason::Length))
        }
    };
    if let Some(last) = last {
        let _ = sender.blocking_send(last);
    }
}

/// What a receipt file holds in these tests.
pub(crate) const RECEIPT_FILE: &[u8] = b"a receipt file";

fn done(reason: FinishReason) -> GenerateEvent {
    GenerateEvent::Done(Box::new(Done {
        reason,
        sampler_seed: lockstep_base::Digest::ZERO,
        route: vec![RouteStage { node: "0x00".into(), part: "all".into() }],
        receipts: Some(Receipts { summary: serde_json::json!({ "count": 1 }), file: RECEIPT_FILE.to_vec() }),
        timings: Timings::default(),
    }))
}

/// A server on a free port; it ends with the value.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    _runtime: tokio::runtime::Runtime,
}

impl Server {
    pub(crate) fn start(generator: Arc<dyn Generator>) -> Server {
        Server::with(generator, &ApiConfig::default())
    }

    pub(crate) fn with(generator: Arc<dyn Generator>, config: &ApiConfig) -> Server {
        Server::of(vec![served(generator)], config)
    }

    /// Over several models.
    pub(crate) fn of(models: Vec<Served>, config: &ApiConfig) -> Server {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("runtime");
        let router = api::router(models, config);
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("address");
        runtime.spawn(async move { axum::serve(listener, router).await });
        Server { address, _runtime: runtime }
    }

    /// Over the tiny model.
    pub(crate) fn tiny() -> Server {
        Server::start(tiny())
    }
}
