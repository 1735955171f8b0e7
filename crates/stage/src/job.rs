//! [`Job`]: the folders, stop flag, metrics and units that the body of a stage works with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use artifact::{Artifact, Claim, Draft, KeyMaterial, Level, Store, Wait};
use failure::{Context, Result};
use serde_json::Value;

use crate::lookup::find_or_quarantine;
use crate::provenance::Recorder;
use crate::signals::StopFlag;

/// Readable part of the names of units.
const UNIT_SLUG: &str = "unit";

/// Work of one run: the folders that the body writes to, and what it reports.
#[derive(Debug)]
pub struct Job {
    out: PathBuf,
    telemetry: PathBuf,
    resume: PathBuf,
    /// Store for units; `None` if they are not cached.
    units: Option<Store>,
    /// Units in use. They stay open so that gc does not remove them while the body reads them.
    held: Vec<Artifact>,
    numerics: BTreeMap<String, String>,
    metrics: BTreeMap<String, f64>,
    summary: String,
    resumed: bool,
    resumed_from: Option<Value>,
    temporary: Vec<tempfile::TempDir>,
    pub(crate) lock_wait: Wait,
    /// Whether the folder for the resume state outlives this process.
    pub(crate) is_resumable: bool,
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
            held: Vec::new(),
            numerics: numerics.clone(),
            metrics: BTreeMap::new(),
            summary: String::new(),
            resumed: false,
            resumed_from: None,
            temporary: Vec::new(),
            lock_wait: Wait::Forever,
            is_resumable: true,
        }
    }

    /// Returns the folder for the outputs, each of which is a folder or file named after it.
    pub fn out(&self) -> &Path {
        &self.out
    }

    /// Returns the folder for the resume state, which survives if the process is killed.
    ///
    /// A later process that runs the same key gets the same folder. It is removed when the artifact is published.
    pub fn resume_dir(&self) -> &Path {
        &self.resume
    }

    /// Returns whether the folder for the resume state outlives this process; not if a run with `--out` has no scratch folder.
    pub fn is_resumable(&self) -> bool {
        self.is_resumable
    }

    /// Returns the folder for files that differ between runs, such as timings. No hash covers them.
    pub fn telemetry_dir(&self) -> &Path {
        &self.telemetry
    }

    /// Records a headline number in the manifest. It must be the same in every run.
    pub fn metric(&mut self, name: &str, value: f64) {
        self.metrics.insert(name.to_owned(), value);
    }

    /// Sets the middle of the last line on stderr, such as `120 steps, validation loss 2.31` in
    /// `train: 120 steps, validation loss 2.31 in 1 min 7 s`.
    pub fn summary(&mut self, summary: impl Into<String>) {
        self.summary = summary.into();
    }

    /// Records in the provenance that the run used what an earlier process left in the folder for the resume state.
    pub fn resumed(&mut self) {
        self.resumed = true;
    }

    /// Records in the provenance that the run resumed from a published artifact, described by a JSON object.
    pub fn resumed_from(&mut self, artifact: Value) {
        self.resumed_from = Some(artifact);
    }

    /// Records in `recorder` what the run resumed from.
    pub(crate) fn record_resuming(&mut self, recorder: &Recorder) {
        recorder.note_resumed(self.resumed, self.resumed_from.take());
    }

    /// Returns the stop flag, to be checked between steps.
    pub fn stop(&self) -> StopFlag {
        StopFlag::new()
    }

    /// Returns the data folder of a unit, which other runs can share; runs `body` to make it if it is not in the store. The folder
    /// stays until the job ends.
    ///
    /// `material` must hold everything that decides the bytes of the unit, inputs by hash; the run's numerics are added.
    ///
    /// # Errors
    ///
    /// Fails if `material` cannot be part of a key, if `body` fails, or if publishing fails.
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
        if let Ok(Some(artifact)) = store.lookup_with(stage, &key, UNIT_SLUG, Level::Auto) {
            self.resumed();
            return Ok(self.hold(artifact));
        }
        let stop = self.stop();
        let mut waiting = |what: &str| tracing::info!("waiting for another process: {what}");
        let lock = store.lock(stage, &key, self.lock_wait, &mut waiting, &|| stop.requested().is_some());
        stop.check()?;
        let _lock = lock?;
        if let Some(artifact) = find_or_quarantine(&store, stage, &key, UNIT_SLUG)? {
            self.resumed();
            return Ok(self.hold(artifact));
        }
        let staging = store.stage_new(stage)?;
        let recorder = Recorder::start(store.memo());
        body(staging.data())?;
        let draft = Draft {
            claim: if self.numerics.is_empty() { Claim::BitExact } else { Claim::Backend },
            provenance: recorder.finish(),
            check_file: tensors::refusal,
            ..Draft::new(UNIT_SLUG, key_material)
        };
        let published =
            staging.publish(&draft, &mut || Ok(())).with_context(|| format!("publishing `{stage}`"))?;
        Ok(self.hold(published.artifact().clone()))
    }

    /// Keeps a unit open and records that it is used; returns its data folder.
    fn hold(&mut self, unit: Artifact) -> PathBuf {
        unit.mark_used();
        let folder = unit.data_dir();
        self.held.push(unit);
        folder
    }

    /// Returns the metrics and the summary.
    pub(crate) fn into_results(self) -> (BTreeMap<String, f64>, String) {
        (self.metrics, self.summary)
    }
}

#[cfg(test)]
mod tests {
    use artifact::Discarded;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_unit_stays_while_the_job_lasts_and_counts_as_used() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("artifacts")).unwrap();
        let job =
            || Job::new(folder.path(), folder.path(), folder.path(), Some(store.clone()), &BTreeMap::new());
        let unit = |job: &mut Job| {
            let made = job.unit("toy-unit", 1, json!({}), |out| Ok(fs_err::write(out.join("x"), "x")?));
            made.unwrap().parent().unwrap().to_owned()
        };
        let discard = |path: &Path| {
            let last_use = fs_err::metadata(path).unwrap().modified().unwrap();
            store.discard(&store.lock_collection().unwrap(), path, last_use).unwrap()
        };
        let mut first = job();
        let path = unit(&mut first);
        assert_eq!(discard(&path), Discarded::InUse, "it was made");
        drop(first);
        let old = artifact::now() - std::time::Duration::from_hours(100 * 24);
        let times = std::fs::FileTimes::new().set_modified(old);
        fs_err::File::open(&path).unwrap().file().set_times(times).unwrap();
        let mut second = job();
        assert_eq!(unit(&mut second), path);
        assert_eq!(discard(&path), Discarded::InUse, "it was found");
        assert!(fs_err::metadata(&path).unwrap().modified().unwrap() > old, "its use is recorded");
        drop(second);
        assert_eq!(discard(&path), Discarded::Moved);
    }
}
