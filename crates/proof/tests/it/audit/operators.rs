//! Operators that only some families, or some requests, have (proofs.md, 3): the circuit has the runtime's integers, and no lie about any value of it holds in all cells.

use super::satisfied::{Checker, Item};
use super::subjects::{Kind, Subject, encoders, experts, matrices, norms_and_caps, samplers};
use crate::decoder::is_open_here;
use crate::harness::Case;
use lockstep_base::rng::SplitMix64;
use lockstep_proof::decoder::statement::{Answer, Claim, Sampling};
use lockstep_proof::decoder::{prove, verify};
use lockstep_proof::error::PlanError;
use lockstep_proof::file::make::{Order, make};
use lockstep_proof::gadget::Lie;
use lockstep_proof::key::Key;
use lockstep_runtime::synthetic;

fn broken(case: &Case<'_>) -> Vec<String> {
    let checker = Checker::new(&case.argument.circuit);
    checker.violated(&case.witness).into_iter().map(|item| checker.describe(item)).collect()
}

/// What the runtime answers violates nothing, for some models and prompts of each kind; any other token, or value of a vector, violates something.
fn only_the_answer_holds(kinds: &[Kind]) {
    for kind in kinds {
        for seed in 0..6 {
            let what = format!("{}, seed {seed}", kind.name);
            let subject = kind.answered(seed, 4 + 3 * (seed as usize % 3), 2);
            let case = Case::answered(subject.answer(), None, None);
            assert_eq!(broken(&case), [""; 0], "{what}");
            if seed == 0 {
                let answer = subject.answer();
                let proof = prove(&answer).unwrap_or_else(|error| panic!("{what}: {error}"));
                verify(&answer, &proof).unwrap_or_else(|error| panic!("{what}: {error}"));
                let plain = Answer { adapter: None, ..answer };
                assert!(answer.adapter.is_none() || verify(&plain, &proof).is_err(), "{what}: no adapter");
            }
        }
        let (seed, small) = (7, kind.small());
        let subject = small.answered(seed, 3, 2);
        for (at, other) in others(&subject).into_iter().enumerate() {
            let case = Case::answered(other.answer(), None, None);
            assert_ne!(broken(&case), [""; 0], "{}, seed {seed}: answer {at}", kind.name);
        }
    }
}

/// The same question with other answers.
fn others(subject: &Subject) -> Vec<Subject> {
    let last = subject.tokens.len() - 1;
    let mut all = Vec::new();
    let with = |tokens: Vec<u32>, vector: Option<Vec<i32>>| subject.with(tokens, vector);
    match &subject.vector {
        None => {
            for token in (0..subject.weights.config.vocab).filter(|token| *token != subject.tokens[last]) {
                let mut tokens = subject.tokens.clone();
                tokens[last] = token;
                all.push(with(tokens, None));
            }
        }
        Some(vector) => {
            for (at, by) in (0..vector.len()).flat_map(|at| [(at, 1), (at, -1)]) {
                let mut vector = vector.clone();
                vector[at] += by;
                all.push(with(subject.tokens.clone(), Some(vector)));
            }
        }
    }
    all
}

#[test]
fn only_answers_with_norms_and_caps_hold() {
    only_the_answer_holds(&norms_and_caps());
}

#[test]
fn only_answers_of_experts_hold() {
    only_the_answer_holds(&experts());
}

#[test]
fn only_answers_of_other_matrices_hold() {
    only_the_answer_holds(&matrices());
}

#[test]
fn only_tokens_that_are_drawn_hold() {
    only_the_answer_holds(&samplers());
}

#[test]
fn only_vectors_of_encoders_hold() {
    only_the_answer_holds(&encoders());
}

/// key.rs: a key of answers with an adapter is enough; one without it, or of another, is not.
#[test]
fn a_key_of_an_adapter_is_enough() {
    let subject = matrices()[0].answered(3, 4, 2);
    let answer = subject.answer();
    let (weights, adapter) = (answer.weights, answer.adapter.expect("an adapter"));
    let ends = [weights.layers.len()];
    let key = Key::adapted(weights, adapter, answer.root, &ends).expect("a key");
    let read = Key::from_bytes(&key.to_bytes()).expect("our own key");
    assert_eq!(read.digest(), key.digest());
    let order = Order { answer, ends: &ends, between: &[], sample: None, key: Some(&key), kept: None };
    let file = make(&order, &mut |_, _, _| {}).expect("a file");
    assert_eq!(file.verify_with_key(&read), Ok(()));
    let plain = Key::new(weights, answer.root, &ends).expect("a key");
    let other = synthetic::adapter(weights, answer.root, 5, 99);
    let other = Key::adapted(weights, &other, answer.root, &ends).expect("a key");
    for wrong in [plain, other] {
        assert!(file.verify_with_key(&wrong).is_err());
        let mut claimed = file.clone();
        claimed.keyed.as_mut().expect("rows").digest = wrong.digest();
        assert!(claimed.verify_with_key(&wrong).is_err());
    }
}

/// Another seed, temperature, number or mass is another statement.
#[test]
fn what_is_drawn_is_part_of_the_statement() {
    let subject = samplers()[3].answered(5, 4, 2);
    let answer = subject.answer();
    let proof = prove(&answer).expect("a proof");
    assert_eq!(verify(&answer, &proof), Ok(()));
    let Claim::Sampled(numbers) = answer.claim else { panic!("a sampled answer") };
    let seed = lockstep_base::Digest([1; 32]);
    let claims = [
        Claim::Greedy,
        Claim::Sampled(Sampling { seed, ..numbers }),
        Claim::Sampled(Sampling { temperature_q16: numbers.temperature_q16 - 1, ..numbers }),
        Claim::Sampled(Sampling { top_k: numbers.top_k + 1, ..numbers }),
        Claim::Sampled(Sampling { top_p_q16: numbers.top_p_q16 + 1, ..numbers }),
    ];
    for claim in claims {
        assert!(verify(&Answer { claim, ..answer }, &proof).is_err(), "{claim:?}");
    }
    let vector = Claim::Pooled(&[]);
    let refused = verify(&Answer { claim: vector, ..answer }, &proof).expect_err("no encoder");
    assert!(matches!(
        refused,
        lockstep_proof::error::VerifyError::Plan(PlanError::Unsupported { .. } | PlanError::Tokens { .. })
    ));
}

/// Every value of every operator, wrong by little, by a limb, by much, with all behind it computed from the lie: something is violated. The argument says the same, now and
/// then.
fn no_lie_holds(kinds: &[Kind]) {
    let cases = if std::env::var_os("LOCKSTEP_SLOW").is_some() { 50 } else { 1 };
    for (number, kind) in kinds.iter().enumerate() {
        let seed = 40 + number as u64;
        let subject = kind.small().answered(seed, 3, 2);
        let answer = subject.answer();
        let truth = Case::answered(answer, None, None);
        let checker = Checker::new(&truth.argument.circuit);
        let mut rng = SplitMix64::new(seed);
        let (mut tried, mut believed) = (0, Vec::new());
        for (value, (name, cells)) in truth.values.iter().enumerate() {
            if name.starts_with("tables") {
                continue;
            }
            for case in 0..cases {
                let by = match (case + value) % 4 {
                    0 => 1,
                    1 => -1,
                    2 => 1 << 16,
                    _ => (1 << rng.below(20)) + 1,
                };
                let lie = Lie { value, at: rng.below(*cells as u64) as usize, by };
                let lying = Case::answered(answer, Some(lie), Some(&truth.declared));
                if lying.says_the_same_as(&truth) {
                    continue;
                }
                tried += 1;
                let mut broken = checker.violated_since(&lying.witness, &truth.witness);
                let product = name.rsplit_once("product ").and_then(|(_, at)| at.parse().ok());
                broken.extend(product.map(Item::Contraction));
                // An encoder sees everything.
                let seen = subject.vector.is_some() && (name.ends_with(": score") || name.ends_with("shift"));
                let open = !seen && is_open_here(&truth, &lying, name, lie.at);
                if broken.is_empty() && !open {
                    believed.push(format!("{name}: {lie:?}"));
                }
                if tried % 150 == 0 {
                    let accepted = lying.check(&lying.witness).is_ok();
                    assert_eq!(accepted, broken.is_empty(), "{}, seed {seed}: {name}: {lie:?}", kind.name);
                }
            }
        }
        let values = truth.values.len();
        eprintln!("{}, seed {seed}: {tried} lies about {values} values", kind.name);
        assert!(believed.is_empty(), "{}: {} believed:\n{}", kind.name, believed.len(), believed.join("\n"));
        assert!(tried > 200, "{}: only {tried} lies", kind.name);
    }
}

/// proofs.md, 6: norms of queries and keys and behind sublayers, rotated streams, caps, slopes.
#[test]
fn no_lie_about_norms_and_caps_holds() {
    no_lie_holds(&norms_and_caps());
}

/// proofs.md, 6: routers and experts.
#[test]
fn no_lie_about_experts_holds() {
    no_lie_holds(&experts());
}

/// proofs.md, 6: adapters, weights of 16 bits.
#[test]
fn no_lie_about_other_matrices_holds() {
    no_lie_holds(&matrices());
}

/// proofs.md, 6: what is drawn.
#[test]
fn no_lie_about_a_draw_holds() {
    no_lie_holds(&samplers()[1..4]);
}

/// proofs.md, 6: layer norms, attention to both sides, pooling.
#[test]
fn no_lie_about_an_encoder_holds() {
    no_lie_holds(&encoders());
}

/// arithmetic.md, 6, steps 5 and 6: sums of several blocks, of rows that see all of them and of rows that see the last ones, one row that sees 256 positions and one that sees
/// 255 among them: nothing is violated, and what the runtime does not answer is.
#[test]
fn sums_of_blocks_are_those_of_the_runtime() {
    for (number, (prompt, window)) in
        [(200, 0), (256, 0), (300, 0), (300, 257), (300, 100)].into_iter().enumerate()
    {
        let mut kind = norms_and_caps().remove(0).small();
        kind.config.context = 512;
        kind.config.n_heads = 2;
        kind.config.n_kv_heads = 1;
        kind.config.pattern[0].window = window;
        let seed = 90 + number as u64;
        let subject = kind.answered(seed, prompt, 1);
        let case = Case::answered(subject.answer(), None, None);
        assert_eq!(broken(&case), [""; 0], "seed {seed}: {prompt} tokens, a window of {window}");
        if number == 2 {
            assert_eq!(case.check(&case.witness), Ok(()), "seed {seed}");
            let mut rng = SplitMix64::new(seed);
            let checker = Checker::new(&case.argument.circuit);
            for (value, (name, cells)) in case.values.iter().enumerate() {
                if !name.contains("of a block") {
                    continue;
                }
                for by in [1, -1, 4] {
                    let lie = Lie { value, at: rng.below(*cells as u64) as usize, by };
                    let lying = Case::answered(subject.answer(), Some(lie), Some(&case.declared));
                    let broken = checker.violated_since(&lying.witness, &case.witness);
                    assert!(
                        lying.says_the_same_as(&case) || !broken.is_empty(),
                        "seed {seed}: {name}: {lie:?}"
                    );
                }
            }
        }
    }
}
