//! Pinned hashes and what is published: compared before a hit is believed, written when asked for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use artifact::{Artifact, Key, Level, Store};
use import_model::{Config, model, pin};
use stage::Config as _;

/// The artifact of this import, whether it exists yet or not.
pub(crate) struct Lock {
    key: Key,
    slug: String,
    store: Option<Store>,
    out: Option<PathBuf>,
}

impl Lock {
    /// Works out which artifact it is, once the inputs and numerics of `run` are known.
    pub(crate) fn new(out: Option<&PathBuf>, run: &stage::KeyedRun<Config>) -> stage::Result<Self> {
        let (key, slug) = (*run.key(), run.config().slug());
        Ok(Self { key, slug, store: run.store().cloned(), out: out.cloned() })
    }

    /// Fails when what is published is not what is pinned.
    pub(crate) fn check(&self, config: &Config) -> stage::Result<()> {
        match (config.pins(), self.published()) {
            (Some(pins), Some(artifact)) => {
                let place = artifact.path().join("data/model").display().to_string();
                Ok(model::compare_pins(&place, &files(&artifact), pins)?)
            }
            _ => Ok(()),
        }
    }

    /// Pins what is published in the settings file `file`.
    pub(crate) fn write(&self, file: &Path, config: &Config) -> stage::Result<()> {
        let Some(artifact) = self.published() else { return Ok(()) };
        let files = files(&artifact);
        let hub = (!config.commit.is_empty()).then_some((config.id.as_str(), config.commit.as_str()));
        if pin::write(file, hub, &files)? {
            tracing::info!("pinned {} files in `{}`", files.len(), file.display());
        }
        Ok(())
    }

    /// Opens the artifact; one that is missing or damaged is the run's business, not ours.
    fn published(&self) -> Option<Artifact> {
        let artifact = match (&self.out, &self.store) {
            (Some(out), _) => Artifact::open_with(out, Level::Size).ok()?,
            (None, Some(store)) => {
                store.lookup_with(Config::STAGE, &self.key, &self.slug, Level::Size).ok()??
            }
            (None, None) => return None,
        };
        (artifact.manifest().key == self.key).then_some(artifact)
    }
}

/// The files of the model by name, with their SHA-256.
fn files(artifact: &Artifact) -> BTreeMap<String, String> {
    let named =
        |file: &artifact::File| Some((file.path.strip_prefix("model/")?.to_owned(), file.sha256.to_string()));
    artifact.manifest().files.iter().filter_map(named).collect()
}
