//! Everything in a store, by listing its folders and reading manifests: the store has no index.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use artifact::{FileHash, InputRecord, Key, Manifest, Output, Store, TreeHash};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::error::{Error, Result};

/// Number of hexadecimal digits of the key in a folder's name.
const KEY_DIGITS: usize = 16;
/// Longest manifest that is read.
pub(crate) const MANIFEST_BYTES: u64 = 256 << 20;

/// One artifact by its place in the store; nothing of it was read.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Name of the stage.
    pub(crate) stage: String,
    /// First 16 digits of the key.
    pub(crate) key: String,
    /// Readable part of the name.
    pub(crate) slug: String,
    /// Folder of the artifact.
    pub(crate) path: PathBuf,
    /// Modification time of the folder: when the artifact was made or last used.
    pub(crate) last_use: SystemTime,
}

impl Entry {
    /// Returns `STAGE/KEY-SLUG`.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}-{}", self.stage, self.key, self.slug)
    }

    /// Returns a key with the digits of the folder's name, all that is known of an artifact whose manifest is damaged. It names
    /// the same locks and folders as the artifact's key.
    pub(crate) fn folder_key(&self) -> Key {
        key_of_folder(&self.key).expect("the name begins with the digits of a key")
    }

    /// Returns whether the artifact is a cached piece of a stage.
    pub(crate) fn is_unit(&self) -> bool {
        !outputs::STAGES.iter().any(|stage| stage.name == self.stage)
    }
}

/// The part of a manifest that lists and graphs need; the list of files is skipped.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Summary {
    /// Key of the artifact.
    pub(crate) key: Key,
    /// Hash of its data.
    pub(crate) tree: TreeHash,
    /// Its named outputs.
    pub(crate) outputs: BTreeMap<String, Output>,
    /// Origin of its inputs.
    pub(crate) inputs: BTreeMap<String, InputRecord>,
    /// Headline numbers.
    pub(crate) metrics: BTreeMap<String, String>,
    #[serde(rename = "files")]
    _files: IgnoredAny,
}

impl Summary {
    /// Returns the number of data bytes.
    pub(crate) fn bytes(&self) -> u64 {
        total(self.outputs.values().map(|output| output.bytes))
    }
}

/// Adds up sizes, which a damaged manifest may exaggerate, up to the largest number.
pub(crate) fn total(bytes: impl IntoIterator<Item = u64>) -> u64 {
    bytes.into_iter().fold(0, u64::saturating_add)
}

/// An artifact with its summary.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    /// Its place.
    pub(crate) entry: Entry,
    /// Its manifest, in part.
    pub(crate) summary: Summary,
}

/// The artifacts of a store.
#[derive(Debug)]
pub(crate) struct Catalog {
    /// The store.
    pub(crate) store: Store,
    /// Its artifacts, by stage in the order of the pipeline (then by name), and by key.
    pub(crate) entries: Vec<Entry>,
    /// Folders and files among the artifacts that are none.
    pub(crate) strays: Vec<PathBuf>,
}

impl Catalog {
    /// Lists the store in the folder `root`, which may be missing.
    ///
    /// # Errors
    ///
    /// Fails when a folder cannot be listed.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let store = Store::open(root)?;
        let mut catalog = Self { store, entries: Vec::new(), strays: Vec::new() };
        for stage in stages(root)? {
            catalog.list_stage(&stage)?;
        }
        Ok(catalog)
    }

    fn list_stage(&mut self, stage: &str) -> Result<()> {
        let dir = self.store.stage_dir(stage)?;
        let mut entries = Vec::new();
        for found in list(&dir)? {
            let Ok(name) = found.file_name().into_string() else {
                self.strays.push(found.path());
                continue;
            };
            if name.starts_with('.') {
                continue;
            }
            // An artifact may be removed by gc at any moment.
            let Ok(metadata) = found.metadata() else { continue };
            match name.split_once('-') {
                Some((key, slug)) if is_key(key) && metadata.is_dir() => entries.push(Entry {
                    stage: stage.to_owned(),
                    key: key.to_owned(),
                    slug: slug.to_owned(),
                    path: found.path(),
                    last_use: metadata.modified()?,
                }),
                _ => self.strays.push(found.path()),
            }
        }
        entries.sort_by(|a, b| (&a.key, &a.slug).cmp(&(&b.key, &b.slug)));
        self.entries.append(&mut entries);
        Ok(())
    }

    /// Reads the summaries of all artifacts, and returns those that could not be read with the reason.
    pub(crate) fn items(&self) -> (Vec<Item>, Vec<(Entry, Error)>) {
        self.items_beside(&[])
    }

    /// As [`Catalog::items`], but takes the summaries of `known` artifacts that have not been used since from there.
    pub(crate) fn items_beside(&self, known: &[Item]) -> (Vec<Item>, Vec<(Entry, Error)>) {
        let known: BTreeMap<&Path, &Item> =
            known.iter().map(|item| (item.entry.path.as_path(), item)).collect();
        let (mut items, mut unreadable) = (Vec::new(), Vec::new());
        for entry in &self.entries {
            if let Some(item) = known.get(entry.path.as_path())
                && item.entry.last_use == entry.last_use
            {
                items.push((*item).clone());
                continue;
            }
            match read_summary(&entry.path) {
                Ok(summary) => items.push(Item { entry: entry.clone(), summary }),
                // Removed by gc since it was listed.
                Err(_) if entry.path.symlink_metadata().is_err() => {}
                Err(error) => unreadable.push((entry.clone(), error)),
            }
        }
        (items, unreadable)
    }

    /// As [`Catalog::items`]; logs a warning for each artifact that cannot be read.
    pub(crate) fn readable_items(&self) -> Vec<Item> {
        let (items, unreadable) = self.items();
        for (_, error) in unreadable {
            tracing::warn!("left out: {}", crate::text::escape(&failure::describe(&error)));
        }
        items
    }

    /// Returns the labels of artifacts: names by the artifact's key.
    ///
    /// # Errors
    ///
    /// Fails when the folder `refs` cannot be listed.
    pub(crate) fn labels(&self) -> Result<BTreeMap<Key, Vec<String>>> {
        let mut labels = BTreeMap::<Key, Vec<String>>::new();
        for name in names(&self.store.root().join("refs"))? {
            match self.store.read_ref(&name) {
                Ok(Some(target)) => labels.entry(target.key).or_default().push(name),
                Ok(None) => {}
                Err(error) => tracing::warn!("{}", failure::describe(&error)),
            }
        }
        Ok(labels)
    }
}

/// Reads the summary of one artifact, without verifying anything.
pub(crate) fn read_summary(artifact: &Path) -> Result<Summary> {
    let path = artifact.join("manifest.json");
    let bytes = files::read(&path, MANIFEST_BYTES)?;
    Manifest::check_schema(&path, &bytes)?;
    serde_json::from_slice(&bytes).map_err(|source| artifact::Error::Json { path, source }.into())
}

/// Reads the manifest of one artifact and checks that it is consistent.
pub(crate) fn read_manifest(artifact: &Path) -> Result<Manifest> {
    Ok(read_hashed_manifest(artifact)?.0)
}

/// As [`read_manifest`]; also returns the hash of the file.
pub(crate) fn read_hashed_manifest(artifact: &Path) -> Result<(Manifest, FileHash)> {
    let path = artifact.join("manifest.json");
    let bytes = files::read(&path, MANIFEST_BYTES)?;
    Ok((Manifest::from_bytes(&path, &bytes)?, FileHash::of(&bytes)))
}

/// Returns the hash of an artifact's manifest.
pub(crate) fn manifest_hash(artifact: &Path) -> Result<FileHash> {
    Ok(FileHash::of(&files::read(&artifact.join("manifest.json"), MANIFEST_BYTES)?))
}

/// Lists a folder; interrupted in the middle, it is listed again.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<fs_err::DirEntry>> {
    loop {
        match fs_err::read_dir(dir).and_then(Iterator::collect) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            listed => return listed,
        }
    }
}

/// Lists the names of visible files and folders, sorted; none if the folder is missing.
pub(crate) fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = match list(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let mut names = Vec::new();
    for entry in entries {
        names.extend(entry.file_name().into_string().ok().filter(|name| !name.starts_with('.')));
    }
    names.sort();
    Ok(names)
}

/// Lists the stages with a folder in the store, in the order of the pipeline; those outside it come last, by name. Folders that no
/// stage can have, such as `lost+found` of a disk, are left out.
fn stages(root: &Path) -> Result<Vec<String>> {
    let is_stage = |name: &String| artifact::check_stage(name).is_ok() && root.join(name).is_dir();
    let mut stages: Vec<String> = names(root)?.into_iter().filter(is_stage).collect();
    let rank = |name: &str| outputs::STAGES.iter().position(|stage| stage.name == name).unwrap_or(usize::MAX);
    stages.sort_by_key(|name| (rank(name), name.clone()));
    Ok(stages)
}

/// Returns a key that begins with the 16 digits in the name of a folder, and otherwise has zeros.
pub(crate) fn key_of_folder(digits: &str) -> Option<Key> {
    is_key(digits).then(|| format!("{digits:0<64}").parse().ok())?
}

fn is_key(text: &str) -> bool {
    text.len() == KEY_DIGITS
        && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}
