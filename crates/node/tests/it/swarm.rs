//! Peers that find each other: nodes join by any address, gateways find whole models, the swarm outlives those whom everybody
//! joined at, and garbage hurts whoever sends it.

use crate::mesh::{PATIENCE, ROOT, collect, engine, info, request, verdict};
use lockstep_base::Digest;
use lockstep_base::keys::NodeKey;
use lockstep_base::part::Part;
use lockstep_mesh::engine::EngineFactory;
use lockstep_mesh::node::{Node, NodeLimits, Served};
use lockstep_mesh::swarm::member::{Member, Offer};
use lockstep_mesh::swarm::{Announcement, State};
use lockstep_node::gateway::{Options, RoutedGenerator};
use lockstep_node::p2p::{self, Network, NetworkConfig, PeerAddress, Topic, Verdict, random_key};
use lockstep_node::service::{GenerateEvent, Generator as _};
use lockstep_node::swarm::exchange::{Answer, PROTOCOL, Request};
use lockstep_node::swarm::{Announcing, FindError, JoinAddress, Serving, Swarm, SwarmConfig, SwarmError};
use lockstep_runtime::audit::Verdict as Audit;
use lockstep_runtime::kernels::Kernel;
use lockstep_runtime::synthetic;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A node in a swarm; it is gone with the value, without a farewell.
struct SwarmNode {
    address: PeerAddress,
    swarm: Option<Arc<Swarm>>,
    announcing: Announcing,
    serving: JoinHandle<()>,
    _stop: watch::Sender<bool>,
}

impl SwarmNode {
    fn swarm(&self) -> &Swarm {
        self.swarm.as_ref().unwrap()
    }
}

impl Drop for SwarmNode {
    fn drop(&mut self) {
        self.serving.abort();
        self.swarm = None;
    }
}

fn at(peer: &PeerAddress) -> JoinAddress {
    peer.to_string().parse().unwrap()
}

fn serving(part: Part) -> Serving {
    Serving {
        model_root: ROOT,
        part,
        state: State::Online,
        decode_milli: 1_000_000,
        prefill_milli: 4_000_000,
        free_positions: 1 << 18,
        queue_depth: 0,
        adapters: Vec::new(),
        price_micro: 0,
        proves: false,
    }
}

async fn node_over(listen: &str, part: Part, join: Vec<JoinAddress>, known: Option<PathBuf>) -> SwarmNode {
    let key = random_key();
    let config = synthetic::small_config();
    let served = Served::new(ROOT, &config, part);
    let engine = engine(&part, Kernel::detect(), 1);
    let factory = EngineFactory { engine, part, adapters: Vec::new(), keep_leaves: true, drill: None };
    let node = Node::new(served, NodeLimits::default(), "test", key.clone(), Box::new(factory));
    let network = NetworkConfig { listen: vec![listen.parse().unwrap()], ..NetworkConfig::default() };
    let (network, listening) = Network::with(&key, &network).await.unwrap();
    let address = network.addresses[0].clone();
    let (swarm, joined) = Swarm::start(network.clone(), SwarmConfig { join, known }).await.unwrap();
    joined.unwrap();
    let announcing = swarm.announce(key, serving(part)).await.unwrap();
    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn(p2p::serve(node, (network, listening), stopped));
    SwarmNode { address, swarm: Some(swarm), announcing, serving, _stop: stop }
}

async fn node(part: Part, join: Vec<JoinAddress>) -> SwarmNode {
    node_over("/ip4/127.0.0.1/tcp/0", part, join, None).await
}

/// A peer that serves nothing.
async fn visitor(
    key: &NodeKey,
    join: Vec<JoinAddress>,
    known: Option<PathBuf>,
) -> Result<Arc<Swarm>, SwarmError> {
    let network = Network::start(key).await?;
    let (swarm, joined) = Swarm::start(network, SwarmConfig { join, known }).await?;
    joined.map(|()| swarm)
}

/// A gateway that knows one address of the swarm, answers a request, and its receipts hold.
async fn asked(join: Vec<JoinAddress>) -> Vec<u32> {
    let key = random_key();
    let swarm = visitor(&key, join, None).await.unwrap();
    let options = || Ok(Options { full_trace: true, store: None, spares: None });
    let gateway = swarm.gateway(key, info(), options).await.unwrap();
    let answer = collect(&RoutedGenerator::new(gateway), request(12)).await;
    let file = answer.file.unwrap_or_else(|| panic!("{:?}", answer.failure));
    assert!(matches!(verdict(&file), Audit::Verified { .. }));
    answer.tokens
}

pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "{what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn knows(swarm: &Swarm, nodes: &[&SwarmNode]) -> bool {
    let known: BTreeSet<_> =
        swarm.directory(|d| d.for_model(&ROOT).map(|entry| entry.claims().node).collect());
    nodes.iter().all(|node| known.contains(&node.address.node))
}

/// `--join ADDR` is all that it takes: three nodes that know one address, a gateway that knows another one, any of the three.
#[tokio::test(flavor = "multi_thread")]
async fn one_address_is_enough() {
    let parts = Part::split(4, 3);
    let a = node(parts[1], Vec::new()).await;
    let b = node(parts[2], vec![at(&a.address)]).await;
    let c = node(parts[0], vec![at(&a.address)]).await;
    let mut answers = Vec::new();
    for joined in [&a, &b, &c] {
        answers.push(asked(vec![at(&joined.address)]).await);
    }
    assert!(answers.iter().all(|tokens| tokens.len() == 12 && *tokens == answers[0]));
}

/// The same over QUIC, and with nodes that joined one after the other in a row.
#[tokio::test(flavor = "multi_thread")]
async fn quic_serves_as_well() {
    let parts = Part::split(4, 2);
    let quic = "/ip4/127.0.0.1/udp/0/quic-v1";
    let a = node_over(quic, parts[0], Vec::new(), None).await;
    let b = node_over(quic, parts[1], vec![at(&a.address)], None).await;
    assert!(b.address.to_string().contains("/quic-v1/p2p/"), "{}", b.address);
    assert_eq!(asked(vec![at(&b.address)]).await.len(), 12);
}

/// A swarm goes on without the peer that everybody joined at: those who joined by it know each other, newcomers join by any of
/// them, and one who knew only the dead one comes back by the peers that it has met.
#[tokio::test(flavor = "multi_thread")]
async fn a_swarm_outlives_its_bootstrap() {
    let folder = tempfile::tempdir().unwrap();
    let peers = folder.path().join("peers.txt");
    let parts = Part::split(4, 2);
    let bootstrap = node(parts[0], Vec::new()).await;
    let b = node(parts[0], vec![at(&bootstrap.address)]).await;
    let c = node(parts[1], vec![at(&bootstrap.address)]).await;
    let key = random_key();
    let seen = visitor(&key, vec![at(&bootstrap.address)], Some(peers.clone())).await.unwrap();
    seen.follow(ROOT).await.unwrap();
    until("a visitor hears of all", async || knows(&seen, &[&bootstrap, &b, &c]).await).await;
    until("b and c hear of each other", async || {
        knows(b.swarm(), &[&c]).await && knows(c.swarm(), &[&b]).await
    })
    .await;
    until("whom a visitor met is written down", async || {
        let text = std::fs::read_to_string(&peers).unwrap_or_default();
        [&b, &c].iter().any(|node| text.contains(&node.address.to_string()))
    })
    .await;
    let dead = at(&bootstrap.address);
    drop(bootstrap);
    drop(seen);

    // A newcomer joins by one of the others.
    let d = node(parts[0], vec![at(&b.address)]).await;
    until("d hears of c", async || knows(d.swarm(), &[&c]).await).await;
    assert_eq!(asked(vec![at(&d.address)]).await.len(), 12);
    // Nobody knows the dead one any more who joins at it for the first time.
    assert!(matches!(visitor(&random_key(), vec![dead.clone()], None).await, Err(SwarmError::Join(_))));
    // Who has been here before is back by the file.
    let back = visitor(&key, vec![dead], Some(peers)).await.unwrap();
    let chain = back.find(&ROOT, 4).await.unwrap();
    assert_eq!(chain.len(), 2);
}

/// A gateway that found its nodes by itself goes on with another one when one dies in the middle of an answer: the same tokens.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_survives_a_node_of_the_swarm() {
    let parts = Part::split(4, 2);
    let a = node(parts[0], Vec::new()).await;
    let mut seconds = Vec::new();
    for _ in 0..2 {
        seconds.push(node(parts[1], vec![at(&a.address)]).await);
    }
    let expected = asked(vec![at(&a.address)]).await;
    let key = random_key();
    let swarm = visitor(&key, vec![at(&a.address)], None).await.unwrap();
    swarm.follow(ROOT).await.unwrap();
    until("both replicas are heard of", async || knows(&swarm, &[&a, &seconds[0], &seconds[1]]).await).await;
    let gateway = swarm.gateway(key, info(), || Ok(Options::default())).await.unwrap();
    let nodes: BTreeSet<_> = gateway.nodes().into_iter().map(|(_, peer, _)| peer.node).collect();
    assert_eq!(nodes.len(), 3, "the chain and a replica");
    let mut events = RoutedGenerator::new(gateway).generate(request(12));
    let mut tokens = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, async {
        loop {
            match events.recv().await.expect("an answer ends with an event") {
                GenerateEvent::Token { token, .. } => {
                    tokens.push(token);
                    // It serves this answer, or it does not: either way the other one is there.
                    if tokens.len() == 3 && seconds.len() == 2 {
                        seconds.remove(0);
                    }
                }
                GenerateEvent::Done(_) => return,
                GenerateEvent::Failed(failure) => panic!("{failure}"),
                GenerateEvent::Stage(_) => {}
            }
        }
    });
    ended.await.expect("never a hang");
    assert_eq!(tokens, expected);
}

/// What is missing is said: nobody, or which layers; a node that drains is not chosen, one that is gone is forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_named() {
    let parts = Part::split(4, 2);
    let a = node(parts[0], Vec::new()).await;
    let swarm = visitor(&random_key(), vec![at(&a.address)], None).await.unwrap();
    let none = swarm.chain(&Digest([9; 32]), 4, &BTreeSet::new()).await.unwrap_err();
    assert!(matches!(none, FindError::Nobody { peers: 1, .. }), "{none}");
    swarm.follow(ROOT).await.unwrap();
    until("a is heard of", async || knows(&swarm, &[&a]).await).await;
    let hole = swarm.chain(&ROOT, 4, &BTreeSet::new()).await.unwrap_err();
    assert!(hole.to_string().contains("serves layers 2..4, the head of model"), "{hole}");
    let b = node(parts[1], vec![at(&a.address)]).await;
    assert_eq!(swarm.find(&ROOT, 4).await.unwrap().len(), 2);
    assert!(swarm.chain(&ROOT, 4, &BTreeSet::from([b.address.node])).await.is_err());
    b.announcing.change(|serving| serving.state = State::Draining);
    until("who drains is not chosen", async || swarm.chain(&ROOT, 4, &BTreeSet::new()).await.is_err()).await;
    b.announcing.leave().await;
    until("who leaves is forgotten", async || !knows(&swarm, &[&b]).await).await;
}

/// Garbage, other people's announcements and announcements of other models are not passed on, and lower the score of whoever sends
/// them until it is not heard any more; everybody else is served as before.
#[tokio::test(flavor = "multi_thread")]
async fn garbage_in_gossip_is_refused_and_scored() {
    let a = node(Part::whole(4), Vec::new()).await;
    let hostile_key = random_key();
    let hostile = visitor(&hostile_key, vec![at(&a.address)], None).await.unwrap();
    let witness = visitor(&random_key(), vec![at(&a.address)], None).await.unwrap();
    let mut hostile_hears =
        hostile.network.subscribe(Topic::Model(ROOT), Box::new(|_| Verdict::Accept)).await.unwrap();
    let mut witness_hears =
        witness.network.subscribe(Topic::Model(ROOT), Box::new(|_| Verdict::Accept)).await.unwrap();
    // Both are in the mesh of the topic when they hear what is said in it.
    a.announcing.change(|serving| serving.price_micro = 5);
    for heard in [&mut hostile_hears, &mut witness_hears] {
        let message = tokio::time::timeout(PATIENCE, heard.recv()).await.expect("gossip arrives").unwrap();
        assert_eq!(message.author, Some(a.address.node));
        assert!(Announcement::parse(&message.bytes).is_ok());
    }
    let score = async || {
        let status = a.swarm().network.status().await.unwrap();
        let peer = status.peers.into_iter().find(|peer| peer.peer == hostile.network.peer);
        peer.and_then(|peer| peer.score)
    };
    let before = score().await.expect("a peer has a score");
    let offer = Offer {
        decode_milli: 1,
        prefill_milli: 1,
        free_positions: 1,
        queue_depth: 0,
        adapters: Vec::new(),
        price_micro: 0,
        addresses: Vec::new(),
        relayed: false,
        neighbours: Vec::new(),
        proves: false,
    };
    let mut other = Member::new(hostile_key, 1, Digest([9; 32]), Part::whole(4), offer).unwrap();
    let other = other.tick(0, 1, 0).unwrap().bytes().to_vec();
    let mut forged = other.clone();
    *forged.last_mut().unwrap() ^= 1;
    for bytes in [b"garbage".to_vec(), forged, other, vec![0; 9000]] {
        hostile.network.publish(Topic::Model(ROOT), bytes).await.unwrap();
    }
    until("the score of the sender falls", async || {
        score().await.is_none_or(|score| score < before.min(0.0) - 50.0)
    })
    .await;
    // The hostile peer may have told the witness itself, being its neighbour in nothing: only a passes on, and a does not.
    tokio::time::sleep(Duration::from_secs(1)).await;
    while let Ok(message) = witness_hears.try_recv() {
        assert!(Announcement::parse(&message.bytes).is_ok(), "garbage was passed on");
    }
    assert_eq!(asked(vec![at(&a.address)]).await.len(), 12);
}

/// Questions on the exchange protocol: answers within limits, garbage and slow loris cost nothing but themselves.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_questions_hurt_nobody() {
    use futures::{AsyncReadExt as _, AsyncWriteExt as _};
    let a = node(Part::whole(4), Vec::new()).await;
    let hostile = visitor(&random_key(), vec![at(&a.address)], None).await.unwrap();
    let peer = a.address.peer;
    // Slow loris: questions that never end, more than one peer may have.
    let mut slow = Vec::new();
    for _ in 0..100 {
        let Ok(mut stream) = hostile.network.stream(peer, PROTOCOL).await else { break };
        let _ = stream.write_all(&[0]).await;
        slow.push(stream);
    }
    for garbage in [&b"\xff\xff\xff\xff"[..], b"\0\0\0\x05hello", b"\0\0\0\x01\x80", b"\0\0\x10\0"] {
        let fresh = visitor(&random_key(), vec![at(&a.address)], None).await.unwrap();
        let mut stream = fresh.network.stream(peer, PROTOCOL).await.unwrap();
        let _ = stream.write_all(garbage).await;
        let _ = stream.close().await;
        let mut rest = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
        assert!(read.is_ok() && rest.is_empty(), "{garbage:?}: {rest:?}");
    }
    let honest = visitor(&random_key(), vec![at(&a.address)], None).await.unwrap();
    let Answer::Models(models) = honest.ask(peer, Request::Models).await.unwrap() else { panic!() };
    assert_eq!(models.iter().map(|model| (model.root, model.nodes)).collect::<Vec<_>>(), [(ROOT, 1)]);
    assert!(honest.ask(peer, Request::Bytes(u32::MAX)).await.is_err());
    assert!(honest.throughput(peer, 1 << 20).await.unwrap() > Duration::ZERO);
    assert!(matches!(honest.ask(peer, Request::Clock).await.unwrap(), Answer::Clock(_)));
    drop(slow);
    assert_eq!(asked(vec![at(&a.address)]).await.len(), 12);
}

/// protocol.md, 7: a node that joined when the gateway was there already takes the place of one that dies.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_joins_later_takes_a_place() {
    let parts = Part::split(4, 2);
    let first = node(parts[0], vec![]).await;
    let second = node(parts[1], vec![at(&first.address)]).await;
    let key = random_key();
    let swarm = visitor(&key, vec![at(&first.address)], None).await.unwrap();
    let gateway = swarm.gateway(key, info(), || Ok(Options::default())).await.unwrap();
    let routed = RoutedGenerator::new(gateway);
    let before = collect(&routed, request(12)).await;
    assert_eq!(before.tokens.len(), 12, "{:?}", before.failure);
    let third = node(parts[1], vec![at(&first.address)]).await;
    let began = Instant::now();
    while swarm.directory(|directory| directory.for_model(&ROOT).count()) < 3 {
        assert!(began.elapsed() < PATIENCE, "the third node is not heard of");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    drop(second);
    let after = collect(&routed, request(12)).await;
    assert_eq!(after.tokens, before.tokens, "{:?}", after.failure);
    assert_eq!(after.file.unwrap().stages[1].node, third.address.node);
}
