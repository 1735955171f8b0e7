//! `generation` blocks: how a template itself says which text the assistant generates.
//!
//! The engine knows no such tag, so `{% generation %}` becomes a filter block, with the same marks for white space,
//! and the filter puts marks around its text which are taken out again after rendering.

use std::ops::Range;

/// Name of the filter that stands for a `generation` block.
pub(crate) const FILTER: &str = "mark_generated_text";

// Noncharacters: they are valid in a string, yet never stand for text.
const OPEN: char = '\u{FDD0}';
const CLOSE: char = '\u{FDD1}';

/// Replaces the tags, keeping every line where it was; tells whether there were any.
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

/// Puts marks around `body`; a mark that is already inside is dropped, as it can only be noise.
pub(crate) fn mark(body: &str) -> String {
    format!("{OPEN}{}{CLOSE}", body.replace([OPEN, CLOSE], ""))
}

/// Takes the marks out of `text` and returns the byte ranges that lay between them.
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
    fn tags_keep_their_white_space_marks_and_lines() {
        let (out, found) =
            rewrite("a\n{%- generation %}x{{ '{%' }}{% endgeneration -%}\n{# {% generation %} #}");
        let expected =
            "a\n{%- filter mark_generated_text %}x{{ '{%' }}{% endfilter -%}\n{# {% generation %} #}";
        assert_eq!((out.as_str(), found), (expected, true));
        assert!(!rewrite("{% raw %}{% generation %}{% endraw %}").1);
    }

    #[test]
    fn marks_come_out_as_ranges() {
        let text = format!("a{}b{}", mark("xy"), mark(""));
        assert_eq!(take_marks(&text), ("axyb".into(), vec![1..3, 4..4]));
    }
}
