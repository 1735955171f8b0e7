//! Artifacts related to a run: a segment to resume from, and runs that differ in a few settings only.

use std::path::{Path, PathBuf};

use artifact::{Artifact, Witness, changes};
use failure::{Context, Error, Result};

use crate::config::Config;
use crate::input::{Input, unchanged};
use crate::lookup::read_manifest;
use crate::run::KeyedRun;
use crate::segment::SEGMENT_OUTPUT;

/// Opened and verified segment, which gc does not remove before this is dropped.
#[derive(Debug)]
pub struct Segment {
    input: Input,
    folder: PathBuf,
    witness: Witness,
}

impl Segment {
    /// Returns the folder with the resume state.
    pub fn path(&self) -> &Path {
        &self.folder
    }

    /// Returns the artifact.
    ///
    /// # Panics
    ///
    /// Never: a segment is an artifact.
    pub fn artifact(&self) -> &Artifact {
        self.input.artifact().expect("a segment is opened as an artifact")
    }

    /// Checks that nothing in the segment has changed since it was verified; call this once the resume state was copied.
    ///
    /// # Errors
    ///
    /// Fails if a file was changed, added or removed.
    pub fn check_unchanged(&self) -> Result<()> {
        unchanged("resume-from", &self.witness)
    }
}

impl<C: Config> KeyedRun<C> {
    /// Opens and verifies a segment of this run.
    ///
    /// # Errors
    ///
    /// Fails if `locator` is not a segment, or one of a run with other settings, inputs or numerics (exit 65).
    pub fn segment(&self, locator: &Path) -> Result<Segment> {
        self.open_segment(locator).with_context(|| format!("resuming from `{}`", locator.display()))
    }

    fn open_segment(&self, locator: &Path) -> Result<Segment> {
        let input = Input::open(self.shared_store(), locator, "")?;
        let manifest = input.manifest();
        let folder = input.path().join(SEGMENT_OUTPUT);
        let is_segment = manifest.key_material.segment.is_some() && folder.is_dir();
        if manifest.stage != C::STAGE || !is_segment {
            let message =
                format!("not a segment of a run of `{}`, but an artifact of `{}`", C::STAGE, manifest.stage);
            return Err(Error::bad_input(message).hinted("give the artifact of a run with `--stop-at`"));
        }
        let theirs = manifest.key_material.without_segment();
        let ours = self.identity().material.without_segment();
        // Keys, not values: a manifest writes 16.0 as 16.
        if theirs.key()? != ours.key()? {
            let changed: Vec<String> = changes(&theirs, &ours).iter().map(ToString::to_string).collect();
            return Err(Error::bad_input(format!("segment of another run: {}", changed.join("; ")))
                .hinted("use the settings, the inputs and the kind of machine of the segment"));
        }
        let witness = input.verify()?;
        Ok(Segment { input, folder, witness })
    }

    /// Finds the finished artifacts of this stage with the same inputs, numerics and settings, except for the settings
    /// `except`, and returns their folders.
    ///
    /// Only reads manifests: open an artifact before it is used, which verifies it. Returns an empty list if the run has no
    /// store.
    ///
    /// # Errors
    ///
    /// Fails if the store cannot be listed.
    pub fn relatives(&self, except: &[&str]) -> Result<Vec<PathBuf>> {
        let Some(store) = self.store() else { return Ok(Vec::new()) };
        // Keys, not values: a manifest writes 16.0 as 16.
        let wanted = self.identity().material.without_segment().without_settings(except).key()?;
        let folder = store.stage_dir(C::STAGE)?;
        let mut found = Vec::new();
        let mut names = store.names(C::STAGE)?;
        names.sort();
        for name in names {
            let artifact = folder.join(&name);
            let Some(manifest) = read_manifest(&artifact) else { continue };
            let key = manifest.key_material.without_settings(except).key();
            if key.is_ok_and(|key| key == wanted) {
                found.push(artifact);
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::TryLockError;

    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::args::CommonArgs;
    use crate::run::Run;

    #[derive(Debug, Default, Serialize, Deserialize)]
    struct Settings {}

    impl Config for Settings {
        const STAGE: &'static str = "toy";
        const VERSION: u32 = 1;

        fn slug(&self) -> String {
            "toy".to_owned()
        }
    }

    #[test]
    fn segment_is_held_and_watched_while_it_is_open() -> Result<()> {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir()?;
        let common = CommonArgs { store: dir.path().join("store"), ..CommonArgs::default() };
        let mut stopped = Run::<Settings>::new(&common)?;
        stopped.stop_at("1");
        let stopped = stopped.with_key()?;
        stopped.execute(|job, _| {
            let part = job.out().join(SEGMENT_OUTPUT);
            fs_err::create_dir(&part)?;
            Ok(fs_err::write(part.join("state"), "1")?)
        })?;
        let folder = stopped.existing()?.expect("it was published").path().to_owned();

        let segment = Run::<Settings>::new(&common)?.with_key()?.segment(&folder)?;
        let lock = fs_err::File::open(&folder)?;
        assert!(matches!(lock.file().try_lock(), Err(TryLockError::WouldBlock)), "gc could remove it");
        segment.check_unchanged()?;
        let state = segment.path().join("state");
        fs_err::set_permissions(&state, std::fs::Permissions::from_mode(0o644))?;
        fs_err::write(&state, "2")?;
        let said = segment.check_unchanged().unwrap_err().to_string();
        assert!(said.contains("resume-from"), "{said}");
        drop(segment);
        lock.file().try_lock().expect("nobody holds it any more");
        Ok(())
    }
}
