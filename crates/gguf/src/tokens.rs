//! Kinds of tokens, and the tokens with which llama.cpp ends an answer.

/// Kinds of tokens: the values of `tokenizer.ggml.token_type`, as in `llama_token_type` of llama.cpp.
pub mod kind {
    /// All kinds; 0 is undefined.
    pub const ALL: std::ops::RangeInclusive<i64> = 0..=6;
    /// Made from text.
    pub const NORMAL: i64 = 1;
    /// Stands for text that has no token.
    pub const UNKNOWN: i64 = 2;
    /// Special token, which is not shown.
    pub const CONTROL: i64 = 3;
    /// Matched before the text is split.
    pub const USER_DEFINED: i64 = 4;
    /// Row of the embedding without a token.
    pub const UNUSED: i64 = 5;
    /// Single byte.
    pub const BYTE: i64 = 6;
}

/// Texts of tokens that end an answer, whatever the keys and kinds say.
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
/// Tokens for fill-in-the-middle that also end an answer: name in the key, and texts of a file without the key.
const MIDDLE_ENDS: [(&str, &[&str]); 3] = [
    ("fim_pad", &["<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"]),
    ("fim_rep", &["<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"]),
    ("fim_sep", &["<|file_sep|>"]),
];

/// The tokens with which llama.cpp ends an answer (`llama_vocab_is_eog`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ends {
    /// Their ids: end of text, of turn and of message if they have keys, then the others in ascending order.
    pub ids: Vec<usize>,
    /// Tokens whose kind llama.cpp replaces, with the new kind. The last entry of a token counts.
    pub kinds: Vec<(usize, i64)>,
}

impl Ends {
    /// Names in the keys, `tokenizer.ggml.NAME_token_id`.
    pub const KEYS: [&str; 6] = ["eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep"];

    /// Finds the end tokens among tokens with these `texts`; `key` returns the id under the key of a name in [`Ends::KEYS`].
    ///
    /// Source: `llama_vocab::impl::load` in `llama-vocab.cpp` of llama.cpp.
    pub fn new(texts: &[String], key: impl Fn(&str) -> Option<usize>) -> Self {
        let mut ends = Self { ids: Vec::new(), kinds: Vec::new() };
        for id in ["eos", "eot", "eom"].into_iter().filter_map(&key) {
            if !ends.ids.contains(&id) {
                ends.ids.push(id);
            }
        }
        let mut others = Vec::new();
        for (name, known) in MIDDLE_ENDS {
            let by_text = || texts.iter().position(|text| known.contains(&text.as_str()));
            others
                .extend(key(name).or_else(|| by_text().inspect(|&id| ends.kinds.push((id, kind::CONTROL)))));
        }
        for (id, _) in texts.iter().enumerate().filter(|(_, text)| ENDS.contains(&text.as_str())) {
            ends.kinds.push((id, kind::CONTROL));
            others.push(id);
        }
        others.sort_unstable();
        others.dedup();
        others.retain(|id| !ends.ids.contains(id));
        ends.ids.extend(others);
        ends.remove_exceptions(texts);
        ends
    }

    /// Removes tokens that end nothing beside others: `<|end|>` in the formats Harmony and Solar Open, where it ends one message of
    /// several, and `</s>` in Gemma 4 and `PLaMo`, where it is a normal token.
    fn remove_exceptions(&mut self, texts: &[String]) {
        let has = |known: &[&str]| self.ids.iter().any(|&id| known.contains(&texts[id].as_str()));
        let ends_messages = has(&["<|call|>", "<|calls|>"]) && has(&["<|return|>", "<|flush|>"]);
        let is_piece = has(&["<|tool_response>", "<|plamo:eos|>"]);
        let exceptions = [(ends_messages, "<|end|>", kind::USER_DEFINED), (is_piece, "</s>", kind::NORMAL)];
        for (_, text, kind) in exceptions.into_iter().filter(|(is_exception, ..)| *is_exception) {
            let removed = self.ids.extract_if(.., |id| texts[*id] == text);
            self.kinds.extend(removed.map(|id| (id, kind)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the ends, and the kinds of tokens that were all normal, for these ids in the keys.
    fn ends(texts: &[&str], keys: &[(&str, usize)]) -> (Vec<usize>, Vec<i64>) {
        let texts: Vec<String> = texts.iter().map(|&text| text.to_owned()).collect();
        let key = |name: &str| keys.iter().find(|(key, _)| *key == name).map(|(_, id)| *id);
        let found = Ends::new(&texts, key);
        let mut kinds = vec![kind::NORMAL; texts.len()];
        for (id, kind) in found.kinds {
            kinds[id] = kind;
        }
        (found.ids, kinds)
    }

    #[test]
    fn ends_are_known_by_key_and_by_text() {
        let texts = ["a", "<|endoftext|>", "<|end|>", "b", "<|repo_name|>", "<fim-repo>", "<|file_sep|>"];
        let (found, kinds) = ends(&texts, &[("eos", 3)]);
        assert_eq!(found, [3, 1, 2, 4, 6]);
        assert_eq!(kinds, [1, 3, 3, 1, 3, 1, 3]);
        // A key replaces the text.
        assert_eq!(ends(&texts, &[("eos", 1), ("eom", 0), ("fim_rep", 3)]).0, [1, 0, 2, 3, 6]);
        for text in ENDS {
            assert_eq!(ends(&["a", text], &[]), (vec![1], vec![1, 3]), "{text}");
        }
        assert_eq!(ends(&["a"; 12], &[]).0, Vec::<usize>::new());
    }

    #[test]
    fn some_ends_are_none_beside_others() {
        let harmony = ["<|end|>", "<|return|>", "<|call|>"];
        assert_eq!(ends(&harmony, &[("eos", 1)]), (vec![1, 2], vec![4, 3, 3]));
        assert_eq!(ends(&harmony[..2], &[("eos", 1)]).0, [1, 0]);
        assert_eq!(ends(&["<|end|>", "<|calls|>", "<|flush|>"], &[]).0, [1, 2]);
        assert_eq!(ends(&["</s>", "<|tool_response>"], &[("eos", 0)]), (vec![1], vec![1, 3]));
        assert_eq!(ends(&["</s>", "<|plamo:eos|>"], &[("eos", 1)]).0, [1]);
        assert_eq!(ends(&["</s>", "<|plamo:eos|>"], &[("eos", 0)]).0, [0]);
    }
}
