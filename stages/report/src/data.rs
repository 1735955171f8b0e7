//! Section "Data": the rows of each split, what was left out, and leaks.

use chart::markup::{Element, classed, element};
use outputs::{Leak, LeakKind, SPLITS, SplitStats, Stats, Tally};

use crate::number;

/// Number of entries that a list shows.
const LISTED: usize = 50;

/// Returns the section.
pub(crate) fn section(stats: &Stats) -> Element {
    let mut splits: Vec<(&str, &SplitStats)> =
        stats.splits.iter().map(|(name, split)| (name.as_str(), split)).collect();
    splits.sort_by_key(|(name, _)| SPLITS.iter().position(|known| known == name).unwrap_or(SPLITS.len()));
    element("section")
        .attribute("id", "data")
        .child(element("h2").text("Data"))
        .child(classed("p", "about").text(about(stats)))
        .child(table(&splits))
        .children(lists(stats, &splits))
}

fn about(stats: &Stats) -> String {
    let mut parts = vec![number::counted(stats.rows_read, "row") + " read"];
    let left_out = [
        (stats.bad_rows.count, "unusable"),
        (stats.filtered_rows, "left out by a condition"),
        (stats.held_out_rows, "held out"),
        (stats.not_sampled_rows, "left out by a limit"),
        (stats.leaks.dropped_train_rows.count, "dropped from training as leaks"),
        (stats.leaks.in_validation.dropped_rows.count, "dropped from validation as leaks"),
        (stats.normalized_rows.count, "normalized"),
        (stats.trimmed_rows.count, "trimmed"),
        (stats.special_tokens.count, "with a control token in their text"),
        (stats.duplicate_ids.count, "with the id of an earlier row"),
    ];
    parts.extend(
        left_out
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, why)| format!("{} {why}", number::count(*count))),
    );
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
    format!("{}. {found}{also}", parts.join(", "))
}

fn table(splits: &[(&str, &SplitStats)]) -> Element {
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
    let head = element("tr").child(element("th").attribute("scope", "col").text("Split"));
    let head = COLUMNS
        .iter()
        .fold(head, |head, name| head.child(classed("th", "number").attribute("scope", "col").text(name)));
    let rows = splits.iter().map(|(name, split)| {
        let length = &split.length;
        let cells = [
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
        let row = element("tr").child(element("th").attribute("scope", "row").text(name));
        cells.iter().fold(row, |row, cell| row.child(classed("td", "number").text(number::count(*cell))))
    });
    let table = classed("table", "plain splits")
        .child(element("thead").child(head))
        .child(element("tbody").children(rows));
    classed("div", "scroll").child(table)
}

fn lists(stats: &Stats, splits: &[(&str, &SplitStats)]) -> Vec<Element> {
    let mut lists = Vec::new();
    for (name, split) in splits {
        let groups = split
            .group_rows
            .iter()
            .map(|(group, rows)| format!("{group}: {}", number::counted(*rows, "row")));
        lists.push(list(&format!("Groups of {name}"), split.group_rows.len() as u64, groups.collect()));
    }
    for (name, split) in splits {
        let kinds = [
            ("truncated", &split.truncated),
            ("too long", &split.too_long),
            ("without a target", &split.no_target),
            ("with the text of an earlier row", &split.duplicates),
        ];
        lists.extend(kinds.map(|(what, tally)| tally_list(&format!("Rows of {name}, {what}"), tally)));
        let turns =
            format!("Turns of {name} excluded from the targets, because the chat template rewrites them");
        lists.push(tally_list(&turns, &split.rewritten_turns));
    }
    lists.push(list("Leaks", stats.leaks.count, described(&stats.leaks.rows, "training")));
    lists.push(tally_list("Training rows dropped as leaks", &stats.leaks.dropped_train_rows));
    let within = &stats.leaks.in_validation;
    lists.push(list("Test rows in validation", within.count, described(&within.rows, "validation")));
    for (name, tally) in [
        ("Validation rows dropped as leaks", &within.dropped_rows),
        ("Unusable rows", &stats.bad_rows),
        ("Rows with the id of an earlier row", &stats.duplicate_ids),
        ("Rows changed by normalization", &stats.normalized_rows),
        ("Rows changed by trimming", &stats.trimmed_rows),
        ("Rows with a control token in their text", &stats.special_tokens),
    ] {
        lists.push(tally_list(name, tally));
    }
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
    format!("{} of {}{} {relation} {train}: {percent} %", leak.row, leak.split, place(Some(&leak.source)))
}

fn tally_list(name: &str, tally: &Tally) -> Option<Element> {
    list(name, tally.count, tally.examples.clone())
}

/// Returns a folded list; `None` if `count` is 0. `count` may exceed the number of entries.
fn list(name: &str, count: u64, entries: Vec<String>) -> Option<Element> {
    if count == 0 {
        return None;
    }
    let hidden = count.saturating_sub(entries.len().min(LISTED) as u64);
    let items =
        entries.into_iter().take(LISTED).map(|entry| element("li").attribute("dir", "auto").text(entry));
    let mut items = classed("ul", "entries").children(items);
    if hidden > 0 {
        items = items.child(element("li").text(format!("and {} more", number::count(hidden))));
    }
    let summary = format!("{name}: {}", number::count(count));
    Some(element("details").child(element("summary").text(summary)).child(items))
}
