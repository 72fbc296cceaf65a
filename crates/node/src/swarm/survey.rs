//! Looking around in a swarm: what `lockstep net` shows.

use super::answer::unix_ms;
use super::exchange::{Answer, Request};
use super::limits as l;
use super::{Swarm, SwarmError};
use crate::p2p::NetworkStatus;
use libp2p::PeerId;
use lockstep_base::Digest;
use lockstep_mesh::swarm::Announcement;
use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

/// Between two rounds of questions.
const ROUND: Duration = Duration::from_millis(500);
/// Rounds that bring nothing new after which everything is heard.
const QUIET_ROUNDS: u32 = 3;

/// What was found.
#[derive(Debug)]
pub struct Survey {
    /// Own connections and addresses.
    pub network: NetworkStatus,
    /// Announcements of every model that was heard of.
    pub announcements: Vec<Announcement>,
    /// Peers that answered questions.
    pub answered: usize,
}

/// Asks connected peers, and those that they lead to, what they know, until nothing new comes or time is up. With `only`, of that model.
///
/// # Errors
/// [`SwarmError`] if the network ends.
pub async fn survey(swarm: &Swarm, only: Option<Digest>) -> Result<Survey, SwarmError> {
    let began = Instant::now();
    let mut answered: HashSet<PeerId> = HashSet::new();
    let mut models: BTreeSet<Digest> = only.into_iter().collect();
    let (mut quiet, mut before) = (0, usize::MAX);
    while quiet < QUIET_ROUNDS && began.elapsed() < l::SURVEY_TIME {
        let peers = swarm.network.status().await?.peers;
        for peer in peers.iter().map(|peer| peer.peer).take(l::SURVEY_PEERS_MAX) {
            if answered.contains(&peer) || began.elapsed() >= l::SURVEY_TIME {
                continue;
            }
            let Ok(Answer::Models(list)) = swarm.ask(peer, Request::Models).await else { continue };
            answered.insert(peer);
            if only.is_none() {
                models.extend(list.iter().map(|model| model.root).take(l::ANSWER_MODELS_MAX));
            }
        }
        for root in models.iter().take(crate::p2p::limits::TOPICS_MAX / 2).copied().collect::<Vec<_>>() {
            swarm.follow(root).await?;
            swarm.pull(&root).await;
        }
        let known = swarm.directory(|directory| directory.len()) + answered.len();
        quiet = if known == before { quiet + 1 } else { 0 };
        before = known;
        tokio::time::sleep(ROUND).await;
    }
    let keep = |root: &Digest| only.is_none_or(|only| only == *root);
    Ok(Survey {
        network: swarm.network.status().await?,
        announcements: swarm.directory(|directory| {
            let entries = directory.iter().filter(|entry| keep(&entry.claims().model_root));
            entries.map(|entry| entry.announcement.clone()).collect()
        }),
        answered: answered.len(),
    })
}

/// A peer's clock beside ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClockOffset {
    /// Milliseconds by which the peer's clock is ahead.
    pub ahead_ms: i64,
    /// The offset may be wrong by so many milliseconds either way: half of the round trip.
    pub uncertain_ms: u64,
}

/// Compares clocks with a peer.
///
/// # Errors
/// [`super::AskError`] if it does not answer.
pub async fn clock_offset(swarm: &Swarm, peer: PeerId) -> Result<ClockOffset, super::AskError> {
    let (before, began) = (unix_ms(), Instant::now());
    let answer = swarm.ask(peer, Request::Clock).await?;
    let Answer::Clock(theirs) = answer else { return Err(super::exchange::ExchangeError::Other.into()) };
    let trip_ms = began.elapsed().as_millis() as u64;
    let ours = before.saturating_add(trip_ms / 2);
    let ahead = i128::from(theirs) - i128::from(ours);
    let ahead_ms = ahead.clamp(i64::MIN.into(), i64::MAX.into()) as i64;
    Ok(ClockOffset { ahead_ms, uncertain_ms: trip_ms.div_ceil(2) })
}
