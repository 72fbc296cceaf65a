//! Audits: honest receipts verify; one flipped bit anywhere is found at its exact place; a file
//! that was changed is refused.

use crate::pipeline::{Job, MODEL_ROOT, answer, engine, key};
use lockstep_base::Digest;
use lockstep_base::limits::{LEAF_BYTES_MAX, SPAN_TOKENS};
use lockstep_base::merkle;
use lockstep_base::op::{Op, Place};
use lockstep_base::part::Part;
use lockstep_base::receipt::{FLAG_FULL_TRACE, FLAG_PROVABLE, Receipt, SignedReceipt};
use lockstep_base::receipt_file::{ReceiptFile, ServedLeaf, ServedSpan, StageRecord};
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::WeightFormat;
use lockstep_runtime::audit::{AuditError, Fault, Verdict, What, audit, audit_committed};
use lockstep_runtime::drill::Drill;
use lockstep_runtime::forward::Engine;
use lockstep_runtime::kernels::Kernel;
use lockstep_runtime::synthetic::small_config;
use lockstep_runtime::trace::{Edge, TraceMode};

fn small(kernel: Kernel) -> Engine {
    engine(&small_config(), WeightFormat::Int8, kernel, 1)
}

fn verdict(engine: &Engine, file: &ReceiptFile) -> Result<Verdict, AuditError> {
    audit(file, &MODEL_ROOT, engine, &mut |_, _| {})
}

fn fault(engine: &Engine, file: &ReceiptFile) -> Fault {
    match verdict(engine, file).unwrap() {
        Verdict::Fault(fault) => fault,
        verdict => panic!("expected a fault, got {verdict:?}"),
    }
}

/// The audit is one batched prefill and finds what token-by-token serving signed, in both trace
/// modes, with any kernel, also where the answer ends at a span border.
#[test]
fn honest_receipts_verify() {
    let engine = small(Kernel::detect());
    for (prompt, tokens) in [(1, 1), (5, 40), (33, 32), (32, 33), (40, 57)] {
        for mode in [TraceMode::Boundary, TraceMode::Full] {
            let mut job = Job::new(&vec![11; prompt], tokens, 3);
            job.mode = mode;
            let (file, _) = answer(&engine, job);
            let bytes = file.to_bytes();
            let file = ReceiptFile::from_bytes(&bytes).unwrap();
            let positions = prompt + tokens as usize - 1;
            let receipts = 3 * (positions / SPAN_TOKENS as usize + 1);
            assert_eq!(verdict(&engine, &file), Ok(Verdict::Verified { receipts, tokens: positions }));
            assert_eq!(
                verdict(&small(Kernel::Scalar), &file),
                Ok(Verdict::Verified { receipts, tokens: positions })
            );
        }
    }
}

/// receipts.md, 5: what a node signed before another one took its place is in the file, and is checked.
#[test]
fn early_receipts_are_checked() {
    let engine = small(Kernel::detect());
    let (file, _) = answer(&engine, Job::new(&[11; 40], 60, 3));
    let lost = key(7);
    let early = |count: usize| {
        let mut previous = Digest::ZERO;
        let sign = |signed: &SignedReceipt| {
            let receipt = Receipt { previous, ..signed.receipt.clone() };
            previous = receipt.struct_hash();
            receipt.sign(&lost)
        };
        let receipts = file.stages[1].receipts.iter().take(count).map(sign).collect();
        StageRecord { part: file.stages[1].part, node: lost.id(), receipts, served: Vec::new() }
    };
    let with = |record: StageRecord| ReceiptFile { earlier: Some(vec![record]), ..file.clone() };
    let whole = file.stages[1].receipts.len();
    for count in 1..=whole {
        let file = ReceiptFile::from_bytes(&with(early(count)).to_bytes()).unwrap();
        assert!(matches!(verdict(&engine, &file), Ok(Verdict::Verified { .. })), "{count} receipts");
    }
    let refused = |change: &dyn Fn(&mut StageRecord)| {
        let mut record = early(2);
        change(&mut record);
        match verdict(&engine, &with(record)) {
            Err(AuditError::Earlier { field, .. }) => field,
            other => panic!("expected an error about an early receipt, got {other:?}"),
        }
    };
    assert_eq!(refused(&|record| record.node = key(1).id()), "signature");
    assert_eq!(refused(&|record| record.receipts[1].signature = record.receipts[0].signature), "signature");
    assert_eq!(refused(&|record| record.receipts[1].receipt.out_root.0[3] ^= 1), "statement");
    assert_eq!(refused(&|record| record.receipts.swap(0, 1)), "statement");
    assert_eq!(refused(&|record| record.receipts.clear()), "number of receipts");
    assert_eq!(
        refused(&|record| record.receipts = [record.receipts.clone(), early(whole).receipts].concat()),
        "number of receipts"
    );
    assert_eq!(refused(&|record| record.part.end_layer += 9), "part");
}

/// The promise: one flipped bit in one activation that has leaves, at a random place, is located to stage,
/// token, layer, op and row, 100 times of 100; compared with the liar's own note.
#[test]
fn a_hundred_random_faults_are_located() {
    let engine = small(Kernel::detect());
    let parts = Part::split(4, 3);
    let mut ops = std::collections::BTreeSet::new();
    for seed in 0..100 {
        let mut rng = SplitMix64::new(seed);
        let liar = rng.below(3) as usize;
        let words = [rng.next_u64(), rng.next_u64(), rng.next_u64(), rng.next_u64()];
        let mut job = Job::new(&[11; 9], 40, 3);
        job.drill = Some((liar, Drill::new(&parts[liar], 48, words)));
        let (file, strike) = answer(&engine, job);
        let strike = strike.unwrap_or_else(|| panic!("seed {seed}: the drill did not strike"));
        let fault = fault(&engine, &file);
        assert_eq!((fault.stage, fault.node), (liar, key(liar).id()), "seed {seed}");
        let located = fault.located.unwrap_or_else(|| panic!("seed {seed}: not located"));
        assert_eq!((located.place, located.row), (strike.place, strike.row), "seed {seed}");
        assert_ne!(located.got, located.expected);
        ops.insert(strike.place.op);
    }
    assert!(ops.len() >= 15, "the faults hit only {ops:?}");
}

/// receipts.md 4.3: what has no leaves is found by what is computed from it. A flipped bit of such an
/// op is located to its token and layer, in the first op behind it that shows it; where none does, nothing
/// that leaves the layer has changed, and the receipts are those of an honest stage.
#[test]
fn faults_without_leaves_are_found_behind_them() {
    let engine = small(Kernel::detect());
    let untraced = [Op::QCodes, Op::Attn, Op::OProj, Op::Hidden, Op::DownProj];
    assert!(untraced.iter().all(|op| !op.traced(&engine.weights.config, 1)));
    let mut found = std::collections::BTreeMap::new();
    for seed in 0..60 {
        let mut rng = SplitMix64::new(seed);
        let op = untraced[seed as usize % untraced.len()];
        let place = Place { position: rng.below(48) as u32, layer: 1 + rng.below(2) as u16, op };
        let stage = Part::split(4, 3).iter().position(|part| place.layer < part.end_layer as u16).unwrap();
        let mut job = Job::new(&[11; 9], 40, 3);
        let bit = 8 + rng.below(10) as u32;
        job.drill = Some((stage, Drill::at(place, rng.next_u64(), bit)));
        let (file, strike) = answer(&engine, job);
        let strike = strike.unwrap_or_else(|| panic!("seed {seed}: the drill did not strike"));
        let honest = match verdict(&engine, &file).unwrap() {
            Verdict::Verified { .. } => continue,
            Verdict::Fault(fault) => fault,
        };
        assert_eq!(honest.stage, stage, "seed {seed}");
        let located = honest.located.unwrap_or_else(|| panic!("seed {seed}: not located"));
        let Place { position, layer, op: shown } = located.place;
        assert_eq!((position, layer), (place.position, place.layer), "seed {seed}: {shown} for {op}");
        assert!(shown > op && shown.traced(&engine.weights.config, layer), "seed {seed}: {shown} for {op}");
        if matches!(op, Op::OProj | Op::DownProj) {
            let sum = if op == Op::OProj { Op::AttnResidual } else { Op::FfnResidual };
            assert_eq!((shown, located.row), (sum, strike.row), "seed {seed}");
        }
        *found.entry(op).or_insert(0) += 1;
    }
    for op in untraced {
        assert!(found.get(&op).is_some_and(|count| *count >= 3), "{op}: {found:?}");
    }
}

/// Without leaves the verdict names stage and span; served leaves that are not the receipt's are
/// a fault of their own.
#[test]
fn without_leaves_the_span_is_named() {
    let engine = small(Kernel::detect());
    let part = Part::split(4, 3)[1];
    let mut job = Job::new(&[11; 9], 60, 3);
    job.drill = Some((1, Drill::new(&part, 60, [u64::MAX / 3 * 2, 1 << 62, 0, 0])));
    let (mut file, strike) = answer(&engine, job);
    let position = strike.unwrap().place.position;
    let served = std::mem::take(&mut file.stages[1].served);
    let named = fault(&engine, &file);
    assert_eq!((named.stage, named.located), (1, None));
    assert!((named.first_token..named.end_token).contains(&position));
    assert_eq!(named.first_token % SPAN_TOKENS, 0);

    file.stages[1].served = served;
    let span = &mut file.stages[1].served[(position / SPAN_TOKENS) as usize];
    span.leaves[5].bytes[0] ^= 1;
    assert_eq!(fault(&engine, &file).what, What::ServedLeaves);
}

/// A file's maker may write any temperature; the sampler's bounds hold up to 16 only.
#[test]
fn parameters_beyond_the_arithmetic_are_refused() {
    let engine = small(Kernel::detect());
    let (mut file, _) = answer(&engine, Job::new(&[11; 9], 2, 3));
    file.parameters.temperature_q16 = u32::MAX;
    assert!(matches!(verdict(&engine, &file), Err(AuditError::Parameters(_))));
}

/// Nobody signed the tokens, the border of the prompt or the secret of a file: whoever changes
/// them accuses nobody, the file is refused. (One token is an input, the last one only an output.)
#[test]
fn a_file_that_was_changed_convicts_no_stage() {
    let engine = small(Kernel::detect());
    for mode in [TraceMode::Boundary, TraceMode::Full] {
        let mut job = Job::new(&[11; 9], 40, 3);
        job.mode = mode;
        let (good, _) = answer(&engine, job);
        let refused = |change: &dyn Fn(&mut ReceiptFile)| {
            let mut file = good.clone();
            change(&mut file);
            match verdict(&engine, &file) {
                Err(AuditError::Chain { stage, root, .. }) => (stage, root),
                other => panic!("expected a broken chain, got {other:?}"),
            }
        };
        let last = good.tokens.len() - 1;
        assert_eq!(refused(&|f| f.tokens[last] = (f.tokens[last] + 1) % 97), (2, "out"));
        assert_eq!(refused(&|f| f.tokens[15] = (f.tokens[15] + 1) % 97), (0, "in"));
        assert_eq!(refused(&|f| f.tokens[3] = (f.tokens[3] + 1) % 97), (0, "in"));
        assert_eq!(refused(&|f| f.prompt_tokens += 1), (2, "out"));
        assert_eq!(refused(&|f| f.prompt_tokens -= 1), (2, "out"));
        assert_eq!(refused(&|f| f.secret.0[0] ^= 1), (0, "in"));
    }
}

/// A receipt of `stage` with `change`, and all after it, signed again by the stage itself.
fn resigned(file: &mut ReceiptFile, stage: usize, index: usize, change: &dyn Fn(&mut Receipt)) {
    let receipts = &mut file.stages[stage].receipts;
    change(&mut receipts[index].receipt);
    for at in index..receipts.len() {
        if at > index {
            receipts[at].receipt.previous = receipts[at - 1].receipt.struct_hash();
        }
        receipts[at] = receipts[at].receipt.clone().sign(&key(stage));
    }
}

/// Two neighbours who agree on a wrong root between them: the one that computed it is named, not
/// the one that believed it.
#[test]
fn neighbours_who_agree_on_a_lie_are_caught_at_its_source() {
    let engine = small(Kernel::detect());
    let (mut file, _) = answer(&engine, Job::new(&[11; 9], 60, 3));
    resigned(&mut file, 0, 1, &|receipt| receipt.out_root.0[3] ^= 1);
    assert!(matches!(
        verdict(&engine, &file),
        Err(AuditError::Chain { stage: 1, first_token: 32, root: "in", .. })
    ));
    resigned(&mut file, 1, 1, &|receipt| receipt.in_root.0[3] ^= 1);
    let found = fault(&engine, &file);
    assert_eq!((found.stage, found.first_token, found.what), (0, 32, What::OutRoot));
}

/// A last stage that signs and sends another token is found at that token, without any leaf.
#[test]
fn a_signed_wrong_token_is_located_without_leaves() {
    let engine = small(Kernel::detect());
    let (mut file, _) = answer(&engine, Job::new(&[11; 9], 20, 3));
    let last = file.tokens.len() - 1;
    let honest = file.tokens[last];
    file.tokens[last] = (honest + 1) % 97;
    let secrets = file.secret.stage(2);
    let leaf = |at: usize| {
        let token = (at >= 8).then(|| file.tokens[at + 1]);
        Edge::sample(&secrets, at as u32).token_leaf(token)
    };
    let root = merkle::root(&(0..last).map(leaf).collect::<Vec<_>>());
    resigned(&mut file, 2, 0, &|receipt| receipt.out_root = root);
    let found = fault(&engine, &file);
    assert_eq!((found.stage, found.what), (2, What::Token));
    let located = found.located.unwrap();
    assert_eq!((located.place.position as usize, located.place.op), (last - 1, Op::Sample));
    assert_eq!(located.got, ((honest + 1) % 97).to_le_bytes());
    assert_eq!(located.expected, honest.to_le_bytes());
}

/// A liar may interleave KV and trace leaves as it likes, and put a false list beside the right
/// one: the place that is named stays the place of the lie.
#[test]
fn the_order_of_served_leaves_misleads_nobody() {
    let engine = small(Kernel::detect());
    let part = Part::split(4, 3)[1];
    for seed in 0..8 {
        let mut rng = SplitMix64::new(seed);
        let words = [rng.next_u64(), rng.next_u64(), rng.next_u64(), rng.next_u64()];
        let mut job = Job::new(&[11; 9], 20, 3);
        job.drill = Some((1, Drill::new(&part, 28, words)));
        let (mut file, strike) = answer(&engine, job);
        let strike = strike.unwrap();
        let is_kv = |leaf: &ServedLeaf| matches!(Op::from_id(leaf.op), Some(Op::KCodes | Op::VCodes));
        for span in &mut file.stages[1].served {
            span.leaves.sort_by_key(|leaf| (leaf.position, !is_kv(leaf)));
        }
        let mut decoy = file.stages[1].served[0].clone();
        decoy.leaves[0].bytes.clear();
        file.stages[1].served.insert(0, decoy);
        let located = fault(&engine, &file).located.unwrap_or_else(|| panic!("seed {seed}: not located"));
        assert_eq!((located.place, located.row), (strike.place, strike.row), "seed {seed}");
    }
}

/// Hostile leaves: empty, too long, doubled, of other positions, layers and ops, by the thousand.
/// The stage stays convicted of its root, and nothing else is said about it.
#[test]
fn hostile_leaves_change_no_verdict() {
    let engine = small(Kernel::detect());
    let part = Part::split(4, 3)[1];
    let mut job = Job::new(&[11; 9], 20, 3);
    job.drill = Some((1, Drill::new(&part, 28, [1 << 60, 1 << 62, 0, 0])));
    let (file, _) = answer(&engine, job);
    let leaf = |position, layer, op, chunk, bytes| ServedLeaf { position, layer, op, chunk, bytes };
    let hostile: [Vec<ServedLeaf>; 7] = [
        vec![],
        vec![leaf(0, 0, 7, 0, vec![])],
        vec![leaf(0, 0, 2, 0, vec![0; LEAF_BYTES_MAX + 1])],
        vec![leaf(u32::MAX, u16::MAX, 255, u32::MAX, vec![1])],
        vec![leaf(0, 9, 2, u32::MAX, vec![1; 7]); 5000],
        file.stages[0].served[0].leaves.clone(),
        [&file.stages[1].served[0].leaves[..], &file.stages[1].served[0].leaves[..]].concat(),
    ];
    for (case, leaves) in hostile.into_iter().enumerate() {
        let mut file = file.clone();
        file.stages[1].served = vec![ServedSpan { first_token: 0, leaves }];
        let found = fault(&engine, &file);
        assert_eq!((found.stage, found.what, found.located), (1, What::ServedLeaves, None), "case {case}");
    }
}

/// Statements that do not fit the file are refused by name, before anything is computed.
#[test]
fn inconsistent_files_are_refused() {
    let engine = small(Kernel::detect());
    let (good, _) = answer(&engine, Job::new(&[11; 9], 60, 3));
    let refused = |change: &dyn Fn(&mut ReceiptFile)| {
        let mut file = good.clone();
        change(&mut file);
        verdict(&engine, &file).expect_err("the file was changed").to_string()
    };
    let resign = |file: &mut ReceiptFile, stage: usize, index: usize| {
        let receipt = file.stages[stage].receipts[index].receipt.clone();
        file.stages[stage].receipts[index] = receipt.sign(&key(stage));
    };
    assert!(refused(&|f| f.model_root = Digest::ZERO).contains("model"));
    assert!(refused(&|f| f.stages[1].receipts[0].signature.0[5] ^= 1).contains("signature"));
    assert!(refused(&|f| f.stages[1].node = key(5).id()).contains("signature"));
    assert!(refused(&|f| f.stages[1].receipts[1].receipt.out_root.0[0] ^= 1).contains("signature"));
    assert!(
        refused(&|f| {
            f.stages.pop();
        })
        .contains("ends at layer")
    );
    assert!(
        refused(&|f| {
            f.stages[2].receipts.pop();
        })
        .contains("number of receipts")
    );
    assert!(refused(&|f| f.stages[2].receipts.swap(0, 1)).contains("first token"));
    assert!(refused(&|f| f.parameters.max_tokens += 1).contains("parameters"));
    assert!(refused(&|f| f.sampler_seed = Digest::ZERO).contains("sampler seed"));
    assert!(refused(&|f| f.tokens.truncate(9)).contains("at least one of each"));
    assert!(refused(&|f| f.prompt_tokens = 0).contains("at least one of each"));
    assert!(refused(&|f| f.tokens[12] = 4000).contains("below 97"));
    assert!(
        refused(&|f| {
            f.stages[0].receipts[1].receipt.previous = Digest::ZERO;
            resign(f, 0, 1);
        })
        .contains("previous")
    );
    assert!(
        refused(&|f| {
            f.stages[0].receipts[0].receipt.flags |= 1;
            resign(f, 0, 0);
        })
        .contains("closing")
    );
    assert!(
        refused(&|f| {
            f.stages[0].receipts[0].receipt.part.end_layer = 3;
            resign(f, 0, 0);
        })
        .contains("part")
    );
    // What this version cannot check is not waved through.
    let signed = |change: &dyn Fn(&mut Receipt)| refused(&|f| resigned(f, 1, 1, change));
    assert!(signed(&|r| r.commit_out.0[0] = 1).contains("commitment to what left"));
    assert!(signed(&|r| r.code.0[0] = 1).contains("code is set"));
    assert!(signed(&|r| r.commit_in.0[0] = 1).contains("commitment to what entered"));
    assert!(signed(&|r| r.flags |= FLAG_PROVABLE).contains("expected one"));
    assert!(signed(&|r| r.audit_class.0[0] = 1).contains("audit class"));
    assert!(signed(&|r| r.flags ^= FLAG_FULL_TRACE).contains("flags is 0x00, expected 0x02"));
    assert!(signed(&|r| r.flags |= 0x80).contains("flags"));
    assert!(signed(&|r| r.opset = "\u{1b}[2J".into()).contains("\\u{1b}"));
    let context = small_config().context as usize;
    assert!(refused(&|f| f.tokens.resize(context + 2, 1)).contains("the context of the model"));
}

/// receipts.md, 9: commitments of provable receipts are computed again by whoever can; the stage that committed to other rows than left it is named, and who cannot
/// compute them says so.
#[test]
fn commitments_are_audited() {
    let engine = small(Kernel::detect());
    let (mut file, _) = answer(&engine, Job::new(&[11; 9], 60, 3));
    let last = file.stages[0].receipts.len() - 1;
    let stages = file.stages.len();
    let between = |file: &mut ReceiptFile, stage: usize, commitment: Digest| {
        resigned(file, stage, last, &|r| (r.flags, r.commit_out) = (r.flags | FLAG_PROVABLE, commitment));
        resigned(file, stage + 1, last, &|r| (r.flags, r.commit_in) = (r.flags | FLAG_PROVABLE, commitment));
    };
    (0..stages - 1).for_each(|stage| between(&mut file, stage, Digest([1; 32])));
    assert_eq!(verdict(&engine, &file), Err(AuditError::Commitments));
    // Each fault tells what should have been committed to.
    let computed = std::cell::Cell::new(Digest::ZERO);
    let commit = |rows: &[i32]| {
        let bytes: Vec<u8> = rows.iter().flat_map(|x| x.to_le_bytes()).collect();
        computed.set(Digest::of(&[&bytes]));
        computed.get()
    };
    let check = |file: &ReceiptFile| {
        audit_committed(file, &MODEL_ROOT, &engine, (None, Some(&commit)), &mut |_, _| {})
            .expect("consistent")
    };
    for expected in 0..stages - 1 {
        let Verdict::Fault(fault) = check(&file) else {
            panic!("stage {expected} committed to nothing real")
        };
        assert_eq!((fault.stage, fault.what), (expected, What::Commitment));
        assert_eq!((fault.node, fault.end_token), (key(expected).id(), 68));
        between(&mut file, expected, computed.get());
    }
    assert!(matches!(check(&file), Verdict::Verified { tokens: 68, .. }));
    // What entered is what the stage before committed to.
    resigned(&mut file, 1, last, &|r| r.commit_in = Digest([1; 32]));
    let broken = audit_committed(&file, &MODEL_ROOT, &engine, (None, Some(&commit)), &mut |_, _| {});
    assert!(broken.expect_err("another commitment").to_string().contains("commitment to what entered"));
}
