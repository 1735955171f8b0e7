//! `ls`: the artifacts of a store.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use serde_json::{Value, json};
use stage::json_path;

use crate::args::{Ls, Sort};
use crate::catalog::{Catalog, Item, total};
use crate::error::Result;
use crate::text::{self, Align, Table};

/// Number of headline numbers in a row.
const SHOWN_METRICS: usize = 3;

/// Lists artifacts; cached pieces of stages are counted only, unless asked for.
pub(crate) fn run(catalog: &Catalog, options: &Ls, as_json: bool) -> Result<()> {
    let labels = catalog.labels()?;
    let wanted = |item: &Item| {
        if options.stages.is_empty() {
            options.all || !item.entry.is_unit() || as_json
        } else {
            options.stages.contains(&item.entry.stage)
        }
    };
    let (mut items, hidden): (Vec<Item>, Vec<Item>) = catalog.readable_items().into_iter().partition(wanted);
    match options.sort {
        Sort::Stage => {}
        Sort::Time => items.sort_by_key(|item| std::cmp::Reverse(item.entry.last_use)),
        Sort::Size => items.sort_by_key(|item| std::cmp::Reverse(item.summary.bytes())),
    }
    let labels_of = |item: &Item| labels.get(&item.summary.key).cloned().unwrap_or_default();
    if as_json {
        let list: Vec<Value> = items.iter().map(|item| to_json(item, &labels_of(item))).collect();
        return Ok(text::print_json(&json!(list))?);
    }
    let now = artifact::now();
    let columns = [
        ("stage", Align::Left),
        ("artifact", Align::Left),
        ("size", Align::Right),
        ("used", Align::Left),
        ("metrics and labels", Align::Left),
    ];
    let mut table = Table::new(&columns);
    for item in &items {
        table.row([
            item.entry.stage.clone(),
            format!("{}-{}", item.entry.key, item.entry.slug),
            text::bytes(item.summary.bytes()),
            text::age(item.entry.last_use, now),
            headline(&item.summary.metrics, &labels_of(item)),
        ]);
    }
    let mut output = if table.is_empty() { nothing(catalog, &options.stages, &hidden) } else { table.text() };
    if options.stages.is_empty() && !hidden.is_empty() {
        let pieces = text::count(hidden.len(), "cached piece");
        let size = text::bytes(total(hidden.iter().map(|item| item.summary.bytes())));
        writeln!(output, "and {pieces} of stages ({size}; list with --all)")
            .expect("writing to a string succeeds");
    }
    Ok(text::print(&output)?)
}

/// Says that there are no artifacts, or none of the wanted stages, and which stages have some.
fn nothing(catalog: &Catalog, wanted: &[String], others: &[Item]) -> String {
    let store = text::escape(&catalog.store.root().display().to_string());
    let stages: BTreeSet<&str> = others.iter().map(|item| item.entry.stage.as_str()).collect();
    if wanted.is_empty() || stages.is_empty() {
        return format!("no artifacts in `{store}`\n");
    }
    let stages = Vec::from_iter(stages).join(", ");
    format!("no artifacts of {} in `{store}`, which has some of {stages}\n", text::escape(&wanted.join(", ")))
}

fn headline(metrics: &BTreeMap<String, String>, labels: &[String]) -> String {
    let shorten = |(name, value): (&String, &String)| {
        let value = value.parse().map_or_else(|_| value.clone(), text::number);
        format!("{name} {value}")
    };
    let mut parts: Vec<String> = metrics.iter().take(SHOWN_METRICS).map(shorten).collect();
    if metrics.len() > SHOWN_METRICS {
        parts.push("…".to_owned());
    }
    let mut line = parts.join(", ");
    for label in labels {
        line.push_str(if line.is_empty() { "" } else { "  " });
        write!(line, "[{label}]").expect("writing to a string succeeds");
    }
    line
}

fn to_json(item: &Item, labels: &[String]) -> Value {
    let Item { entry, summary } = item;
    json!({
        "stage": entry.stage, "key": summary.key, "slug": entry.slug, "path": json_path(&entry.path),
        "tree": summary.tree, "bytes": summary.bytes(), "last_use": artifact::format_utc(entry.last_use), "metrics": summary.metrics,
        "labels": labels,
    })
}
