//! Nodes and gateways over real libp2p connections on loopback: same bytes as one process, every
//! receipt verified, every failure named.

use lockstep_base::Digest;
use lockstep_base::adapter::AdapterWeights;
use lockstep_base::keys::NodeKey;
use lockstep_base::params::{ONE_Q16, Parameters};
use lockstep_base::part::Part;
use lockstep_base::receipt_file::ReceiptFile;
use lockstep_base::weights::{ModelWeights, WeightFormat};
use lockstep_mesh::engine::{DrillFactory, EngineFactory};
use lockstep_mesh::frame::Channel;
use lockstep_mesh::node::{Node, NodeLimits, Served};
use lockstep_node::gateway::{Gateway, GatewayError, LinkError, Options, ReceiptStore, RoutedGenerator};
use lockstep_node::local::LocalGenerator;
use lockstep_node::p2p::{self, Network, NetworkError, PeerAddress, random_key};
use lockstep_node::service::{FailureKind, GenerateEvent, GenerateRequest, Generator, ModelInfo};
use lockstep_runtime::audit::{Verdict, audit};
use lockstep_runtime::drill::Drill;
use lockstep_runtime::forward::Engine;
use lockstep_runtime::kernels::{Compute, Kernel};
use lockstep_runtime::observe::{Observer, Values};
use lockstep_runtime::pool::Pool;
use lockstep_runtime::synthetic;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(crate) const ROOT: Digest = Digest([3; 32]);
/// Nothing on loopback takes this long; what does hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn weights() -> ModelWeights {
    synthetic::model(&synthetic::small_config(), WeightFormat::Int8, 11)
}

pub(crate) fn engine(part: &Part, kernel: Kernel, threads: usize) -> Engine {
    let compute = Arc::new(Compute { kernel, pool: Pool::new(threads) });
    Engine::new(Arc::new(weights().restrict(part)), compute)
}

pub(crate) fn info() -> ModelInfo {
    ModelInfo::new(synthetic::small_config(), ROOT)
}

pub(crate) struct TestNode {
    pub(crate) address: PeerAddress,
    pub(crate) task: JoinHandle<()>,
    pub(crate) stop: watch::Sender<bool>,
}

pub(crate) async fn node_with(
    part: Part,
    kernel: Kernel,
    threads: usize,
    drill: Option<DrillFactory>,
    root: Digest,
) -> TestNode {
    let anywhere = "/ip4/127.0.0.1/tcp/0".parse().unwrap();
    node_at(anywhere, random_key(), part, kernel, threads, drill, root).await
}

/// A node under a given key at a given address.
pub(crate) async fn node_at(
    listen: libp2p::Multiaddr,
    key: NodeKey,
    part: Part,
    kernel: Kernel,
    threads: usize,
    drill: Option<DrillFactory>,
    root: Digest,
) -> TestNode {
    start(listen, key, engine(&part, kernel, threads), part, drill, root, Vec::new()).await
}

/// A node under adapters.
pub(crate) async fn node_under(part: Part, adapters: Vec<Arc<AdapterWeights>>) -> TestNode {
    let anywhere = "/ip4/127.0.0.1/tcp/0".parse().unwrap();
    let engine = engine(&part, Kernel::detect(), 1);
    start(anywhere, random_key(), engine, part, None, ROOT, adapters).await
}

async fn start(
    listen: libp2p::Multiaddr,
    key: NodeKey,
    engine: Engine,
    part: Part,
    drill: Option<DrillFactory>,
    root: Digest,
    adapters: Vec<Arc<AdapterWeights>>,
) -> TestNode {
    let config = synthetic::small_config();
    let served = Served {
        adapters: adapters.iter().map(|adapter| adapter.root).collect(),
        ..Served::new(root, &config, part)
    };
    let factory = EngineFactory { engine, part, adapters, keep_leaves: true, drill };
    let node = Node::new(served, NodeLimits::default(), "test", key.clone(), Box::new(factory));
    let (network, listening) = Network::listen(&key, listen).await.unwrap();
    let address = network.addresses[0].clone();
    let (stop, stopped) = watch::channel(false);
    TestNode { address, task: tokio::spawn(p2p::serve(node, (network, listening), stopped)), stop }
}

pub(crate) async fn nodes(stages: u32, kernel: Kernel, threads: usize) -> Vec<TestNode> {
    let mut nodes = Vec::new();
    for part in Part::split(4, stages) {
        nodes.push(node_with(part, kernel, threads, None, ROOT).await);
    }
    nodes
}

pub(crate) async fn gateway(nodes: &[TestNode]) -> Arc<Gateway> {
    let peers = nodes.iter().map(|node| node.address.clone()).rev().collect();
    let options = Options { full_trace: true, store: None, spares: None };
    Gateway::connect(random_key(), info(), peers, options).await.unwrap()
}

pub(crate) fn request(tokens: u32) -> GenerateRequest {
    let parameters = Parameters { temperature_q16: ONE_Q16, ..Parameters::greedy(tokens) };
    let mut request = GenerateRequest::new(vec![1, 7, 30, 5, 9], parameters);
    request.seed = Some(12);
    request.receipt_file = true;
    request
}

/// Tokens, receipt file and failure of an answer.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) tokens: Vec<u32>,
    pub(crate) file: Option<ReceiptFile>,
    pub(crate) failure: Option<lockstep_node::service::Failure>,
}

pub(crate) async fn collect(generator: &dyn Generator, request: GenerateRequest) -> Answer {
    let mut events = generator.generate(request);
    let mut answer = Answer::default();
    let read = async {
        while let Some(event) = events.recv().await {
            match event {
                GenerateEvent::Token { token, .. } => answer.tokens.push(token),
                GenerateEvent::Stage(_) => {}
                GenerateEvent::Done(done) => {
                    answer.file = done.receipts.map(|r| ReceiptFile::from_bytes(&r.file).unwrap());
                }
                GenerateEvent::Failed(failure) => answer.failure = Some(failure),
            }
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("an answer ends, well or not");
    answer
}

pub(crate) fn verdict(file: &ReceiptFile) -> Verdict {
    audit(file, &ROOT, &engine(&Part::whole(4), Kernel::detect(), 1), &mut |_, _| {}).unwrap()
}

/// The sentence: the same prompt and seed give the same bytes in one process and on three
/// nodes, with 1 and 2 threads, with every kernel of this machine.
#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_give_the_bytes_of_one_process() {
    let local = LocalGenerator::new(engine(&Part::whole(4), Kernel::Scalar, 1), ROOT).unwrap();
    let expected = collect(&local, request(40)).await.tokens;
    assert_eq!(expected.len(), 40);
    for kernel in Kernel::available() {
        for threads in [1, 2] {
            let local = LocalGenerator::new(engine(&Part::whole(4), kernel, threads), ROOT).unwrap();
            assert_eq!(collect(&local, request(40)).await.tokens, expected, "{kernel}, {threads} threads");
            let nodes = nodes(3, kernel, threads).await;
            let routed = RoutedGenerator::new(gateway(&nodes).await);
            let answer = collect(&routed, request(40)).await;
            assert_eq!(answer.tokens, expected, "3 nodes, {kernel}, {threads} threads: {:?}", answer.failure);
        }
    }
}

/// Receipts that crossed the network re-execute, several requests at once over one route.
#[tokio::test(flavor = "multi_thread")]
async fn receipts_verify_and_requests_do_not_mix() {
    let nodes = nodes(3, Kernel::detect(), 1).await;
    let folder = tempfile::tempdir().unwrap();
    let store = ReceiptStore::open(&folder.path().join("receipts.redb")).unwrap();
    let peers = nodes.iter().map(|node| node.address.clone()).collect();
    let options = Options { full_trace: false, store: Some(store), spares: None };
    let gateway = Gateway::connect(random_key(), info(), peers, options).await.unwrap();
    let routed = RoutedGenerator::new(gateway.clone());
    let (a, b) = (request(60), {
        let mut r = request(33);
        r.seed = Some(99);
        r
    });
    let (a, b) = tokio::join!(collect(&routed, a), collect(&routed, b));
    for (answer, tokens) in [(&a, 60), (&b, 33)] {
        let file = answer.file.as_ref().unwrap_or_else(|| panic!("{:?}", answer.failure));
        assert_eq!(answer.tokens.len(), tokens);
        assert_eq!(file.tokens[5..], answer.tokens);
        assert!(matches!(verdict(file), Verdict::Verified { .. }));
    }
    assert_ne!(a.tokens[..33], b.tokens[..]);
    // A request without a seed draws one; nothing repeats.
    let mut free = request(20);
    free.seed = None;
    let (x, y) = tokio::join!(collect(&routed, free.clone()), collect(&routed, free));
    assert_ne!(x.tokens, y.tokens);
}

/// What the gateway keeps on disk holds no token and no secret: only signed statements.
#[tokio::test(flavor = "multi_thread")]
async fn the_store_keeps_statements_only() {
    let nodes = nodes(2, Kernel::detect(), 1).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("receipts.redb");
    let peers = nodes.iter().map(|node| node.address.clone()).collect();
    let options =
        Options { full_trace: false, store: Some(ReceiptStore::open(&path).unwrap()), spares: None };
    let gateway = Gateway::connect(random_key(), info(), peers, options).await.unwrap();
    let file = collect(&RoutedGenerator::new(gateway.clone()), request(40)).await.file.unwrap();
    drop(gateway);
    // The answer's task may hold the gateway a moment longer.
    let store = loop {
        match ReceiptStore::open(&path) {
            Ok(store) => break store,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    let kept = store.of_task(&file.task).unwrap();
    let signed: Vec<_> = file.stages.iter().flat_map(|stage| stage.receipts.clone()).collect();
    assert_eq!(kept, signed);
    assert_eq!(store.count().unwrap(), 4);
    drop(store);
    let bytes = std::fs::read(&path).unwrap();
    assert!(!bytes.windows(32).any(|window| window == file.secret.0), "the task secret is on disk");
    assert!(
        !bytes.windows(32).any(|window| window == file.sampler_seed.0)
            || kept[0].receipt.sampler_seed == file.sampler_seed
    );
}

/// Lies once and tells the test where.
struct Noted(Drill, Arc<Mutex<Option<lockstep_runtime::drill::Strike>>>);

impl Observer for Noted {
    fn output(&mut self, place: lockstep_base::op::Place, run: u32, values: Values<'_>) {
        self.0.output(place, run, values);
        *self.1.lock().unwrap() = self.0.struck();
    }
}

/// The tamper story over the network: the liar's receipts pass the gateway, re-execution names
/// the stage and the span, the liar's own leaves give the row.
#[tokio::test(flavor = "multi_thread")]
async fn a_lie_is_found_through_the_leaves_that_the_liar_serves() {
    for seed in 0..5u64 {
        let parts = Part::split(4, 3);
        let liar = (seed % 3) as usize;
        let note = Arc::new(Mutex::new(None));
        let mut nodes = Vec::new();
        for (stage, part) in parts.iter().enumerate() {
            let told = note.clone();
            let drill = (stage == liar).then(|| -> DrillFactory {
                Box::new(move |open| {
                    let mut rng = lockstep_base::rng::SplitMix64::new(seed);
                    let words = [rng.next_u64(), rng.next_u64(), rng.next_u64(), rng.next_u64()];
                    Box::new(Noted(Drill::new(&open.part, 40, words), told.clone()))
                })
            });
            nodes.push(node_with(*part, Kernel::detect(), 1, drill, ROOT).await);
        }
        let gateway = gateway(&nodes).await;
        let answer = collect(&RoutedGenerator::new(gateway.clone()), request(50)).await;
        let mut file = answer.file.unwrap_or_else(|| panic!("seed {seed}: {:?}", answer.failure));
        let Verdict::Fault(named) = verdict(&file) else { panic!("seed {seed}: the lie was not seen") };
        assert_eq!((named.stage, named.located), (liar, None), "seed {seed}");
        gateway.reveal(&mut file, named.stage, named.first_token).await.unwrap();
        let Verdict::Fault(found) = verdict(&file) else { panic!("seed {seed}") };
        let (located, strike) = (found.located.unwrap(), note.lock().unwrap().unwrap());
        assert_eq!((located.place, located.row), (strike.place, strike.row), "seed {seed}");
    }
}

/// A node that vanishes in the middle of an answer: an error that names its stage, never a hang;
/// the route works again once the node is back.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_node_is_named() {
    for lost in 0..3 {
        let mut nodes = nodes(3, Kernel::detect(), 1).await;
        let gateway = gateway(&nodes).await;
        let routed = RoutedGenerator::new(gateway);
        let mut events = routed.generate(request(300));
        let mut count = 0;
        let failure = tokio::time::timeout(PATIENCE, async {
            loop {
                match events.recv().await.expect("an answer ends with an event") {
                    GenerateEvent::Token { .. } => {
                        count += 1;
                        if count == 10 {
                            let node = nodes.remove(lost);
                            node.task.abort();
                        }
                    }
                    GenerateEvent::Failed(failure) => return failure,
                    GenerateEvent::Done(_) => panic!("stage {lost} is gone, the answer cannot be complete"),
                    GenerateEvent::Stage(_) => {}
                }
            }
        })
        .await
        .expect("never a hang");
        assert_eq!((failure.stage, failure.kind), (Some(lost), FailureKind::Stage), "{failure}");
        // The next request fails at once, naming the stage that cannot be reached.
        let again = collect(&routed, request(5)).await.failure.expect("the node is still gone");
        assert_eq!(again.stage, Some(lost), "{again}");
    }
}

/// Identity: whoever answers at an address under another key is refused, with both keys.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_is_refused() {
    let node = node_with(Part::whole(4), Kernel::detect(), 1, None, ROOT).await;
    let other = p2p::peer_of_key(&random_key());
    let address: PeerAddress = format!("{}/p2p/{other}", node.address.address).parse().unwrap();
    let error = Gateway::connect(random_key(), info(), vec![address], Options::default()).await.unwrap_err();
    let GatewayError::Link(LinkError::Network(NetworkError::WrongKey { got, expected, .. })) = error else {
        panic!("{error}");
    };
    assert_eq!((*got, *expected), (node.address.peer, other));
}

/// A node of another model, and nodes that leave a gap, make no route.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_do_not_fit_are_refused() {
    let other = node_with(Part::whole(4), Kernel::detect(), 1, None, Digest([4; 32])).await;
    let error = Gateway::connect(random_key(), info(), vec![other.address.clone()], Options::default()).await;
    assert!(matches!(error, Err(GatewayError::Model { .. })));
    let nodes = nodes(3, Kernel::detect(), 1).await;
    let peers = vec![nodes[0].address.clone(), nodes[2].address.clone()];
    let error = Gateway::connect(random_key(), info(), peers, Options::default()).await;
    assert!(matches!(error, Err(GatewayError::Route(_))));
}

/// Garbage on either protocol ends that stream; everybody else is served as before.
#[tokio::test(flavor = "multi_thread")]
async fn garbage_frames_hurt_only_their_sender() {
    use futures::{AsyncReadExt as _, AsyncWriteExt as _};
    let nodes = nodes(1, Kernel::detect(), 1).await;
    let gateway = gateway(&nodes).await;
    let attacker = Network::start(&random_key()).await.unwrap();
    let mut rng = lockstep_base::rng::SplitMix64::new(5);
    for channel in Channel::ALL {
        for length in [1, 8, 1024, 5000] {
            let mut stream = attacker.open(&nodes[0].address, channel).await.unwrap();
            let mut garbage = vec![0; length];
            rng.fill(&mut garbage);
            // The node may hang up before all is written.
            let _ = stream.write_all(&garbage).await;
            let _ = stream.close().await;
            let mut rest = Vec::new();
            let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
            assert!(read.is_ok(), "the node hangs up on {length} bytes of garbage");
        }
    }
    let answer = collect(&RoutedGenerator::new(gateway), request(12)).await;
    assert_eq!(answer.tokens.len(), 12, "{:?}", answer.failure);
}

/// A port that is taken is an error with the address.
#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_an_error() {
    let first = node_with(Part::whole(4), Kernel::detect(), 1, None, ROOT).await;
    let error = Network::listen(&random_key(), first.address.address.clone()).await.unwrap_err();
    assert!(
        matches!(&error, NetworkError::Listen { address, .. } if *address == first.address.address),
        "{error}"
    );
}

/// Dropping the events cancels: the route forgets the task and serves the next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_cancels() {
    let nodes = nodes(2, Kernel::detect(), 1).await;
    let routed = RoutedGenerator::new(gateway(&nodes).await);
    for _ in 0..5 {
        let mut events = routed.generate(request(300));
        while !matches!(events.recv().await, Some(GenerateEvent::Token { .. })) {}
    }
    let answer = collect(&routed, request(12)).await;
    assert_eq!(answer.tokens.len(), 12, "{:?}", answer.failure);
}

/// A prompt beyond the context, or with a token beyond the vocabulary, is refused before any node
/// hears of it.
#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_are_refused() {
    let nodes = nodes(2, Kernel::detect(), 1).await;
    let routed = RoutedGenerator::new(gateway(&nodes).await);
    for prompt in [vec![], vec![1; 320], vec![97]] {
        let failure =
            collect(&routed, GenerateRequest::new(prompt, Parameters::greedy(4))).await.failure.unwrap();
        assert_eq!(failure.kind, FailureKind::Invalid, "{failure}");
    }
}
