//! Clipped n-gram matches, by sorting and merging, so that no result depends on a hash order.

use std::cmp::Ordering;

/// Returns the size of the intersection of two multisets.
///
/// Sorts both slices.
pub(crate) fn matches<T: Ord>(left: &mut [T], right: &mut [T]) -> u64 {
    left.sort_unstable();
    right.sort_unstable();
    let (mut i, mut j, mut shared) = (0, 0, 0);
    while i < left.len() && j < right.len() {
        match left[i].cmp(&right[j]) {
            Ordering::Less => i += 1,
            Ordering::Greater => j += 1,
            Ordering::Equal => {
                shared += 1;
                i += 1;
                j += 1;
            }
        }
    }
    shared
}

/// Returns every run of `order` neighbouring words.
pub(crate) fn of_words<'a, 't>(words: &'a [&'t str], order: usize) -> Vec<&'a [&'t str]> {
    words.windows(order).collect()
}

/// Text without white space, with the byte position of every character.
pub(crate) struct Characters {
    text: String,
    starts: Vec<usize>,
}

impl Characters {
    /// Drops the white space of `text`.
    pub(crate) fn new(text: &str) -> Self {
        let text: String = text.chars().filter(|c| !crate::text::is_space(*c)).collect();
        let starts = text.char_indices().map(|(start, _)| start).chain([text.len()]).collect();
        Self { text, starts }
    }

    /// Returns every run of `order` neighbouring characters.
    pub(crate) fn ngrams(&self, order: usize) -> Vec<&str> {
        self.starts.iter().zip(self.starts.iter().skip(order)).map(|(&a, &b)| &self.text[a..b]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_are_clipped_to_the_rarer_side() {
        assert_eq!(matches(&mut ["a", "a", "a", "b"], &mut ["a", "c", "a"]), 2);
    }

    #[test]
    fn character_runs_skip_white_space_and_keep_whole_characters() {
        let characters = Characters::new("ʻa\u{3000}ā");
        assert_eq!(characters.ngrams(1), ["ʻ", "a", "ā"]);
        assert_eq!(characters.ngrams(2), ["ʻa", "aā"]);
        assert!(characters.ngrams(4).is_empty());
        assert!(Characters::new("").ngrams(1).is_empty());
    }
}
