//! Segments: artifacts of runs that were stopped on purpose, from which a later run resumes.
//!
//! A segment is an artifact of the same stage with a single output, [`SEGMENT_OUTPUT`], so that no other stage takes it for
//! the finished artifact. Its key also records where it stops. A run resumed from a segment omits it from its own key,
//! because the bytes are the same either way.

use std::path::{Path, PathBuf};

use artifact::changes;
use failure::{Context, Error, Result};

use crate::config::Config;
use crate::input::Input;
use crate::run::KeyedRun;

/// Name of the only output of a segment.
pub const SEGMENT_OUTPUT: &str = "part";

impl<C: Config> KeyedRun<C> {
    /// Opens a segment of this run and returns the folder with its resume state.
    ///
    /// # Errors
    ///
    /// Fails if `locator` is not a segment, or one of a run with other settings, inputs or numerics (exit 65).
    pub fn segment(&self, locator: &Path) -> Result<PathBuf> {
        self.open_segment(locator).with_context(|| format!("resuming from `{}`", locator.display()))
    }

    fn open_segment(&self, locator: &Path) -> Result<PathBuf> {
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
        input.verify()?;
        Ok(folder)
    }
}
