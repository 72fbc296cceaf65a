//! As much of the protocol buffers wire format as SentencePiece models and ONNX files need: fields in order, nothing allocated
//! but what is asked for.

/// Bytes that are not the wire format, or not of the type that is asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("byte {at} of a message: {reason}")]
pub(crate) struct WireError {
    /// Where, in bytes from the start of the message.
    pub(crate) at: usize,
    /// What is wrong.
    pub(crate) reason: String,
}

/// A field's value by wire type.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Value<'a> {
    Varint(u64),
    Fixed32(u32),
    Fixed64,
    Bytes(&'a [u8]),
}

/// Iterates over the fields of one message.
pub(crate) struct Fields<'a> {
    message: &'a [u8],
    at: usize,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(message: &'a [u8]) -> Self {
        Self { message, at: 0 }
    }

    /// Field number and value, `None` at the end of the message.
    pub(crate) fn next_field(&mut self) -> Result<Option<(u64, Value<'a>)>, WireError> {
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

    fn varint(&mut self) -> Result<u64, WireError> {
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

    fn take(&mut self, len: usize) -> Result<&'a [u8], WireError> {
        let rest = &self.message[self.at..];
        if len > rest.len() {
            return Err(self.malformed(&format!("got {} bytes, expected {len}", rest.len())));
        }
        self.at += len;
        Ok(&rest[..len])
    }

    fn malformed(&self, reason: &str) -> WireError {
        WireError { at: self.at, reason: reason.into() }
    }
}

impl<'a> Value<'a> {
    pub(crate) fn number(self) -> Result<u64, WireError> {
        match self {
            Value::Varint(number) => Ok(number),
            other => Err(wrong_type("a number", other)),
        }
    }

    pub(crate) fn flag(self) -> Result<bool, WireError> {
        Ok(self.number()? != 0)
    }

    pub(crate) fn float(self) -> Result<f32, WireError> {
        match self {
            Value::Fixed32(bits) => Ok(f32::from_bits(bits)),
            other => Err(wrong_type("a float", other)),
        }
    }

    pub(crate) fn bytes(self) -> Result<&'a [u8], WireError> {
        match self {
            Value::Bytes(bytes) => Ok(bytes),
            other => Err(wrong_type("bytes", other)),
        }
    }

    /// A signed number (int32 or int64, not zigzag).
    pub(crate) fn int(self) -> Result<i64, WireError> {
        Ok(self.number()? as i64)
    }

    /// A text.
    pub(crate) fn text(self) -> Result<&'a str, WireError> {
        std::str::from_utf8(self.bytes()?)
            .map_err(|_| WireError { at: 0, reason: "a text is not UTF-8".into() })
    }

    /// One element of a repeated number, or many that are packed; at most `limit` in `out`.
    pub(crate) fn ints(self, out: &mut Vec<i64>, limit: usize) -> Result<(), WireError> {
        let mut push = |number: u64| {
            if out.len() == limit {
                return Err(WireError { at: 0, reason: format!("more than {limit} numbers") });
            }
            out.push(number as i64);
            Ok(())
        };
        match self {
            Value::Varint(number) => push(number),
            Value::Bytes(packed) => {
                let mut numbers = Fields::new(packed);
                while numbers.at < packed.len() {
                    push(numbers.varint()?)?;
                }
                Ok(())
            }
            other => Err(wrong_type("numbers", other)),
        }
    }

    fn kind(self) -> &'static str {
        match self {
            Value::Varint(_) => "a number",
            Value::Fixed32(_) => "4 bytes",
            Value::Fixed64 => "8 bytes",
            Value::Bytes(_) => "bytes",
        }
    }

    /// A token id, where -1 (written as a 64-bit two's complement) means none.
    pub(crate) fn id(self) -> Result<Option<u32>, WireError> {
        Ok(u32::try_from(self.number()?).ok().filter(|&id| id <= i32::MAX as u32))
    }
}

fn wrong_type(expected: &str, got: Value<'_>) -> WireError {
    WireError { at: 0, reason: format!("got {}, expected {expected}", got.kind()) }
}
