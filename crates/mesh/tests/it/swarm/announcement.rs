//! docs/spec/swarm.md, announcements: one encoding, limits by name, nobody speaks for anybody else.

use super::{ROOT, claims, samples, sign};
use crate::golden;
use crate::samples::{cases, id, key};
use lockstep_base::Digest;
use lockstep_base::cbor::CborError;
use lockstep_base::digest::{hex, unhex};
use lockstep_base::part::Part;
use lockstep_mesh::swarm::limits::{ADDRESS_BYTES_MAX, ANNOUNCEMENT_BYTES_MAX, LEASE_MAX_MS, RTT_MAX_US};
use lockstep_mesh::swarm::{Announcement, AnnouncementError, Claims, Coordinate, Neighbour};
use proptest::collection::vec;
use proptest::prelude::*;
use std::fmt::Write;

#[test]
fn golden_vectors() {
    let mut text = String::from("# name announcement\n");
    for (name, announcement) in samples() {
        writeln!(text, "{name} {}", hex(announcement.bytes())).expect("a String");
    }
    golden::check("swarm.txt", &text);
    for line in text.lines().skip(1) {
        let bytes = unhex(line.split_once(' ').expect("name and bytes").1).expect("hexadecimal");
        assert_eq!(Announcement::parse(&bytes).map(|a| a.bytes().to_vec()), Ok(bytes));
    }
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn garbage_is_no_announcement(bytes in vec(any::<u8>(), 0..400)) {
        prop_assert!(Announcement::parse(&bytes).is_err());
    }

    /// One changed byte anywhere: other claims that nobody signed, or another signer, or no announcement at all.
    #[test]
    fn a_changed_byte_is_found(which in 0usize..4, at: prop::sample::Index, change in 1u8..) {
        let mut bytes = samples().swap_remove(which).1.bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        prop_assert!(Announcement::parse(&bytes).is_err());
    }

    #[test]
    fn a_cut_or_longer_one_is_refused(which in 0usize..4, at: prop::sample::Index, tail in vec(any::<u8>(), 1..5)) {
        let bytes = samples().swap_remove(which).1.bytes().to_vec();
        prop_assert!(Announcement::parse(&bytes[..at.index(bytes.len())]).is_err());
        prop_assert!(Announcement::parse(&[bytes, tail].concat()).is_err());
    }
}

#[test]
fn nobody_speaks_for_anybody_else() {
    let error = Announcement::sign(claims(&key(1), 0..4, 1), &key(2)).unwrap_err();
    assert_eq!(error, AnnouncementError::Signer { got: Some(id(2)), expected: id(1) });
    // The signature of another announcement of the same node.
    let (one, two) = (sign(claims(&key(1), 0..4, 1), &key(1)), sign(claims(&key(1), 0..4, 2), &key(1)));
    let mut bytes = two.bytes().to_vec();
    let signature = bytes.len() - 64;
    bytes[signature..].copy_from_slice(&one.bytes()[one.bytes().len() - 64..]);
    let error = Announcement::parse(&bytes).unwrap_err();
    assert!(matches!(error, AnnouncementError::Signer { expected, .. } if expected == id(1)), "{error}");
}

#[test]
fn limits_are_named() {
    let base = || claims(&key(1), 0..4, 1);
    let neighbour = |n, rtt_us| Neighbour { node: id(n), rtt_us };
    let cases: Vec<(Claims, &str)> = vec![
        (Claims { version: 2, ..base() }, "of version 2, expected 1"),
        (Claims { lease_ms: 0, ..base() }, "lease of an announcement is 0, expected at least 1000"),
        (Claims { lease_ms: LEASE_MAX_MS + 1, ..base() }, "lease of an announcement is 600001"),
        (Claims { decode_milli: 0, ..base() }, "decode rate of an announcement is 0"),
        (
            Claims { prefill_milli: u64::MAX, ..base() },
            "prefill rate of an announcement is 18446744073709551615",
        ),
        (
            Claims { adapters: (0..65).map(|n| Digest([n; 32])).collect(), ..base() },
            "adapters of an announcement is 65",
        ),
        (Claims { addresses: vec!["x".into(); 9], ..base() }, "addresses of an announcement is 9"),
        (
            Claims { addresses: vec!["x".repeat(ADDRESS_BYTES_MAX + 1)], ..base() },
            "an address of an announcement is 257",
        ),
        (Claims { addresses: vec!["x".into(), String::new()], ..base() }, "address 1 of an announcement"),
        (Claims { addresses: vec!["\u{1b}[2J".into()], ..base() }, "address 0 of an announcement"),
        (
            Claims { neighbours: vec![neighbour(2, RTT_MAX_US + 1)], ..base() },
            "a round trip of an announcement is 60000001",
        ),
        (Claims { neighbours: vec![neighbour(1, 5)], ..base() }, "round trip to itself"),
        (
            Claims {
                coordinate: Some(Coordinate { error_permille: 1001, ..Coordinate::unknown(0) }),
                ..base()
            },
            "an announcement lies at",
        ),
        (
            Claims { neighbours: (2..19).map(|n| neighbour(n, 1)).collect(), ..base() },
            "neighbours of an announcement is 17",
        ),
    ];
    for (claims, expected) in cases {
        let text = Announcement::sign(claims, &key(1)).unwrap_err().to_string();
        assert!(text.contains(expected), "got {text:?}, expected {expected:?}");
    }
}

#[test]
fn parts_that_no_model_has_are_refused() {
    let whole = Part::whole(12);
    let parts = [
        Part { first_layer: 5, end_layer: 4, embed: false, ..whole },
        Part { end_layer: 301, ..whole },
        Part { first_layer: 3, end_layer: 3, embed: false, head: false, ..whole },
        Part { first_layer: 1, ..whole },
        Part { shard: 1, ..whole },
        Part { shards: 0, ..whole },
    ];
    for part in parts {
        let error = Announcement::sign(Claims { part, ..claims(&key(1), 0..4, 1) }, &key(1)).unwrap_err();
        assert_eq!(error, AnnouncementError::Part { part });
    }
    let embedding_alone = Part { end_layer: 0, head: false, ..whole };
    assert!(
        Announcement::sign(Claims { part: embedding_alone, ..claims(&key(1), 0..4, 1) }, &key(1)).is_ok()
    );
}

/// Lists out of order would be a second encoding of the same claims; signing puts them in order.
#[test]
fn lists_are_in_one_order() {
    let adapters = vec![Digest([9; 32]), Digest([8; 32]), Digest([9; 32])];
    let mut signed = sign(Claims { adapters, ..claims(&key(1), 0..4, 1) }, &key(1)).bytes().to_vec();
    let read = Announcement::parse(&signed).unwrap();
    assert_eq!(read.claims().adapters, [Digest([8; 32]), Digest([9; 32])]);
    let at = signed.windows(32).position(|window| window == [8; 32]).unwrap();
    let (before, after) = signed.split_at_mut(at + 34);
    before[at..at + 32].swap_with_slice(&mut after[..32]);
    let error = Announcement::parse(&signed).unwrap_err();
    assert_eq!(error, AnnouncementError::Order { field: "adapters", index: 1 });
}

/// What is too long is refused before it is read, a long form of a number by its encoding, a hostile length costs no memory.
#[test]
fn sizes_are_not_believed() {
    let limit = ANNOUNCEMENT_BYTES_MAX;
    let error = Announcement::parse(&vec![0; limit + 1]).unwrap_err();
    assert_eq!(error, AnnouncementError::Size { got: limit + 1, limit });
    let honest = sign(claims(&key(1), 0..4, 1), &key(1)).bytes().to_vec();
    // [[1, …: version 1 as a two-byte integer.
    assert_eq!(honest[..4], [0x82, 0x92, 0x01, 0x54]);
    let long = [&honest[..2], &[0x18, 1], &honest[3..]].concat();
    let error = Announcement::parse(&long).unwrap_err();
    assert!(matches!(error, AnnouncementError::Cbor(CborError::NotCanonical { .. })), "{error}");
    // An array of 2^32 - 1 neighbours, adapters or addresses where anything else is expected.
    for at in 2..honest.len() - 66 {
        let mut hostile = honest.clone();
        hostile.splice(at..=at, [0x9a, 0xff, 0xff, 0xff, 0xff]);
        assert!(Announcement::parse(&hostile).is_err());
    }
}

/// The fullest announcement fits.
#[test]
fn the_fullest_fits() {
    let full = Claims {
        part: Part { shard: u16::MAX - 1, shards: u16::MAX, ..Part::whole(300) },
        start: u64::MAX,
        sequence: u64::MAX,
        lease_ms: LEASE_MAX_MS,
        decode_milli: 1_000_000_000_000,
        prefill_milli: 1_000_000_000_000,
        free_positions: u64::MAX,
        queue_depth: u32::MAX,
        adapters: (0..64).map(|n| Digest([n; 32])).collect(),
        price_micro: u64::MAX,
        addresses: vec!["x".repeat(ADDRESS_BYTES_MAX); 8],
        neighbours: (2..18).map(|n| Neighbour { node: id(n), rtt_us: RTT_MAX_US }).collect(),
        model_root: ROOT,
        ..claims(&key(1), 0..4, 1)
    };
    let bytes = sign(full, &key(1)).bytes().len();
    assert!((4500..ANNOUNCEMENT_BYTES_MAX).contains(&bytes), "{bytes} bytes");
}
