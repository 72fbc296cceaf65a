//! What a node changes is caught: by a signature, by a state machine, or by a timeout.

use crate::{TOY, failed, finished, small_limits, toy_model};
use lockstep_base::rng::SplitMix64;
use lockstep_mesh::receipts::ReceiptError;
use lockstep_mesh::route::{Failure, Reason};
use lockstep_sim::fault::{Fault, Lie};
use lockstep_sim::world::{End, Request, run};

/// The stages that a failure may name when `stage` told the lie, and how it is found.
fn caught(lie: Lie, stage: u16, failure: &Failure) -> bool {
    let named = failure.stage == Some(stage);
    let next = failure.stage == Some(stage + 1);
    let receipt = |error: &ReceiptError| matches!(&failure.reason, Reason::Receipt(got) if core::mem::discriminant(got) == core::mem::discriminant(error));
    let signer = ReceiptError::Signature { stage: 0, span: 0 };
    let signed = matches!(failure.reason, Reason::Receipt(ReceiptError::Signer { .. })) || receipt(&signer);
    let remote = matches!(failure.reason, Reason::Remote { .. });
    let lost = matches!(failure.reason, Reason::Lost(_));
    match lie {
        // The last stage's out root follows from its tokens, the others' from its signature.
        Lie::OutRoot => {
            named && (signed || matches!(failure.reason, Reason::Receipt(ReceiptError::OutRoot { .. })))
        }
        Lie::StateRoot | Lie::Signature => named && signed,
        Lie::Span | Lie::Stage | Lie::Flags | Lie::SkipReceipt | Lie::SkipClosing => {
            named && matches!(failure.reason, Reason::Receipt(_))
        }
        Lie::RepeatReceipt => named && matches!(failure.reason, Reason::Receipt(_)),
        // The token is fed back, and the receipt says another one.
        Lie::Token => named && matches!(failure.reason, Reason::Receipt(ReceiptError::OutRoot { .. })),
        Lie::ForeignToken => named && matches!(failure.reason, Reason::Unexpected { .. }),
        // What was sent is not what was signed: the next stage signed what it got.
        Lie::Row => next && signed,
        Lie::RowRange | Lie::RowWidth | Lie::Position | Lie::Branch | Lie::RepeatData => named && remote,
        Lie::SkipData => named && remote || next && matches!(failure.reason, Reason::Timeout { .. }),
        Lie::Padding | Lie::ControlGarbage => named && lost,
        // The next stage hangs up, and both tell the gateway of the other.
        Lie::StageGarbage => (named || next) && remote,
        Lie::HalfFrame => named && matches!(failure.reason, Reason::Timeout { .. }),
    }
}

/// Law: every kind of lie, by every stage that can tell it, at several places, is caught, and the
/// failure names the liar (or the pair where only re-execution can tell).
#[test]
fn every_lie_is_caught() {
    let request = [Request::new(vec![9; 100], 40)];
    for lie in Lie::ALL {
        let mut told = 0;
        for seed in 0..24u64 {
            let mut rng = SplitMix64::new(seed ^ 0x11e5);
            let stage = rng.below(3) as u16;
            let nth = [0, 0, 1, 2, 10][rng.below(5) as usize];
            let faults = [Fault::Lie { stage, lie, nth }];
            let report = run(seed, &toy_model(TOY), 3, &request, &small_limits(), &faults);
            if !report.lies_told {
                finished(&report, 0, seed);
                continue;
            }
            told += 1;
            if let Some(End::Finished(_)) = &report.ends[0] {
                // Garbage after the last needed byte changes nothing.
                assert!(
                    matches!(lie, Lie::Padding | Lie::ControlGarbage | Lie::HalfFrame),
                    "seed {seed}: {lie:?} by stage {stage} passed"
                );
                continue;
            }
            let failure = failed(&report, 0, seed);
            assert!(
                caught(lie, stage, failure),
                "seed {seed}: {lie:?} by stage {stage}, message {nth}: {failure:?}"
            );
        }
        assert!(told >= 3, "{lie:?} was told {told} times, expected at least 3");
    }
}

/// Law: a node that signs with another key is named at its first receipt.
#[test]
fn a_wrong_key_is_named() {
    for seed in 0..12 {
        let stage = (seed % 4) as u16;
        let request = [Request::new(vec![1; 40], 10)];
        let report = run(seed, &toy_model(TOY), 4, &request, &small_limits(), &[Fault::WrongKey { stage }]);
        let failure = failed(&report, 0, seed);
        assert_eq!(failure.stage, Some(stage), "seed {seed}: {failure}");
        let wrong = matches!(failure.reason, Reason::Receipt(ReceiptError::Signer { span: 0, got, expected, .. }) if got != expected);
        assert!(wrong, "seed {seed}: {failure}");
    }
}

/// Law: no flipped bit of a wire receipt passes: every bit of every field, at every stage.
#[test]
fn no_flipped_bit_of_a_receipt_passes() {
    let request = [Request::new(vec![2; 33], 1)];
    for seed in 0..120 {
        let lie = [Lie::OutRoot, Lie::StateRoot, Lie::Signature, Lie::Flags][seed as usize % 4];
        let stage = (seed / 4 % 3) as u16;
        let faults = [Fault::Lie { stage, lie, nth: seed / 12 % 2 }];
        let report = run(seed, &toy_model(TOY), 3, &request, &small_limits(), &faults);
        assert!(report.lies_told, "seed {seed}");
        let failure = failed(&report, 0, seed);
        assert_eq!(failure.stage, Some(stage), "seed {seed}: {lie:?}: {failure}");
    }
}
