//! The answering side of the exchange protocol: questions of strangers, within limits for each and for all.

use super::Shared;
use super::exchange::{Answer, ModelCount, PROTOCOL, Refusal, Request, read_request, write_answer};
use super::limits as l;
use crate::p2p::private::Membership;
use crate::p2p::{Network, NetworkError};
use futures::StreamExt as _;
use libp2p::{PeerId, Stream};
use lockstep_base::Digest;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// In which questions and bytes are counted.
const MINUTE: Duration = Duration::from_secs(60);

/// What a peer has asked for lately.
#[derive(Clone, Copy)]
struct Asked {
    since: Instant,
    questions: u32,
    bytes: u64,
    running: usize,
}

/// What all peers have asked for lately.
#[derive(Default)]
pub(super) struct Quota {
    peers: HashMap<PeerId, Asked>,
    running: usize,
}

impl Quota {
    /// Whether one more question of `peer` is heard now.
    fn begin(&mut self, peer: PeerId, now: Instant) -> bool {
        if self.peers.len() >= l::EXCHANGE_PEERS_MAX && !self.peers.contains_key(&peer) {
            self.peers.retain(|_, asked| asked.running > 0 || now.duration_since(asked.since) < MINUTE);
        }
        if self.running >= l::EXCHANGES_MAX
            || (self.peers.len() >= l::EXCHANGE_PEERS_MAX && !self.peers.contains_key(&peer))
        {
            return false;
        }
        let fresh = Asked { since: now, questions: 0, bytes: 0, running: 0 };
        let asked = self.peers.entry(peer).or_insert(fresh);
        if now.duration_since(asked.since) >= MINUTE {
            *asked = Asked { running: asked.running, ..fresh };
        }
        if asked.running >= l::EXCHANGES_PER_PEER || asked.questions >= l::EXCHANGES_PER_MINUTE {
            return false;
        }
        asked.questions += 1;
        asked.running += 1;
        self.running += 1;
        true
    }

    fn end(&mut self, peer: PeerId) {
        self.running = self.running.saturating_sub(1);
        if let Some(asked) = self.peers.get_mut(&peer) {
            asked.running = asked.running.saturating_sub(1);
        }
    }

    /// Whether `peer` may have so many bytes more.
    fn bytes(&mut self, peer: PeerId, count: u32) -> bool {
        let Some(asked) = self.peers.get_mut(&peer) else { return false };
        let bytes = asked.bytes + u64::from(count);
        if bytes > l::STREAM_BYTES_PER_MINUTE {
            return false;
        }
        asked.bytes = bytes;
        true
    }
}

/// Ends what [`Quota::begin`] began, however the exchange ends.
struct Running(Arc<Mutex<Quota>>, PeerId);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.lock().expect("no thread panics while it counts").end(self.1);
    }
}

/// Answers until the network ends. Ends with the future, and everything that it began with it.
pub(super) async fn answer_all(network: Network, shared: Arc<Shared>) -> Result<(), NetworkError> {
    let mut incoming = network.incoming(PROTOCOL)?;
    let quota = Arc::<Mutex<Quota>>::default();
    let mut running = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            next = incoming.next() => {
                let Some((peer, stream)) = next else { return Ok(()) };
                let begun = quota.lock().expect("no thread panics while it counts").begin(peer, Instant::now());
                if begun {
                    let (guard, shared) = (Running(quota.clone(), peer), shared.clone());
                    let membership = network.membership.clone();
                    running.spawn(async move {
                        let answered = answer(stream, &guard, &shared, membership.as_deref());
                        let _ = tokio::time::timeout(l::EXCHANGE_TIMEOUT, answered).await;
                        drop(guard);
                    });
                }
                // Otherwise the stream is dropped: whoever asks too much hears nothing.
            }
            Some(_) = running.join_next() => {}
        }
    }
}

async fn answer(mut stream: Stream, running: &Running, shared: &Shared, membership: Option<&Membership>) {
    let Ok(request) = read_request(&mut stream).await else { return };
    let answer = match request {
        Request::Announcements(root) => announcements(shared, &root),
        Request::Models => models(shared),
        Request::Peers => peers(shared),
        Request::Clock => Answer::Clock(unix_ms()),
        Request::Revocations => match membership {
            Some(membership) => Answer::Revocations(membership.revocations().into()),
            None => Answer::Refused(Refusal::Limit),
        },
        Request::Bytes(count) if count > l::STREAM_BYTES_MAX => Answer::Refused(Refusal::Limit),
        Request::Bytes(count) => {
            let allowed = running.0.lock().expect("no thread panics while it counts").bytes(running.1, count);
            if allowed { Answer::Bytes(count) } else { Answer::Refused(Refusal::Busy) }
        }
    };
    // Whoever does not read the answer has none.
    let _ = write_answer(&mut stream, &answer).await;
}

/// Announcements of a model, beginning anywhere: where they are more than an answer holds, everybody hears others.
fn announcements(shared: &Shared, root: &Digest) -> Answer {
    let directory = shared.directory();
    let all: Vec<&[u8]> = directory.for_model(root).map(|entry| entry.announcement.bytes()).collect();
    let first = if all.is_empty() { 0 } else { rand::random::<u32>() as usize % all.len() };
    let (mut list, mut room) = (Vec::new(), l::ANSWER_BYTES_MAX - 64);
    for bytes in all[first..].iter().chain(&all[..first]).take(l::ANSWER_ANNOUNCEMENTS_MAX) {
        // A byte string has at most five bytes of head.
        let Some(rest) = room.checked_sub(bytes.len() + 5) else { break };
        room = rest;
        list.push(bytes.to_vec().into());
    }
    Answer::Announcements(list)
}

fn models(shared: &Shared) -> Answer {
    let models = shared.directory().models().into_iter().take(l::ANSWER_MODELS_MAX);
    let count = |(root, nodes): (Digest, usize)| ModelCount { root, nodes: nodes as u32 };
    Answer::Models(models.map(count).collect())
}

fn peers(shared: &Shared) -> Answer {
    let known = shared.known().due(Instant::now());
    Answer::Peers(known.iter().take(l::ANSWER_PEERS_MAX).map(ToString::to_string).collect())
}

/// Milliseconds since 1970, by this machine's clock.
pub(super) fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::p2p::{peer_of_key, random_key};

    /// One peer gets its share of questions and bytes in a minute, and again in the next.
    #[test]
    fn a_peer_has_its_share() {
        let (mut quota, now) = (Quota::default(), Instant::now());
        let peer = peer_of_key(&random_key());
        for _ in 0..l::EXCHANGES_PER_PEER {
            assert!(quota.begin(peer, now));
        }
        assert!(!quota.begin(peer, now), "too many at once");
        assert!(quota.begin(peer_of_key(&random_key()), now), "others are heard");
        for _ in 0..l::EXCHANGES_PER_PEER {
            quota.end(peer);
        }
        for _ in l::EXCHANGES_PER_PEER as u32..l::EXCHANGES_PER_MINUTE {
            assert!(quota.begin(peer, now));
            quota.end(peer);
        }
        assert!(!quota.begin(peer, now), "too many in a minute");
        assert!(quota.begin(peer, now + MINUTE));
        let times = (l::STREAM_BYTES_PER_MINUTE / u64::from(l::STREAM_BYTES_MAX)) as usize;
        assert!((0..times).all(|_| quota.bytes(peer, l::STREAM_BYTES_MAX)));
        assert!(!quota.bytes(peer, 1), "too many bytes in a minute");
    }

    /// All peers together have so many exchanges, and a flood of names takes no more memory.
    #[test]
    fn all_peers_have_their_share() {
        let (mut quota, now) = (Quota::default(), Instant::now());
        let begun =
            (0..l::EXCHANGES_MAX + 10).filter(|_| quota.begin(peer_of_key(&random_key()), now)).count();
        assert_eq!((begun, quota.running), (l::EXCHANGES_MAX, l::EXCHANGES_MAX));
        assert!(quota.peers.len() <= l::EXCHANGE_PEERS_MAX);
    }
}
