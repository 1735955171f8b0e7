//! The parts that drawings are made of: lines, dots, labels, and the frame with its text alternative.

use crate::markup::{Element, classed, element};
use crate::style::{PALETTE, SHEET};

/// Mean advance of a character at 12 px: accurate enough to place texts side by side.
pub(crate) const CHARACTER_WIDTH: f64 = 6.5;

/// Width and height of a drawing, in CSS pixels.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Class of the drawing, and part of its element ids.
    pub name: &'static str,
    /// Width in CSS pixels.
    pub width: f64,
    /// Height in CSS pixels.
    pub height: f64,
}

/// A position in the drawing, in CSS pixels.
#[derive(Clone, Copy)]
pub(crate) struct Position {
    pub(crate) x: f64,
    pub(crate) y: f64,
}

/// Starts a drawing with its title and description for people who cannot see it.
pub(crate) fn figure(size: Size, id: &str, title: &str, description: &str) -> Element {
    element("svg")
        .attribute("class", format!("chart {}", size.name))
        .attribute("viewBox", format!("0 0 {} {}", size.width, size.height))
        .attribute("role", "img")
        .attribute("aria-labelledby", format!("{id}-title {id}-description"))
        .child(element("title").attribute("id", format!("{id}-title")).text(title))
        .child(element("desc").attribute("id", format!("{id}-description")).text(description))
}

/// Makes a drawing an SVG file.
pub(crate) fn stand_alone(drawing: Element, size: Size) -> Element {
    let style = element("style").style(PALETTE).style(SHEET);
    let panel = classed("rect", "panel").attribute("width", "100%").attribute("height", "100%");
    element("svg")
        .attribute("xmlns", "http://www.w3.org/2000/svg")
        .attribute("viewBox", format!("0 0 {} {}", size.width, size.height))
        .child(style)
        .child(panel)
        .child(drawing)
}

/// Returns a filled rectangle between two corners.
pub(crate) fn rectangle(class: &str, corner: Position, other: Position) -> Element {
    classed("rect", class)
        .attribute("x", short(corner.x.min(other.x)))
        .attribute("y", short(corner.y.min(other.y)))
        .attribute("width", short((corner.x - other.x).abs()))
        .attribute("height", short((corner.y - other.y).abs()))
}

/// Cuts a text for a drawing to about `width` CSS pixels, with an ellipsis.
pub(crate) fn fitting(text: &str, width: f64) -> String {
    let most = (width / CHARACTER_WIDTH) as usize;
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}

pub(crate) fn line(class: &str, from: Position, to: Position) -> Element {
    classed("line", class)
        .attribute("x1", short(from.x))
        .attribute("y1", short(from.y))
        .attribute("x2", short(to.x))
        .attribute("y2", short(to.y))
}

pub(crate) fn circle(class: &str, center: Position, radius: f64) -> Element {
    classed("circle", class)
        .attribute("cx", short(center.x))
        .attribute("cy", short(center.y))
        .attribute("r", radius)
}

pub(crate) fn label(anchor: &str, x: f64, y: f64) -> Element {
    element("text").attribute("x", short(x)).attribute("y", short(y)).attribute("text-anchor", anchor)
}

/// Rounds to a tenth of a pixel, and -0 to 0.
pub(crate) fn short(value: f64) -> f64 {
    (value * 10.0).round() / 10.0 + 0.0
}
