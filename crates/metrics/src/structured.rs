//! Scores of answers that are JSON.

use serde_json::Value;

/// Parses an answer that is JSON, with or without a code fence around it.
pub fn parse_json(text: &str) -> Option<Value> {
    serde_json::from_str(unfenced(text)).ok()
}

/// Returns the content of a code fence if the text is one, and otherwise the text.
pub(crate) fn unfenced(text: &str) -> &str {
    let text = text.trim();
    let Some(inner) = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```")) else { return text };
    inner.split_once('\n').map_or(inner, |(_language, body)| body).trim()
}

/// Returns the F1 of the fields of an answer, from 0 to 1: pairs of a path and a value that both sides have.
///
/// Numbers are equal if their values are, items of lists if they are at the same position. An answer that is not JSON scores
/// 0; a reference that is not JSON is compared as text.
pub fn json_fields(answer: &str, reference: &str) -> f64 {
    let Some(expected) = parse_json(reference) else {
        return f64::from(answer.trim() == reference.trim());
    };
    let Some(given) = parse_json(answer) else { return 0.0 };
    let (mut given, mut expected) = (fields(&given), fields(&expected));
    let total = given.len() + expected.len();
    2.0 * crate::ngrams::matches(&mut given, &mut expected) as f64 / total.max(1) as f64
}

/// Lists the leaves of a value as `path=value`, in which equal numbers have equal text.
pub(crate) fn fields(value: &Value) -> Vec<String> {
    let mut all = Vec::new();
    collect(value, "", &mut all);
    all
}

fn collect(value: &Value, path: &str, all: &mut Vec<String>) {
    match value {
        Value::Object(object) if !object.is_empty() => {
            // A name is written as JSON, so that no name looks like a path.
            object
                .iter()
                .for_each(|(name, value)| collect(value, &format!("{path}.{}", Value::from(&**name)), all));
        }
        Value::Array(items) if !items.is_empty() => {
            items.iter().enumerate().for_each(|(i, item)| collect(item, &format!("{path}[{i}]"), all));
        }
        Value::Number(number) => all.push(match number.as_f64() {
            Some(value) if !number.is_u64() && !number.is_i64() && value.fract() == 0.0 => {
                format!("{path}={value:.0}")
            }
            _ => format!("{path}={number}"),
        }),
        other => all.push(format!("{path}={other}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_match_by_path_and_value() {
        assert!((json_fields(r#"{"b": 2.0, "a": "x"}"#, r#"{"a": "x", "b": 2}"#) - 1.0).abs() < 1e-12);
        assert!((json_fields(r#"{"a": [1, 2]}"#, r#"{"a": [1, 3]}"#) - 0.5).abs() < 1e-12);
        assert!(
            (json_fields("```json\n{\"a\": {\"b\": null}}\n```", r#"{"a":{"b":null}}"#) - 1.0).abs() < 1e-12
        );
        assert!(json_fields("not json", "{}").abs() < 1e-12);
        assert!((json_fields("{}", "{}") - 1.0).abs() < 1e-12);
        assert!(json_fields(r#"{"a.b": 1}"#, r#"{"a": {"b": 1}}"#).abs() < 1e-12);
        assert!(json_fields(r#"{"a": "1"}"#, r#"{"a": 1}"#).abs() < 1e-12);
    }
}
