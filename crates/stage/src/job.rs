//! Where the body of a stage works.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use artifact::{Artifact, Claim, Draft, Key, KeyMaterial, Level, Store, Wait};
use failure::{Context, Result};
use serde_json::Value;

use crate::provenance::Recorder;
use crate::signals::StopFlag;

/// The folders that the body of a stage writes to, and what it reports.
#[derive(Debug)]
pub struct Job {
    out: PathBuf,
    telemetry: PathBuf,
    resume: PathBuf,
    /// Where units are kept; `None` runs them without keeping.
    units: Option<Store>,
    numerics: BTreeMap<String, String>,
    metrics: BTreeMap<String, f64>,
    summary: String,
    temporary: Vec<tempfile::TempDir>,
    pub(crate) lock_wait: Wait,
}

impl Job {
    pub(crate) fn new(
        out: &Path,
        telemetry: &Path,
        resume: &Path,
        units: Option<Store>,
        numerics: &BTreeMap<String, String>,
    ) -> Self {
        Self {
            out: out.to_owned(),
            telemetry: telemetry.to_owned(),
            resume: resume.to_owned(),
            units,
            numerics: numerics.clone(),
            metrics: BTreeMap::new(),
            summary: String::new(),
            temporary: Vec::new(),
            lock_wait: Wait::Forever,
        }
    }

    /// Returns the folder to fill with named outputs: one folder (or file) each.
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// Returns the folder that survives when the stage is killed: the same key gets the same one again. It is
    /// removed when the artifact is published.
    pub fn resume_dir(&self) -> &Path {
        &self.resume
    }

    /// Returns the folder for files that differ from run to run (timings), which no hash covers.
    pub fn telemetry_dir(&self) -> &Path {
        &self.telemetry
    }

    /// Records a headline number in the manifest. It must be the same on every run.
    pub fn metric(&mut self, name: &str, value: f64) {
        self.metrics.insert(name.to_owned(), value);
    }

    /// Sets what the last line on stderr says between the stage's name and the time it took, such as
    /// `120 steps, validation loss 2.31`.
    pub fn summary(&mut self, summary: impl Into<String>) {
        self.summary = summary.into();
    }

    /// Returns the flag that says whether to stop; look at it between steps.
    pub fn stop(&self) -> StopFlag {
        StopFlag::new()
    }

    /// Returns the data folder of a part that other runs can share, making it with `body` if it is not in the store.
    ///
    /// `material` must hold all that decides the part's bytes, inputs by hash; the run's numerics are added.
    ///
    /// # Errors
    ///
    /// Fails when `material` cannot be a key, when `body` fails, or when publishing fails.
    pub fn unit(
        &mut self,
        stage: &str,
        version: u32,
        material: Value,
        body: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let Some(store) = self.units.clone() else {
            let dir = tempfile::tempdir().context("creating a temporary folder")?;
            body(dir.path())?;
            let path = dir.path().to_owned();
            self.temporary.push(dir);
            return Ok(path);
        };
        let mut key_material = KeyMaterial::new(stage, version, material);
        key_material.numerics = self.numerics.clone();
        let key = key_material.key()?;
        if let Some(artifact) = find(&store, stage, &key)? {
            return Ok(artifact.data_dir());
        }
        let stop = self.stop();
        let mut waiting = |what: &str| tracing::info!("waiting for another process: {what}");
        let lock = store.lock(stage, &key, self.lock_wait, &mut waiting, &|| stop.requested().is_some());
        stop.check()?;
        let _lock = lock?;
        if let Some(artifact) = find(&store, stage, &key)? {
            return Ok(artifact.data_dir());
        }
        let staging = store.stage_new(stage)?;
        let recorder = Recorder::start();
        body(staging.data())?;
        let draft = Draft {
            claim: if self.numerics.is_empty() { Claim::BitExact } else { Claim::Backend },
            provenance: recorder.finish(),
            check_file: tensors::refusal,
            ..Draft::new("unit", key_material)
        };
        let published =
            staging.publish(&draft, &mut || Ok(())).with_context(|| format!("keeping `{stage}`"))?;
        Ok(published.artifact().data_dir())
    }

    /// Returns the metrics and the summary.
    pub(crate) fn into_results(self) -> (BTreeMap<String, f64>, String) {
        (self.metrics, self.summary)
    }
}

/// Looks up a unit; a damaged one is moved out of the way.
fn find(store: &Store, stage: &str, key: &Key) -> Result<Option<Artifact>> {
    match store.lookup_with(stage, key, "unit", Level::Auto) {
        Ok(found) => Ok(found),
        Err(error @ (artifact::Error::Damaged { .. } | artifact::Error::NotAnArtifact { .. })) => {
            if let Some(path) = store.find(stage, key, "unit")? {
                store.quarantine(&path, stage, key, "damaged")?;
                tracing::warn!("{error}; moved to quarantine");
            }
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
