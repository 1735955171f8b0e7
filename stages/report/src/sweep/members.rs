//! The members of a sweep: settings, validation losses with their spread over seeds, and how far each was trained.

use chart::markup::{Element, element};
use outputs::SweepMember;

use super::{Sweep, title};
use crate::compare::tables::spread;
use crate::number;
use crate::parts::{Section, cell, notes, number_cell, number_column, pill, row_head, table, words_column};

/// Returns the section, with the best member first.
pub(super) fn section(sweep: &Sweep) -> Section {
    let record = &sweep.record;
    let mut columns = vec![words_column("Member")];
    columns.extend(record.varied.iter().map(words_column));
    columns.extend([number_column("Runs"), number_column("Steps"), number_column("Validation loss")]);
    columns
        .extend(record.metric().map(|(metric, _)| number_column(format!("Validation {}", title_of(metric)))));
    columns.push(words_column("State"));
    let longest = record.members.iter().filter_map(SweepMember::steps).max();
    let mut members: Vec<&SweepMember> = record.members.iter().collect();
    let key = |member: &SweepMember| {
        (
            std::cmp::Reverse(member.steps().filter(|_| member.loss().is_some())),
            record.cost(member).unwrap_or(f64::INFINITY),
        )
    };
    members.sort_by(|a, b| {
        let (a, b) = (key(a), key(b));
        a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
    });
    let best = record.best().map(|best| best.name.as_str());
    let rows = members.into_iter().map(|member| {
        let mut cells = vec![row_head(&title(member))];
        let value = |name: &String| member.values.get(name).map_or("–", String::as_str);
        cells.extend(record.varied.iter().map(|name| cell(value(name))));
        cells.push(number_cell(number::count(member.runs.len() as u64)));
        cells.push(number_cell(member.steps().map_or("–".to_owned(), number::count)));
        cells.push(mean_cell(member.runs.iter().map(|run| run.validation_loss)));
        cells.extend(record.metric().map(|_| {
            mean_cell(member.runs.iter().map(|run| run.validation_score.as_ref().map(|score| score.value)))
        }));
        cells.push(element("td").child(state(member, best, longest)));
        cells
    });
    Section::new("members", "Members")
        .about(about(sweep))
        .add(table("Members", &columns, rows))
        .add(notes([
            "Members are compared on the validation split, so that the scores on the test split below stay unbiased.".to_owned(),
        ]))
}

fn about(sweep: &Sweep) -> String {
    let record = &sweep.record;
    let members = number::counted(record.members.len() as u64, "member");
    let search = match record.search.as_str() {
        "grid" => "every combination of values",
        "random" => "values drawn at random",
        "halving" => "successive halving",
        "tpe" => "proposed by tree-structured Parzen estimators",
        other => other,
    };
    let trained = number::count(record.trained_steps);
    match record.full_steps {
        Some(full) => format!(
            "{members}: {search}. {trained} steps were trained, {} of the {} of a grid.",
            number::percent_of(record.trained_steps as f64 / full.max(1) as f64),
            number::count(full)
        ),
        None => format!("{members}: {search}. {trained} steps were trained."),
    }
}

/// Returns the name of a metric for readers.
pub(super) fn title_of(metric: &str) -> &str {
    metrics::Metric::by_name(metric).map_or(metric, |known| known.title())
}

/// Returns the mean over the runs, with the spread over seeds.
fn mean_cell(of_runs: impl Iterator<Item = Option<f64>>) -> Element {
    let numbers: Vec<f64> = of_runs.flatten().collect();
    match (spread(&numbers), numbers.first()) {
        (Some((mean, deviation)), _) => {
            number_cell(format!("{} ± {}", number::fixed(mean, 3), number::three_digits(deviation)))
        }
        (None, Some(only)) => number_cell(number::fixed(*only, 3)),
        (None, None) => number_cell("–"),
    }
}

fn state(member: &SweepMember, best: Option<&str>, longest: Option<u64>) -> Element {
    let failed = member.runs.iter().filter(|run| run.failed).count();
    if failed > 0 {
        return pill("worse", &format!("{failed} of {} failed", member.runs.len()));
    }
    if best == Some(member.name.as_str()) {
        return pill("better", "best");
    }
    match member.steps() {
        Some(steps) if longest.is_some_and(|longest| steps < longest) && !has_report(member) => {
            pill("level", &format!("left after {} steps", number::count(steps)))
        }
        _ => pill("level", "finished"),
    }
}

fn has_report(member: &SweepMember) -> bool {
    member.runs.iter().any(|run| run.report.is_some())
}
