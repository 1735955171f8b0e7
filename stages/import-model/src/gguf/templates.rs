//! Chat templates of GGUF, as `tokenizer_config.json` lists them.

use gguf::{Error, Metadata, Result};
use serde_json::{Value, json};

/// Key of the template for conversations.
const KEY: &str = "tokenizer.chat_template";
/// Start of the keys of templates for other purposes, such as `tokenizer.chat_template.tool_use`.
const NAMED: &str = "tokenizer.chat_template.";

/// Returns the templates: a text if there is only the one for conversations, a list if others have names, `None` if there is none.
///
/// # Errors
///
/// Fails when a template is not a text or does not parse, and names its key and line.
pub(super) fn read(metadata: Metadata<'_>) -> Result<Option<Value>> {
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
