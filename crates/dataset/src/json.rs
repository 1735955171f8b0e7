//! Strict JSON: duplicate keys and numbers beyond `f64` are errors.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// Why a text is not acceptable JSON.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct JsonProblem {
    /// The problem.
    pub(crate) reason: String,
    /// Line within the text, counted from 1.
    pub(crate) line: u64,
    /// Column in bytes, counted from 1.
    pub(crate) column: u64,
}

/// Parses one JSON value, nested at most 127 deep.
pub(crate) fn parse(text: &str) -> Result<Value, JsonProblem> {
    serde_json::from_str::<Strict>(text).map(|strict| strict.0).map_err(|error| {
        // serde_json offers its message only with the position at the end.
        let full = error.to_string();
        let reason = full.rsplit_once(" at line ").map_or(full.as_str(), |(reason, _)| reason).to_owned();
        JsonProblem { reason, line: error.line().max(1) as u64, column: error.column().max(1) as u64 }
    })
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<String>()? {
            if map.contains_key(&key) {
                return Err(de::Error::custom(format_args!("the key `{key}` is given twice")));
            }
            let Strict(value) = entries.next_value()?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reason(text: &str) -> String {
        parse(text).unwrap_err().reason
    }

    #[test]
    fn defects_have_a_reason_and_a_column() {
        assert_eq!(reason(r#"{"a":1,"a":2}"#), "the key `a` is given twice");
        assert_eq!(reason(r#"{"a":{"b":1,"b":1}}"#), "the key `b` is given twice");
        assert_eq!(reason("1e400"), "number out of range");
        assert_eq!(reason(&"[".repeat(10_000)), "recursion limit exceeded");
        assert!(reason(r#"{"a":"\ud800"}"#).contains("hex escape"), "{}", reason(r#"{"a":"\ud800"}"#));
        assert_eq!(parse("{\"a\": tru}").unwrap_err().column, 10);
        assert!(reason("{} x").contains("trailing"));
        assert!(reason("{\"a\":\"\u{0}\"}").contains("control character"));
    }

    #[test]
    fn order_of_keys_and_kinds_of_numbers_are_kept() {
        let value = parse(r#"{"z":1,"a":[1.5,-2,18446744073709551615,null,true,"x"]}"#).unwrap();
        assert_eq!(value.to_string(), r#"{"z":1,"a":[1.5,-2,18446744073709551615,null,true,"x"]}"#);
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,64}") {
            let _ = parse(&text);
        }
    }
}
