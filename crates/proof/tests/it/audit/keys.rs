//! Hostile keys (key.rs): whoever wrote one may have chosen every number of it.

use super::cbor::Value;
use crate::stages::{Chain, ROOT, made};
use lockstep_base::weights::WeightFormat;
use lockstep_proof::file::AnswerFile;
use lockstep_proof::key::Key;
use std::panic::catch_unwind;

/// A key of two stages, an answer that was proved for it, and the key as a value.
fn keyed(kind: usize) -> (AnswerFile, Value) {
    let chain = Chain::new(kind, WeightFormat::Int8);
    let key = Key::new(&chain.weights, ROOT, &[1, 2]).expect("a key");
    (made(&chain, Some(&key), None), Value::read(&key.to_bytes()))
}

/// What `value` may be instead.
fn others(value: &Value) -> Vec<Value> {
    match value {
        Value::Integer(x) => {
            let small = [0i128, 1, -1, 12, 61, 127, -128, 255, 32_768, -32_768, 65_536];
            let large =
                [1 << 20, 2_130_706_433, i32::MAX.into(), i32::MIN.into(), u32::MAX.into(), u64::MAX.into()];
            small.into_iter().chain(large).chain([x - 1, x + 1]).map(Value::Integer).collect()
        }
        Value::Bytes(bytes) => {
            let filled = [0, 31, 60, 255].map(|byte| Value::Bytes(vec![byte; bytes.len()]));
            let many = (0..bytes.len()).map(|at| (at % 61) as u8).collect();
            filled.into_iter().chain([Value::Bytes(Vec::new()), Value::Bytes(many)]).collect()
        }
        Value::Text(_) => vec![Value::Text(String::new()), Value::Null],
        Value::Bool(x) => vec![Value::Bool(!x)],
        Value::Null => vec![Value::Integer(0), Value::Integer(14), Value::Array(Vec::new())],
        Value::Array(_) => Vec::new(),
    }
}

/// key.rs: with any number of a key at the edge of its type, the bounds of the arithmetic or the order of the field, it is refused, or a key of something else:
/// a verifier neither stops nor accepts the answer.
#[test]
fn numbers_of_keys_at_their_edges() {
    // The second has learned positions and a plain block.
    for kind in 0..if std::env::var_os("LOCKSTEP_SLOW").is_some() { 2 } else { 1 } {
        let (file, honest) = keyed(kind);
        let (mut read, mut wrong) = (0, Vec::new());
        let first_layer = |path: &Vec<usize>| !path.starts_with(&[6, 1]);
        for path in honest.leaves(40).into_iter().filter(first_layer) {
            for other in others(honest.clone().at(&path)) {
                let mut hostile = honest.clone();
                if *hostile.at(&path) == other {
                    continue;
                }
                *hostile.at(&path) = other.clone();
                let checked = catch_unwind(|| {
                    let key = Key::from_bytes(&hostile.bytes()).ok()?;
                    let mut claimed = file.clone();
                    claimed.root = key.root();
                    claimed.keyed.as_mut().expect("rows").digest = key.digest();
                    Some(claimed.verify_with_key(&key).is_ok())
                });
                read += usize::from(matches!(checked, Ok(Some(_))));
                match checked {
                    Err(_) => wrong.push(format!("{path:?}: {other:?} stops the verifier")),
                    Ok(Some(true)) if !decides_nothing(&path) => {
                        wrong.push(format!("{path:?}: {other:?} is accepted"));
                    }
                    Ok(_) => {}
                }
            }
        }
        assert!(read > 200, "kind {kind}: only {read} read");
        assert!(wrong.is_empty(), "kind {kind}: {wrong:#?}");
    }
}

/// Whether what lies at a path of a key is in no statement, or may be another number in the same one: names and special tokens, windows that cover all tokens, and entries of the
/// activation that are rounded, and weights by which a greedy answer does not draw.
fn decides_nothing(path: &[usize]) -> bool {
    matches!(path, [2, 1 | 14 | 15, ..] | [2, 25, 0, 0] | [5 | 15, ..])
}

/// key.rs and arithmetic.md, 9: what a bundle could not hold is no part of a key either.
#[test]
fn keys_hold_what_a_bundle_holds() {
    let (_, honest) = keyed(0);
    assert!(Key::from_bytes(&honest.bytes()).is_ok(), "the path of this test");
    let (layer, matrix) =
        (|part: &[usize]| [&[6, 0], part].concat(), |of: usize, part: usize| vec![6, 0, of, part]);
    let integer = |x: i64| Value::Integer(x.into());
    let hostile = [
        ("a gate of 12 fractional bits", vec![6, 0, 4, 0, 0, 6], integer(12)),
        ("a gate of -128 fractional bits", vec![6, 0, 4, 0, 0, 6], integer(-128)),
        ("queries of 15 fractional bits", matrix(0, 6), integer(15)),
        ("a static shift by 31", matrix(0, 5), integer(31)),
        ("an output of other fractional bits than the stream", matrix(3, 6), integer(0)),
        ("a centre that is the order of the field", layer(&[6, 0]), integer(2_130_706_433)),
        ("a centre of -2^31", layer(&[6, 0]), integer(-1 << 31)),
        ("an angle above 1", vec![3, 0, 0], integer(16_385)),
        ("a first power that is not 1", vec![4, 0], integer(0)),
        ("powers that rise", vec![4, 4095], integer(65_535)),
        ("an activation of -2^15", vec![5, 0], integer(-32_768)),
        ("a multiplier of 0", matrix(1, 2), Value::Bytes(vec![0; 12])),
        ("a shift by 61", matrix(1, 3), Value::Bytes(vec![61; 12])),
    ];
    for (what, path, value) in hostile {
        let mut key = honest.clone();
        assert!(
            core::mem::discriminant(key.at(&path)) == core::mem::discriminant(&value),
            "{what}: {path:?}"
        );
        *key.at(&path) = value;
        assert!(Key::from_bytes(&key.bytes()).is_err(), "{what}");
    }
}
