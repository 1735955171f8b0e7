//! Turning a filled folder into an artifact: check, hash, describe and flush, with `COMMIT` last.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::atomic::dirs_bottom_up;
use crate::canonical::canonical;
use crate::digest::{FileHash, Key};
use crate::error::{Error, Refused, Result};
use crate::manifest::{Claim, Determinism, InputRecord, Manifest, SCHEMA};
use crate::material::KeyMaterial;
use crate::payload::FileCheck;
use crate::reader::{COMMIT, DATA, MANIFEST, PROVENANCE, SUMS, TELEMETRY, commit_text};
use crate::tree::Tree;
use crate::{manifest, os, payload};

/// Field of `provenance.json` with the hash of each file in `telemetry/`.
pub(crate) const TELEMETRY_HASHES: &str = "telemetry_sha256";

/// The description of an artifact before its data is hashed.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Readable part of the folder's name, made from settings: `[a-z0-9.-]{1,40}`.
    pub slug: String,
    /// Stage, version, settings and inputs.
    pub key_material: KeyMaterial,
    /// Origin of each input, by role.
    pub inputs: BTreeMap<String, InputRecord>,
    /// Headline numbers by name.
    pub metrics: BTreeMap<String, f64>,
    /// Where the same key gives the same bytes.
    pub claim: Claim,
    /// Facts that differ between runs, as a JSON object.
    pub provenance: Value,
    /// Decides which files may be published, beyond the rule that JSON files must be JSON.
    pub check_file: FileCheck,
    /// The default settings, so that a reader sees what was changed; `null` if there are none.
    pub config_defaults: Value,
}

impl Draft {
    /// Makes a draft of an artifact that has no inputs and no metrics, is the same on every machine, and may hold any file.
    pub fn new(slug: &str, key_material: KeyMaterial) -> Self {
        Self {
            slug: slug.to_owned(),
            key_material,
            inputs: BTreeMap::new(),
            metrics: BTreeMap::new(),
            claim: Claim::BitExact,
            provenance: json!({}),
            check_file: |_| Ok(None),
            config_defaults: Value::Null,
        }
    }

    /// Returns the name of the stage.
    pub fn stage(&self) -> &str {
        &self.key_material.stage
    }

    /// Returns the key of the draft.
    ///
    /// # Errors
    ///
    /// Fails when a value cannot be part of a key.
    pub fn key(&self) -> Result<Key> {
        self.key_material.key()
    }

    fn manifest(&self, tree: &Tree) -> Result<Manifest> {
        let mut metrics = BTreeMap::new();
        for (name, value) in &self.metrics {
            if !value.is_finite() {
                let reason = "is not finite".to_owned();
                return Err(Error::Payload(Refused(vec![(format!("metric {name}"), reason)])));
            }
            metrics.insert(name.clone(), value.to_string());
        }
        Ok(Manifest {
            schema: SCHEMA.to_owned(),
            stage: self.key_material.stage.clone(),
            stage_version: self.key_material.stage_version,
            key: self.key()?,
            recipe_key: self.key_material.recipe_key()?,
            key_material: self.key_material.clone(),
            tree: tree.hash(),
            outputs: manifest::outputs(tree),
            files: manifest::files(tree),
            inputs: self.inputs.clone(),
            metrics,
            determinism: Determinism { claim: self.claim, resumed_exactly: true },
            other: [("config_defaults".to_owned(), self.config_defaults.clone())]
                .into_iter()
                .filter(|(_, value)| !value.is_null())
                .collect(),
        })
    }
}

/// Checks and hashes `root/data`, writes the four files beside it, and flushes everything to the disk.
///
/// `before_commit` runs after the data was checked and hashed; if it fails, nothing is sealed.
pub(crate) fn seal(
    root: &Path,
    draft: &Draft,
    before_commit: &mut dyn FnMut() -> Result<()>,
) -> Result<Manifest> {
    let data = root.join(DATA);
    let tree = Tree::scan(&data)?;
    payload::check(&data, &tree, draft.check_file)?;
    let manifest = draft.manifest(&tree)?;
    before_commit()?;

    let telemetry = telemetry_files(root)?;
    if telemetry.is_empty() && root.join(TELEMETRY).is_dir() {
        fs_err::remove_dir(root.join(TELEMETRY))?;
    }
    let mut provenance = draft.provenance.clone();
    if let Value::Object(fields) = &mut provenance {
        fields.insert("schema".to_owned(), "provenance-v1".into());
        if !telemetry.is_empty() {
            let hashes = telemetry_hashes(&telemetry)?;
            fields.insert("telemetry".to_owned(), hashes.keys().cloned().collect());
            fields.insert(TELEMETRY_HASHES.to_owned(), hashes.into());
        }
    }

    for path in tree.files().iter().map(|file| data.join(&file.path)).chain(telemetry) {
        os::sync_file(&path)?;
    }
    let contents = [tree.sums().into_bytes(), manifest.to_bytes(), canonical(&provenance)];
    let names = [SUMS, MANIFEST, PROVENANCE];
    for (name, bytes) in names.iter().zip(&contents) {
        os::write_new(&root.join(name), bytes)?;
    }
    let hashes = [0, 1, 2].map(|index| FileHash::of(&contents[index]));
    os::write_new(&root.join(COMMIT), commit_text(&hashes).as_bytes())?;

    protect(root, &manifest)?;
    Ok(manifest)
}

/// Flushes a whole artifact to the disk that was not written by [`seal`], and protects it.
pub(crate) fn flush(root: &Path, manifest: &Manifest) -> Result<()> {
    for path in all_files(root, manifest)? {
        os::sync_file(&path)?;
    }
    protect(root, manifest)
}

/// Makes the files read-only and flushes all folders.
fn protect(root: &Path, manifest: &Manifest) -> Result<()> {
    for path in all_files(root, manifest)? {
        os::chmod_in(root, &path, 0o444)?;
    }
    for dir in dirs_bottom_up(root)? {
        os::sync_dir(&dir)?;
    }
    Ok(())
}

/// Lists all files of an artifact.
fn all_files(root: &Path, manifest: &Manifest) -> Result<Vec<PathBuf>> {
    let data = root.join(DATA);
    let mut files: Vec<PathBuf> = manifest.files.iter().map(|file| data.join(&file.path)).collect();
    files.extend(telemetry_files(root)?);
    files.extend([SUMS, MANIFEST, PROVENANCE, COMMIT].map(|name| root.join(name)));
    Ok(files)
}

/// Returns the hashes of the files in `telemetry/`, by name.
fn telemetry_hashes(files: &[PathBuf]) -> Result<serde_json::Map<String, Value>> {
    let mut hashes = serde_json::Map::new();
    for path in files {
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else {
            return Err(Error::Tree { path: path.clone(), reason: "its name is not UTF-8".to_owned() });
        };
        let sha256 =
            FileHash::of_reader(&mut os::open_file(path)?).map_err(|error| os::named(error, "read", path))?;
        hashes.insert(name.to_owned(), sha256.to_string().into());
    }
    Ok(hashes)
}

/// Lists the files in `telemetry/`, sorted; none if there is no such folder.
fn telemetry_files(root: &Path) -> Result<Vec<PathBuf>> {
    let dir = root.join(TELEMETRY);
    if !dir.is_dir() {
        return Ok(Vec::new());
    }
    let mut files = Vec::new();
    for entry in os::entries(&dir)? {
        if !entry.file_type()?.is_file() {
            let reason = "only plain files are allowed in `telemetry`".to_owned();
            return Err(Error::Tree { path: entry.path(), reason });
        }
        files.push(entry.path());
    }
    files.sort();
    Ok(files)
}
