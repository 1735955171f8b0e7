//! The figures of a report for programs: `results.csv` and `run.json`.

use std::collections::BTreeMap;

use chart::outline;
use outputs::{RunRecord, RunScore, RunValue, Stop};

use crate::curves;
use crate::error::Error;
use crate::headline;
use crate::report::Report;
use crate::results;
use crate::scores::{Better, Score, Table};

/// Points of a curve that are kept, about.
const POINTS: usize = 100;

/// Returns every score of every model as CSV, with the intervals.
///
/// # Errors
///
/// Fails when memory runs out.
pub(crate) fn csv(table: &Table) -> Result<Vec<u8>, Error> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record([
        "metric",
        "title",
        "better",
        "model",
        "value",
        "low",
        "high",
        "change_against_base",
        "change_low",
        "change_high",
        "rows_better",
        "rows_equal",
        "rows_worse",
        "floor",
    ])?;
    for score in &table.scores {
        let better = match score.better {
            Better::Higher => "higher",
            Better::Lower => "lower",
            Better::Neither => "neither",
        };
        for (model, cell) in table.models.iter().zip(&score.cells) {
            let number = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
            let range = cell.change.and_then(|change| change.range);
            let rows = cell.change.and_then(|change| change.rows);
            let count = |at: usize| rows.map(|rows| rows[at].to_string()).unwrap_or_default();
            writer.write_record([
                guarded(&score.key),
                guarded(&score.name),
                better.to_owned(),
                guarded(model),
                number(cell.value),
                number(cell.interval.map(|[low, _]| low)),
                number(cell.interval.map(|[_, high]| high)),
                number(cell.change.map(|change| change.value)),
                number(range.map(|(low, _)| low)),
                number(range.map(|(_, high)| high)),
                count(0),
                count(1),
                count(2),
                number(score.floor),
            ])?;
        }
    }
    writer.into_inner().map_err(|error| Error::Io(error.into_error()))
}

/// Keeps spreadsheets from reading a name as a formula.
fn guarded(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() }
}

/// Returns the figures that a comparison of runs needs.
pub(crate) fn record(report: &Report<'_>) -> RunRecord {
    let Report { contents, table, config, .. } = report;
    let points = |points: Vec<chart::Point>| -> Vec<[f64; 2]> {
        outline(&points, POINTS / 2).into_iter().map(|point| [point.x, point.y]).collect()
    };
    let settings: BTreeMap<String, serde_json::Value> = contents
        .stages
        .iter()
        .map(|manifest| (manifest.stage.clone(), manifest.key_material.config.clone()))
        .collect();
    RunRecord {
        title: results::title(contents, config),
        split: headline::split(contents).to_owned(),
        rows: contents.scores.rows,
        tuned: table.tuned().map(|model| table.models[model].clone()),
        scores: table.scores.iter().map(|score| (score.key.clone(), run_score(table, score))).collect(),
        settings,
        keys: contents
            .stages
            .iter()
            .map(|manifest| (manifest.stage.clone(), manifest.key.to_string()))
            .collect(),
        chosen_step: contents.choice.step,
        steps: contents.summary.steps,
        stopped: match &contents.summary.stop {
            Stop::Early(reason) => Some(reason.clone()),
            Stop::Finished | Stop::Interrupted => None,
        },
        trainable_parameters: contents.summary.trainable_parameters,
        trained_tokens: contents.summary.trained_tokens,
        training: points(curves::smoothed(contents, config)),
        validation: points(curves::checked(contents)),
    }
}

fn run_score(table: &Table, score: &Score) -> RunScore {
    let models = table.models.iter().zip(&score.cells).filter_map(|(model, cell)| {
        let change = cell.change.and_then(|change| {
            let (low, high) = change.range?;
            Some([change.value, low, high])
        });
        Some((model.clone(), RunValue { value: cell.value?, interval: cell.interval, change }))
    });
    RunScore {
        title: score.name.clone(),
        higher_is_better: match score.better {
            Better::Higher => Some(true),
            Better::Lower => Some(false),
            Better::Neither => None,
        },
        models: models.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_no_formulas() {
        assert_eq!(guarded("=1+2"), "'=1+2");
        assert_eq!(guarded("fused"), "fused");
    }
}
