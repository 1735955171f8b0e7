//! Typed access to the metadata of a file.

use std::collections::BTreeMap;

use serde_json::json;

use crate::error::{Error, Result};
use crate::value::Value;

/// Typed access to the metadata of a file.
#[derive(Debug, Clone, Copy)]
pub struct Metadata<'a> {
    entries: &'a BTreeMap<String, Value>,
}

impl<'a> Metadata<'a> {
    /// Starts with the entries of a header.
    pub fn new(entries: &'a BTreeMap<String, Value>) -> Self {
        Self { entries }
    }

    /// Returns all keys that start with `prefix`, without it.
    pub fn keys(self, prefix: &str) -> impl Iterator<Item = &'a str> {
        self.entries.keys().filter_map(move |key| key.strip_prefix(prefix))
    }

    /// Returns an integer that is not negative; `None` if there is no such key.
    pub fn integer(self, key: &str) -> Result<Option<u64>> {
        match self.entries.get(key) {
            None => Ok(None),
            Some(Value::Integer(number)) => u64::try_from(*number).map(Some).map_err(|_| {
                Error::Content(format!("`{key}` is {number}, expected a positive integer of 64 bits"))
            }),
            Some(other) => Err(wrong_type(key, other, "an integer")),
        }
    }

    /// Returns a finite float; `None` if there is no such key.
    pub fn float(self, key: &str) -> Result<Option<f64>> {
        match self.entries.get(key) {
            None => Ok(None),
            Some(Value::Float(number)) if number.is_finite() => Ok(Some(*number)),
            Some(Value::Float(number)) => Err(Error::Content(format!("`{key}` is {number}"))),
            Some(other) => Err(wrong_type(key, other, "a float")),
        }
    }

    /// Returns a truth value; `None` if there is no such key.
    pub fn bool(self, key: &str) -> Result<Option<bool>> {
        match self.entries.get(key) {
            None => Ok(None),
            Some(Value::Bool(truth)) => Ok(Some(*truth)),
            Some(other) => Err(wrong_type(key, other, "a truth value")),
        }
    }

    /// Returns a text; `None` if there is no such key.
    pub fn text(self, key: &str) -> Result<Option<&'a str>> {
        match self.entries.get(key) {
            None => Ok(None),
            Some(Value::Text(text)) => Ok(Some(text)),
            Some(other) => Err(wrong_type(key, other, "a text")),
        }
    }

    /// Returns a list of texts; `None` if there is no such key.
    pub fn texts(self, key: &str) -> Result<Option<&'a [String]>> {
        match self.entries.get(key) {
            None => Ok(None),
            Some(Value::Texts(texts)) => Ok(Some(texts)),
            Some(other) => Err(wrong_type(key, other, "a list of texts")),
        }
    }

    /// Returns a list of integers; `None` if there is no such key.
    pub fn integers(self, key: &str) -> Result<Option<&'a [i64]>> {
        match self.entries.get(key) {
            None => Ok(None),
            Some(Value::Integers(integers)) => Ok(Some(integers)),
            Some(other) => Err(wrong_type(key, other, "a list of integers")),
        }
    }

    /// Returns a list of floats; `None` if there is no such key.
    pub fn floats(self, key: &str) -> Result<Option<&'a [f32]>> {
        match self.entries.get(key) {
            None => Ok(None),
            Some(Value::Floats(floats)) => Ok(Some(floats)),
            Some(other) => Err(wrong_type(key, other, "a list of floats")),
        }
    }
}

fn wrong_type(key: &str, found: &Value, expected: &str) -> Error {
    Error::Content(format!("`{key}` is {}, expected {expected}", found.kind()))
}

/// Returns the error for a key that a file lacks.
pub fn missing(key: &str) -> Error {
    Error::Content(format!("the key `{key}` is missing"))
}

/// Returns a 32-bit float as the shortest number that reads back as the same, such as 1e-6 instead of 9.99999997e-7.
pub(crate) fn shortest(value: f64) -> serde_json::Value {
    let short: f64 = (value as f32).to_string().parse().expect("a float prints as a number");
    json!(if f64::from(short as f32).to_bits() == value.to_bits() { short } else { value })
}
