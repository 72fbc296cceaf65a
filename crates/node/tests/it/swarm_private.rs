//! Private swarms: members find each other, nobody else gets a byte that it can read, and the revoked are out within seconds.

use crate::cli::{run, stderr, stdout};
use crate::mesh::PATIENCE;
use crate::mesh_cli::NodeProcess;
use crate::swarm::until;
use lockstep_base::keys::NodeKey;
use lockstep_node::p2p::private::{Invite, Membership, SwarmKey, seconds_now};
use lockstep_node::p2p::{Network, NetworkConfig, Topic, random_key};
use lockstep_node::swarm::{JoinAddress, Swarm, SwarmConfig, SwarmError};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// What the issue allows a revocation to take.
const REVOKED_WITHIN: Duration = Duration::from_secs(10);

fn invite(swarm: &SwarmKey) -> Invite {
    swarm.invite(seconds_now() + 3600, Vec::new())
}

async fn member(invite: &Invite, key: &NodeKey, join: Vec<JoinAddress>) -> Result<Arc<Swarm>, SwarmError> {
    let config = NetworkConfig {
        listen: vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()],
        private: Some(Membership::new(invite, key, None)),
        ..NetworkConfig::default()
    };
    let (network, _) = Network::with(key, &config).await?;
    let (swarm, joined) = Swarm::start(network, SwarmConfig { join, known: None }).await?;
    joined.map(|()| swarm)
}

fn at(swarm: &Swarm) -> JoinAddress {
    swarm.network.addresses[0].to_string().parse().unwrap()
}

async fn connected(swarm: &Swarm, other: &Swarm) -> bool {
    let peers = swarm.network.status().await.unwrap().peers;
    peers.iter().any(|peer| peer.peer == other.network.peer)
}

/// Without the secret nobody gets further than 24 random bytes; with another swarm's invite neither; nor as a peer of a public swarm.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_get_no_byte() {
    let key = SwarmKey::random();
    let a = member(&invite(&key), &random_key(), Vec::new()).await.unwrap();
    let b = member(&invite(&key), &random_key(), vec![at(&a)]).await.unwrap();
    until("members are connected", async || connected(&a, &b).await && connected(&b, &a).await).await;

    let (network, _) = Network::with(&random_key(), &NetworkConfig::default()).await.unwrap();
    assert!(network.connect(&at(&a).to_string().parse().unwrap()).await.is_err(), "a public peer");
    let other = SwarmKey::random();
    assert!(member(&invite(&other), &random_key(), vec![at(&a)]).await.is_err(), "another swarm's member");
    let ended = key.invite(seconds_now() - 1, Vec::new());
    assert!(member(&ended, &random_key(), vec![at(&a)]).await.is_err(), "an invite that has ended");

    let address = a.network.addresses[0].address.to_string();
    let port: u16 = address.rsplit('/').next().unwrap().parse().unwrap();
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(&[7; 4096]).await.unwrap();
    let mut got = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut got)).await;
    assert!(read.is_ok(), "the connection is closed");
    assert!(got.len() <= 24, "{} bytes for a stranger", got.len());
}

/// The sentence: revocation in under 10 s. The list reaches one member and spreads to the others; all close their
/// connections, and the revoked one is not let in again, by whatever address.
#[tokio::test(flavor = "multi_thread")]
async fn the_revoked_are_out_within_seconds() {
    let mut key = SwarmKey::random();
    let of_d = invite(&key);
    let a = member(&invite(&key), &random_key(), Vec::new()).await.unwrap();
    let b = member(&invite(&key), &random_key(), vec![at(&a)]).await.unwrap();
    let c = member(&invite(&key), &random_key(), vec![at(&b)]).await.unwrap();
    let d_key = random_key();
    let d = member(&of_d, &d_key, vec![at(&a), at(&b), at(&c)]).await.unwrap();
    until("all are connected", async || {
        connected(&d, &a).await && connected(&d, &b).await && connected(&d, &c).await
    })
    .await;
    until("the list is heard by gossip", async || {
        // The first one may be said before anybody is there to hear it.
        key.revoke(of_d.id());
        let list = key.revocations();
        a.network.membership.as_ref().unwrap().hear(&list).unwrap();
        a.network.publish(Topic::Swarm, list.clone()).await.unwrap();
        c.network.membership.as_ref().unwrap().revocations() == list
    })
    .await;
    let began = Instant::now();
    while connected(&a, &d).await || connected(&b, &d).await || connected(&c, &d).await {
        assert!(began.elapsed() < REVOKED_WITHIN, "still connected to a revoked member");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(d);
    for other in [&a, &b, &c] {
        assert!(member(&of_d, &d_key, vec![at(other)]).await.is_err());
        assert!(
            member(&of_d, &random_key(), vec![at(other)]).await.is_err(),
            "the invite under another node key"
        );
    }
    member(&invite(&key), &d_key, vec![at(&c)]).await.expect("another invite is another matter");
}

/// The whole story by the binary: a key, invites, a node, a question, a revocation, no answer.
#[test]
fn a_private_swarm_of_processes() {
    let home = tempfile::tempdir().unwrap();
    let file = |name: &str| home.path().join(name).to_str().unwrap().to_owned();
    let (key, mine, yours) = (file("family.key"), file("mine.invite"), file("yours.invite"));
    assert!(stdout(&run(home.path(), &["net", "create", &key])).starts_with("swarm  0x"));
    stdout(&run(home.path(), &["net", "invite", &key, "--out", &mine]));
    let node = NodeProcess::start(home.path(), &["--invite", &mine, "--listen", "/ip4/127.0.0.1/tcp/0"]);
    let made = stdout(&run(home.path(), &["net", "invite", &key, "--out", &yours, "--join", &node.address]));
    let id = made.trim().rsplit(' ').next().unwrap().to_owned();
    let ask = ["ask", "--invite", &yours, "--prompt", "Once", "--max-tokens", "4"];
    assert!(run(home.path(), &ask).status.success());
    let public = ["ask", "--join", &node.address, "--prompt", "Once", "--max-tokens", "4"];
    assert_eq!(run(home.path(), &public).status.code(), Some(1), "without an invite");
    let told = stdout(&run(home.path(), &["net", "revoke", &key, &id, "--join", &node.address]));
    assert!(told.contains("1 members know"), "{told}");
    let refused = run(home.path(), &ask);
    assert_eq!(refused.status.code(), Some(1), "revoked");
    assert!(stderr(&refused).contains("cannot join"), "{}", stderr(&refused));
    assert_eq!(run(home.path(), &["net", "create", &key]).status.code(), Some(1), "a key is not replaced");
}
