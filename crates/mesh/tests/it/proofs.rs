//! Provable tasks: what closing receipts commit to, what a node proves afterwards and for whom, and how a gateway takes it (protocol.md, 5 and 6).

use crate::node::{BEFORE, NEXT, OWNER, STRANGER, TOY, drive, fault, feed, middle, open, opened, rows, say};
use crate::samples::{TASK, id};
use lockstep_base::Digest;
use lockstep_base::limits::SPAN_TOKENS;
use lockstep_base::params::Parameters;
use lockstep_base::part::Part;
use lockstep_base::receipt::{FLAG_CLOSING, FLAG_FULL_TRACE, FLAG_PROVABLE, WireReceipt};
use lockstep_mesh::code::Code;
use lockstep_mesh::compute::StageProver as _;
use lockstep_mesh::data::{Data, Values};
use lockstep_mesh::limits::{PROOF_PAGE_BYTES, PROOF_QUEUE_MAX, PROOFS_KEEP_MS, PROVABLE_POSITIONS_MAX};
use lockstep_mesh::message::{Message, Open, ProofPage, Prove};
use lockstep_mesh::node::{Effect, Input, Node, NodeLimits};
use lockstep_mesh::proofs::{ProofFetch, ProofPageError};
use lockstep_mesh::rows::StageRows;
use lockstep_mesh::toy::ToyProver;
use std::sync::Arc;

const PROVER: ToyProver = ToyProver { bytes: 2 * PROOF_PAGE_BYTES + 7 };

fn proving() -> Node {
    middle().proving(Arc::new(PROVER))
}

fn provable(task: u8) -> Open {
    Open { provable: true, positions: 100, ..open(task) }
}

fn prove(task: u8) -> Prove {
    let tokens = (0..71).collect();
    Prove { task: Digest([task; 32]), tokens, generated: 3, parameters: Parameters::greedy(8), weights: None }
}

/// A task of 70 positions, closed: what came of it.
fn closed(node: &mut Node, task: u8) -> Vec<Effect> {
    opened(node, provable(task));
    let mut effects = feed(node, BEFORE, rows(task, 0, 40));
    effects.extend(feed(node, BEFORE, rows(task, 40, 30)));
    effects.extend(say(node, OWNER, Message::Close { task: Digest([task; 32]), end: 70 }));
    effects
}

fn receipts(effects: &[Effect]) -> Vec<WireReceipt> {
    let receipt = |effect: &Effect| match effect {
        Effect::Message { message: Message::Receipt { receipt, .. }, .. } => Some(receipt.clone()),
        _ => None,
    };
    effects.iter().filter_map(receipt).collect()
}

fn entered(data: &[Data]) -> Vec<i32> {
    let rows = |data: &Data| match data {
        Data::Batch(batch) => match &batch.values {
            Values::Rows(rows) => rows.clone(),
            Values::Tokens(_) => Vec::new(),
        },
        Data::Truncate { .. } => Vec::new(),
    };
    data.iter().flat_map(rows).collect()
}

fn left(effects: &[Effect]) -> Vec<i32> {
    let data = effects.iter().filter_map(|effect| match effect {
        Effect::Data { data, .. } => Some(data.clone()),
        _ => None,
    });
    entered(&data.collect::<Vec<_>>())
}

/// Law: the closing receipt of a provable task, and no other, says what left the stage at all positions, whatever was truncated on the way.
#[test]
fn closing_receipts_commit() {
    let mut node = proving();
    assert!(node.info().proves && !middle().info().proves);
    let effects = closed(&mut node, 5);
    let wires = receipts(&effects);
    let flags: Vec<u8> = wires.iter().map(|wire| wire.flags).collect();
    assert_eq!(flags, [FLAG_FULL_TRACE, FLAG_FULL_TRACE, FLAG_FULL_TRACE | FLAG_CLOSING | FLAG_PROVABLE]);
    let commitments: Vec<Digest> = wires.iter().map(|wire| wire.commit_out).collect();
    assert_eq!(commitments, [Digest::ZERO, Digest::ZERO, PROVER.commit(&left(&effects))]);
    assert_eq!(left(&effects).len(), 70 * TOY.d_model as usize);

    let mut truncated = proving();
    opened(&mut truncated, provable(5));
    feed(&mut truncated, BEFORE, rows(5, 0, 60));
    feed(&mut truncated, BEFORE, Data::Truncate { task: Digest([5; 32]), branch: 0, position: SPAN_TOKENS });
    feed(&mut truncated, BEFORE, rows(5, SPAN_TOKENS, 8));
    feed(&mut truncated, BEFORE, rows(5, 40, 30));
    let effects = say(&mut truncated, OWNER, Message::Close { task: Digest([5; 32]), end: 70 });
    assert_eq!(receipts(&effects), wires[2..]);

    let plain = {
        let mut node = proving();
        opened(&mut node, Open { provable: false, ..provable(5) });
        let mut effects = feed(&mut node, BEFORE, rows(5, 0, 40));
        effects.extend(say(&mut node, OWNER, Message::Close { task: Digest([5; 32]), end: 40 }));
        effects
    };
    assert!(receipts(&plain).iter().all(|wire| wire.flags & FLAG_PROVABLE == 0));
}

/// Law: the owner of a closed task gets its proof, page by page, as often as it asks; the rows are forgotten once it is made, and all of it after a while.
#[test]
fn closed_tasks_are_proved_for_their_owner() {
    let mut node = proving();
    let effects = closed(&mut node, 5);
    let rows_bytes = node.proof_bytes();
    assert_eq!(rows_bytes, 2 * 4 * 70 * TOY.d_model as usize);
    let mut fetched = Vec::new();
    for round in 0..2 {
        let mut fetch = ProofFetch::new(prove(5));
        let proof = loop {
            let effects = say(&mut node, OWNER, fetch.request());
            let [Effect::Message { to, message: Message::Proof(page) }] = &effects[..] else {
                panic!("round {round}: {effects:?}")
            };
            assert_eq!((*to, page.pages), (id(OWNER), 3));
            if let Some(proof) = fetch.accept(page.clone()).expect("the page that was asked for") {
                break proof;
            }
        };
        fetched.push(proof);
    }
    assert_eq!((fetched[0].len(), &fetched[0]), (PROVER.bytes, &fetched[1]));
    assert_eq!(node.proof_bytes(), PROVER.bytes, "the rows are forgotten");
    let mut rows_of = StageRows::new(TOY.d_model as usize);
    rows_of.entering = entered(&[rows(5, 0, 40), rows(5, 40, 30)]);
    rows_of.leaving = left(&effects);
    assert_eq!(PROVER.prove(&provable(5), &rows_of, &prove(5)), Ok(fetched.swap_remove(0)));

    drive(&mut node, PROOFS_KEEP_MS, Input::Tick);
    assert_eq!(node.proof_bytes(), 0);
    let effects = say(&mut node, OWNER, Message::ProofRequest { task: Digest([5; 32]), page: 0 });
    assert_eq!(fault(&effects).1.code, Code::NoProof);
}

/// Law: nobody else gets anything, and what cannot be proved says why.
#[test]
fn proofs_are_refused_by_name() {
    let ask = |node: &mut Node, from, message| {
        let effects = say(node, from, message);
        let (to, fault) = fault(&effects);
        assert_eq!(to, id(from));
        (fault.code, fault.text.clone())
    };
    let order = |task| Message::Prove(Box::new(prove(task)));
    let mut plain = middle();
    assert_eq!(ask(&mut plain, OWNER, order(5)).0, Code::NoProof);
    assert_eq!(ask(&mut plain, OWNER, Message::Open(Box::new(provable(5)))).0, Code::NoProof);

    let mut node = proving();
    assert_eq!(ask(&mut node, OWNER, order(5)).0, Code::NoProof, "it was never opened");
    opened(&mut node, provable(6));
    feed(&mut node, BEFORE, rows(6, 0, 40));
    assert_eq!(ask(&mut node, OWNER, order(6)).0, Code::NoProof, "it is not closed");
    closed(&mut node, 5);
    for from in [STRANGER, BEFORE, NEXT] {
        assert_eq!(ask(&mut node, from, order(5)).0, Code::NotAllowed);
        let page = Message::ProofRequest { task: Digest([5; 32]), page: 0 };
        assert_eq!(ask(&mut node, from, page).0, Code::NotAllowed);
    }
    let page = |page| Message::ProofRequest { task: Digest([5; 32]), page };
    assert_eq!(ask(&mut node, OWNER, page(0)).0, Code::NoProof, "it was not ordered");
    let nothing = Message::Prove(Box::new(Prove { tokens: Vec::new(), ..prove(5) }));
    let (code, text) = ask(&mut node, OWNER, nothing);
    assert!(code == Code::NoProof && text.contains("expected some"), "{text}");
    say(&mut node, OWNER, order(5));
    let (code, text) = ask(&mut node, OWNER, page(3));
    assert!(code == Code::NoProof && text.contains("expected below 3"), "{text}");
}

/// Law: one proof is made at a time, few wait, the same one is not made twice; rows beyond the store's room are dropped, and too many positions refused.
#[test]
fn proving_is_bounded() {
    let tasks = 10..12 + PROOF_QUEUE_MAX as u8;
    let mut node = proving();
    tasks.clone().for_each(|task| drop(closed(&mut node, task)));
    let mut order = |task| {
        node.handle(0, Input::Message { from: id(OWNER), message: Message::Prove(Box::new(prove(task))) })
    };
    assert!(order(10).is_empty());
    assert_eq!(fault(&order(10)).1.code, Code::Unexpected, "it waits already");
    let job = node.take_job().expect("a proof");
    assert!(node.take_job().is_none(), "one at a time");
    let mut order = |task| {
        node.handle(0, Input::Message { from: id(OWNER), message: Message::Prove(Box::new(prove(task))) })
    };
    assert_eq!(fault(&order(10)).1.code, Code::Unexpected, "it is being made");
    let refused: Vec<bool> = tasks.skip(1).map(|task| !order(task).is_empty()).collect();
    assert_eq!(refused, [vec![false; PROOF_QUEUE_MAX], vec![true]].concat());
    let effects = node.handle(0, Input::Done(job.run()));
    assert!(matches!(&effects[..], [Effect::Message { message: Message::Proof(_), .. }]), "{effects:?}");
    assert!(node.take_job().is_some(), "the next one");

    let room = 3 * 4 * 70 * TOY.d_model as usize;
    let limits = NodeLimits { proof_store_bytes: room, ..NodeLimits::default() };
    let mut small = crate::node::node(Part::layers(2..4, 6), limits).proving(Arc::new(PROVER));
    closed(&mut small, 5);
    closed(&mut small, 6);
    assert!(small.proof_bytes() <= room);
    let effects = say(&mut small, OWNER, Message::Prove(Box::new(prove(5))));
    assert_eq!(fault(&effects).1.code, Code::NoProof, "the oldest is dropped");

    let mut node = proving();
    let many = |task| Open { positions: 700, ..provable(task) };
    (0..11).for_each(|task| opened(&mut node, many(task)));
    let effects = say(&mut node, OWNER, Message::Open(Box::new(many(11))));
    assert_eq!(fault(&effects).1.code, Code::Busy);
    let long = Open { positions: PROVABLE_POSITIONS_MAX + 1, ..provable(9) };
    assert!(Message::from_bytes(&Message::Open(Box::new(long)).to_bytes()).is_err());
}

/// Law: a gateway takes the pages that it asked for, full ones, as many as were announced first.
#[test]
fn pages_are_taken_in_order() {
    let page = |page, pages, bytes| ProofPage { task: TASK, page, pages, bytes: vec![1; bytes] };
    let fetch = || ProofFetch::new(Prove { task: TASK, ..prove(1) });
    let expected = |task, number| {
        Err(ProofPageError::Page { task, page: number, expected_task: TASK, expected_page: 0 })
    };
    assert_eq!(fetch().accept(page(1, 2, 5)), expected(TASK, 1));
    let other = ProofPage { task: Digest::ZERO, ..page(0, 1, 5) };
    assert_eq!(fetch().accept(other), expected(Digest::ZERO, 0));
    assert_eq!(fetch().accept(page(0, 0, 5)), Err(ProofPageError::Pages { got: 0, expected: 1 }));
    assert!(matches!(fetch().accept(page(0, u32::MAX, 5)), Err(ProofPageError::Pages { .. })));
    assert_eq!(fetch().accept(page(0, 1, 0)), Err(ProofPageError::Short { got: 0 }));
    assert_eq!(fetch().accept(page(0, 2, 5)), Err(ProofPageError::Short { got: 5 }));
    let mut begun = fetch();
    assert_eq!(begun.accept(page(0, 2, PROOF_PAGE_BYTES)), Ok(None));
    assert_eq!(begun.request(), Message::ProofRequest { task: TASK, page: 1 });
    assert_eq!(begun.accept(page(1, 3, 5)), Err(ProofPageError::Pages { got: 3, expected: 2 }));
    assert_eq!(begun.accept(page(1, 2, 5)), Ok(Some(vec![1; PROOF_PAGE_BYTES + 5])));
}
