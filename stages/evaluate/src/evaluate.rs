//! All subjects on one split.

use std::path::Path;

use failure::{Context, Error, Result};
use mlx_ext::Backend;
use outputs::{Direction, Document, ModelSource, Scores};
use stage::StopFlag;

use crate::config::{Config, GROUP, GateSettings, LENGTH};
use crate::endpoint;
use crate::external::{PredictionsFile, ScoresFile};
use crate::files::{write_predictions, write_token_losses};
use crate::gate::{self, Contest, GuardLosses};
use crate::guard::{GuardSet, GuardSource};
use crate::inputs::{DatasetFolders, Subject, TestSplit, limit};
use crate::outcome::{Outcome, Runner};
use crate::rows::Rows;
use crate::scores::{self, ScoredAnswers, Similarities};

/// Subjects of an evaluation, and what it needs.
#[derive(Debug)]
pub struct Task<'a> {
    /// The subjects; the others are compared with the first.
    pub subjects: Vec<Subject>,
    /// The dataset; `None` if the answers come from files that have the references.
    pub dataset: Option<DatasetFolders<'a>>,
    /// Folder of the sentence encoder, if similarity is scored.
    pub encoder: Option<&'a Path>,
    /// Guard set of the gate.
    pub guard: Option<GuardSource>,
    /// Where models run; `None` if nothing runs here.
    pub backend: Option<&'a Backend>,
    /// Folder that keeps the answers of endpoints if the run fails.
    pub work: &'a Path,
}

/// Writes `predictions.jsonl`, `metrics.json` and, with `token_losses`, `token_losses.jsonl` to `out`; returns the scores.
///
/// # Errors
///
/// Fails when a model, a file or the dataset cannot be read, when a loss is not finite, when an endpoint refuses to answer, or
/// when `stop` is set between two subjects.
pub fn evaluate(task: &Task<'_>, config: &Config, out: &Path, stop: &StopFlag) -> Result<Scores> {
    let names: Vec<&str> = task.subjects.iter().map(Subject::name).collect();
    let contest = config.gate.as_ref().map(|gate| Contest::new(gate, &names)).transpose()?;
    let (split, rows) = open_rows(task, config)?;
    let (outcomes, guard) = outcomes(task, config, split.as_ref(), &rows, contest.clone(), stop)?;
    let scored = ScoredAnswers::new(&rows, &outcomes, config);
    let similarities = similarities(task, &rows, &scored, config)?;
    let columns = scores::columns(&rows, &outcomes, &scored, similarities.as_ref(), config);
    write_predictions(&rows, &outcomes, &scored, &columns, out)?;
    if let (true, Some(split)) = (config.token_losses, &split) {
        write_token_losses(&rows, split, &outcomes, out)?;
    }
    let mut scores = scores::scores(&rows, &outcomes, &scored, &columns, config)?;
    if let (Some(settings), Some(contest)) = (&config.gate, &contest) {
        let guarded = match &guard {
            Some(set) => Some(guard_result(set, &outcomes, contest, settings, config)?),
            None => None,
        };
        scores.gate = Some(gate::decide(settings, contest, &scores, guarded)?);
    }
    scores.write(out)?;
    Ok(scores)
}

/// Writes `metrics.json` of a file with scores to `out`, and an empty `predictions.jsonl`; returns the scores.
///
/// # Errors
///
/// Fails when the file cannot be read, or when a score is missing in which 0 would not be bad.
pub fn evaluate_scores(file: &Path, config: &Config, out: &Path) -> Result<Scores> {
    let labels: Vec<&str> =
        config.subgroups.iter().map(String::as_str).filter(|by| ![LENGTH, GROUP].contains(by)).collect();
    let read = ScoresFile::read(file, &labels)?;
    let mut scores = scores::external_scores(&read, config)?;
    refuse_missing(file, &read, &scores)?;
    if let Some(settings) = &config.gate {
        let names: Vec<&str> = scores.models.keys().map(String::as_str).collect();
        let contest = Contest::new(settings, &names)?;
        scores.gate = Some(gate::decide(settings, &contest, &scores, None)?);
    }
    fs_err::write(out.join(outputs::PREDICTIONS), "")?;
    scores.write(out)?;
    Ok(scores)
}

/// Refuses a missing score, which counts as 0, unless higher is better. A system without any has no such score, and is left alone.
fn refuse_missing(file: &Path, read: &ScoresFile, scores: &Scores) -> Result<()> {
    for (system, columns) in &read.systems {
        for (metric, column) in columns.iter().filter(|(_, column)| column.iter().any(Option::is_some)) {
            let why = match scores.metrics[metric].better {
                Direction::Higher => continue,
                Direction::Lower => "lower is better there",
                Direction::Neither => "it is not known that 0 is bad there",
            };
            if let Some(row) = column.iter().position(Option::is_none) {
                let (file, row) = (file.display(), &read.rows[row]);
                let message = format!("`{file}`: `{system}` lacks `{metric}` on row `{row}`, and {why}");
                return Err(Error::bad_input(message)
                    .hinted("give every row a score; a missing one cannot count as 0"));
            }
        }
    }
    Ok(())
}

/// Opens the dataset, or the rows that the first file with answers describes.
fn open_rows(task: &Task<'_>, config: &Config) -> Result<(Option<TestSplit>, Rows)> {
    if let Some(folders) = task.dataset {
        let (split, rows) = TestSplit::open(folders, config)?;
        return Ok((Some(split), rows));
    }
    let Some(Subject::Predictions { name, file }) = task.subjects.first() else {
        return Err(Error::usage("`--dataset` is missing")
            .hinted("only files with answers that also have the references can be scored without one"));
    };
    let mut rows = PredictionsFile::read(file, name)?.described_rows()?;
    rows.asked.truncate(limit(config));
    Ok((None, rows))
}

/// Runs all subjects.
fn outcomes(
    task: &Task<'_>,
    config: &Config,
    split: Option<&TestSplit>,
    rows: &Rows,
    contest: Option<Contest>,
    stop: &StopFlag,
) -> Result<(Vec<Outcome>, Option<GuardSet>)> {
    let guard = match (&task.guard, split) {
        (Some(source), Some(split)) => Some(GuardSet::open(source, &split.tokenizer)?),
        (Some(_), None) => return Err(Error::usage("a guard set needs models and `--dataset`")),
        (None, _) => None,
    };
    let mut runner = match (split, task.backend) {
        (Some(split), Some(backend)) => {
            Some(Runner { split, rows, config, backend, guard: guard.zip(contest), loaded: None })
        }
        _ if guard.is_some() => return Err(Error::usage("a guard set needs models that run here")),
        _ => None,
    };
    let mut outcomes = Vec::new();
    for subject in &task.subjects {
        stop.check()?;
        let outcome = match subject {
            Subject::Model(named) => {
                let (all, prompts) = (rows.all.len(), rows.asked.len());
                tracing::info!("{}: scoring {all} rows, answering {prompts} prompts", named.name);
                runner.as_mut().expect("models have a dataset and a backend").run(named)
            }
            Subject::Predictions { name, file } => PredictionsFile::read(file, name)
                .and_then(|read| read.answers(rows))
                .map(|answers| made_elsewhere(name, ModelSource::Predictions, answers)),
            Subject::Endpoint { name, settings } => {
                tracing::info!("{name}: asking `{}` for {} answers", settings.base_url, rows.asked.len());
                endpoint::answers(&endpoint::Request { name, settings, rows, config, work: task.work }, stop)
                    .map(|answers| made_elsewhere(name, ModelSource::Endpoint, answers))
            }
        };
        outcomes.push(outcome.with_context(|| format!("evaluating `{}`", subject.name()))?);
    }
    Ok((outcomes, runner.and_then(|runner| runner.guard).map(|(set, _)| set)))
}

fn made_elsewhere(
    name: &str,
    source: ModelSource,
    answers: std::collections::BTreeMap<usize, crate::answers::Answer>,
) -> Outcome {
    Outcome { name: name.to_owned(), source, answers, ..Outcome::default() }
}

/// Measures the similarity of meaning, if there is an encoder and there are answers.
fn similarities(
    task: &Task<'_>,
    rows: &Rows,
    scored: &ScoredAnswers,
    config: &Config,
) -> Result<Option<Similarities>> {
    let (Some(folder), Some(backend)) = (task.encoder, task.backend) else { return Ok(None) };
    if rows.asked.is_empty() {
        return Ok(None);
    }
    crate::similarity::measure(folder, backend, rows, scored, config).context("scoring similarity").map(Some)
}

fn guard_result(
    set: &GuardSet,
    outcomes: &[Outcome],
    contest: &Contest,
    settings: &GateSettings,
    config: &Config,
) -> Result<outputs::Guard> {
    let losses = |name: &str| {
        let found = outcomes.iter().find(|outcome| outcome.name == name);
        found.and_then(|outcome| outcome.guard.as_deref()).ok_or_else(|| {
            Error::usage(format!("`{name}` gives no losses, so the gate cannot look at the guard set"))
                .hinted("leave out `gate.guard`, or compare models that run here")
        })
    };
    let losses = GuardLosses { model: losses(&contest.model)?, against: losses(&contest.against)? };
    gate::guard(set, &losses, settings, config)
}
