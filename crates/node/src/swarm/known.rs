//! Peers that were met before: what a swarm needs to go on without the peers that everybody joined at.
//!
//! A text file in the data folder, `peers.txt`: one line a peer, `SECONDS MULTIADDR`, newest first; seconds since 1970 when it was
//! last connected, by this machine's clock. Bounded, read with suspicion (lines that are no peer are left out),
//! replaced as a whole.

use super::limits::{KNOWN_FILE_BYTES_MAX, KNOWN_PEERS_MAX, REDIAL_MAX, REDIAL_MIN};
use crate::p2p::PeerAddress;
use crate::p2p::reach::scope_of_way;
use libp2p::PeerId;
use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// First line of the file.
const HEADER: &str = "lockstep known peers, version 1";

/// Known peers, newest first, and when each of them may be dialled again.
#[derive(Debug, Default)]
pub struct KnownPeers {
    path: Option<PathBuf>,
    /// By peer: when it was last connected, where.
    peers: HashMap<PeerId, (u64, PeerAddress)>,
    failures: HashMap<PeerId, (u32, Instant)>,
    changed: bool,
}

impl KnownPeers {
    /// The peers of the file at `path`; none if it does not exist, and none are kept without a path.
    ///
    /// # Errors
    /// What the file system says, or that it is another kind of file.
    pub fn open(path: Option<PathBuf>) -> std::io::Result<KnownPeers> {
        let mut known = KnownPeers { path, ..KnownPeers::default() };
        if let Some(path) = known.path.clone() {
            known.merge(&path)?;
        }
        known.changed = false;
        Ok(known)
    }

    fn merge(&mut self, path: &Path) -> std::io::Result<()> {
        let mut text = String::new();
        match std::fs::File::open(path) {
            Ok(file) => file.take(KNOWN_FILE_BYTES_MAX).read_to_string(&mut text)?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut lines = text.lines();
        if lines.next() != Some(HEADER) {
            let why =
                format!("{}: not a file of known peers, expected {HEADER:?} at its head", path.display());
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, why));
        }
        for line in lines.take(KNOWN_PEERS_MAX) {
            if let Some((seconds, peer)) = parse(line) {
                self.insert(seconds, peer);
            }
        }
        Ok(())
    }

    fn insert(&mut self, seconds: u64, peer: PeerAddress) {
        if self.peers.get(&peer.peer).is_some_and(|(known, _)| *known >= seconds) {
            return;
        }
        self.peers.insert(peer.peer, (seconds, peer));
        if self.peers.len() > KNOWN_PEERS_MAX {
            let oldest = self.peers.iter().min_by_key(|(peer, (seconds, _))| (*seconds, **peer));
            if let Some(oldest) = oldest.map(|(peer, _)| *peer) {
                self.peers.remove(&oldest);
                self.failures.remove(&oldest);
            }
        }
    }

    /// A peer is connected and can be reached at this address.
    pub fn met(&mut self, peer: PeerAddress) {
        self.failures.remove(&peer.peer);
        let now = seconds_now();
        // A minute is exact enough: the file is not written for less.
        let same = |(known, at): &(u64, PeerAddress)| at.address == peer.address && known + 60 > now;
        if scope_of_way(&peer.address).is_none() || self.peers.get(&peer.peer).is_some_and(same) {
            return;
        }
        self.peers.remove(&peer.peer);
        self.insert(now, peer);
        self.changed = true;
    }

    /// A peer was not reached: it is left alone for a while, twice as long each time.
    pub fn failed(&mut self, peer: &PeerId, now: Instant) {
        let (count, _) = self.failures.get(peer).copied().unwrap_or((0, now));
        self.failures.insert(*peer, (count.saturating_add(1), now + wait(count)));
    }

    /// Peers that may be dialled now, the newest first.
    #[must_use]
    pub fn due(&self, now: Instant) -> Vec<PeerAddress> {
        let mut due: Vec<_> = self
            .peers
            .values()
            .filter(|(_, peer)| self.failures.get(&peer.peer).is_none_or(|(_, until)| *until <= now))
            .collect();
        due.sort_by_key(|(seconds, peer)| (std::cmp::Reverse(*seconds), peer.peer));
        due.into_iter().map(|(_, peer)| peer.clone()).collect()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.peers.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    /// Writes the file, if something changed. Other processes may keep the same file: what they have written is kept.
    ///
    /// # Errors
    /// What the file system says.
    pub fn save(&mut self) -> std::io::Result<()> {
        let Some(path) = self.path.clone().filter(|_| self.changed) else { return Ok(()) };
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        // A file that is none is not ours to replace.
        self.merge(&path)?;
        let mut lines: Vec<_> = self.peers.values().collect();
        lines.sort_by_key(|(seconds, peer)| (std::cmp::Reverse(*seconds), peer.peer));
        let mut text = format!("{HEADER}\n");
        for (seconds, peer) in lines {
            text.push_str(&format!("{seconds} {peer}\n"));
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(text.as_bytes())?;
        file.persist(&path).map_err(|error| error.error)?;
        self.changed = false;
        Ok(())
    }
}

fn parse(line: &str) -> Option<(u64, PeerAddress)> {
    let (seconds, address) = line.split_once(' ')?;
    let peer: PeerAddress = address.parse().ok()?;
    scope_of_way(&peer.address)?;
    // A time in the future would keep its line for ever.
    Some((seconds.parse::<u64>().ok()?.min(seconds_now()), peer))
}

fn wait(failures: u32) -> Duration {
    REDIAL_MIN.saturating_mul(1 << failures.min(16)).min(REDIAL_MAX)
}

fn seconds_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::p2p::{peer_of_key, random_key};

    fn peer(port: usize) -> PeerAddress {
        format!("/ip4/127.0.0.1/tcp/{}/p2p/{}", port + 1, peer_of_key(&random_key())).parse().unwrap()
    }

    /// What was met is there after a restart; a second process that keeps the same file loses nothing.
    #[test]
    fn known_peers_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("data").join("peers.txt");
        let (a, b) = (peer(1), peer(2));
        let mut first = KnownPeers::open(Some(path.clone())).unwrap();
        let mut second = KnownPeers::open(Some(path.clone())).unwrap();
        first.met(a.clone());
        second.met(b.clone());
        first.save().unwrap();
        second.save().unwrap();
        let known = KnownPeers::open(Some(path)).unwrap().due(Instant::now());
        assert!(known.len() == 2 && known.contains(&a) && known.contains(&b), "{known:?}");
    }

    /// The number of peers is bounded, and the newest stay.
    #[test]
    fn known_peers_are_bounded() {
        let mut known = KnownPeers::default();
        let newest = peer(0);
        known.insert(1_000_000, newest.clone());
        for seconds in 0..2 * KNOWN_PEERS_MAX {
            known.insert(seconds as u64, peer(seconds));
        }
        assert_eq!(known.len(), KNOWN_PEERS_MAX);
        assert_eq!(known.due(Instant::now())[0], newest);
    }

    /// A file that somebody else wrote: lines that are no peer are left out, another kind of file is neither read nor replaced.
    #[test]
    fn files_are_read_with_suspicion() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("peers.txt");
        let good = peer(1);
        let lines = [
            HEADER.into(),
            format!("99999999999999 {good}"),
            "5 /ip4/127.0.0.1/tcp/4001".into(),
            format!("5 /dns4/example.org/tcp/4001/p2p/{}", good.peer),
            "x".into(),
            String::new(),
        ];
        std::fs::write(&path, lines.join("\n")).unwrap();
        let known = KnownPeers::open(Some(path.clone())).unwrap();
        assert_eq!(known.due(Instant::now()), [good]);
        assert!(known.peers.values().all(|(seconds, _)| *seconds <= seconds_now()));
        std::fs::write(&path, "my diary\n").unwrap();
        assert!(KnownPeers::open(Some(path.clone())).is_err());
        let mut other = KnownPeers { path: Some(path.clone()), ..KnownPeers::default() };
        other.met(peer(3));
        assert!(other.save().is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "my diary\n");
    }

    /// Peers that are not reached are left alone for longer and longer, up to a limit.
    #[test]
    fn failures_are_backed_off() {
        let (mut known, now, peer) = (KnownPeers::default(), Instant::now(), peer(1));
        known.insert(5, peer.clone());
        known.failed(&peer.peer, now);
        assert!(known.due(now).is_empty());
        assert_eq!(known.due(now + REDIAL_MIN).len(), 1);
        known.failed(&peer.peer, now);
        assert!(known.due(now + REDIAL_MIN).is_empty());
        for _ in 0..100 {
            known.failed(&peer.peer, now);
        }
        assert_eq!(known.due(now + REDIAL_MAX).len(), 1);
        known.met(peer);
        assert_eq!(known.due(now).len(), 1);
    }
}
