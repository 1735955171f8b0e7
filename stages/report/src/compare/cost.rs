//! Cost of the runs: time, memory, and how much was trained.

use super::run_head;
use super::runs::{Run, Runs};
use crate::number;
use crate::parts::{Section, notes, number_cell, number_column, table, words_column};
use crate::times::duration;

/// Returns the section.
pub(crate) fn section(runs: &Runs) -> Section {
    let mut columns = vec![words_column("Run")];
    columns.extend(
        [
            "All stages",
            "Train",
            "Tokens per second",
            "Peak memory of train",
            "Tokens trained",
            "Trained parameters",
        ]
        .map(number_column),
    );
    let rows = runs.list.iter().map(|run| {
        let seconds = |seconds: Option<f64>| seconds.map_or("–".to_owned(), duration);
        let train = run.times.as_ref().and_then(|times| times.stages.get("train"));
        let speed = run.times.as_ref().and_then(|times| times.tokens_per_second);
        let memory = train.and_then(|train| train.peak_memory_bytes);
        vec![
            run_head(run),
            number_cell(seconds(whole(run))),
            number_cell(seconds(train.and_then(|train| train.wall_seconds))),
            number_cell(speed.map_or("–".to_owned(), number::three_digits)),
            number_cell(memory.map_or("–".to_owned(), number::bytes)),
            number_cell(number::count(run.record.trained_tokens)),
            number_cell(number::count(run.record.trainable_parameters)),
        ]
    });
    let section = Section::new("cost", "Cost").add(table("Cost", &columns, rows));
    let timed = runs.list.iter().any(|run| run.times.is_some());
    section.add(notes([if timed {
        "Times are those of making each artifact; a stage that several runs share counts in each.".to_owned()
    } else {
        "The reports have no times: they were made to be the same to the byte.".to_owned()
    }]))
}

/// Returns the time of all stages together.
fn whole(run: &Run) -> Option<f64> {
    let seconds: Vec<f64> =
        run.times.as_ref()?.stages.values().filter_map(|times| times.wall_seconds).collect();
    (!seconds.is_empty()).then(|| seconds.iter().sum())
}
