//! Artifacts related to a run: a segment to resume from, and runs that differ in a few settings only.

use std::path::{Path, PathBuf};

use artifact::changes;
use failure::{Context, Error, Result};

use crate::config::Config;
use crate::input::Input;
use crate::lookup::read_manifest;
use crate::run::KeyedRun;
use crate::segment::{SEGMENT_OUTPUT, Segment};

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
