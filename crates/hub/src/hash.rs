//! What a file must be: its size, and the hash that the hub lists for it.
//!
//! Large files are kept apart from the repository (Git LFS) and known by their SHA-256. The others are git blobs, known by
//! `SHA-1("blob " size NUL content)`; that is no proof against somebody who makes collisions, but such a file is read as JSON or text
//! by parsers that trust nothing.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha1::Digest as _;

use crate::HubError;

/// Bytes hashed at once.
const BUFFER_BYTES: usize = 1 << 18;

/// Size and hash of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expected {
    /// Bytes.
    pub(crate) size: u64,
    /// Lower-case hexadecimal, checked to be of the right length.
    pub(crate) hash: Hash,
}

/// One of the two hashes of the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Hash {
    /// Of a large file.
    Sha256(String),
    /// Of a git blob.
    GitBlob(String),
}

impl Hash {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "SHA-256",
            Self::GitBlob(_) => "git blob id",
        }
    }

    pub(crate) fn hex(&self) -> &str {
        match self {
            Self::Sha256(hex) | Self::GitBlob(hex) => hex,
        }
    }
}

/// Whether a text is that many bytes in lower-case hexadecimal.
pub(crate) fn is_hex(text: &str, bytes: usize) -> bool {
    text.len() == 2 * bytes && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl Expected {
    /// `None` if the file is what it must be, else the hash that it has.
    pub(crate) fn differs(&self, path: &Path, seen: &mut dyn FnMut(u64)) -> Result<Option<String>, HubError> {
        let got = match &self.hash {
            Hash::Sha256(_) => hash_file(path, sha2::Sha256::new(), seen)?,
            Hash::GitBlob(_) => {
                let header = format!("blob {}\0", self.size);
                hash_file(path, sha1::Sha1::new().chain_update(header), seen)?
            }
        };
        Ok(Some(got).filter(|got| got != self.hash.hex()))
    }
}

fn hash_file<D: sha2::Digest>(
    path: &Path,
    mut state: D,
    seen: &mut dyn FnMut(u64),
) -> Result<String, HubError> {
    let mut file = File::open(path).map_err(HubError::io(path))?;
    let (mut buffer, mut done) = (vec![0u8; BUFFER_BYTES], 0);
    loop {
        match file.read(&mut buffer).map_err(HubError::io(path))? {
            0 => break,
            n => {
                state.update(&buffer[..n]);
                done += n as u64;
                seen(done);
            }
        }
    }
    Ok(state.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
