//! Normalization of text, and words for comparison.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
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

/// Unicode normalization of the texts of rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Normalize {
    /// Texts stay as they are.
    #[default]
    None,
    /// Normalization form C.
    Nfc,
}

/// Changes to the texts of rows that settings ask for. The default leaves every text as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Treatment {
    /// Unicode normalization.
    pub normalize: Normalize,
    /// Remove white space at both ends of each text.
    pub trim: bool,
}

/// Counts of the changes that a [`Treatment`] made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// A text was not in the normalization form.
    pub normalized: bool,
    /// A text had white space at an end.
    pub trimmed: bool,
}

impl Treatment {
    /// Changes every string inside `fields`, except the keys of objects.
    pub fn apply(self, fields: &mut Map<String, Value>) -> Changes {
        let mut changes = Changes::default();
        if self != Self::default() {
            fields.values_mut().for_each(|value| self.change(value, &mut changes));
        }
        changes
    }

    /// Returns `text`, which settings give, in the normalization form.
    pub fn normalized(self, text: &str) -> String {
        match self.normalize {
            Normalize::None => text.to_owned(),
            Normalize::Nfc => normalize(text),
        }
    }

    /// Returns `text` with the changes that a text of a row would get.
    pub fn applied(self, text: &str) -> String {
        self.normalized(if self.trim { text.trim() } else { text })
    }

    fn change(self, value: &mut Value, changes: &mut Changes) {
        match value {
            Value::String(text) => {
                if self.trim && text.trim().len() < text.len() {
                    *text = text.trim().to_owned();
                    changes.trimmed = true;
                }
                if self.normalize == Normalize::Nfc && is_nfc_quick(text.chars()) != IsNormalized::Yes {
                    let normal = normalize(text);
                    changes.normalized |= normal != *text;
                    *text = normal;
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| self.change(item, changes)),
            Value::Object(fields) => fields.values_mut().for_each(|value| self.change(value, changes)),
            _ => {}
        }
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
    fn a_treatment_changes_only_what_it_is_asked_for_and_says_so() {
        let row = serde_json::json!({"a": " o\u{304} ", "b": [{"content": "x\n"}], "n": 1});
        let Value::Object(given) = row else { panic!("not an object") };
        let treated = |normalize, trim| {
            let mut fields = given.clone();
            let changes = Treatment { normalize, trim }.apply(&mut fields);
            (Value::Object(fields).to_string(), changes)
        };
        let unchanged = (Value::Object(given.clone()).to_string(), Changes::default());
        assert_eq!(treated(Normalize::None, false), unchanged);
        let (text, changes) = treated(Normalize::Nfc, false);
        assert_eq!(text, r#"{"a":" ō ","b":[{"content":"x\n"}],"n":1}"#);
        assert_eq!(changes, Changes { normalized: true, trimmed: false });
        let (text, changes) = treated(Normalize::None, true);
        assert_eq!(text, "{\"a\":\"o\u{304}\",\"b\":[{\"content\":\"x\"}],\"n\":1}");
        assert_eq!(changes, Changes { normalized: false, trimmed: true });
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
