//! Limits of everything that comes from outside, with their units. A limit that is met is an
//! error with what was got and what was expected, never a panic and never a silent cut.

/// Tokens of one receipt span.
pub const SPAN_TOKENS: u32 = 32;
/// Bytes of op output under one trace leaf.
pub const LEAF_BYTES_MAX: usize = 2048;
/// Positions whose weighted values are summed before the partial sum becomes a trace leaf.
pub const ATTENTION_BLOCK_POSITIONS: usize = 256;
/// Positions of one sequence. The bound of the softmax sum holds to here (arithmetic.md, 6).
pub const CONTEXT_MAX: u32 = 131_072;
/// Smallest mantissa of a step of codes, in sixteenths (arithmetic.md, 2).
pub const STEP_MANTISSA_MIN: u8 = 16;
/// Largest mantissa of a step of codes.
pub const STEP_MANTISSA_MAX: u8 = 31;
/// Bits of an accumulator after its static shift: with a multiplier of 31 and a step mantissa of 31 the
/// product stays below 2^29 (arithmetic.md, 4).
pub const PRE_SHIFTED_BITS: u32 = 19;
/// Static shift of an accumulator: what the most columns need (arithmetic.md, 4).
pub const PRE_SHIFT_MAX: u8 = 11;
/// Columns of a matrix after padding: an accumulator and a shifted one together stay below the order of the field (arithmetic.md, 4).
pub const COLS_MAX: u32 = 65_024;
/// Largest magnitude of a bias.
pub const BIAS_MAX: i32 = 1 << 28;
/// Largest magnitude of a bias of the head.
pub const HEAD_BIAS_MAX: i32 = 1 << 20;
/// Rows of a matrix.
pub const ROWS_MAX: u32 = 1 << 20;
/// Layers of a model: thirteen entries each and the rest fit the manifest.
pub const LAYERS_MAX: u32 = 300;
/// Stages of a route.
pub const STAGES_MAX: usize = 64;
/// Width of one attention head.
pub const HEAD_DIM_MAX: u32 = 256;
/// Entries of a bundle's manifest (an entry opens in at most 12 hashes).
pub const MANIFEST_ENTRIES_MAX: usize = 4096;
/// Bytes of an encoded manifest.
pub const MANIFEST_BYTES_MAX: usize = 8 << 20;
/// Bytes of a receipt file.
pub const RECEIPT_FILE_BYTES_MAX: u64 = 1 << 30;
/// Candidates that the sampler keeps at most (top-k is cut to it).
pub const TOP_K_MAX: u32 = 1 << 20;
/// Alternatives whose log-probabilities a request may ask for.
pub const TOP_LOGPROBS_MAX: u32 = 20;
