//! Text of others on a terminal.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Returns `text` with the characters that a terminal obeys as escapes such as `\x1b`.
///
/// Names of files, tensors and tokens may come from strangers and hold sequences that move the cursor, change the title or
/// reverse the direction of the text. Ends of lines and tabs stay.
///
/// ```
/// assert_eq!(failure::printable("name\u{1b}[2J"), "name\\x1b[2J");
/// ```
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_obeyed) {
        return Cow::Borrowed(text);
    }
    let mut out = String::new();
    for letter in text.chars() {
        match letter {
            _ if !is_obeyed(letter) => out.push(letter),
            '\0'..='\u{ff}' => write!(out, "\\x{:02x}", letter as u32).expect("a string grows"),
            _ => write!(out, "\\u{{{:x}}}", letter as u32).expect("a string grows"),
        }
    }
    Cow::Owned(out)
}

/// Returns `text` as [`printable`] does, so that none of its lines looks like the first line of another message: an end of a line
/// within backticks, as in the name of a file, is escaped, and the lines after all others are indented.
///
/// ```
/// assert_eq!(failure::message("`a\nb` is wrong:\nsee"), "`a\\x0ab` is wrong:\n  see");
/// ```
pub fn message(text: &str) -> String {
    let mut is_quoted = false;
    let mut out = String::new();
    for letter in printable(text).chars() {
        is_quoted ^= letter == '`';
        match letter {
            '\n' if is_quoted => out.push_str(NEWLINE),
            '\n' => out.push_str("\n  "),
            _ => out.push(letter),
        }
    }
    out
}

/// Returns `text` as [`printable`] does, in one line.
///
/// ```
/// assert_eq!(failure::one_line("a\nb.jsonl"), "a\\x0ab.jsonl");
/// ```
pub fn one_line(text: &str) -> String {
    printable(text).replace('\n', NEWLINE)
}

/// An escaped end of a line.
const NEWLINE: &str = "\\x0a";

/// Returns whether a terminal obeys `letter`: controls other than line feed and tab, and marks of the direction of text.
pub fn is_obeyed(letter: char) -> bool {
    let is_direction = matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    is_direction
        || matches!(letter, '\u{2028}' | '\u{2029}')
        || (letter.is_control() && !matches!(letter, '\n' | '\t'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_obeys_is_escaped() {
        for (text, expected) in [
            ("ʻōlelo\n\tπ", "ʻōlelo\n\tπ"),
            ("\u{1b}]0;title\u{7}", "\\x1b]0;title\\x07"),
            ("a\rb\u{9b}31m", "a\\x0db\\x9b31m"),
            ("\u{202e}gnp.exe", "\\u{202e}gnp.exe"),
            ("\0\u{7f}", "\\x00\\x7f"),
        ] {
            assert_eq!(printable(text), expected);
        }
    }

    #[test]
    fn reports_escape_messages_and_hints() {
        let error =
            crate::Error::bad_input("tensor `\u{1b}[2J`").hinted("rename `\u{1b}c`").context("file `\r`");
        let report = error.report();
        assert!(!report.contains(['\u{1b}', '\r']), "{report:?}");
        assert!(report.contains("tensor `\\x1b[2J`"), "{report}");
    }

    #[test]
    fn a_name_forges_no_line_of_a_message() {
        let error =
            crate::Error::bad_input("file `a\nerror: b`:\nlist\nhint: c").hinted("rename `a\nhint: d`");
        assert_eq!(
            error.report(),
            "error: file `a\\x0aerror: b`:\n  list\n  hint: c\nhint: rename `a\\x0ahint: d`"
        );
    }
}
