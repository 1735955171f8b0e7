//! `metrics.json`: the scores of each model, the floors, and what the draws tell about them.

use std::collections::BTreeMap;

use failure::Result;
use indexmap::IndexMap;
use metrics::{Counts, Formula};
use outputs::{Direction, FailedRow, MetricInfo, ModelScores, ModelSource, Scores, Statistics, Subgroup};

use crate::answers::{Scored, Scorer};
use crate::config::{Config, GROUP, LENGTH};
use crate::external::ScoresFile;
use crate::known::{SIMILARITY, known_info};
use crate::outcome::Outcome;
use crate::parts::{Part, parts_by, parts_by_column, parts_by_length};
use crate::rows::Rows;
use crate::statistics::{Column, Pairs, Summary, columns_of, summarize, units};

/// Largest difference of a loss, in nats per target, that counts as no change.
const NO_CHANGE: f64 = 1e-4;

/// Returns the description of a score by its name. One that was made elsewhere has the better direction of the settings, or none.
fn info_of(name: &str, config: &Config) -> MetricInfo {
    let is_in = |names: &[String]| names.iter().any(|known| known == name);
    known_info(name).unwrap_or_else(|| {
        let better = match (is_in(&config.higher_is_better), is_in(&config.lower_is_better)) {
            (true, _) => Direction::Higher,
            (_, true) => Direction::Lower,
            _ => Direction::Neither,
        };
        MetricInfo { title: name.to_owned(), better, ..MetricInfo::default() }
    })
}

/// The answers of all subjects as they are scored, by subject and in the order of the prompts.
pub(crate) struct ScoredAnswers(pub(crate) Vec<Vec<Scored>>);

impl ScoredAnswers {
    /// Finds the texts to score.
    pub(crate) fn new(rows: &Rows, outcomes: &[Outcome], config: &Config) -> Self {
        let scorer = Scorer::new(config);
        let of =
            |outcome: &Outcome| rows.asked.iter().map(|row| scorer.apply(&outcome.answers[row])).collect();
        Self(outcomes.iter().map(of).collect())
    }
}

/// Similarities of meaning to the references, in the order of the prompts.
#[derive(Debug, Default)]
pub(crate) struct Similarities {
    /// By subject; a row without an answer has 0.
    pub(crate) systems: Vec<Vec<f64>>,
    /// By floor.
    pub(crate) floors: BTreeMap<String, Vec<f64>>,
}

/// Answers made without a model, in the order of the prompts, by name of the floor.
pub(crate) fn floor_answers(rows: &Rows, seed: u64) -> BTreeMap<String, Vec<&str>> {
    if rows.asked.is_empty() {
        return BTreeMap::new();
    }
    let copied = Some(("copied_source".to_owned(), rows.sources()));
    let shuffled = metrics::floor::shuffled(&rows.references(), seed);
    let shuffled = shuffled.map(|answers| ("shuffled_reference".to_owned(), answers));
    copied.into_iter().chain(shuffled).collect()
}

/// Makes the columns of all scores: losses of all rows, then scores of the answers.
pub(crate) fn columns(
    rows: &Rows,
    outcomes: &[Outcome],
    scored: &ScoredAnswers,
    similarities: Option<&Similarities>,
    config: &Config,
) -> Vec<Column> {
    let mut columns = loss_columns(rows, outcomes, config);
    if rows.asked.is_empty() {
        return columns;
    }
    let references = rows.references();
    let floors = floor_answers(rows, config.seed);
    for metric in config.answer_metrics() {
        if let Some(doubt) = metric.doubt(&references) {
            tracing::warn!("`{}`: {doubt}", metric.name());
        }
        let counts = |answers: &mut dyn Iterator<Item = Option<&str>>| {
            let pairs: Vec<_> = answers.zip(references.iter().copied()).collect();
            metric.counts(&pairs)
        };
        let systems =
            scored.0.iter().map(|rows| Some(counts(&mut rows.iter().map(|row| row.text.as_deref()))));
        let floors = floors
            .iter()
            .map(|(name, answers)| (name.clone(), counts(&mut answers.iter().map(|answer| Some(*answer)))));
        columns.push(Column {
            name: metric.name().to_owned(),
            info: info_of(metric.name(), config),
            rows: rows.asked.clone(),
            systems: systems.collect(),
            floors: floors.collect(),
        });
    }
    if let Some(similarities) = similarities {
        let floors =
            similarities.floors.iter().map(|(name, scores)| (name.clone(), Counts::of_scores(scores)));
        columns.push(Column {
            name: SIMILARITY.to_owned(),
            info: info_of(SIMILARITY, config),
            rows: rows.asked.clone(),
            systems: similarities.systems.iter().map(|scores| Some(Counts::of_scores(scores))).collect(),
            floors: floors.collect(),
        });
    }
    columns
}

/// Makes the columns of loss and perplexity, if any subject has losses.
fn loss_columns(rows: &Rows, outcomes: &[Outcome], config: &Config) -> Vec<Column> {
    if outcomes.iter().all(|outcome| outcome.losses.is_none()) {
        return Vec::new();
    }
    let counts = |formula: Formula| -> Vec<Option<Counts>> {
        let of_rows = outcomes.iter().map(|outcome| {
            let losses = outcome.losses.as_ref()?.iter();
            let sums: Vec<[f64; 2]> = losses.map(|row| [row.loss, row.tokens as f64]).collect();
            Some(Counts::of_ratios(formula, &sums))
        });
        of_rows.collect()
    };
    [("perplexity", Formula::Perplexity), ("loss", Formula::MEAN)]
        .map(|(name, formula)| Column {
            name: name.to_owned(),
            info: info_of(name, config),
            rows: (0..rows.all.len()).collect(),
            systems: counts(formula),
            floors: BTreeMap::new(),
        })
        .into()
}

/// Computes `metrics.json` of models and answers, without the verdict of the gate.
pub(crate) fn scores(
    rows: &Rows,
    outcomes: &[Outcome],
    scored: &ScoredAnswers,
    columns: &[Column],
    config: &Config,
) -> Result<Scores> {
    let names: Vec<&str> = outcomes.iter().map(|outcome| outcome.name.as_str()).collect();
    let groups: Vec<Option<String>> = rows.all.iter().map(|row| row.group.clone()).collect();
    let summary = summarize(columns, names.len(), &groups, Pairs::All, config)?;
    let identical = |a: usize, b: usize| is_identical(&outcomes[a], &outcomes[b]);
    let models = outcomes.iter().zip(&scored.0).enumerate().map(|(index, (outcome, scored))| {
        (outcome.name.clone(), model_scores(rows, outcome, scored, &summary.systems[index]))
    });
    let mut all = Scores {
        models: models.collect(),
        rows: rows.all.len() as u64,
        split: rows.split.clone(),
        comparisons: summary.comparisons(&names, identical),
        subgroups: subgroups(&parts(rows, config)?, columns, &names, &groups, config, &identical)?,
        ..described(columns, &summary, &groups, config)
    };
    all.subgroups.retain(|group| group.rows < all.rows);
    Ok(all)
}

/// Computes `metrics.json` of scores that were made elsewhere.
pub(crate) fn external_scores(file: &ScoresFile, config: &Config) -> Result<Scores> {
    let names: Vec<&str> = file.systems.keys().map(String::as_str).collect();
    let metrics: Vec<&String> =
        file.systems.values().next().map(|scores| scores.keys().collect()).unwrap_or_default();
    let columns: Vec<Column> = metrics
        .into_iter()
        .map(|name| {
            let of = |scores: &IndexMap<String, Vec<Option<f64>>>| {
                // A row without a score has failed and counts as 0; a system without any score does not have the metric.
                let column = &scores[name];
                let any = column.iter().any(Option::is_some);
                let values: Vec<f64> = column.iter().map(|score| score.unwrap_or(0.0)).collect();
                any.then(|| Counts::of_scores(&values))
            };
            Column {
                name: name.clone(),
                info: info_of(name, config),
                rows: (0..file.rows.len()).collect(),
                systems: file.systems.values().map(of).collect(),
                floors: BTreeMap::new(),
            }
        })
        .collect();
    let summary = summarize(&columns, names.len(), &file.groups, Pairs::All, config)?;
    let identical = |a: usize, b: usize| file.systems[a] == file.systems[b];
    let models = file.systems.iter().zip(&summary.systems).map(|((name, scores), summary)| {
        let mut failed = Vec::new();
        for (metric, column) in scores {
            let missing = column.iter().zip(&file.rows).filter(|(score, _)| score.is_none());
            let reason = format!("the file has no `{metric}`");
            failed.extend(missing.map(|(_, id)| FailedRow { id: id.clone(), reason: reason.clone() }));
        }
        let mut model = estimates(summary);
        model.source = ModelSource::Scores;
        model.generated_rows = file.rows.len() as u64;
        model.failed_rows = failed;
        (name.clone(), model)
    });
    let by_setting = config.subgroups.iter().map(|by| match by.as_str() {
        // A file of scores has no texts.
        LENGTH => Vec::new(),
        GROUP => parts_by(by, &file.groups),
        column => parts_by_column(by, &file.columns[column]),
    });
    let parts: Vec<Part> = by_setting.flatten().collect();
    Ok(Scores {
        models: models.collect(),
        rows: file.rows.len() as u64,
        split: "external".to_owned(),
        comparisons: summary.comparisons(&names, identical),
        subgroups: subgroups(&parts, &columns, &names, &file.groups, config, &identical)?,
        ..described(&columns, &summary, &file.groups, config)
    })
}

/// Returns the parts of the result that do not depend on the subjects.
fn described(columns: &[Column], summary: &Summary, groups: &[Option<String>], config: &Config) -> Scores {
    let split = |pick: fn(&(f64, [f64; 2])) -> f64| -> BTreeMap<String, BTreeMap<String, f64>> {
        let floors = summary.floors.iter();
        let of = |scores: &BTreeMap<String, (f64, [f64; 2])>| {
            scores.iter().map(|(name, estimate)| (name.clone(), pick(estimate))).collect()
        };
        floors.map(|(floor, scores)| (floor.clone(), of(scores))).collect()
    };
    let intervals = summary.floors.iter().map(|(floor, scores)| {
        (floor.clone(), scores.iter().map(|(name, (_, ends))| (name.clone(), *ends)).collect())
    });
    let statistics = columns.last().map(|column| {
        let drawn = units(&column.rows, groups, config.unit);
        Statistics {
            resamples: config.resamples as u64,
            confidence: config.confidence,
            seed: config.seed,
            unit: if drawn.has_groups() { "group" } else { "row" }.to_owned(),
            units: drawn.len() as u64,
        }
    });
    Scores {
        floors: split(|estimate| estimate.0),
        floor_intervals: intervals.collect(),
        metrics: columns.iter().map(|column| (column.name.clone(), column.info.clone())).collect(),
        statistics,
        ..Scores::default()
    }
}

/// Returns scores and intervals of a system.
fn estimates(summary: &IndexMap<String, (f64, [f64; 2])>) -> ModelScores {
    let value = |name: &str| summary.get(name).map(|(value, _)| *value);
    let is_text = |name: &str| name != "loss" && name != "perplexity";
    ModelScores {
        loss: value("loss"),
        perplexity: value("perplexity"),
        intervals: summary.iter().map(|(name, (_, ends))| (name.clone(), *ends)).collect(),
        text: summary
            .iter()
            .filter(|(name, _)| is_text(name))
            .map(|(name, (value, _))| (name.clone(), *value))
            .collect(),
        ..ModelScores::default()
    }
}

fn model_scores(
    rows: &Rows,
    outcome: &Outcome,
    scored: &[Scored],
    summary: &IndexMap<String, (f64, [f64; 2])>,
) -> ModelScores {
    let answers = || outcome.answers.values();
    let failed = rows.asked.iter().zip(scored).filter_map(|(&row, scored)| {
        Some(FailedRow { id: rows.all[row].id.clone(), reason: scored.failure.clone()? })
    });
    let is_empty = |scored: &&Scored| scored.text.as_ref().is_some_and(|text| text.trim().is_empty());
    ModelScores {
        source: outcome.source,
        generated_rows: rows.asked.len() as u64,
        tokens: outcome.losses.iter().flatten().map(|row| row.tokens).sum(),
        failed_rows: failed.collect(),
        empty_answers: scored.iter().filter(is_empty).count() as u64,
        unfinished_answers: answers().filter(|answer| answer.is_unfinished).count() as u64,
        not_extracted: scored.iter().filter(|scored| scored.not_extracted).count() as u64,
        ..estimates(summary)
    }
}

/// Returns whether two outcomes are the same: every answer, and every loss but for rounding.
fn is_identical(a: &Outcome, b: &Outcome) -> bool {
    let same_losses = match (&a.losses, &b.losses) {
        (Some(a), Some(b)) => {
            a.iter().zip(b).all(|(a, b)| (a.loss - b.loss).abs() <= NO_CHANGE * a.tokens.max(1) as f64)
        }
        _ => !a.answers.is_empty(),
    };
    same_losses && a.answers == b.answers
}

/// Divides the rows as the settings say.
fn parts(rows: &Rows, config: &Config) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    for by in &config.subgroups {
        let mut found = match by.as_str() {
            LENGTH => {
                let length =
                    |row: &crate::rows::Row| row.has_reference.then(|| row.reference.chars().count());
                parts_by_length(by, &rows.all.iter().map(length).collect::<Vec<_>>())
            }
            GROUP => parts_by(by, &rows.all.iter().map(|row| row.group.clone()).collect::<Vec<_>>()),
            column => {
                let values: Vec<_> = rows.all.iter().map(|row| row.columns.get(column).cloned()).collect();
                if values.iter().all(Option::is_none) {
                    return Err(failure::Error::usage(format!(
                        "`subgroups` has `{column}`, a column that no row has"
                    ))
                    .hinted(
                        "use `length`, `group`, a field that prepare-data keeps (`columns`), or a column of the first predictions file",
                    ));
                }
                parts_by_column(by, &values)
            }
        };
        parts.append(&mut found);
    }
    Ok(parts)
}

fn subgroups(
    parts: &[Part],
    columns: &[Column],
    names: &[&str],
    groups: &[Option<String>],
    config: &Config,
    identical: &dyn Fn(usize, usize) -> bool,
) -> Result<Vec<Subgroup>> {
    let mut all = Vec::new();
    for part in parts {
        let columns = columns_of(columns, part);
        if columns.is_empty() {
            continue;
        }
        let summary = summarize(&columns, names.len(), groups, Pairs::WithFirst, config)?;
        let of = |index: usize| summary.systems[index].iter();
        let named = |index: usize| names[index].to_owned();
        all.push(Subgroup {
            by: part.by.clone(),
            value: part.value.clone(),
            rows: part.rows.len() as u64,
            scores: (0..names.len())
                .map(|i| (named(i), of(i).map(|(name, (value, _))| (name.clone(), *value)).collect()))
                .collect(),
            intervals: (0..names.len())
                .map(|i| (named(i), of(i).map(|(name, (_, ends))| (name.clone(), *ends)).collect()))
                .collect(),
            comparisons: summary.comparisons(names, identical),
        });
    }
    Ok(all)
}
