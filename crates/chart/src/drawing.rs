//! Drawing a chart, for a page or as a file.

use crate::markup::{Element, classed, element};
use crate::number;
use crate::scale::{Kind, Pixels, Scale};
use crate::series::{Point, Range};
use crate::shapes::{CHARACTER_WIDTH, Position, Size, circle, figure, label, line, short, stand_alone};

/// Distance between two lines of the legend.
const LEGEND_LINE: f64 = 20.0;
/// Number of colours of lines that are compared.
pub const HUES: usize = 8;
/// Distance between the labels of two markers.
const MARKER_LINE: f64 = 18.0;
/// Rates on the axis of a logarithmic chart without points.
const EMPTY_RATES: Range = Range { low: 1e-6, high: 1.0 };

/// Look of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// A thin, pale line.
    Pale,
    /// A strong line.
    Strong,
    /// Filled dots joined by a line.
    Dots,
    /// Small hollow dots.
    Hollow,
    /// A line in one of [`HUES`](crate::HUES) colours, each with its own dashes.
    Hue(usize),
}

/// Points with a name and a look.
#[derive(Debug, Clone)]
pub struct Series {
    /// Name in the legend.
    pub name: String,
    /// Look of the points.
    pub look: Look,
    /// The points, by `x`.
    pub points: Vec<Point>,
}

/// The horizontal axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Horizontal {
    /// Linear, and includes 0.
    Linear,
    /// Logarithmic; all values are positive.
    Logarithmic,
}

/// A horizontal line to compare with.
#[derive(Debug, Clone)]
pub struct Level {
    /// Where the line crosses the vertical axis.
    pub y: f64,
    /// Text above its right end.
    pub label: String,
}

/// A vertical line.
#[derive(Debug, Clone)]
pub struct Marker {
    /// Where the line crosses the horizontal axis.
    pub x: f64,
    /// Height of a ring on the line, if it points at a value.
    pub ring: Option<f64>,
    /// Text beside the line.
    pub label: String,
}

/// A line chart.
#[derive(Debug, Clone)]
pub struct Chart {
    /// Name used in element ids and in file names.
    pub name: &'static str,
    /// Title for people who cannot see the drawing; not drawn.
    pub title: String,
    /// Description for people who cannot see the drawing.
    pub description: String,
    /// Kind of the horizontal axis.
    pub horizontal: Horizontal,
    /// Label of the horizontal axis.
    pub x_label: String,
    /// Label of the vertical axis.
    pub y_label: String,
    /// Range of the vertical axis before rounding; lines are cut off outside it.
    pub y_range: Range,
    /// Curves, the last one on top.
    pub series: Vec<Series>,
    /// A level to compare with.
    pub level: Option<Level>,
    /// Vertical lines.
    pub markers: Vec<Marker>,
}

/// Axes and edges of the area inside them.
struct Frame {
    x: Scale,
    y: Scale,
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

/// The legend, with the height it needs.
struct Legend {
    element: Element,
    height: f64,
}

impl Chart {
    /// Draws the chart for a page that contains [`PALETTE`] and [`SHEET`].
    pub fn draw(&self, size: Size) -> Element {
        let legend = self.legend(size);
        let frame = self.frame(size, legend.height);
        let id = format!("{}-{}", self.name, size.name);
        figure(size, &id, &self.title, &self.description)
            .child(clip(&frame, &id))
            .child(legend.element)
            .child(self.axes(&frame, size))
            .child(self.curves(&frame, &id))
            .children(self.labels(&frame))
    }

    /// Draws the chart as an SVG file.
    pub fn draw_alone(&self, size: Size) -> Element {
        stand_alone(self.draw(size), size)
    }

    fn frame(&self, size: Size, legend_height: f64) -> Frame {
        let (left, right) = (46.0, size.width - 12.0);
        let (top, bottom) = (legend_height + 36.0, size.height - 40.0);
        let x_values = self.series.iter().flat_map(|series| series.points.iter().map(|point| point.x));
        let x_values = Range::of(x_values);
        let (kind, x_range) = match self.horizontal {
            Horizontal::Linear => (
                Kind::Linear,
                x_values.map_or(Range::default(), |range| Range { low: range.low.min(0.0), ..range }),
            ),
            Horizontal::Logarithmic => (Kind::Logarithmic, x_values.unwrap_or(EMPTY_RATES)),
        };
        let x_ticks = ((right - left) / 90.0) as usize;
        let y_ticks = ((bottom - top) / 48.0) as usize;
        Frame {
            x: Scale::new(x_range, kind, Pixels { from: left, to: right }, x_ticks),
            y: Scale::new(self.y_range, Kind::Rounded, Pixels { from: bottom, to: top }, y_ticks),
            left,
            right,
            top,
            bottom,
        }
    }

    fn legend(&self, size: Size) -> Legend {
        let mut group = classed("g", "legend");
        let (mut x, mut y) = (0.0, 12.0);
        if self.series.len() < 2 {
            return Legend { element: group, height: 0.0 };
        }
        for series in self.series.iter().filter(|series| !series.points.is_empty()) {
            let width = 30.0 + series.name.chars().count() as f64 * CHARACTER_WIDTH;
            if x > 0.0 && x + width > size.width {
                (x, y) = (0.0, y + LEGEND_LINE);
            }
            group = group.child(sample(series.look, Position { x, y: y - 4.0 })).child(
                element("text").attribute("x", short(x + 24.0)).attribute("y", short(y)).text(&series.name),
            );
            x += width + 14.0;
        }
        Legend { element: group, height: y + 6.0 }
    }

    fn axes(&self, frame: &Frame, size: Size) -> Element {
        let mut group = classed("g", "axes");
        let exponent = frame.y.exponent();
        for tick in frame.y.ticks() {
            let y = frame.y.position(tick);
            group = group
                .child(line("grid", Position { x: frame.left, y }, Position { x: frame.right, y }))
                .child(label("end", frame.left - 8.0, y + 4.0).text(frame.y.print(tick, exponent)));
        }
        for tick in frame.x.ticks() {
            let (x, y) = (frame.x.position(tick), frame.bottom);
            group = group
                .child(line("axis", Position { x, y }, Position { x, y: y + 4.0 }))
                .child(label("middle", x.min(size.width - 18.0), y + 18.0).text(frame.x.print(tick, 0)));
        }
        let power = format!("×10{}", number::superscript(&exponent.to_string()));
        let unit = match (exponent, self.y_label.as_str()) {
            (0, label) => label.to_owned(),
            (_, "") => power,
            (_, label) => format!("{label}, {power}"),
        };
        let start = Position { x: frame.left, y: frame.bottom };
        group
            .child(line("axis", start, Position { x: frame.right, ..start }))
            .child(label("start", 0.0, frame.top - 17.0).text(unit))
            .child(label("end", frame.right, size.height - 4.0).text(&self.x_label))
    }

    fn curves(&self, frame: &Frame, id: &str) -> Element {
        let mut group = element("g").attribute("clip-path", format!("url(#{id}-clip)"));
        if let Some(level) = &self.level {
            let y = frame.y.position(level.y);
            let (left, right) = (Position { x: frame.left, y }, Position { x: frame.right, y });
            group = group.child(line("reference", left, right));
        }
        for series in &self.series {
            if series.look != Look::Hollow {
                group = group.child(curve(series, frame));
            }
            let dots = series.points.iter().map(|point| frame.position(*point));
            group = match series.look {
                Look::Pale | Look::Strong | Look::Hue(_) => group,
                Look::Dots => group.children(dots.map(|dot| circle("dot", dot, 4.0))),
                Look::Hollow => group.children(dots.map(|dot| circle("dot hollow", dot, 2.5))),
            };
        }
        for marker in &self.markers {
            let x = frame.x.position(marker.x);
            group =
                group.child(line("chosen", Position { x, y: frame.top }, Position { x, y: frame.bottom }));
            if let Some(ring) = marker.ring {
                group = group.child(circle("ring", Position { x, y: frame.y.position(ring) }, 7.0));
            }
        }
        group
    }

    fn labels(&self, frame: &Frame) -> Vec<Element> {
        let mut labels = Vec::new();
        if let Some(level) = &self.level {
            let y = (frame.y.position(level.y) - 6.0).max(frame.top + 8.0);
            let text = label("end", frame.right - 2.0, y).attribute("class", "reference-label halo");
            labels.push(text.text(&level.label));
        }
        let mut y = frame.bottom - 10.0;
        for marker in &self.markers {
            let x = frame.x.position(marker.x);
            let middle = f64::midpoint(frame.left, frame.right);
            let (anchor, shift) = if x > middle { ("end", -8.0) } else { ("start", 8.0) };
            let text = label(anchor, x + shift, y).attribute("class", "chosen-label halo");
            labels.push(text.text(&marker.label));
            y -= MARKER_LINE;
        }
        labels
    }
}

impl Frame {
    fn position(&self, point: Point) -> Position {
        Position { x: self.x.position(point.x), y: self.y.position(point.y) }
    }
}

fn clip(frame: &Frame, id: &str) -> Element {
    // A little wider than the frame, so that dots on its edge are not cut.
    let rectangle = element("rect")
        .attribute("x", short(frame.left - 6.0))
        .attribute("y", short(frame.top - 6.0))
        .attribute("width", short(frame.right - frame.left + 12.0))
        .attribute("height", short(frame.bottom - frame.top + 6.0));
    element("clipPath").attribute("id", format!("{id}-clip")).child(rectangle)
}

/// Draws the sample of a look that is shown in the legend.
fn sample(look: Look, left: Position) -> Element {
    let right = Position { x: left.x + 18.0, ..left };
    let middle = Position { x: left.x + 9.0, ..left };
    match look {
        Look::Pale => line("raw", left, right),
        Look::Strong => line("smooth", left, right),
        Look::Dots => element("g").child(line("check", left, right)).child(circle("dot", middle, 4.0)),
        Look::Hollow => circle("dot hollow", middle, 2.5),
        Look::Hue(hue) => line(&format!("line hue{}", hue % HUES), left, right),
    }
}

fn curve(series: &Series, frame: &Frame) -> Element {
    let class = match series.look {
        Look::Pale => "line raw".to_owned(),
        Look::Strong => "line smooth".to_owned(),
        Look::Dots | Look::Hollow => "line check".to_owned(),
        Look::Hue(hue) => format!("line hue{}", hue % HUES),
    };
    let draw = |(index, point): (usize, &Point)| {
        let Position { x, y } = frame.position(*point);
        let command = if index == 0 { 'M' } else { 'L' };
        format!("{command}{} {}", short(x), short(y))
    };
    let path: String = series.points.iter().enumerate().map(draw).collect();
    classed("path", &class).attribute("d", path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(points: Vec<Point>) -> Chart {
        Chart {
            name: "rates",
            title: "Loss over learning rate".to_owned(),
            description: "A ramp.".to_owned(),
            horizontal: Horizontal::Logarithmic,
            x_label: "learning rate".to_owned(),
            y_label: "training loss".to_owned(),
            y_range: Range::of_values(&points).unwrap_or_default(),
            series: vec![Series { name: "loss".to_owned(), look: Look::Strong, points }],
            level: None,
            markers: vec![
                Marker { x: 1e-4, ring: Some(3.0), label: "1e-4 suggested".to_owned() },
                Marker { x: 1e-2, ring: None, label: "<diverges>".to_owned() },
            ],
        }
    }

    const SIZE: Size = Size { name: "wide", width: 760.0, height: 420.0 };

    #[test]
    fn a_drawing_is_well_formed_and_marks_what_it_should() {
        let drawing = rates(vec![Point::new(1e-5, 4.0), Point::new(1e-4, 3.0), Point::new(1e-2, 9.0)]);
        let text = drawing.draw_alone(SIZE).to_string();
        let parsed = roxmltree::Document::parse(&text).expect("well-formed");
        let texts =
            parsed.descendants().filter(|node| node.has_tag_name(("http://www.w3.org/2000/svg", "text")));
        let texts: Vec<&str> = texts.filter_map(|node| node.text()).collect();
        insta::assert_snapshot!(texts.join(" | "), @"3 | 4 | 5 | 6 | 7 | 8 | 9 | 10⁻⁵ | 10⁻⁴ | 10⁻³ | 10⁻² | training loss | learning rate | 1e-4 suggested | <diverges>");
        assert!(text.contains("M46 322.7L280 380L748 36"), "{text}");
    }

    #[test]
    fn a_chart_without_points_is_still_drawn() {
        for horizontal in [Horizontal::Linear, Horizontal::Logarithmic] {
            let text = Chart { horizontal, ..rates(Vec::new()) }.draw_alone(SIZE).to_string();
            assert!(roxmltree::Document::parse(&text).is_ok());
            assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        }
    }
}
