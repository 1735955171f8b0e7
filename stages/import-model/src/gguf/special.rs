//! Special tokens: what begins and ends a text.

use gguf::{Error, Metadata, Result};
use serde_json::{Map, Value, json};

use super::tokens::{Tokens, kind};

/// Texts of tokens that end an answer in llama.cpp, whatever the keys and the kinds of tokens say.
const ENDS: [&str; 22] = [
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "</s>",
    "<|eom_id|>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<eos>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
];
/// Tokens for filling a gap in a text that end an answer too: the name in the key, and the texts of a file without the key.
const GAP_ENDS: [(&str, &[&str]); 3] = [
    ("fim_pad", &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"]),
    ("fim_rep", &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"]),
    ("fim_sep", &["<|file_sep|>"]),
];
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
        let mut ends: Vec<usize> = Vec::new();
        for end in [find("eos")?.or_else(|| default(DEFAULT_END)), find("eot")?, find("eom")?] {
            ends.extend(end.filter(|end| !ends.contains(end)));
        }
        let mut others: Vec<usize> = Vec::new();
        for (name, known) in GAP_ENDS {
            let by_text = || texts.iter().position(|text| known.contains(&text.as_str()));
            let found = match find(name)? {
                Some(id) => Some(id),
                None => by_text().inspect(|&id| tokens.kinds[id] = kind::CONTROL),
            };
            others.extend(found);
        }
        for (id, _) in texts.iter().enumerate().filter(|(_, text)| ENDS.contains(&text.as_str())) {
            tokens.kinds[id] = kind::CONTROL;
            others.push(id);
        }
        others.sort_unstable();
        others.dedup();
        others.retain(|id| !ends.contains(id));
        ends.extend(others);
        drop_exceptions(&mut ends, tokens);
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

/// Removes the ends that are none beside others: `<|end|>` in the format Harmony and in that of Solar Open, where it ends a
/// message of several, and `</s>` in Gemma 4 and `PLaMo`, where it is an ordinary piece.
fn drop_exceptions(ends: &mut Vec<usize>, tokens: &mut Tokens<'_>) {
    let has =
        |ends: &[usize], known: &[&str]| ends.iter().any(|&id| known.contains(&tokens.texts[id].as_str()));
    let ends_messages = has(ends, &["<|call|>", "<|calls|>"]) && has(ends, &["<|return|>", "<|flush|>"]);
    let is_piece = has(ends, &["<|tool_response>", "<|plamo:eos|>"]);
    let exceptions = [(ends_messages, "<|end|>", kind::USER_DEFINED), (is_piece, "</s>", kind::NORMAL)];
    for (_, text, other_kind) in exceptions.into_iter().filter(|(is_exception, ..)| *is_exception) {
        for id in ends.extract_if(.., |id| tokens.texts[*id] == text) {
            tokens.kinds[id] = other_kind;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Returns the ends and the kinds of tokens whose kind is normal, given the ids in the keys.
    fn ends(texts: &[&str], keys: &[(&str, i128)], is_pieces: bool) -> (Vec<usize>, Vec<i64>) {
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        let entry = |&(name, id): &(&str, i128)| {
            (format!("tokenizer.ggml.{name}_token_id"), gguf::Value::Integer(id))
        };
        let entries: BTreeMap<String, gguf::Value> = keys.iter().map(entry).collect();
        let mut tokens = Tokens { texts: &texts, kinds: vec![kind::NORMAL; texts.len()] };
        let special = Special::new(&Metadata::new(&entries), &mut tokens, is_pieces).expect("ids of tokens");
        (special.ends, tokens.kinds)
    }

    #[test]
    fn ends_are_known_by_key_and_by_text() {
        let texts = ["a", "<|endoftext|>", "<|end|>", "b", "<|repo_name|>", "<fim-repo>", "<|file_sep|>"];
        let (found, kinds) = ends(&texts, &[("eos", 3)], false);
        assert_eq!(found, [3, 1, 2, 4, 6]);
        assert_eq!(kinds, [1, 3, 3, 1, 3, 1, 3]);
        // A key replaces the text.
        assert_eq!(ends(&texts, &[("eos", 1), ("eom", 0), ("fim_rep", 3)], false).0, [1, 0, 2, 3, 6]);
        for text in ENDS {
            assert_eq!(ends(&["a", text], &[], false), (vec![1], vec![1, 3]), "{text}");
        }
        assert_eq!(ends(&["a"; 12], &[], false).0, Vec::<usize>::new());
    }

    #[test]
    fn some_ends_are_none_beside_others() {
        let harmony = ["<|end|>", "<|return|>", "<|call|>"];
        assert_eq!(ends(&harmony, &[("eos", 1)], false), (vec![1, 2], vec![4, 3, 3]));
        assert_eq!(ends(&harmony[..2], &[("eos", 1)], false).0, [1, 0]);
        assert_eq!(ends(&["<|end|>", "<|calls|>", "<|flush|>"], &[], false).0, [1, 2]);
        assert_eq!(ends(&["</s>", "<|tool_response>"], &[("eos", 0)], false), (vec![1], vec![1, 3]));
        assert_eq!(ends(&["</s>", "<|plamo:eos|>"], &[("eos", 1)], false).0, [1]);
        assert_eq!(ends(&["</s>", "<|plamo:eos|>"], &[("eos", 0)], false).0, [0]);
    }

    #[test]
    fn pieces_without_keys_have_the_tokens_of_llama() {
        assert_eq!(ends(&["<unk>", "<s>", "</s>"], &[], true).0, [2]);
        assert_eq!(ends(&["a", "b", "c"], &[], true).0, [2]);
        assert_eq!(ends(&["a", "b"], &[], true).0, Vec::<usize>::new());
        assert_eq!(ends(&["a", "b", "c"], &[("eos", 0)], true).0, [0]);
        let texts = ["a", "b", "c"].map(str::to_owned);
        let mut tokens = Tokens { texts: &texts, kinds: vec![1; 3] };
        let entries = BTreeMap::new();
        let mut begin = |is_pieces| {
            Special::new(&Metadata::new(&entries), &mut tokens, is_pieces).expect("no keys").begin
        };
        assert_eq!((begin(true), begin(false)), (Some(1), None));
    }
}
