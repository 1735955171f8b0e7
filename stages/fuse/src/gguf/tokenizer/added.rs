//! Added tokens. llama.cpp matches them anywhere in the original text and keeps the white space around them.

use failure::Result;
use serde_json::Value;

use super::{MARK, steps};
use crate::gguf::{WITHOUT_GGUF, unsupported};

/// Settings of an added token that llama.cpp ignores, with their effects. It strips white space only for a few values of `general.name`,
/// which exported files do not have.
const FLAGS: [(&str, &str); 3] = [
    ("lstrip", "takes the white space before it"),
    ("rstrip", "takes the white space after it"),
    ("single_word", "is not found inside words"),
];

/// Fails on an added token that llama.cpp would match differently.
pub(super) fn check(tokenizer: &Value, is_pieces: bool) -> Result<()> {
    let normalizers = steps(&tokenizer["normalizer"], "normalizers");
    let has_prefix = normalizers.iter().any(|step| step["type"] == "Prepend");
    for added in tokenizer["added_tokens"].as_array().into_iter().flatten() {
        let text = added["content"].as_str().unwrap_or_default();
        if let Some((flag, effect)) = FLAGS.iter().find(|(flag, _)| added[flag] == true) {
            return Err(unsupported(
                &format!("a tokenizer whose token `{text}` {effect} (`{flag}`)"),
                &format!("llama.cpp finds the token everywhere and keeps the white space; {WITHOUT_GGUF}"),
            ));
        }
        // Marks for spaces become a part of the text that is looked for.
        let is_changed = is_pieces && (has_prefix || text.contains([' ', '▁']));
        if added["normalized"] == true && is_changed {
            return Err(unsupported(
                &format!("a tokenizer that looks for `{text}` after it marks spaces (`normalized`)"),
                &format!("llama.cpp looks for it in the text before spaces become `{MARK}`; {WITHOUT_GGUF}"),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check_token(content: &str, flag: &str, normalizer: &Value, is_pieces: bool) -> Result<()> {
        let mut added = json!({ "id": 0, "content": content, "special": true });
        added[flag] = true.into();
        check(&json!({ "normalizer": normalizer, "added_tokens": [added] }), is_pieces)
    }

    #[test]
    fn tokens_that_llama_cpp_finds_elsewhere_are_refused_by_name() {
        let replace = json!({ "type": "Replace", "pattern": { "String": " " }, "content": MARK });
        let prepend = json!({ "type": "Prepend", "prepend": MARK });
        let both = json!({ "type": "Sequence", "normalizers": [prepend, replace] });
        for (flag, _) in FLAGS {
            let error = check_token("<end>", flag, &Value::Null, false).unwrap_err().report();
            assert!(error.contains("`<end>`") && error.contains(&format!("(`{flag}`)")), "{error}");
        }
        for (text, normalizer) in [("<end>", &both), ("▁▁", &replace), ("a b", &replace)] {
            let error = check_token(text, "normalized", normalizer, true).unwrap_err().report();
            assert!(error.contains(&format!("`{text}` after it marks spaces")), "{error}");
        }
        check_token("<end>", "normalized", &replace, true).unwrap();
        check_token("<end>", "normalized", &json!({ "type": "NFC" }), false).unwrap();
    }
}
