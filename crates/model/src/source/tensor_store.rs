//! Tensors of one or several safetensors files, read one at a time.
//!
//! The header names every tensor's type, shape and bytes; the `safetensors` crate checks that the ranges cover the file
//! without gap or overlap. What is added here: limits before allocation, shards that cannot leave their folder, and
//! element types turned into f32.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};

use super::SourceError;
use super::files::{file_len, io_error, read_bounded};
use super::fp8;
use super::limits::{MAX_INDEX_BYTES, MAX_SAFETENSORS_HEADER_BYTES, MAX_SHARDS};
use super::matrix::{Matrix, checked_vector, element_count};

/// The tensors of a model by name.
#[derive(Debug)]
pub(crate) struct TensorStore {
    shards: Vec<Shard>,
    place: BTreeMap<String, (usize, TensorInfo)>,
    /// Names of what was read.
    read: RefCell<BTreeSet<String>>,
    /// Rows and columns that share a scale where scales come in blocks.
    scale_block: [usize; 2],
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    file: RefCell<File>,
    /// Where the data begins, after the header.
    data_start: u64,
}

impl TensorStore {
    /// One `.safetensors` file.
    pub(crate) fn open_file(path: &Path) -> Result<Self, SourceError> {
        let mut store = Self::empty();
        store.add_shard(path)?;
        Ok(store)
    }

    /// All shards that a `model.safetensors.index.json` names.
    pub(crate) fn open_index(index: &Path) -> Result<Self, SourceError> {
        let bytes = read_bounded(index, MAX_INDEX_BYTES)?;
        let parsed: Index = serde_json::from_slice(&bytes)
            .map_err(|error| SourceError::Json { path: index.into(), error })?;
        let names: BTreeSet<&String> = parsed.weight_map.values().collect();
        if names.is_empty() || names.len() > MAX_SHARDS {
            return Err(SourceError::OutOfRange {
                what: format!("shards of {}", index.display()),
                got: names.len() as u64,
                min: 1,
                max: MAX_SHARDS as u64,
            });
        }
        let folder = index.parent().unwrap_or(Path::new(""));
        let mut store = Self::empty();
        for name in names {
            if !is_plain_file_name(name) {
                return Err(SourceError::ShardPath { index: index.into(), shard: name.clone() });
            }
            store.add_shard(&folder.join(name))?;
        }
        match parsed.weight_map.into_keys().find(|name| !store.place.contains_key(name)) {
            Some(name) => Err(SourceError::MissingTensor { name }),
            None => Ok(store),
        }
    }

    fn empty() -> Self {
        let (place, read) = (BTreeMap::new(), RefCell::new(BTreeSet::new()));
        Self { shards: Vec::new(), place, read, scale_block: [128, 128] }
    }

    /// Rows and columns that share a scale of FP8 weights.
    pub(crate) fn set_scale_block(&mut self, block: [usize; 2]) {
        self.scale_block = block;
    }

    /// The names of all tensors that were not read, in order.
    pub(crate) fn unread(&self) -> Vec<String> {
        let read = self.read.borrow();
        self.place.keys().filter(|name| !read.contains(*name)).cloned().collect()
    }

    /// The shape of a tensor.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.place.get(name).map(|(_, info)| &info.shape[..])
    }

    fn add_shard(&mut self, path: &Path) -> Result<(), SourceError> {
        let (file, metadata, data_start) = open_header(path)?;
        let shard = self.shards.len();
        for (name, info) in metadata.tensors() {
            if self.place.insert(name.clone(), (shard, info.clone())).is_some() {
                let reason = format!("tensor {name} is in an earlier shard too");
                return Err(SourceError::Header { path: path.into(), reason });
            }
        }
        self.shards.push(Shard { path: path.into(), file: RefCell::new(file), data_start });
        Ok(())
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.place.contains_key(name)
    }

    /// A matrix of exactly this shape, times its scales where it has some.
    pub(crate) fn matrix(&self, name: &str, rows: usize, cols: usize) -> Result<Matrix, SourceError> {
        let mut data = self.values(name, &[rows, cols])?;
        if self.dtype(name).is_some_and(fp8::is_fp8) {
            fp8::rescale(self, name, self.scale_block, &mut data, cols)?;
        }
        Matrix::new(name, rows, cols, data)
    }

    /// A vector of exactly this length.
    pub(crate) fn vector(&self, name: &str, len: usize) -> Result<Vec<f32>, SourceError> {
        checked_vector(name, len, self.values(name, &[len])?)
    }

    /// The one value of a tensor without dimensions.
    pub(crate) fn scalar(&self, name: &str) -> Result<Vec<f32>, SourceError> {
        self.values(name, &[])
    }

    fn dtype(&self, name: &str) -> Option<Dtype> {
        self.place.get(name).map(|(_, info)| info.dtype)
    }

    /// Elements of a tensor of exactly this shape, as f32.
    pub(crate) fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, SourceError> {
        let Some((shard, info)) = self.place.get(name) else {
            return Err(SourceError::MissingTensor { name: name.into() });
        };
        if info.shape != shape {
            return Err(SourceError::Shape {
                name: name.into(),
                got: info.shape.clone(),
                expected: shape.into(),
            });
        }
        let count = element_count(name, shape)?;
        let (width, decode): (usize, fn(&[u8]) -> f32) = match info.dtype {
            Dtype::F32 => (4, |b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])),
            Dtype::F16 => (2, |b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()),
            Dtype::BF16 => (2, |b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32()),
            Dtype::F8_E4M3 => (1, |b| fp8::from_e4m3(b[0])),
            Dtype::F8_E5M2 => (1, |b| fp8::from_e5m2(b[0])),
            other => return Err(SourceError::ElementType { name: name.into(), got: format!("{other:?}") }),
        };
        self.read.borrow_mut().insert(name.into());
        let shard = &self.shards[*shard];
        let mut file = shard.file.borrow_mut();
        let start = shard.data_start + info.data_offsets.0 as u64; // inside the file: see `open_header`
        file.seek(SeekFrom::Start(start)).map_err(io_error(&shard.path))?;
        let mut values = Vec::with_capacity(count);
        let mut buffer = [0u8; 1 << 14];
        while values.len() < count {
            let bytes = buffer.len().min(width * (count - values.len()));
            file.read_exact(&mut buffer[..bytes]).map_err(io_error(&shard.path))?;
            values.extend(buffer[..bytes].chunks_exact(width).map(decode));
        }
        Ok(values)
    }
}

#[derive(serde::Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

fn is_plain_file_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(std::path::Component::Normal(part)), None) if part == name)
        && !name.contains(['/', '\\', ':'])
}

/// Header length (u64), header (JSON), data; the ranges of the header must end where the file ends.
fn open_header(path: &Path) -> Result<(File, Metadata, u64), SourceError> {
    let len = file_len(path)?;
    let bad = |reason: String| SourceError::Header { path: path.into(), reason };
    if len < 8 {
        return Err(SourceError::Length { path: path.into(), got: len, expected: 8 });
    }
    let mut file = File::open(path).map_err(io_error(path))?;
    let mut prefix = [0u8; 8];
    file.read_exact(&mut prefix).map_err(io_error(path))?;
    let header_len = u64::from_le_bytes(prefix);
    let max = MAX_SAFETENSORS_HEADER_BYTES.min(len - 8);
    if header_len > max {
        return Err(bad(format!("header length: got {header_len} bytes, expected at most {max}")));
    }
    let mut header = vec![0u8; header_len as usize];
    file.read_exact(&mut header).map_err(io_error(path))?;
    let metadata: Metadata = serde_json::from_slice(&header).map_err(|error| bad(error.to_string()))?;
    let data_start = 8 + header_len;
    let expected = data_start.saturating_add(metadata.data_len() as u64);
    if len != expected {
        return Err(SourceError::Length { path: path.into(), got: len, expected });
    }
    Ok((file, metadata, data_start))
}
