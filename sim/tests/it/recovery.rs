//! Nodes die in the middle of answers, and nobody notices: another node takes their place, and the answer is the same, byte for byte (protocol.md, 7).

use crate::{TOY, any_request, finished, small_limits, toy_model};
use lockstep_base::keys::NodeId;
use lockstep_base::receipt::Receipt;
use lockstep_base::receipt_file::{ReceiptFile, StageRecord};
use lockstep_base::rng::SplitMix64;
use lockstep_mesh::node::NodeLimits;
use lockstep_sim::fault::Fault;
use lockstep_sim::world::{Report, Request, run, run_replicated};

/// Runs of the law over seeds: a thousand with `LOCKSTEP_SLOW`.
fn seeds() -> u64 {
    if std::env::var_os("LOCKSTEP_SLOW").is_some() { 1000 } else { 120 }
}

/// Everything that a stage signed, but who and after which receipt.
fn said(record: &StageRecord) -> Vec<Receipt> {
    let strip = |receipt: &Receipt| Receipt { previous: Default::default(), ..receipt.clone() };
    record.receipts.iter().map(|signed| strip(&signed.receipt)).collect()
}

/// Same prompt and answer, same statements of every stage; what lost nodes signed is there as well, and says the same.
fn same_answer(file: &ReceiptFile, alone: &ReceiptFile, what: &str) {
    assert_eq!(file.tokens, alone.tokens, "{what}: tokens");
    for (stage, (record, expected)) in file.stages.iter().zip(&alone.stages).enumerate() {
        assert_eq!(said(record), said(expected), "{what}: receipts of stage {stage}");
    }
    for record in file.earlier.iter().flatten() {
        let stage =
            alone.stages.iter().find(|stage| stage.part == record.part).expect("a stage of this part");
        let (early, whole) = (said(record), said(stage));
        assert!(!early.is_empty() && early.len() <= whole.len(), "{what}: {} early receipts", early.len());
        assert_eq!(early, whole[..early.len()], "{what}: what {} signed", record.node);
        let signers = record.receipts.iter().map(|signed| signed.signer());
        assert!(signers.into_iter().all(|signer| signer == Some(record.node)), "{what}: signatures");
    }
}

fn nodes(file: &ReceiptFile) -> Vec<NodeId> {
    file.stages.iter().map(|stage| stage.node).collect()
}

/// Law (the kill matrix): whichever stage dies at whichever event, the answer and all that is signed are those of the undisturbed run.
#[test]
fn any_stage_may_die_at_any_event() {
    let (seed, request) = (11, [Request::new(vec![3; 70], 40)]);
    let alone = run(seed, &toy_model(TOY), 3, &request, &small_limits(), &[]);
    let step = if std::env::var_os("LOCKSTEP_SLOW").is_some() { 1 } else { 5 };
    let mut replaced = 0;
    for stage in 0..3 {
        for event in (u64::from(stage)..alone.events).step_by(step) {
            let faults = [Fault::Kill { stage, event }];
            let report = run_replicated(seed, &toy_model(TOY), (3, 2), &request, &small_limits(), &faults);
            let what = format!("stage {stage} killed at event {event}");
            let file = &finished(&report, 0, seed).file;
            same_answer(file, &finished(&alone, 0, seed).file, &what);
            assert_eq!(report.shown, alone.shown, "{what}: what the user saw");
            replaced += report.replaced[0];
            let other = nodes(file) != nodes(&finished(&alone, 0, seed).file);
            assert_eq!(other, report.replaced[0] > 0, "{what}: another node served");
        }
    }
    assert!(replaced > 100, "stages died in the middle of the answer, got {replaced}");
}

/// One fault of a run whose undisturbed twin has `events` events: never the last replica, so that somebody can take the place.
fn any_fault(rng: &mut SplitMix64, stages: u32, events: u64) -> Fault {
    let stage = rng.below(stages.into()) as u16;
    let event = rng.below(events);
    match rng.below(8) {
        0 => Fault::Hang { stage, event },
        1 | 2 if stage > 0 => Fault::Sever { a: stage - 1, b: stage, event, for_ms: rng.below(2000) },
        _ => Fault::Kill { stage, event },
    }
}

/// Law: kills, hangs and partitions of any nodes but the last replicas, at any time, several at once, during recovery too: the answer is that of the undisturbed run.
#[test]
fn answers_survive_what_replicas_survive() {
    let (mut replaced, mut earlier) = (0, 0);
    for seed in 0..seeds() {
        let mut rng = SplitMix64::new(seed);
        let stages = 1 + rng.below(4) as u32;
        let requests: Vec<Request> = (0..1 + rng.below(2)).map(|_| any_request(&mut rng, 700, 60)).collect();
        let alone = run(seed, &toy_model(TOY), stages, &requests, &NodeLimits::default(), &[]);
        let mut faults: Vec<Fault> =
            (0..1 + rng.below(3)).map(|_| any_fault(&mut rng, stages, alone.events)).collect();
        if rng.below(3) == 0 {
            // The first replica of a stage dies while it takes over, or a little later.
            let stage = stages as u16 + rng.below(stages.into()) as u16;
            faults.push(Fault::Kill { stage, event: rng.below(alone.events * 5 / 4) });
        }
        let report: Report =
            run_replicated(seed, &toy_model(TOY), (stages, 3), &requests, &NodeLimits::default(), &faults);
        for i in 0..requests.len() {
            let (file, expected) = (&finished(&report, i, seed).file, &finished(&alone, i, seed).file);
            same_answer(file, expected, &format!("seed {seed}, {faults:?}, request {i}"));
            assert_eq!(report.shown[i], alone.shown[i], "seed {seed}: what the user saw");
            earlier += file.earlier.as_ref().map_or(0, Vec::len);
        }
        replaced += report.replaced.iter().sum::<u32>();
    }
    assert!(replaced > 50 && earlier > 20, "{replaced} stages were replaced, {earlier} had signed before");
}

/// Law: two neighbours that lose each other for a while are joined again, and nobody is replaced.
#[test]
fn neighbours_are_joined_again() {
    for seed in 0..40 {
        let mut rng = SplitMix64::new(seed);
        let request = [any_request(&mut rng, 300, 60)];
        let alone = run(seed, &toy_model(TOY), 3, &request, &NodeLimits::default(), &[]);
        let a = rng.below(2) as u16;
        let faults = [Fault::Sever { a, b: a + 1, event: rng.below(alone.events), for_ms: 0 }];
        let report = run_replicated(seed, &toy_model(TOY), (3, 2), &request, &NodeLimits::default(), &faults);
        let (file, expected) = (&finished(&report, 0, seed).file, &finished(&alone, 0, seed).file);
        same_answer(file, expected, &format!("seed {seed}, {faults:?}"));
        assert_eq!((report.replaced[0], nodes(file)), (0, nodes(expected)), "seed {seed}: the same nodes");
    }
}
