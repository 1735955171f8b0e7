//! Texts with fields in them: `{name}` is replaced by a row's field, `{{` and `}}` are braces.

use dataset::{RawRow, RowProblem};
use serde_json::Value;

/// A parsed template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    pieces: Vec<Piece>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field(String),
}

impl Template {
    /// Parses `source`.
    ///
    /// # Errors
    ///
    /// Says which brace is wrong.
    pub(crate) fn parse(source: &str) -> Result<Self, String> {
        let mut pieces = vec![Piece::Text(String::new())];
        let mut letters = source.chars().peekable();
        while let Some(letter) = letters.next() {
            match (letter, letters.peek()) {
                ('{', Some('{')) | ('}', Some('}')) => {
                    letters.next();
                    push_letter(&mut pieces, letter);
                }
                ('{', _) => {
                    let name: String = letters.by_ref().take_while(|&letter| letter != '}').collect();
                    if name.is_empty() || name.contains('{') || !source.contains(&format!("{{{name}}}")) {
                        return Err(format!(
                            "`{{{name}` is not a field; write `{{name}}` for a field and `{{{{` for a brace"
                        ));
                    }
                    pieces.push(Piece::Field(name));
                }
                ('}', _) => return Err("`}` without `{`; write `}}` for a brace".to_owned()),
                _ => push_letter(&mut pieces, letter),
            }
        }
        Ok(Self { pieces })
    }

    /// Returns the text with the fields of `row` in it.
    ///
    /// # Errors
    ///
    /// Fails when a field has no value or is a list or an object.
    pub(crate) fn fill(&self, row: &RawRow) -> Result<String, RowProblem> {
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(piece) => text.push_str(piece),
                Piece::Field(name) => match row.fields.get(name) {
                    Some(Value::String(value)) => text.push_str(value.trim()),
                    Some(value @ (Value::Number(_) | Value::Bool(_))) => text.push_str(&value.to_string()),
                    value => return Err(unusable_field(row, name, value)),
                },
            }
        }
        Ok(text)
    }
}

fn push_letter(pieces: &mut Vec<Piece>, letter: char) {
    match pieces.last_mut() {
        Some(Piece::Text(text)) => text.push(letter),
        _ => pieces.push(Piece::Text(letter.to_string())),
    }
}

fn unusable_field(row: &RawRow, name: &str, value: Option<&Value>) -> RowProblem {
    let (reason, hint) = match value {
        None => {
            let names: Vec<&str> = row.fields.keys().map(String::as_str).take(12).collect();
            let hint =
                format!("the row has the fields `{}`; correct the name in the template", names.join("`, `"));
            ("has no value", hint)
        }
        Some(Value::Null) => {
            ("has no value", "fill it in, or set `on_bad_row = \"skip\"` to leave such rows out".to_owned())
        }
        Some(_) => (
            "is not a text",
            "a template takes strings, numbers and booleans, not lists or objects".to_owned(),
        ),
    };
    RowProblem { line: row.line, column: None, reason: format!("the field `{name}` {reason}"), hint }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_braces_are_refused() {
        for bad in ["{", "{}", "}", "{a{b}"] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }
}
