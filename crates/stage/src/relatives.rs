//! Published artifacts whose settings differ in a few fields only.

use std::path::PathBuf;

use artifact::{Artifact, Level};
use failure::Result;

use crate::config::Config;
use crate::run::KeyedRun;

impl<C: Config> KeyedRun<C> {
    /// Finds the finished artifacts of this stage with the same inputs, numerics and settings, except for the settings
    /// `except`, and returns their data folders.
    ///
    /// Leaves out damaged artifacts. Returns an empty list if the run has no store.
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
            let Ok(artifact) = Artifact::open_with(&folder.join(&name), Level::Auto) else { continue };
            let key = artifact.manifest().key_material.without_settings(except).key();
            if key.is_ok_and(|key| key == wanted) {
                found.push(artifact.data_dir());
            }
        }
        Ok(found)
    }
}
