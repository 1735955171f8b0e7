//! Elements that escape what they are given and close what they open.
//!
//! The same builder writes HTML and SVG. Its output is well-formed XML too, so tests can parse it with a strict
//! parser, and there is one place only where text turns into markup.

use std::fmt;

/// One element with its attributes and content.
#[derive(Debug, Clone)]
pub(crate) struct Element {
    name: &'static str,
    attributes: String,
    content: String,
}

/// Starts an element.
pub(crate) fn element(name: &'static str) -> Element {
    Element { name, attributes: String::new(), content: String::new() }
}

/// Starts an element with a class.
pub(crate) fn classed(name: &'static str, class: &str) -> Element {
    element(name).attribute("class", class)
}

impl Element {
    /// Adds an attribute.
    pub(crate) fn attribute(mut self, name: &str, value: impl fmt::Display) -> Self {
        for part in [" ", name, "=\"", &escape(&value.to_string()), "\""] {
            self.attributes.push_str(part);
        }
        self
    }

    /// Adds text.
    pub(crate) fn text(mut self, text: impl AsRef<str>) -> Self {
        self.content.push_str(&escape(text.as_ref()));
        self
    }

    /// Adds an element.
    #[expect(clippy::needless_pass_by_value, reason = "a page is built from elements made in place")]
    pub(crate) fn child(mut self, child: Element) -> Self {
        self.content.push_str(&child.to_string());
        self
    }

    /// Adds elements.
    pub(crate) fn children(self, children: impl IntoIterator<Item = Element>) -> Self {
        children.into_iter().fold(self, Element::child)
    }

    /// Adds a style sheet of ours, which is the only content that is not escaped.
    pub(crate) fn style(mut self, sheet: &'static str) -> Self {
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
    matches!(name, "meta" | "br" | "path" | "line" | "circle" | "rect")
}

/// Elements after which a line break changes nothing: it keeps the page readable as text, and its changes small.
fn stands_alone(name: &str) -> bool {
    !matches!(
        name,
        "span" | "b" | "a" | "code" | "bdi" | "br" | "small" | "sup" | "text" | "tspan" | "th" | "td"
    )
}

/// Escapes text for content and for quoted attributes alike.
///
/// Characters that neither HTML nor XML may carry are shown as their control pictures.
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
        assert_eq!(escape("a\0\u{1b}[0m\r\n\u{85}"), "a\u{2400}\u{241b}[0m\u{240d}\n\u{fffd}");
    }
}
