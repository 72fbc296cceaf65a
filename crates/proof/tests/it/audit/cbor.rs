//! A CBOR value of any structure, so that each of its numbers can be another one: what an attacker can write and our own types cannot.

use minicbor::data::Type;
use minicbor::{Decoder, Encoder};

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    Integer(i128),
    Bytes(Vec<u8>),
    Text(String),
    Array(Vec<Value>),
    Bool(bool),
    Null,
}

impl Value {
    /// The value that `bytes` are.
    pub(crate) fn read(bytes: &[u8]) -> Value {
        let mut decoder = Decoder::new(bytes);
        let value = Value::next(&mut decoder);
        assert_eq!(decoder.position(), bytes.len());
        value
    }

    fn next(d: &mut Decoder<'_>) -> Value {
        match d.datatype().expect("a value") {
            Type::Array => {
                let count = d.array().expect("an array").expect("of a length");
                Value::Array((0..count).map(|_| Value::next(d)).collect())
            }
            Type::Bytes => Value::Bytes(d.bytes().expect("bytes").to_vec()),
            Type::String => Value::Text(d.str().expect("text").into()),
            Type::Bool => Value::Bool(d.bool().expect("a bool")),
            Type::Null => {
                d.null().expect("null");
                Value::Null
            }
            _ => Value::Integer(d.int().expect("an integer").into()),
        }
    }

    /// Its deterministic encoding.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut e = Encoder::new(Vec::new());
        self.put(&mut e);
        e.into_writer()
    }

    fn put(&self, e: &mut Encoder<Vec<u8>>) {
        let done = match self {
            Value::Integer(x) => e.int(minicbor::data::Int::try_from(*x).expect("65 bits")),
            Value::Bytes(bytes) => e.bytes(bytes),
            Value::Text(text) => e.str(text),
            Value::Array(values) => e.array(values.len() as u64),
            Value::Bool(x) => e.bool(*x),
            Value::Null => e.null(),
        };
        done.expect("a Vec takes everything");
        if let Value::Array(values) = self {
            values.iter().for_each(|value| value.put(e));
        }
    }

    /// What lies at a path of indices.
    pub(crate) fn at(&mut self, path: &[usize]) -> &mut Value {
        match (self, path) {
            (value, []) => value,
            (Value::Array(values), [first, rest @ ..]) => values[*first].at(rest),
            (value, _) => panic!("{value:?} has no parts"),
        }
    }

    /// The paths of all values that have no parts; of arrays of more than `long` parts, those of the first three.
    pub(crate) fn leaves(&self, long: usize) -> Vec<Vec<usize>> {
        let Value::Array(values) = self else { return vec![Vec::new()] };
        let of = |(at, value): (usize, &Value)| {
            value.leaves(long).into_iter().map(move |path| [&[at][..], &path].concat()).collect::<Vec<_>>()
        };
        let most = if values.len() > long { 3 } else { long };
        values.iter().take(most).enumerate().flat_map(of).collect()
    }
}
