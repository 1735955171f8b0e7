//! Finding the part of an answer that is scored.

use regex::Regex;
use serde_json::Value;

use crate::structured::parse_json;

/// Rule that finds the text to score in an answer.
#[derive(Debug, Clone)]
pub enum Extraction {
    /// The text in the last pair of tags with this name.
    Tag(String),
    /// The first group of the last match, or all of the match without a group.
    Pattern(Regex),
    /// A field of an answer that is JSON; names are separated by points.
    JsonField(String),
}

impl Extraction {
    /// Returns the text without white space at its ends; `None` if the answer does not have it.
    pub fn find(&self, answer: &str) -> Option<String> {
        let found = match self {
            Self::Tag(tag) => in_last_pair(answer, tag)?.to_owned(),
            Self::Pattern(pattern) => {
                let last = pattern.captures_iter(answer).last()?;
                last.get(1).or_else(|| last.get(0))?.as_str().to_owned()
            }
            Self::JsonField(path) => {
                let mut value = &parse_json(answer)?;
                for name in path.split('.') {
                    value = match value {
                        Value::Array(items) => items.get(name.parse::<usize>().ok()?)?,
                        _ => value.get(name)?,
                    };
                }
                value.as_str().map_or_else(|| value.to_string(), str::to_owned)
            }
        };
        Some(found.trim().to_owned())
    }
}

fn in_last_pair<'a>(text: &'a str, tag: &str) -> Option<&'a str> {
    let (open, close) = (format!("<{tag}>"), format!("</{tag}>"));
    let end = text.rfind(&close)?;
    let start = text[..end].rfind(&open)? + open.len();
    Some(&text[start..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(answer: &str) -> Option<String> {
        Extraction::Tag("translation".to_owned()).find(answer)
    }

    #[test]
    fn the_last_pair_of_tags_counts() {
        let answer = "<translation>first</translation> no: <translation> He aloha.\n</translation> done";
        assert_eq!(tag(answer).as_deref(), Some("He aloha."));
        assert_eq!(tag("a <translation>b"), None);
        assert_eq!(tag("</translation>a<translation>"), None);
        assert_eq!(tag("<translation></translation>").as_deref(), Some(""));
    }

    #[test]
    fn patterns_take_their_group_from_the_last_match() {
        let find = |pattern: &str, text: &str| Extraction::Pattern(Regex::new(pattern).unwrap()).find(text);
        assert_eq!(find(r"(?m)^answer: (.*)$", "answer: a\nanswer: b\n").as_deref(), Some("b"));
        assert_eq!(find(r"\d+", "1 of 12").as_deref(), Some("12"));
        assert_eq!(find(r"\d+", "none"), None);
    }

    #[test]
    fn fields_are_found_by_path() {
        let find = |path: &str, text: &str| Extraction::JsonField(path.to_owned()).find(text);
        assert_eq!(find("a.1.b", r#"{"a": [0, {"b": "x"}]}"#).as_deref(), Some("x"));
        assert_eq!(find("a", "```json\n{\"a\": 1.5}\n```").as_deref(), Some("1.5"));
        assert_eq!(find("c", r#"{"a": 1}"#), None);
        assert_eq!(find("a", "text"), None);
    }
}
