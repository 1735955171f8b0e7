//! The words of a text for BLEU.

use crate::text;

/// Rule by which BLEU splits text into words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tokenization {
    /// The rule of NIST's `mteval-v13a`, sacreBLEU's default: splits off punctuation, keeps numbers whole.
    #[default]
    V13a,
    /// White space only, for text that is already split.
    None,
}

impl Tokenization {
    /// Rewrites `text` with a space between tokens; white space in the result separates them.
    pub(crate) fn apply(self, text: &str) -> String {
        let text = text.trim_end_matches(text::is_space);
        match self {
            Self::None => text.to_owned(),
            Self::V13a => v13a(text),
        }
    }
}

fn v13a(text: &str) -> String {
    let text = text.replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    let text = text.replace("&quot;", "\"").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
    let text: Vec<char> = format!(" {text} ").chars().collect();
    let text = space_around_marks(&text);
    let text = rewrite_pairs(&text, |a, b| !a.is_ascii_digit() && is_point(b), |a, b| [a, ' ', b, ' ']);
    let text = rewrite_pairs(&text, |a, b| is_point(a) && !b.is_ascii_digit(), |a, b| [' ', a, ' ', b]);
    let text = rewrite_pairs(&text, |a, b| a.is_ascii_digit() && b == '-', |a, b| [a, ' ', b, ' ']);
    text.into_iter().collect()
}

/// Puts spaces around every ASCII punctuation mark except apostrophe, comma, hyphen and point.
fn space_around_marks(text: &[char]) -> Vec<char> {
    let mut spaced = Vec::with_capacity(text.len() * 2);
    for &character in text {
        if character.is_ascii_punctuation() && !matches!(character, '\'' | ',' | '-' | '.') {
            spaced.extend([' ', character, ' ']);
        } else {
            spaced.push(character);
        }
    }
    spaced
}

/// Replaces matching pairs of neighbours from left to right; a replaced pair is not matched again.
fn rewrite_pairs(
    text: &[char],
    fits: impl Fn(char, char) -> bool,
    replacement: impl Fn(char, char) -> [char; 4],
) -> Vec<char> {
    let mut result = Vec::with_capacity(text.len() * 2);
    let mut at = 0;
    while at < text.len() {
        match text.get(at + 1) {
            Some(&next) if fits(text[at], next) => {
                result.extend(replacement(text[at], next));
                at += 2;
            }
            _ => {
                result.push(text[at]);
                at += 1;
            }
        }
    }
    result
}

fn is_point(character: char) -> bool {
    matches!(character, '.' | ',')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(text: &str) -> Vec<String> {
        text::words(&Tokenization::V13a.apply(text)).map(str::to_owned).collect()
    }

    #[test]
    fn numbers_stay_whole_and_marks_stand_alone() {
        assert_eq!(tokens("Paid $1,234.50 (net)."), ["Paid", "$", "1,234.50", "(", "net", ")", "."]);
        assert_eq!(tokens("1916-1920, a-b"), ["1916", "-", "1920", ",", "a-b"]);
        assert_eq!(tokens("Hawaiʻi's \"moʻolelo\""), ["Hawaiʻi's", "\"", "moʻolelo", "\""]);
    }

    #[test]
    fn entities_and_hyphenated_line_ends_are_undone() {
        assert_eq!(tokens("a &lt;b&gt; c-\nd\ne"), ["a", "<", "b", ">", "cd", "e"]);
    }

    #[test]
    fn ellipses_are_split_as_pairs_from_the_left() {
        assert_eq!(tokens("so..."), ["so", ".", ".", "."]);
    }
}
