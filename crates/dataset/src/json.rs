//! Strict JSON: duplicate keys, numbers beyond `f64` and integers that would be rounded are errors.

use std::fmt;
use std::ops::Range;

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
    /// Whether the text is JSON, but an integer in it has more than 64 bits.
    pub(crate) is_long_integer: bool,
}

/// Parses one JSON value, nested at most 127 deep.
pub(crate) fn parse(text: &str) -> Result<Value, JsonProblem> {
    let Strict(value) = serde_json::from_str(text).map_err(|error| {
        // serde_json offers its message only with the position at the end.
        let full = error.to_string();
        let reason = full.rsplit_once(" at line ").map_or(full.as_str(), |(reason, _)| reason).to_owned();
        JsonProblem {
            reason,
            line: error.line().max(1) as u64,
            column: error.column().max(1) as u64,
            is_long_integer: false,
        }
    })?;
    match long_integer(text) {
        None => Ok(value),
        Some(place) => {
            let before = &text[..place.start];
            let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
            Err(JsonProblem {
                reason: format!("the integer {} has more than 64 bits", shortened(&text[place.clone()])),
                line: before.matches('\n').count() as u64 + 1,
                column: (place.start - line_start) as u64 + 1,
                is_long_integer: true,
            })
        }
    }
}

/// Finds the first integer in JSON text that neither `u64` nor `i64` holds. `serde_json` makes it a float, which rounds it.
fn long_integer(text: &str) -> Option<Range<usize>> {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at = string_end(bytes, at),
            b'-' | b'0'..=b'9' => {
                let is_part = |byte: &u8| !matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
                let end = bytes[at..].iter().position(is_part).map_or(bytes.len(), |length| at + length);
                let number = &text[at..end];
                let is_integer = !number.contains(['.', 'e', 'E']);
                if is_integer && number.parse::<u64>().is_err() && number.parse::<i64>().is_err() {
                    return Some(at..end);
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    None
}

/// Returns the end of the string that begins at `start`.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

/// Returns a number as an error prints it.
fn shortened(number: &str) -> String {
    const LONGEST: usize = 40;
    if number.len() > LONGEST { format!("{}…", &number[..LONGEST]) } else { number.to_owned() }
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
    fn integers_are_never_rounded() {
        let problem =
            parse("{\"a\": \"\\\"99999999999999999999\",\n \"b\": [1, 18446744073709551616]}").unwrap_err();
        assert_eq!(problem.reason, "the integer 18446744073709551616 has more than 64 bits");
        assert_eq!((problem.line, problem.column, problem.is_long_integer), (2, 11, true));
        assert!(parse("-9223372036854775809").unwrap_err().is_long_integer);
        assert_eq!(reason(&"9".repeat(60)), format!("the integer {}… has more than 64 bits", "9".repeat(40)));
        for kept in ["18446744073709551615", "-9223372036854775808", "1e20", "-0", "100000000000000000000.0"]
        {
            assert!(parse(kept).is_ok(), "{kept}");
        }
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
