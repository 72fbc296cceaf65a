//! The gateway's check of receipts, against a stage that signs properly and says wrong things.

use crate::samples::{TASK, id, key};
use lockstep_base::Digest;
use lockstep_base::leaf::TaskSecret;
use lockstep_base::merkle;
use lockstep_base::part::Part;
use lockstep_base::receipt::{FLAG_CLOSING, FLAG_FULL_TRACE, FLAG_PROVABLE, Receipt, WireReceipt};
use lockstep_mesh::receipts::{Extent, ReceiptBook, ReceiptError, TaskTerms};
use lockstep_runtime::trace::Edge;

const NODE: u8 = 2;

fn terms() -> TaskTerms {
    TaskTerms {
        task: TASK,
        secret: TaskSecret([8; 32]),
        model_root: Digest([1; 32]),
        opset: "toy-0".into(),
        parameters: Digest([2; 32]),
        sampler_seed: Digest([3; 32]),
        audit_class: Digest([4; 32]),
        adapter: Digest([5; 32]),
        full_trace: true,
        provable: false,
        prompt_tokens: 30,
    }
}

/// Prompt of 30 tokens, answer of 11: positions 0..40.
fn tokens() -> Vec<u32> {
    (0..41).map(|i| i * 3).collect()
}

/// The two receipts of an honest single stage, before they are signed.
fn honest() -> [Receipt; 2] {
    let (terms, tokens) = (terms(), tokens());
    let secrets = terms.secret.stage(0);
    let receipt = |span: core::ops::Range<u32>, flags, previous| {
        let entered = span.clone().map(|p| Edge::token(&secrets, p).token_leaf(Some(tokens[p as usize])));
        let sampled = span.clone().map(|p| {
            let token = (p >= 29).then(|| tokens[p as usize + 1]);
            Edge::sample(&secrets, p).token_leaf(token)
        });
        Receipt {
            task: TASK,
            model_root: terms.model_root,
            opset: terms.opset.clone(),
            part: Part::whole(6),
            stage: 0,
            first_token: span.start,
            token_count: span.end - span.start,
            parameters: terms.parameters,
            masks: Digest::ZERO,
            adapters: terms.adapter,
            sampler_seed: terms.sampler_seed,
            in_root: merkle::root(&entered.collect::<Vec<_>>()),
            out_root: merkle::root(&sampled.collect::<Vec<_>>()),
            state_root: Digest([9; 32]),
            code: Digest::ZERO,
            previous,
            audit_class: terms.audit_class,
            flags,
            commit_in: Digest::ZERO,
            commit_out: Digest::ZERO,
        }
    };
    let first = receipt(0..32, FLAG_FULL_TRACE, Digest::ZERO);
    let previous = first.struct_hash();
    [first, receipt(32..40, FLAG_FULL_TRACE | FLAG_CLOSING, previous)]
}

fn book() -> ReceiptBook {
    ReceiptBook::new(terms(), [(Part::whole(6), id(NODE))])
}

fn push(book: &mut ReceiptBook, receipt: WireReceipt) -> Result<(), ReceiptError> {
    book.push(0, receipt, Extent { tokens: &tokens(), sent: 40, end: Some(40) })
}

fn signed(receipt: Receipt) -> WireReceipt {
    receipt.sign(&key(NODE)).to_wire()
}

#[test]
fn honest_receipts_are_verified() {
    let mut book = book();
    for receipt in honest() {
        assert_eq!(push(&mut book, signed(receipt)), Ok(()));
    }
    assert!(book.complete(0));
    assert_eq!(book.check_closed(0), Ok(()));
    let stored: Vec<Receipt> = book.verified(0).iter().map(|signed| signed.receipt.clone()).collect();
    assert_eq!(stored, honest());
}

/// Law: whatever field of the statement is another than the gateway means, the signature fails,
/// though it is a good signature of the node.
#[test]
fn every_field_is_bound() {
    type Change = fn(&mut Receipt);
    let changes: [Change; 18] = [
        |r| r.task = Digest::ZERO,
        |r| r.model_root = Digest::ZERO,
        |r| r.opset.push('x'),
        |r| r.part.end_layer = 5,
        |r| r.part.shards = 2,
        |r| r.token_count -= 1,
        |r| r.parameters = Digest::ZERO,
        |r| r.masks = Digest([1; 32]),
        |r| r.adapters = Digest([1; 32]),
        |r| r.sampler_seed = Digest::ZERO,
        |r| r.in_root = Digest::ZERO,
        |r| r.code = Digest([1; 32]),
        |r| r.previous = Digest([1; 32]),
        |r| r.audit_class = Digest::ZERO,
        |r| r.commit_in = Digest([1; 32]),
        |r| r.commit_out = Digest([1; 32]),
        |r| r.part.first_layer = 1,
        |r| r.first_token += 1,
    ];
    for (i, change) in changes.into_iter().enumerate() {
        for span in 0..2 {
            let mut book = book();
            let mut receipts = honest();
            change(&mut receipts[span]);
            let results = receipts.map(|receipt| push(&mut book, signed(receipt)));
            let expected = id(NODE);
            match results[span] {
                Err(ReceiptError::Signer { stage: 0, span: at, got, expected: node }) => {
                    assert_eq!((at as usize, node), (span, expected), "change {i}");
                    assert_ne!(got, expected, "change {i}");
                }
                ref other => panic!("change {i} of span {span}: {other:?}"),
            }
        }
    }
}

/// Law: flags, stage, order and tokens that are wrong are refused by their own name, though signed.
#[test]
fn wrong_statements_are_named() {
    let pushed = |changes: fn(&mut [Receipt; 2])| {
        let mut book = book();
        let mut receipts = honest();
        changes(&mut receipts);
        receipts.into_iter().try_for_each(|receipt| push(&mut book, signed(receipt)))
    };
    let (full, closing) = (FLAG_FULL_TRACE, FLAG_FULL_TRACE | FLAG_CLOSING);
    let flags = |span, got, expected| Err(ReceiptError::Flags { stage: 0, span, got, expected });
    assert_eq!(pushed(|r| r[0].flags = 0), flags(0, 0, full));
    assert_eq!(pushed(|r| r[0].flags |= FLAG_CLOSING), flags(0, closing, full));
    assert_eq!(pushed(|r| r[0].flags |= 4), flags(0, full | 4, full));
    assert_eq!(pushed(|r| r[1].flags = FLAG_FULL_TRACE), flags(1, full, closing));
    assert_eq!(pushed(|r| r[1].stage = 1), Err(ReceiptError::Stage { stage: 0, got: 1 }));
    assert_eq!(pushed(|r| r.swap(0, 1)), Err(ReceiptError::Span { stage: 0, got: 1, expected: 0 }));
    assert_eq!(pushed(|r| r[1] = r[0].clone()), Err(ReceiptError::Span { stage: 0, got: 0, expected: 1 }));
    let expected = honest()[1].out_root;
    assert_eq!(
        pushed(|r| r[1].out_root = Digest::ZERO),
        Err(ReceiptError::OutRoot { stage: 0, span: 1, got: Digest::ZERO, expected })
    );
}

#[test]
fn early_missing_and_late_receipts_are_named() {
    let [first, last] = honest().map(signed);
    let running = |sent| Extent { tokens: &[0; 33], sent, end: None };
    let early = ReceiptError::Early { stage: 0, got: 32, sent: 31 };
    assert_eq!(book().push(0, first.clone(), running(31)), Err(early));

    let mut book = book();
    assert_eq!(push(&mut book, first.clone()), Ok(()));
    assert_eq!(book.check_closed(0), Err(ReceiptError::Missing { stage: 0, span: 1 }));
    assert_eq!(push(&mut book, last), Ok(()));
    assert_eq!(push(&mut book, first), Err(ReceiptError::AfterClosing { stage: 0, span: 0 }));
}

/// Law: a receipt waits until its tokens are there, and is judged then.
#[test]
fn receipts_wait_for_their_tokens() {
    let (mut book, tokens) = (book(), tokens());
    let [first, _] = honest().map(signed);
    let extent = |known| Extent { tokens: &tokens[..known], sent: 32, end: None };
    assert_eq!(book.push(0, first, extent(32)), Ok(()));
    assert_eq!((book.verified(0).len(), book.signed(0)), (0, 32));
    assert_eq!(book.advance(extent(33)), Ok(()));
    assert_eq!(book.verified(0).len(), 1);
}

/// receipts.md, 7.1: of a provable task, what enters a stage is committed to as what left the one before; nothing else has a good signature, and the last stage commits to nothing that leaves.
#[test]
fn commitments_chain() {
    let terms = TaskTerms { provable: true, full_trace: false, adapter: Digest::ZERO, ..terms() };
    let tokens: Vec<u32> = (0..31).collect();
    let parts = [Part::layers(0..3, 6), Part::layers(3..6, 6)];
    let between = Digest([0x77; 32]);
    let honest = |stage: u16| {
        let at = usize::from(stage);
        let [first, last] = [0, 1].map(|stage| terms.secret.stage(stage));
        let entered = (0..30).map(|p| Edge::token(&first, p).token_leaf(Some(tokens[p as usize])));
        let sampled = (0..30).map(|p| {
            let token = (p >= 29).then(|| tokens[p as usize + 1]);
            Edge::sample(&last, p).token_leaf(token)
        });
        let roots = [
            merkle::root(&entered.collect::<Vec<_>>()),
            Digest([0x66; 32]),
            merkle::root(&sampled.collect::<Vec<_>>()),
        ];
        let commitments = [Digest::ZERO, between, Digest::ZERO];
        Receipt {
            task: TASK,
            model_root: terms.model_root,
            opset: terms.opset.clone(),
            part: parts[at],
            stage,
            first_token: 0,
            token_count: 30,
            parameters: terms.parameters,
            masks: Digest::ZERO,
            adapters: Digest::ZERO,
            sampler_seed: terms.sampler_seed,
            in_root: roots[at],
            out_root: roots[at + 1],
            state_root: Digest([9; 32]),
            code: Digest::ZERO,
            previous: Digest::ZERO,
            audit_class: terms.audit_class,
            flags: FLAG_CLOSING | FLAG_PROVABLE,
            commit_in: commitments[at],
            commit_out: commitments[at + 1],
        }
    };
    let push = |change: &dyn Fn(u16, &mut Receipt)| {
        let nodes = [(parts[0], id(1)), (parts[1], id(2))];
        let mut book = ReceiptBook::new(terms.clone(), nodes);
        for stage in 0..2u16 {
            let mut receipt = honest(stage);
            change(stage, &mut receipt);
            let wire = receipt.sign(&key(1 + stage as u8)).to_wire();
            book.push(stage, wire, Extent { tokens: &tokens, sent: 30, end: Some(30) })?;
        }
        Ok(book.verified(1)[0].receipt.clone())
    };
    assert_eq!(push(&|_, _| {}), Ok(honest(1)));
    let signer = |result: Result<Receipt, ReceiptError>, expected: u16| match result {
        Err(ReceiptError::Signer { stage, .. }) => assert_eq!(stage, expected),
        other => panic!("{other:?}"),
    };
    signer(
        push(&|stage, r| {
            if stage == 1 {
                r.commit_in = Digest([1; 32]);
            }
        }),
        1,
    );
    signer(
        push(&|stage, r| {
            if stage == 0 {
                r.commit_in = Digest([1; 32]);
            }
        }),
        0,
    );
    signer(
        push(&|stage, r| {
            if stage == 0 {
                r.commit_out = Digest([1; 32]);
            }
        }),
        1,
    );
    let refused = |stage, got| Err(ReceiptError::Commitment { stage, span: 0, got });
    assert_eq!(
        push(&|stage, r| if stage == 0 {
            r.commit_out = Digest::ZERO;
        }),
        refused(0, Digest::ZERO)
    );
    assert_eq!(
        push(&|stage, r| if stage == 1 {
            r.commit_out = between;
        }),
        refused(1, between)
    );
    let (got, expected) = (FLAG_CLOSING, FLAG_CLOSING | FLAG_PROVABLE);
    let unflagged = push(&|_, r| r.flags = FLAG_CLOSING);
    assert_eq!(unflagged, Err(ReceiptError::Flags { stage: 0, span: 0, got, expected }));
}
