//! A Hugging Face folder: `config.json` and safetensors, for every family of [`family::FAMILIES`].
//!
//! ```text
//! config.json ──describe──> FloatConfig ─┐
//! names of the family ───────────────────┼─assemble──> FloatModel
//! tensors (store) ───────────────────────┘
//! ```
//! A family is a row of a table: what its config means, what its tensors are called, and how it stores them. No tensor is
//! dropped in silence: whatever was not read and is not on the family's list of things without meaning is an error.

mod assemble;
mod describe;
mod encoder;
mod family;
mod gemma;
mod mixture;
pub(super) mod peft;
mod rope;

use std::path::Path;

use super::config_json::ConfigJson;
use super::tensor_store::TensorStore;
use super::{FloatModel, SourceError};
pub(crate) use family::{FAMILIES, Family};

/// Reads the model of a folder; `file` names its weights where they are not called as usual.
pub(super) fn open(folder: &Path, file: Option<&Path>) -> Result<FloatModel, SourceError> {
    let (family, json) = read_config(folder)?;
    let mut described = (family.describe)(&json)?;
    if !described.config.causal {
        described.config.pooling = encoder::pooling(folder, described.config.d_model)?;
    }
    let mut store = open_store(folder, file)?;
    store.set_scale_block(json.fp8_block()?);
    assemble::assemble(family, described, &store)
}

/// The family of a folder and the part of its config that speaks of the text model.
pub(crate) fn read_config(folder: &Path) -> Result<(&'static Family, ConfigJson), SourceError> {
    let path = folder.join("config.json");
    if !path.is_file() {
        return Err(SourceError::UnknownFormat { path: folder.into(), got: "no config.json".into() });
    }
    let json = ConfigJson::read(&path)?;
    refuse_integers(&json)?;
    let got = json.architecture()?;
    let family = FAMILIES.iter().find(|family| family.architecture == got);
    let family = family.ok_or_else(|| SourceError::UnknownArchitecture { got: got.into() })?;
    let json = match family.section {
        Some(section) => json.section(section)?,
        None => json,
    };
    Ok((family, json))
}

/// Ways to quantise that leave floats and scales behind.
const FLOAT_QUANTISATIONS: [&str; 4] = ["fp8", "fbgemm_fp8", "compressed-tensors", "modelopt"];

/// A checkpoint that is quantised to integers has lost what our own formats are made from.
fn refuse_integers(json: &ConfigJson) -> Result<(), SourceError> {
    let section = json.section_or_empty("quantization_config", "");
    let got = section.text_or("quant_method", "fp8")?;
    if FLOAT_QUANTISATIONS.contains(&got) {
        return Ok(());
    }
    Err(SourceError::Unsupported {
        field: "quant_method",
        got: got.into(),
        expected: "fp8, fbgemm_fp8, compressed-tensors or modelopt, in 8-bit floats",
    })
}

fn open_store(folder: &Path, file: Option<&Path>) -> Result<TensorStore, SourceError> {
    if let Some(file) = file {
        return TensorStore::open_file(file);
    }
    let single = folder.join("model.safetensors");
    if single.is_file() {
        return TensorStore::open_file(&single);
    }
    let index = folder.join("model.safetensors.index.json");
    if index.is_file() {
        return TensorStore::open_index(&index);
    }
    let got = "no model.safetensors and no model.safetensors.index.json".into();
    Err(SourceError::UnknownFormat { path: folder.into(), got })
}
