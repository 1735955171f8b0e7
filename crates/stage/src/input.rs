//! Inputs: what a stage reads, bound into its key by content.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use artifact::{
    Artifact, Bare, FileHash, InputContent, InputRecord, Level, Manifest, Store, TreeHash, Witness,
};

use crate::error::{bad_input, hint, usage};
use crate::part::PART;

/// An input that was opened.
#[derive(Debug, Clone)]
pub struct Input {
    path: PathBuf,
    artifact_dir: PathBuf,
    tree: TreeHash,
    manifest: Manifest,
    pub(crate) source: Source,
    pub(crate) record: InputRecord,
    /// What the key says about it.
    pub(crate) content: InputContent,
}

#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// One output of an artifact; all of it if empty.
    Artifact(Box<Artifact>, String),
    Bare(Witness),
}

impl Input {
    /// Returns the folder (or file) of the named output, or the bare folder or file itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the hash of what [`Input::path`] holds.
    pub fn tree(&self) -> &TreeHash {
        &self.tree
    }

    /// Returns the manifest of the artifact; for a bare folder one that only lists its files.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the artifact's folder; for a bare folder the same as [`Input::path`].
    pub fn artifact_dir(&self) -> &Path {
        &self.artifact_dir
    }

    /// Returns the artifact, unless the input is a bare folder.
    pub fn artifact(&self) -> Option<&Artifact> {
        match &self.source {
            Source::Artifact(artifact, _) => Some(artifact),
            Source::Bare(_) => None,
        }
    }

    /// Opens one output of an artifact (all outputs if `output` is empty).
    pub(crate) fn open(store: Option<&Store>, locator: &Path, output: &str) -> anyhow::Result<Self> {
        let artifact = locate(store, locator)?;
        let manifest = artifact.manifest().clone();
        let (path, tree) = if output.is_empty() {
            (artifact.data_dir(), manifest.tree)
        } else {
            match (artifact.output_dir(output), manifest.outputs.get(output)) {
                (Some(path), Some(found)) => (path, found.tree),
                _ => return Err(no_output(locator, &manifest, output)),
            }
        };
        let record = InputRecord {
            stage: Some(manifest.stage.clone()),
            key: Some(manifest.key),
            tree,
            output: (!output.is_empty()).then(|| output.to_owned()),
        };
        Ok(Self {
            path,
            artifact_dir: artifact.path().to_owned(),
            tree,
            manifest,
            source: Source::Artifact(Box::new(artifact), output.to_owned()),
            record,
            content: InputContent::Tree(tree),
        })
    }

    /// Opens a whole artifact, bound to its manifest.
    pub(crate) fn open_manifest(store: Option<&Store>, locator: &Path) -> anyhow::Result<Self> {
        let mut input = Self::open(store, locator, "")?;
        if let Source::Artifact(artifact, _) = &input.source {
            input.content = InputContent::Manifest(artifact.manifest_hash());
        }
        Ok(input)
    }

    /// Opens and hashes a bare folder or file.
    pub(crate) fn open_bare(store: Option<&Store>, path: &Path) -> anyhow::Result<Self> {
        let memo = store.map(Store::memo).unwrap_or_default();
        let bare = Bare::scan_with(path, &memo).map_err(bad_input)?;
        let tree = bare.hash();
        Ok(Self {
            path: path.to_owned(),
            artifact_dir: path.to_owned(),
            tree,
            manifest: Manifest::of_bare_folder(bare.tree()),
            source: Source::Bare(bare.witness().clone()),
            record: InputRecord { stage: None, key: None, tree, output: None },
            content: InputContent::Tree(tree),
        })
    }

    /// Checks the bytes before they are used and notes what the files look like.
    pub(crate) fn verify(&self) -> anyhow::Result<Witness> {
        match &self.source {
            Source::Bare(witness) => Ok(witness.clone()),
            Source::Artifact(artifact, output) => {
                let mut witness = Witness::default();
                for file in &artifact.manifest().files {
                    if output.is_empty() || file.role == *output {
                        let hash: FileHash = file.sha256;
                        witness.add(artifact.data_dir().join(&file.path), hash).map_err(bad_input)?;
                    }
                }
                artifact.verify_output(output).map_err(|error| damaged(error.into()))?;
                Ok(witness)
            }
        }
    }
}

/// Finds an artifact: a path, or the name of a ref in the store.
fn locate(store: Option<&Store>, locator: &Path) -> anyhow::Result<Artifact> {
    let by_name = |store: &Store| store.open_ref(locator.to_str()?, Level::Size).transpose();
    if !locator.join("COMMIT").exists()
        && let Some(named) = store.and_then(by_name)
    {
        return named.map_err(bad_input);
    }
    if locator.exists() {
        return Artifact::open_with(locator, Level::Size).map_err(|error| match error {
            artifact::Error::Damaged { .. } => damaged(error.into()),
            artifact::Error::NotAnArtifact { .. } => {
                bad_input(hint(error, "give the folder that a stage printed"))
            }
            error => bad_input(error),
        });
    }
    let error = anyhow::anyhow!("there is no artifact `{}`", locator.display());
    Err(bad_input(hint(error, "give the folder that a stage printed, or `refs/NAME` for a labelled one")))
}

fn damaged(error: anyhow::Error) -> anyhow::Error {
    bad_input(hint(error, "delete that folder and run the stage that made it again"))
}

fn no_output(locator: &Path, manifest: &Manifest, output: &str) -> anyhow::Error {
    let names: Vec<_> = manifest.outputs.keys().map(|name| format!("`{name}`")).collect();
    let error = anyhow::anyhow!(
        "`{}` (made by `{}`) has no output `{output}`, only {}",
        locator.display(),
        manifest.stage,
        names.join(", ")
    );
    let remedy = if manifest.outputs.contains_key(PART) {
        "it is only a part of a run: give the artifact of the one that went on from it to the end".to_owned()
    } else {
        format!("give the artifact of a stage that makes `{output}`")
    };
    bad_input(hint(error, remedy))
}

/// Checks that a role can be part of a key.
pub(crate) fn check_role(role: &str) -> anyhow::Result<()> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if role.is_empty() || !role.bytes().all(plain) {
        return Err(usage(format!("`{role}` cannot name an input: expected [a-z0-9_]+")));
    }
    Ok(())
}

/// Fails when an input is not what it was when the run began.
pub(crate) fn unchanged(role: &str, witness: &Witness) -> anyhow::Result<()> {
    let Some(path) = witness.changed() else { return Ok(()) };
    let error = anyhow::anyhow!("`{}` changed while the stage was running", path.display());
    Err(hint(error, "run the same command again")).with_context(|| format!("checking input `{role}`"))
}
