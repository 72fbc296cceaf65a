//! As much of the protocol buffers wire format as a SentencePiece model needs: fields in order, nothing allocated.

use super::TokenizerError;

const KIND: &str = "sentencepiece";

/// A field's value by wire type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value<'a> {
    Varint(u64),
    Fixed32(u32),
    Fixed64,
    Bytes(&'a [u8]),
}

/// Iterates over the fields of one message.
pub(super) struct Fields<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { message, at: 0 }
    }

    /// Field number and value, `None` at the end of the message.
    pub(super) fn next_field(&mut self) -> Result<Option<(u64, Value<'a>)>, TokenizerError> {
        if self.at == self.message.len() {
            return Ok(None);
        }
        let key = self.varint()?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Value::Fixed64
            }
            2 => {
                let len = self.varint()?;
                let len = usize::try_from(len).map_err(|_| self.malformed("length does not fit"))?;
                Value::Bytes(self.take(len)?)
            }
            5 => {
                let b = self.take(4)?;
                Value::Fixed32(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
            }
            other => return Err(self.malformed(&format!("wire type {other} is unknown"))),
        };
        match key >> 3 {
            0 => Err(self.malformed("field number 0")),
            number => Ok(Some((number, value))),
        }
    }

    fn varint(&mut self) -> Result<u64, TokenizerError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            let part = u64::from(byte & 0x7f);
            if shift == 63 && part > 1 {
                break;
            }
            value |= part << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(self.malformed("number longer than 64 bits"))
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], TokenizerError> {
        let rest = &self.message[self.at..];
        if len > rest.len() {
            return Err(self.malformed(&format!("got {} bytes, expected {len}", rest.len())));
        }
        self.at += len;
        Ok(&rest[..len])
    }

    fn malformed(&self, reason: &str) -> TokenizerError {
        TokenizerError::Malformed { kind: KIND, at: self.at, reason: reason.into() }
    }
}

impl<'a> Value<'a> {
    pub(super) fn number(self) -> Result<u64, TokenizerError> {
        match self {
            Value::Varint(number) => Ok(number),
            other => Err(wrong_type("a number", other)),
        }
    }

    pub(super) fn flag(self) -> Result<bool, TokenizerError> {
        Ok(self.number()? != 0)
    }

    pub(super) fn float(self) -> Result<f32, TokenizerError> {
        match self {
            Value::Fixed32(bits) => Ok(f32::from_bits(bits)),
            other => Err(wrong_type("a float", other)),
        }
    }

    pub(super) fn bytes(self) -> Result<&'a [u8], TokenizerError> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            other => Err(wrong_type("bytes", other)),
        }
    }

    /// A token id, where -1 (written as a 64-bit two's complement) means none.
    pub(super) fn id(self) -> Result<Option<u32>, TokenizerError> {
        Ok(u32::try_from(self.number()?).ok().filter(|&id| id <= i32::MAX as u32))
    }
}

fn wrong_type(expected: &str, got: Value<'_>) -> TokenizerError {
    TokenizerError::Malformed { kind: KIND, at: 0, reason: format!("got {got:?}, expected {expected}") }
}
