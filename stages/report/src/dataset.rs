//! What the run was trained and tested on, as prepare-data counted it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use crate::number;
use chart::markup::{Element, classed, element};

/// Entries of a list that are shown.
const LISTED: usize = 50;

/// `stats.json` of prepare-data.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Stats {
    rows_read: u64,
    bad_rows: Tally,
    filtered_rows: u64,
    held_out_rows: u64,
    not_sampled_rows: u64,
    splits: BTreeMap<String, Split>,
    leaks: Leaks,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Split {
    rows: u64,
    groups: u64,
    tokens: u64,
    trained_tokens: u64,
    length: Lengths,
    truncated: Tally,
    too_long: Tally,
    no_target: Tally,
    group_rows: BTreeMap<String, u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Lengths {
    p50: u64,
    p95: u64,
    max: u64,
}

/// A count with the first things counted.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Tally {
    count: u64,
    examples: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Leaks {
    checked_rows: u64,
    count: u64,
    rows: Vec<Value>,
    remaining: u64,
    dropped_train_rows: Tally,
}

/// Writes what prepare-data counted.
pub(crate) fn section(stats: &Stats) -> Element {
    let mut splits: Vec<(&str, &Split)> =
        stats.splits.iter().map(|(name, split)| (name.as_str(), split)).collect();
    let order =
        |name: &str| ["train", "validation", "test"].iter().position(|known| *known == name).unwrap_or(3);
    splits.sort_by_key(|(name, _)| order(name));
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
    ];
    parts.extend(
        left_out
            .iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, why)| format!("{} {why}", number::count(*count))),
    );
    let leaks = &stats.leaks;
    let found = match (leaks.checked_rows, leaks.count) {
        (0, _) => "Leaks were not looked for.".to_owned(),
        (checked, 0) => {
            format!("None of {} kept from training occurs in it.", number::counted(checked, "row"))
        }
        (checked, found) => format!(
            "Of {} kept from training, {} found in it; {} after that was dealt with.",
            number::counted(checked, "row"),
            if found == 1 { "1 was".to_owned() } else { format!("{} were", number::count(found)) },
            if leaks.remaining == 0 {
                "none is left".to_owned()
            } else {
                format!("{} left", number::count(leaks.remaining))
            }
        ),
    };
    format!("{}. {found}", parts.join(", "))
}

fn table(splits: &[(&str, &Split)]) -> Element {
    const COLUMNS: [&str; 9] =
        ["Rows", "Groups", "Tokens", "Trained", "Median row", "95 % of rows", "Longest", "Cut", "Dropped"];
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

fn lists(stats: &Stats, splits: &[(&str, &Split)]) -> Vec<Element> {
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
            ("cut", &split.truncated),
            ("too long", &split.too_long),
            ("without a target", &split.no_target),
        ];
        lists.extend(kinds.map(|(what, tally)| tally.list(&format!("Rows of {name}, {what}"))));
    }
    let leaks = stats.leaks.rows.iter().map(|leak| {
        let members = leak.as_object().into_iter().flatten();
        let told: Vec<String> = members
            .map(|(name, value)| {
                let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                format!("{} {value}", name.replace('_', " "))
            })
            .collect();
        told.join(", ")
    });
    lists.push(list("Leaks", stats.leaks.count, leaks.collect()));
    lists.push(stats.leaks.dropped_train_rows.list("Training rows dropped as leaks"));
    lists.push(stats.bad_rows.list("Unusable rows"));
    lists.into_iter().flatten().collect()
}

impl Tally {
    fn list(&self, name: &str) -> Option<Element> {
        list(name, self.count, self.examples.clone())
    }
}

/// A folded list, or nothing when it is empty; `count` may exceed what is listed.
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
