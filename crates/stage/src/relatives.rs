//! Published artifacts that were asked for in almost the same way.

use std::path::PathBuf;

use artifact::{Artifact, Level};

use crate::{Config, Run};

impl<C: Config> Run<C> {
    /// Finds the published artifacts of this stage that differ from this run in nothing but the settings `except`:
    /// same inputs, numerics and all other settings. Returns their data folders, leaving out damaged ones; without a
    /// store there are none.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be listed.
    pub fn relatives(&self, except: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
        let Some(store) = self.store() else { return Ok(Vec::new()) };
        // Keys, not values: a manifest writes 16.0 as 16.
        let wanted = self.identity()?.material.without_settings(except).key()?;
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
