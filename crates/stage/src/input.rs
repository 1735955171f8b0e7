//! Inputs of a stage, bound into its key by content.

use std::path::{Path, PathBuf};

use artifact::{Artifact, Bare, InputContent, InputRecord, Level, Manifest, Store, TreeHash, Witness};
use failure::{Error, Kind, Result};

use crate::segment::SEGMENT_OUTPUT;

/// Opened input.
#[derive(Debug, Clone)]
pub struct Input {
    path: PathBuf,
    artifact_dir: PathBuf,
    tree: TreeHash,
    manifest: Manifest,
    pub(crate) source: Source,
    pub(crate) record: InputRecord,
    /// Content as the key records it.
    pub(crate) content: InputContent,
}

#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// One output of an artifact; all outputs if the name is empty.
    Artifact(Box<Artifact>, String),
    Bare(Witness),
}

impl Input {
    /// Returns the folder or file of the output, or the plain folder or file itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the hash of the content of [`Input::path`].
    pub fn tree(&self) -> &TreeHash {
        &self.tree
    }

    /// Returns the manifest of the artifact; for a plain folder, one that only lists its files.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the artifact's folder; for a plain folder, the same as [`Input::path`].
    pub fn artifact_dir(&self) -> &Path {
        &self.artifact_dir
    }

    /// Returns the artifact, or `None` for a plain folder.
    pub fn artifact(&self) -> Option<&Artifact> {
        match &self.source {
            Source::Artifact(artifact, _) => Some(artifact),
            Source::Bare(_) => None,
        }
    }

    /// Opens one output of an artifact (all outputs if `output` is empty).
    pub(crate) fn open(store: Option<&Store>, locator: &Path, output: &str) -> Result<Self> {
        let artifact = locate(store, locator)?;
        artifact.mark_used();
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
    pub(crate) fn open_manifest(store: Option<&Store>, locator: &Path) -> Result<Self> {
        let mut input = Self::open(store, locator, "")?;
        if let Source::Artifact(artifact, _) = &input.source {
            input.content = InputContent::Manifest(artifact.manifest_hash());
        }
        Ok(input)
    }

    /// Opens and hashes a plain folder or file.
    pub(crate) fn open_bare(store: Option<&Store>, path: &Path) -> Result<Self> {
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

    /// Verifies the bytes before they are used; the witness notices later changes.
    pub(crate) fn verify(&self) -> Result<Witness> {
        match &self.source {
            Source::Bare(witness) => Ok(witness.clone()),
            Source::Artifact(artifact, output) => artifact.verify_output(output).map_err(bad_input),
        }
    }
}

/// Finds an artifact by its path or by the name of a ref in the store.
///
/// # Errors
///
/// Fails if there is no such artifact, or if it is damaged (exit 65).
pub fn locate(store: Option<&Store>, locator: &Path) -> Result<Artifact> {
    let by_name = |store: &Store| store.open_ref(locator.to_str()?, Level::Size).transpose();
    if !locator.join("COMMIT").exists()
        && let Some(named) = store.and_then(by_name)
    {
        return named.map_err(bad_input);
    }
    if locator.exists() {
        return Artifact::open_with(locator, Level::Size).map_err(bad_input);
    }
    Err(Error::bad_input(format!("artifact `{}` does not exist", locator.display()))
        .hinted("give the folder that a stage printed, or `refs/NAME` for a labelled artifact"))
}

/// Blames the input for an error that could otherwise be about the store.
fn bad_input(error: artifact::Error) -> Error {
    let error = Error::from(error);
    if error.kind() == Kind::Failed { Error::wrap(Kind::BadInput, error) } else { error }
}

fn no_output(locator: &Path, manifest: &Manifest, output: &str) -> Error {
    let names: Vec<_> = manifest.outputs.keys().map(|name| format!("`{name}`")).collect();
    let hint = if manifest.outputs.contains_key(SEGMENT_OUTPUT) {
        "it is a segment: give the artifact of the run that resumed from it and finished".to_owned()
    } else {
        format!("give the artifact of a stage that makes `{output}`")
    };
    let message = format!(
        "`{}` (made by `{}`) has no output `{output}`, only {}",
        locator.display(),
        manifest.stage,
        names.join(", ")
    );
    Error::bad_input(message).hinted(hint)
}

/// Checks that a role can be part of a key.
pub(crate) fn check_role(role: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if role.is_empty() || !role.bytes().all(plain) {
        return Err(Error::usage(format!("`{role}` is not a valid input name: expected [a-z0-9_]+")));
    }
    Ok(())
}

/// Fails if an input changed since the run began.
pub(crate) fn unchanged(role: &str, witness: &Witness) -> Result<()> {
    let Some(path) = witness.changed() else { return Ok(()) };
    let error = Error::failed(format!("`{}` changed while the stage was running", path.display()));
    Err(error.hinted("run the same command again").context(format!("checking input `{role}`")))
}
