//! What a server may make this machine hold.

/// Bytes of one answer of the API.
pub const MAX_API_BYTES: u64 = 8 << 20;
/// Pages of one listing.
pub const MAX_PAGES: usize = 64;
/// Files of one repository.
pub const MAX_FILES: usize = 20_000;
/// Bytes of a path in a repository.
pub const MAX_PATH_BYTES: usize = 512;
/// Bytes of an owner, a name or a revision.
pub const MAX_NAME_BYTES: usize = 128;
/// Bytes of one file.
pub const MAX_FILE_BYTES: u64 = 1 << 40;
/// Bytes of all files of one model.
pub const MAX_TOTAL_BYTES: u64 = 4 << 40;
/// Bytes of a file beside the weights.
pub const MAX_SIDE_FILE_BYTES: u64 = 64 << 20;
/// Shards that an index may name.
pub const MAX_SHARDS: usize = 1_024;
/// Redirects of one request.
pub const MAX_REDIRECTS: u32 = 5;
/// Bytes of an address that a server redirects to.
pub const MAX_URL_BYTES: usize = 8 << 10;
/// Longest wait that a server may ask for (`Retry-After`), in seconds.
pub const MAX_RETRY_AFTER_S: u64 = 120;
