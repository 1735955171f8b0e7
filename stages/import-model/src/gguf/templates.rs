//! Chat templates of GGUF, as `tokenizer_config.json` lists them.

use gguf::{Error, Metadata, Result};
use serde_json::{Value, json};

/// Key of the template for conversations.
const KEY: &str = "tokenizer.chat_template";
/// Start of the keys of templates for other purposes, such as `tokenizer.chat_template.tool_use`.
const NAMED: &str = "tokenizer.chat_template.";
/// Maximum total size of the templates in bytes, which is also that of one.
const MAX_BYTES: usize = 1 << 20;

/// Returns the templates: a text if there is only the one for conversations, a list if others have names, `None` if there is none.
///
/// # Errors
///
/// Fails when a template is not a text or does not parse, and names its key and line.
pub(super) fn read(metadata: Metadata<'_>) -> Result<Option<Value>> {
    check_size(metadata)?;
    let default = checked(metadata, KEY)?;
    let mut named: Vec<Value> = Vec::new();
    for name in metadata.keys(NAMED) {
        if let Some(template) = checked(metadata, &format!("{NAMED}{name}"))? {
            named.push(json!({ "name": name, "template": template }));
        }
    }
    if named.is_empty() {
        return Ok(default.map(Value::from));
    }
    let default = default.map(|template| json!({ "name": "default", "template": template }));
    Ok(Some(default.into_iter().chain(named).collect()))
}

/// Checks the size of all templates, because the time to parse them grows with it.
fn check_size(metadata: Metadata<'_>) -> Result<()> {
    let mut bytes = metadata.text(KEY)?.map_or(0, str::len);
    for name in metadata.keys(NAMED) {
        bytes += metadata.text(&format!("{NAMED}{name}"))?.map_or(0, str::len);
    }
    if bytes > MAX_BYTES {
        return Err(Error::Unsupported(format!(
            "the chat templates have {bytes} bytes in all; up to {MAX_BYTES} are supported"
        )));
    }
    Ok(())
}

/// Returns a template that parses.
fn checked<'a>(metadata: Metadata<'a>, key: &str) -> Result<Option<&'a str>> {
    let Some(template) = metadata.text(key)? else { return Ok(None) };
    match jinja::Template::new(template) {
        Ok(_) => Ok(Some(template)),
        Err(error) => {
            let jinja::Error { line, message, .. } = error;
            Err(Error::Unsupported(format!("`{key}` is not a usable chat template: line {line}: {message}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn templates_of_any_number_do_not_take_forever() {
        let read = |count: usize| {
            let text = gguf::Value::Text("{{ a }}".repeat(1000));
            let entries: BTreeMap<_, _> =
                (0..count).map(|index| (format!("{NAMED}{index}"), text.clone())).collect();
            super::read(Metadata::new(&entries))
        };
        assert_eq!(read(3).unwrap().unwrap().as_array().map(Vec::len), Some(3));
        let said = read(3000).unwrap_err().to_string();
        assert!(said.contains("the chat templates have 21000000 bytes in all; up to 1048576"), "{said}");
    }
}
