//! Metadata: typed values under names.
//!
//! Arrays are kept as they lie in the file (numbers as raw little-endian bytes, texts as one buffer with ends), so that no
//! file makes the reader hold more than it holds itself.

use std::collections::BTreeMap;

use super::GgufError;

/// Type of a number, as GGUF numbers them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NumberType {
    /// `u8`.
    U8,
    /// `i8`.
    I8,
    /// `u16`.
    U16,
    /// `i16`.
    I16,
    /// `u32`.
    U32,
    /// `i32`.
    I32,
    /// `f32`.
    F32,
    /// One byte, 0 or 1.
    Bool,
    /// `u64`.
    U64,
    /// `i64`.
    I64,
    /// `f64`.
    F64,
}

impl NumberType {
    /// By the number in the file; 8 is a text and 9 an array.
    pub(super) fn from_id(id: u32) -> Option<Self> {
        Some(match id {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    /// Bytes of one number.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }

    /// `bytes` has exactly [`NumberType::bytes`] bytes.
    pub(super) fn decode(self, bytes: &[u8]) -> Number {
        let mut wide = [0u8; 8];
        wide[..bytes.len()].copy_from_slice(bytes);
        let bits = u64::from_le_bytes(wide);
        match self {
            Self::U8 | Self::U16 | Self::U32 | Self::U64 => Number::Unsigned(bits),
            Self::I8 => Number::Signed(i64::from(bits as u8 as i8)),
            Self::I16 => Number::Signed(i64::from(bits as u16 as i16)),
            Self::I32 => Number::Signed(i64::from(bits as u32 as i32)),
            Self::I64 => Number::Signed(bits as i64),
            Self::F32 => Number::Float(f64::from(f32::from_bits(bits as u32))),
            Self::F64 => Number::Float(f64::from_bits(bits)),
            Self::Bool => Number::Bool(bits != 0),
        }
    }
}

/// One number.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// Of an unsigned type.
    Unsigned(u64),
    /// Of a signed type.
    Signed(i64),
    /// Of a float type.
    Float(f64),
    /// A truth value.
    Bool(bool),
}

impl Number {
    /// As a count or id: a whole number that is not negative.
    #[must_use]
    pub fn unsigned(self) -> Option<u64> {
        match self {
            Self::Unsigned(number) => Some(number),
            Self::Signed(number) => u64::try_from(number).ok(),
            Self::Float(_) | Self::Bool(_) => None,
        }
    }

    /// As a float; whole numbers count.
    #[must_use]
    pub fn float(self) -> Option<f64> {
        match self {
            Self::Unsigned(number) => Some(number as f64),
            Self::Signed(number) => Some(number as f64),
            Self::Float(number) => Some(number),
            Self::Bool(_) => None,
        }
    }
}

/// Texts one behind the other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Texts {
    pub(super) bytes: Vec<u8>,
    /// Where each ends in `bytes`.
    pub(super) ends: Vec<u32>,
}

impl Texts {
    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// All of them, in order; they need not be UTF-8.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.bytes[start as usize..end as usize])
    }
}

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A single number.
    Number(Number),
    /// A text; it need not be UTF-8.
    Text(Vec<u8>),
    /// Numbers of one type, as in the file.
    Numbers {
        /// Their type.
        kind: NumberType,
        /// Little-endian, a whole number of them.
        bytes: Vec<u8>,
    },
    /// Several texts.
    Texts(Texts),
    /// Arrays in an array.
    Arrays(Vec<Value>),
}

impl Value {
    fn describe(&self) -> String {
        match self {
            Self::Number(number) => format!("{number:?}"),
            Self::Text(text) => {
                format!("the text {:?}", String::from_utf8_lossy(&text[..text.len().min(64)]))
            }
            Self::Numbers { kind, bytes } => format!("{} x {kind:?}", bytes.len() / kind.bytes()),
            Self::Texts(texts) => format!("{} texts", texts.len()),
            Self::Arrays(arrays) => format!("{} arrays", arrays.len()),
        }
    }
}

/// All key-value pairs of a file.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata(BTreeMap<String, Value>);

impl Metadata {
    pub(super) fn insert(&mut self, key: String, value: Value) -> Result<(), GgufError> {
        if self.0.contains_key(&key) {
            return Err(GgufError::DuplicateKey { key });
        }
        self.0.insert(key, value);
        Ok(())
    }

    /// The value under a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// A whole number that is not negative.
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.number(key, "a whole number that is not negative", Number::unsigned)
    }

    /// A number.
    pub fn float(&self, key: &str) -> Result<Option<f64>, GgufError> {
        self.number(key, "a number", Number::float)
    }

    /// A truth value.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, GgufError> {
        let flag = |number| if let Number::Bool(flag) = number { Some(flag) } else { None };
        self.number(key, "true or false", flag)
    }

    /// A text in UTF-8.
    pub fn text(&self, key: &str) -> Result<Option<&str>, GgufError> {
        match self.0.get(key) {
            None => Ok(None),
            Some(value) => match value {
                Value::Text(text) => std::str::from_utf8(text).ok(),
                _ => None,
            }
            .map(Some)
            .ok_or_else(|| wrong(key, value, "a text in UTF-8")),
        }
    }

    /// An array of texts.
    pub fn texts(&self, key: &str) -> Result<Option<&Texts>, GgufError> {
        match self.0.get(key) {
            None => Ok(None),
            Some(Value::Texts(texts)) => Ok(Some(texts)),
            Some(other) => Err(wrong(key, other, "texts")),
        }
    }

    /// An array of numbers, each turned by `convert`; a number that it refuses refuses the array.
    pub fn numbers<T>(
        &self,
        key: &str,
        expected: &'static str,
        convert: impl Fn(Number) -> Option<T>,
    ) -> Result<Option<Vec<T>>, GgufError> {
        self.read(key, expected, |value| match value {
            Value::Numbers { kind, bytes } => {
                bytes.chunks_exact(kind.bytes()).map(|number| convert(kind.decode(number))).collect()
            }
            _ => None,
        })
    }

    fn number<T>(
        &self,
        key: &str,
        expected: &'static str,
        convert: impl Fn(Number) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        self.read(key, expected, |value| match value {
            Value::Number(number) => convert(*number),
            _ => None,
        })
    }

    fn read<T>(
        &self,
        key: &str,
        expected: &'static str,
        convert: impl FnOnce(&Value) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| wrong(key, value, expected))
    }
}

fn wrong(key: &str, value: &Value, expected: &'static str) -> GgufError {
    GgufError::Value { key: key.into(), got: value.describe(), expected }
}
