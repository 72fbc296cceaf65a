//! Deterministic CBOR (RFC 8949, section 4.2) for everything that is hashed, signed or sent.
//!
//! Structures are encoded as definite-length arrays in field order, so there are no map keys to
//! sort. A message is accepted only if encoding what was read gives the same bytes again: that
//! one comparison refuses every long integer form, indefinite length and trailing byte.

use alloc::vec::Vec;

/// Why bytes were not accepted as a message.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum CborError {
    /// Not CBOR, or not of the expected structure.
    #[error("not a valid {what}: {why}")]
    Malformed {
        /// The expected structure.
        what: &'static str,
        /// What the decoder says.
        why: alloc::string::String,
    },
    /// Decodes, but is not the one deterministic encoding of what it says.
    #[error(
        "{what} is not in deterministic encoding (RFC 8949, 4.2): got {got} bytes, the encoding of the same value has {expected}"
    )]
    NotCanonical {
        /// The expected structure.
        what: &'static str,
        /// Length of the input.
        got: usize,
        /// Length of the deterministic encoding.
        expected: usize,
    },
}

/// Encodes a newtype over `[u8; N]` as one CBOR byte string of exactly that length.
macro_rules! cbor_bytes {
    ($name:ident, $length:literal) => {
        impl<C> minicbor::Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut minicbor::Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.bytes(&self.0)?.ok()
            }
        }

        impl<'b, C> minicbor::Decode<'b, C> for $name {
            fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
                const WRONG: &str = concat!("a ", stringify!($name), " has ", $length, " bytes");
                d.bytes()?.try_into().map($name).map_err(|_| minicbor::decode::Error::message(WRONG))
            }
        }
    };
}
pub(crate) use cbor_bytes;

/// The deterministic encoding of `value`.
#[must_use]
pub fn encode<T: minicbor::Encode<()>>(value: &T) -> Vec<u8> {
    minicbor::to_vec(value).expect("encoding to a Vec cannot fail")
}

/// Reads `bytes` as exactly one `T` in deterministic encoding; `what` names it in errors.
///
/// # Errors
/// [`CborError`] if the bytes are anything else.
pub fn decode<'b, T>(what: &'static str, bytes: &'b [u8]) -> Result<T, CborError>
where
    T: minicbor::Decode<'b, ()> + minicbor::Encode<()>,
{
    let value: T = minicbor::decode(bytes)
        .map_err(|error| CborError::Malformed { what, why: alloc::string::ToString::to_string(&error) })?;
    let canonical = encode(&value);
    if canonical != bytes {
        return Err(CborError::NotCanonical { what, got: bytes.len(), expected: canonical.len() });
    }
    Ok(value)
}
