//! The header, and where entries lie: one layout for a manifest, so nothing can overlap or hide.

use super::error::BundleError;
use lockstep_base::digest::Digest;
use lockstep_base::limits::MANIFEST_BYTES_MAX;
use lockstep_base::manifest::Entry;
use minicbor::{Decode, Encode};

/// First bytes of a bundle.
pub const MAGIC: &str = "lockstep";
/// Version of the file format.
pub const VERSION: u32 = 1;
/// Kind of a bundle that holds a whole model.
pub const KIND_MODEL: u32 = 0;
/// Kind of a bundle that holds an adapter.
pub const KIND_ADAPTER: u32 = 1;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 64;
/// Entries begin at multiples of this: a cache line, and the tile of a packed panel.
pub const SECTION_ALIGN: u64 = 64;

/// An entry and its place in the file.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Placed {
    /// What is hashed.
    #[n(0)]
    pub entry: Entry,
    /// File offset of its first byte.
    #[n(1)]
    pub offset: u64,
}

/// The manifest as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(transparent)]
pub(crate) struct Manifest(#[n(0)] pub(crate) Vec<Placed>);

/// The fields of a header that vary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: u32,
    pub(crate) manifest_bytes: u64,
    pub(crate) file_bytes: u64,
    pub(crate) model_root: Digest,
}

impl Header {
    pub(crate) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(MAGIC.as_bytes());
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.kind.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.manifest_bytes.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.file_bytes.to_le_bytes());
        bytes[32..].copy_from_slice(&self.model_root.0);
        bytes
    }

    /// Reads the header of a file of this kind and compares every length with the file.
    pub(crate) fn parse(file: &[u8], kind: u32) -> Result<Header, BundleError> {
        let got = file.len() as u64;
        let Some(bytes) = file.get(..HEADER_BYTES) else {
            return Err(BundleError::NoHeader { got, expected: HEADER_BYTES as u64 });
        };
        if &bytes[..8] != MAGIC.as_bytes() {
            return Err(BundleError::Magic { got: bytes[..8].escape_ascii().to_string(), expected: MAGIC });
        }
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        for (field, got, expected) in [("version", word(8), VERSION), ("kind", word(12), kind)] {
            if got != expected {
                return Err(BundleError::HeaderField { field, got: got.into(), expected: expected.into() });
            }
        }
        let (manifest_bytes, file_bytes) = (long(16), long(24));
        if manifest_bytes > MANIFEST_BYTES_MAX as u64 {
            return Err(BundleError::ManifestBytes { got: manifest_bytes, max: MANIFEST_BYTES_MAX as u64 });
        }
        if file_bytes != got {
            return Err(BundleError::FileBytes { got, expected: file_bytes, by: "header field file bytes" });
        }
        if got < HEADER_BYTES as u64 + manifest_bytes {
            let expected = HEADER_BYTES as u64 + manifest_bytes;
            return Err(BundleError::FileBytes { got, expected, by: "header field manifest bytes" });
        }
        Ok(Header {
            kind,
            manifest_bytes,
            file_bytes,
            model_root: Digest(std::array::from_fn(|i| bytes[32 + i])),
        })
    }
}

/// Walks the one layout: yields the offset of each entry, then the end of the file.
#[derive(Debug)]
pub(crate) struct Layout {
    end: u64,
}

impl Layout {
    pub(crate) fn after_manifest(manifest_bytes: u64) -> Layout {
        Layout { end: HEADER_BYTES as u64 + manifest_bytes }
    }

    /// End of what was placed so far.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// The place of the next entry; `None` if it leaves 64 bits.
    pub(crate) fn place(&mut self, bytes: u64) -> Option<u64> {
        let offset = self.end.checked_next_multiple_of(SECTION_ALIGN)?;
        self.end = offset.checked_add(bytes)?;
        Some(offset)
    }
}
