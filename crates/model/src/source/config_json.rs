//! Typed access to a Hugging Face `config.json`: a missing field, a wrong type and an unsupported value are three errors.

use std::path::Path;

use serde_json::Value;

use super::SourceError;
use super::files::read_bounded;
use super::limits::MAX_JSON_BYTES;
use super::positions::{Positions, Rope, RopeScaling};

/// A JSON object from a file beside the weights.
#[derive(Debug, Clone)]
pub(crate) struct ConfigJson(Value);

impl ConfigJson {
    pub(crate) fn read(path: &Path) -> Result<Self, SourceError> {
        let bytes = read_bounded(path, MAX_JSON_BYTES)?;
        let value =
            serde_json::from_slice(&bytes).map_err(|error| SourceError::Json { path: path.into(), error })?;
        Ok(Self(value))
    }

    /// `null` counts as absent, as in Python.
    pub(crate) fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|value| !value.is_null())
    }

    pub(crate) fn size(&self, field: &'static str) -> Result<usize, SourceError> {
        self.size_or_none(field)?.ok_or(SourceError::ConfigField { field, expected: "a whole number" })
    }

    pub(crate) fn size_or_none(&self, field: &'static str) -> Result<Option<usize>, SourceError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let number = value.as_u64().and_then(|n| usize::try_from(n).ok());
        number.map(Some).ok_or(SourceError::ConfigField { field, expected: "a whole number" })
    }

    pub(crate) fn float_or(&self, field: &'static str, default: f64) -> Result<f64, SourceError> {
        match self.get(field) {
            None => Ok(default),
            Some(value) => value.as_f64().ok_or(SourceError::ConfigField { field, expected: "a number" }),
        }
    }

    pub(crate) fn flag_or(&self, field: &'static str, default: bool) -> Result<bool, SourceError> {
        match self.get(field) {
            None => Ok(default),
            Some(value) => {
                value.as_bool().ok_or(SourceError::ConfigField { field, expected: "true or false" })
            }
        }
    }

    /// Refuses any value but those named; absence means the first.
    pub(crate) fn require_one_of(
        &self,
        field: &'static str,
        accepted: &[&str],
        expected: &'static str,
    ) -> Result<(), SourceError> {
        match self.get(field) {
            None => Ok(()),
            Some(Value::String(text)) if accepted.contains(&text.as_str()) => Ok(()),
            Some(other) => Err(SourceError::Unsupported { field, got: other.to_string(), expected }),
        }
    }

    /// Refuses any value but this one; absence means it.
    pub(crate) fn require_flag(
        &self,
        field: &'static str,
        wanted: bool,
        expected: &'static str,
    ) -> Result<(), SourceError> {
        if self.flag_or(field, wanted)? == wanted {
            return Ok(());
        }
        Err(SourceError::Unsupported { field, got: (!wanted).to_string(), expected })
    }

    /// The single entry of `architectures`.
    pub(crate) fn architecture(&self) -> Result<&str, SourceError> {
        let list = self.get("architectures").and_then(Value::as_array);
        list.and_then(|list| list.first())
            .and_then(Value::as_str)
            .ok_or(SourceError::ConfigField { field: "architectures", expected: "a list of names" })
    }

    /// A token id or a list of them.
    pub(crate) fn token_ids(&self, field: &'static str) -> Result<Vec<u32>, SourceError> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match self.get(field) {
            None => Some(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(id).collect(),
            Some(value) => id(value).map(|id| vec![id]),
        };
        ids.ok_or(SourceError::ConfigField { field, expected: "a token id or a list of them" })
    }

    /// `rope_theta` and `rope_scaling` (before transformers 5) or `rope_parameters` (since).
    pub(crate) fn rope(&self, dim: usize) -> Result<Positions, SourceError> {
        let section = self.get("rope_parameters").or_else(|| self.get("rope_scaling")).cloned();
        let section = Self(section.unwrap_or(Value::Null));
        let theta = section.float_or("rope_theta", self.float_or("rope_theta", 10_000.0)?)?;
        let kind = section.get("rope_type").or_else(|| section.get("type"));
        let kind = kind.map_or(Ok("default"), |value| {
            value.as_str().ok_or(SourceError::ConfigField { field: "rope_type", expected: "a name" })
        })?;
        let need = |field: &'static str| match section.get(field).and_then(Value::as_f64) {
            Some(number) => Ok(number),
            None => Err(SourceError::ConfigField { field, expected: "a number" }),
        };
        let scaling = match kind {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: need("factor")? },
            "llama3" => RopeScaling::Llama3 {
                factor: need("factor")?,
                low_freq_factor: need("low_freq_factor")?,
                high_freq_factor: need("high_freq_factor")?,
                original_context: need("original_max_position_embeddings")?,
            },
            other => {
                let expected = "default, linear or llama3";
                return Err(SourceError::Unsupported { field: "rope_type", got: other.into(), expected });
            }
        };
        Ok(Positions::Rope(Rope { theta, scaling, dim }))
    }
}
