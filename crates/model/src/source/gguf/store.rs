//! Tensors of a GGUF file as floats, read one at a time.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::super::SourceError;
use super::super::files::{file_len, io_error};
use super::super::matrix::{Matrix, checked_vector, element_count};
use super::header::{self, TensorInfo};
use super::value::Metadata;

/// Bytes that are read and turned into floats at once.
const CHUNK_BYTES: usize = 1 << 16;

/// An open GGUF file whose header was read and checked.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    file: RefCell<File>,
    version: u32,
    metadata: Metadata,
    tensors: BTreeMap<String, TensorInfo>,
    /// Names that were asked for.
    read: RefCell<BTreeSet<String>>,
}

impl Gguf {
    /// Reads the header.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let len = file_len(path)?;
        let file = File::open(path).map_err(io_error(path))?;
        let header =
            header::read(&file, len).map_err(|error| SourceError::Gguf { path: path.into(), error })?;
        let tensors = header.tensors.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
        let (version, metadata) = (header.version, header.metadata);
        let (file, read) = (RefCell::new(file), RefCell::default());
        Ok(Self { path: path.into(), file, version, metadata, tensors, read })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The key-value pairs.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensors by name.
    pub fn tensors(&self) -> impl Iterator<Item = &TensorInfo> {
        self.tensors.values()
    }

    /// Whether there is such a tensor.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A matrix of exactly this shape.
    pub fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix, SourceError> {
        Matrix::new(name, rows, cols, self.values(name, &[rows, cols], 0, rows)?)
    }

    /// A vector of exactly this length.
    pub fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, SourceError> {
        checked_vector(name, len, self.values(name, &[len], 0, 1)?)
    }

    /// Matrix `index` of a stack `(count, rows, cols)`.
    pub fn stacked(
        &self,
        name: &str,
        (index, count): (usize, usize),
        rows: usize,
        cols: usize,
    ) -> Result<Matrix, SourceError> {
        if index >= count {
            return Err(SourceError::OutOfRange {
                what: format!("index into tensor {name}"),
                got: index as u64,
                min: 0,
                max: (count as u64).saturating_sub(1),
            });
        }
        let data = self.values(name, &[count, rows, cols], index.saturating_mul(rows), rows)?;
        Matrix::new(name, rows, cols, data)
    }

    /// A tensor that nobody has read.
    pub(super) fn unread(&self) -> Option<String> {
        let read = self.read.borrow();
        self.tensors.keys().find(|name| !read.contains(*name)).cloned()
    }

    /// An error of this file.
    pub(super) fn error(&self, error: super::GgufError) -> SourceError {
        SourceError::Gguf { path: self.path.clone(), error }
    }

    /// `count` rows from row `first` on of a tensor of exactly this shape; a vector is one row.
    fn values(
        &self,
        name: &str,
        shape: &[usize],
        first: usize,
        count: usize,
    ) -> Result<Vec<f32>, SourceError> {
        let Some(info) = self.tensors.get(name) else {
            return Err(SourceError::MissingTensor { name: name.into() });
        };
        if info.shape != shape {
            let (got, expected) = (info.shape.clone(), shape.into());
            return Err(SourceError::Shape { name: name.into(), got, expected });
        }
        self.read.borrow_mut().insert(name.into());
        let cols = shape.last().copied().unwrap_or(0);
        let elements = element_count(name, &[count, cols])?;
        let (block, block_bytes) = (info.kind.block_elements(), info.kind.block_bytes());
        // A row is a whole number of blocks and all rows lie inside the file: see `header`.
        let row_bytes = (cols / block * block_bytes) as u64;
        let (mut left, start) = (count as u64 * row_bytes, info.start + first as u64 * row_bytes);
        let mut file = self.file.borrow_mut();
        file.seek(SeekFrom::Start(start)).map_err(io_error(&self.path))?;
        let mut values = Vec::with_capacity(elements);
        let mut chunk = vec![0u8; CHUNK_BYTES / block_bytes * block_bytes];
        while left > 0 {
            let bytes = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            file.read_exact(&mut chunk[..bytes]).map_err(io_error(&self.path))?;
            info.kind.dequantise(&chunk[..bytes], &mut values);
            left -= bytes as u64;
        }
        Ok(values)
    }
}
