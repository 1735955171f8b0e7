//! Section "Data": the rows of each split, what was left out, and leaks.

use chart::markup::{Element, classed, element};
use outputs::{Leak, LeakKind, SPLITS, SplitStats, Stats, Tally};

use crate::context::Context;
use crate::number;
use crate::parts::{self, Section, folded_list, number_cell, number_column, row_head, words_column};

/// Number of entries that a list shows.
const LISTED: usize = 50;

/// Leaks that are listed without being unfolded.
const OPEN_LEAKS: usize = 10;

/// Returns the section.
pub(crate) fn section(stats: &Stats, context: Option<&Context>) -> Section {
    let splits = splits(stats);
    let lists = lists(stats, &splits);
    Section::new("data", "Data")
        .about(about(stats))
        .add(table(&splits, context))
        .extend(context.and_then(Context::callout))
        .heading("Rows left out")
        .extend(left_out(stats, &splits))
        .extend(left_out_lists(stats, &splits))
        .heading("Leaks")
        .about(leaks_found(stats))
        .extend(leak_lists(stats))
        .heading_if("Groups, duplicates, changes", &lists)
        .extend(lists)
}

/// Returns the splits in their order.
pub(crate) fn splits(stats: &Stats) -> Vec<(&str, &SplitStats)> {
    let mut splits: Vec<(&str, &SplitStats)> =
        stats.splits.iter().map(|(name, split)| (name.as_str(), split)).collect();
    splits.sort_by_key(|(name, _)| SPLITS.iter().position(|known| known == name).unwrap_or(SPLITS.len()));
    splits
}

/// Returns a table with the number of rows left out at each place, and why.
pub(crate) fn left_out(stats: &Stats, splits: &[(&str, &SplitStats)]) -> Vec<Element> {
    let mut rows: Vec<(String, u64)> = vec![
        ("unusable".to_owned(), stats.bad_rows.count),
        ("left out by a condition of the settings".to_owned(), stats.filtered_rows),
        ("held out of training and validation".to_owned(), stats.held_out_rows),
        ("left out by a limit on the number of rows".to_owned(), stats.not_sampled_rows),
        (
            "dropped from training, because a held-out row leaks into them".to_owned(),
            stats.leaks.dropped_train_rows.count,
        ),
        (
            "dropped from validation, because a test row leaks into them".to_owned(),
            stats.leaks.in_validation.dropped_rows.count,
        ),
    ];
    for (name, split) in splits {
        rows.push((format!("dropped from {name}: longer than `max_tokens`"), split.too_long.count));
        rows.push((format!("dropped from {name}: no target"), split.no_target.count));
    }
    rows.retain(|(_, count)| *count > 0);
    if rows.is_empty() {
        return vec![
            classed("p", "about")
                .text(format!("None of the {} read.", number::counted(stats.rows_read, "row"))),
        ];
    }
    let share = |count: u64| number::fixed(100.0 * count as f64 / stats.rows_read.max(1) as f64, 1);
    let rows = rows.into_iter().map(|(why, count)| {
        vec![row_head(&why), number_cell(number::count(count)), number_cell(format!("{}%", share(count)))]
    });
    let columns = [words_column("Why"), number_column("Rows"), number_column("Of those read")];
    vec![parts::table("Rows left out", &columns, rows)]
}

/// Returns how many rows were read, and how they were changed, in words.
pub(crate) fn about(stats: &Stats) -> String {
    let mut parts = vec![number::counted(stats.rows_read, "row") + " read"];
    let changed = [
        (stats.normalized_rows.count, "normalized"),
        (stats.trimmed_rows.count, "trimmed"),
        (stats.special_tokens.count, "with a control token in their text"),
        (stats.duplicate_ids.count, "with the id of an earlier row"),
    ];
    parts.extend(
        changed
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, why)| format!("{} {why}", number::count(*count))),
    );
    format!("{}.", parts.join(", "))
}

/// Returns the result of the leak check in words.
pub(crate) fn leaks_found(stats: &Stats) -> String {
    let leaks = &stats.leaks;
    let found = match (leaks.checked_rows, leaks.count) {
        (0, _) => "Leaks were not checked.".to_owned(),
        (checked, 0) => {
            format!("{} checked for leaks, none found.", number::counted(checked, "held-out row"))
        }
        (checked, found) => format!(
            "{} checked for leaks: {} found, {} after dropping training rows.",
            number::counted(checked, "held-out row"),
            number::count(found),
            number::count(leaks.remaining)
        ),
    };
    let within = &stats.leaks.in_validation;
    let also = match within.count {
        0 => String::new(),
        count => format!(
            " {} of {} test and held-out rows occur in validation: {} after dropping validation rows.",
            number::count(count),
            number::count(within.checked_rows),
            number::count(within.remaining)
        ),
    };
    format!("{found}{also}")
}

/// Returns a table with the size of each split.
pub(crate) fn table(splits: &[(&str, &SplitStats)], context: Option<&Context>) -> Element {
    const COLUMNS: [&str; 9] = [
        "Rows",
        "Groups",
        "Tokens",
        "Trained",
        "Median",
        "95th percentile",
        "Longest",
        "Truncated",
        "Dropped",
    ];
    let mut columns = vec![words_column("Split")];
    columns.extend(COLUMNS.map(number_column));
    columns.extend(context.map(|_| number_column("Beyond the context")));
    let rows = splits.iter().map(|(name, split)| {
        let length = &split.length;
        let counts = [
            split.rows,
            split.groups,
            split.tokens,
            split.trained_tokens,
            length.p50,
            length.p95,
            length.max,
            split.truncated.count,
            split.too_long.count + split.no_target.count,
        ];
        let beyond = context.map(|context| context.beyond(name));
        let cells = counts.into_iter().chain(beyond).map(|count| number_cell(number::count(count)));
        std::iter::once(row_head(name)).chain(cells).collect()
    });
    parts::table("Splits", &columns, rows)
}

/// Returns the folded lists of a report, without those of leaks.
fn lists(stats: &Stats, splits: &[(&str, &SplitStats)]) -> Vec<Element> {
    let mut lists = Vec::new();
    for (name, split) in splits {
        let groups: Vec<String> = split
            .group_rows
            .iter()
            .map(|(group, rows)| format!("{group}: {}", number::counted(*rows, "row")))
            .collect();
        lists.push(folded_list(&format!("Groups of {name}"), groups.len() as u64, &groups, LISTED));
        lists.push(tally_list(&format!("Rows of {name}, truncated"), &split.truncated));
        lists
            .push(tally_list(&format!("Rows of {name}, with the text of an earlier row"), &split.duplicates));
        let turns =
            format!("Turns of {name} excluded from the targets, because the chat template rewrites them");
        lists.push(tally_list(&turns, &split.rewritten_turns));
    }
    for (name, tally) in [
        ("Rows with the id of an earlier row", &stats.duplicate_ids),
        ("Rows changed by normalization", &stats.normalized_rows),
        ("Rows changed by trimming", &stats.trimmed_rows),
        ("Rows with a control token in their text", &stats.special_tokens),
    ] {
        lists.push(tally_list(name, tally));
    }
    lists.into_iter().flatten().collect()
}

/// Returns folded lists of rows that were left out.
pub(crate) fn left_out_lists(stats: &Stats, splits: &[(&str, &SplitStats)]) -> Vec<Element> {
    let mut lists = vec![
        tally_list("Unusable rows", &stats.bad_rows),
        tally_list("Training rows dropped as leaks", &stats.leaks.dropped_train_rows),
        tally_list("Validation rows dropped as leaks", &stats.leaks.in_validation.dropped_rows),
    ];
    for (name, split) in splits {
        lists.push(tally_list(&format!("Rows of {name}, too long"), &split.too_long));
        lists.push(tally_list(&format!("Rows of {name}, without a target"), &split.no_target));
    }
    lists.into_iter().flatten().collect()
}

/// Returns folded lists of the leaks.
pub(crate) fn leak_lists(stats: &Stats) -> Vec<Element> {
    let (leaks, within) = (&stats.leaks, &stats.leaks.in_validation);
    if (1..=OPEN_LEAKS).contains(&leaks.rows.len()) && within.count == 0 {
        let items = described(&leaks.rows, "training");
        let items = items.iter().map(|item| element("li").attribute("dir", "auto").text(item));
        return vec![classed("ul", "entries").children(items)];
    }
    let lists = [
        folded_list("Leaks", leaks.count, &described(&leaks.rows, "training"), LISTED),
        folded_list("Test rows in validation", within.count, &described(&within.rows, "validation"), LISTED),
    ];
    lists.into_iter().flatten().collect()
}

fn described(leaks: &[Leak], into: &str) -> Vec<String> {
    leaks.iter().map(|leak| describe(leak, into)).collect()
}

/// Describes a leak into a row of the split `into` in one line.
fn describe(leak: &Leak, into: &str) -> String {
    let relation = match leak.kind {
        LeakKind::Exact => "equals",
        LeakKind::Contained => "is contained in or contains",
        LeakKind::Side => "has the same prompt or answer as",
        LeakKind::Overlap => "overlaps",
    };
    let place = |source: Option<&str>| source.map(|source| format!(" ({source})")).unwrap_or_default();
    let train = match &leak.train_row {
        Some(row) => format!("{into} row {row}{}", place(leak.train_source.as_deref())),
        None => format!("several {into} rows together"),
    };
    let percent = number::fixed(leak.overlap * 100.0, 1);
    format!("{} of {}{} {relation} {train}: {percent}%", leak.row, leak.split, place(Some(&leak.source)))
}

/// Returns a folded list of rows; `None` if there are none.
pub(crate) fn tally_list(name: &str, tally: &Tally) -> Option<Element> {
    folded_list(name, tally.count, &tally.examples, LISTED)
}
