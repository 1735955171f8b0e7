//! Chat templates of a model folder.

use std::path::Path;

use failure::Result;

use crate::gguf::header::{Datum, Metadata};

/// Name of the template for conversations.
const DEFAULT: &str = "default";

/// Returns the metadata for the templates in `folder`: the one for conversations, those with names, and a list of the names, as
/// llama.cpp's converter writes them.
pub(super) fn metadata(folder: &Path) -> Result<Metadata> {
    let mut templates = dataset::chat_templates(folder)?;
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
