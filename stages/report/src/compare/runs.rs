//! The runs of a comparison: reading them, naming them, and finding what differs.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use artifact::{Artifact, Level, Store};
use outputs::{Document as _, RunRecord, RunValue, Times};
use stage::{Error, Result};

use super::rows::RunRows;
use crate::headline::metric_name;
use crate::number;
use crate::parts::bare;
use crate::settings::flat;

/// Stages whose settings do not decide what a run is.
const LATER: [&str; 1] = ["report"];

/// One run.
#[derive(Debug)]
pub(crate) struct Run {
    /// Name on the page, different for every run.
    pub(crate) name: String,
    /// Number of its colour.
    pub(crate) hue: usize,
    pub(crate) record: RunRecord,
    pub(crate) times: Option<Times>,
    /// Settings by dotted name, such as `train.lora.rank`.
    pub(crate) settings: BTreeMap<String, String>,
    /// Rows of its evaluation; `None` if they are not in the store.
    pub(crate) rows: Option<RunRows>,
}

/// The runs of a comparison.
#[derive(Debug)]
pub(crate) struct Runs {
    pub(crate) list: Vec<Run>,
    /// Names of settings that are not the same in all runs.
    pub(crate) differing: Vec<String>,
}

impl Runs {
    /// Reads runs as they are named on a command line.
    ///
    /// # Errors
    ///
    /// Fails when one of them is no artifact of report, or an old one.
    pub(crate) fn read<'a>(store: Option<&Store>, given: impl Iterator<Item = &'a str>) -> Result<Self> {
        let mut list: Vec<Run> = Vec::new();
        for (hue, given) in given.enumerate() {
            let (name, path) = named(given);
            list.push(read(store, name, &path, hue)?);
        }
        Ok(Self::new(list))
    }

    /// Finds what differs between runs, and names those without a name after it.
    pub(crate) fn new(mut list: Vec<Run>) -> Self {
        let names: BTreeSet<&String> = list.iter().flat_map(|run| run.settings.keys()).collect();
        let differs = |name: &&String| {
            let first = list.first().and_then(|run| run.settings.get(*name));
            list.iter().any(|run| run.settings.get(*name) != first)
        };
        let differing: Vec<String> = names.into_iter().filter(differs).cloned().collect();
        for run in &mut list {
            if run.name.is_empty() {
                run.name = described(run, &differing);
            }
        }
        // Runs with the same name are told apart by their number.
        let mut seen: BTreeMap<String, usize> = BTreeMap::new();
        for run in &mut list {
            let times = seen.entry(run.name.clone()).or_default();
            *times += 1;
            if *times > 1 {
                run.name = format!("{} ({times})", run.name);
            }
        }
        Self { list, differing }
    }

    /// Returns the value of a score of the model that a run made.
    pub(crate) fn value(run: &Run, key: &str) -> Option<RunValue> {
        let model = run.record.tuned.as_ref()?;
        run.record.scores.get(key)?.models.get(model).copied()
    }

    /// Returns all scores in their order.
    pub(crate) fn scores(&self) -> Vec<String> {
        let mut keys: Vec<String> = Vec::new();
        for key in self.list.iter().flat_map(|run| run.record.scores.keys()) {
            if !keys.contains(key) {
                keys.push(key.clone());
            }
        }
        keys
    }

    /// Returns the one or two scores that matter most.
    pub(crate) fn main_scores(&self) -> Vec<String> {
        let keys = self.scores();
        let text = ["similarity", "chrf"].into_iter().find(|name| keys.iter().any(|key| key == name));
        ["perplexity"]
            .into_iter()
            .chain(text)
            .filter(|name| keys.iter().any(|key| key == name))
            .map(str::to_owned)
            .collect()
    }

    /// Returns the name of a score for readers.
    pub(crate) fn title(&self, key: &str) -> String {
        let titles = self.list.iter().filter_map(|run| run.record.scores.get(key));
        titles
            .map(|score| score.title.clone())
            .find(|title| !title.is_empty())
            .unwrap_or_else(|| metric_name(key))
    }

    /// Returns whether higher is better; `None` if neither direction is.
    pub(crate) fn higher(&self, key: &str) -> Option<bool> {
        self.list.iter().find_map(|run| run.record.scores.get(key)?.higher_is_better)
    }

    /// Returns the runs with a score, the best first; none if neither direction is better.
    pub(crate) fn ranked(&self, key: &str) -> Vec<(&Run, RunValue)> {
        let Some(higher) = self.higher(key) else { return Vec::new() };
        let mut ranked: Vec<(&Run, RunValue)> =
            self.list.iter().filter_map(|run| Some((run, Self::value(run, key)?))).collect();
        ranked.sort_by(|a, b| {
            if higher { b.1.value.total_cmp(&a.1.value) } else { a.1.value.total_cmp(&b.1.value) }
        });
        ranked
    }

    /// Returns runs whose settings differ in nothing but seeds, in groups of two or more.
    pub(crate) fn groups(&self) -> Vec<Vec<&Run>> {
        let mut groups: BTreeMap<Vec<(&str, &str)>, Vec<&Run>> = BTreeMap::new();
        for run in &self.list {
            let others = run.settings.iter().filter(|(name, _)| !is_seed(name));
            groups
                .entry(others.map(|(name, value)| (name.as_str(), value.as_str())).collect())
                .or_default()
                .push(run);
        }
        let mut groups: Vec<Vec<&Run>> = groups.into_values().filter(|runs| runs.len() > 1).collect();
        groups.sort_by_key(|runs| runs[0].hue);
        groups
    }

    /// Returns what a reader must know before comparing.
    pub(crate) fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        let splits: BTreeSet<(&str, u64)> =
            self.list.iter().map(|run| (run.record.split.as_str(), run.record.rows)).collect();
        if splits.len() > 1 {
            let splits: Vec<String> = splits
                .iter()
                .map(|(split, rows)| format!("{split} with {}", number::counted(*rows, "row")))
                .collect();
            notes.push(format!("The runs were scored on different rows: {}.", splits.join(", ")));
        }
        let data: BTreeSet<Option<&String>> =
            self.list.iter().map(|run| run.record.keys.get("prepare-data")).collect();
        if data.len() > 1 && splits.len() == 1 {
            notes.push("The runs have different datasets; their test rows may differ.".to_owned());
        }
        notes
    }
}

/// Returns whether a setting only sets where random numbers begin.
pub(crate) fn is_seed(name: &str) -> bool {
    name.rsplit('.').next().is_some_and(|last| last == "seed" || last.ends_with("_seed"))
}

/// Splits `NAME=RUN`; a path with an equals sign that exists is a path.
fn named(given: &str) -> (String, PathBuf) {
    match given.split_once('=') {
        Some((name, path)) if !name.contains('/') && !Path::new(given).exists() => {
            (name.to_owned(), path.into())
        }
        _ => (String::new(), given.into()),
    }
}

/// Returns the path that a pointer file holds, whose bytes need not be UTF-8.
fn target(pointer: &Path) -> Result<PathBuf> {
    let bytes = fs_err::read(pointer).map_err(|error| Error::bad_input(error.to_string()))?;
    Ok(OsStr::from_bytes(bytes.trim_ascii_end()).into())
}

fn read(store: Option<&Store>, name: String, path: &Path, hue: usize) -> Result<Run> {
    let pointer = path.join("report.path");
    let artifact = if pointer.is_file() {
        Artifact::open_with(&target(&pointer)?, Level::Auto)?
    } else {
        stage::locate(store, path)?
    };
    let manifest = artifact.manifest();
    if manifest.stage != "report" {
        let message = format!("`{}` was made by stage `{}`, not by report", path.display(), manifest.stage);
        return Err(
            Error::bad_input(message).hinted("give artifacts of report, or folders with `report.path`")
        );
    }
    let file = artifact.data_dir().join(RunRecord::FILE);
    if !file.exists() {
        let message = format!("`{}` has no `{}`", path.display(), RunRecord::FILE);
        return Err(Error::bad_input(message).hinted("run `make report` again: an older version made it"));
    }
    let record = RunRecord::read(&file)?;
    let times = artifact.path().join("telemetry").join(Times::FILE);
    let times = if times.exists() { Times::read(&times).ok() } else { None };
    let mut settings = BTreeMap::new();
    for (stage, config) in record.settings.iter().filter(|(stage, _)| !LATER.contains(&stage.as_str())) {
        settings.extend(flat(config).into_iter().map(|(name, value)| (format!("{stage}.{name}"), value)));
    }
    let rows = RunRows::read(&artifact, record.tuned.as_ref(), store)?;
    Ok(Run { name, hue, record, times, settings, rows })
}

/// Names a run after the settings in which it differs, or after its key.
fn described(run: &Run, differing: &[String]) -> String {
    let values: Vec<String> = differing
        .iter()
        .filter_map(|name| {
            let short = name.rsplit('.').next().unwrap_or(name);
            let value = run.settings.get(name)?;
            let value: String = value.chars().take(24).collect();
            Some(format!("{} {value}", short.replace('_', " ")))
        })
        .take(3)
        .collect();
    if !values.is_empty() {
        return values.join(", ");
    }
    let key = run.record.keys.get("train").map_or("run", |key| bare(key));
    key.get(..12).unwrap_or(key).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str, settings: &[(&str, &str)]) -> Run {
        let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Run {
            name: name.to_owned(),
            hue: 0,
            record: RunRecord::default(),
            times: None,
            settings: settings.collect(),
            rows: None,
        }
    }

    #[test]
    fn a_pointer_holds_any_path() {
        let folder = tempfile::tempdir().unwrap();
        let pointer = folder.path().join("report.path");
        fs_err::write(&pointer, b"g\xff/report/x\n").unwrap();
        assert_eq!(target(&pointer).unwrap().as_os_str().as_bytes(), b"g\xff/report/x");
    }

    #[test]
    fn runs_are_named_after_what_differs_and_grouped_by_all_but_seeds() {
        let of = |rate, seed| {
            run("", &[("train.learning_rate", rate), ("train.seed", seed), ("train.steps", "40")])
        };
        let runs = Runs::new(vec![of("1e-4", "1"), of("1e-4", "2"), of("2e-4", "1"), of("2e-4", "1")]);
        assert_eq!(runs.differing, ["train.learning_rate", "train.seed"]);
        let names: Vec<&str> = runs.list.iter().map(|run| run.name.as_str()).collect();
        let expected = [
            "learning rate 1e-4, seed 1",
            "learning rate 1e-4, seed 2",
            "learning rate 2e-4, seed 1",
            "learning rate 2e-4, seed 1 (2)",
        ];
        assert_eq!(names, expected);
        assert_eq!(runs.groups().iter().map(Vec::len).collect::<Vec<_>>(), [2, 2]);
    }

    #[test]
    fn a_name_may_be_given() {
        assert_eq!(named("small=build/a"), ("small".to_owned(), PathBuf::from("build/a")));
        assert_eq!(named("build/x=y"), (String::new(), PathBuf::from("build/x=y")));
    }
}
