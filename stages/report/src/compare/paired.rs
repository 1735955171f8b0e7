//! Paired comparison of runs that were scored on the same rows: the same draws of rows for both.
//!
//! Two intervals that overlap do not say that two runs are alike, because most of their width is the choice of rows, which both
//! share. The interval of the difference on the same draws says it.

use indexmap::IndexMap;
use metrics::bootstrap::Bootstrap;
use metrics::resample::{Distribution, Units, distributions, tally};
use metrics::{Counts, Formula, Metric};
use outputs::{Difference, Verdict};
use stage::{Context as _, Result};

use super::rows::RunRows;
use super::runs::{Run, Runs};
use crate::number;
use crate::parts::{Section, cell, notes, number_cell, number_column, row_head, table, words_column};
use crate::statistics;

/// Runs of which every pair is compared; of more, each is compared with the first.
const ALL_PAIRS: usize = 4;

/// Two runs on the same rows.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    /// Index of the run.
    pub(crate) run: usize,
    /// Index of the run that it is compared with.
    pub(crate) against: usize,
    /// Score of the run minus that of the other, by metric.
    pub(crate) differences: IndexMap<String, Difference>,
}

/// Scores of several runs on the same rows.
struct Column {
    key: String,
    higher: Option<bool>,
    counts: Vec<Counts>,
    units: Units,
}

/// Compares all runs that have the same rows.
///
/// # Errors
///
/// Fails when the settings of the draws are out of range.
pub(crate) fn pairs(runs: &Runs) -> Result<Vec<Pair>> {
    let mut left: Vec<usize> = (0..runs.list.len()).filter(|&run| runs.list[run].rows.is_some()).collect();
    let mut pairs = Vec::new();
    while let Some(&first) = left.first() {
        let same_rows = |run: &usize| match (&runs.list[first].rows, &runs.list[*run].rows) {
            (Some(a), Some(b)) => a.are_those_of(b),
            _ => false,
        };
        let (alike, others): (Vec<usize>, Vec<usize>) = left.iter().partition(|run| same_rows(run));
        left = others;
        if alike.len() > 1 {
            pairs.extend(pairs_of(runs, &alike)?);
        }
    }
    Ok(pairs)
}

/// Compares runs with the same rows.
fn pairs_of(runs: &Runs, alike: &[usize]) -> Result<Vec<Pair>> {
    let rows: Vec<&RunRows> = alike.iter().filter_map(|&run| runs.list[run].rows.as_ref()).collect();
    let settings = rows[0].bootstrap();
    let mut pairs: Vec<Pair> = all_pairs(alike.len())
        .map(|(later, earlier)| Pair {
            run: alike[later],
            against: alike[earlier],
            differences: IndexMap::new(),
        })
        .collect();
    for column in columns(runs, &rows) {
        let given: Vec<&Counts> = column.counts.iter().collect();
        let drawn = distributions(&column.units, &given, &settings).context("comparing the runs")?;
        for (pair, (later, earlier)) in pairs.iter_mut().zip(all_pairs(alike.len())) {
            let difference = difference(&column, &drawn, [later, earlier], &settings);
            pair.differences.insert(column.key.clone(), difference);
        }
    }
    pairs.retain(|pair| !pair.differences.is_empty());
    Ok(pairs)
}

/// Lists pairs of runs, the later first: all of a few runs, or each with the first.
fn all_pairs(runs: usize) -> impl Iterator<Item = (usize, usize)> {
    let all = (0..runs).flat_map(move |earlier| (earlier + 1..runs).map(move |later| (later, earlier)));
    all.filter(move |(_, earlier)| runs <= ALL_PAIRS || *earlier == 0)
}

/// Returns the scores that all runs have on the rows that all of them scored.
fn columns(runs: &Runs, rows: &[&RunRows]) -> Vec<Column> {
    let mut columns = Vec::new();
    let answered = RunRows::answered_by_all(rows);
    for key in runs.scores() {
        let higher = runs.higher(&key);
        let (used, counts) = match key.as_str() {
            // The difference of losses is the ratio of perplexities, which says the same.
            "loss" => continue,
            "perplexity" => (rows[0].indices(), losses(rows)),
            _ if higher.is_none() || answered.is_empty() => continue,
            key => (answered.clone(), of_answers(key, rows, &answered)),
        };
        let Some(counts) = counts else { continue };
        columns.push(Column { key, higher, counts, units: rows[0].units(&used) });
    }
    columns
}

/// Returns the losses of all runs; `None` if they lack some or have other targets, as with another tokenizer.
fn losses(rows: &[&RunRows]) -> Option<Vec<Counts>> {
    let all: Vec<Vec<[f64; 2]>> = rows.iter().map(|run| run.losses()).collect::<Option<_>>()?;
    let targets = |losses: &[[f64; 2]]| losses.iter().map(|[_, tokens]| tokens.to_bits()).collect::<Vec<_>>();
    let first = targets(&all[0]);
    let same = all.iter().all(|losses| targets(losses) == first);
    same.then(|| all.iter().map(|losses| Counts::of_ratios(Formula::Perplexity, losses)).collect())
}

/// Returns the scores of the answers to some rows; `None` if a run lacks them.
fn of_answers(key: &str, rows: &[&RunRows], answered: &[usize]) -> Option<Vec<Counts>> {
    let of_run = |run: &&RunRows| match Metric::by_name(key) {
        Some(metric) => Some(metric.counts(&run.answers(answered))),
        None => run.row_scores(key, answered).map(|scores| Counts::of_scores(&scores)),
    };
    rows.iter().map(of_run).collect()
}

fn difference(column: &Column, drawn: &[Distribution], pair: [usize; 2], settings: &Bootstrap) -> Difference {
    let [later, earlier] = pair;
    let interval = drawn[later].minus(&drawn[earlier]).interval(settings.confidence);
    let scores = |run: usize| column.counts[run].row_scores();
    let counted = tally(scores(later), scores(earlier), column.higher != Some(false));
    let beyond = (interval.low > 0.0 || interval.high < 0.0) && column.units.len() > 1;
    let verdict = column.higher.map(|higher| match (beyond, (interval.value > 0.0) == higher) {
        (false, _) => Verdict::WithinNoise,
        (true, true) => Verdict::Better,
        (true, false) => Verdict::Worse,
    });
    Difference {
        value: interval.value,
        low: interval.low,
        high: interval.high,
        wins: counted.wins,
        ties: counted.ties,
        losses: counted.losses,
        verdict,
    }
}

impl Pair {
    /// Returns the difference of a score between two runs, whichever of them comes first.
    pub(crate) fn find(pairs: &[Self], key: &str, run: &Run, against: &Run) -> Option<Difference> {
        let found = |pair: &&Self| [pair.run, pair.against] == [run.hue, against.hue];
        if let Some(pair) = pairs.iter().find(found) {
            return pair.differences.get(key).copied();
        }
        let turned = pairs.iter().find(|pair| [pair.against, pair.run] == [run.hue, against.hue])?;
        let Difference { value, low, high, wins, ties, losses, verdict } = *turned.differences.get(key)?;
        let verdict = verdict.map(|verdict| match verdict {
            Verdict::Better => Verdict::Worse,
            Verdict::Worse => Verdict::Better,
            Verdict::WithinNoise => Verdict::WithinNoise,
        });
        Some(Difference { value: -value, low: -high, high: -low, wins: losses, ties, losses: wins, verdict })
    }
}

/// Returns the section; `None` if no two runs have the same rows.
pub(crate) fn section(runs: &Runs, pairs: &[Pair]) -> Option<Section> {
    let first = runs.list.get(pairs.first()?.run)?.rows.as_ref()?;
    let columns = [
        words_column("Runs"),
        words_column("Score"),
        number_column("Difference"),
        words_column("Verdict"),
        number_column("Better, equal, worse"),
    ];
    let lines = pairs.iter().flat_map(|pair| {
        let name = format!("{} against {}", runs.list[pair.run].name, runs.list[pair.against].name);
        pair.differences.iter().map(move |(key, difference)| {
            vec![
                row_head(&name),
                cell(runs.title(key)),
                number_cell(statistics::printed(key, difference)),
                chart::markup::element("td").child(statistics::verdict(difference, false)),
                number_cell(statistics::won(difference)),
            ]
        })
    });
    let Bootstrap { resamples, confidence, seed } = first.bootstrap();
    let mut said = vec![format!(
        "Brackets: {}% interval of the difference, from a paired bootstrap ({} draws of the same rows for both, \
         seed {seed}).",
        (confidence * 1000.0).round() / 10.0,
        number::count(resamples as u64),
    )];
    said.push("Answers are compared on the rows that all of these runs have answered.".to_owned());
    let alone: Vec<&str> = (0..runs.list.len())
        .filter(|run| !pairs.iter().any(|pair| [pair.run, pair.against].contains(run)))
        .map(|run| runs.list[run].name.as_str())
        .collect();
    if !alone.is_empty() {
        said.push(format!(
            "Not compared, because their rows are others or their artifact of evaluate is not in the store: {}.",
            alone.join(", ")
        ));
    }
    Some(
        Section::new("differences", "Differences")
            .about(
                "Runs that were scored on the same rows, row by row. A difference whose interval includes 0 is within noise, \
                 even if the intervals of the two scores are apart.",
            )
            .add(table("Differences between runs", &columns, lines))
            .add(notes(said)),
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use outputs::{Prediction, RowLoss, RunRecord, RunScore, Statistics};

    use super::*;

    /// Makes a run whose answers are right on the rows below `right`, each with a loss of `nats`.
    fn run(hue: usize, ids: usize, right: usize, nats: f64) -> Run {
        let row = |row: usize| Prediction {
            id: format!("r{row}"),
            reference: format!("the chief of island {row}"),
            predictions: [(
                "fused".to_owned(),
                Some(if row < right { format!("the chief of island {row}") } else { "a canoe".to_owned() }),
            )]
            .into(),
            losses: [("fused".to_owned(), RowLoss { loss: nats + row as f64 * 0.01, tokens: 2 })].into(),
            ..Prediction::default()
        };
        let statistics =
            Statistics { resamples: 500, confidence: 0.95, seed: 1, unit: "row".to_owned(), units: 20 };
        let rows = RunRows { model: "fused".to_owned(), rows: (0..ids).map(row).collect(), statistics };
        let score = |higher| RunScore { higher_is_better: Some(higher), ..RunScore::default() };
        let scores = [("perplexity".to_owned(), score(false)), ("chrf".to_owned(), score(true))].into();
        Run {
            name: format!("run {hue}"),
            hue,
            record: RunRecord { tuned: Some("fused".to_owned()), scores, ..RunRecord::default() },
            times: None,
            settings: BTreeMap::new(),
            rows: Some(rows),
        }
    }

    #[test]
    fn runs_on_the_same_rows_are_compared_row_by_row() {
        let other_rows = run(2, 19, 10, 1.0);
        let runs = Runs::new(vec![run(0, 20, 4, 1.0), run(1, 20, 12, 0.8), other_rows]);
        let pairs = pairs(&runs).expect("rows");
        assert_eq!(pairs.len(), 1);
        let better = pairs[0].differences["chrf"];
        assert!(better.low > 0.0 && better.verdict == Some(Verdict::Better), "{better:?}");
        assert_eq!((better.wins, better.ties, better.losses), (8, 12, 0));
        // Every row loses 0.1 nats per target, so the interval is narrow although the rows differ.
        let perplexity = pairs[0].differences["perplexity"];
        assert!(perplexity.high < 0.0 && perplexity.high - perplexity.low < 0.02, "{perplexity:?}");
        let turned = Pair::find(&pairs, "chrf", &runs.list[0], &runs.list[1]).expect("the pair");
        assert!(turned.verdict == Some(Verdict::Worse) && (turned.value + better.value).abs() < 1e-12);
        assert!(section(&runs, &pairs).is_some());
    }

    #[test]
    fn equal_runs_are_within_noise_and_other_targets_have_no_difference_of_losses() {
        let mut changed = run(1, 20, 4, 1.0);
        for row in &mut changed.rows.as_mut().expect("rows").rows {
            row.losses.get_mut("fused").expect("a loss").tokens = 3;
        }
        let runs = Runs::new(vec![run(0, 20, 4, 1.0), changed]);
        let pairs = pairs(&runs).expect("rows");
        assert_eq!(pairs[0].differences["chrf"].verdict, Some(Verdict::WithinNoise));
        assert!(!pairs[0].differences.contains_key("perplexity"));
    }

    #[test]
    fn runs_without_rows_have_no_section() {
        let mut first = run(0, 20, 4, 1.0);
        first.rows = None;
        let runs = Runs::new(vec![first, run(1, 20, 4, 1.0)]);
        let pairs = pairs(&runs).expect("nothing to compare");
        assert!(pairs.is_empty() && section(&runs, &pairs).is_none());
    }
}
