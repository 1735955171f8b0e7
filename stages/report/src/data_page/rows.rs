//! Rows of a dataset: their lengths, and some of them token by token.

use std::path::Path;

use chart::histogram::{bin_width, counts};
use chart::markup::{Element, classed, element};
use chart::{Histogram, Marker};
use dataset::Split;
use outputs::{SPLITS, Stats};

use crate::context::{Context, token_file};
use crate::error::Error;
use crate::number;
use crate::parts::{
    HALF, NARROW_HALF, Section, figure, folded, number_cell, number_column, row_head, side_by_side, table,
    words_column,
};
use crate::tokens;

/// Bars of a histogram, about.
const BINS: usize = 40;

/// Returns a histogram of the row lengths of each split.
///
/// # Errors
///
/// Fails when a token file is damaged.
pub(crate) fn lengths(
    folder: &Path,
    stats: &Stats,
    context: Option<&Context>,
) -> Result<Option<Section>, Error> {
    let mut figures = Vec::new();
    let mut tables = Vec::new();
    for split in SPLITS {
        let file = token_file(folder, split);
        if !file.exists() {
            continue;
        }
        let rows = Split::open(&file)?;
        let found: Vec<u64> = (0..rows.len()).map(|row| rows.row_length(row) as u64).collect();
        let Some(longest) = found.iter().copied().max() else { continue };
        let width = bin_width(longest, BINS);
        let mut markers = vec![];
        if let Some(median) = stats.splits.get(split).map(|split| split.length.p50) {
            markers.push(Marker {
                x: median as f64,
                ring: None,
                label: format!("median {}", number::count(median)),
            });
        }
        // A context far beyond all rows would squeeze them into a corner.
        if let Some(limit) =
            context.map(|context| context.tokens).filter(|limit| *limit <= longest + longest / 4)
        {
            markers.push(Marker {
                x: limit as f64,
                ring: None,
                label: format!("context {}", number::count(limit)),
            });
        }
        let histogram = Histogram {
            name: format!("lengths-{split}"),
            title: format!("Row lengths of {split}"),
            description: describe(stats, split),
            x_label: "tokens per row".to_owned(),
            width: width as f64,
            counts: counts(found, width),
            markers,
        };
        figures.push(figure(&histogram, HALF, NARROW_HALF));
        let columns = [words_column("Tokens"), number_column("Rows")];
        let rows =
            histogram.rows().into_iter().map(|[name, count]| vec![row_head(&name), number_cell(count)]);
        let name = format!("Row lengths of {split} as a table");
        tables.push(folded(&name, table(&name, &columns, rows)));
    }
    Ok((!figures.is_empty())
        .then(|| Section::new("lengths", "Lengths").add(side_by_side(figures)).extend(tables)))
}

fn describe(stats: &Stats, split: &str) -> String {
    let Some(split) = stats.splits.get(split) else { return String::new() };
    let lengths = &split.length;
    format!(
        "{} of {} to {} tokens, median {}, 95th percentile {}.",
        number::counted(split.rows, "row"),
        number::count(lengths.min),
        number::count(lengths.max),
        number::count(lengths.p50),
        number::count(lengths.p95)
    )
}

/// Returns what the chat template does with the rows; `None` without chats.
pub(crate) fn notices(stats: &Stats) -> Option<Section> {
    let mut items: Vec<String> = stats
        .turn_ends
        .iter()
        .map(|(text, end)| match end.token {
            Some(token) => format!(
                "{} end with {text} ({token}), which {} an end token of the model.",
                number::counted(end.turns, "trained turn"),
                if end.is_end_token { "is" } else { "is not" }
            ),
            None => format!("{} end without an end token.", number::counted(end.turns, "trained turn")),
        })
        .collect();
    items.extend(stats.unread_keys.iter().map(|(key, rows)| {
        format!(
            "The chat template does not read {key}, which has a value in {}.",
            number::counted(*rows, "row")
        )
    }));
    items.extend(stats.unwritten_roles.iter().map(|(role, rows)| {
        format!(
            "The chat template leaves out the text of messages with the role {role} in {}.",
            number::counted(*rows, "row")
        )
    }));
    for (name, split) in &stats.splits {
        let counts = [
            (split.rewritten_turns.count, "excluded, because the chat template renders them differently"),
            (split.excluded_turns, "excluded by a flag of their message"),
        ];
        items.extend(
            counts
                .into_iter()
                .filter(|(count, _)| *count > 0)
                .map(|(count, what)| format!("{} of {name} {what}.", number::counted(count, "turn"))),
        );
    }
    let list = classed("ul", "entries")
        .children(items.iter().map(|item| element("li").attribute("dir", "auto").text(item)));
    (!items.is_empty()).then(|| Section::new("turns", "Turns").add(list))
}

/// Returns the section with some rows of each split, token by token.
///
/// # Errors
///
/// Fails when tokens, rows or the tokenizer cannot be read.
pub(crate) fn section(folder: &Path, count: usize) -> Result<Section, Error> {
    let mut section = Section::new("rows", "Rows").about(
        "Rows as the chat template renders them, token by token, evenly spaced over each split. The model learns to predict \
         the underlined tokens; the others are context that it only reads.",
    );
    section = section.add(tokens::legend());
    for split in SPLITS {
        let Some(rows) = tokens::read(folder, split, count)?.filter(|rows| !rows.is_empty()) else {
            continue;
        };
        section = section.heading(&format!("Rows of {split}"));
        let shown = if split == "train" { 3 } else { 1 };
        for (at, row) in rows.iter().enumerate() {
            section = section.add(if at < shown { tokens::row(row) } else { tokens::folded_row(row) });
        }
    }
    Ok(section)
}

/// Returns a table row with a name and counts.
pub(crate) fn counted_row(name: &str, cells: impl IntoIterator<Item = String>) -> Vec<Element> {
    std::iter::once(row_head(name)).chain(cells.into_iter().map(number_cell)).collect()
}
