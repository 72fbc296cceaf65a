//! The swarm: each machine on its own. Whole swarms are in `sim`.

mod announcement;
mod coordinate;
mod directory;
mod member;
mod placement;
mod routing;

use crate::samples::key;
use lockstep_base::Digest;
use lockstep_base::keys::NodeKey;
use lockstep_base::part::Part;
use lockstep_mesh::swarm::limits::SWARM_VERSION;
use lockstep_mesh::swarm::{Announcement, Claims, Coordinate, Neighbour, State};

/// The model of all samples.
const ROOT: Digest = Digest([0x77; 32]);
/// Its layers.
const LAYERS: u32 = 12;

/// Key number `n`, any number of them.
fn many_key(n: u32) -> NodeKey {
    let mut secret = [1; 32];
    secret[28..].copy_from_slice(&(n + 1).to_be_bytes());
    NodeKey::from_bytes(&secret).expect("a small number is a key")
}

/// What `key` says of layers `range`, with nothing special.
fn claims(key: &NodeKey, range: core::ops::Range<u32>, sequence: u64) -> Claims {
    Claims {
        version: SWARM_VERSION,
        node: key.id(),
        model_root: ROOT,
        part: Part::layers(range, LAYERS),
        state: State::Online,
        start: 1,
        sequence,
        lease_ms: 90_000,
        decode_milli: 1_000_000,
        prefill_milli: 5_000_000,
        free_positions: 4096,
        queue_depth: 0,
        adapters: vec![],
        price_micro: 0,
        addresses: vec!["/ip4/192.0.2.1/tcp/4001".into()],
        relayed: false,
        neighbours: vec![],
        proves: false,
        coordinate: None,
    }
}

fn sign(claims: Claims, key: &NodeKey) -> Announcement {
    Announcement::sign(claims, key).expect("claims within the limits")
}

/// One of every kind, for golden vectors.
fn samples() -> Vec<(&'static str, Announcement)> {
    let plain = claims(&key(1), 0..4, 7);
    let full = Claims {
        state: State::Joining,
        start: 1 << 40,
        sequence: 1 << 33,
        queue_depth: 3,
        adapters: vec![Digest([9; 32]), Digest([8; 32])],
        price_micro: 125_000,
        addresses: vec!["/ip4/192.0.2.2/udp/4001/quic-v1".into(), "/dns4/node.example/tcp/4001".into()],
        relayed: true,
        neighbours: vec![
            Neighbour { node: key(1).id(), rtt_us: 250 },
            Neighbour { node: key(3).id(), rtt_us: 90_000 },
        ],
        proves: true,
        coordinate: Some(Coordinate {
            x_us: -5000,
            y_us: 70_000,
            z_us: 0,
            height_us: 900,
            error_permille: 120,
        }),
        ..claims(&key(2), 4..8, 1)
    };
    let leaving = Claims { state: State::Draining, lease_ms: 1000, ..claims(&key(3), 8..12, u64::MAX) };
    let ends = Claims { part: Part::whole(300), addresses: vec![], ..claims(&key(4), 0..1, 0) };
    vec![
        ("plain", sign(plain, &key(1))),
        ("full", sign(full, &key(2))),
        ("leaving", sign(leaving, &key(3))),
        ("whole", sign(ends, &key(4))),
    ]
}
