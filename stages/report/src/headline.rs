//! The result in one sentence, for the top of the page and for the terminal.

use crate::number;
use crate::scores::{Change, Kind, Score, Table};
use crate::source::Contents;

/// Returns the result in one sentence, without a full stop.
pub(crate) fn sentence(contents: &Contents, table: &Table) -> String {
    let Some(tuned) = table.tuned() else {
        return alone(contents, table);
    };
    let name = model_name(&table.models[tuned]);
    let mut parts = Vec::new();
    for score in table.score("perplexity").into_iter().chain(table.text_score()) {
        let Some(value) = score.cells[tuned].value else { continue };
        let is_perplexity = score.kind == Kind::Perplexity;
        let label =
            if is_perplexity { format!("{} perplexity", split(contents)) } else { score.name.clone() };
        let base = table.base().and_then(|base| score.cells[base].value);
        let printed = print(score, value);
        let Some(base) = base.map(|base| print(score, base)) else {
            parts.push(format!("{label} {printed}"));
            continue;
        };
        let base = if parts.is_empty() { format!("{base} for the base") } else { base };
        let change = score.cells[tuned].change().map(|change| {
            let range = print_range(score, value, &change).map_or(String::new(), |range| format!(" {range}"));
            format!(", {}{range}", print_change(score, value, &change))
        });
        parts.push(format!("{label} {printed} vs {base}{}", change.unwrap_or_default()));
    }
    if parts.is_empty() {
        return format!("{name}: nothing was scored");
    }
    format!("{name}: {}", parts.join("; "))
}

/// Returns the sentence for a single model.
fn alone(contents: &Contents, table: &Table) -> String {
    let score = table.score("perplexity").and_then(|score| Some((score, score.cells.first()?.value?)));
    match score {
        Some((score, value)) => {
            format!(
                "{}: {} perplexity {}",
                model_name(&table.models[0]),
                split(contents),
                print(score, value)
            )
        }
        None => format!("{}: nothing was scored", model_name(&table.models[0])),
    }
}

/// Prints a value of `score` as the table does.
pub(crate) fn print(score: &Score, value: f64) -> String {
    match score.kind {
        Kind::Points | Kind::EditRate => number::fixed(value, 1),
        Kind::Loss | Kind::Unit => number::fixed(value, 3),
        Kind::Perplexity | Kind::Other => number::three_digits(value),
    }
}

/// Prints a change that led to `value`, with its sign; a change of perplexity as a percentage.
pub(crate) fn print_change(score: &Score, value: f64, change: &Change) -> String {
    match share(score, value, change.value, change.value) {
        Some(share) => number::percent(share),
        None if matches!(score.kind, Kind::Points | Kind::EditRate) => number::signed(change.value, 1),
        None if matches!(score.kind, Kind::Loss | Kind::Unit) => number::signed(change.value, 3),
        None if change.value > 0.0 => format!("+{}", number::three_digits(change.value)),
        None => number::three_digits(change.value),
    }
}

/// Prints the ends of the interval of a change that led to `value`.
pub(crate) fn print_range(score: &Score, value: f64, change: &Change) -> Option<String> {
    let percent = |share: f64| number::fixed(share * 100.0, usize::from(share.abs() < 0.0995));
    if let Some((low, high)) = change.shares {
        return Some(format!("[{}, {}]", percent(low), percent(high)));
    }
    let (low, high) = change.range?;
    let end = |end: f64| match share(score, value, change.value, end) {
        Some(share) => percent(share),
        None => print(score, end),
    };
    Some(format!("[{}, {}]", end(low), end(high)))
}

/// Returns a change of perplexity as a share of the perplexity of the base model, which is `value` minus `led`.
fn share(score: &Score, value: f64, led: f64, change: f64) -> Option<f64> {
    (score.kind == Kind::Perplexity && value > led).then(|| change / (value - led))
}

/// Returns the name of a model for readers: `Base model` for `base`, `Fused model` for `fused` and so on.
pub(crate) fn model_name(model: &str) -> String {
    match model {
        "base" => "Base model".to_owned(),
        "fused" => "Fused model".to_owned(),
        "fused_quantized" => "Fused model, quantized".to_owned(),
        "fused_gguf" => "Fused model, GGUF".to_owned(),
        other => other.to_owned(),
    }
}

/// Returns the name of a metric for readers, such as `chrF` for `chrf`.
pub(crate) fn metric_name(key: &str) -> String {
    match key {
        "bleu" => "BLEU".to_owned(),
        "chrf" => "chrF".to_owned(),
        "chrf_plus_plus" => "chrF++".to_owned(),
        "ter" => "TER".to_owned(),
        other => number::words(other),
    }
}

/// Prints a value of the metric `key`.
pub(crate) fn printed(key: &str, value: f64) -> String {
    match key {
        "loss" | "similarity" | "length_ratio" => number::fixed(value, 3),
        "perplexity" => number::three_digits(value),
        _ => number::fixed(value, 1),
    }
}

/// Prints a change of the metric `key` with its sign.
pub(crate) fn printed_change(key: &str, change: f64) -> String {
    match key {
        "loss" | "similarity" | "length_ratio" => number::signed(change, 3),
        "perplexity" if change > 0.0 => format!("+{}", number::three_digits(change)),
        "perplexity" => number::three_digits(change),
        _ => number::signed(change, 1),
    }
}

/// Returns the name of the split that was scored.
pub(crate) fn split(contents: &Contents) -> &str {
    if contents.scores.split.is_empty() { "test" } else { &contents.scores.split }
}

/// Returns the table for a terminal, with aligned columns.
pub(crate) fn terminal(table: &Table) -> String {
    let mut lines = vec![vec![String::new()]];
    lines[0].extend(table.models.iter().cloned());
    lines[0].push("change".to_owned());
    for score in &table.scores {
        let mut line = vec![score.name.clone()];
        line.extend(
            score.cells.iter().map(|cell| cell.value.map_or("–".to_owned(), |value| print(score, value))),
        );
        line.push(table.tuned().map_or_else(String::new, |tuned| {
            let cell = score.cells[tuned];
            let Some((value, change)) = cell.value.zip(cell.change()) else { return String::new() };
            let range = print_range(score, value, &change).unwrap_or_default();
            format!("{} {range}", print_change(score, value, &change))
        }));
        lines.push(line);
    }
    let columns = lines[0].len();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let mut printed = String::new();
        for (column, cell) in line.iter().enumerate() {
            let pad = " ".repeat(widths[column] - cell.chars().count());
            // Names and changes are aligned left, numbers right.
            let left = column == 0 || column + 1 == columns;
            let gap = if column == 0 { "" } else { "  " };
            let parts =
                if left { [gap, cell.as_str(), pad.as_str()] } else { [gap, pad.as_str(), cell.as_str()] };
            printed.extend(parts);
        }
        text.push_str(printed.trim_end());
        text.push('\n');
    }
    text
}
