//! A node alone: what it computes, what it refuses, and what it forgets.

use crate::samples::{id, key};
use lockstep_base::Digest;
use lockstep_base::leaf::TaskSecret;
use lockstep_base::params::Parameters;
use lockstep_base::part::Part;
use lockstep_mesh::code::Code;
use lockstep_mesh::data::{Batch, Data, Values};
use lockstep_mesh::limits::{LEAVES_KEEP_MS, TASK_IDLE_MS};
use lockstep_mesh::message::{Fault, Hello, Message, NextHop, Open};
use lockstep_mesh::node::{Effect, Input, Node, NodeLimits};
use lockstep_mesh::toy::ToyModel;

pub(crate) const TOY: ToyModel = ToyModel { n_layers: 6, d_model: 4, vocab: 100, context: 700 };
pub(crate) const OWNER: u8 = 9;
pub(crate) const BEFORE: u8 = 1;
const SELF: u8 = 2;
pub(crate) const NEXT: u8 = 3;
pub(crate) const STRANGER: u8 = 7;

pub(crate) fn node(part: Part, limits: NodeLimits) -> Node {
    Node::new(TOY.served(part), limits, "test", key(SELF), Box::new(TOY))
}

pub(crate) fn middle() -> Node {
    node(Part::layers(2..4, 6), NodeLimits::default())
}

/// An `Open` that the middle node takes.
pub(crate) fn open(task: u8) -> Open {
    Open {
        task: Digest([task; 32]),
        stage: 1,
        part: Part::layers(2..4, 6),
        model_root: TOY.root(),
        opset: "toy-0".into(),
        secrets: TaskSecret([task; 32]).stage(1),
        parameters_digest: Parameters::greedy(8).digest(),
        parameters: None,
        sampler_seed: Digest::ZERO,
        positions: 600,
        full_trace: true,
        logprobs: None,
        audit_class: Digest::ZERO,
        previous: id(BEFORE),
        next: Some(NextHop { node: id(NEXT), address: "there".into() }),
        adapter: Digest::ZERO,
        provable: false,
        held: false,
    }
}

pub(crate) fn rows(task: u8, position: u32, count: u32) -> Data {
    let values = Values::Rows((0..count * 4).map(|i| (position * 4 + i) as i32 * 1000).collect());
    let sample_from = position + count;
    Data::Batch(Batch { task: Digest([task; 32]), branch: 0, position, count, sample_from, values })
}

/// Gives one input and runs all jobs that follow.
pub(crate) fn drive(node: &mut Node, now_ms: u64, input: Input) -> Vec<Effect> {
    let mut effects = node.handle(now_ms, input);
    while let Some(job) = node.take_job() {
        effects.extend(node.handle(now_ms, Input::Done(job.run())));
    }
    effects
}

pub(crate) fn say(node: &mut Node, from: u8, message: Message) -> Vec<Effect> {
    drive(node, 0, Input::Message { from: id(from), message })
}

pub(crate) fn feed(node: &mut Node, from: u8, data: Data) -> Vec<Effect> {
    drive(node, 0, Input::Data { from: id(from), data })
}

pub(crate) fn opened(node: &mut Node, open: Open) {
    let task = open.task;
    let next = open.next.clone();
    let effects = say(node, OWNER, Message::Open(Box::new(open)));
    let mut expected: Vec<Effect> =
        next.into_iter().map(|next| Effect::Connect { node: next.node, address: next.address }).collect();
    expected.push(Effect::Message { to: id(OWNER), message: Message::Opened { task } });
    assert_eq!(effects, expected);
}

/// The one error in `effects`, and to whom it goes.
pub(crate) fn fault(effects: &[Effect]) -> (lockstep_base::keys::NodeId, &Fault) {
    match effects {
        [Effect::Message { to, message: Message::Error(fault) }] => (*to, fault),
        other => panic!("expected one error, got {other:?}"),
    }
}

/// Law: each hostile or mistaken `Open` is refused under its own code, with got and expected.
#[test]
fn bad_opens_are_refused() {
    type Change = fn(&mut Open);
    let cases: [(Code, Change); 10] = [
        (Code::ModelRoot, |open| open.model_root = Digest::ZERO),
        (Code::Opset, |open| open.opset = "lockstep-9".into()),
        (Code::Part, |open| open.part = Part::layers(2..5, 6)),
        (Code::Part, |open| open.part.shards = 2),
        (Code::Adapter, |open| open.adapter = Digest([9; 32])),
        (Code::Context, |open| open.positions = 0),
        (Code::Context, |open| open.positions = 701),
        (Code::Parameters, |open| open.next = None),
        (Code::Parameters, |open| open.parameters = Some(Parameters::greedy(9))),
        (Code::DuplicateTask, |open| open.task = Digest([5; 32])),
    ];
    let mut node = middle();
    opened(&mut node, open(5));
    for (code, change) in cases {
        let mut open = open(6);
        change(&mut open);
        let task = open.task;
        let effects = say(&mut node, STRANGER, Message::Open(Box::new(open)));
        let (to, fault) = fault(&effects);
        assert_eq!((to, fault.code, fault.task), (id(STRANGER), code, Some(task)));
        assert!(fault.text.contains("expected"), "{}", fault.text);
    }
    assert_eq!(node.tasks_open(), 1, "the task that was there is still there");
    let mut last = self::node(Part::layers(4..6, 6), NodeLimits::default());
    let open = Open { part: Part::layers(4..6, 6), next: None, ..open(6) };
    let effects = say(&mut last, OWNER, Message::Open(Box::new(open)));
    assert_eq!(fault(&effects).1.code, Code::Parameters, "the head needs the parameters");
}

/// Law: a node takes neither more tasks nor more positions than it has room for.
#[test]
fn a_full_node_is_busy() {
    for limits in [
        NodeLimits { tasks_max: 2, ..NodeLimits::default() },
        NodeLimits { positions_max: 1799, ..NodeLimits::default() },
    ] {
        let mut node = node(Part::layers(2..4, 6), limits);
        opened(&mut node, open(5));
        opened(&mut node, open(6));
        let effects = say(&mut node, OWNER, Message::Open(Box::new(open(7))));
        assert_eq!(fault(&effects).1.code, Code::Busy);
        say(&mut node, OWNER, Message::Cancel { task: Digest([5; 32]) });
        opened(&mut node, open(7));
    }
}

/// Law: bad data end the task under their own code and blame the stage before.
#[test]
fn bad_data_end_the_task() {
    type Change = fn(&mut Batch);
    let cases: [(Code, Change); 11] = [
        (Code::Branch, |batch| batch.branch = 1),
        (Code::Position, |batch| batch.position = 41),
        (Code::Position, |batch| batch.position = 39),
        (Code::Position, |batch| batch.position = 0),
        (Code::Context, |batch| {
            // The task was opened for 41 positions in this case.
            batch.count = 2;
            batch.values = Values::Rows(vec![0; 8]);
        }),
        (Code::Shape, |batch| batch.values = Values::Rows(vec![0; 5])),
        (Code::Shape, |batch| batch.values = Values::Rows(vec![0; 3])),
        (Code::Shape, |batch| batch.values = Values::Tokens(vec![0])),
        (Code::Range, |batch| batch.values = Values::Rows(vec![0, 0, 1 << 28, 0])),
        (Code::Range, |batch| batch.values = Values::Rows(vec![0, -(1 << 28) - 1, 0, 0])),
        (Code::Range, |batch| batch.values = Values::Rows(vec![i32::MIN, 0, 0, 0])),
    ];
    for (code, change) in cases {
        let mut node = middle();
        opened(&mut node, Open { positions: 41, ..open(5) });
        feed(&mut node, BEFORE, rows(5, 0, 40));
        let Data::Batch(mut batch) = rows(5, 40, 1) else { unreachable!() };
        change(&mut batch);
        let effects = feed(&mut node, BEFORE, Data::Batch(batch));
        let (to, fault) = fault(&effects);
        assert_eq!((to, fault.code, fault.stage), (id(OWNER), code, Some(0)), "{}", fault.text);
        assert!(fault.text.contains("expected"), "{}", fault.text);
        assert_eq!(node.tasks_open(), 0);
        let effects = feed(&mut node, BEFORE, rows(5, 40, 1));
        assert_eq!(self::fault(&effects).1.code, Code::UnknownTask);
    }
}

/// Law: the extreme values inside the range are taken: that of two's complement of 29 bits.
#[test]
fn the_ends_of_the_range_are_in_it() {
    let mut node = middle();
    opened(&mut node, open(5));
    let limit = 1 << 28;
    let values = Values::Rows(vec![limit - 1, -limit, 0, 1]);
    let batch = Batch { task: Digest([5; 32]), branch: 0, position: 0, count: 1, sample_from: 1, values };
    let effects = feed(&mut node, BEFORE, Data::Batch(batch));
    assert!(matches!(effects[..], [Effect::Data { .. }]), "{effects:?}");
}

/// Law: tokens are checked against the vocabulary at the first stage.
#[test]
fn foreign_tokens_are_refused() {
    let mut first = node(Part::layers(0..2, 6), NodeLimits::default());
    let open = Open { part: Part::layers(0..2, 6), stage: 0, previous: id(OWNER), ..open(5) };
    opened(&mut first, open);
    let values = Values::Tokens(vec![99, 100]);
    let batch = Batch { task: Digest([5; 32]), branch: 0, position: 0, count: 2, sample_from: 2, values };
    let effects = feed(&mut first, OWNER, Data::Batch(batch));
    let (_, fault) = fault(&effects);
    assert_eq!((fault.code, fault.stage), (Code::Range, Some(0)));
    assert!(fault.text.contains("token 100 at position 1, expected below 100"), "{}", fault.text);
}

/// Law: more positions than the window are refused while nothing is computed.
#[test]
fn the_window_is_kept() {
    let mut node = middle();
    opened(&mut node, open(5));
    for position in [0, 128, 256, 384] {
        let input = Input::Data { from: id(BEFORE), data: rows(5, position, 128) };
        assert!(node.handle(0, input).is_empty());
    }
    assert_eq!(node.positions_in_flight(), 512);
    let effects = node.handle(0, Input::Data { from: id(BEFORE), data: rows(5, 512, 1) });
    assert_eq!(fault(&effects).1.code, Code::Window);
    assert!(node.take_job().is_none(), "a task that is over has no jobs");
}

/// Law: only the owner and the stage before may speak about a task.
#[test]
fn others_may_not() {
    let mut node = middle();
    opened(&mut node, open(5));
    feed(&mut node, BEFORE, rows(5, 0, 40));
    let task = Digest([5; 32]);
    let messages = [
        Message::Close { task, end: 40 },
        Message::Cancel { task },
        Message::Probe { task },
        Message::LeavesRequest { task, first_token: 0, page: 0 },
    ];
    for message in messages {
        for from in [STRANGER, BEFORE, NEXT] {
            let effects = say(&mut node, from, message.clone());
            let (to, fault) = fault(&effects);
            assert_eq!((to, fault.code), (id(from), Code::NotAllowed), "{message:?}");
        }
    }
    for from in [STRANGER, OWNER, NEXT] {
        for data in [rows(5, 40, 1), Data::Truncate { task, branch: 0, position: 32 }] {
            let effects = feed(&mut node, from, data);
            let (to, fault) = fault(&effects);
            assert_eq!((to, fault.code), (id(from), Code::NotAllowed));
        }
    }
    assert_eq!(node.tasks_open(), 1, "none of that ended the task");
}

/// Law: what a node has no use for is answered, not obeyed.
#[test]
fn unexpected_messages_are_answered() {
    let mut node = middle();
    let task = Digest([5; 32]);
    let cases = [
        (Message::Opened { task }, Code::Unexpected),
        (Message::Closed { task }, Code::Unexpected),
        (Message::Progress { task, computed: 0, received: 0 }, Code::Unexpected),
        (Message::Close { task, end: 0 }, Code::UnknownTask),
        (Message::Probe { task }, Code::UnknownTask),
        (Message::LeavesRequest { task, first_token: 0, page: 0 }, Code::NoLeaves),
        (Message::Hello(Hello { versions: vec![7], agent: String::new() }), Code::Version),
    ];
    for (message, code) in cases {
        let effects = say(&mut node, STRANGER, message.clone());
        assert_eq!(fault(&effects).1.code, code, "{message:?}");
    }
    // Errors and late cancels are never answered, or two peers could answer each other for ever.
    let silent = [Message::Cancel { task }, Message::Error(Fault::new(Some(task), Code::Busy, None, ""))];
    for message in silent {
        assert!(say(&mut node, STRANGER, message).is_empty());
    }
    let hello = Message::Hello(Hello { versions: vec![7, 1], agent: String::new() });
    let effects = say(&mut node, STRANGER, hello);
    let [Effect::Message { message: Message::Info(info), .. }] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!((info.node(), info.part), (Some(id(SELF)), Part::layers(2..4, 6)));
}

/// Law: going back and forth inside the unsigned span leaves no trace in data or receipts.
#[test]
fn truncation_leaves_no_trace() {
    let straight = {
        let mut node = middle();
        opened(&mut node, open(5));
        let mut effects = feed(&mut node, BEFORE, rows(5, 0, 60));
        effects.extend(feed(&mut node, BEFORE, rows(5, 60, 30)));
        effects.extend(say(&mut node, OWNER, Message::Close { task: Digest([5; 32]), end: 90 }));
        effects
    };
    let mut node = middle();
    opened(&mut node, open(5));
    let task = Digest([5; 32]);
    let truncate = |position| Data::Truncate { task, branch: 0, position };
    let mut effects = feed(&mut node, BEFORE, rows(5, 0, 60));
    // Other values from 45 on, which are then taken back.
    for position in [45, 40, 32] {
        let passed_on = feed(&mut node, BEFORE, truncate(position));
        assert_eq!(passed_on, [Effect::Data { to: id(NEXT), data: truncate(position) }]);
        let Data::Batch(mut batch) = rows(5, position, 10) else { unreachable!() };
        batch.values = Values::Rows(vec![position as i32 + 1; 40]);
        feed(&mut node, BEFORE, Data::Batch(batch));
    }
    feed(&mut node, BEFORE, truncate(32));
    feed(&mut node, BEFORE, rows(5, 32, 28));
    effects.extend(feed(&mut node, BEFORE, rows(5, 60, 30)));
    effects.extend(say(&mut node, OWNER, Message::Close { task, end: 90 }));
    assert_eq!(effects, straight);
}

/// Law: what was signed, and what is not there yet, cannot be truncated to.
#[test]
fn truncation_stops_at_what_is_signed() {
    for position in [0, 31, 71] {
        let mut node = middle();
        opened(&mut node, open(5));
        feed(&mut node, BEFORE, rows(5, 0, 70));
        let effects = feed(&mut node, BEFORE, Data::Truncate { task: Digest([5; 32]), branch: 0, position });
        let (_, fault) = fault(&effects);
        assert_eq!(fault.code, Code::Truncate);
        assert!(fault.text.contains("expected 64 to 70"), "{}", fault.text);
    }
}

/// Law: a cancel overtakes: the result of a job that was out is dropped, and the id is not reused.
#[test]
fn a_cancel_overtakes_data() {
    let mut node = middle();
    opened(&mut node, open(5));
    for position in [0, 64] {
        node.handle(0, Input::Data { from: id(BEFORE), data: rows(5, position, 64) });
    }
    let job = node.take_job().expect("there is work");
    assert!(node.take_job().is_none(), "one job a task at a time");
    say(&mut node, OWNER, Message::Cancel { task: Digest([5; 32]) });
    assert!(node.handle(0, Input::Done(job.run())).is_empty());
    assert_eq!((node.tasks_open(), node.leaf_bytes()), (0, 0));
    let effects = say(&mut node, OWNER, Message::Open(Box::new(open(5))));
    assert_eq!(fault(&effects).1.code, Code::DuplicateTask);
}

/// Law: a close that comes before the last data waits for them.
#[test]
fn a_close_waits_for_data_in_flight() {
    let mut node = middle();
    opened(&mut node, open(5));
    feed(&mut node, BEFORE, rows(5, 0, 10));
    let task = Digest([5; 32]);
    assert!(say(&mut node, OWNER, Message::Close { task, end: 12 }).is_empty());
    let effects = feed(&mut node, BEFORE, rows(5, 10, 2));
    let closed = Effect::Message { to: id(OWNER), message: Message::Closed { task } };
    assert_eq!(effects.last(), Some(&closed));
    assert_eq!(node.tasks_open(), 0);
}

/// Law: a job whose worker was lost ends its task with an error.
#[test]
fn a_lost_worker_is_an_error() {
    let mut node = middle();
    opened(&mut node, open(5));
    node.handle(0, Input::Data { from: id(BEFORE), data: rows(5, 0, 1) });
    let job = node.take_job().expect("there is work");
    let effects = node.handle(0, Input::Done(lockstep_mesh::work::JobDone::lost(job.id())));
    let (_, fault) = fault(&effects);
    assert_eq!((fault.code, fault.stage), (Code::Internal, Some(1)));
}

/// Law: lost neighbours are reported, and the task goes on; a lost owner is forgotten.
#[test]
fn lost_peers_are_reported() {
    for lost in [BEFORE, NEXT] {
        let mut node = middle();
        opened(&mut node, open(5));
        let effects = drive(&mut node, 0, Input::PeerLost { peer: id(lost) });
        let message = Message::Lost { task: Digest([5; 32]), peer: id(lost), code: Code::PeerLost };
        assert_eq!(effects, [Effect::Message { to: id(OWNER), message }]);
        assert_eq!(node.tasks_open(), 1);
    }
    let mut node = middle();
    opened(&mut node, open(5));
    assert!(drive(&mut node, 0, Input::PeerLost { peer: id(OWNER) }).is_empty());
    assert!(drive(&mut node, 0, Input::PeerLost { peer: id(STRANGER) }).is_empty());
    assert_eq!(node.tasks_open(), 0);
}

/// Law: idle tasks are dropped, with a word to the owner.
#[test]
fn idle_tasks_are_dropped() {
    let mut node = middle();
    opened(&mut node, open(5));
    assert!(drive(&mut node, TASK_IDLE_MS - 1, Input::Tick).is_empty());
    let effects = drive(&mut node, TASK_IDLE_MS, Input::Tick);
    assert_eq!(fault(&effects).1.code, Code::Idle);
    assert_eq!(node.tasks_open(), 0);
}

/// Law: leaves are bounded in bytes and time, oldest first; what is gone is refused with a reason.
#[test]
fn leaves_are_kept_within_limits() {
    let limits = NodeLimits { leaf_store_bytes: 40_000, ..NodeLimits::default() };
    let mut node = node(Part::layers(2..4, 6), limits);
    opened(&mut node, open(5));
    for position in (0..600).step_by(100) {
        feed(&mut node, BEFORE, rows(5, position, 100));
        assert!(node.leaf_bytes() <= 40_000);
    }
    let task = Digest([5; 32]);
    let ask = |node: &mut Node, now_ms, first_token, page| {
        let message = Message::LeavesRequest { task, first_token, page };
        let effects = drive(node, now_ms, Input::Message { from: id(OWNER), message });
        match &effects[..] {
            [Effect::Message { message: Message::Leaves(leaves), .. }] => Ok(leaves.leaves.len()),
            [Effect::Message { message: Message::Error(fault), .. }] => Err(fault.code),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ask(&mut node, 0, 0, 0), Err(Code::NoLeaves), "the oldest span was dropped");
    // Two layers, each with keys, values and residual.
    assert_eq!(ask(&mut node, 0, 544, 0), Ok(32 * 6));
    assert_eq!(ask(&mut node, 0, 544, 1), Err(Code::NoLeaves), "there is one page");
    assert_eq!(ask(&mut node, 0, 545, 0), Err(Code::NoLeaves), "spans begin at multiples of 32");
    say(&mut node, OWNER, Message::Close { task, end: 600 });
    drive(&mut node, LEAVES_KEEP_MS - 1, Input::Tick);
    assert_eq!(ask(&mut node, LEAVES_KEEP_MS - 1, 544, 0), Ok(32 * 6));
    drive(&mut node, LEAVES_KEEP_MS, Input::Tick);
    assert_eq!(node.leaf_bytes(), 0);
    assert_eq!(ask(&mut node, LEAVES_KEEP_MS, 544, 0), Err(Code::NoLeaves));
}

/// Jobs and machines move between threads.
#[test]
fn machines_are_send() {
    fn is_send<T: Send>() {}
    is_send::<Node>();
    is_send::<lockstep_mesh::work::Job>();
    is_send::<lockstep_mesh::work::JobDone>();
    is_send::<lockstep_mesh::route::Route>();
}

/// Law: a job belongs to one opening of its task, also after the node forgot that it had the id.
#[test]
fn an_old_job_does_not_touch_a_new_task() {
    let mut node = middle();
    opened(&mut node, open(5));
    node.handle(0, Input::Data { from: id(BEFORE), data: rows(5, 0, 64) });
    let old = node.take_job().expect("there is work");
    say(&mut node, OWNER, Message::Cancel { task: Digest([5; 32]) });
    for i in 0..lockstep_mesh::limits::TASKS_REMEMBERED as u32 {
        let task = Digest::of(&[&i.to_be_bytes()]);
        opened(&mut node, Open { task, ..open(5) });
        say(&mut node, OWNER, Message::Cancel { task });
    }
    opened(&mut node, open(5));
    assert!(node.handle(0, Input::Done(old.run())).is_empty());
    let effects = feed(&mut node, BEFORE, rows(5, 0, 1));
    assert!(matches!(effects[..], [Effect::Data { .. }]), "the new task begins at 0: {effects:?}");
}
