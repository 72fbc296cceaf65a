//! One variant per check of the GGUF reader.

/// Why a GGUF file could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The operating system refused a read.
    #[error("cannot read: {0}")]
    Io(#[from] std::io::Error),
    /// Not a GGUF file.
    #[error("first bytes: got {got:02x?}, expected \"GGUF\"")]
    Magic {
        /// The bytes found.
        got: [u8; 4],
    },
    /// A version that is not read; a huge one is a file of the other byte order.
    #[error("GGUF version: got {got}, expected 2 or 3 in little-endian order")]
    Version {
        /// The number found.
        got: u32,
    },
    /// The file ends inside something.
    #[error("{what} at byte {at}: the file holds {got} more bytes, expected {expected}")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where, in bytes from the start.
        at: u64,
        /// Bytes that are left.
        got: u64,
        /// Bytes that are needed.
        expected: u64,
    },
    /// A number above its limit.
    #[error("{what}: got {got}, expected at most {max}")]
    TooLarge {
        /// What was measured.
        what: &'static str,
        /// The value found.
        got: u64,
        /// Largest accepted value.
        max: u64,
    },
    /// A name that is not text.
    #[error("{what} at byte {at} is not UTF-8 without control characters")]
    NotText {
        /// Which name.
        what: &'static str,
        /// Where, in bytes from the start.
        at: u64,
    },
    /// A metadata value of a type that does not exist.
    #[error("metadata {key}: got value type {got}, expected 0 to 12")]
    ValueType {
        /// The key.
        key: String,
        /// The number found.
        got: u32,
    },
    /// A metadata key twice.
    #[error("metadata {key} occurs twice")]
    DuplicateKey {
        /// The key.
        key: String,
    },
    /// A metadata key that an import needs.
    #[error("metadata {key} is missing")]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A metadata value of the wrong type, or out of the range of what it states.
    #[error("metadata {key}: got {got}, expected {expected}")]
    Value {
        /// The key.
        key: String,
        /// Type or value found.
        got: String,
        /// What would be accepted.
        expected: &'static str,
    },
    /// An alignment that is no power of two.
    #[error("general.alignment: got {got}, expected a power of two")]
    Alignment {
        /// The number found.
        got: u64,
    },
    /// A tensor twice.
    #[error("tensor {name} occurs twice")]
    DuplicateTensor {
        /// Its name.
        name: String,
    },
    /// No dimensions, too many, an empty one, or more elements than can be counted.
    #[error("tensor {name}: got dimensions {got:?}, expected 1 to 4 of at least 1 each")]
    Dimensions {
        /// Its name.
        name: String,
        /// Fastest first, as in the file.
        got: Vec<u64>,
    },
    /// An element type that is not read.
    #[error("tensor {name}: got type {got}, expected one of {}", super::TensorType::names())]
    TensorType {
        /// Its name.
        name: String,
        /// Name or number of the type.
        got: String,
    },
    /// A row that is no whole number of blocks.
    #[error("tensor {name}: a row of {got} elements, expected a multiple of {block}")]
    Block {
        /// Its name.
        name: String,
        /// Elements of a row.
        got: u64,
        /// Elements of a block.
        block: u64,
    },
    /// A tensor that does not begin at a multiple of the alignment.
    #[error("tensor {name}: offset {got}, expected a multiple of {alignment}")]
    Misaligned {
        /// Its name.
        name: String,
        /// Offset in the data section.
        got: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// A tensor that reaches beyond the end of the file.
    #[error("tensor {name}: {bytes} bytes from byte {start}, the file has {len}")]
    OutOfFile {
        /// Its name.
        name: String,
        /// Where it begins, in bytes from the start of the file.
        start: u64,
        /// Its bytes.
        bytes: u64,
        /// Bytes of the file.
        len: u64,
    },
    /// Two tensors that share bytes.
    #[error("tensors {first} and {second} overlap")]
    Overlap {
        /// The one that begins first.
        first: String,
        /// The other.
        second: String,
    },
    /// One of several files.
    #[error("one of {got} files of a split model; join them first (llama-gguf-split --merge)")]
    Split {
        /// `split.count`.
        got: u64,
    },
    /// An architecture that is not imported.
    #[error("general.architecture: got {got:?}, expected one of {}", super::SUPPORTED_ARCHITECTURES.join(", "))]
    Architecture {
        /// The name found.
        got: String,
    },
    /// A kind of tokenizer that is not read.
    #[error("tokenizer.ggml.model: got {got:?}, expected llama, t5 or gpt2")]
    TokenizerModel {
        /// The name found.
        got: String,
    },
    /// A way to split texts before merging that is not known.
    #[error("tokenizer.ggml.pre: got {got:?}, expected one of {expected}")]
    PreTokenizer {
        /// The name found.
        got: String,
        /// The names known.
        expected: String,
    },
    /// Two lists of the vocabulary that must be of one length.
    #[error("{key}: got {got} entries, expected {expected}, as many as tokenizer.ggml.tokens has")]
    VocabularyLength {
        /// The second list.
        key: &'static str,
        /// Its entries.
        got: usize,
        /// Tokens.
        expected: usize,
    },
    /// An entry of the vocabulary that cannot be what it is said to be.
    #[error("tokenizer.ggml.{list}[{index}]: {reason}")]
    Vocabulary {
        /// `tokens` or `merges`.
        list: &'static str,
        /// Which entry.
        index: usize,
        /// What is wrong.
        reason: String,
    },
    /// The vocabulary as a whole.
    #[error("tokenizer: {0}")]
    Tokenizer(#[from] crate::tokenizer::TokenizerError),
}
