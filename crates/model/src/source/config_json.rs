//! Typed access to a Hugging Face `config.json`: a missing field, a wrong type and an unsupported value are three errors.

use std::path::Path;

use serde_json::Value;

use super::SourceError;
use super::files::read_bounded;
use super::limits::MAX_JSON_BYTES;

const A_SIZE: &str = "a whole number";
/// As DeepSeek-V3 introduced it.
const FP8_BLOCK: [usize; 2] = [128, 128];

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
        self.size_or_none(field)?.ok_or(SourceError::ConfigField { field, expected: A_SIZE })
    }

    pub(crate) fn size_or_none(&self, field: &'static str) -> Result<Option<usize>, SourceError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let number = value.as_u64().and_then(|n| usize::try_from(n).ok());
        number.map(Some).ok_or(SourceError::ConfigField { field, expected: A_SIZE })
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

    /// Whether the field is there at all, `null` included.
    pub(crate) fn names(&self, field: &str) -> bool {
        self.0.get(field).is_some()
    }

    /// `null` means none, absence the default.
    pub(crate) fn size_unless_null(
        &self,
        field: &'static str,
        default: usize,
    ) -> Result<Option<usize>, SourceError> {
        if self.names(field) { self.size_or_none(field) } else { Ok(Some(default)) }
    }

    /// A number with two names, the usual one first.
    pub(crate) fn size_named(&self, field: &'static str, other: &'static str) -> Result<usize, SourceError> {
        match self.size_or_none(field)? {
            Some(size) => Ok(size),
            None => self.size_or_none(other)?.ok_or(SourceError::ConfigField { field, expected: A_SIZE }),
        }
    }

    pub(crate) fn float(&self, field: &'static str) -> Result<f64, SourceError> {
        let number = self.get(field).and_then(Value::as_f64);
        number.ok_or(SourceError::ConfigField { field, expected: "a number" })
    }

    pub(crate) fn text_or<'a>(
        &'a self,
        field: &'static str,
        default: &'a str,
    ) -> Result<&'a str, SourceError> {
        self.get(field).map_or(Ok(default), |value| {
            value.as_str().ok_or(SourceError::ConfigField { field, expected: "a name" })
        })
    }

    pub(crate) fn floats(&self, field: &'static str) -> Result<Vec<f64>, SourceError> {
        self.list(field, "a list of numbers", Value::as_f64)?
            .ok_or(SourceError::ConfigField { field, expected: "a list of numbers" })
    }

    /// Absence means an empty list.
    pub(crate) fn sizes(&self, field: &'static str) -> Result<Vec<usize>, SourceError> {
        let size = |value: &Value| value.as_u64().and_then(|n| usize::try_from(n).ok());
        Ok(self.list(field, "a list of whole numbers", size)?.unwrap_or_default())
    }

    pub(crate) fn texts(&self, field: &'static str) -> Result<Option<Vec<String>>, SourceError> {
        self.list(field, "a list of names", |value| value.as_str().map(String::from))
    }

    fn list<T>(
        &self,
        field: &'static str,
        expected: &'static str,
        parse: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<Vec<T>>, SourceError> {
        let Some(value) = self.get(field) else { return Ok(None) };
        let list = value.as_array().and_then(|list| list.iter().map(parse).collect());
        list.map(Some).ok_or(SourceError::ConfigField { field, expected })
    }

    /// An object inside this one.
    pub(crate) fn section(&self, field: &'static str) -> Result<Self, SourceError> {
        match self.get(field) {
            Some(value @ Value::Object(_)) => Ok(Self(value.clone())),
            _ => Err(SourceError::ConfigField { field, expected: "an object" }),
        }
    }

    /// The first of two objects that is there, or one without fields.
    pub(crate) fn section_or_empty(&self, field: &str, other: &str) -> Self {
        Self(self.get(field).or_else(|| self.get(other)).cloned().unwrap_or(Value::Null))
    }

    /// The same object with numbers for absent fields.
    pub(crate) fn with_defaults(&self, defaults: &[(&str, usize)]) -> Self {
        let mut value = self.0.clone();
        for (field, default) in defaults {
            if self.get(field).is_none() {
                value[*field] = Value::from(*default);
            }
        }
        Self(value)
    }

    /// Rows and columns that share a scale in FP8 checkpoints.
    pub(crate) fn fp8_block(&self) -> Result<[usize; 2], SourceError> {
        let expected = "two whole numbers above 0";
        let Some(section) = self.get("quantization_config") else { return Ok(FP8_BLOCK) };
        match Self(section.clone()).sizes("weight_block_size")?[..] {
            [] => Ok(FP8_BLOCK),
            [rows, cols] if rows > 0 && cols > 0 => Ok([rows, cols]),
            _ => Err(SourceError::ConfigField { field: "weight_block_size", expected }),
        }
    }
}
