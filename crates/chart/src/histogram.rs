//! A histogram: counts of values in equal intervals.

use crate::drawing::Marker;
use crate::markup::{Element, classed};
use crate::number;
use crate::scale::{Kind, Pixels, Scale};
use crate::series::Range;
use crate::shapes::{Position, Size, figure, label, line, rectangle};

/// Counts of values in intervals of equal width, from 0.
#[derive(Debug, Clone)]
pub struct Histogram {
    /// Name used in element ids.
    pub name: String,
    /// Title for people who cannot see the drawing.
    pub title: String,
    /// Description for people who cannot see the drawing.
    pub description: String,
    /// Label of the horizontal axis.
    pub x_label: String,
    /// Width of an interval.
    pub width: f64,
    /// Counts, from the interval that begins at 0.
    pub counts: Vec<u64>,
    /// Vertical lines, such as a limit.
    pub markers: Vec<Marker>,
}

/// Returns a round interval width for about `bins` intervals up to `longest`, at least 1.
pub fn bin_width(longest: u64, bins: usize) -> u64 {
    let wanted = (longest as f64 / bins.max(1) as f64).max(1.0);
    let power = 10f64.powf(wanted.log10().floor());
    let round = [1.0, 2.0, 5.0, 10.0].into_iter().find(|round| wanted <= round * power * 1.000_001);
    (round.unwrap_or(10.0) * power) as u64
}

/// Counts `values` in intervals of `width` from 0.
pub fn counts(values: impl IntoIterator<Item = u64>, width: u64) -> Vec<u64> {
    let mut counts = Vec::new();
    for value in values {
        let bin = (value / width.max(1)) as usize;
        if bin >= counts.len() {
            counts.resize(bin + 1, 0);
        }
        counts[bin] += 1;
    }
    counts
}

impl Histogram {
    /// Draws the histogram for a page that contains [`PALETTE`](crate::PALETTE) and [`SHEET`](crate::SHEET).
    pub fn draw(&self, size: Size) -> Element {
        let (left, right, top, bottom) = (46.0, size.width - 12.0, 22.0, size.height - 40.0);
        let highest = self.counts.iter().copied().max().unwrap_or(0).max(1) as f64;
        let end = self.counts.len() as f64 * self.width;
        let end = self.markers.iter().map(|marker| marker.x).fold(end, f64::max).max(self.width);
        let x = Scale::new(
            Range { low: 0.0, high: end },
            Kind::Linear,
            Pixels { from: left, to: right },
            ((right - left) / 90.0) as usize,
        );
        let y = Scale::new(
            Range { low: 0.0, high: highest },
            Kind::Rounded,
            Pixels { from: bottom, to: top },
            ((bottom - top) / 48.0) as usize,
        );
        let id = format!("{}-{}", self.name, size.name);
        let mut drawing = figure(size, &id, &self.title, &self.description);
        let mut axes = classed("g", "axes");
        for tick in y.ticks() {
            let at = y.position(tick);
            axes = axes
                .child(line("grid", Position { x: left, y: at }, Position { x: right, y: at }))
                .child(label("end", left - 8.0, at + 4.0).text(y.print(tick, 0)));
        }
        for tick in x.ticks() {
            axes = axes.child(
                label("middle", x.position(tick).min(size.width - 18.0), bottom + 18.0)
                    .text(x.print(tick, 0)),
            );
        }
        axes = axes
            .child(line("axis", Position { x: left, y: bottom }, Position { x: right, y: bottom }))
            .child(label("end", right, size.height - 4.0).text(&self.x_label))
            .child(label("start", 0.0, 10.0).text("rows"));
        drawing = drawing.child(axes);
        for (bin, &count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let from = x.position(bin as f64 * self.width) + 0.5;
            let to = (x.position((bin + 1) as f64 * self.width) - 0.5).max(from + 0.5);
            let corner = Position { x: from, y: y.position(count as f64).min(bottom - 1.0) };
            drawing = drawing.child(rectangle("bar strong", corner, Position { x: to, y: bottom }));
        }
        for marker in &self.markers {
            let at = x.position(marker.x);
            let anchor = if at > size.width / 2.0 { "end" } else { "start" };
            let shift = if anchor == "end" { -6.0 } else { 6.0 };
            drawing = drawing
                .child(line("chosen", Position { x: at, y: top }, Position { x: at, y: bottom }))
                .child(
                    label(anchor, at + shift, top + 10.0)
                        .attribute("class", "chosen-label halo")
                        .text(&marker.label),
                );
        }
        drawing
    }

    /// Returns the intervals with their counts as text, such as `100 to 199` and `12`, without empty ones.
    pub fn rows(&self) -> Vec<[String; 2]> {
        let whole = |value: f64| number::fixed(value, 0);
        let filled = self.counts.iter().enumerate().filter(|(_, count)| **count > 0);
        filled
            .map(|(bin, count)| {
                let from = bin as f64 * self.width;
                let name = if self.width > 1.0 {
                    format!("{} to {}", whole(from), whole(from + self.width - 1.0))
                } else {
                    whole(from)
                };
                [name, number::grouped(&count.to_string())]
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widths_are_round_and_every_value_is_counted() {
        assert_eq!([0, 7, 512, 2048, 100_000].map(|longest| bin_width(longest, 40)), [1, 1, 20, 100, 5000]);
        let found = counts([0, 1, 19, 20, 21, 512], 20);
        assert_eq!(found.iter().sum::<u64>(), 6);
        assert_eq!((found[0], found[1], found[25]), (3, 2, 1));
    }

    #[test]
    fn a_histogram_is_drawn_and_listed() {
        let histogram = Histogram {
            name: "lengths".to_owned(),
            title: "Lengths".to_owned(),
            description: "Rows by length.".to_owned(),
            x_label: "tokens".to_owned(),
            width: 20.0,
            counts: vec![3, 0, 9],
            markers: vec![Marker { x: 512.0, ring: None, label: "context 512".to_owned() }],
        };
        assert_eq!(histogram.rows(), [["0 to 19", "3"], ["40 to 59", "9"]]);
        let text = histogram.draw(Size { name: "wide", width: 450.0, height: 220.0 }).to_string();
        assert!(
            roxmltree::Document::parse(&text).is_ok() && text.matches("bar strong").count() == 2,
            "{text}"
        );
        let empty = Histogram { counts: vec![], markers: vec![], ..histogram };
        assert!(!empty.draw(Size { name: "wide", width: 450.0, height: 220.0 }).to_string().contains("NaN"));
    }
}
