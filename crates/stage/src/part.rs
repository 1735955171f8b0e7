//! Parts of a run: one that stops on the way hands what it left to the next, which goes on to the same bytes.
//!
//! A part is an artifact of the same stage with one output, [`PART`], so that no other stage takes it for the whole. Its key
//! also says how far it goes. The run that goes on does not have the part in its key: it comes to the same bytes without.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use artifact::changes;

use crate::error::{bad_input, hint};
use crate::{Config, Input, Run};

/// The one output of a part; also the field of the key that says how far it goes.
pub const PART: &str = "part";

impl<C: Config> Run<C> {
    /// Makes this run a part of the whole one that goes as far as `until` says. Its body fills the output [`PART`].
    pub fn end_at(&mut self, until: &str) {
        self.until = Some(until.to_owned());
    }

    /// Opens a part, and returns the folder with what it left. Call it after all inputs are open and the numerics are
    /// known.
    ///
    /// # Errors
    ///
    /// Fails when it is no part, or one of a run with other settings, inputs or numerics (exit 65).
    pub fn part(&self, locator: &Path) -> anyhow::Result<PathBuf> {
        self.open_part(locator).with_context(|| format!("going on from the part `{}`", locator.display()))
    }

    fn open_part(&self, locator: &Path) -> anyhow::Result<PathBuf> {
        let input = Input::open(self.shared_store(), locator, "")?;
        let manifest = input.manifest();
        let folder = input.path().join(PART);
        if manifest.stage != C::STAGE || manifest.key_material.segment.is_none() || !folder.is_dir() {
            let error =
                anyhow::anyhow!("it is no part of a run of `{}`, but made by `{}`", C::STAGE, manifest.stage);
            return Err(bad_input(hint(
                error,
                "give the artifact of a run that was told to stop on the way",
            )));
        }
        let (theirs, ours) =
            (manifest.key_material.without_segment(), self.identity()?.material.without_segment());
        // Keys, not values: a manifest writes 16.0 as 16.
        if theirs.key()? != ours.key()? {
            let changed: Vec<String> = changes(&theirs, &ours).iter().map(ToString::to_string).collect();
            let error = anyhow::anyhow!("it is a part of another run: {}", changed.join("; "));
            return Err(bad_input(hint(
                error,
                "go on with the settings and inputs, and on the kind of machine, that it began with",
            )));
        }
        input.verify()?;
        Ok(folder)
    }
}
