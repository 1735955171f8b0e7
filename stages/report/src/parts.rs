//! Parts that all pages share: sections, tables, folded lists, hashes and texts.

use chart::markup::{Element, classed, element};
use chart::{Bars, Chart, Histogram, Parallel, Size};

use crate::number;

/// Digits of a hash that are shown; a tooltip has all of them.
const SHORT: usize = 12;

/// A chart over the whole width of a page, on a wide screen.
pub(crate) const WIDE: Size = Size { name: "wide", width: 940.0, height: 400.0 };
/// A chart over the whole width, on a phone.
pub(crate) const NARROW: Size = Size { name: "narrow", width: 350.0, height: 330.0 };
/// A chart over half the width.
pub(crate) const HALF: Size = Size { name: "wide", width: 450.0, height: 220.0 };
/// The same chart on a phone.
pub(crate) const NARROW_HALF: Size = Size { name: "narrow", width: 350.0, height: 210.0 };

/// Returns a name as part of an element id. Different names have different ids: `_` becomes `-`, and any other character that is no
/// letter or digit becomes its code between underscores.
pub(crate) fn id_of(name: &str) -> String {
    let part = |character: char| match character {
        '_' => "-".to_owned(),
        letter if letter.is_ascii_alphanumeric() => letter.to_string(),
        other => format!("_{:x}_", u32::from(other)),
    };
    name.chars().map(part).collect()
}

/// A section of a page.
#[derive(Debug)]
pub(crate) struct Section {
    /// Anchor of the section.
    pub(crate) id: &'static str,
    /// Heading, also in the list of contents.
    pub(crate) title: &'static str,
    pub(crate) content: Vec<Element>,
}

impl Section {
    /// Starts a section.
    pub(crate) fn new(id: &'static str, title: &'static str) -> Self {
        Self { id, title, content: Vec::new() }
    }

    /// Adds an element.
    pub(crate) fn add(mut self, child: Element) -> Self {
        self.content.push(child);
        self
    }

    /// Adds several elements.
    pub(crate) fn extend(mut self, children: impl IntoIterator<Item = Element>) -> Self {
        self.content.extend(children);
        self
    }

    /// Adds a paragraph below the heading.
    pub(crate) fn about(self, text: impl AsRef<str>) -> Self {
        if text.as_ref().is_empty() { self } else { self.add(classed("p", "about").text(text)) }
    }

    /// Adds a heading inside the section.
    pub(crate) fn heading(self, text: &str) -> Self {
        self.add(element("h3").text(text))
    }

    /// Adds a heading inside the section, unless what follows is empty.
    pub(crate) fn heading_if(self, text: &str, following: &[Element]) -> Self {
        if following.is_empty() { self } else { self.heading(text) }
    }

    /// Returns the section as an element.
    pub(crate) fn element(self) -> Element {
        element("section")
            .attribute("id", self.id)
            .attribute("aria-labelledby", format!("{}-title", self.id))
            .child(element("h2").attribute("id", format!("{}-title", self.id)).text(self.title))
            .children(self.content)
    }
}

/// Anything that can be drawn for a page in two sizes.
pub(crate) trait Drawing {
    fn draw_as(&self, size: Size) -> Element;
    fn caption(&self) -> &str;
}

impl Drawing for Chart {
    fn draw_as(&self, size: Size) -> Element {
        self.draw(size)
    }

    fn caption(&self) -> &str {
        &self.title
    }
}

impl Drawing for Bars {
    fn draw_as(&self, size: Size) -> Element {
        self.draw(size)
    }

    fn caption(&self) -> &str {
        &self.title
    }
}

impl Drawing for Histogram {
    fn draw_as(&self, size: Size) -> Element {
        self.draw(size)
    }

    fn caption(&self) -> &str {
        &self.title
    }
}

impl Drawing for Parallel {
    fn draw_as(&self, size: Size) -> Element {
        self.draw(size)
    }

    fn caption(&self) -> &str {
        &self.title
    }
}

/// Draws a chart for wide and for narrow screens, with its caption.
pub(crate) fn figure(drawing: &dyn Drawing, wide: Size, narrow: Size) -> Element {
    classed("figure", "panel")
        .child(classed("figcaption", "chart-title").text(drawing.caption()))
        .child(drawing.draw_as(wide))
        .child(drawing.draw_as(narrow))
}

/// Puts elements side by side, two in a row on a wide screen.
pub(crate) fn side_by_side(elements: impl IntoIterator<Item = Element>) -> Element {
    classed("div", "multiples").children(elements)
}

/// A column of a table.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    name: String,
    number: bool,
}

/// Returns a column of texts.
pub(crate) fn words_column(name: impl Into<String>) -> Column {
    Column { name: name.into(), number: false }
}

/// Returns a column of numbers.
pub(crate) fn number_column(name: impl Into<String>) -> Column {
    Column { name: name.into(), number: true }
}

/// Returns the head of a table.
pub(crate) fn head(columns: &[Column]) -> Element {
    let cells = columns.iter().map(|column| {
        let cell = element("th").attribute("scope", "col");
        let cell = if column.number { cell.attribute("class", "number") } else { cell };
        cell.text(&column.name)
    });
    element("thead").child(element("tr").children(cells))
}

/// Returns a table of texts that scrolls inside its box; the first cell of a row is its heading.
pub(crate) fn table(
    label: &str,
    columns: &[Column],
    rows: impl IntoIterator<Item = Vec<Element>>,
) -> Element {
    let rows = rows.into_iter().map(|cells| element("tr").children(cells));
    let table = classed("table", "plain").child(head(columns)).child(element("tbody").children(rows));
    scrolling(label, table)
}

/// Returns the heading cell of a row.
pub(crate) fn row_head(text: &str) -> Element {
    element("th").attribute("scope", "row").child(element("bdi").text(text))
}

/// Returns a cell with a text.
pub(crate) fn cell(text: impl AsRef<str>) -> Element {
    element("td").attribute("dir", "auto").text(text)
}

/// Returns a cell with a number.
pub(crate) fn number_cell(text: impl AsRef<str>) -> Element {
    classed("td", "number").text(text)
}

/// Puts a table into a box in which it scrolls, also by keyboard.
pub(crate) fn scrolling(label: &str, table: Element) -> Element {
    classed("div", "scroll")
        .attribute("role", "group")
        .attribute("aria-label", label)
        .attribute("tabindex", 0)
        .child(table)
}

/// Returns content that a reader unfolds.
pub(crate) fn folded(summary: &str, content: Element) -> Element {
    element("details").child(element("summary").text(summary)).child(content)
}

/// Returns a folded list; `None` if `count` is 0. `count` may exceed the number of entries.
pub(crate) fn folded_list(name: &str, count: u64, entries: &[String], shown: usize) -> Option<Element> {
    if count == 0 {
        return None;
    }
    let hidden = count.saturating_sub(entries.len().min(shown) as u64);
    let items = entries.iter().take(shown).map(|entry| element("li").attribute("dir", "auto").text(entry));
    let mut list = classed("ul", "entries").children(items);
    if hidden > 0 {
        list = list.child(element("li").text(format!("and {} more", number::count(hidden))));
    }
    Some(folded(&format!("{name}: {}", number::count(count)), list))
}

/// Shows the start of a hash, with all of it as tooltip.
pub(crate) fn hash(value: &str) -> Element {
    let value = bare(value);
    element("code").attribute("title", value).text(value.get(..SHORT).unwrap_or(value))
}

/// Removes the type tag of a hash.
pub(crate) fn bare(hash: &str) -> &str {
    hash.split_once(':').map_or(hash, |(_, digits)| digits)
}

/// Returns a small label, such as `ran` or `within noise`.
pub(crate) fn pill(class: &str, text: &str) -> Element {
    classed("span", &format!("pill {class}")).text(text)
}

/// Returns commands or settings in a box that scrolls.
pub(crate) fn code(label: &str, text: &str) -> Element {
    element("pre")
        .attribute("role", "group")
        .attribute("aria-label", label)
        .attribute("tabindex", 0)
        .child(element("code").text(text))
}

/// Returns notes in small print.
pub(crate) fn notes(notes: impl IntoIterator<Item = String>) -> Element {
    classed("ul", "notes").children(notes.into_iter().map(|note| element("li").text(note)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn different_names_have_different_ids() {
        assert_eq!(id_of("chrf_plus_plus"), "chrf-plus-plus");
        let names = ["a_b", "a.b", "a-b", "a b", "a_2e_b", "a:b", "ab", "a__b", "ā"];
        let ids: BTreeSet<String> = names.iter().map(|name| id_of(name)).collect();
        assert_eq!(ids.len(), names.len(), "{ids:?}");
        assert!(ids.iter().all(|id| !id.contains(char::is_whitespace)), "{ids:?}");
    }
}
