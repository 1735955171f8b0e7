//! Elements of HTML and SVG with their text escaped and their tags closed.
//!
//! The output is well-formed XML too, so tests can parse it with a strict parser. Text becomes markup here and nowhere
//! else.

use std::fmt;

/// One element with its attributes and content.
#[derive(Debug, Clone)]
pub struct Element {
    name: &'static str,
    attributes: String,
    content: String,
}

/// Starts an element.
pub fn element(name: &'static str) -> Element {
    Element { name, attributes: String::new(), content: String::new() }
}

/// Starts an element with a class.
pub fn classed(name: &'static str, class: &str) -> Element {
    element(name).attribute("class", class)
}

impl Element {
    /// Adds an attribute.
    #[must_use]
    pub fn attribute(mut self, name: &str, value: impl fmt::Display) -> Self {
        for part in [" ", name, "=\"", &escape(&value.to_string()), "\""] {
            self.attributes.push_str(part);
        }
        self
    }

    /// Adds text.
    #[must_use]
    pub fn text(mut self, text: impl AsRef<str>) -> Self {
        self.content.push_str(&escape(text.as_ref()));
        self
    }

    /// Adds an element.
    #[must_use]
    #[expect(clippy::needless_pass_by_value, reason = "a page is built from elements made in place")]
    pub fn child(mut self, child: Element) -> Self {
        self.content.push_str(&child.to_string());
        self
    }

    /// Adds several elements.
    #[must_use]
    pub fn children(self, children: impl IntoIterator<Item = Element>) -> Self {
        children.into_iter().fold(self, Element::child)
    }

    /// Adds a style sheet or a script. It is not escaped, so it must be part of the program.
    #[must_use]
    pub fn style(mut self, sheet: &'static str) -> Self {
        self.content.push_str(sheet);
        self
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, attributes, content } = self;
        if closes_itself(name) {
            write!(f, "<{name}{attributes}/>")?;
        } else {
            write!(f, "<{name}{attributes}>{content}</{name}>")?;
        }
        if stands_alone(name) { writeln!(f) } else { Ok(()) }
    }
}

fn closes_itself(name: &str) -> bool {
    matches!(name, "meta" | "br" | "path" | "line" | "circle" | "rect" | "input")
}

/// Returns whether a line break after the element changes nothing. Line breaks keep the source of a page readable.
fn stands_alone(name: &str) -> bool {
    !matches!(
        name,
        "span"
            | "b"
            | "a"
            | "code"
            | "bdi"
            | "br"
            | "small"
            | "sup"
            | "ins"
            | "del"
            | "mark"
            | "i"
            | "strong"
            | "text"
            | "tspan"
            | "th"
            | "td"
    )
}

/// Escapes text for content and for quoted attributes.
///
/// Characters that are invalid in HTML or XML are replaced with their control pictures, and those that set the direction of
/// text with their numbers.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\t' | '\n' => escaped.push(character),
            '\0'..='\u{1f}' => {
                escaped.push(char::from_u32(0x2400 + character as u32).unwrap_or('\u{fffd}'));
            }
            // Directions that a text sets must not reach beyond it, and must be seen.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                escaped.extend(["[U+", &format!("{:04X}", u32::from(character)), "]"]);
            }
            '\u{7f}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => escaped.push('\u{fffd}'),
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_attributes_cannot_break_out() {
        let element = classed("b", "\"><script>").text("</b><script>alert('1')</script>&amp;");
        assert_eq!(
            element.to_string(),
            "<b class=\"&quot;&gt;&lt;script&gt;\">&lt;/b&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;amp;</b>"
        );
    }

    #[test]
    fn control_characters_are_shown() {
        assert_eq!(escape("a\u{202e}b\u{2066}"), "a[U+202E]b[U+2066]");
        assert_eq!(escape("a\0\u{1b}[0m\r\n\u{85}"), "a\u{2400}\u{241b}[0m\u{240d}\n\u{fffd}");
    }
}
