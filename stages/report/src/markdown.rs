//! The report as Markdown, for pull requests and mails.

use std::fmt::Write as _;

use crate::data;
use crate::exports;
use crate::headline::{self, model_name, print};
use crate::number;
use crate::parts::bare;
use crate::report::Report;
use crate::results;

/// Writes the report.
pub(crate) fn write(report: &Report<'_>) -> String {
    let Report { contents, table, config, verdict, .. } = report;
    let mut text = format!("# {}\n\n", escaped(&results::title(contents, config)));
    let _ = writeln!(text, "{}.\n", escaped(&headline::sentence(contents, table)));
    if let Some(verdict) = verdict {
        let _ = writeln!(text, "**{}**\n", escaped(&verdict.title));
        for reason in &verdict.reasons {
            let _ = writeln!(text, "- {}", escaped(reason));
        }
        text.push('\n');
    }
    text.push_str("## Scores\n\n");
    text.push_str(&scores(report));
    let choice = &contents.choice;
    let _ = writeln!(
        text,
        "\nStep {} was chosen, with a validation loss of {} against {} for the base.\n",
        number::count(choice.step),
        number::fixed(choice.loss, 3),
        number::fixed(choice.base_loss, 3)
    );
    if let outputs::Stop::Early(reason) = &contents.summary.stop {
        let _ = writeln!(
            text,
            "Stopped early, at step {}: {}.\n",
            number::count(contents.summary.steps),
            escaped(reason.trim_end_matches('.'))
        );
    }
    text.push_str(&exports::markdown(contents, escaped));
    if let Some(stats) = &contents.dataset {
        let _ = writeln!(text, "## Data\n\n{}\n", escaped(&data::leaks_found(stats)));
        text.push_str("| split | rows | tokens | trained | longest | dropped |\n|---|--:|--:|--:|--:|--:|\n");
        for (name, split) in data::splits(stats) {
            let cells = [
                split.rows,
                split.tokens,
                split.trained_tokens,
                split.length.max,
                split.too_long.count + split.no_target.count,
            ];
            let cells: Vec<String> = cells.map(number::count).to_vec();
            let _ = writeln!(text, "| {} | {} |", escaped(name), cells.join(" | "));
        }
        text.push('\n');
    }
    text.push_str("## Stages\n\n| stage | key | tree |\n|---|---|---|\n");
    for manifest in &contents.stages {
        let (key, tree) = (manifest.key.to_string(), manifest.tree.to_string());
        let _ = writeln!(text, "| {} | `{}` | `{}` |", manifest.stage, &bare(&key)[..16], &bare(&tree)[..16]);
    }
    text
}

fn scores(report: &Report<'_>) -> String {
    let table = report.table;
    let names: Vec<String> = table.models.iter().map(|model| escaped(&model_name(model))).collect();
    let mut text =
        format!("| score | {} | change |\n|---|{}---|\n", names.join(" | "), "--:|".repeat(names.len()));
    for score in &table.scores {
        let cells: Vec<String> = score
            .cells
            .iter()
            .map(|cell| cell.value.map_or("–".to_owned(), |value| print(score, value)))
            .collect();
        let change = table.tuned().and_then(|tuned| {
            let (value, change) = score.cells[tuned].value.zip(score.cells[tuned].change())?;
            let range = headline::print_range(score, value, &change).unwrap_or_default();
            Some(format!("{} {range}", headline::print_change(score, value, &change)))
        });
        let change = change.unwrap_or_default();
        let _ =
            writeln!(text, "| {} | {} | {} |", escaped(&score.name), cells.join(" | "), change.trim_end());
    }
    text
}

/// Escapes what Markdown would read as markup, and what would break a line or a table.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for character in text.chars() {
        match character {
            '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' | '&' | '~' => {
                escaped.extend(['\\', character]);
            }
            character if character.is_control() => escaped.push(' '),
            _ => escaped.push(character),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_cannot_become_markup() {
        assert_eq!(escaped("a|b\n<script>"), "a\\|b \\<script\\>");
    }
}
