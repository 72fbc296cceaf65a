//! Hostile files (file.rs), and files whose fields somebody set after reading them: what no proof shows is never accepted.

use super::cbor::Value;
use crate::stages::{Chain, ROOT, made};
use lockstep_base::Digest;
use lockstep_base::weights::WeightFormat;
use lockstep_proof::file::make::{Order, make};
use lockstep_proof::file::{AnswerFile, FILE_TOKENS_MAX, FileError, Sample};
use lockstep_proof::key::{Key, KeyError};

/// file.rs: a file that lacks a proof of a stage is refused by whoever verifies it, however it was made: not only by whoever reads it from bytes.
#[test]
fn what_has_no_proof_is_not_verified() {
    let chain = Chain::new(0, WeightFormat::Int8);
    let key = Key::new(&chain.weights, ROOT, &[1, 2]).expect("a key");
    for key in [None, Some(&key)] {
        let verify = |file: &AnswerFile| match key {
            None => file.verify(&chain.weights, ROOT),
            Some(key) => file.verify_with_key(key),
        };
        let honest = made(&chain, key, None);
        assert_eq!(verify(&honest), Ok(()));
        for stage in 0..2 {
            let mut lacking = honest.clone();
            lacking.stages[stage].proof = None;
            assert_eq!(verify(&lacking), Err(FileError::Drawn { stage, proved: false }));
        }
        let mut nothing = honest.clone();
        nothing.stages.iter_mut().for_each(|stage| stage.proof = None);
        nothing.tokens[7] ^= 1;
        assert!(verify(&nothing).is_err(), "no proof at all");
        for stages in [0, 2, u32::MAX] {
            let mut sampled = nothing.clone();
            sampled.sample = Some(Sample { stages, beacon: ROOT });
            assert!(verify(&sampled).is_err(), "a draw of {stages}");
        }
        for tokens in [0, 1] {
            let mut few = honest.clone();
            few.tokens.truncate(tokens);
            assert_eq!(
                verify(&few),
                Err(FileError::Tokens { got: tokens, least: 2, limit: FILE_TOKENS_MAX })
            );
        }
    }
}

/// few.rs: a list of a million parts that take four bytes each is refused for its length, before there is memory for it.
#[test]
fn long_lists_are_refused_before_they_are_made() {
    let chain = Chain::new(0, WeightFormat::Int8);
    let key = Key::new(&chain.weights, ROOT, &[1, 2]).expect("a key");
    let file = made(&chain, Some(&key), None).to_bytes();
    let (head, body) = file.split_at(10);
    let empty = |parts: usize| Value::Array(vec![Value::Null; parts]);
    let long = |value: &Value, path: &[usize], part: Value| {
        let mut value = value.clone();
        *value.at(path) = Value::Array(vec![part; 1 << 20]);
        value.bytes()
    };
    let row = Value::Array(vec![Value::Bytes(Vec::new()), empty(0)]);
    let stage = Value::Array(vec![Value::Integer(0), Value::Null, Value::Null]);
    let digest = Value::Bytes(vec![0; 32]);
    let body = Value::read(body);
    for (path, part) in [(&[5][..], &stage), (&[7, 1], &row), (&[7, 1, 0, 1], &digest)] {
        let refused = AnswerFile::from_bytes(&[head, &long(&body, path, part.clone())].concat());
        let refused = refused.expect_err("a million parts").to_string();
        assert!(refused.contains("more parts"), "{path:?}: {refused}");
    }
    let body = Value::read(&key.to_bytes());
    for path in [[3], [6], [10]] {
        let refused = Key::from_bytes(&long(&body, &path, empty(0))).expect_err("a million parts");
        assert!(
            matches!(&refused, KeyError::Cbor(_)) && refused.to_string().contains("more parts"),
            "{path:?}: {refused}"
        );
    }
}

/// file.rs: a beacon that the prover chooses shows nothing. The first stage embeds a prompt, the second one is entered by rows of another prompt and answers that; every beacon that draws the
/// second stage alone gives a file that holds. So a sampled file means something only to whoever knows its beacon from elsewhere.
#[test]
fn a_beacon_that_the_prover_chooses_shows_nothing() {
    let honest = Chain::new(0, WeightFormat::Int8);
    let mut lying = Chain::of(0, WeightFormat::Int8, 11);
    let prompt = lying.tokens.len() - 3;
    assert_ne!(honest.tokens[prompt..], lying.tokens[prompt..], "the prompts have the same answer");
    lying.tokens[..prompt].copy_from_slice(&honest.tokens[..prompt]);
    let beacon = |seed| Sample { stages: 1, beacon: Digest([seed; 32]) };
    let draws = |sample| {
        let between = [lying.between.clone()];
        let order = Order {
            answer: lying.answer(),
            ends: &[1, 2],
            between: &between,
            sample: Some(sample),
            key: None,
            kept: None,
        };
        make(&order, &mut |_, _, _| {}).expect("a file")
    };
    let file = (0..16).map(|seed| draws(beacon(seed))).find(|file| file.stages[1].proof.is_some());
    let mut file = file.expect("one of 16 beacons draws the second stage");
    assert_eq!(file.verify(&lying.weights, ROOT), Ok(()), "the stage that was drawn holds");
    // All stages are another matter.
    file.sample = None;
    assert!(file.verify(&lying.weights, ROOT).is_err());
}
