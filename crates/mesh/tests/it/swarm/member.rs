//! docs/spec/swarm.md, members: a life in order, changes at once, the rest in time.

use super::ROOT;
use crate::samples::{id, key};
use lockstep_base::Digest;
use lockstep_base::part::Part;
use lockstep_base::rng::SplitMix64;
use lockstep_mesh::swarm::directory::{Directory, Limits};
use lockstep_mesh::swarm::limits::{ADDRESS_BYTES_MAX, LEASE_MAX_MS, LEASE_MIN_MS, NEIGHBOURS_MAX};
use lockstep_mesh::swarm::member::{Member, MemberError, Offer, lease_ms};
use lockstep_mesh::swarm::{Announcement, Neighbour, State};

fn offer() -> Offer {
    Offer {
        decode_milli: 1_000_000,
        prefill_milli: 4_000_000,
        free_positions: 1000,
        queue_depth: 0,
        adapters: vec![],
        price_micro: 0,
        addresses: vec!["/ip4/192.0.2.1/tcp/4001".into()],
        relayed: false,
        neighbours: vec![],
        proves: false,
    }
}

fn member() -> Member {
    Member::new(key(1), 1, ROOT, Part::layers(0..4, 12), offer()).unwrap()
}

#[test]
fn a_life_in_order() {
    let mut member = member();
    assert_eq!(member.state(), State::Joining);
    member.online().unwrap();
    assert_eq!(member.online(), Err(MemberError::Step { from: State::Online, to: State::Online }));
    let other = Part::layers(4..8, 12);
    assert_eq!(member.join(other), Err(MemberError::Step { from: State::Online, to: State::Joining }));
    member.drain().unwrap();
    member.online().unwrap();
    member.drain().unwrap();
    assert_eq!(member.drain(), Err(MemberError::Step { from: State::Draining, to: State::Draining }));
    member.join(other).unwrap();
    assert_eq!((member.claims().part, member.state()), (other, State::Joining));
    let nonsense = Part { first_layer: 9, ..other };
    assert!(matches!(member.join(nonsense), Err(MemberError::Announcement(_))));
    assert_eq!(member.claims().part, other, "what cannot be said changes nothing");
}

#[test]
fn changes_are_said_at_once_and_the_rest_in_time() {
    let mut member = member();
    let first = member.tick(0, 10, 0).unwrap();
    assert_eq!(first.claims().state, State::Joining);
    member.online().unwrap();
    assert!(member.tick(1_999, 10, 0).is_none(), "two seconds lie between two announcements");
    let second = member.tick(2_000, 10, 0).unwrap();
    assert_eq!((second.claims().state, second.claims().sequence), (State::Online, 2));
    // A longer queue waits for the next regular announcement, 7/8 to 9/8 of 30 s later; a price does not.
    member.offer(Offer { queue_depth: 9, ..offer() }).unwrap();
    assert!(member.tick(2_000 + 26_249, 10, u64::MAX).is_none());
    assert_eq!(member.tick(2_000 + 26_250, 10, u64::MAX).unwrap().claims().queue_depth, 9);
    assert!(member.tick(28_250 + 33_749, 10, 0).is_none());
    assert!(member.tick(28_250 + 33_750, 10, 0).is_some());
    member.offer(Offer { price_micro: 5, ..offer() }).unwrap();
    assert_eq!(member.tick(70_000, 10, 0).unwrap().claims().price_micro, 5);
}

#[test]
fn what_is_too_much_is_left_out() {
    let neighbours = (2..40).map(|n| Neighbour { node: id(n), rtt_us: 1000 - u32::from(n) }).collect();
    let adapters = (0..200).map(|n| Digest([n; 32])).collect();
    let mut member = member();
    member
        .offer(Offer { neighbours, adapters, decode_milli: 0, prefill_milli: u64::MAX, ..offer() })
        .unwrap();
    let said = member.tick(0, 1, 0).unwrap();
    assert_eq!((said.claims().neighbours.len(), said.claims().adapters.len()), (NEIGHBOURS_MAX, 64));
    assert!(said.claims().neighbours.iter().all(|n| n.rtt_us <= 1000 - 24), "the nearest ones are told");
    assert_eq!(Announcement::parse(said.bytes()), Ok(said));
    let long = Offer { addresses: vec!["x".repeat(ADDRESS_BYTES_MAX + 1)], ..offer() };
    assert!(matches!(member.offer(long), Err(MemberError::Announcement(_))));
}

/// A good-bye is forgotten within the shortest lease, and nothing is said after it.
#[test]
fn a_good_bye() {
    let mut known = Directory::new(Limits::default());
    let mut member = member();
    known.hear(0, member.tick(0, 1, 0).unwrap().bytes()).unwrap();
    member.leave();
    let bye = member.tick(5_000, 1, 0).unwrap();
    assert_eq!((bye.claims().state, bye.claims().lease_ms), (State::Draining, LEASE_MIN_MS));
    known.hear(5_000, bye.bytes()).unwrap();
    assert_eq!(known.tick(5_000 + u64::from(LEASE_MIN_MS)).len(), 1);
    assert!(member.tick(1_000_000, 1, 0).is_none());
}

/// Two of three announcements may be lost, and nobody hears more than 6,000 announcements a minute from 20,000 members.
#[test]
fn leases_grow_with_the_swarm() {
    assert_eq!((lease_ms(0), lease_ms(3_000), lease_ms(10_000)), (90_000, 90_000, 300_000));
    assert_eq!((lease_ms(20_000), lease_ms(usize::MAX)), (LEASE_MAX_MS, LEASE_MAX_MS));
    let mut rng = SplitMix64::new(1);
    for members in [1, 5_000, 20_000] {
        let mut member = member();
        let mut said = Vec::new();
        for now_ms in (0..3_600_000).step_by(1_000) {
            said.extend(member.tick(now_ms, members, rng.next_u64()).map(|_| now_ms));
        }
        let lease = u64::from(lease_ms(members));
        assert!(said.windows(3).all(|three| three[2] - three[0] < lease), "{members} members: {said:?}");
        let per_minute = members * said.len() / 60;
        assert!(per_minute <= 6_100, "{members} members: {per_minute} announcements a minute");
    }
}
