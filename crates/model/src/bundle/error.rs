//! Why a bundle was refused: one variant per check, naming the header field or the entry.

use super::structure::StructureError;
use super::verify::VerifyError;
use lockstep_base::cbor::CborError;
use lockstep_base::config::ConfigError;
use lockstep_base::digest::Digest;
use lockstep_base::manifest::ManifestError;
use std::path::PathBuf;

/// Why a bundle was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// The file cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// An adapter's own configuration.
    #[error("{0}")]
    Adapter(#[from] lockstep_base::adapter::AdapterError),
    /// Shorter than a header.
    #[error("the file has {got} bytes, expected at least the {expected} of a bundle's header")]
    NoHeader {
        /// Bytes of the file.
        got: u64,
        /// Bytes of a header.
        expected: u64,
    },
    /// Not a bundle.
    #[error("header field magic is {got:?}, expected {expected:?}")]
    Magic {
        /// First bytes of the file.
        got: String,
        /// Those of a bundle.
        expected: &'static str,
    },
    /// A number of the header that this release does not know.
    #[error("header field {field} is {got}, expected {expected}")]
    HeaderField {
        /// Which field.
        field: &'static str,
        /// Its value.
        got: u64,
        /// What it must be.
        expected: u64,
    },
    /// The header announces more manifest than is allowed.
    #[error("header field manifest bytes is {got}, expected at most {max}")]
    ManifestBytes {
        /// Announced bytes.
        got: u64,
        /// The limit.
        max: u64,
    },
    /// The file ends early or late.
    #[error("the file has {got} bytes, its {by} says {expected}: truncated, or something was appended")]
    FileBytes {
        /// Bytes of the file.
        got: u64,
        /// Bytes that it should have.
        expected: u64,
        /// What says so.
        by: &'static str,
    },
    /// The manifest does not decode.
    #[error("manifest of {bytes} bytes (header field manifest bytes): {error}")]
    Manifest {
        /// Its length by the header.
        bytes: u64,
        /// Why.
        error: CborError,
    },
    /// The manifest is no sorted list.
    #[error("manifest: {0}")]
    ManifestOrder(ManifestError),
    /// The manifest is not that of the model root in the header.
    #[error(
        "the manifest's model root is {got}, header field model root is {expected}: one of them was changed"
    )]
    ModelRoot {
        /// Root over the entries.
        got: Digest,
        /// Root in the header.
        expected: Digest,
    },
    /// An entry is not where the one layout has it.
    #[error("manifest: entry {entry} lies at offset {got}, expected {expected}")]
    Offset {
        /// The entry.
        entry: String,
        /// Offset in the manifest.
        got: u64,
        /// The next multiple of 64 after the entry before.
        expected: u64,
    },
    /// The sum of lengths leaves 64 bits.
    #[error("manifest: entry {entry} has {got} bytes, which no file can hold")]
    Overflow {
        /// The entry.
        entry: String,
        /// Its length.
        got: u64,
    },
    /// Bytes between two entries are not zero.
    #[error("the padding in front of entry {entry} is not zero at file offset {at}")]
    Padding {
        /// The entry that follows.
        entry: String,
        /// The first byte that is not zero.
        at: u64,
    },
    /// An entry that the configuration demands is not there.
    #[error("entry {entry} is missing")]
    Missing {
        /// The entry.
        entry: String,
    },
    /// An entry that the configuration does not know.
    #[error("entry {entry} is not part of a model of this configuration")]
    Unexpected {
        /// The entry.
        entry: String,
    },
    /// An entry's kind or shape does not fit the configuration.
    #[error("entry {entry} is {got}, expected {expected}")]
    Shape {
        /// The entry.
        entry: String,
        /// What the manifest says.
        got: String,
        /// What the configuration demands.
        expected: String,
    },
    /// An entry has the wrong length for its shape.
    #[error("entry {entry} has {got} bytes, expected {expected}")]
    EntryBytes {
        /// The entry.
        entry: String,
        /// Bytes in the manifest.
        got: u64,
        /// Bytes of its shape.
        expected: u64,
    },
    /// The bytes of an entry are not those under the model root.
    #[error("entry {entry} was changed: its root is {got}, expected {expected}")]
    Root {
        /// The entry.
        entry: String,
        /// Root over the bytes.
        got: Digest,
        /// Root in the manifest.
        expected: Digest,
    },
    /// The threads that verify ended early.
    #[error("{got} entries were verified, expected {expected}: a thread was lost")]
    Unfinished {
        /// Entries that were compared with the model root.
        got: usize,
        /// Entries that were to be.
        expected: usize,
    },
    /// An entry that is CBOR does not decode.
    #[error("entry {entry}: {error}")]
    Cbor {
        /// The entry.
        entry: String,
        /// Why.
        error: CborError,
    },
    /// A number of the configuration is out of range.
    #[error("entry config: {0}")]
    Config(ConfigError),
    /// A number that the runtime relies on is out of range.
    #[error(transparent)]
    Structure(#[from] StructureError),
    /// A text is not UTF-8.
    #[error("entry {entry} is not UTF-8 at byte {at}")]
    Utf8 {
        /// The entry.
        entry: String,
        /// First wrong byte.
        at: usize,
    },
    /// The tokenizer does not parse.
    #[error("entry tokenizer: {0}")]
    Tokenizer(crate::tokenizer::TokenizerError),
    /// The part is not one of this model.
    #[error(
        "part {got} does not fit a model of {layers} layers, expected an increasing range within them and shard 0 of 1"
    )]
    Part {
        /// The part asked for.
        got: String,
        /// Layers of the model.
        layers: u32,
    },
}

impl From<VerifyError> for BundleError {
    fn from(error: VerifyError) -> BundleError {
        match error {
            VerifyError::Root { entry, got, expected } => BundleError::Root { entry, got, expected },
            VerifyError::Unfinished { got, expected } => BundleError::Unfinished { got, expected },
        }
    }
}
