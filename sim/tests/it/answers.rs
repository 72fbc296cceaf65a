//! Honest runs: the answer of a route is the answer of one machine, and every receipt holds.

use crate::{TOY, any_request, finished, small_limits, toy_model};
use lockstep_base::limits::SPAN_TOKENS;
use lockstep_base::merkle::{self, Accumulator};
use lockstep_base::op::Op;
use lockstep_base::params::Parameters;
use lockstep_base::receipt::{FLAG_CLOSING, FLAG_FULL_TRACE, FLAG_PROVABLE, state_root};
use lockstep_base::receipt_file::ReceiptFile;
use lockstep_base::rng::SplitMix64;
use lockstep_mesh::route::Finish;
use lockstep_mesh::toy;
use lockstep_sim::fault::Fault;
use lockstep_sim::world::{Report, Request, run};

/// What one machine says to a request, from the receipt file's own secret and seed.
fn expected(request: &Request, file: &ReceiptFile) -> Vec<u32> {
    let parameters = &request.parameters;
    toy::reference(TOY, &file.sampler_seed, &request.prompt, parameters.max_tokens, &parameters.stop_tokens)
}

/// Law: whatever the network does, the tokens are those of one machine; all stages signed
/// everything, in spans of 32, chained by root and by previous receipt.
#[test]
fn any_route_answers_like_one_machine() {
    for seed in 0..60 {
        let mut rng = SplitMix64::new(seed);
        let stages = 1 + rng.below(6) as u32;
        let requests: Vec<Request> = (0..1 + rng.below(3)).map(|_| any_request(&mut rng, 300, 80)).collect();
        let report = run(seed, &toy_model(TOY), stages, &requests, &small_limits(), &[]);
        for (i, request) in requests.iter().enumerate() {
            let file = &finished(&report, i, seed).file;
            assert_eq!(file.tokens, expected(request, file), "seed {seed}: tokens of request {i}");
            assert_eq!(
                report.shown[i],
                file.tokens[request.prompt.len()..],
                "seed {seed}: what the user saw"
            );
            check_file(file, request, stages as usize, seed);
        }
    }
}

/// Receipts of a file: spans, flags, chaining; and the file survives its own format.
fn check_file(file: &ReceiptFile, request: &Request, stages: usize, seed: u64) {
    let positions = file.tokens.len() as u32 - 1;
    assert_eq!(file.stages.len(), stages, "seed {seed}");
    for (stage, record) in file.stages.iter().enumerate() {
        let receipts = &record.receipts;
        assert_eq!(
            receipts.len() as u32,
            positions / SPAN_TOKENS + 1,
            "seed {seed}: receipts of stage {stage}"
        );
        let mut previous = lockstep_base::Digest::ZERO;
        for (span, signed) in receipts.iter().enumerate() {
            let receipt = &signed.receipt;
            let closing = span + 1 == receipts.len();
            assert_eq!(receipt.first_token, span as u32 * SPAN_TOKENS, "seed {seed}");
            let count = if closing { positions % SPAN_TOKENS } else { SPAN_TOKENS };
            assert_eq!(receipt.token_count, count, "seed {seed}");
            let full = if request.full_trace { FLAG_FULL_TRACE } else { 0 };
            let provable = if request.provable { FLAG_PROVABLE } else { 0 };
            assert_eq!(
                receipt.flags,
                full | if closing { FLAG_CLOSING | provable } else { 0 },
                "seed {seed}"
            );
            let leaves = closing && request.provable && stage + 1 < stages;
            assert_eq!(receipt.commit_out != lockstep_base::Digest::ZERO, leaves, "seed {seed}");
            assert_eq!(receipt.previous, previous, "seed {seed}");
            assert_eq!(signed.signer(), Some(record.node), "seed {seed}");
            if stage > 0 {
                let before = &file.stages[stage - 1].receipts[span].receipt;
                assert_eq!(receipt.commit_in, before.commit_out, "seed {seed}: stage {stage}");
                assert_eq!(receipt.in_root, before.out_root, "seed {seed}: stage {stage}, span {span}");
            }
            previous = receipt.struct_hash();
        }
    }
    assert_eq!(ReceiptFile::from_bytes(&file.to_bytes()).as_ref(), Ok(file), "seed {seed}");
}

/// Law: every stage of a provable task proves it for its gateway, whatever else goes on; nobody else's proofs get in between.
#[test]
fn provable_tasks_are_proved_by_every_stage() {
    for seed in 0..12 {
        let mut rng = SplitMix64::new(seed);
        let stages = 1 + rng.below(5) as u32;
        let mut requests: Vec<Request> = (0..3).map(|_| any_request(&mut rng, 100, 30)).collect();
        (requests[0].provable, requests[0].fetch_proofs) = (true, true);
        (requests[2].provable, requests[2].fetch_proofs) = (true, true);
        let report = run(seed, &toy_model(TOY), stages, &requests, &small_limits(), &[]);
        for (i, fetched) in report.proofs.iter().enumerate() {
            let mut proved: Vec<u16> = fetched.iter().map(|(stage, _)| *stage).collect();
            proved.sort_unstable();
            let expected = if i == 1 { 0 } else { stages as u16 };
            assert_eq!(proved, (0..expected).collect::<Vec<u16>>(), "seed {seed}: request {i}");
            check_file(&finished(&report, i, seed).file, &requests[i], stages as usize, seed);
        }
        let heads = [0, 2].map(|i| &report.proofs[i][0].1[..32]);
        assert_ne!(heads[0], heads[1], "seed {seed}: two requests have one proof");
    }
}

/// Law: the same seed is the same run, event for event.
#[test]
fn one_seed_is_one_run() {
    for seed in 0..5 {
        let mut rng = SplitMix64::new(seed);
        let requests = [any_request(&mut rng, 200, 40), any_request(&mut rng, 200, 40)];
        let once = || -> Report { run(seed, &toy_model(TOY), 3, &requests, &small_limits(), &[]) };
        let (a, b) = (once(), once());
        assert_eq!(a.events, b.events, "seed {seed}");
        assert_eq!(finished(&a, 0, seed), finished(&b, 0, seed), "seed {seed}");
    }
}

/// Law: prompts longer than the window go out piece by piece; the bound on positions in flight is
/// checked at every event of every run.
#[test]
fn long_prompts_fit_through_the_window() {
    for (seed, length) in [(1, 511), (2, 512), (3, 513), (4, 640), (5, 1000), (6, 1100)] {
        let prompt = (0..length).map(|i| i % TOY.vocab).collect();
        let request = Request::new(prompt, 5);
        let report = run(seed, &toy_model(TOY), 4, std::slice::from_ref(&request), &small_limits(), &[]);
        let outcome = finished(&report, 0, seed);
        assert_eq!(outcome.file.tokens, expected(&request, &outcome.file), "seed {seed}");
        // A prompt that fills the context leaves room for one token.
        let answer = if length == TOY.context { 1 } else { 5 };
        assert_eq!(report.shown[0].len(), answer, "seed {seed}");
        assert_eq!(outcome.finish, Finish::Length);
    }
}

/// Law: the closing receipt covers 0 to 31 tokens.
#[test]
fn closing_receipts_cover_what_is_left() {
    for positions in [1, 31, 32, 33, 63, 64, 65] {
        let request = Request::new(vec![7; positions], 1);
        let seed = positions as u64;
        let report = run(seed, &toy_model(TOY), 2, std::slice::from_ref(&request), &small_limits(), &[]);
        check_file(&finished(&report, 0, seed).file, &request, 2, seed);
    }
}

/// Law: a stop token ends the answer, is part of the record, and is marked for the user.
#[test]
fn stop_tokens_end_the_answer() {
    let mut request = Request::new(vec![1, 2, 3], 50);
    let report = run(9, &toy_model(TOY), 3, std::slice::from_ref(&request), &small_limits(), &[]);
    let all = report.shown[0].clone();
    let stop = all[20];
    let first = all.iter().position(|token| *token == stop).unwrap();
    request.parameters = Parameters { stop_tokens: vec![stop], ..request.parameters };
    let report = run(9, &toy_model(TOY), 3, std::slice::from_ref(&request), &small_limits(), &[]);
    let outcome = finished(&report, 0, 9);
    assert_eq!(outcome.finish, Finish::StopToken);
    assert_eq!(report.shown[0].last(), Some(&stop));
    // The parameters are bound by the receipts but the tokens before the stop are the same.
    assert_eq!(report.shown[0], all[..=first]);
}

/// Law: a stop in the middle gives a shorter answer with every receipt.
#[test]
fn a_stop_ends_with_receipts() {
    let request = Request::new(vec![5; 40], 200);
    let whole = run(3, &toy_model(TOY), 3, std::slice::from_ref(&request), &small_limits(), &[]);
    for event in (0..whole.events).step_by(97) {
        let faults = [Fault::Stop { request: 0, event }];
        let report = run(3, &toy_model(TOY), 3, std::slice::from_ref(&request), &small_limits(), &faults);
        let outcome = finished(&report, 0, event);
        assert!(whole.shown[0].starts_with(&report.shown[0]), "stopped at event {event}");
        check_file(&outcome.file, &request, 3, event);
    }
}

/// Law: the leaves that a stage serves lead to the roots that it signed.
#[test]
fn served_leaves_lead_to_the_signed_roots() {
    for seed in 0..6 {
        let mut rng = SplitMix64::new(seed);
        let mut request = any_request(&mut rng, 100, 30);
        request.fetch_leaves = true;
        let stages = 1 + rng.below(4) as u32;
        let report = run(seed, &toy_model(TOY), stages, &[request], &small_limits(), &[]);
        let file = &finished(&report, 0, seed).file;
        let mut served = report.leaves[0].iter();
        for (stage, record) in (0u16..).zip(&file.stages) {
            let secret = file.secret.stage(stage).own;
            let mut kv = Accumulator::default();
            for signed in &record.receipts {
                let receipt = &signed.receipt;
                let (from, span) = served.next().expect("every span was fetched");
                assert_eq!((*from, span.first_token), (stage, receipt.first_token), "seed {seed}");
                let hash = |leaf: &lockstep_base::receipt_file::ServedLeaf| {
                    let index = leaf.index().expect("a known op");
                    lockstep_base::leaf::leaf_hash(&secret, &index, &leaf.bytes)
                };
                let is_kv = |op: u8| op == Op::KCodes as u8 || op == Op::VCodes as u8;
                for position in receipt.first_token..receipt.end_token() {
                    let here = span.leaves.iter().filter(|leaf| leaf.position == position && is_kv(leaf.op));
                    kv.push(merkle::root(&here.map(hash).collect::<Vec<_>>()));
                }
                let trace = span.leaves.iter().filter(|leaf| !is_kv(leaf.op)).map(hash);
                let trace_root = merkle::root(&trace.collect::<Vec<_>>());
                assert_eq!(
                    receipt.state_root,
                    state_root(&kv.root(), &trace_root),
                    "seed {seed}, stage {stage}"
                );
            }
        }
        assert!(served.next().is_none(), "seed {seed}");
    }
}
