//! The score table of an artifact with statistics: scores, intervals and comparisons as evaluate measured them.

use outputs::{Comparison, Difference, Direction, MetricInfo, ModelScores};

use crate::headline::metric_name;
use crate::number;
use crate::scores::{Better, Cell, Change, Kind, Score, Table};
use crate::source::Contents;

/// Metrics from 0 to 100.
const POINTS: [&str; 15] = [
    "bleu",
    "bleu_intl",
    "bleu_char",
    "bleu_zh",
    "bleu_none",
    "chrf",
    "chrf_plus_plus",
    "exact_match",
    "label_accuracy",
    "label_f1",
    "token_f1",
    "json_valid",
    "json_fields",
    "tool_calls",
    "repetition",
];

/// The floor that has a column; others are notes.
const FLOOR: &str = "shuffled_reference";

/// Takes the table from what evaluate measured.
pub(crate) fn table(contents: &Contents) -> Table {
    let scores = &contents.scores;
    let models: Vec<String> = contents.models().into_iter().map(str::to_owned).collect();
    let first = scores.models.keys().next();
    let reference = models.iter().position(|model| Some(model) == first).filter(|_| models.len() > 1);
    let generated = contents.predictions.iter().filter(|row| !row.predictions.is_empty()).count();
    let mut table = Table { models, generated, ..Table::default() };
    table.compare_with(reference);
    if let (Some(gate), true) = (&scores.gate, reference.is_some()) {
        table.made = table.models.iter().position(|model| *model == gate.model).or(table.made);
    }
    let ordered = ["perplexity", "loss"].into_iter().filter(|name| has(contents, name));
    let others =
        scores.metrics.keys().map(String::as_str).filter(|name| !["perplexity", "loss"].contains(name));
    table.scores = ordered.chain(others).map(|name| score(contents, &table, name)).collect();
    share_perplexity(&mut table);
    table.unchanged = scores
        .comparisons
        .iter()
        .filter(|pair| pair.identical && Some(&pair.against) == first)
        .map(|pair| pair.model.clone())
        .collect();
    table.intervals = statistics(contents);
    table.notes = notes(contents);
    table
}

/// Gives changes of perplexity an interval as a share of the base's perplexity.
///
/// A ratio of perplexities is a difference of mean losses, so rows that are hard for both models cancel out. In the interval of the
/// difference of perplexities they do not.
fn share_perplexity(table: &mut Table) {
    let Some(losses) = table.score("loss").map(|loss| loss.cells.clone()) else { return };
    let Some(perplexity) = table.scores.iter_mut().find(|score| score.kind == Kind::Perplexity) else {
        return;
    };
    for (cell, loss) in perplexity.cells.iter_mut().zip(losses) {
        let range = loss.change.and_then(|change| change.range);
        if let Some(change) = &mut cell.change {
            change.shares = range.map(|(low, high)| (low.exp_m1(), high.exp_m1()));
        }
    }
}

fn has(contents: &Contents, name: &str) -> bool {
    contents.scores.models.values().any(|scores| value(scores, name).is_some())
}

fn value(scores: &ModelScores, name: &str) -> Option<f64> {
    match name {
        "loss" => scores.loss,
        "perplexity" => scores.perplexity,
        name => scores.text.get(name).copied(),
    }
}

fn score(contents: &Contents, table: &Table, key: &str) -> Score {
    let scores = &contents.scores;
    let info = scores.metrics.get(key).cloned().unwrap_or_else(|| MetricInfo {
        title: metric_name(key),
        better: if ["loss", "perplexity"].contains(&key) { Direction::Lower } else { Direction::Neither },
        signature: String::new(),
    });
    let base = table.base().map(|base| table.models[base].as_str());
    let cells = table.models.iter().map(|model| {
        let measured = &scores.models[model];
        let pair = base.and_then(|base| comparison(&scores.comparisons, model, base));
        let change = pair.and_then(|pair| pair.metrics.get(key)).map(change);
        let by_value = || {
            let base = base.filter(|base| base != model)?;
            let value = value(measured, key)? - value(&scores.models[base], key)?;
            Some(Change { value, range: None, shares: None, rows: None })
        };
        Cell {
            value: value(measured, key),
            interval: measured.intervals.get(key).copied(),
            change: change.or_else(by_value),
        }
    });
    Score {
        key: key.to_owned(),
        unit: if key == "loss" { "nats per token" } else { "" },
        kind: kind(key),
        better: match info.better {
            Direction::Higher => Better::Higher,
            Direction::Lower => Better::Lower,
            Direction::Neither => Better::Neither,
        },
        cells: cells.collect(),
        floor: scores.floors.get(FLOOR).and_then(|floor| floor.get(key)).copied(),
        name: if info.title.is_empty() { metric_name(key) } else { capital(&info.title) },
    }
}

/// Returns a title with a capital first letter, unless its spelling is its own, as in `chrF`.
fn capital(title: &str) -> String {
    if title.chars().skip(1).any(char::is_uppercase) { title.to_owned() } else { number::words(title) }
}

fn kind(key: &str) -> Kind {
    match key {
        "loss" => Kind::Loss,
        "perplexity" => Kind::Perplexity,
        key if POINTS.contains(&key) => Kind::Points,
        "ter" => Kind::EditRate,
        "similarity" | "length_ratio" => Kind::Unit,
        _ => Kind::Other,
    }
}

fn comparison<'a>(pairs: &'a [Comparison], model: &str, against: &str) -> Option<&'a Comparison> {
    pairs.iter().find(|pair| pair.model == model && pair.against == against)
}

fn change(difference: &Difference) -> Change {
    let Difference { value, low, high, wins, ties, losses, .. } = *difference;
    let rows = (wins + ties + losses > 0).then_some([wins, ties, losses]);
    let known = low.is_finite() && high.is_finite();
    Change { value, range: known.then_some((low, high)), shares: None, rows }
}

/// Returns how the intervals were made.
fn statistics(contents: &Contents) -> String {
    let Some(statistics) = &contents.scores.statistics else { return "as evaluate measured it".to_owned() };
    format!(
        "{}% interval, from a paired bootstrap over {}s ({} draws of {}, seed {})",
        (statistics.confidence * 1000.0).round() / 10.0,
        statistics.unit,
        number::count(statistics.resamples),
        number::counted(statistics.units, &statistics.unit),
        statistics.seed
    )
}

fn notes(contents: &Contents) -> Vec<String> {
    let mut notes = Vec::new();
    for (model, scores) in &contents.scores.models {
        let counts = [
            (scores.failed_rows.len() as u64, "without an answer or a score, counted as 0"),
            (scores.empty_answers, "with an empty answer"),
            (scores.unfinished_answers, "with an answer cut at the length limit"),
            (scores.not_extracted, "without the text that `extract` looks for"),
        ];
        let counts: Vec<String> = counts
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{} {what}", number::counted(count, "row")))
            .collect();
        if !counts.is_empty() {
            notes.push(format!("{}: {}.", crate::headline::model_name(model), counts.join(", ")));
        }
    }
    for (name, floors) in contents.scores.floors.iter().filter(|(name, _)| *name != FLOOR) {
        let intervals = contents.scores.floor_intervals.get(name);
        let floors: Vec<String> = floors
            .iter()
            .map(|(metric, value)| {
                let digits = if matches!(kind(metric), Kind::Points | Kind::EditRate) { 1 } else { 3 };
                let interval = intervals.and_then(|intervals| intervals.get(metric)).map(|[low, high]| {
                    format!(" [{}, {}]", number::fixed(*low, digits), number::fixed(*high, digits))
                });
                format!(
                    "{} {}{}",
                    metric_name(metric),
                    number::fixed(*value, digits),
                    interval.unwrap_or_default()
                )
            })
            .collect();
        notes.push(format!("Floor, {}: {}.", name.replace('_', " "), floors.join(", ")));
    }
    let signed = contents.scores.metrics.iter().filter(|(_, info)| !info.signature.is_empty());
    let signed: Vec<String> =
        signed.map(|(key, info)| format!("{} {}", metric_name(key), info.signature)).collect();
    if !signed.is_empty() {
        notes.push(format!("sacreBLEU signatures: {}.", signed.join("; ")));
    }
    notes
}
