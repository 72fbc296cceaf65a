//! Peers that do not behave: nobody else notices them, and what fails says where.

use crate::mesh::{PATIENCE, ROOT, TestNode, collect, gateway, info, node_at, nodes, request, verdict};
use lockstep_base::keys::NodeKey;
use lockstep_base::part::Part;
use lockstep_mesh::frame::{Channel, FRAME_VERSIONS};
use lockstep_mesh::inbound::Incoming;
use lockstep_mesh::message::{Hello, Info, Message};
use lockstep_node::gateway::{Gateway, Options, RoutedGenerator};
use lockstep_node::p2p::{FrameReader, FrameWriter, Network, PeerAddress, random_key, split};
use lockstep_node::service::{FailureKind, GenerateEvent, Generator as _};
use lockstep_runtime::audit::Verdict;
use lockstep_runtime::kernels::Kernel;
use std::time::Duration;

fn hello() -> Message {
    Message::Hello(Hello { versions: FRAME_VERSIONS.to_vec(), agent: "hostile".into() })
}

async fn control(network: &Network, node: &PeerAddress) -> (FrameReader, FrameWriter) {
    split(network.open(node, Channel::Control).await.unwrap(), Channel::Control)
}

/// Says hello and hears what the node serves.
async fn greet((reader, writer): &mut (FrameReader, FrameWriter)) -> Info {
    writer.send(&hello().to_frame()).await.unwrap();
    let answer = tokio::time::timeout(PATIENCE, reader.next()).await.expect("an answer");
    let Ok(Some(Incoming::Message(Message::Info(info)))) = answer else { panic!("{answer:?}") };
    *info
}

async fn served(nodes: &[TestNode]) {
    let answer = collect(&RoutedGenerator::new(gateway(nodes).await), request(8)).await;
    assert_eq!(answer.tokens.len(), 8, "{:?}", answer.failure);
}

/// The newest control stream of a peer counts. The end of an older one, however late, is not the
/// end of the peer.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_stream_does_not_take_a_new_one_with_it() {
    let nodes = nodes(1, Kernel::detect(), 1).await;
    let peer = Network::start(&random_key()).await.unwrap();
    let mut old = control(&peer, &nodes[0].address).await;
    greet(&mut old).await;
    let mut new = control(&peer, &nodes[0].address).await;
    greet(&mut new).await;
    // Both halves end, and a data stream that was opened twice ends once.
    let data = peer.open(&nodes[0].address, Channel::Stage).await.unwrap();
    let _newer = peer.open(&nodes[0].address, Channel::Stage).await.unwrap();
    drop((old, data));
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        greet(&mut new).await;
    }
}

/// A peer that opens a thousand streams, begins a frame on each and never reads.
#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_streams_of_one_peer_hurt_nobody() {
    let nodes = nodes(2, Kernel::detect(), 1).await;
    let peer = Network::start(&random_key()).await.unwrap();
    let mut kept = Vec::new();
    for i in 0..1000 {
        let channel = Channel::ALL[i % 2];
        let Ok(stream) = peer.open(&nodes[0].address, channel).await else { break };
        let (reader, mut writer) = split(stream, channel);
        if i % 2 == 0 {
            let _ = writer.send(&hello().to_frame()).await;
        }
        kept.push((reader, writer));
    }
    served(&nodes).await;
    drop(kept);
    served(&nodes).await;
}

/// A peer that asks for ever and never reads the answers is cut off.
#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_never_reads_is_cut_off() {
    let nodes = nodes(1, Kernel::detect(), 1).await;
    let peer = Network::start(&random_key()).await.unwrap();
    let (_reader, mut writer) = control(&peer, &nodes[0].address).await;
    let frame = hello().to_frame();
    let cut = tokio::time::timeout(PATIENCE, async { while writer.send(&frame).await.is_ok() {} });
    assert!(cut.await.is_ok(), "the node goes on taking requests from a peer that does not read");
    served(&nodes).await;
}

/// Peers that come and go in a loop, mid-frame.
#[tokio::test(flavor = "multi_thread")]
async fn peers_that_come_and_go_leave_nothing_behind() {
    let nodes = nodes(1, Kernel::detect(), 1).await;
    let key = random_key();
    for round in 0..60 {
        let peer = Network::start(&key).await.unwrap();
        // The node may still hold connections of rounds before: then it refuses this one.
        let Ok(stream) = peer.open(&nodes[0].address, Channel::Control).await else { continue };
        let mut streams = split(stream, Channel::Control);
        if round % 2 == 0 {
            let _ = streams.1.send(&hello().to_frame()).await;
        }
    }
    served(&nodes).await;
}

/// Two gateways under one key: the later one works; the earlier one's request ends, it does not hang.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_gateway_with_the_same_key_takes_over() {
    let nodes = nodes(2, Kernel::detect(), 1).await;
    let key = random_key();
    let connect = async || {
        let peers = nodes.iter().map(|node| node.address.clone()).collect();
        RoutedGenerator::new(Gateway::connect(key.clone(), info(), peers, Options::default()).await.unwrap())
    };
    let first = connect().await;
    let mut events = first.generate(request(300));
    while !matches!(events.recv().await, Some(GenerateEvent::Token { .. })) {}
    let second = connect().await;
    let ended = tokio::time::timeout(PATIENCE, async {
        loop {
            match events.recv().await.expect("an answer ends with an event") {
                GenerateEvent::Failed(failure) => return failure,
                GenerateEvent::Done(_) => panic!("its tasks were given up"),
                _ => {}
            }
        }
    });
    let failure = ended.await.expect("never a hang");
    assert_eq!(failure.kind, FailureKind::Stage, "{failure}");
    assert!(failure.stage.is_some(), "{failure}");
    drop(first);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let answer = collect(&second, request(8)).await;
    assert_eq!(answer.tokens.len(), 8, "{:?}", answer.failure);
}

/// A node that was restarted under its key and address serves the very next request.
#[tokio::test(flavor = "multi_thread")]
async fn the_request_after_a_restart_is_served() {
    for restarted in 0..2 {
        let parts = Part::split(4, 2);
        let keys: Vec<NodeKey> = (0..2).map(|_| random_key()).collect();
        let mut nodes = Vec::new();
        for (part, key) in parts.iter().zip(&keys) {
            let anywhere = "/ip4/127.0.0.1/tcp/0".parse().unwrap();
            nodes.push(node_at(anywhere, key.clone(), *part, Kernel::detect(), 1, None, ROOT).await);
        }
        let routed = RoutedGenerator::new(gateway(&nodes).await);
        assert_eq!(collect(&routed, request(8)).await.tokens.len(), 8);
        let old = nodes.remove(restarted);
        let address = old.address.address.clone();
        old.task.abort();
        let _ = old.task.await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let key = keys[restarted].clone();
        let new = node_at(address, key, parts[restarted], Kernel::detect(), 1, None, ROOT).await;
        let answer = collect(&routed, request(8)).await;
        assert_eq!(answer.tokens.len(), 8, "stage {restarted}: {:?}", answer.failure);
        drop(new);
    }
}

/// Leaves asked for the moment an answer is done, several spans at once: all come.
#[tokio::test(flavor = "multi_thread")]
async fn leaves_may_be_asked_for_at_once() {
    let nodes = nodes(2, Kernel::detect(), 1).await;
    let gateway = gateway(&nodes).await;
    let routed = RoutedGenerator::new(gateway.clone());
    for _ in 0..5 {
        let file = collect(&routed, request(40)).await.file.unwrap();
        let (mut a, mut b) = (file.clone(), file);
        let both = async { tokio::join!(gateway.reveal(&mut a, 0, 0), gateway.reveal(&mut b, 0, 32)) };
        let (first, second) = tokio::time::timeout(Duration::from_secs(15), both).await.expect("no wait");
        first.unwrap();
        second.unwrap();
        assert!(matches!(verdict(&a), Verdict::Verified { .. }));
        assert_eq!((a.stages[0].served[0].first_token, b.stages[0].served[0].first_token), (0, 32));
    }
}

/// A node stops while it computes.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_stops_with_jobs_running() {
    let mut nodes = nodes(2, Kernel::detect(), 1).await;
    let routed = RoutedGenerator::new(gateway(&nodes).await);
    let mut events = routed.generate(request(300));
    while !matches!(events.recv().await, Some(GenerateEvent::Token { .. })) {}
    let node = nodes.remove(1);
    node.stop.send(true).unwrap();
    tokio::time::timeout(PATIENCE, node.task).await.expect("it stops").unwrap();
    let failure = tokio::time::timeout(PATIENCE, async {
        loop {
            if let GenerateEvent::Failed(failure) = events.recv().await.expect("an event") {
                return failure;
            }
        }
    });
    assert_eq!(failure.await.expect("never a hang").stage, Some(1));
}

/// What a hostile node does once a task is opened.
#[derive(Clone, Copy, Debug)]
enum Trick {
    /// Says where it is, again and again.
    Flood,
    /// Ends its half of the stream and goes on reading.
    HalfClose,
}

/// A node with the shape of an honest one.
async fn hostile_node(trick: Trick) -> PeerAddress {
    let key = random_key();
    let (network, listening) = Network::listen(&key, "/ip4/127.0.0.1/tcp/0".parse().unwrap()).await.unwrap();
    let address = network.addresses[0].clone();
    let (_, mut incoming) = listening.into_iter().find(|(channel, _)| *channel == Channel::Control).unwrap();
    tokio::spawn(async move {
        let _network = network;
        while let Some(accepted) = incoming.recv().await {
            let (mut reader, mut writer) = split(accepted.stream, Channel::Control);
            let key = key.clone();
            tokio::spawn(async move {
                while let Ok(Some(Incoming::Message(message))) = reader.next().await {
                    match message {
                        Message::Hello(_) => {
                            writer.send(&Message::Info(Box::new(info_of(&key))).to_frame()).await.unwrap();
                        }
                        Message::Open(open) => loop {
                            let task = open.task;
                            let message = match trick {
                                Trick::Flood => Message::Progress { task, computed: 0, received: 0 },
                                Trick::HalfClose => {
                                    writer.close().await.unwrap();
                                    std::future::pending().await
                                }
                            };
                            if writer.send(&message.to_frame()).await.is_err() {
                                return;
                            }
                        },
                        _ => {}
                    }
                }
            });
        }
    });
    address
}

fn info_of(key: &NodeKey) -> Info {
    let config = info().config;
    Info {
        versions: FRAME_VERSIONS.to_vec(),
        agent: "hostile".into(),
        public_key: key.public(),
        model_root: ROOT,
        opset: config.opset,
        model: config.name,
        part: Part::whole(4),
        n_layers: u32::MAX,
        d_model: 0,
        vocab: u32::MAX,
        context: 0,
        tasks_max: 0,
        tasks_open: u32::MAX,
        adapters: Vec::new(),
        proves: false,
    }
}

/// A node that floods its gateway, or goes silent on one half of the stream: the request fails,
/// naming the stage, within the limits of the protocol.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_nodes_end_their_request_only() {
    for trick in [Trick::Flood, Trick::HalfClose] {
        let peers = vec![hostile_node(trick).await];
        let gateway = Gateway::connect(random_key(), info(), peers, Options::default()).await.unwrap();
        let failure = collect(&RoutedGenerator::new(gateway), request(8)).await.failure;
        let failure = failure.unwrap_or_else(|| panic!("{trick:?}: no answer can come"));
        assert_eq!((failure.kind, failure.stage), (FailureKind::Stage, Some(0)), "{trick:?}: {failure}");
    }
}
