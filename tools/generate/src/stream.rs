//! Streams tokens as text: never half a character, and never the beginning of a stop text.

use dataset::{Result, TextTokenizer};

/// Turns the tokens of one answer into text.
pub(crate) struct TextStream<'a> {
    tokenizer: &'a TextTokenizer,
    /// Texts that end the answer.
    stop: &'a [String],
    tokens: Vec<u32>,
    /// Index from which tokens are decoded together, because the text of a token may depend on the one before.
    context: usize,
    /// Number of tokens that were turned into text.
    read: usize,
    /// Text held back because it may be the beginning of a stop text.
    held: String,
    ended: bool,
}

/// Character that stands for an incomplete one.
const REPLACEMENT: char = '\u{FFFD}';

impl<'a> TextStream<'a> {
    pub(crate) fn new(tokenizer: &'a TextTokenizer, stop: &'a [String]) -> Self {
        Self { tokenizer, stop, tokens: Vec::new(), context: 0, read: 0, held: String::new(), ended: false }
    }

    /// Adds a token and returns the text that is now certain.
    pub(crate) fn push(&mut self, token: u32) -> Result<String> {
        self.tokens.push(token);
        let fresh = self.fresh()?;
        if fresh.is_empty() || fresh.ends_with(REPLACEMENT) {
            return Ok(String::new());
        }
        self.context = self.read;
        self.read = self.tokens.len();
        self.held.push_str(&fresh);
        Ok(self.release(false))
    }

    /// Returns the remaining text after the last token.
    pub(crate) fn finish(&mut self) -> Result<String> {
        if self.ended {
            return Ok(String::new());
        }
        let fresh = self.fresh()?;
        self.read = self.tokens.len();
        self.held.push_str(&fresh);
        Ok(self.release(true))
    }

    /// Returns whether a stop text was found.
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// Returns the text of the tokens not yet turned into text.
    fn fresh(&self) -> Result<String> {
        let known = self.tokenizer.decode(&self.tokens[self.context..self.read], true)?;
        let all = self.tokenizer.decode(&self.tokens[self.context..], true)?;
        Ok(all.strip_prefix(&known).unwrap_or_default().to_owned())
    }

    /// Returns the held text up to a stop text or, unless `all`, up to the beginning of one.
    fn release(&mut self, all: bool) -> String {
        if let Some(end) = self.stop.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.ended = true;
            self.held.truncate(end);
            return std::mem::take(&mut self.held);
        }
        let kept =
            if all { 0 } else { self.stop.iter().map(|stop| overlap(&self.held, stop)).max().unwrap_or(0) };
        let rest = self.held.split_off(self.held.len() - kept);
        std::mem::replace(&mut self.held, rest)
    }
}

/// Returns the length in bytes of the longest end of `text` with which `stop` begins.
fn overlap(text: &str, stop: &str) -> usize {
    let lengths = stop.char_indices().map(|(length, _)| length).rev();
    lengths.into_iter().find(|&length| text.ends_with(&stop[..length])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use testutil::golden;

    use super::*;

    fn tokenizer(name: &str) -> TextTokenizer {
        TextTokenizer::open(&golden(name)).unwrap()
    }

    fn streamed(tokenizer: &TextTokenizer, stop: &[String], tokens: &[u32]) -> (Vec<String>, bool) {
        let mut stream = TextStream::new(tokenizer, stop);
        let mut pieces = Vec::new();
        for &token in tokens {
            pieces.push(stream.push(token).unwrap());
            if stream.ended() {
                break;
            }
        }
        pieces.push(stream.finish().unwrap());
        (pieces, stream.ended())
    }

    #[test]
    fn a_character_of_several_tokens_is_streamed_whole() {
        for name in ["llama", "gemma3_text"] {
            let tokenizer = tokenizer(name);
            let text = "ʻŌlelo Hawaiʻi: 🌺 かな, e\u{301}";
            let tokens = tokenizer.encode(text, false).unwrap();
            let (pieces, _) = streamed(&tokenizer, &[], &tokens);
            assert!(pieces.iter().any(String::is_empty), "some characters take several tokens");
            assert!(pieces.iter().all(|piece| !piece.contains(REPLACEMENT)), "{pieces:?}");
            assert_eq!(pieces.concat(), tokenizer.decode(&tokens, true).unwrap());
        }
    }

    #[test]
    fn half_a_character_at_the_end_becomes_a_replacement_character() {
        let tokenizer = tokenizer("llama");
        let tokens = tokenizer.encode("aloha 🌺", false).unwrap();
        let (pieces, _) = streamed(&tokenizer, &[], &tokens[..tokens.len() - 1]);
        assert_eq!(pieces.concat().trim(), "aloha \u{FFFD}");
    }

    #[test]
    fn a_stop_text_ends_the_answer_before_it_even_across_tokens() {
        let tokenizer = tokenizer("llama");
        let tokens = tokenizer.encode("one two\nthree. four", false).unwrap();
        let whole = tokenizer.decode(&tokens, true).unwrap();
        for stop in ["two\nth", "\n", "e. f", "four", "o"] {
            let (pieces, ended) = streamed(&tokenizer, &[stop.to_owned(), "never".to_owned()], &tokens);
            assert!(ended, "{stop}");
            assert_eq!(pieces.concat(), whole[..whole.find(stop).unwrap()], "{stop}");
        }
        let (pieces, ended) = streamed(&tokenizer, &["fours".to_owned()], &tokens);
        assert!(!ended);
        assert_eq!(pieces.concat(), whole);
    }

    #[test]
    fn overlaps_are_the_longest() {
        assert_eq!(overlap("xabab", "ababc"), 4);
        assert_eq!(overlap("xaba", "ababc"), 3);
        assert_eq!(overlap("ā", "āb"), 2);
        assert_eq!(overlap("x", "abc"), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_tokens_stream_to_what_they_decode_to(ids in prop::collection::vec(0u32..384, 0..40)) {
            for name in ["llama", "gemma3_text"] {
                let tokenizer = tokenizer(name);
                let (pieces, _) = streamed(&tokenizer, &[], &ids);
                prop_assert_eq!(pieces.concat(), tokenizer.decode(&ids, true).unwrap());
            }
        }
    }
}
