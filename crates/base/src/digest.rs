//! 32-byte SHA-256 digests and the one way of hashing with a domain.
//!
//! SHA-256 and not Keccak or BLAKE3, because it is an EVM precompile and runs at about 1 GB/s on
//! cores with SHA extensions.

use core::fmt;
use sha2::{Digest as _, Sha256};

/// Bytes of a domain tag. Tags are padded with zeros, so that every hashed header has one layout.
pub const DOMAIN_BYTES: usize = 16;

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The digest that stands for "there is none": no previous receipt, no mask, no adapter.
    pub const ZERO: Digest = Digest([0; 32]);

    /// `SHA-256(part_0 ‖ part_1 ‖ …)`.
    #[must_use]
    pub fn of(parts: &[&[u8]]) -> Digest {
        let mut hasher = Sha256::new();
        for part in parts {
            hasher.update(part);
        }
        Digest(hasher.finalize().into())
    }

    /// `SHA-256(domain, zero-padded to 16 bytes ‖ part_0 ‖ part_1 ‖ …)`.
    #[must_use]
    pub fn tagged(domain: &str, parts: &[&[u8]]) -> Digest {
        let mut hasher = Sha256::new();
        hasher.update(domain_tag(domain));
        for part in parts {
            hasher.update(part);
        }
        Digest(hasher.finalize().into())
    }

    /// Lower-case hexadecimal digits without a prefix.
    #[must_use]
    pub fn hex(&self) -> alloc::string::String {
        hex(&self.0)
    }

    /// Reads 64 hexadecimal digits, with or without `0x`.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Digest> {
        unhex(text)?.try_into().ok().map(Digest)
    }
}

/// A domain tag as the 16 bytes that are hashed.
#[must_use]
pub fn domain_tag(domain: &str) -> [u8; DOMAIN_BYTES] {
    assert!(domain.len() <= DOMAIN_BYTES, "domain tags have at most 16 bytes");
    let mut tag = [0; DOMAIN_BYTES];
    tag[..domain.len()].copy_from_slice(domain.as_bytes());
    tag
}

/// Lower-case hexadecimal digits of `bytes`.
#[must_use]
pub fn hex(bytes: &[u8]) -> alloc::string::String {
    use fmt::Write;
    let mut text = alloc::string::String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a String cannot fail");
    }
    text
}

/// Bytes of hexadecimal `text`, with or without `0x`; `None` if it is not hexadecimal.
#[must_use]
pub fn unhex(text: &str) -> Option<alloc::vec::Vec<u8>> {
    let digits = text.strip_prefix("0x").unwrap_or(text).as_bytes();
    if !digits.len().is_multiple_of(2) {
        return None;
    }
    let nibble = |digit: u8| (digit as char).to_digit(16).map(|value| value as u8);
    digits.chunks(2).map(|pair| Some(nibble(pair[0])? << 4 | nibble(pair[1])?)).collect()
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.hex())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

crate::cbor::cbor_bytes!(Digest, 32);
