//! Plans which artifacts are made again, in which order, and from which plain inputs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use artifact::{InputRecord, Key, TreeHash};

use super::plain::{self, Given, Plain};
use crate::args::Reproduce;
use crate::catalog::{Catalog, read_manifest};
use crate::error::{Error, Result, bad_file};

/// An artifact to make again.
#[derive(Debug)]
pub(super) struct Step {
    /// Its folder.
    pub(super) path: PathBuf,
    /// Places of its plain inputs, by role.
    pub(super) plain: BTreeMap<String, Plain>,
}

/// Lists the artifacts to make again, those first that others are made from.
///
/// # Errors
///
/// Fails when an artifact is missing or was not made by a stage, and when plain files cannot be found. Nothing has run by then.
pub(super) fn steps(catalog: &Catalog, path: &Path, options: &Reproduce) -> Result<Vec<Step>> {
    let given = plain::given(&options.files)?;
    let mut plan = Plan { catalog, given: &given, only: options.only, begun: Vec::new(), steps: Vec::new() };
    plan.add(path)?;
    Ok(plan.steps)
}

struct Plan<'a> {
    catalog: &'a Catalog,
    given: &'a [Given],
    /// Whether all but one artifact are taken as they are.
    only: bool,
    /// Every artifact that was added, finished or not.
    begun: Vec<PathBuf>,
    steps: Vec<Step>,
}

impl Plan<'_> {
    fn add(&mut self, path: &Path) -> Result<()> {
        if self.begun.iter().any(|begun| begun == path) {
            return Ok(());
        }
        self.begun.push(path.to_owned());
        let manifest = read_manifest(path)?;
        if !outputs::STAGES.iter().any(|stage| stage.name == manifest.stage) {
            return Err(bad_file(path, format!("was made by `{}`, which is no stage", manifest.stage)));
        }
        let mut plain = BTreeMap::new();
        for (role, record) in &manifest.inputs {
            let origin = match origin(record) {
                Some((stage, key)) => self.artifact(stage, key)?,
                None => match self.locate(role, &record.tree)? {
                    found @ Plain::Given(_) => {
                        plain.insert(role.clone(), found);
                        continue;
                    }
                    Plain::Inside { artifact, below } => {
                        plain.insert(role.clone(), Plain::Inside { artifact: artifact.clone(), below });
                        artifact
                    }
                },
            };
            if !self.only {
                self.add(&origin)?;
            }
        }
        self.steps.push(Step { path: path.to_owned(), plain });
        Ok(())
    }

    fn artifact(&self, stage: &str, key: &Key) -> Result<PathBuf> {
        let found = self.catalog.store.find(stage, key, "")?;
        found.ok_or_else(|| Error::NotFound {
            name: format!("{stage}/{}", key.short()),
            store: self.catalog.store.root().to_owned(),
        })
    }

    /// Finds a plain input: among the given files, or else in an artifact of this plan, or else in another one of the store.
    fn locate(&self, role: &str, tree: &TreeHash) -> Result<Plain> {
        if let Some(path) = plain::among(self.given, role, tree) {
            return Ok(Plain::Given(path));
        }
        let planned = self.steps.iter().map(|step| &step.path);
        let others = self.catalog.entries.iter().map(|entry| &entry.path);
        // What is begun and not finished is made from this input.
        let others = others.filter(|path| !self.begun.contains(path));
        let inside = planned.chain(others).find_map(|artifact| {
            let below = plain::below(&read_manifest(artifact).ok()?, role, tree)?;
            Some(Plain::Inside { artifact: artifact.clone(), below })
        });
        inside.ok_or_else(|| Error::NoFiles { role: role.to_owned(), tree: *tree })
    }
}

/// Returns stage and key of the artifact that an input is; `None` for plain files.
pub(super) fn origin(record: &InputRecord) -> Option<(&str, &Key)> {
    record.stage.as_deref().zip(record.key.as_ref())
}
