//! Parallel coordinates: each line is one run, each axis one setting or score.

use crate::drawing::HUES;
use crate::markup::{Element, classed, element};
use crate::shapes::{Position, Size, figure, fitting, label, line, short};

/// One vertical axis.
#[derive(Debug, Clone)]
pub struct ParallelAxis {
    /// Name above the axis.
    pub name: String,
    /// Labels with their heights, from 0 at the bottom to 1 at the top.
    pub ticks: Vec<(f64, String)>,
}

/// One run.
#[derive(Debug, Clone)]
pub struct ParallelLine {
    /// Number of its colour.
    pub hue: usize,
    /// Height on each axis, from 0 to 1; `None` where the run has no value.
    pub heights: Vec<Option<f64>>,
}

/// Runs over several axes.
#[derive(Debug, Clone)]
pub struct Parallel {
    /// Name used in element ids.
    pub name: String,
    /// Title for people who cannot see the drawing.
    pub title: String,
    /// Description for people who cannot see the drawing.
    pub description: String,
    /// The axes, from left to right.
    pub axes: Vec<ParallelAxis>,
    /// The runs, the last one on top.
    pub lines: Vec<ParallelLine>,
}

impl Parallel {
    /// Draws the axes side by side, for a page that contains [`PALETTE`](crate::PALETTE) and [`SHEET`](crate::SHEET).
    pub fn draw(&self, size: Size) -> Element {
        let gap = size.width / self.axes.len().max(1) as f64;
        let (top, bottom) = (40.0, size.height - 14.0);
        let x = |axis: usize| gap * (axis as f64 + 0.5);
        let y = |height: f64| bottom - height.clamp(0.0, 1.0) * (bottom - top);
        let id = format!("{}-{}", self.name, size.name);
        let mut drawing = figure(size, &id, &self.title, &self.description);
        for (at, axis) in self.axes.iter().enumerate() {
            let x = x(at);
            // Every second name is higher, so that long ones do not touch.
            let row = if at % 2 == 0 { 12.0 } else { 28.0 };
            drawing = drawing.child(line("axis", Position { x, y: top }, Position { x, y: bottom })).child(
                label("middle", x, row).attribute("class", "name").text(fitting(&axis.name, gap * 1.9)),
            );
        }
        for run in &self.lines {
            drawing = drawing.child(path(run, &x, &y));
        }
        for (at, axis) in self.axes.iter().enumerate() {
            for (height, text) in &axis.ticks {
                let text = fitting(text, gap - 12.0);
                let tick = label("start", x(at) + 6.0, y(*height) + 4.0).attribute("class", "halo");
                drawing = drawing.child(tick.text(text));
            }
        }
        drawing
    }
}

/// Draws a run as one path, with gaps where it has no value.
fn path(run: &ParallelLine, x: &dyn Fn(usize) -> f64, y: &dyn Fn(f64) -> f64) -> Element {
    let class = format!("hue{}", run.hue % HUES);
    let (mut path, mut group, mut drawn) = (String::new(), classed("g", "run"), false);
    for (at, height) in run.heights.iter().enumerate() {
        let Some(height) = height else {
            drawn = false;
            continue;
        };
        let (x, y) = (short(x(at)), short(y(*height)));
        path.extend([if drawn { "L" } else { "M" }, &x.to_string(), " ", &y.to_string()]);
        group = group.child(
            classed("circle", &format!("point {class}"))
                .attribute("cx", x)
                .attribute("cy", y)
                .attribute("r", 3.5),
        );
        drawn = true;
    }
    group.child(element("path").attribute("class", format!("line {class}")).attribute("d", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_value_breaks_the_line() {
        let axis = |name: &str| ParallelAxis {
            name: name.to_owned(),
            ticks: vec![(0.0, "0".to_owned()), (1.0, "<1>".to_owned())],
        };
        let parallel = Parallel {
            name: "settings".to_owned(),
            title: "Settings".to_owned(),
            description: "Two runs.".to_owned(),
            axes: vec![axis("rank"), axis("rate"), axis("loss"), axis("chrF")],
            lines: vec![ParallelLine { hue: 9, heights: vec![Some(0.0), Some(1.0), None, Some(0.5)] }],
        };
        let text = parallel.draw(Size { name: "wide", width: 800.0, height: 300.0 }).to_string();
        assert!(text.contains("d=\"M100 286L300 40M700 163\"") && text.contains("line hue1"), "{text}");
        assert!(roxmltree::Document::parse(&text).is_ok());
    }
}
