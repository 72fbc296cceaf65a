//! Lists of a few large things, read from outside.
//!
//! A thing that is empty takes a byte or four in CBOR and up to a kilobyte in memory, so a list is not made before its length was compared with a limit. How many there should be
//! is said, with a better message, by whoever knows it.

use alloc::vec::Vec;
use minicbor::decode::{Decode, Decoder, Error};

/// Things of a list: more than any list of a file or a key has.
pub(crate) const FEW: u64 = 4096;

/// Decodes a list of at most [`FEW`].
pub(crate) fn decode<'b, C, T: Decode<'b, C>>(d: &mut Decoder<'b>, context: &mut C) -> Result<Vec<T>, Error> {
    let count = d.array()?.filter(|count| *count <= FEW);
    let count = count.ok_or_else(|| Error::message("a list of more parts than there can be"))?;
    (0..count).map(|_| d.decode_with(context)).collect()
}
