//! Texts with fields in them: `{name}` is replaced by a row's field, `{name?}` by a field that may be blank, and `{{` and
//! `}}` are braces.

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
    Field { name: String, may_be_blank: bool },
}

/// A template with the fields of a row in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filled {
    /// The whole text.
    pub(crate) text: String,
    /// The fields alone, one per line.
    pub(crate) fields: String,
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
                    let mut is_closed = false;
                    let is_inside = |&letter: &char| {
                        is_closed = letter == '}';
                        !is_closed
                    };
                    let name: String = letters.by_ref().take_while(is_inside).collect();
                    if matches!(name.as_str(), "" | "?") || name.contains('{') || !is_closed {
                        return Err(format!(
                            "`{{{name}` is not a field; write `{{name}}` for a field and `{{{{` for a brace"
                        ));
                    }
                    let required = name.strip_suffix('?').unwrap_or(&name).to_owned();
                    pieces.push(Piece::Field { may_be_blank: required != name, name: required });
                }
                ('}', _) => return Err("`}` without `{`; write `}}` for a brace".to_owned()),
                _ => push_letter(&mut pieces, letter),
            }
        }
        Ok(Self { pieces })
    }

    /// Returns the text with the fields of `row` in it, as they are.
    ///
    /// # Errors
    ///
    /// Fails when a field has no value or an empty text and may not be blank, or is a list or an object.
    pub(crate) fn fill(&self, row: &RawRow) -> Result<Filled, RowProblem> {
        let mut text = String::new();
        let mut fields = Vec::new();
        for piece in &self.pieces {
            let field = match piece {
                Piece::Text(piece) => {
                    text.push_str(piece);
                    continue;
                }
                Piece::Field { name, may_be_blank } => match row.fields.get(name) {
                    Some(Value::String(value)) if *may_be_blank || !value.is_empty() => value.clone(),
                    Some(value @ (Value::Number(_) | Value::Bool(_))) => value.to_string(),
                    None | Some(Value::Null) if *may_be_blank => continue,
                    value => return Err(unusable_field(row, name, value)),
                },
            };
            text.push_str(&field);
            fields.push(field);
        }
        Ok(Filled { text, fields: fields.join("\n") })
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
        // An empty cell of a table is null, too.
        Some(Value::Null | Value::String(_)) => {
            let hint = format!(
                "write `{{{name}?}}` in the template if it may be blank, fill it in, or set `on_bad_row = \"skip\"` to \
                 leave such rows out"
            );
            ("has no value", hint)
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
    use serde_json::json;

    use super::*;

    #[test]
    fn wrong_braces_are_refused() {
        for bad in ["{", "{}", "{?}", "}", "{a{b}", "{a", "{a} {a", "{a?} {a?"] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }

    fn fill(template: &str, fields: &Value) -> Result<Filled, RowProblem> {
        let row = RawRow { line: 1, fields: fields.as_object().unwrap().clone() };
        Template::parse(template).unwrap().fill(&row)
    }

    #[test]
    fn fields_are_inserted_as_they_are() {
        let filled = fill("Q: {a}{b}|", &json!({"a": "  x\n", "b": 2})).unwrap();
        assert_eq!((filled.text.as_str(), filled.fields.as_str()), ("Q:   x\n2|", "  x\n\n2"));
    }

    #[test]
    fn only_fields_with_a_question_mark_may_be_blank() {
        for blank in [json!({"a": "x"}), json!({"a": "x", "b": null}), json!({"a": "x", "b": ""})] {
            assert_eq!(fill("{a}{b?}", &blank).unwrap().text, "x");
        }
        for blank in [json!(null), json!("")] {
            let problem = fill("{a}{b}", &json!({"a": "x", "b": blank})).unwrap_err();
            assert_eq!(problem.reason, "the field `b` has no value");
            assert!(problem.hint.contains("`{b?}`"), "{}", problem.hint);
        }
        assert_eq!(fill("{a}{b}", &json!({"a": "x", "b": " "})).unwrap().text, "x ");
    }
}
