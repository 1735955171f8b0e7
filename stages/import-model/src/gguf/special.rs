//! Special tokens, such as those at the beginning and end of a text.

use std::collections::BTreeMap;

use gguf::{Ends, Error, Metadata, Result};
use serde_json::{Map, Value, json};

use super::tokens::Tokens;

/// Ids of the tokens that begin and end a text in a file of `SentencePiece` tokens without the keys, as in llama.cpp.
const DEFAULT_BEGIN: usize = 1;
const DEFAULT_END: usize = 2;

/// Ids of special tokens.
pub(super) struct Special<'a> {
    texts: &'a [String],
    pub(super) begin: Option<usize>,
    /// Ends of an answer: those with keys, then the others by id.
    ends: Vec<usize>,
    unknown: Option<usize>,
    padding: Option<usize>,
}

impl<'a> Special<'a> {
    /// Finds the special tokens. Ends that are known by their text become control tokens, as in llama.cpp.
    ///
    /// The ends are those of llama.cpp, except that a byte-level tokenizer without the key has none by default: there, the
    /// default of llama.cpp is the token 11, which is an ordinary one in most models.
    pub(super) fn new(metadata: &Metadata<'_>, tokens: &mut Tokens<'a>, is_pieces: bool) -> Result<Self> {
        let texts = tokens.texts;
        let find = |name: &str| id(metadata, texts, name);
        let default = |id: usize| (is_pieces && id < texts.len()).then_some(id);
        let mut keys = BTreeMap::new();
        for name in Ends::KEYS {
            let id = find(name)?.or_else(|| default(DEFAULT_END).filter(|_| name == "eos"));
            keys.extend(id.map(|id| (name, id)));
        }
        let Ends { ids: ends, kinds } = Ends::new(texts, |name| keys.get(name).copied());
        for (id, kind) in kinds {
            tokens.kinds[id] = kind;
        }
        let begin = find("bos")?.or_else(|| default(DEFAULT_BEGIN));
        Ok(Self { texts, begin, ends, unknown: find("unknown")?, padding: find("padding")? })
    }

    /// Returns the text of a token.
    pub(super) fn text(&self, id: usize) -> &'a str {
        &self.texts[id]
    }

    /// Returns the ids as `config.json` and `generation_config.json` list them.
    pub(super) fn ids(&self) -> Map<String, Value> {
        let mut ids = Map::new();
        ids.extend(self.begin.map(|id| ("bos_token_id".to_owned(), id.into())));
        match self.ends[..] {
            [] => {}
            [end] => drop(ids.insert("eos_token_id".to_owned(), end.into())),
            _ => drop(ids.insert("eos_token_id".to_owned(), self.ends.clone().into())),
        }
        ids.extend(self.padding.map(|id| ("pad_token_id".to_owned(), id.into())));
        ids
    }

    /// Returns the start of `tokenizer_config.json`.
    pub(super) fn settings(&self) -> Value {
        let mut settings = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": false,
        });
        let tokens = [
            ("bos_token", self.begin),
            ("eos_token", self.ends.first().copied()),
            ("unk_token", self.unknown),
            ("pad_token", self.padding),
        ];
        for (name, id) in tokens {
            if let Some(id) = id {
                settings[name] = self.text(id).into();
            }
        }
        settings
    }
}

/// Returns the id in the key of a special token, if there is one.
fn id(metadata: &Metadata<'_>, texts: &[String], name: &str) -> Result<Option<usize>> {
    let key = format!("tokenizer.ggml.{name}_token_id");
    let Some(id) = metadata.integer(&key)? else { return Ok(None) };
    match usize::try_from(id).ok().filter(|&id| id < texts.len()) {
        Some(id) => Ok(Some(id)),
        None => Err(Error::Content(format!("`{key}` is {id}, not the id of a token"))),
    }
}

#[cfg(test)]
mod tests {
    use gguf::kind;

    use super::*;

    /// Returns the ends of pieces whose kind is normal, given the ids in the keys.
    fn ends(texts: &[&str], keys: &[(&str, i128)]) -> Vec<usize> {
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        let entry = |&(name, id): &(&str, i128)| {
            (format!("tokenizer.ggml.{name}_token_id"), gguf::Value::Integer(id))
        };
        let entries: BTreeMap<String, gguf::Value> = keys.iter().map(entry).collect();
        let mut tokens = Tokens { texts: &texts, kinds: vec![kind::NORMAL; texts.len()] };
        let special = Special::new(&Metadata::new(&entries), &mut tokens, true).expect("ids of tokens");
        special.ends
    }

    #[test]
    fn pieces_without_keys_have_the_tokens_of_llama() {
        assert_eq!(ends(&["<unk>", "<s>", "</s>"], &[]), [2]);
        assert_eq!(ends(&["a", "b", "c"], &[]), [2]);
        assert_eq!(ends(&["a", "b"], &[]), Vec::<usize>::new());
        assert_eq!(ends(&["a", "b", "c"], &[("eos", 0)]), [0]);
        let texts = ["a", "b", "c"].map(str::to_owned);
        let mut tokens = Tokens { texts: &texts, kinds: vec![1; 3] };
        let entries = BTreeMap::new();
        let mut begin = |is_pieces| {
            Special::new(&Metadata::new(&entries), &mut tokens, is_pieces).expect("no keys").begin
        };
        assert_eq!((begin(true), begin(false)), (Some(1), None));
    }
}
