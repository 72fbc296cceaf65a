//! The laws that any transport must keep, as one suite for many implementations.
//!
//! The simulated network passes it here; a libp2p transport runs the same functions over
//! loopback. Each law panics with what was got and what was expected.

use crate::net::{Happening, Net, Peer, Stream};
use lockstep_base::rng::SplitMix64;
use lockstep_mesh::frame::Channel;
use std::collections::BTreeMap;

/// What arrives at a peer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Bytes on a stream.
    Bytes(Stream, Vec<u8>),
    /// `at` learned that `peer` is gone.
    Lost {
        /// Who learned it.
        at: Peer,
        /// Who is gone.
        peer: Peer,
    },
}

/// A network of peers `0..n` in one test process.
pub trait Transport {
    /// Opens the writing half of a stream by its protocol name.
    ///
    /// # Errors
    /// Why not, for people: an unknown protocol must be refused with the supported ones.
    fn open(&mut self, from: Peer, to: Peer, protocol: &str) -> Result<Stream, String>;

    /// Writes all of `bytes`, as far as the stream still exists.
    fn send(&mut self, stream: Stream, bytes: &[u8]);

    /// Kills a peer without a farewell.
    fn kill(&mut self, peer: Peer);

    /// Waits until everything that is under way has arrived (or a few seconds of a real network
    /// have passed), and returns it in order of arrival.
    fn settle(&mut self) -> Vec<Arrival>;
}

impl Transport for Net {
    fn open(&mut self, from: Peer, to: Peer, protocol: &str) -> Result<Stream, String> {
        let channel = Channel::of_protocol(protocol).map_err(|error| error.to_string())?;
        Ok(Stream { from, to, channel })
    }

    fn send(&mut self, stream: Stream, bytes: &[u8]) {
        Net::send(self, stream, bytes);
    }

    fn kill(&mut self, peer: Peer) {
        Net::kill(self, peer);
    }

    fn settle(&mut self) -> Vec<Arrival> {
        core::iter::from_fn(|| self.next_happening())
            .filter_map(|happening| match happening {
                Happening::Bytes { stream, bytes, .. } => Some(Arrival::Bytes(stream, bytes)),
                Happening::Lost { at, peer } => Some(Arrival::Lost { at, peer }),
                Happening::Timer { .. } => None,
            })
            .collect()
    }
}

/// Every law, on transports of `peers` peers that `make` makes.
///
/// # Panics
/// If a law does not hold.
pub fn laws<T: Transport>(seed: u64, mut make: impl FnMut(usize) -> T) {
    streams_keep_order_and_bytes(seed, &mut make(3));
    unknown_protocols_are_refused(&mut make(2));
    a_lost_peer_is_reported_to_everybody(&mut make(4));
    nothing_arrives_after_a_loss(seed, &mut make(2));
}

fn open(transport: &mut impl Transport, from: Peer, to: Peer, channel: Channel) -> Stream {
    transport.open(from, to, channel.protocol()).expect("a known protocol opens")
}

fn received(arrivals: &[Arrival]) -> BTreeMap<Stream, Vec<u8>> {
    let mut bytes: BTreeMap<Stream, Vec<u8>> = BTreeMap::new();
    for arrival in arrivals {
        if let Arrival::Bytes(stream, piece) = arrival {
            bytes.entry(*stream).or_default().extend_from_slice(piece);
        }
    }
    bytes
}

fn streams_keep_order_and_bytes(seed: u64, transport: &mut impl Transport) {
    let mut rng = SplitMix64::new(seed);
    let mut sent: BTreeMap<Stream, Vec<u8>> = BTreeMap::new();
    let mut streams = Vec::new();
    for (from, to) in [(0, 1), (1, 0), (1, 2), (0, 2)] {
        streams.extend(Channel::ALL.map(|channel| open(transport, from, to, channel)));
    }
    for _ in 0..200 {
        let stream = streams[rng.below(streams.len() as u64) as usize];
        let mut bytes = vec![0; 1 + rng.below(9000) as usize];
        rng.fill(&mut bytes);
        transport.send(stream, &bytes);
        sent.entry(stream).or_default().extend_from_slice(&bytes);
    }
    let got = received(&transport.settle());
    assert_eq!(got.keys().collect::<Vec<_>>(), sent.keys().collect::<Vec<_>>(), "seed {seed}: streams");
    for (stream, bytes) in &sent {
        assert!(got[stream] == *bytes, "seed {seed}: {stream:?} carries its bytes in order, once");
    }
}

fn unknown_protocols_are_refused(transport: &mut impl Transport) {
    let error = transport.open(0, 1, "/lockstep/stage/99").expect_err("an unknown version is refused");
    for channel in Channel::ALL {
        assert!(error.contains(channel.protocol()), "{error:?} names {}", channel.protocol());
    }
}

fn a_lost_peer_is_reported_to_everybody(transport: &mut impl Transport) {
    for peer in 1..4 {
        let stream = open(transport, 0, peer, Channel::Control);
        transport.send(stream, &[1]);
        let stream = open(transport, peer, 3 - peer % 3, Channel::Control);
        transport.send(stream, &[1]);
    }
    transport.settle();
    transport.kill(2);
    let arrivals = transport.settle();
    for at in [0, 1, 3] {
        assert!(arrivals.contains(&Arrival::Lost { at, peer: 2 }), "peer {at} learns that 2 is gone");
    }
    assert!(!arrivals.iter().any(|arrival| matches!(arrival, Arrival::Lost { peer, .. } if *peer != 2)));
}

fn nothing_arrives_after_a_loss(seed: u64, transport: &mut impl Transport) {
    let mut rng = SplitMix64::new(seed);
    let there = open(transport, 0, 1, Channel::Stage);
    let back = open(transport, 1, 0, Channel::Stage);
    let mut bytes = vec![0; 50_000];
    rng.fill(&mut bytes);
    transport.send(back, &bytes);
    transport.kill(1);
    transport.send(there, &bytes);
    let arrivals = transport.settle();
    let got = received(&arrivals);
    assert!(!got.contains_key(&there), "seed {seed}: a dead peer reads nothing");
    let part = got.get(&back).map_or(&[][..], |bytes| bytes.as_slice());
    assert!(bytes.starts_with(part), "seed {seed}: what arrives is a prefix of what was sent");
    let lost = arrivals.iter().position(|arrival| *arrival == Arrival::Lost { at: 0, peer: 1 });
    let lost = lost.expect("the loss is reported");
    assert!(
        received(&arrivals[lost..]).is_empty(),
        "seed {seed}: nothing arrives after the loss was reported"
    );
}
