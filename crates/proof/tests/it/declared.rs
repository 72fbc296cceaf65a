//! Declarations (proofs.md, 3): how wide values are is what the prover says, and nothing that it says makes a false statement true.

use crate::decoder::{answered, config, is_open_here};
use crate::harness::Case;
use lockstep_base::Digest;
use lockstep_base::config::ModelConfig;
use lockstep_base::rng::SplitMix64;
use lockstep_base::weights::{ModelWeights, WeightFormat};
use lockstep_proof::decoder::statement::Answer;
use lockstep_proof::decoder::{prove, verify};
use lockstep_proof::error::VerifyError;
use lockstep_proof::gadget::Lie;
use lockstep_proof::proof::Proof;
use lockstep_runtime::synthetic;
use std::sync::Arc;

const ROOT: Digest = Digest([7; 32]);

/// A small model with an answer of two tokens to three.
fn small(kind: usize, seed: u64) -> (Arc<ModelWeights>, Vec<u32>) {
    let config = ModelConfig { n_layers: 1, vocab: 9, ..config(kind) };
    let weights = Arc::new(synthetic::model(&config, WeightFormat::Int8, seed));
    let tokens = answered(&weights, seed, 3, 2);
    (weights, tokens)
}

/// Every how many declarations are changed: all with `LOCKSTEP_SLOW`.
fn step() -> usize {
    if std::env::var_os("LOCKSTEP_SLOW").is_some() { 1 } else { 9 }
}

/// Each declaration one less, one more, and beyond what there is: less is mostly refused, because the witness does not fit; more is at most dearer, or another way to prove the same.
#[test]
fn declaring_too_little_is_refused() {
    let (mut less, mut more) = (0, 0);
    for kind in 0..2 {
        let seed = 80 + kind as u64;
        let (weights, tokens) = small(kind, seed);
        let answer = Answer::greedy(&weights, ROOT, &tokens, 2);
        let truth = Case::answered(answer, None, None);
        assert_eq!(truth.check(&truth.witness), Ok(()), "seed {seed}");
        for at in (kind..truth.declared.len()).step_by(step()) {
            let declaring = |said: u8| {
                let mut declared = truth.declared.clone();
                declared[at] = said;
                let case = Case::answered(answer, None, Some(&declared));
                case.check(&case.witness)
            };
            let honest = truth.declared[at];
            assert!(declaring(u8::MAX).is_err(), "seed {seed}, declaration {at}");
            if honest > 0 {
                less += usize::from(declaring(honest - 1).is_err());
            }
            more += usize::from(declaring(honest + 1).is_ok());
        }
    }
    eprintln!("{less} refused, {more} accepted");
    assert!(less > 5 && more > 5, "{less} refused, {more} accepted");
}

/// Lies with declarations that are wrong in one place, or are not those of the circuit.
#[test]
fn no_declaration_makes_a_lie_believed() {
    let (mut tried, mut accepted) = (0, Vec::new());
    for kind in 0..2 {
        let seed = 90 + kind as u64;
        let (weights, tokens) = small(kind, seed);
        let answer = Answer::greedy(&weights, ROOT, &tokens, 2);
        let truth = Case::answered(answer, None, None);
        let mut rng = SplitMix64::new(seed);
        for (value, (name, cells)) in truth.values.iter().enumerate().skip(kind).step_by(step()) {
            let mut declared = truth.declared.clone();
            let at = rng.below(declared.len() as u64) as usize;
            declared[at] = rng.below(u64::from(declared[at]) + 3) as u8;
            // Values are counted where they are; another circuit may have others.
            let honest = Case::answered(answer, None, Some(&declared));
            let value = value.min(honest.values.len() - 1);
            let by = [1, -1, 1 << 16, 1 << rng.below(20)][value % 4];
            let lie = Lie { value, at: rng.below(*cells as u64) as usize, by };
            let lying = Case::answered(answer, Some(lie), Some(&declared));
            if lying.says_the_same_as(&honest) {
                continue;
            }
            tried += 1;
            let said = &honest.values[value].0;
            let open = is_open_here(&honest, &lying, said, lie.at % honest.values[value].1);
            if lying.check(&lying.witness).is_ok() && !open {
                accepted.push(format!(
                    "seed {seed}: {said} ({name}): {lie:?}, declaration {at}: {}",
                    declared[at]
                ));
            }
        }
    }
    eprintln!("{tried} lies");
    assert!(accepted.is_empty(), "{} of {tried} accepted:\n{}", accepted.len(), accepted.join("\n"));
    assert!(tried > 20, "only {tried} lies");
}

/// Declarations are read as they are asked for: one less or one more moves all that follows, and none is larger than a circuit allows.
#[test]
fn declarations_are_read_one_by_one() {
    let (weights, tokens) = small(0, 81);
    let answer = Answer::greedy(&weights, ROOT, &tokens, 2);
    let count = Case::answered(answer, None, None).declared.len();
    let proof = prove(&answer).expect("a proof");
    assert_eq!(verify(&answer, &proof), Ok(()));
    let body = proof.body();
    for at in 0..count {
        let mut longer = body.to_vec();
        longer.insert(at, body[at]);
        assert!(verify(&answer, &Proof::new(&longer)).is_err(), "one more at {at}");
        let mut shorter = body.to_vec();
        shorter.remove(at);
        assert!(verify(&answer, &Proof::new(&shorter)).is_err(), "one less at {at}");
        let mut other = body.to_vec();
        other[at] = u8::MAX;
        let error = verify(&answer, &Proof::new(&other)).expect_err("more than there is");
        assert!(
            matches!(error, VerifyError::Declared { at: place, got: 255, .. } if place == at),
            "{at}: {error}"
        );
        // Whatever fits is absorbed: no byte of the argument is for it.
        other[at] = body[at] ^ 1;
        assert!(verify(&answer, &Proof::new(&other)).is_err(), "another at {at}");
        let ended = verify(&answer, &Proof::new(&body[..at])).expect_err("an end");
        assert_eq!(ended, VerifyError::Truncated { got: 0, expected: 1 }, "cut off at {at}");
    }
}
