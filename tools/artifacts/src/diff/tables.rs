//! Differences as text and as Markdown.

use std::fmt::Write as _;

use artifact::{Artifact, Change};

use super::{Difference, FileChange, Metric};
use crate::text::{self, Align, Table, escape};

/// Longest value of a setting that is shown whole, in characters.
const VALUE_WIDTH: usize = 60;
/// Number of changed files that are listed in text.
const LISTED_FILES: usize = 40;

/// Formats the differences for a terminal.
pub(super) fn text(difference: &Difference) -> String {
    let mut output = format!("A  {}\nB  {}\n", name(&difference.old), name(&difference.new));
    if difference.old.tree() == difference.new.tree() {
        output.push_str("the data is identical\n");
    }
    for (title, table) in sections(difference) {
        if !table.is_empty() {
            write!(output, "\n{title}\n{}", table.text()).expect("writing to a string succeeds");
        }
    }
    output.push_str(&omitted(difference).map(|line| format!("{line}\n")).unwrap_or_default());
    output
}

/// Formats the differences as Markdown.
pub(super) fn markdown(difference: &Difference) -> String {
    let mut output = format!("- A: `{}`\n- B: `{}`\n", name(&difference.old), name(&difference.new));
    if difference.old.tree() == difference.new.tree() {
        output.push_str("\nThe data is identical.\n");
    }
    for (title, table) in sections(difference) {
        if !table.is_empty() {
            write!(output, "\n### {title}\n\n{}", table.markdown()).expect("writing to a string succeeds");
        }
    }
    output.push_str(&omitted(difference).map(|line| format!("\n{line}\n")).unwrap_or_default());
    output
}

fn omitted(difference: &Difference) -> Option<String> {
    let more = difference.files.len().checked_sub(LISTED_FILES).filter(|more| *more > 0)?;
    Some(format!("and {} (--format json lists them)", text::count(more, "more file")))
}

fn name(artifact: &Artifact) -> String {
    escape(&artifact.path().display().to_string())
}

fn sections(difference: &Difference) -> [(&'static str, Table); 4] {
    let values = [("name", Align::Left), ("A", Align::Left), ("B", Align::Left)];
    let mut settings = Table::new(&values);
    for change in &difference.settings {
        settings.row(change_cells(change));
    }
    let mut inputs = Table::new(&values);
    for change in &difference.inputs {
        inputs.row(change_cells(change));
    }
    let confidence = difference.metrics.iter().find_map(|metric| Some(metric.interval?.confidence));
    let interval =
        confidence.map_or_else(String::new, |found| format!("{}% interval", text::number(100.0 * found)));
    let columns = [
        ("name", Align::Left),
        ("A", Align::Right),
        ("B", Align::Right),
        ("B − A", Align::Right),
        (interval.as_str(), Align::Left),
    ];
    let mut metrics = Table::new(&columns);
    for metric in &difference.metrics {
        metrics.row(metric_cells(metric));
    }
    let columns = [("file", Align::Left), ("change", Align::Left), ("A", Align::Right), ("B", Align::Right)];
    let mut files = Table::new(&columns);
    for file in difference.files.iter().take(LISTED_FILES) {
        files.row(file_cells(file));
    }
    [("Settings", settings), ("Metrics", metrics), ("Inputs", inputs), ("Files", files)]
}

fn change_cells(change: &Change) -> [String; 3] {
    let none = || "(none)".to_owned();
    match change {
        Change::Input { role, old, new } => {
            let show =
                |content: &Option<artifact::InputContent>| content.map_or_else(none, |c| c.to_string());
            [role.clone(), show(old), show(new)]
        }
        Change::Value { pointer, old, new } => {
            let show = |value: &Option<serde_json::Value>| {
                value.as_ref().map_or_else(none, |v| shorten(&v.to_string()))
            };
            [pointer.strip_prefix("config/").unwrap_or(pointer).to_owned(), show(old), show(new)]
        }
    }
}

fn shorten(text: &str) -> String {
    if text.chars().count() <= VALUE_WIDTH {
        return text.to_owned();
    }
    text.chars().take(VALUE_WIDTH - 1).chain(['…']).collect()
}

fn metric_cells(metric: &Metric) -> [String; 5] {
    let show = |value: Option<f64>| value.map(text::number).unwrap_or_default();
    let signed =
        |value: f64| if value > 0.0 { format!("+{}", text::number(value)) } else { text::number(value) };
    let interval = metric.interval.map(|found| format!("[{}, {}]", signed(found.low), signed(found.high)));
    [
        metric.name.clone(),
        show(metric.old),
        show(metric.new),
        metric.delta().map(signed).unwrap_or_default(),
        interval.unwrap_or_default(),
    ]
}

fn file_cells(file: &FileChange) -> [String; 4] {
    let size = |content: &Option<(u64, artifact::FileHash)>| {
        content.map(|(bytes, _)| text::bytes(bytes)).unwrap_or_default()
    };
    let change = match (&file.old, &file.new) {
        (None, _) => "added",
        (_, None) => "removed",
        _ => "changed",
    };
    [file.path.clone(), change.to_owned(), size(&file.old), size(&file.new)]
}
