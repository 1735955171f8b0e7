//! Reads the artifacts of a report and checks that they belong together.

use std::path::{Path, PathBuf};

use artifact::Manifest;
use outputs::{
    Changes, Choice, Document, FusionCost, Line, Losses, MetricsLine, Prediction, Scores, Stats, Summary,
};
use serde_json::Value;

use crate::context::Context;
use crate::error::Error;

/// Folders of the artifacts in a report.
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
    pub(crate) predictions: Vec<Prediction>,
    pub(crate) metrics: Vec<MetricsLine>,
    pub(crate) summary: Summary,
    pub(crate) losses: Losses,
    pub(crate) choice: Choice,
    pub(crate) fusion: Option<FusionCost>,
    pub(crate) dataset: Option<Stats>,
    /// Rows of the validation split that changed, unless an older validate made the losses.
    pub(crate) changes: Option<Changes>,
    /// Rows beyond the context, where model and dataset are given.
    pub(crate) context: Option<Context>,
}

impl Inputs {
    /// Returns the folders that are given, by stage in the order of the pipeline.
    pub(crate) fn folders(&self) -> Vec<(&'static str, &Path)> {
        let artifacts = [
            ("import-model", self.import_model.as_deref()),
            ("prepare-data", self.prepare_data.as_deref()),
            ("train", Some(&*self.train)),
            ("validate", Some(&*self.validate)),
            ("select-best", Some(&*self.select_best)),
            ("fuse", self.fuse.as_deref()),
            ("evaluate", Some(&*self.evaluate)),
        ];
        artifacts.into_iter().filter_map(|(stage, folder)| Some((stage, folder?))).collect()
    }
}

impl Contents {
    /// Reads everything a report shows.
    ///
    /// # Errors
    ///
    /// Fails when a file is missing or is not what its stage writes, and when two files contradict each other.
    pub(crate) fn read(inputs: &Inputs) -> Result<Self, Error> {
        let context = match (&inputs.import_model, &inputs.prepare_data) {
            (Some(model), Some(dataset)) => Context::read(model, dataset)?,
            _ => None,
        };
        let contents = Self {
            stages: inputs
                .folders()
                .into_iter()
                .map(|(stage, folder)| manifest(stage, folder))
                .collect::<Result<_, _>>()?,
            scores: document(&inputs.evaluate)?,
            predictions: lines(&inputs.evaluate)?,
            metrics: lines(&inputs.train)?,
            summary: document(&inputs.train)?,
            losses: document(&inputs.validate)?,
            choice: document(&inputs.select_best)?,
            fusion: inputs.fuse.as_deref().map(document).transpose()?,
            dataset: inputs.prepare_data.as_deref().map(document).transpose()?,
            changes: Changes::read_if_present(&inputs.validate.join("data"))?,
            context,
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
        let contradiction = |stage, file, problem| Err(Error::Contradiction { stage, file, problem });
        for row in &self.predictions {
            if let Some(name) = row.predictions.keys().find(|name| !self.scores.models.contains_key(*name)) {
                let problem = format!("has a prediction of `{name}`, which is not in `{}`", outputs::SCORES);
                return contradiction("evaluate", outputs::PREDICTIONS, problem);
            }
        }
        if let Some(pair) = self.losses.checkpoints.windows(2).find(|pair| pair[0].step >= pair[1].step) {
            let problem = format!("lists step `{}` after step `{}`", pair[1].step, pair[0].step);
            return contradiction("validate", outputs::LOSSES, problem);
        }
        let known = self.losses.checkpoints.iter().any(|checkpoint| checkpoint.step == self.choice.step);
        if !known && !self.losses.checkpoints.is_empty() {
            let problem =
                format!("chose step `{}`, which the `validate` artifact does not list", self.choice.step);
            return contradiction("select-best", outputs::CHOICE, problem);
        }
        Ok(())
    }
}

/// Returns the stage's default settings; null in manifests that do not have them.
pub(crate) fn config_defaults(manifest: &Manifest) -> &Value {
    manifest.other.get("config_defaults").unwrap_or(&Value::Null)
}

fn manifest(stage: &'static str, artifact: &Path) -> Result<Manifest, Error> {
    let path = artifact.join("manifest.json");
    let manifest = Manifest::from_bytes(&path, &fs_err::read(&path)?)?;
    if manifest.stage == stage {
        Ok(manifest)
    } else {
        Err(Error::WrongStage { stage, found: manifest.stage })
    }
}

fn document<T: Document>(artifact: &Path) -> Result<T, Error> {
    Ok(T::read(&artifact.join("data").join(T::FILE))?)
}

fn lines<T: Line>(artifact: &Path) -> Result<Vec<T>, Error> {
    Ok(T::read(&artifact.join("data").join(T::FILE))?.collect::<Result<_, _>>()?)
}
