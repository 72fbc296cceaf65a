//! Crashes, hangs, cancels and strangers: a clean end that names the stage, never a hang.

use crate::{TOY, any_request, failed, finished, small_limits, toy_model};
use lockstep_base::rng::SplitMix64;
use lockstep_mesh::code::Code;
use lockstep_mesh::node::NodeLimits;
use lockstep_mesh::route::Reason;
use lockstep_sim::fault::Fault;
use lockstep_sim::world::{End, Request, run};
use std::collections::BTreeSet;

/// Law: a stage that dies at any event gives a failure that names it, or the answer was complete.
#[test]
fn killing_any_stage_at_any_event_names_it() {
    let seed = 11;
    let request = [Request::new(vec![3; 36], 8)];
    let events = run(seed, &toy_model(TOY), 3, &request, &small_limits(), &[]).events;
    let mut failures = 0;
    for stage in 0..3 {
        for event in 0..events {
            let faults = [Fault::Kill { stage, event }];
            let report = run(seed, &toy_model(TOY), 3, &request, &small_limits(), &faults);
            match report.ends[0].as_ref().expect("the gateway lives") {
                End::Failed(failure) => {
                    assert_eq!(failure.stage, Some(stage), "killed at event {event}: {failure}");
                    failures += 1;
                }
                End::Finished(outcome) => {
                    assert_eq!(outcome.file.tokens.len(), 44, "killed at event {event}");
                }
            }
        }
    }
    assert!(failures > 100, "kills in the middle of the answer happened, got {failures}");
}

/// Law: a stage that stops computing is found by the timeout, and named.
#[test]
fn a_stage_that_hangs_is_named() {
    for seed in 0..24 {
        let mut rng = SplitMix64::new(seed);
        let request = [Request::new(vec![3; 1 + rng.below(100) as usize], 30)];
        let stages = 1 + rng.below(4) as u32;
        let stage = rng.below(stages.into()) as u16;
        let events = run(seed, &toy_model(TOY), stages, &request, &small_limits(), &[]).events;
        // In the first half the answer is not complete.
        let faults = [Fault::Hang { stage, event: rng.below(events / 2) }];
        let report = run(seed, &toy_model(TOY), stages, &request, &small_limits(), &faults);
        match &report.ends[0] {
            Some(End::Finished(_)) => {}
            _ => {
                let failure = failed(&report, 0, seed);
                assert_eq!(failure.stage, Some(stage), "seed {seed}: {failure}");
                assert!(matches!(failure.reason, Reason::Timeout { .. }), "seed {seed}: {failure}");
            }
        }
    }
}

/// Law: a cancel at any event ends the request; no node keeps the task (checked by every run),
/// and other requests go on as if nothing had happened.
#[test]
fn a_cancelled_request_leaves_no_trace() {
    for seed in 0..40 {
        let mut rng = SplitMix64::new(seed);
        let requests = [any_request(&mut rng, 200, 30), any_request(&mut rng, 200, 30)];
        let alone = run(seed, &toy_model(TOY), 3, &requests, &small_limits(), &[]);
        let faults = [Fault::Cancel { request: 0, event: rng.below(alone.events * 2 / 3) }];
        let report = run(seed, &toy_model(TOY), 3, &requests, &small_limits(), &faults);
        match report.ends[0].as_ref().expect("the gateway lives") {
            End::Failed(failure) => assert_eq!(failure.reason, Reason::Cancelled, "seed {seed}"),
            End::Finished(_) => {}
        }
        assert_eq!(finished(&report, 1, seed).file, finished(&alone, 1, seed).file, "seed {seed}");
    }
}

/// Law: nodes drop the tasks of a gateway that dies (checked by every run); others go on.
#[test]
fn a_gateway_that_dies_is_forgotten() {
    for seed in 0..40 {
        let mut rng = SplitMix64::new(seed);
        let requests = [any_request(&mut rng, 200, 60), any_request(&mut rng, 100, 30)];
        let faults = [Fault::KillGateway { request: 0, event: 1 + rng.below(300) }];
        let report = run(seed, &toy_model(TOY), 3, &requests, &small_limits(), &faults);
        assert!(finished(&report, 1, seed).file.tokens.len() > 1, "seed {seed}");
    }
}

/// Law: a stranger who knows the task id can neither end, change nor see a task, nor can his
/// garbage disturb it; he is told that he may not.
#[test]
fn strangers_change_nothing() {
    let mut told = BTreeSet::new();
    for seed in 0..40 {
        let mut rng = SplitMix64::new(seed);
        let request = [any_request(&mut rng, 200, 30)];
        let alone = run(seed, &toy_model(TOY), 3, &request, &small_limits(), &[]);
        let faults = [Fault::Stranger { event: rng.below(alone.events) }];
        let report = run(seed, &toy_model(TOY), 3, &request, &small_limits(), &faults);
        assert_eq!(finished(&report, 0, seed).file, finished(&alone, 0, seed).file, "seed {seed}");
        told.extend(report.stranger_errors);
    }
    // Where his own garbage did not end the connection first.
    for code in [Code::ModelRoot, Code::NotAllowed, Code::UnknownTask, Code::Unexpected, Code::NoProof] {
        assert!(told.contains(&code), "strangers are told {code:?}, got only {told:?}");
    }
}

/// Law: a full node says busy; the request fails cleanly and names the stage.
#[test]
fn a_full_node_is_busy() {
    let limits = NodeLimits { tasks_max: 2, ..small_limits() };
    let requests: Vec<Request> = (0..5).map(|i| Request::new(vec![i; 100], 50)).collect();
    let report = run(1, &toy_model(TOY), 2, &requests, &limits, &[]);
    let busy = report.ends.iter().flatten().filter(|end| {
        matches!(end, End::Failed(failure)
            if matches!(failure.reason, Reason::Remote { code: Code::Busy, .. }) && failure.stage.is_some())
    });
    let busy = busy.count();
    let done = report.ends.iter().flatten().filter(|end| matches!(end, End::Finished(_))).count();
    assert_eq!(busy + done, 5, "{:?}", report.ends);
    assert!((1..=4).contains(&done), "{done} requests were served by nodes with 2 places");
}
