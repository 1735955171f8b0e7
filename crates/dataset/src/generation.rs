//! `generation` blocks, with which a template marks the text that the assistant generates.
//!
//! The template engine does not know this tag, so `{% generation %}` is rewritten as a filter block with the same white
//! space control. The filter puts marks around its text, and the marks are removed after rendering.

use std::ops::Range;

/// Name of the filter that replaces a `generation` block.
pub(crate) const FILTER: &str = "mark_generated_text";

// Noncharacters: valid in a string, but never part of a text.
const OPEN: char = '\u{FDD0}';
const CLOSE: char = '\u{FDD1}';

/// Replaces the tags without moving any line, and returns whether there were any.
pub(crate) fn rewrite(source: &str) -> (String, bool) {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    let mut found = false;
    let mut raw = false;
    while let Some(start) = ["{%", "{#", "{{"].iter().filter_map(|open| rest.find(open)).min() {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let close = match &rest[..2] {
            "{%" => "%}",
            "{#" => "#}",
            _ => "}}",
        };
        let end = rest.find(close).map_or(rest.len(), |end| end + 2);
        let tag = &rest[..end];
        let word =
            if close == "%}" { tag[2..].trim_end_matches("%}").trim_matches(['-', '+']).trim() } else { "" };
        match word {
            "raw" => raw = true,
            "endraw" => raw = false,
            _ => {}
        }
        match word {
            "generation" if !raw => {
                found = true;
                out.push_str(&tag.replacen("generation", &format!("filter {FILTER}"), 1));
            }
            "endgeneration" if !raw => {
                out.push_str(&tag.replacen("endgeneration", "endfilter", 1));
            }
            _ => out.push_str(tag),
        }
        rest = &rest[end..];
    }
    out.push_str(rest);
    (out, found)
}

/// Puts marks around `body`, and drops marks inside it.
pub(crate) fn mark(body: &str) -> String {
    format!("{OPEN}{}{CLOSE}", body.replace([OPEN, CLOSE], ""))
}

/// Removes the marks from `text` and returns the byte ranges between them.
pub(crate) fn take_marks(text: &str) -> (String, Vec<Range<usize>>) {
    let mut out = String::with_capacity(text.len());
    let mut ranges = Vec::new();
    let mut start = 0;
    for letter in text.chars() {
        match letter {
            OPEN => start = out.len(),
            CLOSE => ranges.push(start..out.len()),
            _ => out.push(letter),
        }
    }
    (out, ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_keep_their_white_space_control_and_lines() {
        let (out, found) =
            rewrite("a\n{%- generation %}x{{ '{%' }}{% endgeneration -%}\n{# {% generation %} #}");
        let expected =
            "a\n{%- filter mark_generated_text %}x{{ '{%' }}{% endfilter -%}\n{# {% generation %} #}";
        assert_eq!((out.as_str(), found), (expected, true));
        assert!(!rewrite("{% raw %}{% generation %}{% endraw %}").1);
    }

    #[test]
    fn marks_become_ranges() {
        let text = format!("a{}b{}", mark("xy"), mark(""));
        assert_eq!(take_marks(&text), ("axyb".into(), vec![1..3, 4..4]));
    }
}
