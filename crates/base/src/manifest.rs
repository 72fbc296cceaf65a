//! The manifest of a bundle and the model root.
//!
//! The model root is the Merkle root over the entries sorted by name: configuration, each table,
//! each tensor's row tree, tokenizer, chat template. One entry opens in at most 12 hashes, one row
//! of a tensor in as many as its own tree is deep.

use crate::digest::Digest;
use crate::limits::MANIFEST_ENTRIES_MAX;
use crate::merkle;
use crate::weights::{Embedding, Linear};
use alloc::string::String;
use alloc::vec::Vec;
use minicbor::{Decode, Encode};

/// Bytes of one leaf of an entry that has no rows (tables, tokenizer, texts).
pub const BLOB_CHUNK_BYTES: usize = 4096;

/// What an entry is, and the numbers that its meaning needs.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum EntryKind {
    /// Bytes: a table, the configuration, the tokenizer, the chat template.
    #[n(0)]
    Blob,
    /// An embedding of i16 codes.
    #[n(1)]
    #[cbor(array)]
    Embedding {
        /// Rows.
        #[n(0)]
        rows: u32,
        /// Columns.
        #[n(1)]
        cols: u32,
        /// Fractional bits.
        #[n(2)]
        frac: i8,
    },
    /// A linear layer.
    #[n(2)]
    #[cbor(array)]
    Linear {
        /// Rows.
        #[n(0)]
        rows: u32,
        /// Padded columns.
        #[n(1)]
        cols: u32,
        /// Bits of the stored codes: 8 or 4.
        #[n(2)]
        bits: u8,
        /// s1, the static rounding shift of the accumulator.
        #[n(3)]
        pre_shift: u8,
        /// Fractional bits of the output.
        #[n(4)]
        out_frac: i8,
        /// Whether there is a bias.
        #[n(5)]
        bias: bool,
    },
}

/// One entry: a name, what it is, its length and the root of its own tree.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Entry {
    /// Unique name, e.g. `layers.0003.q`.
    #[n(0)]
    pub name: String,
    /// What it is.
    #[n(1)]
    pub kind: EntryKind,
    /// Bytes in the bundle file.
    #[n(2)]
    pub bytes: u64,
    /// Root of the entry's own tree: rows of a tensor, 4 KiB chunks of anything else.
    #[n(3)]
    pub root: Digest,
}

impl Entry {
    /// The entry's leaf under the model root.
    #[must_use]
    pub fn leaf(&self) -> Digest {
        merkle::leaf(&crate::cbor::encode(self))
    }
}

/// Why a list of entries is no manifest.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ManifestError {
    /// Too many entries, or none.
    #[error("a manifest has {got} entries, expected 1 to {MANIFEST_ENTRIES_MAX}")]
    Count {
        /// Number of entries.
        got: usize,
    },
    /// Not sorted by name, or a name twice.
    #[error("manifest entry {got:?} follows {before:?}, expected strictly increasing names")]
    Order {
        /// The entry before.
        before: String,
        /// The entry out of order.
        got: String,
    },
}

/// The model root over `entries`.
///
/// # Errors
/// [`ManifestError`] if the entries are not strictly sorted by name.
pub fn model_root(entries: &[Entry]) -> Result<Digest, ManifestError> {
    if entries.is_empty() || entries.len() > MANIFEST_ENTRIES_MAX {
        return Err(ManifestError::Count { got: entries.len() });
    }
    for pair in entries.windows(2) {
        if pair[0].name >= pair[1].name {
            return Err(ManifestError::Order { before: pair[0].name.clone(), got: pair[1].name.clone() });
        }
    }
    let leaves: Vec<Digest> = entries.iter().map(Entry::leaf).collect();
    Ok(merkle::root(&leaves))
}

/// Root of bytes without rows.
#[must_use]
pub fn blob_root(bytes: &[u8]) -> Digest {
    let leaves: Vec<Digest> = bytes.chunks(BLOB_CHUNK_BYTES).map(merkle::leaf).collect();
    merkle::root(&leaves)
}

/// Root over the rows of an embedding.
#[must_use]
pub fn embedding_root(embedding: &Embedding) -> Digest {
    let leaves: Vec<Digest> = (0..embedding.rows).map(|row| merkle::leaf(embedding.row_bytes(row))).collect();
    merkle::root(&leaves)
}

/// Root over the rows of a linear layer.
#[must_use]
pub fn linear_root(linear: &Linear) -> Digest {
    let leaves: Vec<Digest> = (0..linear.rows).map(|row| merkle::leaf(&linear.row_bytes(row))).collect();
    merkle::root(&leaves)
}
