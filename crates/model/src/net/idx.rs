//! IDX files, the format of MNIST (yann.lecun.com/exdb/mnist), plain or in gzip: two zero bytes, the type (8: unsigned
//! bytes), the number of dimensions, each dimension as u32 big-endian, then the bytes.

use std::io::Read;

/// Bytes of a file after unpacking.
const IDX_BYTES_MAX: u64 = 256 << 20;
/// Dimensions.
const RANK_MAX: usize = 4;

/// An array of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idx {
    /// Lengths of the dimensions; the first counts items.
    pub dims: Vec<usize>,
    /// All items.
    pub data: Vec<u8>,
}

impl Idx {
    /// The items, one after another.
    pub fn items(&self) -> impl Iterator<Item = &[u8]> {
        let size: usize = self.dims[1..].iter().product();
        self.data.chunks_exact(size.max(1))
    }
}

/// Why bytes are no IDX file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IdxError {
    /// Gzip that cannot be unpacked.
    #[error("gzip: {0}")]
    Gzip(std::io::Error),
    /// Too long.
    #[error("more than {IDX_BYTES_MAX} bytes")]
    TooLarge,
    /// Another format.
    #[error("header {got:?}, expected 0, 0, 8 and 1 to {RANK_MAX} dimensions")]
    Header {
        /// The first bytes.
        got: Vec<u8>,
    },
    /// More or less than the dimensions say.
    #[error("dimensions {dims:?} and {got} bytes")]
    Length {
        /// The dimensions.
        dims: Vec<usize>,
        /// The bytes after the header.
        got: usize,
    },
}

/// Reads a file, unpacking it first if it is gzip.
///
/// # Errors
/// The first check that fails.
pub fn read_idx(bytes: &[u8]) -> Result<Idx, IdxError> {
    let unpacked;
    let bytes = if bytes.starts_with(&[0x1f, 0x8b]) {
        let mut all = Vec::new();
        let mut unpack = flate2::read::GzDecoder::new(bytes).take(IDX_BYTES_MAX + 1);
        unpack.read_to_end(&mut all).map_err(IdxError::Gzip)?;
        unpacked = all;
        &unpacked[..]
    } else {
        bytes
    };
    if bytes.len() as u64 > IDX_BYTES_MAX {
        return Err(IdxError::TooLarge);
    }
    let header = || IdxError::Header { got: bytes[..bytes.len().min(4)].to_vec() };
    let rank = match bytes {
        [0, 0, 8, rank, ..] if (1..=RANK_MAX).contains(&usize::from(*rank)) => usize::from(*rank),
        _ => return Err(header()),
    };
    let end = 4 + 4 * rank;
    let words = bytes.get(4..end).ok_or_else(header)?.as_chunks::<4>().0;
    let dims: Vec<usize> = words.iter().map(|word| u32::from_be_bytes(*word) as usize).collect();
    let data = &bytes[end..];
    if dims.iter().try_fold(1usize, |size, dim| size.checked_mul(*dim)) != Some(data.len()) {
        return Err(IdxError::Length { dims, got: data.len() });
    }
    Ok(Idx { dims, data: data.to_vec() })
}
