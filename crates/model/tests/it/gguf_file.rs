//! Writes GGUF files for tests: valid ones from the descriptions in `fixtures/gguf`, and whatever else a test asks for.

use std::fs;

use lockstep_base::rng::SplitMix64;
use lockstep_model::source::gguf::TensorType;

use crate::source_data::fixture;

/// `ggml_type` by name.
pub(crate) fn type_id(name: &str) -> u32 {
    let id = (0..64).find(|&id| TensorType::from_id(id).is_some_and(|kind| kind.name() == name));
    id.unwrap_or_else(|| panic!("type {name}"))
}

/// A metadata value.
#[derive(Debug, Clone)]
pub(crate) enum Meta {
    Bool(bool),
    U32(u32),
    F32(f32),
    Text(Vec<u8>),
    Texts(Vec<Vec<u8>>),
    F32s(Vec<f32>),
    I32s(Vec<i32>),
    /// Type and bytes as they are.
    Raw(u32, Vec<u8>),
}

impl Meta {
    pub(crate) fn text(text: &str) -> Self {
        Self::Text(text.into())
    }

    pub(crate) fn texts<T: AsRef<[u8]>>(texts: &[T]) -> Self {
        Self::Texts(texts.iter().map(|text| text.as_ref().to_vec()).collect())
    }

    fn write(&self, to: &mut Vec<u8>) {
        let (kind, bytes): (u32, Vec<u8>) = match self {
            Self::Bool(flag) => (7, vec![u8::from(*flag)]),
            Self::U32(number) => (4, number.to_le_bytes().into()),
            Self::F32(number) => (6, number.to_le_bytes().into()),
            Self::Text(text) => (8, text_bytes(text)),
            Self::Texts(texts) => (
                9,
                array(8, texts.len(), &texts.iter().flat_map(|text| text_bytes(text)).collect::<Vec<u8>>()),
            ),
            Self::F32s(list) => {
                (9, array(6, list.len(), &list.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()))
            }
            Self::I32s(list) => {
                (9, array(5, list.len(), &list.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>()))
            }
            Self::Raw(kind, bytes) => (*kind, bytes.clone()),
        };
        to.extend(kind.to_le_bytes());
        to.extend(bytes);
    }
}

pub(crate) fn text_bytes(text: &[u8]) -> Vec<u8> {
    [&(text.len() as u64).to_le_bytes(), text].concat()
}

fn array(kind: u32, len: usize, values: &[u8]) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &(len as u64).to_le_bytes(), values].concat()
}

/// A tensor; dimensions fastest first.
#[derive(Debug, Clone)]
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) dims: Vec<u64>,
    pub(crate) kind: u32,
    /// Where the file says it is; where it is, if none.
    pub(crate) offset: Option<u64>,
    pub(crate) data: Vec<u8>,
}

/// A file before it is bytes.
#[derive(Debug, Clone)]
pub(crate) struct File {
    pub(crate) version: u32,
    pub(crate) metadata: Vec<(String, Meta)>,
    pub(crate) tensors: Vec<Tensor>,
    pub(crate) alignment: usize,
}

impl Default for File {
    fn default() -> Self {
        Self { version: 3, metadata: Vec::new(), tensors: Vec::new(), alignment: 32 }
    }
}

impl File {
    pub(crate) fn set(&mut self, key: &str, value: Meta) -> &mut Self {
        self.metadata.retain(|(old, _)| old != key);
        self.metadata.push((key.into(), value));
        self
    }

    pub(crate) fn remove(&mut self, key: &str) -> &mut Self {
        self.metadata.retain(|(old, _)| old != key);
        self
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut Tensor {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(self.version.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.metadata.len() as u64).to_le_bytes());
        for (key, value) in &self.metadata {
            file.extend(text_bytes(key.as_bytes()));
            value.write(&mut file);
        }
        let mut place = 0;
        for tensor in &self.tensors {
            file.extend(text_bytes(tensor.name.as_bytes()));
            file.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|dim| file.extend(dim.to_le_bytes()));
            file.extend(tensor.kind.to_le_bytes());
            file.extend(tensor.offset.unwrap_or(place).to_le_bytes());
            place = (place + tensor.data.len() as u64).next_multiple_of(self.alignment as u64);
        }
        for tensor in &self.tensors {
            file.resize(file.len().next_multiple_of(self.alignment), 0);
            file.extend(&tensor.data);
        }
        file
    }
}

/// A model of `fixtures/gguf` (see `make_gguf.py` for what the fields mean).
#[derive(serde::Deserialize)]
pub(crate) struct Description {
    seed: u64,
    metadata: Vec<(String, String, serde_json::Value)>,
    tensors: Vec<(String, String, Vec<u64>, f64, f64)>,
    pub(crate) tokens: Vec<u32>,
    pub(crate) logits: Vec<Vec<f32>>,
}

impl Description {
    pub(crate) fn read(name: &str) -> Self {
        let text = fs::read_to_string(fixture(&format!("gguf/{name}.json"))).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    pub(crate) fn file(&self) -> File {
        let mut file = File::default();
        for (key, kind, value) in &self.metadata {
            let value = match kind.as_str() {
                "u32" => Meta::U32(value.as_u64().unwrap() as u32),
                "f32" => Meta::F32(value.as_f64().unwrap() as f32),
                "str" => Meta::text(value.as_str().unwrap()),
                other => panic!("kind {other}"),
            };
            file.set(key, value);
        }
        let mut rng = Stream { rng: SplitMix64::new(self.seed) };
        for (name, kind, shape, size, offset) in &self.tensors {
            let dims = shape.iter().rev().copied().collect();
            let data = rng.tensor(kind, shape.iter().product::<u64>() as usize, *size as f32, *offset as f32);
            file.tensors.push(Tensor { name: name.clone(), dims, kind: type_id(kind), offset: None, data });
        }
        file
    }
}

struct Stream {
    rng: SplitMix64,
}

impl Stream {
    fn tensor(&mut self, name: &str, count: usize, size: f32, offset: f32) -> Vec<u8> {
        let kind = TensorType::from_id(type_id(name)).unwrap();
        if kind.block_elements() > 1 {
            return self.blocks(kind, count, size);
        }
        let mut bytes = vec![0; count];
        self.rng.fill(&mut bytes);
        let values = bytes.into_iter().map(|byte| f32::from(byte as i8) * (size / 128.0) + offset);
        match kind {
            TensorType::F32 => values.flat_map(f32::to_le_bytes).collect(),
            TensorType::F16 => values.flat_map(|x| half::f16::from_f32(x).to_le_bytes()).collect(),
            _ => values.flat_map(|x| ((x.to_bits() >> 16) as u16).to_le_bytes()).collect(),
        }
    }

    fn blocks(&mut self, kind: TensorType, count: usize, size: f32) -> Vec<u8> {
        let halves: &[usize] = match kind {
            TensorType::Q6K => &[208],
            TensorType::Q3K => &[108],
            TensorType::Q2K => &[80, 82],
            TensorType::Q4_0 | TensorType::Q5_0 | TensorType::Q8_0 => &[0],
            _ => &[0, 2],
        };
        let mut data = vec![0; count / kind.block_elements() * kind.block_bytes()];
        self.rng.fill(&mut data);
        for block in data.chunks_mut(kind.block_bytes()) {
            for &at in halves {
                block[at..at + 2].copy_from_slice(&half::f16::from_f32(size).to_le_bytes());
            }
        }
        data
    }
}
