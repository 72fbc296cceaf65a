//! The front of a GGUF file: metadata and the table of tensors.
//!
//! ```text
//! "GGUF"  u32 version  u64 tensors  u64 entries
//! entry   text key  u32 type  value          text = u64 bytes, bytes;  array = u32 type  u64 count  values
//! tensor  text name  u32 n  n x u64 dims (fastest first)  u32 type  u64 offset
//! padding to general.alignment, then the data section that offsets count from
//! ```
//! Source: github.com/ggml-org/ggml, `gguf.md` of its documentation and `src/gguf.cpp`. Every length is compared with what is left of the file
//! before anything is read.

use std::io::{BufReader, Read};

use super::GgufError;
use super::limits::{
    DEFAULT_ALIGNMENT, MAX_ALIGNMENT, MAX_ARRAY_DEPTH, MAX_DIMENSIONS, MAX_HEADER_BYTES,
    MAX_METADATA_ENTRIES, MAX_NAME_BYTES, MAX_TENSORS,
};
use super::types::TensorType;
use super::value::{Metadata, NumberType, Texts, Value};

const TEXT: u32 = 8;
const ARRAY: u32 = 9;

/// Where a tensor lies and what it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Slowest dimension first: `(rows, cols)` of a matrix.
    pub shape: Vec<usize>,
    /// How elements are stored.
    pub kind: TensorType,
    /// First byte, from the start of the file.
    pub start: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Everything in front of the data.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    pub(super) metadata: Metadata,
    /// In the file's order.
    pub(super) tensors: Vec<TensorInfo>,
}

/// Reads and checks the header of a file of `len` bytes.
pub(super) fn read(input: impl Read, len: u64) -> Result<Header, GgufError> {
    let mut reader = Reader { input: BufReader::new(input), at: 0, len };
    let magic = reader.array("magic")?;
    if &magic != b"GGUF" {
        return Err(GgufError::Magic { got: magic });
    }
    let version = reader.u32("version")?;
    if !(2..=3).contains(&version) {
        return Err(GgufError::Version { got: version });
    }
    let n_tensors = reader.count("tensors", MAX_TENSORS)?;
    let n_entries = reader.count("metadata entries", MAX_METADATA_ENTRIES)?;
    let mut metadata = Metadata::default();
    for _ in 0..n_entries {
        let key = reader.name("metadata key")?;
        let kind = reader.u32("metadata type")?;
        let value = reader.value(&key, kind)?;
        metadata.insert(key, value)?;
    }
    let alignment = alignment(&metadata)?;
    let mut tensors = Vec::new();
    for _ in 0..n_tensors {
        tensors.push(reader.tensor()?);
    }
    let data_start = reader.at.next_multiple_of(alignment);
    place(&mut tensors, data_start, alignment, len)?;
    Ok(Header { version, metadata, tensors })
}

fn alignment(metadata: &Metadata) -> Result<u64, GgufError> {
    match metadata.unsigned("general.alignment")? {
        None => Ok(DEFAULT_ALIGNMENT),
        Some(got) if got > MAX_ALIGNMENT => {
            Err(GgufError::TooLarge { what: "general.alignment", got, max: MAX_ALIGNMENT })
        }
        Some(got) if !got.is_power_of_two() => Err(GgufError::Alignment { got }),
        Some(got) => Ok(got),
    }
}

/// Turns offsets into places in the file and checks that they are in it, aligned and apart.
fn place(tensors: &mut [TensorInfo], data_start: u64, alignment: u64, len: u64) -> Result<(), GgufError> {
    for tensor in &mut *tensors {
        let (name, got) = (tensor.name.clone(), tensor.start);
        if !got.is_multiple_of(alignment) {
            return Err(GgufError::Misaligned { name, got, alignment });
        }
        let start = data_start.saturating_add(got);
        if start.checked_add(tensor.bytes).is_none_or(|end| end > len) {
            return Err(GgufError::OutOfFile { name, start, bytes: tensor.bytes, len });
        }
        tensor.start = start;
    }
    let mut by_name: Vec<&TensorInfo> = tensors.iter().collect();
    by_name.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = by_name.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(GgufError::DuplicateTensor { name: pair[0].name.clone() });
    }
    let mut by_place = by_name;
    by_place.sort_by_key(|tensor| tensor.start);
    match by_place.windows(2).find(|pair| pair[0].start + pair[0].bytes > pair[1].start) {
        None => Ok(()),
        Some(pair) => Err(GgufError::Overlap { first: pair[0].name.clone(), second: pair[1].name.clone() }),
    }
}

/// Reads forward and knows how much is left.
struct Reader<R> {
    input: BufReader<R>,
    at: u64,
    len: u64,
}

impl<R: Read> Reader<R> {
    /// Refuses what the file does not hold, and headers without end.
    fn need(&self, what: &'static str, expected: u64) -> Result<(), GgufError> {
        let got = self.len.saturating_sub(self.at);
        if expected > got {
            return Err(GgufError::Truncated { what, at: self.at, got, expected });
        }
        match self.at.saturating_add(expected) {
            end if end > MAX_HEADER_BYTES => {
                Err(GgufError::TooLarge { what: "bytes of the header", got: end, max: MAX_HEADER_BYTES })
            }
            _ => Ok(()),
        }
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        self.need(what, N as u64)?;
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn append(&mut self, what: &'static str, count: u64, to: &mut Vec<u8>) -> Result<(), GgufError> {
        self.need(what, count)?;
        let start = to.len();
        to.resize(start + count as usize, 0); // at most `MAX_HEADER_BYTES`, and the file holds them
        self.input.read_exact(&mut to[start..])?;
        self.at += count;
        Ok(())
    }

    fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        self.array(what).map(u64::from_le_bytes)
    }

    fn count(&mut self, what: &'static str, max: u64) -> Result<u64, GgufError> {
        match self.u64(what)? {
            got if got > max => Err(GgufError::TooLarge { what, got, max }),
            count => Ok(count),
        }
    }

    fn name(&mut self, what: &'static str) -> Result<String, GgufError> {
        let at = self.at;
        let len = self.count(what, MAX_NAME_BYTES)?;
        let mut bytes = Vec::new();
        self.append(what, len, &mut bytes)?;
        // Names stand in error messages, and those on terminals.
        let name = String::from_utf8(bytes).ok().filter(|name| !name.chars().any(char::is_control));
        name.ok_or(GgufError::NotText { what, at })
    }

    fn value(&mut self, key: &str, kind: u32) -> Result<Value, GgufError> {
        match kind {
            TEXT => {
                let len = self.u64("metadata text")?;
                let mut text = Vec::new();
                self.append("metadata text", len, &mut text)?;
                Ok(Value::Text(text))
            }
            ARRAY => self.array_value(key, 1),
            _ => {
                let number = number_type(key, kind)?;
                let mut bytes = Vec::new();
                self.append("metadata number", number.bytes() as u64, &mut bytes)?;
                Ok(Value::Number(number.decode(&bytes)))
            }
        }
    }

    fn array_value(&mut self, key: &str, depth: u32) -> Result<Value, GgufError> {
        let what = "metadata array";
        let (kind, count) = (self.u32(what)?, self.u64(what)?);
        match kind {
            TEXT => {
                let mut texts = Texts::default();
                for _ in 0..count {
                    let len = self.u64("text of a metadata array")?;
                    self.append("text of a metadata array", len, &mut texts.bytes)?;
                    texts.ends.push(texts.bytes.len() as u32); // below `MAX_HEADER_BYTES`
                }
                Ok(Value::Texts(texts))
            }
            ARRAY if depth >= MAX_ARRAY_DEPTH => {
                let (got, max) = (u64::from(depth) + 1, u64::from(MAX_ARRAY_DEPTH));
                Err(GgufError::TooLarge { what: "depth of a metadata array", got, max })
            }
            ARRAY => {
                let mut arrays = Vec::new();
                for _ in 0..count {
                    arrays.push(self.array_value(key, depth + 1)?);
                }
                Ok(Value::Arrays(arrays))
            }
            _ => {
                let kind = number_type(key, kind)?;
                let mut bytes = Vec::new();
                self.append(what, count.saturating_mul(kind.bytes() as u64), &mut bytes)?;
                Ok(Value::Numbers { kind, bytes })
            }
        }
    }

    /// `start` is still the offset in the data section.
    fn tensor(&mut self) -> Result<TensorInfo, GgufError> {
        let name = self.name("tensor name")?;
        let n = self.u32("tensor dimensions")?;
        if n == 0 || n > MAX_DIMENSIONS {
            return Err(GgufError::TooLarge {
                what: "dimensions of a tensor (at least 1)",
                got: n.into(),
                max: MAX_DIMENSIONS.into(),
            });
        }
        let dims = (0..n).map(|_| self.u64("tensor dimensions")).collect::<Result<Vec<u64>, _>>()?;
        let id = self.u32("tensor type")?;
        let start = self.u64("tensor offset")?;
        let Some(kind) = TensorType::from_id(id) else {
            return Err(GgufError::TensorType { name, got: TensorType::name_of_id(id) });
        };
        let block = kind.block_elements() as u64;
        if !dims[0].is_multiple_of(block) {
            return Err(GgufError::Block { name, got: dims[0], block });
        }
        let elements = dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim));
        let bytes =
            elements.filter(|&n| n > 0).and_then(|n| (n / block).checked_mul(kind.block_bytes() as u64));
        let shape: Option<Vec<usize>> = dims.iter().rev().map(|&dim| usize::try_from(dim).ok()).collect();
        match (bytes, shape) {
            (Some(bytes), Some(shape)) => Ok(TensorInfo { name, shape, kind, start, bytes }),
            _ => Err(GgufError::Dimensions { name, got: dims }),
        }
    }
}

fn number_type(key: &str, id: u32) -> Result<NumberType, GgufError> {
    NumberType::from_id(id).ok_or_else(|| GgufError::ValueType { key: key.into(), got: id })
}
