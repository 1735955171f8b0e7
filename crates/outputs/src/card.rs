//! Words in the metadata of model cards, which is YAML.

/// Words that YAML reads as something other than text.
const NOT_TEXT: [&str; 9] = ["false", "n", "no", "null", "off", "on", "true", "y", "yes"];
/// Longest id of a repository on the hub.
const MAX_ID: usize = 96;

/// Returns `text` as a text of YAML: as it is if nobody can read it as something else, else in quotes.
pub fn yaml_text(text: &str) -> String {
    let is_safe = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/+".contains(&byte);
    let is_plain = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && text.bytes().all(is_safe)
        && !NOT_TEXT.contains(&text.to_ascii_lowercase().as_str());
    if is_plain { text.to_owned() } else { serde_json::Value::from(text).to_string() }
}

/// Returns the text that [`yaml_text`] wrote.
pub fn text_of_yaml(written: &str) -> String {
    serde_json::from_str(written).unwrap_or_else(|_| written.to_owned())
}

/// Returns whether `id` is the id of a repository or dataset on the hub: `NAME` or `OWNER/NAME`.
pub fn is_hub_id(id: &str) -> bool {
    let is_name = |name: &str| {
        let ends = [name.chars().next(), name.chars().last()];
        ends.iter().all(|end| end.is_some_and(|end| end.is_ascii_alphanumeric() || end == '_'))
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
            && !name.contains("..")
            && !name.contains("--")
    };
    let has_suffix = id.len() >= 4 && id.as_bytes()[id.len() - 4..].eq_ignore_ascii_case(b".git");
    id.len() <= MAX_ID && id.split('/').count() <= 2 && id.split('/').all(is_name) && !has_suffix
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_yaml_would_read_as_something_else_are_quoted() {
        for text in ["fornander_aligned", "a--b", "jane/haw-eng", "e5"] {
            assert_eq!(yaml_text(text), text);
        }
        for text in
            ["2024", "1e3", "No", "null", "on", "-", "--x", ".5", "", "a: b", "a #b", "ʻokina", "a\"b", "~"]
        {
            let written = yaml_text(text);
            assert!(written.starts_with('"') && written.ends_with('"'), "{written}");
            assert_eq!(text_of_yaml(&written), text);
        }
        assert_eq!(text_of_yaml("fornander_aligned"), "fornander_aligned");
    }

    #[test]
    fn ids_are_those_of_the_hub() {
        for id in ["squad", "jane/haw-eng", "a_b/c.d-e", "0/1"] {
            assert!(is_hub_id(id), "{id}");
        }
        let long = "x".repeat(97);
        for id in
            ["", "/", "a/", "/a", "a/b/c", "a b", "-a", "a.", "a--b", "a..b", "a/b.git", "https://x/y", &long]
        {
            assert!(!is_hub_id(id), "{id}");
        }
    }
}
