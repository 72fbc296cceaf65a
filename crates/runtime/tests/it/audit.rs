//! Audits: honest receipts verify; one flipped bit anywhere is found at its exact place; a file
//! that was changed is refused.

use crate::pipeline::{Job, MODEL_ROOT, answer, engine, key};
use lockstep_base::Digest;
use lockstep_base::limits::SPAN_TOKENS;
use lockstep_base::part::Part;
use lockstep_base::receipt_file::ReceiptFile;
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::WeightFormat;
use lockstep_runtime::audit::{AuditError, Fault, Verdict, What, audit};
use lockstep_runtime::drill::Drill;
use lockstep_runtime::forward::Engine;
use lockstep_runtime::kernels::Kernel;
use lockstep_runtime::synthetic::small_config;
use lockstep_runtime::trace::TraceMode;

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

/// The promise: one flipped bit in one activation, at a random place, is located to stage, token,
/// layer, op and row, 100 times of 100; compared with the liar's own note.
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
    assert!(ops.len() >= 18, "the faults hit only {ops:?}");
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

/// A changed answer is found, whoever changed it.
#[test]
fn a_changed_token_is_found() {
    let engine = small(Kernel::detect());
    let (mut file, _) = answer(&engine, Job::new(&[11; 9], 20, 3));
    let last = file.tokens.len() - 1;
    file.tokens[last] = (file.tokens[last] + 1) % 97;
    let found = fault(&engine, &file);
    assert_eq!((found.stage, found.what), (2, What::Token));
    // A token in the middle was also an input, which the first stage signed.
    let (mut file, _) = answer(&engine, Job::new(&[11; 9], 20, 3));
    file.tokens[15] = (file.tokens[15] + 1) % 97;
    assert_eq!((fault(&engine, &file).stage, fault(&engine, &file).what), (0, What::InRoot));
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
    // The secret makes every leaf: another one changes the first root.
    let mut file = good.clone();
    file.secret.0[0] ^= 1;
    assert_eq!(fault(&engine, &file).what, What::InRoot);
}
