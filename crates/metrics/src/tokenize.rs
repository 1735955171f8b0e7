//! The words of a text for BLEU.

use std::sync::LazyLock;

use regex::Regex;

use crate::text;

/// Rule by which BLEU splits text into words.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Tokenization {
    /// The rule of NIST's `mteval-v13a`, sacreBLEU's default: splits off punctuation, keeps numbers whole.
    #[default]
    V13a,
    /// The rule of `mteval-v14`: splits off all punctuation and symbols of Unicode, keeps numbers whole.
    International,
    /// Every character is a word.
    Characters,
    /// Chinese: every Chinese character is a word, the rest is split as by `V13a`.
    Chinese,
    /// White space only, for text that is already split.
    None,
}

impl Tokenization {
    /// Returns sacreBLEU's name of the rule.
    pub fn name(self) -> &'static str {
        match self {
            Self::V13a => "13a",
            Self::International => "intl",
            Self::Characters => "char",
            Self::Chinese => "zh",
            Self::None => "none",
        }
    }

    /// Rewrites `text` with a space between tokens; white space in the result separates them.
    pub(crate) fn apply(self, text: &str) -> String {
        let text = text.trim_end_matches(text::is_space);
        match self {
            Self::None => text.to_owned(),
            Self::V13a => v13a(text),
            Self::International => international(text),
            Self::Characters => text.chars().flat_map(|character| [character, ' ']).collect(),
            Self::Chinese => chinese(text),
        }
    }
}

/// Splits off punctuation next to anything but a digit, and every symbol.
fn international(text: &str) -> String {
    static RULES: LazyLock<[(Regex, &str); 3]> = LazyLock::new(|| {
        let rule = |pattern| Regex::new(pattern).expect("the pattern is valid");
        [(rule(r"(\P{N})(\p{P})"), "$1 $2 "), (rule(r"(\p{P})(\P{N})"), " $1 $2"), (rule(r"(\p{S})"), " $1 ")]
    });
    let mut text = text.to_owned();
    for (pattern, replacement) in RULES.iter() {
        text = pattern.replace_all(&text, *replacement).into_owned();
    }
    text
}

fn chinese(text: &str) -> String {
    let mut spaced = Vec::with_capacity(text.len());
    for character in text.trim_start_matches(text::is_space).chars() {
        if is_chinese(character) {
            spaced.extend([' ', character, ' ']);
        } else {
            spaced.push(character);
        }
    }
    separate_punctuation(&spaced)
}

/// Returns whether sacreBLEU's rule `zh` counts the character as Chinese.
///
/// Two ranges of the rule are meant to be beyond U+FFFF, but end as U+2001 to U+2A6D and U+2F81 to U+2FA1. Scores are only
/// equal with the ranges as they are.
fn is_chinese(character: char) -> bool {
    matches!(character,
        '\u{2001}'..='\u{2a6d}' | '\u{2e80}'..='\u{2fdf}' | '\u{2ff0}'..='\u{303f}' | '\u{3100}'..='\u{312f}'
        | '\u{31a0}'..='\u{31bf}' | '\u{31c0}'..='\u{31ef}' | '\u{3200}'..='\u{4db5}' | '\u{4e00}'..='\u{9fbb}'
        | '\u{f900}'..='\u{fa2d}' | '\u{fa30}'..='\u{fa6a}' | '\u{fa70}'..='\u{fad9}' | '\u{fe10}'..='\u{fe1f}'
        | '\u{fe30}'..='\u{fe4f}' | '\u{ff00}'..='\u{ffef}')
}

fn v13a(text: &str) -> String {
    let text = text.replace("<skipped>", "").replace("-\n", "").replace('\n', " ");
    let text = text.replace("&quot;", "\"").replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
    let text: Vec<char> = format!(" {text} ").chars().collect();
    separate_punctuation(&text)
}

/// Puts spaces around punctuation, but not inside numbers.
fn separate_punctuation(text: &[char]) -> String {
    let text = space_around_marks(text);
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
        split(Tokenization::V13a, text)
    }

    fn split(tokenization: Tokenization, text: &str) -> Vec<String> {
        text::words(&tokenization.apply(text)).map(str::to_owned).collect()
    }

    #[test]
    fn international_rules_split_marks_of_every_script() {
        let split = |text| split(Tokenization::International, text);
        assert_eq!(split("«Ua hele» 1,5€!"), ["«", "Ua", "hele", "»", "1,5", "€", "!"]);
        assert_eq!(split("去。2020."), ["去", "。", "2020."]);
    }

    #[test]
    fn chinese_characters_stand_alone_and_the_rest_is_split_as_usual() {
        assert_eq!(
            split(Tokenization::Chinese, "我们去Hawaii, ok。"),
            ["我", "们", "去", "Hawaii", ",", "ok", "。"]
        );
        assert_eq!(split(Tokenization::Characters, "去 ab"), ["去", "a", "b"]);
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
