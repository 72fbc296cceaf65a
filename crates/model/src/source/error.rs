//! One variant per check of the importers.

use std::path::PathBuf;

use crate::tokenizer::TokenizerError;

/// Why a model could not be imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The operating system refused a file.
    #[error("cannot read {path}: {error}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// Neither layout nor folder is known.
    #[error("{path}: not a model that Lockstep reads (got {got}; expected {SUPPORTED_FORMATS})")]
    UnknownFormat {
        /// The file or folder.
        path: PathBuf,
        /// What was found instead.
        got: String,
    },
    /// The architecture of a Hugging Face config is not supported.
    #[error("architecture {got:?} is not supported (expected one of {})", super::supported_architectures().join(", "))]
    UnknownArchitecture {
        /// What the config names.
        got: String,
    },
    /// A config asks for something that the forward pass does not have.
    #[error("config: {field} = {got} is not supported (expected {expected})")]
    Unsupported {
        /// The field.
        field: &'static str,
        /// Its value.
        got: String,
        /// What would be accepted.
        expected: &'static str,
    },
    /// A required field is missing from a config or has the wrong type.
    #[error("config: {field} is missing or not {expected}")]
    ConfigField {
        /// The field.
        field: &'static str,
        /// The type that was expected.
        expected: &'static str,
    },
    /// A number is outside its limit.
    #[error("{what}: got {got}, expected {min} to {max}")]
    OutOfRange {
        /// What was measured.
        what: String,
        /// The value found.
        got: u64,
        /// Smallest accepted value.
        min: u64,
        /// Largest accepted value.
        max: u64,
    },
    /// Two numbers of a config contradict each other.
    #[error("config: {left} = {left_value} does not divide {right} = {right_value}")]
    NotDivisible {
        /// Name of the divisor.
        left: &'static str,
        /// The divisor.
        left_value: usize,
        /// Name of the dividend.
        right: &'static str,
        /// The dividend.
        right_value: usize,
    },
    /// JSON that does not parse.
    #[error("{path}: {error}")]
    Json {
        /// The file.
        path: PathBuf,
        /// The parser's words.
        error: serde_json::Error,
    },
    /// A file ends early or goes on after its end.
    #[error("{path}: got {got} bytes, expected {expected}")]
    Length {
        /// The file.
        path: PathBuf,
        /// Bytes in the file.
        got: u64,
        /// Bytes that its header implies.
        expected: u64,
    },
    /// A header that is wrong in itself.
    #[error("{path}: bad header: {reason}")]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A tensor that the architecture needs is absent.
    #[error("tensor {name} is missing")]
    MissingTensor {
        /// Its name.
        name: String,
    },
    /// A tensor is present although the config says that it does not exist.
    #[error("tensor {name} is present, but the config says it is not")]
    UnexpectedTensor {
        /// Its name.
        name: String,
    },
    /// A tensor of an adapter belongs to nothing that an adapter may change here.
    #[error(
        "adapter: tensor {name} belongs to no linear of attention or of a dense feed-forward block of the base (embeddings, heads, experts and routers are not adapted)"
    )]
    AdapterTensor {
        /// Its name.
        name: String,
    },
    /// A tensor has the wrong shape.
    #[error("tensor {name}: got shape {got:?}, expected {expected:?}")]
    Shape {
        /// Its name.
        name: String,
        /// The shape in the file.
        got: Vec<usize>,
        /// The shape that the config implies.
        expected: Vec<usize>,
    },
    /// A tensor has an element type that is not read.
    #[error("tensor {name}: got element type {got}, expected F32, F16, BF16, F8_E4M3 or F8_E5M2")]
    ElementType {
        /// Its name.
        name: String,
        /// The type in the file.
        got: String,
    },
    /// A weight is NaN or infinite.
    #[error("tensor {name}: element {index} is {got}, expected a finite number")]
    NotFinite {
        /// Its name.
        name: String,
        /// Position in row-major order.
        index: usize,
        /// The value.
        got: f32,
    },
    /// A GGUF file that cannot be read.
    #[error("{path}: {error}")]
    Gguf {
        /// The file.
        path: PathBuf,
        /// Why.
        error: super::gguf::GgufError,
    },
    /// An index names a file outside its folder.
    #[error("{index}: shard {shard:?} is not a plain file name in the same folder")]
    ShardPath {
        /// The index file.
        index: PathBuf,
        /// The name that it gives.
        shard: String,
    },
    /// No tokenizer was given and none lies beside the model.
    #[error("{path}: no tokenizer found (looked for {looked_for}); name one explicitly")]
    NoTokenizer {
        /// The model.
        path: PathBuf,
        /// File names tried.
        looked_for: &'static str,
    },
    /// The tokenizer can produce tokens that the model has no row for.
    #[error("tokenizer has {got} entries, expected at most the model's {expected}")]
    TokenizerTooLarge {
        /// Entries of the tokenizer.
        got: usize,
        /// Rows of the embedding.
        expected: usize,
    },
    /// The tokenizer does not parse.
    #[error("tokenizer {path}: {error}")]
    Tokenizer {
        /// The file.
        path: PathBuf,
        /// Why.
        error: TokenizerError,
    },
}

/// For error messages.
pub(crate) const SUPPORTED_FORMATS: &str = "a llama2.c .bin (legacy or version 1), a .gguf file, a .safetensors file beside its config.json, \
     or a Hugging Face folder with config.json and model.safetensors or model.safetensors.index.json";
