//! Section "Comparisons": every pair of models, and parts of the rows.

use chart::markup::{Element, classed, element};
use outputs::{Comparison, Difference, Subgroup, Verdict};

use crate::headline::{metric_name, model_name};
use crate::number;
use crate::parts::{Section, cell, number_cell, number_column, pill, row_head, table, words_column};
use crate::source::Contents;

/// Parts of the rows that are shown.
const SHOWN_GROUPS: usize = 60;

/// Returns the section; `None` if evaluate compared no more than one pair over all rows.
pub(crate) fn section(contents: &Contents) -> Option<Section> {
    let scores = &contents.scores;
    let failed: Vec<Vec<Element>> = scores
        .models
        .iter()
        .flat_map(|(model, scores)| {
            let name = model_name(model);
            scores
                .failed_rows
                .iter()
                .take(SHOWN_GROUPS)
                .map(move |row| vec![row_head(&row.id), cell(&name), cell(&row.reason)])
        })
        .collect();
    if scores.comparisons.len() < 2 && scores.subgroups.is_empty() && failed.is_empty() {
        return None;
    }
    let mut section = Section::new("comparisons", "Comparisons");
    if !scores.comparisons.is_empty() {
        section = section
            .about("Every pair of models, with the rows on which the first is better, equal and worse.")
            .add(pairs(contents, &scores.comparisons));
    }
    if !scores.subgroups.is_empty() {
        section = section.heading("Parts of the rows").add(subgroups(contents, &scores.subgroups));
    }
    if !failed.is_empty() {
        let columns = [words_column("Row"), words_column("Model"), words_column("Why there is no score")];
        section = section.heading("Failed rows").add(table("Failed rows", &columns, failed));
    }
    Some(section)
}

fn pairs(contents: &Contents, comparisons: &[Comparison]) -> Element {
    let columns = [
        words_column("Models"),
        words_column("Score"),
        number_column("Difference"),
        words_column("Verdict"),
        number_column("Better, equal, worse"),
    ];
    let rows = comparisons.iter().flat_map(|pair| {
        let name =
            format!("{} against {}", model_name(&pair.model), model_name(&pair.against).to_lowercase());
        pair.metrics.iter().map(move |(metric, difference)| {
            vec![
                row_head(&name),
                cell(title(contents, metric)),
                number_cell(printed(metric, difference)),
                element("td").child(verdict(difference, pair.identical)),
                number_cell(won(difference)),
            ]
        })
    });
    table("Pairs of models", &columns, rows)
}

fn subgroups(contents: &Contents, subgroups: &[Subgroup]) -> Element {
    let columns = [
        words_column("Rows"),
        number_column("Number"),
        words_column("Score"),
        words_column("Models"),
        number_column("Difference"),
        words_column("Verdict"),
    ];
    let shown = subgroups.iter().take(SHOWN_GROUPS);
    let rows = shown.flat_map(|group| {
        let name = format!("{}: {}", group.by, group.value);
        group.comparisons.iter().flat_map(move |pair| {
            let name = name.clone();
            pair.metrics.iter().map(move |(metric, difference)| {
                let models = format!(
                    "{} against {}",
                    model_name(&pair.model),
                    model_name(&pair.against).to_lowercase()
                );
                vec![
                    row_head(&name),
                    number_cell(number::count(group.rows)),
                    cell(title(contents, metric)),
                    cell(models),
                    number_cell(printed(metric, difference)),
                    element("td").child(verdict(difference, pair.identical)),
                ]
            })
        })
    });
    table("Parts of the rows", &columns, rows)
}

fn title(contents: &Contents, metric: &str) -> String {
    let titled = contents.scores.metrics.get(metric).map(|info| info.title.clone());
    titled.filter(|title| !title.is_empty()).unwrap_or_else(|| metric_name(metric))
}

/// Prints a difference with its interval.
pub(crate) fn printed(metric: &str, difference: &Difference) -> String {
    let digits = if ["loss", "similarity", "length_ratio"].contains(&metric) { 3 } else { 1 };
    let Difference { value, low, high, .. } = difference;
    format!(
        "{} [{}, {}]",
        number::signed(*value, digits),
        number::signed(*low, digits),
        number::signed(*high, digits)
    )
}

/// Prints the rows on which the first is better, equal and worse.
pub(crate) fn won(difference: &Difference) -> String {
    let Difference { wins, ties, losses, .. } = difference;
    [wins, ties, losses].map(|count| number::count(*count)).join(" · ")
}

/// Returns the label of a difference.
pub(crate) fn verdict(difference: &Difference, identical: bool) -> Element {
    match difference.verdict {
        _ if identical => pill("level", "identical"),
        Some(Verdict::Better) => pill("better", "better"),
        Some(Verdict::Worse) => pill("worse", "worse"),
        Some(Verdict::WithinNoise) => pill("level", "within noise"),
        None => classed("span", "none").text("–"),
    }
}
