//! Line charts as SVG, drawn once for a wide page and once for a phone.

use crate::html::{Element, classed, element};
use crate::number;
use crate::scale::Scale;
use crate::series::Point;

const PALETTE: &str = include_str!("style/palette.css");
const SHEET: &str = include_str!("style/chart.css");
/// Mean advance of a character at 12 px: enough to place legend entries side by side.
const CHARACTER_WIDTH: f64 = 6.5;
const LEGEND_LINE: f64 = 20.0;

/// How a series is drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark {
    /// A thin, pale line.
    Raw,
    /// A strong line.
    Smooth,
    /// Filled dots joined by a line.
    Check,
    /// Small hollow dots.
    Hollow,
}

/// Points with a name and a look.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    pub(crate) name: String,
    pub(crate) mark: Mark,
    pub(crate) points: Vec<Point>,
}

/// What a chart shows.
#[derive(Debug, Clone)]
pub(crate) struct Chart {
    /// Used in ids and file names.
    pub(crate) name: &'static str,
    pub(crate) title: String,
    pub(crate) description: String,
    pub(crate) x_label: String,
    pub(crate) y_label: String,
    pub(crate) series: Vec<Series>,
    /// Level to compare with, and its label.
    pub(crate) reference: Option<(f64, String)>,
    /// Point to point at, and its label.
    pub(crate) chosen: Option<(Point, String)>,
    /// Range of the vertical axis before rounding; lines are cut off outside it.
    pub(crate) y_range: (f64, f64),
}

/// Width and height of a drawing, in CSS pixels.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    /// Tells apart the drawings of one chart.
    pub(crate) name: &'static str,
    pub(crate) width: f64,
    pub(crate) height: f64,
}

struct Frame {
    x: Scale,
    y: Scale,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Chart {
    /// Draws the chart as a part of the page, which brings the colours.
    pub(crate) fn draw(&self, size: Size) -> Element {
        let (legend, legend_height) = self.legend(size);
        let frame = self.frame(size, legend_height);
        let id = format!("{}-{}", self.name, size.name);
        element("svg")
            .attribute("class", format!("chart {}", size.name))
            .attribute("viewBox", format!("0 0 {} {}", size.width, size.height))
            .attribute("role", "img")
            .attribute("aria-labelledby", format!("{id}-title {id}-description"))
            .child(element("title").attribute("id", format!("{id}-title")).text(&self.title))
            .child(element("desc").attribute("id", format!("{id}-description")).text(&self.description))
            .child(clip(&frame, &id))
            .child(legend)
            .child(self.axes(&frame, size))
            .child(self.marks(&frame, &id))
            .children(self.notes(&frame))
    }

    /// Draws the chart as a file of its own.
    pub(crate) fn draw_alone(&self, size: Size) -> Element {
        let drawing = self.draw(size);
        let style = element("style").style(PALETTE).style(SHEET);
        let panel = classed("rect", "panel").attribute("width", "100%").attribute("height", "100%");
        element("svg")
            .attribute("xmlns", "http://www.w3.org/2000/svg")
            .attribute("viewBox", format!("0 0 {} {}", size.width, size.height))
            .child(style)
            .child(panel)
            .child(drawing)
    }

    fn frame(&self, size: Size, legend_height: f64) -> Frame {
        let (left, right) = (46.0, size.width - 12.0);
        let (top, bottom) = (legend_height + 36.0, size.height - 40.0);
        let steps = self.series.iter().flat_map(|series| series.points.iter().map(|&(x, _)| x));
        let (first, last) = steps.fold((f64::MAX, f64::MIN), |(a, b), x| (a.min(x), b.max(x)));
        let range = if first <= last { (first.min(0.0), last) } else { (0.0, 1.0) };
        let marks = ((right - left) / 90.0) as usize;
        Frame {
            x: Scale::new(range, false, (left, right), marks),
            y: Scale::new(self.y_range, true, (bottom, top), ((bottom - top) / 48.0) as usize),
            left,
            right,
            top,
            bottom,
        }
    }

    fn legend(&self, size: Size) -> (Element, f64) {
        let mut group = classed("g", "legend");
        let (mut x, mut y) = (0.0, 12.0);
        if self.series.len() < 2 {
            return (group, 0.0);
        }
        for series in self.series.iter().filter(|series| !series.points.is_empty()) {
            let width = 30.0 + series.name.chars().count() as f64 * CHARACTER_WIDTH;
            if x > 0.0 && x + width > size.width {
                (x, y) = (0.0, y + LEGEND_LINE);
            }
            group = group.child(sample(series.mark, x, y - 4.0)).child(
                element("text").attribute("x", short(x + 24.0)).attribute("y", short(y)).text(&series.name),
            );
            x += width + 14.0;
        }
        (group, y + 6.0)
    }

    fn axes(&self, frame: &Frame, size: Size) -> Element {
        let mut group = classed("g", "axes");
        let exponent = frame.y.exponent();
        for mark in frame.y.marks() {
            let y = frame.y.place(mark);
            group = group
                .child(line("grid", (frame.left, y), (frame.right, y)))
                .child(label("end", frame.left - 8.0, y + 4.0).text(frame.y.print(mark, exponent)));
        }
        for mark in frame.x.marks() {
            let x = frame.x.place(mark);
            group = group.child(line("axis", (x, frame.bottom), (x, frame.bottom + 4.0))).child(
                label("middle", x.min(size.width - 18.0), frame.bottom + 18.0).text(frame.x.print(mark, 0)),
            );
        }
        let power = format!("×10{}", number::superscript(&exponent.to_string()));
        let unit = match (exponent, self.y_label.as_str()) {
            (0, label) => label.to_owned(),
            (_, "") => power,
            (_, label) => format!("{label}, {power}"),
        };
        group
            .child(line("axis", (frame.left, frame.bottom), (frame.right, frame.bottom)))
            .child(label("start", 0.0, frame.top - 17.0).text(unit))
            .child(label("end", frame.right, size.height - 4.0).text(&self.x_label))
    }

    fn marks(&self, frame: &Frame, id: &str) -> Element {
        let mut group = element("g").attribute("clip-path", format!("url(#{id}-clip)"));
        if let Some((level, _)) = &self.reference {
            let y = frame.y.place(*level);
            group = group.child(line("reference", (frame.left, y), (frame.right, y)));
        }
        for series in &self.series {
            if series.mark != Mark::Hollow {
                group = group.child(curve(series, frame));
            }
            if matches!(series.mark, Mark::Check | Mark::Hollow) {
                let look = if series.mark == Mark::Check { ("dot", 4.0) } else { ("dot hollow", 2.5) };
                group = group
                    .children(series.points.iter().map(|point| circle(look.0, frame.at(*point), look.1)));
            }
        }
        if let Some((point, _)) = &self.chosen {
            let (x, y) = frame.at(*point);
            group = group.child(line("chosen", (x, frame.top), (x, frame.bottom))).child(circle(
                "ring",
                (x, y),
                7.0,
            ));
        }
        group
    }

    fn notes(&self, frame: &Frame) -> Vec<Element> {
        let mut notes = Vec::new();
        if let Some((level, text)) = &self.reference {
            let y = (frame.y.place(*level) - 6.0).max(frame.top + 8.0);
            let note = label("end", frame.right - 2.0, y).attribute("class", "reference-label halo");
            notes.push(note.text(text));
        }
        if let Some((point, text)) = &self.chosen {
            let (x, _) = frame.at(*point);
            let middle = f64::midpoint(frame.left, frame.right);
            let (anchor, shift) = if x > middle { ("end", -8.0) } else { ("start", 8.0) };
            let note = label(anchor, x + shift, frame.bottom - 10.0).attribute("class", "chosen-label halo");
            notes.push(note.text(text));
        }
        notes
    }
}

impl Frame {
    fn at(&self, (x, y): Point) -> (f64, f64) {
        (self.x.place(x), self.y.place(y))
    }
}

fn clip(frame: &Frame, id: &str) -> Element {
    // A little wider than the frame, so that dots on its edge stay whole.
    let rectangle = element("rect")
        .attribute("x", short(frame.left - 6.0))
        .attribute("y", short(frame.top - 6.0))
        .attribute("width", short(frame.right - frame.left + 12.0))
        .attribute("height", short(frame.bottom - frame.top + 6.0));
    element("clipPath").attribute("id", format!("{id}-clip")).child(rectangle)
}

fn sample(mark: Mark, x: f64, y: f64) -> Element {
    match mark {
        Mark::Raw => line("raw", (x, y), (x + 18.0, y)),
        Mark::Smooth => line("smooth", (x, y), (x + 18.0, y)),
        Mark::Check => {
            element("g").child(line("check", (x, y), (x + 18.0, y))).child(circle("dot", (x + 9.0, y), 4.0))
        }
        Mark::Hollow => circle("dot hollow", (x + 9.0, y), 2.5),
    }
}

fn curve(series: &Series, frame: &Frame) -> Element {
    let class = match series.mark {
        Mark::Raw => "line raw",
        Mark::Smooth => "line smooth",
        Mark::Check | Mark::Hollow => "line check",
    };
    let draw = |(place, &point): (usize, &Point)| {
        let (x, y) = frame.at(point);
        format!("{}{} {}", if place == 0 { 'M' } else { 'L' }, short(x), short(y))
    };
    let path: String = series.points.iter().enumerate().map(draw).collect();
    classed("path", class).attribute("d", path)
}

fn line(class: &str, from: (f64, f64), to: (f64, f64)) -> Element {
    classed("line", class)
        .attribute("x1", short(from.0))
        .attribute("y1", short(from.1))
        .attribute("x2", short(to.0))
        .attribute("y2", short(to.1))
}

fn circle(class: &str, (x, y): (f64, f64), radius: f64) -> Element {
    classed("circle", class).attribute("cx", short(x)).attribute("cy", short(y)).attribute("r", radius)
}

fn label(anchor: &str, x: f64, y: f64) -> Element {
    element("text").attribute("x", short(x)).attribute("y", short(y)).attribute("text-anchor", anchor)
}

/// A tenth of a pixel is as fine as anyone can see.
fn short(value: f64) -> f64 {
    let rounded = (value * 10.0).round() / 10.0;
    // Never `-0`.
    rounded + 0.0
}
