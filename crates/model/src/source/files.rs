//! Bounded reads: a length is compared with a limit before anything is allocated.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::SourceError;

/// Turns an IO error into one that names the file.
pub(crate) fn io_error(path: &Path) -> impl Fn(std::io::Error) -> SourceError + '_ {
    |error| SourceError::Io { path: path.into(), error }
}

/// Bytes of a regular file.
pub(crate) fn file_len(path: &Path) -> Result<u64, SourceError> {
    let metadata = std::fs::metadata(path).map_err(io_error(path))?;
    if !metadata.is_file() {
        return Err(SourceError::UnknownFormat { path: path.into(), got: "not a regular file".into() });
    }
    Ok(metadata.len())
}

/// A whole file of at most `max_bytes`.
pub(crate) fn read_bounded(path: &Path, max_bytes: u64) -> Result<Vec<u8>, SourceError> {
    let got = file_len(path)?;
    let too_long = |got| SourceError::OutOfRange {
        what: format!("bytes of {}", path.display()),
        got,
        min: 0,
        max: max_bytes,
    };
    if got > max_bytes {
        return Err(too_long(got));
    }
    let mut bytes = Vec::with_capacity(got as usize);
    let file = File::open(path).map_err(io_error(path))?;
    file.take(max_bytes + 1).read_to_end(&mut bytes).map_err(io_error(path))?;
    if bytes.len() as u64 > max_bytes {
        return Err(too_long(bytes.len() as u64));
    }
    Ok(bytes)
}

/// `count` little-endian floats from the reader's place. The caller has compared `count` with the file's length.
pub(crate) fn read_f32(path: &Path, reader: &mut impl Read, count: usize) -> Result<Vec<f32>, SourceError> {
    let mut values = Vec::with_capacity(count);
    let mut buffer = [0u8; 1 << 14];
    while values.len() < count {
        let bytes = buffer.len().min(4 * (count - values.len()));
        reader.read_exact(&mut buffer[..bytes]).map_err(io_error(path))?;
        values.extend(buffer[..bytes].chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
    }
    Ok(values)
}
