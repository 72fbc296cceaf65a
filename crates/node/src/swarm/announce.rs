//! A node says what it serves: a member's state machine between the node and the network.

use super::limits::MEMBER_TICK;
use super::{Shared, Swarm, SwarmError, key_of_model};
use crate::p2p::reach::{is_relayed, scope_of_way};
use crate::p2p::{Network, NetworkStatus, Topic};
use libp2p::Multiaddr;
use lockstep_base::Digest;
use lockstep_base::keys::NodeKey;
use lockstep_base::part::Part;
use lockstep_mesh::swarm::member::{Member, Offer};
use lockstep_mesh::swarm::{Neighbour, State, limits};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::watch;

/// In which the last announcement goes out.
const GOODBYE_TIME: Duration = Duration::from_millis(300);

/// What a node serves, beside where it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Serving {
    /// The model.
    pub model_root: Digest,
    /// Its part.
    pub part: Part,
    /// Where the node is in its life.
    pub state: State,
    /// Measured decoding, milli-tokens per second through one layer; 1 while nothing is measured.
    pub decode_milli: u64,
    /// Measured prefill, milli-tokens per second through one layer; 1 while nothing is measured.
    pub prefill_milli: u64,
    /// KV positions that are free.
    pub free_positions: u64,
    /// Steps that wait.
    pub queue_depth: u32,
    /// Adapters, most wanted first.
    pub adapters: Vec<Digest>,
    /// Price, micro-units per 1,000 tokens.
    pub price_micro: u64,
    /// Proves what it computed.
    pub proves: bool,
}

/// Says what a node serves until it is dropped. Whoever holds it changes what is said.
#[derive(Debug)]
pub struct Announcing {
    serving: watch::Sender<Option<Serving>>,
}

impl Announcing {
    /// Changes what is said.
    pub fn change(&self, change: impl FnOnce(&mut Serving)) {
        self.serving.send_modify(|serving| {
            if let Some(serving) = serving {
                change(serving);
            }
        });
    }

    /// Says good-bye, and waits until that is said.
    pub async fn leave(&self) {
        self.serving.send_modify(|serving| *serving = None);
        // The last announcement may have to keep its distance from the one before.
        let patience = 2 * Duration::from_millis(limits::ANNOUNCE_GAP_MS);
        let _ = tokio::time::timeout(patience, self.serving.closed()).await;
        tokio::time::sleep(GOODBYE_TIME).await;
    }
}

impl Swarm {
    /// Says what this node serves, follows its model, and lets others find it.
    ///
    /// # Errors
    /// [`SwarmError`] if it cannot be said.
    pub async fn announce(&self, key: NodeKey, serving: Serving) -> Result<Announcing, SwarmError> {
        let root = serving.model_root;
        self.follow(root).await?;
        self.network.provide(key_of_model(&root)).await?;
        let start = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        let status = self.network.status().await?;
        let member = Member::new(key, start, root, serving.part, offer(&serving, &status))?;
        let (sender, serving) = watch::channel(Some(serving));
        self.spawn(say(self.network.clone(), self.shared.clone(), member, serving));
        Ok(Announcing { serving: sender })
    }
}

async fn say(
    network: Network,
    shared: Arc<Shared>,
    mut member: Member,
    mut serving: watch::Receiver<Option<Serving>>,
) {
    let root = member.claims().model_root;
    let mut leaving = false;
    let mut tick = tokio::time::interval(MEMBER_TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let open = tokio::select! {
            _ = tick.tick() => !leaving,
            changed = serving.changed(), if !leaving => changed.is_ok(),
        };
        let Ok(status) = network.status().await else { return };
        let now = serving.borrow_and_update().clone().filter(|_| open);
        match &now {
            None if !leaving => {
                leaving = true;
                member.leave();
            }
            None => {}
            Some(serving) => {
                step(&mut member, serving.state);
                // What cannot be announced is not: what was said before stays true as far as it goes.
                let _ = member.offer(offer(serving, &status));
            }
        }
        let members = shared.directory().for_model(&root).count();
        let announcement = member.tick(shared.now_ms(), members, rand::random());
        let said = announcement.is_some();
        if let Some(announcement) = announcement {
            let bytes = announcement.bytes().to_vec();
            let _ = shared.hear(&bytes);
            let _ = network.publish(Topic::Model(root), bytes).await;
        }
        if now.is_none() && said {
            return;
        }
    }
}

fn step(member: &mut Member, state: State) {
    let stepped = match state {
        now if now == member.state() => return,
        State::Online => member.online(),
        State::Draining => member.drain(),
        State::Joining => member.join(member.claims().part),
    };
    // Steps that there are none of are not taken: what was said before stays true.
    drop(stepped);
}

fn offer(serving: &Serving, status: &NetworkStatus) -> Offer {
    let addresses = own_addresses(status);
    let neighbours = status.peers.iter().filter_map(|peer| {
        let rtt_us = u32::try_from(peer.rtt?.as_micros()).unwrap_or(u32::MAX);
        Some(Neighbour { node: peer.node?, rtt_us })
    });
    Offer {
        decode_milli: serving.decode_milli,
        prefill_milli: serving.prefill_milli,
        free_positions: serving.free_positions,
        queue_depth: serving.queue_depth,
        adapters: serving.adapters.clone(),
        price_micro: serving.price_micro,
        relayed: !addresses.is_empty() && addresses.iter().all(is_relayed),
        addresses: addresses
            .into_iter()
            .map(|address| format!("{address}/p2p/{}", status.peer))
            .filter(|text| text.len() <= limits::ADDRESS_BYTES_MAX)
            .collect(),
        neighbours: neighbours.collect(),
        proves: serving.proves,
    }
}

/// Where others reach us, best first: what was confirmed from outside, then what is listened at, the widest scope first.
fn own_addresses(status: &NetworkStatus) -> Vec<Multiaddr> {
    let mut all: Vec<(bool, &Multiaddr)> = status.external.iter().map(|address| (true, address)).collect();
    all.extend(status.listening.iter().map(|address| (false, address)));
    let mut ranked: Vec<_> = all
        .into_iter()
        .filter_map(|(confirmed, address)| Some((scope_of_way(address)?, confirmed, address)))
        .collect();
    // A stable sort: what the network names first stays first among equals.
    ranked.sort_by_key(|(scope, confirmed, address)| {
        (std::cmp::Reverse(*scope), is_relayed(address), !confirmed)
    });
    let mut addresses: Vec<Multiaddr> = Vec::new();
    for (_, _, address) in ranked {
        if !addresses.contains(address) {
            addresses.push(address.clone());
        }
    }
    addresses.truncate(limits::ADDRESSES_MAX);
    addresses
}
