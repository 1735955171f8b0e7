//! Tables of a comparison: the runs, their scores, and the spread over seeds.

use chart::markup::{Element, classed, element};
use chart::{Bar, Bars};
use outputs::RunValue;

use super::runs::{Run, Runs, is_seed};
use super::{filled, run_head};
use crate::headline::{printed, printed_change};
use crate::number;
use crate::parts::{
    HALF, NARROW_HALF, Section, cell, figure, head, id_of, notes, number_cell, number_column, row_head,
    scrolling, side_by_side, table, words_column,
};

/// Settings that have a column of their own.
const SHOWN_SETTINGS: usize = 12;

/// Returns the runs with the settings in which they differ.
pub(crate) fn overview(runs: &Runs) -> Section {
    let shown = &runs.differing[..runs.differing.len().min(SHOWN_SETTINGS)];
    let mut columns = vec![words_column("Run")];
    columns.extend(shown.iter().map(words_column));
    columns.extend([
        number_column("Chosen step"),
        words_column("End of training"),
        words_column("Key of train"),
    ]);
    let rows = runs.list.iter().map(|run| {
        let record = &run.record;
        let mut cells = vec![run_head(run)];
        cells.extend(shown.iter().map(|name| cell(run.settings.get(name).map_or("–", String::as_str))));
        let end = match &record.stopped {
            Some(reason) => format!("stopped at step {}: {reason}", number::count(record.steps)),
            None => format!("all {} taken", number::counted(record.steps, "step")),
        };
        cells.extend([number_cell(number::count(record.chosen_step)), cell(end)]);
        let key = record.keys.get("train").map(|key| crate::parts::hash(key));
        cells.push(element("td").children(key));
        cells
    });
    let about = match runs.differing.len() {
        0 => "The runs have the same settings.".to_owned(),
        count if count > SHOWN_SETTINGS => {
            format!(
                "Settings in which the runs differ; {} more are not shown.",
                number::count((count - SHOWN_SETTINGS) as u64)
            )
        }
        _ => "Settings in which the runs differ. Everything else is the same.".to_owned(),
    };
    Section::new("runs", "Runs").about(about).add(table("Runs", &columns, rows))
}

/// Returns the scores of all runs, with their intervals.
pub(crate) fn scores(runs: &Runs) -> Option<Section> {
    let keys = runs.scores();
    if keys.is_empty() {
        return None;
    }
    let mut columns = vec![words_column("Run")];
    columns.extend(keys.iter().map(|key| number_column(runs.title(key))));
    let best: Vec<Option<usize>> =
        keys.iter().map(|key| runs.ranked(key).first().map(|(run, _)| run.hue)).collect();
    let mut rows: Vec<Element> = runs
        .list
        .iter()
        .map(|run| {
            let cells = keys.iter().zip(&best).map(|(key, best)| {
                let is_best = *best == Some(run.hue) && runs.list.len() > 1;
                score_cell(key, Runs::value(run, key), is_best)
            });
            element("tr").child(run_head(run)).children(cells)
        })
        .collect();
    rows.extend(base(runs, &keys));
    let grid = classed("table", "plain").child(head(&columns)).child(element("tbody").children(rows));
    let bars = keys.iter().filter(|key| *key != "loss").filter_map(|key| bars(runs, key));
    Some(
        Section::new("scores", "Scores")
            .about("Of the model that each run made. The best value of a column is coloured.")
            .add(scrolling("Scores", grid))
            .add(notes([
                "Brackets: interval of the score. Δ: change against the base of the same run, with its interval.".to_owned(),
            ]))
            .add(side_by_side(bars.map(|bars| figure(&bars, HALF, NARROW_HALF)))),
    )
}

fn score_cell(key: &str, value: Option<RunValue>, best: bool) -> Element {
    let Some(value) = value else { return number_cell("–") };
    let figure = if best { classed("span", "best") } else { element("span") };
    let mut cell = classed("td", "number").child(figure.text(printed(key, value.value)));
    if let Some([low, high]) = value.interval {
        cell = cell.child(classed("span", "cell-detail").text(format!(
            "[{}, {}]",
            printed(key, low),
            printed(key, high)
        )));
    }
    if let Some([change, low, high]) = value.change {
        let ends = format!("[{}, {}]", printed_change(key, low), printed_change(key, high));
        cell = cell
            .child(classed("span", "cell-detail").text(format!("Δ {} {ends}", printed_change(key, change))));
    }
    cell
}

/// Returns a row with the scores of the base, if it is the same in all runs.
fn base(runs: &Runs, keys: &[String]) -> Option<Element> {
    let of =
        |run: &Run, key: &String| run.record.scores.get(key)?.models.get("base").map(|value| value.value);
    let values: Vec<Option<f64>> = keys.iter().map(|key| of(&runs.list[0], key)).collect();
    let same = runs.list.iter().all(|run| {
        keys.iter().zip(&values).all(|(key, value)| of(run, key).map(f64::to_bits) == value.map(f64::to_bits))
    });
    (same && values.iter().any(Option::is_some)).then(|| {
        let cells = keys
            .iter()
            .zip(&values)
            .map(|(key, value)| number_cell(value.map_or("–".to_owned(), |value| printed(key, value))));
        element("tr").child(row_head("Base model")).children(cells)
    })
}

fn bars(runs: &Runs, key: &str) -> Option<Bars> {
    let best = runs.ranked(key).first().map(|(run, _)| run.hue);
    let bars: Vec<Bar> = runs
        .list
        .iter()
        .filter_map(|run| {
            let value = Runs::value(run, key).filter(|value| value.value >= 0.0)?;
            Some(Bar {
                name: run.name.clone(),
                value: value.value,
                interval: value.interval,
                printed: printed(key, value.value),
                strong: Some(run.hue) == best,
            })
        })
        .collect();
    let described: Vec<String> = bars.iter().map(|bar| format!("{} {}", bar.name, bar.printed)).collect();
    (!bars.is_empty()).then(|| Bars {
        name: format!("bars-{}", id_of(key)),
        title: runs.title(key),
        description: format!("{}.", described.join("; ")),
        bars,
        floor: None,
    })
}

/// Returns the mean and the spread of runs that differ in nothing but seeds.
pub(crate) fn seeds(runs: &Runs) -> Option<Section> {
    let groups = runs.groups();
    let keys = runs.scores();
    let mut columns = vec![words_column("Settings"), number_column("Runs")];
    columns.extend(keys.iter().map(|key| number_column(runs.title(key))));
    let named: Vec<&String> = runs.differing.iter().filter(|name| !is_seed(name)).collect();
    let rows = groups.iter().map(|group| {
        let name: Vec<String> = named
            .iter()
            .filter_map(|name| Some(format!("{name} {}", group[0].settings.get(*name)?)))
            .collect();
        let name = if name.is_empty() { "the same in all".to_owned() } else { name.join(", ") };
        let mut cells = vec![row_head(&name), number_cell(number::count(group.len() as u64))];
        cells.extend(keys.iter().map(|key| {
            let values: Vec<f64> =
                group.iter().filter_map(|run| Runs::value(run, key)).map(|value| value.value).collect();
            spread_cell(key, &values)
        }));
        cells
    });
    let mut section = Section::new("seeds", "Spread over seeds");
    if !groups.is_empty() {
        section = section
            .about(
                "Runs that differ in nothing but seeds: mean ± standard deviation, and the lowest and highest value. A \
                 difference between settings that is smaller than this spread may be chance.",
            )
            .add(table("Spread over seeds", &columns, rows));
    }
    filled(section)
}

fn spread_cell(key: &str, values: &[f64]) -> Element {
    let Some((mean, deviation)) = spread(values) else { return number_cell("–") };
    let (low, high) =
        values.iter().fold((f64::MAX, f64::MIN), |(low, high), &value| (low.min(value), high.max(value)));
    number_cell(format!("{} ± {}", printed(key, mean), number::three_digits(deviation))).child(
        classed("span", "cell-detail").text(format!("{} to {}", printed(key, low), printed(key, high))),
    )
}

/// Returns the mean and the standard deviation (with n − 1) of two or more values.
pub(crate) fn spread(values: &[f64]) -> Option<(f64, f64)> {
    if values.len() < 2 {
        return None;
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    Some((mean, (squares / (values.len() - 1) as f64).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_that_of_a_sample() {
        let (mean, deviation) = spread(&[2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0]).expect("enough values");
        assert!((mean - 5.0).abs() < 1e-12 && (deviation - 2.138_089_935_299_395).abs() < 1e-12);
        assert_eq!(spread(&[1.0]), None);
    }
}
