//! docs/spec/swarm.md, the directory: leases, replays, floods, coverage.

use super::{LAYERS, ROOT, claims, many_key, sign};
use crate::samples::{cases, id, key};
use lockstep_base::Digest;
use lockstep_mesh::swarm::directory::{Directory, HearError, Limits, News};
use lockstep_mesh::swarm::{Claims, State};
use proptest::collection::vec;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn directory() -> Directory {
    Directory::new(Limits::default())
}

/// Small limits, so that tests meet them.
fn small() -> Limits {
    Limits { entries: 8, model_entries: 6, node_models: 2, node_per_minute: 4, ended: 4, ..Limits::default() }
}

fn hear(directory: &mut Directory, now_ms: u64, claims: Claims, n: u8) -> Result<News, HearError> {
    directory.hear(now_ms, sign(claims, &key(n)).bytes())
}

#[test]
fn the_newest_counts() {
    let mut known = directory();
    assert_eq!(hear(&mut known, 0, claims(&key(1), 0..4, 5), 1), Ok(News::New));
    assert_eq!(hear(&mut known, 0, claims(&key(1), 0..4, 6), 1), Ok(News::Renewed));
    assert_eq!(hear(&mut known, 0, claims(&key(1), 4..8, 7), 1), Ok(News::Changed));
    for (start, sequence) in [(1, 7), (1, 6), (0, 9)] {
        let old = Claims { start, ..claims(&key(1), 0..4, sequence) };
        let error = hear(&mut known, 0, old, 1).unwrap_err();
        assert_eq!(error, HearError::Old { node: id(1), got: (start, sequence), known: (1, 7) });
        assert!(!error.hostile());
    }
    // A restart begins again.
    let restarted = Claims { start: 2, state: State::Joining, ..claims(&key(1), 4..8, 0) };
    assert_eq!(hear(&mut known, 0, restarted, 1), Ok(News::Changed));
    assert_eq!(known.get(&ROOT, &id(1)).unwrap().claims().order(), (2, 0));
}

/// A lease counts from when it is heard, whatever the sender's clock says; what ended cannot be said again.
#[test]
fn ghosts_expire_and_stay_away() {
    let mut known = directory();
    let last = Claims { start: u64::MAX, ..claims(&key(1), 0..4, 1) };
    let recorded = sign(last, &key(1));
    known.hear(1_000, recorded.bytes()).unwrap();
    hear(&mut known, 1_000, claims(&key(2), 4..8, 1), 2).unwrap();
    assert_eq!(known.tick(90_999).len(), 0);
    hear(&mut known, 90_999, claims(&key(2), 4..8, 2), 2).unwrap();
    let gone = known.tick(91_000);
    assert_eq!(gone.iter().map(|gone| gone.claims().node).collect::<Vec<_>>(), [id(1)]);
    assert_eq!(known.len(), 1);
    let replay = known.hear(91_001, recorded.bytes());
    assert!(matches!(replay, Err(HearError::Old { .. })), "{replay:?}");
    assert_eq!(known.for_model(&ROOT).count(), 1);
    assert_eq!((known.tick(u64::MAX).len(), known.bytes()), (1, 0));
}

#[test]
fn a_forged_announcement_is_hostile_and_leaves_no_trace() {
    let mut known = directory();
    let mut bytes = sign(claims(&key(1), 0..4, 5), &key(1)).bytes().to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    let error = known.hear(0, &bytes).unwrap_err();
    assert!(error.hostile(), "{error}");
    assert!(known.is_empty());
    assert_eq!(hear(&mut known, 0, claims(&key(1), 0..4, 1), 1), Ok(News::New));
}

#[test]
fn who_says_too_much_is_not_heard() {
    let mut known = Directory::new(small());
    for sequence in 0..4 {
        hear(&mut known, 1_000, claims(&key(1), 0..4, sequence), 1).unwrap();
    }
    let error = hear(&mut known, 60_999, claims(&key(1), 0..4, 9), 1).unwrap_err();
    assert_eq!(error, HearError::Rate { node: id(1), got: 5, limit: 4 });
    // Others are heard, and the node itself a minute after it began.
    hear(&mut known, 60_999, claims(&key(2), 0..4, 9), 2).unwrap();
    hear(&mut known, 61_000, claims(&key(1), 0..4, 10), 1).unwrap();
    // Models of one node.
    let other = |n| Claims { model_root: Digest([n; 32]), ..claims(&key(2), 0..4, 1) };
    hear(&mut known, 61_000, other(1), 2).unwrap();
    let error = hear(&mut known, 61_000, other(2), 2).unwrap_err();
    assert_eq!(error, HearError::Models { node: id(2), got: 3, limit: 2 });
}

/// A flood of new names finds the old ones in their places, and what is followed pushes others out.
#[test]
fn a_flood_displaces_nobody_who_was_there() {
    let mut known = Directory::new(small());
    for n in 1..=6 {
        hear(&mut known, n.into(), claims(&key(n), 0..4, 1), n).unwrap();
    }
    for n in 0..50 {
        let error = known.hear(100, sign(claims(&many_key(n), 0..4, 1), &many_key(n)).bytes()).unwrap_err();
        assert!(matches!(error, HearError::Full { limit: 6, .. }), "{error}");
    }
    // Another model, followed by nobody: two places are left, then it is full.
    let elsewhere = |n: u32| Claims { model_root: Digest([1; 32]), ..claims(&many_key(n), 0..4, 1) };
    let flood = |known: &mut Directory, n| known.hear(200, sign(elsewhere(n), &many_key(n)).bytes());
    assert_eq!((flood(&mut known, 100), flood(&mut known, 101)), (Ok(News::New), Ok(News::New)));
    assert!(matches!(flood(&mut known, 102), Err(HearError::Full { limit: 8, .. })));
    // The old ones are heard again in a full directory.
    assert_eq!(hear(&mut known, 300, claims(&key(1), 0..4, 2), 1), Ok(News::Renewed));
    // A followed model makes room among the others: first those that served nobody and came last.
    let followed = Digest([2; 32]);
    known.follow(followed);
    known.served(&ROOT, &id(6));
    let mine = |n: u32| Claims { model_root: followed, ..claims(&many_key(n), 0..4, 1) };
    for n in 200..203 {
        known.hear(400, sign(mine(n), &many_key(n)).bytes()).unwrap();
    }
    let left: Vec<bool> = (1..=6).map(|n| known.get(&ROOT, &id(n)).is_some()).collect();
    assert_eq!(left, [true, true, true, true, false, true]);
    assert_eq!((known.len(), known.models()[&followed]), (8, 3));
}

#[test]
fn bytes_are_limited() {
    let one = sign(claims(&key(1), 0..4, 1), &key(1)).bytes().len();
    let mut known = Directory::new(Limits { bytes: 2 * one + 40, ..Limits::default() });
    hear(&mut known, 0, claims(&key(1), 0..4, 1), 1).unwrap();
    hear(&mut known, 1, claims(&key(2), 0..4, 1), 2).unwrap();
    let full = |result| matches!(result, Err(HearError::Full { .. }));
    assert!(full(hear(&mut known, 2, claims(&key(3), 0..4, 1), 3)));
    assert_eq!(hear(&mut known, 2, claims(&key(2), 0..4, 2), 2), Ok(News::Renewed));
    // Who grows makes others go who are known for a shorter time, not the other way round.
    let adapters = vec![Digest([5; 32]), Digest([6; 32])];
    let grown = |n| Claims { adapters: adapters.clone(), ..claims(&key(n), 0..4, 3) };
    assert!(full(hear(&mut known, 3, grown(2), 2)));
    assert_eq!((known.len(), known.bytes()), (2, 2 * one));
    assert_eq!(hear(&mut known, 3, grown(1), 1), Ok(News::Renewed));
    assert_eq!((known.len(), known.get(&ROOT, &id(2)).is_none()), (1, true));
}

#[test]
fn coverage_counts_who_serves_what() {
    let mut known = directory();
    let state = |n: u8, range, state| Claims { state, ..claims(&key(n), range, 1) };
    hear(&mut known, 0, state(1, 0..4, State::Online), 1).unwrap();
    hear(&mut known, 0, state(2, 2..6, State::Online), 2).unwrap();
    hear(&mut known, 0, state(3, 6..8, State::Joining), 3).unwrap();
    hear(&mut known, 0, state(4, 10..12, State::Draining), 4).unwrap();
    // A part beyond the model counts for nothing.
    hear(
        &mut known,
        0,
        Claims { part: lockstep_base::part::Part::layers(8..14, 14), ..claims(&key(5), 0..4, 1) },
        5,
    )
    .unwrap();
    let coverage = known.coverage(&ROOT, LAYERS);
    assert_eq!(coverage.holes(), vec![6..12]);
    assert!(!coverage.complete());
    assert_eq!(
        (coverage.embeds, coverage.heads, coverage.replicas(), coverage.weakest_milli()),
        (1, 0, 0, 0)
    );
    // 1,000,000 milli-tokens per second through one layer, over four layers, twice.
    assert_eq!((coverage.blocks[3].online, coverage.blocks[3].rate_milli), (2, 500_000));
    assert_eq!((coverage.blocks[7].joining, coverage.blocks[7].rate_milli), (1, 500_000));
    assert_eq!((coverage.blocks[11].draining, coverage.blocks[11].rate_milli), (1, 0));
    hear(&mut known, 0, state(6, 6..12, State::Online), 6).unwrap();
    assert!(known.coverage(&ROOT, LAYERS).complete());
}

proptest! {
    #![proptest_config(cases(64))]

    /// Whatever is heard in whatever order: the directory is what a plain list of the newest ones is, within its limits.
    #[test]
    fn the_directory_is_the_newest_of_everybody(
        heard in vec((1u8..6, 0u64..6, 0u64..20_000, 1u32..4), 1..40)
    ) {
        let mut known = directory();
        let mut plain: BTreeMap<u8, (u64, u64)> = BTreeMap::new();
        let mut last: BTreeMap<u8, u64> = BTreeMap::new();
        let mut now_ms = 0;
        for (n, sequence, wait_ms, lease) in heard {
            now_ms += wait_ms;
            known.tick(now_ms);
            plain.retain(|_, (_, end)| *end > now_ms);
            let lease_ms = lease * 10_000;
            let result = hear(&mut known, now_ms, Claims { lease_ms, ..claims(&key(n), 0..4, sequence) }, n);
            let later = last.get(&n).is_none_or(|known| sequence > *known);
            prop_assert_eq!(result.is_ok(), later);
            if later {
                last.insert(n, sequence);
                plain.insert(n, (sequence, now_ms + u64::from(lease_ms)));
            }
            let got: BTreeMap<_, _> = known.iter().map(|e| (e.claims().node, (e.claims().sequence, e.ends_ms))).collect();
            prop_assert_eq!(got, plain.iter().map(|(n, entry)| (id(*n), *entry)).collect());
            prop_assert_eq!(known.bytes(), known.iter().map(|e| e.announcement.bytes().len()).sum::<usize>());
        }
    }
}
