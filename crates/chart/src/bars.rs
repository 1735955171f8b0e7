//! Horizontal bars with intervals, for one score of several models.

use crate::markup::{Element, classed};
use crate::scale::{Kind, Pixels, Scale};
use crate::series::Range;
use crate::shapes::{CHARACTER_WIDTH, Position, Size, figure, fitting, label, line, rectangle, stand_alone};

/// Height of one bar with its gap.
const ROW: f64 = 30.0;
/// Height above the first bar, for the label of the level.
const TOP: f64 = 22.0;
/// Height of the axis below the bars.
const BOTTOM: f64 = 26.0;
/// Space at the right for values.
const VALUES: f64 = 64.0;

/// One bar.
#[derive(Debug, Clone)]
pub struct Bar {
    /// Name at the left.
    pub name: String,
    /// Length of the bar.
    pub value: f64,
    /// Ends of the interval.
    pub interval: Option<[f64; 2]>,
    /// Value at the right.
    pub printed: String,
    /// Whether the bar stands out.
    pub strong: bool,
}

/// Bars of one score.
#[derive(Debug, Clone)]
pub struct Bars {
    /// Name used in element ids.
    pub name: String,
    /// Title for people who cannot see the drawing.
    pub title: String,
    /// Description for people who cannot see the drawing.
    pub description: String,
    /// The bars, from top to bottom; values are not negative.
    pub bars: Vec<Bar>,
    /// A value to compare with, and its label.
    pub floor: Option<(f64, String)>,
}

impl Bars {
    /// Draws the bars for a page that contains [`PALETTE`](crate::PALETTE) and [`SHEET`](crate::SHEET); the height of
    /// `size` is replaced with that of the bars.
    pub fn draw(&self, size: Size) -> Element {
        let size = Size { height: TOP + ROW * self.bars.len() as f64 + BOTTOM, ..size };
        let longest = self.bars.iter().map(|bar| bar.name.chars().count()).max().unwrap_or(0);
        let left = (longest as f64 * CHARACTER_WIDTH + 16.0).clamp(60.0, size.width * 0.45);
        let right = size.width - VALUES;
        let ends = self.bars.iter().flat_map(|bar| bar.interval.into_iter().flatten().chain([bar.value]));
        let ends = ends.chain(self.floor.iter().map(|(floor, _)| *floor)).chain([0.0]);
        let range = Range::of(ends.filter(|end| end.is_finite())).unwrap_or_default();
        let range = Range { low: range.low.min(0.0), high: if range.high > 0.0 { range.high } else { 1.0 } };
        let ticks = ((right - left) / 80.0) as usize;
        let scale = Scale::new(range, Kind::Rounded, Pixels { from: left, to: right }, ticks.max(2));
        let id = format!("{}-{}", self.name, size.name);
        figure(size, &id, &self.title, &self.description)
            .child(axis(&scale, size))
            .children(self.bars.iter().enumerate().map(|(row, bar)| draw(bar, row, &scale, left, size)))
            .children(self.floor.iter().map(|(floor, text)| level(*floor, text, &scale, size)))
    }

    /// Draws the bars as an SVG file.
    pub fn draw_alone(&self, size: Size) -> Element {
        let size = Size { height: TOP + ROW * self.bars.len() as f64 + BOTTOM, ..size };
        stand_alone(self.draw(size), size)
    }
}

fn axis(scale: &Scale, size: Size) -> Element {
    let mut group = classed("g", "axes");
    let bottom = size.height - BOTTOM;
    let exponent = scale.exponent();
    for tick in scale.ticks() {
        let x = scale.position(tick);
        let [top, end] = [TOP - 4.0, bottom].map(|y| Position { x, y });
        group = group
            .child(line("grid", top, end))
            .child(label("middle", x, bottom + 16.0).text(scale.print(tick, exponent)));
    }
    group
}

fn level(floor: f64, text: &str, scale: &Scale, size: Size) -> Element {
    let x = scale.position(floor);
    let [top, end] = [TOP - 6.0, size.height - BOTTOM].map(|y| Position { x, y });
    let anchor = if x > size.width / 2.0 { "end" } else { "start" };
    classed("g", "level")
        .child(line("reference", top, end))
        .child(label(anchor, x, TOP - 10.0).attribute("class", "reference-label").text(text))
}

fn draw(bar: &Bar, row: usize, scale: &Scale, left: f64, size: Size) -> Element {
    let top = TOP + ROW * row as f64;
    let middle = top + ROW / 2.0;
    let from = Position { x: scale.position(0.0), y: top + 6.0 };
    let to = Position { x: scale.position(bar.value), y: top + ROW - 6.0 };
    let class = if bar.strong { "bar strong" } else { "bar" };
    let mut group = classed("g", "row")
        .child(
            label("end", left - 10.0, middle + 4.0)
                .attribute("class", "name")
                .text(fitting(&bar.name, left - 10.0)),
        )
        .child(rectangle(class, from, to));
    if let Some([low, high]) = bar.interval {
        let [low, high] = [low, high].map(|end| scale.position(end));
        let at = |x: f64, shift: f64| Position { x, y: middle + shift };
        group = group
            .child(line("halo whisker", at(low, 0.0), at(high, 0.0)))
            .child(line("whisker", at(low, 0.0), at(high, 0.0)))
            .child(line("whisker", at(low, -4.0), at(low, 4.0)))
            .child(line("whisker", at(high, -4.0), at(high, 4.0)));
    }
    group.child(
        label("end", size.width, middle + 4.0)
            .attribute("class", if bar.strong { "figure strong" } else { "figure" })
            .text(&bar.printed),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(name: &str, value: f64, interval: Option<[f64; 2]>) -> Bar {
        Bar {
            name: name.to_owned(),
            value,
            interval,
            printed: format!("{value:.1}"),
            strong: name == "fused",
        }
    }

    #[test]
    fn bars_begin_at_zero_and_intervals_stay_inside() {
        let bars = vec![bar("base", 17.0, Some([12.0, 21.5])), bar("fused", 64.1, Some([40.0, 88.0]))];
        let chart = Bars {
            name: "chrf".to_owned(),
            title: "chrF".to_owned(),
            description: "17.0 for <base>, 64.1 for fused.".to_owned(),
            bars,
            floor: Some((9.5, "floor 9.5".to_owned())),
        };
        let text = chart.draw_alone(Size { name: "wide", width: 450.0, height: 0.0 }).to_string();
        let parsed = roxmltree::Document::parse(&text).expect("well-formed");
        let rows: Vec<f64> = parsed
            .descendants()
            .filter(|node| node.attribute("class").is_some_and(|class| class.starts_with("bar")))
            .map(|node| node.attribute("x").and_then(|x| x.parse().ok()).expect("a number"))
            .collect();
        assert_eq!(rows, [60.0, 60.0]);
        let ends = parsed.descendants().filter_map(|node| node.attribute("x2")?.parse::<f64>().ok());
        assert!(ends.into_iter().all(|x| x <= 450.0));
    }

    #[test]
    fn an_interval_below_zero_stays_right_of_the_names() {
        let chart = Bars {
            name: "similarity".to_owned(),
            title: String::new(),
            description: String::new(),
            bars: vec![bar("base", 0.1, Some([-0.4, 0.5])), bar("fused", 0.6, Some([0.5, 0.7]))],
            floor: None,
        };
        let text = chart.draw_alone(Size { name: "wide", width: 450.0, height: 0.0 }).to_string();
        let parsed = roxmltree::Document::parse(&text).expect("well-formed");
        let whiskers = parsed.descendants().filter(|node| node.attribute("class") == Some("whisker"));
        let starts = whiskers.filter_map(|node| node.attribute("x1")?.parse::<f64>().ok());
        let first = starts.fold(f64::MAX, f64::min);
        assert!((60.0..450.0).contains(&first), "the first whisker begins at {first}");
    }

    #[test]
    fn no_bars_and_zeros_are_still_drawn() {
        for bars in [vec![], vec![bar("base", 0.0, None)]] {
            let chart = Bars {
                name: "empty".to_owned(),
                title: String::new(),
                description: String::new(),
                bars,
                floor: None,
            };
            let text = chart.draw_alone(Size { name: "wide", width: 450.0, height: 0.0 }).to_string();
            assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
        }
    }
}
