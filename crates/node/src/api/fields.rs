//! The fields of a JSON request, taken out one by one: each is either understood or refused, and
//! none is skipped in silence. A client that asks for something that is not served learns it.

use super::error::ApiError;
use serde_json::{Map, Value};

/// Code of a value that is out of its range.
pub const INVALID_VALUE: &str = "invalid_value";
/// Code of a value of another type.
pub const INVALID_TYPE: &str = "invalid_type";
/// Code of a field that is known and not served.
pub const UNSUPPORTED: &str = "unsupported_parameter";
/// Characters of a client's value that an error message repeats at most.
const ECHO_CHARS_MAX: usize = 60;

/// The fields that nobody took yet.
#[derive(Debug)]
pub struct Fields {
    map: Map<String, Value>,
    /// In front of field names in messages: empty, or the object's name and a dot.
    prefix: String,
}

impl Fields {
    /// The fields of a whole body.
    ///
    /// # Errors
    /// 400 if it is not a JSON object.
    pub fn parse(body: &[u8]) -> Result<Fields, ApiError> {
        let value: Value = serde_json::from_slice(body)
            .map_err(|error| ApiError::invalid(format!("the body is not valid JSON: {error}")))?;
        match value {
            Value::Object(map) => Ok(Fields { map, prefix: String::new() }),
            other => Err(ApiError::invalid(format!("the body is {}, expected an object", type_of(&other)))),
        }
    }

    /// One field `name`, as if it were a whole body.
    #[must_use]
    pub fn one(name: &str, value: Value) -> Fields {
        Fields { map: Map::from_iter([(name.to_owned(), value)]), prefix: String::new() }
    }

    /// Takes a field; `null` is absence.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.map.shift_remove(name).filter(|value| !value.is_null())
    }

    /// The full name of a field.
    #[must_use]
    pub fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    fn wrong_type(&self, name: &str, got: &Value, expected: &str) -> ApiError {
        let path = self.path(name);
        ApiError::field(&path, INVALID_TYPE, format!("{path} is {}, expected {expected}", type_of(got)))
    }

    /// Takes a text.
    ///
    /// # Errors
    /// 400 on another type.
    pub fn string(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong_type(name, &other, "a string")),
        }
    }

    /// Takes a truth value.
    ///
    /// # Errors
    /// 400 on another type.
    pub fn bool(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(value)),
            Some(other) => Err(self.wrong_type(name, &other, "true or false")),
        }
    }

    /// Takes a number from `low` to `high`.
    ///
    /// # Errors
    /// 400 on another type or outside.
    pub fn number(&mut self, name: &str, low: f64, high: f64) -> Result<Option<f64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let Some(number) = value.as_f64() else {
            return Err(self.wrong_type(name, &value, "a number"));
        };
        if !(low..=high).contains(&number) {
            return Err(self.out_of_range(name, &value, &format!("a number from {low} to {high}")));
        }
        Ok(Some(number))
    }

    /// Takes an integer from `low` to `high`.
    ///
    /// # Errors
    /// 400 on another type or outside.
    pub fn integer(&mut self, name: &str, low: i64, high: i64) -> Result<Option<i64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let expected = format!("an integer from {low} to {high}");
        if !value.is_number() {
            return Err(self.wrong_type(name, &value, &expected));
        }
        match value.as_i64() {
            Some(integer) if (low..=high).contains(&integer) => Ok(Some(integer)),
            _ => Err(self.out_of_range(name, &value, &expected)),
        }
    }

    /// Takes a seed: any 64-bit integer; negative ones count as their two's complement.
    ///
    /// # Errors
    /// 400 on anything else.
    pub fn seed(&mut self, name: &str) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        let seed = value.as_u64().or_else(|| value.as_i64().map(i64::cast_unsigned));
        seed.map(Some).ok_or_else(|| self.wrong_type(name, &value, "a 64-bit integer"))
    }

    /// Takes an object.
    ///
    /// # Errors
    /// 400 on another type.
    pub fn object(&mut self, name: &str) -> Result<Option<Fields>, ApiError> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Fields { map, prefix: format!("{}.", self.path(name)) })),
            Some(other) => Err(self.wrong_type(name, &other, "an object")),
        }
    }

    /// Takes a field of any other type.
    ///
    /// # Errors
    /// 400 in the words of `expected` where `read` gives nothing.
    pub fn other<T>(
        &mut self,
        name: &str,
        expected: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.take(name) else { return Ok(None) };
        read(&value).map(Some).ok_or_else(|| self.wrong_type(name, &value, expected))
    }

    /// Drops fields that change nothing here: they speak about accounts, billing and caches.
    pub fn ignore(&mut self, names: &[&str]) {
        for name in names {
            self.map.shift_remove(*name);
        }
    }

    /// Refuses a field of the API that is not served, unless it has the value that asks for
    /// nothing.
    ///
    /// # Errors
    /// 400 if it asks for something.
    pub fn unsupported(&mut self, name: &str, neutral: &[Value]) -> Result<(), ApiError> {
        match self.take(name) {
            Some(value) if !is_neutral(&value, neutral) => {
                let path = self.path(name);
                let got = short(&value);
                let message = match neutral {
                    [] => format!("{path} is not supported, expected none (got {got})"),
                    [only, ..] => format!("{path} = {got} is not supported, expected none or {only}"),
                };
                Err(ApiError::field(&path, UNSUPPORTED, message))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what is left.
    ///
    /// # Errors
    /// 400 naming the first field that is unknown.
    pub fn finish(self) -> Result<(), ApiError> {
        match self.map.keys().next() {
            None => Ok(()),
            Some(name) => {
                let path =
                    format!("{}{}", self.prefix, name.chars().take(ECHO_CHARS_MAX).collect::<String>());
                Err(ApiError::field(&path, "unknown_parameter", format!("unknown parameter: {path}")))
            }
        }
    }

    /// 400: a value outside its range.
    #[must_use]
    pub fn out_of_range(&self, name: &str, got: &Value, expected: &str) -> ApiError {
        let path = self.path(name);
        ApiError::field(&path, INVALID_VALUE, format!("{path} = {}, expected {expected}", short(got)))
    }
}

/// Equal as JSON, numbers by value (0 and 0.0 are one).
fn is_neutral(value: &Value, neutral: &[Value]) -> bool {
    neutral.iter().any(|neutral| match (value.as_f64(), neutral.as_f64()) {
        (Some(value), Some(neutral)) => value == neutral,
        _ => value == neutral,
    })
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(ECHO_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
