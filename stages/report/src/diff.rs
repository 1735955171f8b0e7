//! Words in which two answers differ, marked.

use chart::markup::{Element, classed, element};
use similar::{Algorithm, ChangeTag, TextDiff};

/// Answers with more words than this together are not compared, because the time grows with the product.
const MOST_WORDS: usize = 3000;

/// Answers with less in common than this are not marked: everything would be.
const LEAST_IN_COMMON: f32 = 0.2;

/// Kind of mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// Marks the words of the second text that the first lacks.
    New,
    /// Marks the words of the first text that the second lacks.
    Old,
}

/// Returns one of two texts, with the words that the other lacks in marks.
pub(crate) fn marked(old: &str, new: &str, side: Side) -> Element {
    let paragraph = classed("p", "words").attribute("dir", "auto");
    let text = if side == Side::New { new } else { old };
    if old == new || old.is_empty() || new.is_empty() || pieces(old) + pieces(new) > MOST_WORDS {
        return paragraph.text(text);
    }
    let mut settings = TextDiff::configure();
    settings.algorithm(Algorithm::Myers);
    let diff = if spaced(old) && spaced(new) {
        settings.diff_words(old, new)
    } else {
        settings.diff_chars(old, new)
    };
    if diff.ratio() < LEAST_IN_COMMON {
        return paragraph.text(text);
    }
    let wanted = if side == Side::New { ChangeTag::Insert } else { ChangeTag::Delete };
    let mut paragraph = paragraph;
    let mut run = String::new();
    let mut marked = false;
    for change in diff.iter_all_changes() {
        if change.tag() != ChangeTag::Equal && change.tag() != wanted {
            continue;
        }
        let is_marked = change.tag() == wanted;
        // White space between two marked words is marked with them, and a mark does not begin or end with it.
        if is_marked != marked && !(marked && change.value().trim().is_empty()) {
            paragraph = flush(paragraph, &run, marked, side);
            run.clear();
            marked = is_marked;
        }
        run.push_str(change.value());
    }
    flush(paragraph, &run, marked, side)
}

fn flush(paragraph: Element, run: &str, marked: bool, side: Side) -> Element {
    if !marked || run.trim().is_empty() {
        return if run.is_empty() { paragraph } else { paragraph.text(run) };
    }
    let (name, body) = (if side == Side::New { "ins" } else { "del" }, run.trim());
    let start = run.len() - run.trim_start().len();
    paragraph.text(&run[..start]).child(element(name).text(body)).text(&run[start + body.len()..])
}

/// Returns whether words are set apart by spaces, which Chinese and Japanese do not do.
fn spaced(text: &str) -> bool {
    text.split_whitespace().count() * 20 > text.chars().count() || text.chars().count() < 20
}

fn pieces(text: &str) -> usize {
    if spaced(text) { text.split_whitespace().count() * 2 } else { text.chars().count() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(old: &str, new: &str) -> String {
        marked(old, new, Side::New)
            .to_string()
            .replace("<p class=\"words\" dir=\"auto\">", "")
            .replace("</p>\n", "")
    }

    #[test]
    fn words_that_differ_are_marked_on_their_side() {
        assert_eq!(
            new("the canoe landed", "the big canoe arrived"),
            "the <ins>big</ins> canoe <ins>arrived</ins>"
        );
        let old = marked("the canoe landed", "the big canoe arrived", Side::Old).to_string();
        assert!(old.contains("the canoe <del>landed</del>"), "{old}");
        assert_eq!(new("same words", "same words"), "same words");
        assert_eq!(new("", "all <new>"), "all &lt;new&gt;");
    }

    #[test]
    fn scripts_without_spaces_are_compared_by_character() {
        let (old, newer) =
            ("東京は夜の七時です。東京は夜の七時です。", "東京は朝の七時です。東京は夜の七時です。");
        assert!(new(old, newer).contains("東京は<ins>朝</ins>の七時です。"), "{}", new(old, newer));
    }

    #[test]
    fn marking_changes_no_character() {
        for (old, newer) in [("a b  c", "a  x c "), ("x\n\ny", " x\ny z"), ("ʻo ia", "ʻo  iā nei")] {
            let text = new(old, newer).replace("<ins>", "").replace("</ins>", "");
            assert_eq!(text, newer);
        }
    }
}
