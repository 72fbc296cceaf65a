//! Nodes that die while they serve, over real connections: with another node for each part nobody notices but the receipts (protocol.md, 7).

use crate::cli::{lockstep, run, stderr};
use crate::mesh::{Answer, PATIENCE, ROOT, TestNode, collect, gateway, node_at, nodes, request, verdict};
use crate::mesh_cli::NodeProcess;
use lockstep_base::keys::NodeKey;
use lockstep_base::part::Part;
use lockstep_base::receipt_file::ReceiptFile;
use lockstep_node::gateway::RoutedGenerator;
use lockstep_node::p2p::random_key;
use lockstep_node::service::{GenerateEvent, Generator};
use lockstep_runtime::audit::Verdict;
use lockstep_runtime::kernels::Kernel;
use std::io::Read as _;
use std::process::Stdio;
use std::time::Duration;

/// Two nodes for each of three stages.
async fn replicated() -> Vec<TestNode> {
    let mut all = nodes(3, Kernel::detect(), 1).await;
    all.extend(nodes(3, Kernel::detect(), 1).await);
    all
}

/// The answer to `request(60)`, where whoever serves a stage dies as soon as so many tokens are there: (tokens, stage).
async fn answer_with(deaths: &[(usize, usize)]) -> (Answer, Vec<serde_json::Value>) {
    let mut deaths = deaths.to_vec();
    let all = replicated().await;
    let gateway = gateway(&all).await;
    let routed = RoutedGenerator::new(gateway);
    let mut events = routed.generate(request(60));
    let mut answer = Answer::default();
    let mut replaced = Vec::new();
    let read = async {
        while let Some(event) = events.recv().await {
            match event {
                GenerateEvent::Token { token, .. } => answer.tokens.push(token),
                GenerateEvent::Stage(_) => {}
                GenerateEvent::Done(done) => {
                    let receipts = done.receipts.expect("receipts");
                    replaced = receipts.summary["replaced"].as_array().cloned().unwrap_or_default();
                    answer.file = Some(ReceiptFile::from_bytes(&receipts.file).expect("our own file"));
                }
                GenerateEvent::Failed(failure) => answer.failure = Some(failure),
            }
            deaths.retain(|(tokens, stage)| {
                let alive = *tokens > answer.tokens.len();
                if !alive {
                    // The gateway was given the second node of each stage first. Without its task a node has no network.
                    all[stage + 3].task.abort();
                }
                alive
            });
        }
    };
    tokio::time::timeout(PATIENCE, read).await.expect("an answer ends, well or not");
    (answer, replaced)
}

/// The kill matrix over libp2p: each stage, early, at the border of a span and late; two at once, one after the other, and all of them.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_notices_when_nodes_die() {
    let expected = answer_with(&[]).await.0;
    assert_eq!(expected.tokens.len(), 60, "{:?}", expected.failure);
    let matrix: [&[(usize, usize)]; 9] = [
        &[(1, 0)],
        &[(1, 1)],
        &[(1, 2)],
        &[(28, 0)],
        &[(28, 1)],
        &[(28, 2)],
        &[(40, 0), (40, 1)],
        &[(10, 2), (50, 1)],
        &[(20, 0), (20, 1), (20, 2)],
    ];
    for deaths in matrix {
        let (answer, replaced) = answer_with(deaths).await;
        assert_eq!(answer.tokens, expected.tokens, "{deaths:?}: {:?}", answer.failure);
        let file = answer.file.expect("a receipt file");
        assert!(matches!(verdict(&file), Verdict::Verified { .. }), "{deaths:?}");
        assert_eq!(replaced.len(), deaths.len(), "{deaths:?}: {replaced:?}");
        assert_eq!(file.tokens, expected.file.as_ref().expect("a receipt file").tokens, "{deaths:?}");
    }
}

/// protocol.md, 7: a node without another one for its layers dies and is started anew: the request is begun again behind the client's back, and goes on where it was.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_started_anew_goes_on() {
    let local = nodes(3, Kernel::detect(), 1).await;
    let expected = collect(&RoutedGenerator::new(gateway(&local).await), request(60)).await.tokens;
    for restarted in 0..3 {
        let parts = Part::split(4, 3);
        let keys: Vec<NodeKey> = (0..3).map(|_| random_key()).collect();
        let mut nodes = Vec::new();
        for (part, key) in parts.iter().zip(&keys) {
            let anywhere = "/ip4/127.0.0.1/tcp/0".parse().expect("an address");
            nodes.push(node_at(anywhere, key.clone(), *part, Kernel::detect(), 1, None, ROOT).await);
        }
        let routed = RoutedGenerator::new(gateway(&nodes).await);
        let mut events = routed.generate(request(60));
        let (mut tokens, mut file, mut anew) = (Vec::new(), None, None);
        let read = async {
            while let Some(event) = events.recv().await {
                match event {
                    GenerateEvent::Token { token, .. } => tokens.push(token),
                    GenerateEvent::Stage(_) => {}
                    GenerateEvent::Done(done) => file = done.receipts,
                    GenerateEvent::Failed(failure) => panic!("stage {restarted}: {failure:?}"),
                }
                if tokens.len() == 30 && anew.is_none() {
                    nodes[restarted].task.abort();
                    let (address, key) = (nodes[restarted].address.address.clone(), keys[restarted].clone());
                    let part = parts[restarted];
                    anew = Some(tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(500)).await;
                        node_at(address, key, part, Kernel::detect(), 1, None, ROOT).await
                    }));
                }
            }
        };
        tokio::time::timeout(PATIENCE, read).await.expect("an answer ends, well or not");
        assert_eq!(tokens, expected, "stage {restarted}");
        let file = ReceiptFile::from_bytes(&file.expect("receipts").file).expect("our own file");
        assert!(matches!(verdict(&file), Verdict::Verified { .. }), "stage {restarted}");
        drop(anew);
    }
}

/// With nobody to take its place a node that dies ends the answer, and is named.
#[tokio::test(flavor = "multi_thread")]
async fn without_replicas_the_dead_are_named() {
    let nodes = nodes(3, Kernel::detect(), 1).await;
    let routed = RoutedGenerator::new(gateway(&nodes).await);
    assert_eq!(collect(&routed, request(5)).await.tokens.len(), 5);
    nodes[1].task.abort();
    let _ = nodes[1].stop.send(true);
    tokio::time::sleep(Duration::from_millis(100)).await;
    let failure = collect(&routed, request(5)).await.failure.expect("no answer");
    assert_eq!(failure.stage, Some(1), "{failure:?}");
}

/// The same with processes and `kill -9`: a story of the default model, whose middle node dies when its first words are there.
#[test]
fn a_process_may_be_killed() {
    let home = tempfile::tempdir().expect("a folder");
    let path = |name: &str| home.path().join(name).to_str().expect("UTF-8").to_owned();
    let parts = ["0..1", "1..3", "3..4"];
    let start = |(at, part): (usize, &&str)| {
        NodeProcess::start(home.path(), &["--layers", part, "--key", &path(&format!("{at}.key"))])
    };
    let mut nodes: Vec<NodeProcess> = parts.iter().chain(&parts).enumerate().map(start).collect();
    let ask = |receipts: &str| {
        let mut command = lockstep(home.path());
        command.arg("ask");
        for node in &nodes {
            command.args(["--node", &node.address]);
        }
        command.args(["--prompt", "Once upon a time", "--max-tokens", "300", "--seed", "7"]);
        command.args(["--receipts", &path(receipts)]).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("the binary runs")
    };
    let whole = ask("a").wait_with_output().expect("an end");
    assert!(whole.status.success(), "{}", stderr(&whole));
    let mut asking = ask("b");
    let mut first = [0; 16];
    asking.stdout.as_mut().expect("stdout").read_exact(&mut first).expect("some words");
    drop(nodes.remove(1));
    let killed = asking.wait_with_output().expect("an end");
    assert!(killed.status.success(), "{}", stderr(&killed));
    assert_eq!([&first[..], &killed.stdout].concat(), whole.stdout, "the story");
    let file = |name| ReceiptFile::from_bytes(&std::fs::read(path(name)).expect("a file")).expect("receipts");
    let (a, b) = (file("a"), file("b"));
    assert_eq!(a.tokens, b.tokens);
    assert_ne!(a.stages[1].node, b.stages[1].node, "another node");
    let verified = run(home.path(), &["verify", &path("b")]);
    assert!(verified.status.success(), "{}", stderr(&verified));
}
