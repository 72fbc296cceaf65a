//! An encoded vector in a file, for whoever opens one commitment many times: the weights of a model are committed to once.
//!
//! ```text
//! at   bytes
//! 0    8     "LSCODE\0\n"
//! 8    2     version, 0, little-endian
//! 10   6     zeros
//! 16   8     cells, little-endian
//! 24   1     b: columns of the matrix, as a logarithm
//! 25   1     s: the code has rate 2^-s
//! 26   6     zeros
//! 32   32    the root
//! 64         slab after slab: for each place sixteen canonical integers, little-endian, the last rows filled with zeros
//!            the hashes of the tree: leaves, in the order of columns, then each layer above; the root is the last one
//! ```
//!
//! So it has about 16 bytes a cell at rate 1/4. Nothing in it is trusted: a column that is read is hashed and compared with its leaf, and a damaged file gives an error instead of a
//! proof that nobody accepts.

use super::Shape;
use super::prover::encoded;
use crate::cells::CellsRef;
use crate::field::ProofField;
use crate::lanes::LANES;
use crate::merkle::leaf_of_bytes;
use crate::parallel::THREADS;
use crate::transcript::Hash;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use std::fs::File;
use std::io::{BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

/// The first bytes.
const MAGIC: &[u8; 8] = b"LSCODE\0\n";
/// The version that is written and read.
const VERSION: u16 = 0;
/// Bytes in front of the slabs.
const HEADER_BYTES: usize = 64;
/// Bytes of one place of a slab.
const PLACE_BYTES: usize = 4 * LANES;
/// Bytes of a hash.
const HASH_BYTES: usize = 32;
/// Bytes that are written at once.
const WRITE_BYTES: usize = 1 << 20;

/// Why a file does not give what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeptError {
    /// The file system.
    #[error("{path}: {message}")]
    File {
        /// The file.
        path: String,
        /// What it says.
        message: String,
    },
    /// Another file, or another version.
    #[error("{path}: no encoded weights of version {VERSION}")]
    Header {
        /// The file.
        path: String,
    },
    /// Another vector.
    #[error("{path}: encoded weights of {got} cells, expected {expected}")]
    Cells {
        /// The file.
        path: String,
        /// Its cells.
        got: u64,
        /// How many there should be.
        expected: u64,
    },
    /// Another vector.
    #[error("{path}: encoded weights with another root than was expected")]
    Root {
        /// The file.
        path: String,
    },
    /// Cut off, or too long.
    #[error("{path}: {got} bytes, expected {expected}")]
    Size {
        /// The file.
        path: String,
        /// Its bytes.
        got: u64,
        /// What its shape needs.
        expected: u64,
    },
    /// Its bytes changed.
    #[error("{path}: column {column} of the encoded weights is damaged: make the file again")]
    Damaged {
        /// The file.
        path: String,
        /// Which column.
        column: usize,
    },
}

/// A file with an encoded vector.
#[derive(Debug)]
pub struct Kept {
    file: File,
    path: PathBuf,
    shape: Shape,
    root: Hash,
}

/// What `result` says of `path`.
fn named<T>(path: &Path, result: std::io::Result<T>) -> Result<T, KeptError> {
    let path = || path.display().to_string();
    result.map_err(|error| KeptError::File { path: path(), message: error.to_string() })
}

/// Gives a file that was written another name.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), KeptError> {
    named(to, std::fs::rename(from, to))
}

/// Slabs of a shape.
fn slabs(shape: &Shape) -> u64 {
    shape.rows.div_ceil(LANES) as u64
}

/// Bytes of a file for this shape.
fn bytes(shape: &Shape) -> u64 {
    let count = 1u64 << shape.code_log();
    HEADER_BYTES as u64 + slabs(shape) * count * PLACE_BYTES as u64 + (2 * count - 1) * HASH_BYTES as u64
}

impl Kept {
    /// Encodes `cells` in this shape into a new file at `path`, a part of which is left if that fails.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write<E: ProofField>(
        cells: CellsRef<'_, E::Base>,
        shape: Shape,
        path: &Path,
    ) -> Result<Hash, KeptError> {
        let mut out = BufWriter::with_capacity(WRITE_BYTES, named(path, File::create(path))?);
        // The root is not known yet: until it is there, the file is none.
        named(path, out.write_all(&[0; HEADER_BYTES]))?;
        let tree = encoded::<E, KeptError>(cells, &shape, THREADS, |slabs| {
            for place in slabs.iter().flat_map(|slab| slab.iter()) {
                let mut bytes = [0; PLACE_BYTES];
                for (bytes, x) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(place.0) {
                    *bytes = x.to_le_bytes();
                }
                named(path, out.write_all(&bytes))?;
            }
            Ok(())
        })?;
        for layer in tree.layers() {
            named(path, out.write_all(layer.as_flattened()))?;
        }
        let root = tree.root();
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend_from_slice(MAGIC);
        header.extend_from_slice(&VERSION.to_le_bytes());
        header.resize(16, 0);
        header.extend_from_slice(&(cells.len() as u64).to_le_bytes());
        header.extend_from_slice(&[shape.log_cols as u8, shape.log_inverse_rate as u8]);
        header.resize(32, 0);
        header.extend_from_slice(&root);
        named(path, out.seek(SeekFrom::Start(0)))?;
        named(path, out.write_all(&header))?;
        named(path, out.flush())?;
        Ok(root)
    }

    /// The file at `path`, which should have `cells` cells in this shape, and this root.
    ///
    /// # Errors
    /// If it has not.
    pub fn open(path: &Path, cells: usize, shape: Shape, root: &Hash) -> Result<Kept, KeptError> {
        let mut file = named(path, File::open(path))?;
        let name = || path.display().to_string();
        let mut header = [0; HEADER_BYTES];
        named(path, file.read_exact(&mut header))?;
        if header[..8] != *MAGIC || header[8..10] != VERSION.to_le_bytes() {
            return Err(KeptError::Header { path: name() });
        }
        let (got, expected) = (u64_at(&header, 16), cells as u64);
        if got != expected {
            return Err(KeptError::Cells { path: name(), got, expected });
        }
        if header[24..26] != [shape.log_cols as u8, shape.log_inverse_rate as u8] {
            return Err(KeptError::Header { path: name() });
        }
        if header[32..] != root[..] {
            return Err(KeptError::Root { path: name() });
        }
        let (got, expected) = (named(path, file.metadata())?.len(), bytes(&shape));
        if got != expected {
            return Err(KeptError::Size { path: name(), got, expected });
        }
        Ok(Kept { file, path: path.into(), shape, root: *root })
    }

    /// The shape of the matrix.
    pub(super) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The root that it should have.
    pub(super) fn root(&self) -> Hash {
        self.root
    }

    fn read(&self, at: u64, bytes: &mut [u8]) -> Result<(), KeptError> {
        let mut file = &self.file;
        named(&self.path, file.seek(SeekFrom::Start(HEADER_BYTES as u64 + at)))?;
        named(&self.path, file.read_exact(bytes))
    }

    /// Column `position`, which lies at `place` in each slab.
    pub(super) fn column(&self, position: usize, place: usize) -> Result<Vec<u32>, KeptError> {
        let count = 1u64 << self.shape.code_log();
        let mut column = vec![0; PLACE_BYTES * slabs(&self.shape) as usize];
        for (slab, bytes) in column.chunks_mut(PLACE_BYTES).enumerate() {
            self.read((slab as u64 * count + place as u64) * PLACE_BYTES as u64, bytes)?;
        }
        if leaf_of_bytes(&column[..4 * self.shape.rows]) != self.hash(0, position)? {
            let path = self.path.display().to_string();
            return Err(KeptError::Damaged { path, column: position });
        }
        Ok(column.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
    }

    /// A hash of the tree.
    pub(super) fn hash(&self, layer: usize, at: usize) -> Result<Hash, KeptError> {
        let count = 1u64 << self.shape.code_log();
        let before = 2 * count - ((2 * count) >> layer);
        let mut hash = [0; HASH_BYTES];
        let first = slabs(&self.shape) * count * PLACE_BYTES as u64;
        self.read(first + (before + at as u64) * HASH_BYTES as u64, &mut hash)?;
        Ok(hash)
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(eight)
}
