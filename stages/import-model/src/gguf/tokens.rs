//! The tokens of a file with their kinds.

use gguf::{Error, Metadata, Result, kind, missing};
use serde_json::{Map, Value, json};

/// Maximum number of tokens that are matched before the text is split: twice that of models with audio tokens.
const MAX_ADDED: usize = 1 << 17;
/// Maximum total length of these tokens in bytes. The automaton that searches for them needs far more memory.
const MAX_ADDED_BYTES: usize = 4 << 20;
/// Tokens of Phi-3 that do not strip the white space after them.
const KEEPS_SPACE: [&str; 3] = ["<unk>", "<s>", "<|endoftext|>"];

/// The tokens of a file by id.
pub(super) struct Tokens<'a> {
    pub(super) texts: &'a [String],
    pub(super) kinds: Vec<i64>,
}

impl<'a> Tokens<'a> {
    /// Reads the tokens; the embedding has `rows` rows.
    pub(super) fn new(metadata: &Metadata<'a>, rows: usize) -> Result<Self> {
        let texts =
            metadata.texts("tokenizer.ggml.tokens")?.ok_or_else(|| missing("tokenizer.ggml.tokens"))?;
        let kinds = metadata.integers("tokenizer.ggml.token_type")?;
        let kinds = kinds.ok_or_else(|| missing("tokenizer.ggml.token_type"))?;
        if kinds.len() != texts.len() || texts.len() > rows {
            return Err(Error::Content(format!(
                "there are {} tokens, {} types of tokens and {rows} rows of the embedding",
                texts.len(),
                kinds.len()
            )));
        }
        if let Some(id) = kinds.iter().position(|kind| !kind::ALL.contains(kind)) {
            let (first, last, found) = (kind::ALL.start(), kind::ALL.end(), kinds[id]);
            return Err(Error::Content(format!(
                "`tokenizer.ggml.token_type` of the token {id} is {found}, expected {first} to {last}"
            )));
        }
        Ok(Self { texts, kinds: kinds.to_vec() })
    }

    /// Returns every token with its id and kind.
    pub(super) fn all(&self) -> impl Iterator<Item = (usize, &'a str, i64)> {
        let texts = self.texts.iter().map(String::as_str).zip(&self.kinds).enumerate();
        texts.map(|(id, (text, &kind))| (id, text, kind))
    }

    /// Returns the tokens with their ids, without those that only fill rows of the embedding.
    pub(super) fn vocabulary(&self) -> Result<Map<String, Value>> {
        let mut vocabulary = Map::new();
        for (id, text, kind) in self.all() {
            if kind == kind::UNUSED && text == format!("[PAD{id}]") {
                continue;
            }
            if vocabulary.insert(text.to_owned(), id.into()).is_some() {
                return Err(Error::Content(format!("the token {id}, {:?}, occurs twice", shortened(text))));
            }
        }
        Ok(vocabulary)
    }

    /// Checks the number and the size of the tokens that are matched before the text is split.
    pub(super) fn check_added(&self) -> Result<()> {
        let (count, bytes) = (self.of_text().count(), self.of_text().map(|(_, text, _)| text.len()).sum());
        let limits = [(count, MAX_ADDED, "in number"), (bytes, MAX_ADDED_BYTES, "bytes")];
        match limits.into_iter().find(|(found, most, _)| found > most) {
            Some((found, most, unit)) => Err(Error::Unsupported(format!(
                "the control and user-defined tokens are {found} {unit}; up to {most} are supported"
            ))),
            None => Ok(()),
        }
    }

    /// Returns the tokens that are matched before the text is split; `strips` tells whether they strip the white space
    /// after them, like those of Phi-3.
    pub(super) fn added(&self, strips: bool) -> Value {
        let entry = |(id, text, kind): (usize, &str, i64)| {
            json!({
                "id": id, "content": text, "single_word": false, "lstrip": false,
                "rstrip": strips && !KEEPS_SPACE.contains(&text),
                "normalized": false, "special": kind != kind::USER_DEFINED,
            })
        };
        self.of_text().map(entry).collect()
    }

    fn of_text(&self) -> impl Iterator<Item = (usize, &'a str, i64)> {
        self.all().filter(|(.., kind)| [kind::CONTROL, kind::USER_DEFINED, kind::UNKNOWN].contains(kind))
    }

    pub(super) fn unknown(&self) -> Option<&'a str> {
        self.all().find(|(.., kind)| *kind == kind::UNKNOWN).map(|(_, text, _)| text)
    }
}

/// Returns a text, or the start of a long one, for messages.
pub(super) fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    let mut characters = text.chars();
    let start: String = characters.by_ref().take(MOST).collect();
    if characters.next().is_some() { start + "…" } else { start }
}

/// Returns whether control tokens strip the white space after them, like those of Phi-3. GGUF does not store this. llama.cpp uses the name of
/// the model, but some converters write other names.
pub(super) fn strips(metadata: &Metadata<'_>, model: &str) -> Result<bool> {
    let name = metadata.text("general.name")?.unwrap_or_default().to_ascii_lowercase();
    let is_phi3 = metadata.text("general.architecture")? == Some("phi3");
    Ok(name.contains("phi-3") || name.contains("phi3") || (is_phi3 && model == "llama"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripping(tokens: &Tokens<'_>, strips: bool) -> Vec<bool> {
        let added = tokens.added(strips);
        added.as_array().expect("a list").iter().map(|token| token["rstrip"] == true).collect()
    }

    #[test]
    fn tokens_of_phi_3_take_the_white_space_after_them() {
        let texts = ["<unk>", "<s>", "</s>", "a", "<|endoftext|>", "<|user|>", "<|x|>"].map(str::to_owned);
        let kinds = [2, 3, 3, 1, 3, 3, 4].to_vec();
        let tokens = Tokens { texts: &texts, kinds };
        assert_eq!(stripping(&tokens, true), [false, false, true, false, true, true]);
        assert_eq!(stripping(&tokens, false), [false; 6]);
    }

    #[test]
    fn phi_3_is_known_by_its_name_or_by_its_architecture() {
        use gguf::Value::Text;
        let strips = |name: &str, architecture: &str, model: &str| {
            let entries = [("general.name", name), ("general.architecture", architecture)];
            let entries = entries.map(|(key, value)| (key.to_owned(), Text(value.to_owned())));
            strips(&Metadata::new(&entries.into()), model).expect("both are texts")
        };
        assert!(strips("Phi-3.5-mini-instruct", "llama", "llama") && strips("my-PHI3", "phi3", "gpt2"));
        assert!(strips("Phi 3 Mini 4k Instruct", "phi3", "llama"));
        assert!(!strips("Phi 4 Mini", "phi3", "gpt2") && !strips("Llama", "llama", "llama"));
    }

    #[test]
    fn added_tokens_of_any_size_do_not_take_all_memory() {
        let refusal = |texts: &[String]| {
            let tokens = |kind: i64| Tokens { texts, kinds: vec![kind; texts.len()] };
            assert!(tokens(kind::NORMAL).check_added().is_ok());
            assert!(
                Tokens { texts: &texts[1..], kinds: vec![kind::CONTROL; texts.len() - 1] }
                    .check_added()
                    .is_ok()
            );
            tokens(kind::CONTROL).check_added().expect_err("they are many").to_string()
        };
        let said = refusal(&(0..=4096).map(|id| format!("{id:01024}")).collect::<Vec<_>>());
        assert!(said.contains("tokens are 4195328 bytes; up to 4194304 are supported"), "{said}");
        let said = refusal(&(0..=MAX_ADDED).map(|id| id.to_string()).collect::<Vec<_>>());
        assert!(said.contains("tokens are 131073 in number; up to 131072"), "{said}");
    }
}
