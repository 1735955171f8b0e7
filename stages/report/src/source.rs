//! Reading the artifacts: what a report takes from each, checked on the way in.
//!
//! Everything is read as a subset: fields this stage does not know are left alone, so that another stage may add to
//! its files. JSON has no NaN and no infinity; a file that spells one is refused with its line.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::Error;
use crate::dataset::Stats;

/// Folders of the artifacts a report is made from.
#[derive(Debug, Clone, Default)]
pub struct Inputs {
    /// Artifact of evaluate.
    pub evaluate: PathBuf,
    /// Artifact of train.
    pub train: PathBuf,
    /// Artifact of validate.
    pub validate: PathBuf,
    /// Artifact of select-best.
    pub select_best: PathBuf,
    /// Artifact of fuse.
    pub fuse: Option<PathBuf>,
    /// Artifact of prepare-data.
    pub prepare_data: Option<PathBuf>,
    /// Artifact of import-model.
    pub import_model: Option<PathBuf>,
}

/// Everything a report shows.
#[derive(Debug)]
pub(crate) struct Contents {
    /// Manifests in the order of the pipeline.
    pub(crate) stages: Vec<Manifest>,
    pub(crate) scores: Scores,
    pub(crate) rows: Vec<Row>,
    pub(crate) steps: Vec<Step>,
    pub(crate) summary: Value,
    pub(crate) losses: Losses,
    pub(crate) choice: Choice,
    pub(crate) fusion: Value,
    pub(crate) dataset: Option<Stats>,
}

/// The part of a manifest that a report shows.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) stage: String,
    pub(crate) stage_version: u64,
    pub(crate) key: String,
    pub(crate) tree: String,
    pub(crate) key_material: Value,
    #[serde(default)]
    pub(crate) outputs: BTreeMap<String, Output>,
    #[serde(default)]
    pub(crate) inputs: BTreeMap<String, Origin>,
    /// The stage's settings as they are by default.
    #[serde(default)]
    pub(crate) config_defaults: Value,
}

/// A named output of an artifact.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Output {
    pub(crate) tree: String,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
}

/// Where an input came from.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Origin {
    pub(crate) stage: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) tree: Option<String>,
    pub(crate) output: Option<String>,
    pub(crate) sha256: Option<String>,
}

/// `metrics.json` of evaluate.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Scores {
    #[serde(default)]
    pub(crate) split: String,
    #[serde(default)]
    pub(crate) rows: u64,
    pub(crate) models: BTreeMap<String, BTreeMap<String, Value>>,
    /// Scores of answers that know nothing, such as the source copied.
    #[serde(default)]
    pub(crate) floors: BTreeMap<String, BTreeMap<String, f64>>,
}

/// A line of `predictions.jsonl`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Row {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) prompt: String,
    #[serde(default)]
    pub(crate) reference: String,
    /// `None` where a model failed on the row.
    #[serde(default)]
    pub(crate) predictions: BTreeMap<String, Option<String>>,
    #[serde(default)]
    pub(crate) losses: BTreeMap<String, RowLoss>,
}

/// Loss of a row under one model.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct RowLoss {
    pub(crate) loss: f64,
    pub(crate) tokens: u64,
}

/// A line of `metrics.jsonl` of train.
#[derive(Debug, Clone, Default, Deserialize)]
pub(crate) struct Step {
    pub(crate) step: u64,
    #[serde(default, deserialize_with = "finite")]
    pub(crate) train_loss: Option<f64>,
    #[serde(default, deserialize_with = "finite")]
    pub(crate) learning_rate: Option<f64>,
    #[serde(default, deserialize_with = "finite")]
    pub(crate) gradient_norm: Option<f64>,
    #[serde(default, deserialize_with = "finite")]
    pub(crate) validation_loss: Option<f64>,
}

/// `losses.json` of validate.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Losses {
    #[serde(default)]
    pub(crate) rows: u64,
    #[serde(default)]
    pub(crate) tokens: u64,
    pub(crate) checkpoints: Vec<Checkpoint>,
}

/// Losses of a checkpoint; step 0 is the base model.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Checkpoint {
    pub(crate) step: u64,
    pub(crate) loss: f64,
    #[serde(default)]
    pub(crate) rows: Vec<CheckpointRow>,
}

/// Loss of a row under a checkpoint.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct CheckpointRow {
    pub(crate) id: String,
    #[serde(flatten)]
    pub(crate) loss: RowLoss,
}

/// `choice.json` of select-best.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Choice {
    pub(crate) step: u64,
    pub(crate) loss: f64,
    #[serde(default)]
    pub(crate) base_loss: Option<f64>,
    #[serde(default)]
    pub(crate) runner_up: Option<Candidate>,
    #[serde(default)]
    pub(crate) gap: Option<f64>,
    #[serde(default)]
    pub(crate) gap_interval: Option<[f64; 2]>,
    #[serde(default)]
    pub(crate) within_noise: bool,
}

/// A checkpoint that was considered.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(crate) struct Candidate {
    pub(crate) step: u64,
    pub(crate) loss: f64,
}

impl Contents {
    /// Reads all that a report shows.
    pub(crate) fn read(inputs: &Inputs) -> Result<Self, Error> {
        let evaluate = Folder::new("evaluate", &inputs.evaluate);
        let train = Folder::new("train", &inputs.train);
        let validate = Folder::new("validate", &inputs.validate);
        let select_best = Folder::new("select-best", &inputs.select_best);
        let fuse = inputs.fuse.as_deref().map(|path| Folder::new("fuse", path));
        let prepare_data = inputs.prepare_data.as_deref().map(|path| Folder::new("prepare-data", path));
        let import_model = inputs.import_model.as_deref().map(|path| Folder::new("import-model", path));

        let folders = [&import_model, &prepare_data].into_iter().flatten();
        let folders = folders.chain([&train, &validate, &select_best]).chain(&fuse).chain([&evaluate]);
        let contents = Self {
            stages: folders.map(Folder::manifest).collect::<Result<_, _>>()?,
            scores: evaluate.json("data/metrics.json")?,
            rows: evaluate.lines("data/predictions.jsonl")?,
            steps: train.lines("data/metrics.jsonl")?,
            summary: train.json_if_there("data/summary.json")?,
            losses: validate.json("data/losses.json")?,
            choice: select_best.json("data/choice.json")?,
            fusion: fuse.map_or(Ok(Value::Null), |fuse| fuse.json_if_there("data/fuse.json"))?,
            dataset: prepare_data.map(|data| data.json("data/stats.json")).transpose()?,
        };
        contents.check()?;
        Ok(contents)
    }

    /// Returns the model names: base, fused, then the others by name.
    pub(crate) fn models(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.scores.models.keys().map(String::as_str).collect();
        names.sort_by_key(|&name| match name {
            "base" => (0, ""),
            "fused" => (1, ""),
            other => (2, other),
        });
        names
    }

    /// Returns the manifest of `stage`.
    pub(crate) fn manifest(&self, stage: &str) -> Option<&Manifest> {
        self.stages.iter().find(|manifest| manifest.stage == stage)
    }

    fn check(&self) -> Result<(), Error> {
        let contradiction = |role, file, problem| Err(Error::Contradiction { role, file, problem });
        if self.scores.models.is_empty() {
            return contradiction("evaluate", "data/metrics.json", "names no model".to_owned());
        }
        for row in &self.rows {
            let scored = |name: &&String| self.scores.models.contains_key(*name);
            if let Some(name) = row.predictions.keys().find(|name| !scored(name)) {
                let problem =
                    format!("has a prediction of `{name}`, which `data/metrics.json` does not name");
                return contradiction("evaluate", "data/predictions.jsonl", problem);
            }
        }
        if let Some(pair) = self.losses.checkpoints.windows(2).find(|pair| pair[0].step >= pair[1].step) {
            let problem = format!("lists step `{}` after step `{}`", pair[1].step, pair[0].step);
            return contradiction("validate", "data/losses.json", problem);
        }
        let known = self.losses.checkpoints.iter().any(|checkpoint| checkpoint.step == self.choice.step);
        if !known && !self.losses.checkpoints.is_empty() {
            let problem =
                format!("chose step `{}`, which the `validate` artifact does not list", self.choice.step);
            return contradiction("select-best", "data/choice.json", problem);
        }
        Ok(())
    }
}

/// An artifact and the role it has here, which is also the stage that must have made it.
struct Folder<'a> {
    role: &'static str,
    path: &'a Path,
}

impl<'a> Folder<'a> {
    fn new(role: &'static str, path: &'a Path) -> Self {
        Self { role, path }
    }

    fn manifest(&self) -> Result<Manifest, Error> {
        let manifest: Manifest = self.json("manifest.json")?;
        if manifest.stage == self.role {
            Ok(manifest)
        } else {
            Err(Error::WrongStage { role: self.role, stage: manifest.stage })
        }
    }

    fn json<T: DeserializeOwned>(&self, file: &'static str) -> Result<T, Error> {
        let text = fs_err::read_to_string(self.path.join(file))?;
        serde_json::from_str(&text).map_err(|source| Error::Json {
            role: self.role,
            file,
            line: None,
            source,
        })
    }

    fn json_if_there(&self, file: &'static str) -> Result<Value, Error> {
        if self.path.join(file).exists() { self.json(file) } else { Ok(Value::Null) }
    }

    fn lines<T: DeserializeOwned>(&self, file: &'static str) -> Result<Vec<T>, Error> {
        let text = fs_err::read_to_string(self.path.join(file))?;
        let lines = text.split('\n').enumerate().filter(|(_, line)| !line.trim().is_empty());
        lines
            .map(|(place, line)| {
                let line_number = Some(place + 1);
                let error = |source| Error::Json { role: self.role, file, line: line_number, source };
                serde_json::from_str(line).map_err(error)
            })
            .collect()
    }
}

/// Reads a number that may be left out, but may not be `null`: that is how some writers spell NaN.
fn finite<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<f64>, D::Error> {
    f64::deserialize(deserializer).map(Some)
}
