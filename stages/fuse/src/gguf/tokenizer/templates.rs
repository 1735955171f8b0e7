//! Chat templates of a model folder.

use std::collections::BTreeMap;
use std::path::Path;

use failure::{Error, Result};
use serde_json::Value;

use crate::gguf::header::{Datum, Metadata};
use crate::json::read_json;

/// Name of the template for conversations.
const DEFAULT: &str = "default";

/// Returns the metadata for the templates in `folder`: the one for conversations, those with names, and a list of the names, as
/// llama.cpp's converter writes them.
pub(super) fn metadata(folder: &Path) -> Result<Metadata> {
    let mut templates = read(folder)?;
    let mut all = Metadata::new();
    if let Some(text) = templates.remove(DEFAULT) {
        all.push(("tokenizer.chat_template".to_owned(), Datum::Text(text)));
    }
    if !templates.is_empty() {
        let names = templates.keys().cloned().collect();
        all.push(("tokenizer.chat_templates".to_owned(), Datum::Texts(names)));
    }
    let key = |name: String| format!("tokenizer.chat_template.{name}");
    all.extend(templates.into_iter().map(|(name, text)| (key(name), Datum::Text(text))));
    Ok(all)
}

/// Returns the templates by name, as they are found for chats: those of `tokenizer_config.json` count only if there is no
/// separate file, that of `chat_template.json` only if there is no other.
fn read(folder: &Path) -> Result<BTreeMap<String, String>> {
    let templates = separate(folder)?;
    if !templates.is_empty() {
        return Ok(templates);
    }
    let optional = |name: &str| read_json(&folder.join(name)).unwrap_or(Value::Null);
    let templates = listed(&optional("tokenizer_config.json")["chat_template"]);
    if !templates.is_empty() {
        return Ok(templates);
    }
    Ok(listed(&optional("chat_template.json")["chat_template"]))
}

/// Reads the templates that are files.
fn separate(folder: &Path) -> Result<BTreeMap<String, String>> {
    let mut templates = BTreeMap::new();
    for file in dataset::tokenizer_files(folder)? {
        if file.extension().is_none_or(|ending| ending != "jinja") {
            continue;
        }
        let is_named = file.parent().is_some_and(|parent| parent != Path::new(""));
        let stem = file.file_stem().unwrap_or_default().to_string_lossy();
        let name = if is_named { &*stem } else { DEFAULT };
        let path = folder.join(&file);
        let text = files::read_text(&path, files::MAX_JSON_BYTES)
            .map_err(|error| Error::bad_input(format!("reading `{}`: {error}", path.display())))?;
        templates.insert(name.to_owned(), text);
    }
    templates.retain(|_, text| !text.trim().is_empty());
    Ok(templates)
}

/// Returns the templates of a value that is a text or a list of names and texts.
fn listed(value: &Value) -> BTreeMap<String, String> {
    let pair = |name: &str, text: &Value| Some((name.to_owned(), text.as_str()?.to_owned()));
    let mut templates: BTreeMap<String, String> = match value {
        Value::Array(list) => {
            list.iter().filter_map(|entry| pair(entry["name"].as_str()?, &entry["template"])).collect()
        }
        text => pair(DEFAULT, text).into_iter().collect(),
    };
    templates.retain(|_, text| !text.trim().is_empty());
    templates
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<(String, String)> {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        for (name, text) in files {
            let path = folder.path().join(name);
            fs_err::create_dir_all(path.parent().expect("it is in the folder")).expect("made");
            fs_err::write(path, text).expect("written");
        }
        read(folder.path()).expect("the templates can be read").into_iter().collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn separate_files_come_before_tokenizer_config_and_the_rest() {
        let list = json!({ "chat_template": [
            { "name": "default", "template": "d" }, { "name": "tool_use", "template": "t" }, { "name": "blank", "template": " " },
        ] })
        .to_string();
        let (one, processor) = (r#"{"chat_template": "c"}"#, r#"{"chat_template": "p"}"#);
        let config = "tokenizer_config.json";
        assert_eq!(found(&[(config, &list)]), pairs(&[("default", "d"), ("tool_use", "t")]));
        assert_eq!(found(&[(config, one), ("chat_template.json", processor)]), pairs(&[("default", "c")]));
        assert_eq!(found(&[(config, "{}"), ("chat_template.json", processor)]), pairs(&[("default", "p")]));
        assert_eq!(
            found(&[
                (config, one),
                ("chat_template.jinja", "j"),
                ("additional_chat_templates/rag.jinja", "r"),
                ("additional_chat_templates/.hidden.jinja", "h"),
            ]),
            pairs(&[("default", "j"), ("rag", "r")])
        );
        assert_eq!(found(&[(config, one), ("chat_template.jinja", " \n")]), pairs(&[("default", "c")]));
        assert_eq!(found(&[]), []);
    }
}
