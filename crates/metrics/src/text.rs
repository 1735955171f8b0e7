//! White space as sacreBLEU defines it.

/// Version of sacreBLEU whose scores these equal; its signatures end with it.
pub(crate) const SACREBLEU: &str = "2.6.0";

/// Returns whether `character` separates words.
///
/// This is Unicode white space plus the four information separators U+001C to U+001F, which Python's `str.split`
/// counts and Rust's `char::is_whitespace` does not.
pub(crate) fn is_space(character: char) -> bool {
    character.is_whitespace() || matches!(character, '\u{1c}'..='\u{1f}')
}

/// Splits `text` into words at runs of white space.
pub(crate) fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(is_space).filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_space_separates() {
        let text = "\u{a0}a\u{2009}b\u{3000}c\u{1c}d\u{85}e\u{2028}f\n";
        assert_eq!(words(text).collect::<Vec<_>>(), ["a", "b", "c", "d", "e", "f"]);
    }

    #[test]
    fn zero_width_space_does_not_separate() {
        assert_eq!(words("a\u{200b}b").count(), 1);
    }
}
