//! Begin and end tokens.

use std::path::Path;

use dataset::TextTokenizer;
use failure::Result;
use gguf::Ends;

use super::Tokens;
use crate::gguf::{WITHOUT_GGUF, unsupported};

/// Begin and end tokens, as all other stages use them.
pub(super) struct Boundaries {
    /// Token that begins texts.
    pub(super) begin: Option<u32>,
    /// Tokens that end answers, without repetitions; the first one also ends plain text.
    pub(super) ends: Vec<u32>,
    /// Tokens that are added before every text.
    before: Vec<u32>,
    /// Tokens that are added after every text.
    after: Vec<u32>,
}

impl Boundaries {
    /// Reads them from the tokenizer in `folder`, by encoding a text with and without the tokens that are added to it.
    pub(super) fn read(folder: &Path) -> Result<Self> {
        let tokenizer = TextTokenizer::open(folder)?;
        let (plain, mut before) = (tokenizer.encode("a", false)?, tokenizer.encode("a", true)?);
        let start = before.windows(plain.len().max(1)).position(|part| part == plain);
        let after = before.split_off(start.map_or(0, |start| start + plain.len()));
        before.truncate(start.unwrap_or(0));
        Ok(Self { begin: tokenizer.bos(), ends: tokenizer.eos().to_vec(), before, after })
    }

    /// Returns the token that is added before every text.
    ///
    /// # Errors
    ///
    /// Fails when other tokens are added, before or after a text.
    pub(super) fn added(&self, tokens: &Tokens) -> Result<Option<u32>> {
        if !self.after.is_empty() {
            return Err(unsupported(
                &format!("a tokenizer that adds {} after every text", tokens.names(&self.after)),
                &format!("llama.cpp would put them after every prompt too; {WITHOUT_GGUF}"),
            ));
        }
        match self.before[..] {
            [] => Ok(None),
            [token] if self.begin.is_none_or(|begin| begin == token) => Ok(Some(token)),
            _ => Err(unsupported(
                &format!("a tokenizer that adds {} before every text", tokens.names(&self.before)),
                &format!("llama.cpp adds only the token `bos_token`; {WITHOUT_GGUF}"),
            )),
        }
    }
}

/// Text of the token that ends a message to a tool.
const END_OF_MESSAGE: &str = "<|eom_id|>";
/// Texts of tokens that end turns.
const ENDS_OF_TURNS: [&str; 4] = ["<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>"];
/// Returns the metadata keys of the end tokens. The first token ends plain text and becomes `eos_token_id`. If there are more tokens than
/// keys, those that llama.cpp recognizes by their texts are left out.
///
/// # Errors
///
/// Fails when there is no end token, and when llama.cpp would not end answers at one of them.
pub(super) fn end_keys(ends: &[u32], tokens: &Tokens) -> Result<Vec<(&'static str, u32)>> {
    let Some((&first, rest)) = ends.split_first() else {
        return Err(unsupported(
            "a model without an end token",
            &format!("llama.cpp needs one; {WITHOUT_GGUF}"),
        ));
    };
    let found_by_llama_cpp = |keys: &[(&str, u32)]| {
        let id = |name: &str| keys.iter().find(|(key, _)| key.strip_suffix("_token_id") == Some(name));
        Ends::new(&tokens.texts, |name| id(name).map(|&(_, id)| id as usize)).ids
    };
    let known = found_by_llama_cpp(&[("eos_token_id", first)]);
    let (found, mut named): (Vec<u32>, Vec<u32>) =
        rest.iter().partition(|id| known.contains(&(**id as usize)));
    if named.len() > 2 {
        return Err(unsupported(
            &format!("a model whose answers also end with {}", tokens.names(&named[2..])),
            &format!(
                "a file names three end tokens, and llama.cpp knows others by their texts; {WITHOUT_GGUF}"
            ),
        ));
    }
    named.extend(found.iter().take(2 - named.len()));
    named.sort_by_key(|&id| match tokens.text(id) {
        text if ENDS_OF_TURNS.contains(&text) => 0,
        END_OF_MESSAGE => 2,
        _ => 1,
    });
    let is_message = |ids: &[u32]| matches!(ids, [id] if tokens.text(*id) == END_OF_MESSAGE);
    let keys = if is_message(&named) { &["eom_token_id"][..] } else { &["eot_token_id", "eom_token_id"] };
    let keys: Vec<_> = [("eos_token_id", first)].into_iter().chain(keys.iter().copied().zip(named)).collect();
    let found = found_by_llama_cpp(&keys);
    let lost: Vec<u32> = ends.iter().copied().filter(|id| !found.contains(&(*id as usize))).collect();
    if lost.is_empty() {
        return Ok(keys);
    }
    Err(unsupported(
        &format!("a model whose answers end with {}", tokens.names(&lost)),
        &format!("beside its other tokens, llama.cpp does not end answers with it; {WITHOUT_GGUF}"),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(texts: &[&str]) -> Tokens {
        Tokens { texts: texts.iter().map(|&text| text.to_owned()).collect(), kinds: vec![3; texts.len()] }
    }

    fn keys(ends: &[&str]) -> std::result::Result<Vec<(&'static str, u32)>, String> {
        let ids: Vec<u32> = (0..ends.len() as u32).collect();
        end_keys(&ids, &tokens(ends)).map_err(|error| error.report())
    }

    #[test]
    fn end_tokens_have_the_keys_of_their_texts_and_the_first_ends_plain_text() {
        let (eos, eot, eom) = ("eos_token_id", "eot_token_id", "eom_token_id");
        assert_eq!(keys(&["<eos>"]).unwrap(), [(eos, 0)]);
        assert_eq!(keys(&["<|im_end|>", "<|endoftext|>"]).unwrap(), [(eos, 0), (eot, 1)]);
        assert_eq!(keys(&["<eos>", "<|eom_id|>"]).unwrap(), [(eos, 0), (eom, 1)]);
        assert_eq!(
            keys(&["<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"]).unwrap(),
            [(eos, 0), (eot, 2), (eom, 1)]
        );
        assert_eq!(keys(&["<eos>", "<x>", "<end_of_turn>"]).unwrap(), [(eos, 0), (eot, 2), (eom, 1)]);
        assert_eq!(keys(&["<eos>", "<x>", "<y>"]).unwrap(), [(eos, 0), (eot, 1), (eom, 2)]);
    }

    #[test]
    fn more_than_three_end_tokens_are_written_only_if_llama_cpp_finds_the_others() {
        let known = keys(&["<eos>", "<|eot_id|>", "<x>", "<|eom_id|>", "<y>"]).unwrap();
        assert_eq!(known, [("eos_token_id", 0), ("eot_token_id", 2), ("eom_token_id", 4)]);
        let error = keys(&["<eos>", "<x>", "<y>", "<z>", "<|eot_id|>", "<w>"]).unwrap_err();
        assert!(error.contains("also end with `<z>`, `<w>` cannot be written as GGUF"), "{error}");
        assert!(keys(&[]).unwrap_err().contains("without an end token"));
        let error = keys(&["<|return|>", "<|call|>", "<|end|>"]).unwrap_err();
        assert!(error.contains("answers end with `<|end|>` cannot be written as GGUF"), "{error}");
    }

    #[test]
    fn only_the_begin_token_may_be_added_to_texts() {
        let tokens = tokens(&["<s>", "</s>", "[CLS]"]);
        let added = |begin: Option<u32>, before: &[u32], after: &[u32]| {
            let (before, after) = (before.to_vec(), after.to_vec());
            let boundaries = Boundaries { begin, ends: vec![1], before, after };
            boundaries.added(&tokens).map_err(|error| error.report())
        };
        assert_eq!(added(Some(0), &[], &[]), Ok(None));
        assert_eq!(added(Some(0), &[0], &[]), Ok(Some(0)));
        assert_eq!(added(None, &[0], &[]), Ok(Some(0)));
        for (before, after, said) in [
            (&[0][..], &[1][..], "adds `</s>` after every text"),
            (&[2], &[], "adds `[CLS]` before every text"),
            (&[0, 2], &[], "adds `<s>`, `[CLS]` before every text"),
        ] {
            let error = added(Some(0), before, after).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
