//! What an importer accepts at most. A file that asks for more is refused before anything is allocated.

/// Layers of a model.
pub const MAX_LAYERS: usize = lockstep_base::limits::LAYERS_MAX as usize;
/// Any width of a matrix: model, feed-forward, all heads together, in elements.
pub const MAX_WIDTH: usize = 1 << 18;
/// Vocabulary entries.
pub const MAX_VOCAB: usize = 1 << 20;
/// Context length, in tokens.
pub const MAX_CONTEXT: usize = 1 << 22;
/// Elements of one matrix.
pub const MAX_MATRIX_ELEMENTS: usize = 1 << 33;
/// A safetensors JSON header, in bytes.
pub const MAX_SAFETENSORS_HEADER_BYTES: u64 = 16 << 20;
/// A config beside the weights (model, generation, tokenizer), in bytes. Parsed JSON takes up to 40 times as much memory.
pub const MAX_JSON_BYTES: u64 = 4 << 20;
/// An index of shards, in bytes.
pub const MAX_INDEX_BYTES: u64 = 16 << 20;
/// Shards that one index may name.
pub const MAX_SHARDS: usize = 1_024;
/// A tokenizer file, in bytes.
pub const MAX_TOKENIZER_BYTES: u64 = crate::tokenizer::MAX_FILE_BYTES as u64;
/// A chat template, in bytes.
pub const MAX_CHAT_TEMPLATE_BYTES: u64 = crate::chat::MAX_TEMPLATE_BYTES as u64;
/// Experts of one layer.
pub const MAX_EXPERTS: usize = 1_024;
/// Rank of an adapter.
pub const MAX_ADAPTER_RANK: usize = lockstep_base::adapter::RANK_MAX as usize;
