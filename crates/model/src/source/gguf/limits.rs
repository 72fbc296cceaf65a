//! What a GGUF file may ask for at most. Real ones stay far below: the largest vocabularies take some 20 MiB of metadata.

/// Magic, metadata and tensor table together, in bytes.
pub const MAX_HEADER_BYTES: u64 = 128 << 20;
/// Key-value pairs of the metadata.
pub const MAX_METADATA_ENTRIES: u64 = 1 << 16;
/// Name of a metadata key or of a tensor, in bytes (the specification allows 65,535 and 64).
pub const MAX_NAME_BYTES: u64 = 1_024;
/// Arrays inside arrays.
pub const MAX_ARRAY_DEPTH: u32 = 4;
/// Tensors of one file.
pub const MAX_TENSORS: u64 = 1 << 17;
/// Dimensions of one tensor (`GGML_MAX_DIMS`).
pub const MAX_DIMENSIONS: u32 = 4;
/// `general.alignment`, in bytes.
pub const MAX_ALIGNMENT: u64 = 1 << 20;
/// Alignment of a file that does not state one (`GGUF_DEFAULT_ALIGNMENT`), in bytes.
pub const DEFAULT_ALIGNMENT: u64 = 32;
