//! A node whose neighbour is lost: what left the stage is kept, and goes to whoever takes the place (protocol.md, 5 and 7).

use crate::node::{
    BEFORE, NEXT, OWNER, STRANGER, TOY, drive, fault, feed, middle, node, open, opened, rows, say,
};
use crate::samples::id;
use lockstep_base::Digest;
use lockstep_base::keys::NodeId;
use lockstep_base::params::Parameters;
use lockstep_base::part::Part;
use lockstep_mesh::code::Code;
use lockstep_mesh::data::{Batch, Data, Values};
use lockstep_mesh::message::{Message, NextHop, Open};
use lockstep_mesh::node::{Effect, Input, Node, NodeLimits};

const TASK: Digest = Digest([5; 32]);
const OTHER: u8 = 4;

fn resend(next: u8, from: Option<u32>, until: u32) -> Message {
    let next = NextHop { node: id(next), address: "elsewhere".into() };
    Message::Resend { task: TASK, next, from, until }
}

/// Where data go, and their position, count, and first sampled position.
fn sent(effects: &[Effect]) -> Vec<(NodeId, u32, u32, u32)> {
    let batch = |effect: &Effect| match effect {
        Effect::Data { to, data: Data::Batch(batch) } => {
            Some((*to, batch.position, batch.count, batch.sample_from))
        }
        _ => None,
    };
    effects.iter().filter_map(batch).collect()
}

/// All values that went to `node`, in order.
fn values(effects: &[Effect], node: u8) -> Vec<i32> {
    let rows = |effect: &Effect| match effect {
        Effect::Data { to, data: Data::Batch(Batch { values: Values::Rows(rows), .. }) }
            if *to == id(node) =>
        {
            rows.clone()
        }
        _ => Vec::new(),
    };
    effects.iter().flat_map(rows).collect()
}

fn lose(node: &mut Node, peer: u8) -> Vec<Effect> {
    drive(node, 0, Input::PeerLost { peer: id(peer) })
}

/// The one report of a loss in `effects`.
fn lost(effects: &[Effect]) -> (NodeId, Code) {
    match effects {
        [Effect::Message { to, message: Message::Lost { task: TASK, peer, code } }] if *to == id(OWNER) => {
            (*peer, *code)
        }
        other => panic!("expected a report, got {other:?}"),
    }
}

/// Law: nothing goes to a lost node; the task goes on, and the next order sends everything again, in frames as long as frames may be.
#[test]
fn what_left_is_sent_again() {
    let mut node = middle();
    opened(&mut node, open(5));
    let mut first = feed(&mut node, BEFORE, rows(5, 0, 100));
    first.extend(feed(&mut node, BEFORE, rows(5, 100, 60)));
    assert_eq!(sent(&first), [(id(NEXT), 0, 100, 100), (id(NEXT), 100, 60, 160)]);
    assert_eq!(lost(&lose(&mut node, NEXT)), (id(NEXT), Code::PeerLost));
    let meanwhile = feed(&mut node, BEFORE, rows(5, 160, 2));
    assert_eq!(sent(&meanwhile), [], "held");
    assert_eq!(node.tasks_open(), 1);

    let again = say(&mut node, OWNER, resend(OTHER, Some(0), 150));
    assert_eq!(again[0], Effect::Connect { node: id(OTHER), address: "elsewhere".into() });
    assert_eq!(sent(&again), [(id(OTHER), 0, 128, 128), (id(OTHER), 128, 22, 150)]);
    let rest = say(&mut node, OWNER, resend(OTHER, None, u32::MAX));
    assert_eq!(sent(&rest), [(id(OTHER), 150, 12, 162)]);
    let all = [again, rest].concat();
    assert_eq!(values(&all, OTHER)[..160 * 4], values(&first, NEXT), "the same rows");
    let live = feed(&mut node, BEFORE, rows(5, 162, 1));
    assert_eq!(sent(&live), [(id(OTHER), 162, 1, 163)], "and it goes on");
}

/// Law: the last stage samples where it sampled the first time: no frame has a sampled position in front of one that is not.
#[test]
fn sampled_positions_stay_what_they_are() {
    let mut node = middle();
    opened(&mut node, open(5));
    for (position, count, sample_from) in [(0, 40, 39), (40, 1, 40), (41, 3, 44), (44, 1, 44)] {
        let Data::Batch(batch) = rows(5, position, count) else { unreachable!("rows") };
        feed(&mut node, BEFORE, Data::Batch(Batch { sample_from, ..batch }));
    }
    let again = say(&mut node, OWNER, resend(OTHER, Some(0), u32::MAX));
    assert_eq!(sent(&again), [(id(OTHER), 0, 41, 39), (id(OTHER), 41, 4, 44)]);
}

/// Law: a stage that takes another one's place keeps what it computes until it is told where to go on.
#[test]
fn a_held_stage_says_nothing() {
    let mut node = middle();
    opened(&mut node, Open { held: true, ..open(5) });
    assert_eq!(sent(&feed(&mut node, BEFORE, rows(5, 0, 30))), []);
    // The next stage knows 20 of them.
    let order = say(&mut node, OWNER, resend(NEXT, Some(20), u32::MAX));
    assert_eq!(sent(&order), [(id(NEXT), 20, 10, 30)]);
    // Or more than was computed here again.
    let order = say(&mut node, OWNER, resend(NEXT, Some(33), u32::MAX));
    assert_eq!(sent(&order), []);
    assert_eq!(sent(&feed(&mut node, BEFORE, rows(5, 30, 6))), [(id(NEXT), 33, 3, 36)]);
}

/// Law: after a rewiring, data come from the new node alone, and what arrived already may come again.
#[test]
fn data_come_from_the_new_node() {
    let mut node = middle();
    opened(&mut node, open(5));
    feed(&mut node, BEFORE, rows(5, 0, 40));
    assert_eq!(lost(&lose(&mut node, BEFORE)), (id(BEFORE), Code::PeerLost));
    let rewired = say(&mut node, OWNER, Message::Rewire { task: TASK, previous: id(OTHER) });
    let message = Message::Rewired { task: TASK, previous: id(OTHER), received: 40 };
    assert_eq!(rewired, [Effect::Message { to: id(OWNER), message }]);
    let refused = feed(&mut node, BEFORE, rows(5, 40, 1));
    assert_eq!((fault(&refused).0, fault(&refused).1.code), (id(BEFORE), Code::NotAllowed));
    assert_eq!(sent(&feed(&mut node, OTHER, rows(5, 0, 40))), [], "all of it is known");
    assert_eq!(sent(&feed(&mut node, OTHER, rows(5, 30, 12))), [(id(NEXT), 40, 2, 42)]);
    let gap = feed(&mut node, OTHER, rows(5, 43, 1));
    assert_eq!(fault(&gap).1.code, Code::Position);
}

/// Law: a next stage that forgot the task is a lost one; one that refuses what it was sent ends the task.
#[test]
fn a_next_stage_that_forgot_is_lost() {
    for (code, goes_on) in [(Code::UnknownTask, true), (Code::Busy, true), (Code::Shape, false)] {
        let mut node = middle();
        opened(&mut node, open(5));
        let fault_of = |code| lockstep_mesh::message::Fault::new(Some(TASK), code, None, "no");
        assert_eq!(say(&mut node, STRANGER, Message::Error(fault_of(code))), [], "nobody asked");
        let effects = say(&mut node, NEXT, Message::Error(fault_of(code)));
        if goes_on {
            assert_eq!(lost(&effects), (id(NEXT), code));
        } else {
            assert_eq!((fault(&effects).1.code, fault(&effects).1.stage), (code, Some(2)));
        }
        assert_eq!(node.tasks_open(), usize::from(goes_on), "{code:?}");
    }
}

/// Law: orders are the owner's, about a stage that sends something on, and about no more than a window at once.
#[test]
fn bad_orders_are_refused() {
    let mut node = middle();
    opened(&mut node, Open { positions: 600, ..open(5) });
    for position in (0..600).step_by(100) {
        feed(&mut node, BEFORE, rows(5, position, 100));
    }
    let rewire = Message::Rewire { task: TASK, previous: id(STRANGER) };
    for (from, message, code) in [
        (STRANGER, rewire, Code::NotAllowed),
        (STRANGER, resend(STRANGER, Some(0), 10), Code::NotAllowed),
        (OWNER, resend(OTHER, Some(0), 513), Code::Window),
    ] {
        assert_eq!(fault(&say(&mut node, from, message)).1.code, code);
    }
    assert_eq!(node.tasks_open(), 1, "the task goes on");
    let unknown = Message::Resend {
        task: Digest([6; 32]),
        next: NextHop { node: id(OTHER), address: String::new() },
        from: None,
        until: 0,
    };
    assert_eq!(fault(&say(&mut node, OWNER, unknown)).1.code, Code::UnknownTask);

    let mut last = crate::node::node(Part::layers(4..6, 6), NodeLimits::default());
    let head =
        Open { part: Part::layers(4..6, 6), next: None, parameters: Some(Parameters::greedy(8)), ..open(5) };
    opened(&mut last, head);
    assert_eq!(fault(&say(&mut last, OWNER, resend(OTHER, Some(0), 10))).1.code, Code::Unexpected);
}

/// Law: what is kept is bounded; who has too much forgets what was sent, and says so when it is asked for.
#[test]
fn backups_are_bounded() {
    // 100 rows of 4 values, and a byte for each.
    let limits = NodeLimits { backup_bytes: 1700, ..NodeLimits::default() };
    let mut node = node(Part::layers(2..4, 6), limits);
    opened(&mut node, open(5));
    feed(&mut node, BEFORE, rows(5, 0, 100));
    assert_eq!(node.backup_bytes(), 1700);
    assert_eq!(sent(&feed(&mut node, BEFORE, rows(5, 100, 1))), [(id(NEXT), 100, 1, 101)]);
    assert_eq!(node.backup_bytes(), 0, "of {} layers", TOY.n_layers);
    let refused = say(&mut node, OWNER, resend(OTHER, Some(0), 10));
    assert_eq!(fault(&refused).1.code, Code::NoBackup);
    assert_eq!(sent(&feed(&mut node, BEFORE, rows(5, 101, 1))), [(id(NEXT), 101, 1, 102)], "it goes on");
}
