//! What a peer does all the time: stay connected, write down whom it met, hear what it missed, let leases end.

use super::exchange::{Answer, Request};
use super::limits as l;
use super::{Shared, address_of, ask_peer, key_of_model, parse_peer, reachable_at, ways};
use crate::p2p::reach::{Scope, scope_of_way};
use crate::p2p::{Network, PeerAddress, PeerStatus};
use crate::swarm::JoinAddress;
use libp2p::PeerId;
use lockstep_base::Digest;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;
use tokio::task::JoinSet;

/// Keeps a peer in its swarm.
pub(super) async fn maintain(network: Network, shared: Arc<Shared>, join: Vec<JoinAddress>) {
    let mut asked: HashSet<PeerId> = HashSet::new();
    let (mut saved, mut alone) = (Instant::now(), 0u32);
    loop {
        let Ok(status) = network.status().await else { return };
        shared.directory().tick(shared.now_ms());
        set_scope(&shared, &status.peers);
        for peer in status.peers.iter().filter(|peer| !peer.relayed) {
            if let Some(address) = reachable_at(peer) {
                shared.known().met(address);
            }
        }

        // A peer that is new may know of nodes and peers that nobody has told us of.
        asked.retain(|id| status.peers.iter().any(|peer| peer.peer == *id));
        let new: Vec<PeerId> =
            status.peers.iter().map(|peer| peer.peer).filter(|peer| !asked.contains(peer)).collect();
        asked.extend(&new);
        if let Some(membership) = &network.membership {
            for peer in &new {
                if let Ok(Answer::Revocations(list)) = ask_peer(&network, *peer, Request::Revocations).await {
                    // A list that the swarm did not sign changes nothing.
                    let _ = membership.hear(&list);
                }
            }
            for peer in status.peers.iter().filter(|peer| membership.is_revoked(&peer.peer)) {
                let _ = network.disconnect(peer.peer).await;
            }
        }
        let followed: Vec<Digest> = shared.followed().iter().copied().collect();
        for root in followed {
            pull(&network, &shared, new.clone(), &root).await;
        }
        if status.peers.len() < l::PEERS_WANTED {
            hear_of_peers(&network, &shared, &new).await;
            let connected = |peer: &PeerAddress| status.peers.iter().any(|other| other.peer == peer.peer);
            let due = shared.known().due(Instant::now()).into_iter();
            redial(&network, &shared, due.filter(|peer| !connected(peer)).collect()).await;
        }
        // Whom everybody joins at may be back: asked now and then as long as nobody else is there.
        alone = if status.peers.is_empty() { alone + 1 } else { 0 };
        if alone.is_power_of_two() {
            rejoin(&network, &join).await;
        }
        if saved.elapsed() >= l::SAVE_INTERVAL {
            saved = Instant::now();
            save(&shared).await;
        }
        tokio::time::sleep(l::MAINTAIN_INTERVAL).await;
    }
}

/// Writes the file of known peers; where that fails, it is tried again later.
async fn save(shared: &Arc<Shared>) {
    let shared = shared.clone();
    let _ = tokio::task::spawn_blocking(move || shared.known().save()).await;
}

fn set_scope(shared: &Shared, peers: &[PeerStatus]) {
    let scopes = peers.iter().filter_map(|peer| scope_of_way(peer.address.as_ref()?));
    *shared.scope.lock().expect("no thread panics while it holds the scope") =
        scopes.min().unwrap_or(Scope::Global);
}

async fn rejoin(network: &Network, join: &[JoinAddress]) {
    for address in join {
        for address in address.resolve().await.unwrap_or_default() {
            let _ = network.connect(&address).await;
        }
    }
}

/// Asks new peers for addresses of others. They are told apart from those that were met: they are dialled, and known when they answer.
async fn hear_of_peers(network: &Network, shared: &Arc<Shared>, new: &[PeerId]) {
    for peer in new.iter().take(l::PULLS_AT_ONCE) {
        let Ok(Answer::Peers(list)) = ask_peer(network, *peer, Request::Peers).await else { continue };
        let scope = shared.scope();
        let heard = list.iter().filter_map(|text| parse_peer(text));
        let heard: Vec<PeerAddress> = heard
            .filter(|peer| peer.peer != network.peer)
            .filter(|peer| scope_of_way(&peer.address).is_some_and(|way| way >= scope))
            .take(l::KNOWN_DIALS_AT_ONCE)
            .collect();
        redial(network, shared, heard).await;
    }
}

/// Dials some of `peers`; how many answered.
pub(super) async fn redial(network: &Network, shared: &Arc<Shared>, peers: Vec<PeerAddress>) -> usize {
    let mut dials = JoinSet::new();
    for peer in peers.into_iter().take(l::KNOWN_DIALS_AT_ONCE) {
        let network = network.clone();
        dials.spawn(async move {
            let address = peer.to_string().parse().expect("an address is printed as one");
            (peer, network.connect(&address).await)
        });
    }
    let mut reached = 0;
    while let Some(dialled) = dials.join_next().await {
        match dialled {
            Ok((peer, Ok(_))) => {
                shared.known().met(peer);
                reached += 1;
            }
            Ok((peer, Err(_))) => shared.known().failed(&peer.peer, Instant::now()),
            Err(_) => {}
        }
    }
    reached
}

/// Asks `peers` what they know of a model; how many answered.
pub(super) async fn pull(
    network: &Network,
    shared: &Arc<Shared>,
    peers: Vec<PeerId>,
    root: &Digest,
) -> usize {
    let mut questions = JoinSet::new();
    let (mut peers, mut answered) = (peers.into_iter(), 0);
    loop {
        while questions.len() < l::PULLS_AT_ONCE {
            let Some(peer) = peers.next() else { break };
            let (network, request) = (network.clone(), Request::Announcements(*root));
            questions.spawn(async move { ask_peer(&network, peer, request).await });
        }
        let Some(answer) = questions.join_next().await else { return answered };
        let Ok(Ok(Answer::Announcements(list))) = answer else { continue };
        answered += 1;
        for bytes in list {
            // What is old, or too much, is not news; what is no announcement is worth nothing.
            let _ = shared.hear(&bytes);
        }
        let scope = shared.scope();
        let ways: Vec<_> =
            shared.directory().for_model(root).filter_map(|entry| ways(&entry.announcement, scope)).collect();
        for (peer, addresses) in ways {
            let _ = network.remember(peer, addresses).await;
        }
    }
}

/// Looks up who provides a model, as long as it is followed: at once and often while few are known, then rarely.
pub(super) async fn look_up(network: Network, shared: Arc<Shared>, root: Digest) {
    loop {
        if let Ok(found) = network.lookup(key_of_model(&root)).await {
            let others: Vec<PeerId> = found.into_iter().filter(|peer| *peer != network.peer).collect();
            pull(&network, &shared, others.into_iter().take(l::SURVEY_PEERS_MAX).collect(), &root).await;
        }
        // To hear a topic one must be connected to somebody who hears it.
        let scope = shared.scope();
        let known: Vec<PeerAddress> = {
            let directory = shared.directory();
            directory.for_model(&root).filter_map(|entry| address_of(&entry.announcement, scope)).collect()
        };
        let Ok(status) = network.status().await else { return };
        let connected = |peer: &PeerAddress| status.peers.iter().any(|other| other.peer == peer.peer);
        let missing = known.into_iter().filter(|peer| peer.peer != network.peer && !connected(peer));
        let missing: Vec<PeerAddress> = missing.collect();
        let few = status.peers.len() < l::PEERS_WANTED;
        if few {
            redial(&network, &shared, missing).await;
        }
        tokio::time::sleep(l::LOOKUP_INTERVAL * if few { 1 } else { 6 }).await;
    }
}
