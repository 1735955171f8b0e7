//! Normalization of text, and words for comparison.

use serde_json::Value;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use crate::hash::Hash;

/// Returns `text` in Unicode normalization form C. No other code normalizes text.
///
/// A vowel and a combining macron become one letter with kahakō; the ʻokina (U+02BB) stays. Quotation marks that old
/// print uses for the ʻokina stay too, since replacing them would be a guess.
///
/// ```
/// assert_eq!(dataset::text::normalize("Ha\u{304}ʻena"), "Hāʻena");
/// ```
pub fn normalize(text: &str) -> String {
    if is_nfc_quick(text.chars()) == IsNormalized::Yes { text.to_owned() } else { text.nfc().collect() }
}

/// Normalizes every string inside `value`, except the keys of objects.
pub(crate) fn normalize_value(value: &mut Value) {
    match value {
        Value::String(text) if is_nfc_quick(text.chars()) != IsNormalized::Yes => *text = normalize(text),
        Value::Array(items) => items.iter_mut().for_each(normalize_value),
        Value::Object(fields) => fields.values_mut().for_each(normalize_value),
        _ => {}
    }
}

/// Returns the hash of each word of `text`, for comparison: lower case, without punctuation.
///
/// An ʻokina or apostrophe inside a word is dropped, so that `Na’u`, `Na'u` and `Naʻu` are the same word.
pub(crate) fn word_hashes(text: &str) -> Vec<u64> {
    if is_nfc_quick(text.chars()) == IsNormalized::Yes {
        hash_words(text.chars())
    } else {
        hash_words(text.nfc())
    }
}

fn hash_words(letters: impl Iterator<Item = char>) -> Vec<u64> {
    let mut hashes = Vec::new();
    let mut word: Option<Hash> = None;
    let mut buffer = [0; 4];
    for letter in letters {
        if letter.is_alphanumeric() && !is_apostrophe(letter) {
            let hash = word.get_or_insert_default();
            for lower in letter.to_lowercase() {
                hash.bytes(lower.encode_utf8(&mut buffer).as_bytes());
            }
        } else if !is_apostrophe(letter) {
            hashes.extend(word.take().map(Hash::value));
        }
    }
    hashes.extend(word.map(Hash::value));
    hashes
}

fn is_apostrophe(letter: char) -> bool {
    matches!(letter, '\'' | '`' | '\u{2018}' | '\u{2019}' | '\u{02BB}' | '\u{02BC}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Splits `text` into the words whose hashes [`word_hashes`] returns.
    fn words(text: &str) -> Vec<String> {
        let mut words = Vec::new();
        let mut word = String::new();
        for letter in text.nfc() {
            if letter.is_alphanumeric() && !is_apostrophe(letter) {
                word.extend(letter.to_lowercase());
            } else if !is_apostrophe(letter) && !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
        }
        if !word.is_empty() {
            words.push(word);
        }
        words
    }

    #[test]
    fn okina_and_kahako_survive() {
        assert_eq!(normalize("ʻO ke kāne o Keōua"), "ʻO ke kāne o Keōua");
        assert_eq!(normalize("o\u{304} u\u{304}"), "ō ū");
        assert_eq!(normalize("ko’u ‘okina"), "ko’u ‘okina");
    }

    #[test]
    fn normalizing_twice_changes_nothing_more() {
        let once = normalize("e\u{301}\u{304} \u{212B}");
        assert_eq!(normalize(&once), once);
    }

    #[test]
    fn words_ignore_case_punctuation_and_the_kind_of_apostrophe() {
        let expected = ["nau", "i", "helu", "7", "hau"];
        assert_eq!(words("Na’u i helu, 7 hau."), expected);
        assert_eq!(words("NAʻU\n\ni helu [ ] 7 (hau)"), expected);
        assert!(words(" — … ").is_empty());
    }

    proptest::proptest! {
        #[test]
        fn hashes_are_those_of_the_words(text in "[a-cĀāA ’'ʻŚé\u{304}\u{301}İß9,.]{0,40}") {
            let expected: Vec<u64> = words(&text).iter().map(|word| Hash::of(word.as_bytes())).collect();
            proptest::prop_assert_eq!(word_hashes(&text), expected);
        }
    }
}
