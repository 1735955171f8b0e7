//! Warnings about rows that were left out, cut or changed.

use dataset::OnSpecial;
use outputs::{SPLITS, Stats, Tally};

use crate::config::Config;

/// Warns about every kind of loss, with the number of rows and the setting that decides.
pub(crate) fn warn(config: &Config, stats: &Stats) {
    for line in warnings(config, stats) {
        tracing::warn!("{line}");
    }
}

/// Returns a line for each kind of loss.
fn warnings(config: &Config, stats: &Stats) -> Vec<String> {
    let mut lines = Vec::new();
    let total = stats.rows_read;
    let mut add = |tally: &Tally, what: &str| {
        if let Some(first) = tally.examples.first() {
            let first = first.split(": ").next().unwrap_or(first);
            lines.push(format!("{} of {total} rows {what}; the first is {first}", tally.count));
        }
    };
    add(&stats.bad_rows, "are unusable and left out (`on_bad_row`)");
    for split in SPLITS {
        let Some(found) = stats.splits.get(split) else { continue };
        let limit = config.max_tokens;
        add(
            &found.too_long,
            &format!(
                "are left out of {split}: longer than `max_tokens`, {limit} (`on_too_long = \"truncate\"` cuts them)"
            ),
        );
        add(&found.truncated, &format!("of {split} are cut to `max_tokens`, {limit}"));
        add(
            &found.no_target,
            &format!(
                "are left out of {split}: no target, for want of an assistant turn before `max_tokens` (see `loss_on`)"
            ),
        );
        add(&found.duplicates, &format!("of {split} have the same text as an earlier one; they are kept"));
    }
    add(&stats.duplicate_ids, "have the id of an earlier row");
    add(&stats.normalized_rows, "are changed by `normalize`");
    add(&stats.trimmed_rows, "are changed by `trim`");
    let special = match config.on_special {
        OnSpecial::Escape => "spell out a control token, which is escaped (`on_special`)",
        _ => "spell out a control token, which is read as one (`on_special`)",
    };
    add(&stats.special_tokens, special);
    let dropped = &stats.leaks;
    add(&dropped.dropped_train_rows, "are left out of train because of a leak (`on_leak`)");
    add(
        &dropped.in_validation.dropped_rows,
        "are left out of validation because they occur in test (`on_leak`)",
    );
    lines
}

#[cfg(test)]
mod tests {
    use outputs::SplitStats;

    use super::*;

    #[test]
    fn every_loss_has_a_line_with_its_count_and_its_setting() {
        let tally = |count: u64| Tally { count, examples: vec!["a (x.jsonl:2): 70 tokens".to_owned()] };
        let split = SplitStats {
            truncated: tally(1),
            too_long: tally(2),
            no_target: tally(3),
            duplicates: tally(4),
            ..SplitStats::default()
        };
        let mut stats = Stats {
            rows_read: 12,
            bad_rows: tally(5),
            duplicate_ids: tally(6),
            normalized_rows: tally(7),
            trimmed_rows: tally(8),
            special_tokens: tally(9),
            splits: [("train".to_owned(), split)].into(),
            ..Stats::default()
        };
        stats.leaks.dropped_train_rows = tally(10);
        stats.leaks.in_validation.dropped_rows = tally(11);
        let lines = warnings(&Config::default(), &stats);
        assert_eq!(lines.len(), 11);
        for count in 1..=11 {
            let found = lines.iter().filter(|line| line.starts_with(&format!("{count} of 12 rows ")));
            assert_eq!(found.count(), 1, "{count}: {lines:#?}");
        }
        assert!(lines.iter().all(|line| line.ends_with("the first is a (x.jsonl:2)")), "{lines:#?}");
        assert!(warnings(&Config::default(), &Stats::default()).is_empty());
    }
}
