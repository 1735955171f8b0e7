//! The store: a folder of artifacts that are found by stage and key.

use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::digest::{FileHash, Key, TreeHash};
use crate::error::{Error, Result};
use crate::memo::Memo;
use crate::names::{check_ref, check_stage};
use crate::reader::{Artifact, LOOKS, Level};
use crate::{atomic, clock, inside, network, os};

const STORE: &str = "STORE";
const SCHEMA: &str = "artifact-store-v1";
/// Longest file `STORE`, and longest ref.
const STORE_BYTES: u64 = 64 << 10;
/// Free space required beyond 1.1 × the planned bytes.
const HEADROOM: u64 = 512 << 20;

/// A folder of artifacts. Opening a store creates nothing; the first publishing run does.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// Content of a ref: a name for an artifact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ref {
    /// Stage of the artifact.
    pub stage: String,
    /// Key of the artifact.
    pub key: Key,
    /// Hash of its data.
    pub tree: TreeHash,
}

impl Store {
    /// Opens the store in the folder `root`, which need not exist.
    ///
    /// # Errors
    ///
    /// Fails when the store has an unknown format. Returns [`Error::Occupied`] when the path or one of its parents is not a folder,
    /// and [`Error::Linked`] when a folder in it is a link.
    pub fn open(root: &Path) -> Result<Self> {
        let is_folder = match root.metadata() {
            Ok(found) => found.is_dir(),
            Err(error) => error.kind() != ErrorKind::NotADirectory,
        };
        if !is_folder {
            return Err(Error::Occupied { path: root.to_owned(), reason: "is not a folder".to_owned() });
        }
        let path = root.join(STORE);
        if path.exists() {
            let bytes = os::read_small(&path, STORE_BYTES)?;
            let value: Value = serde_json::from_slice(&bytes)
                .map_err(|source| Error::StoreFile { path: path.clone(), source })?;
            let found = value.get("format").and_then(Value::as_str).unwrap_or_default();
            if found != SCHEMA {
                return Err(Error::UnknownSchema { path, found: found.to_owned(), expected: SCHEMA });
            }
        }
        inside::check_all(root)?;
        Ok(Self { root: root.to_owned() })
    }

    /// Returns the folder of the store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns the remembered hashes of large input files.
    pub fn memo(&self) -> Memo {
        Memo::in_folder(&self.root, ".memo")
    }

    /// Creates the store if it does not exist.
    ///
    /// # Errors
    ///
    /// Fails when the folder cannot be written.
    pub fn ensure(&self) -> Result<()> {
        let path = self.root.join(STORE);
        if !path.exists() {
            os::create_dir_all(&self.root)?;
            let text = format!("{}\n", json!({"format": SCHEMA, "id": new_id()}));
            // The first of several processes gives the store its id.
            atomic::write_new_file(&path, text.as_bytes())?;
            if network::is_network(&self.root) {
                let root = self.root.display();
                tracing::warn!(
                    "`{root}` is on a network file system: locks may not work there; results stay safe"
                );
            }
        }
        Ok(())
    }

    /// Finds the artifact of a stage with a key and verifies it at the given level.
    ///
    /// The slug only makes the search faster: an artifact with another slug is found too.
    ///
    /// # Errors
    ///
    /// Fails when the artifact is damaged.
    pub fn lookup_with(&self, stage: &str, key: &Key, slug: &str, level: Level) -> Result<Option<Artifact>> {
        let Some(path) = self.find(stage, key, slug)? else { return Ok(None) };
        if is_link(&path) {
            return Err(Error::Damaged { path, reason: "it is a symlink".to_owned() });
        }
        let Some(artifact) = open_if_there(&path, level)? else { return Ok(None) };
        let manifest = artifact.manifest();
        if manifest.stage == stage && manifest.key == *key {
            return Ok(Some(artifact));
        }
        Err(Error::Damaged { path, reason: "its name does not match its key".to_owned() })
    }

    /// Returns the folder of the artifact with a key, without opening it.
    ///
    /// # Errors
    ///
    /// Fails on a bad stage name or when the folder of the stage cannot be listed.
    pub fn find(&self, stage: &str, key: &Key, slug: &str) -> Result<Option<PathBuf>> {
        let dir = self.stage_dir(stage)?;
        let short = key.short();
        let exact = dir.join(format!("{short}-{slug}"));
        if !slug.is_empty() && exact.symlink_metadata().is_ok() {
            return Ok(Some(exact));
        }
        let mut found: Vec<PathBuf> = self
            .names(stage)?
            .into_iter()
            .filter(|name| name.strip_prefix(&short).is_some_and(|rest| rest.starts_with('-')))
            .map(|name| dir.join(name))
            .collect();
        found.sort();
        Ok(found.into_iter().next())
    }

    /// Lists the folder names of a stage's artifacts, unsorted.
    ///
    /// # Errors
    ///
    /// Fails on a bad stage name or when the folder cannot be listed.
    pub fn names(&self, stage: &str) -> Result<Vec<String>> {
        let dir = self.stage_dir(stage)?;
        if !dir.is_dir() {
            return Ok(Vec::new());
        }
        let mut names = Vec::new();
        for entry in os::entries(&dir)? {
            names.extend(entry.file_name().into_string().ok().filter(|name| !name.starts_with('.')));
        }
        Ok(names)
    }

    /// Returns the folder of a stage.
    ///
    /// # Errors
    ///
    /// Fails on a bad stage name, and when the folder is a link.
    pub fn stage_dir(&self, stage: &str) -> Result<PathBuf> {
        check_stage(stage)?;
        self.folder(stage)
    }

    /// Returns the folder `name` directly in the store, which need not exist.
    ///
    /// # Errors
    ///
    /// Fails when it is a link.
    pub(crate) fn folder(&self, name: &str) -> Result<PathBuf> {
        let folder = self.root.join(name);
        inside::check(&folder)?;
        Ok(folder)
    }

    /// Checks that 1.1 × `planned_bytes` + 512 MiB are free; `ASHLAR_MIN_FREE_BYTES` replaces the 512 MiB.
    ///
    /// # Errors
    ///
    /// [`Error::NoSpace`] names both numbers.
    pub fn check_space(&self, planned_bytes: u64) -> Result<()> {
        check_space(&self.root, planned_bytes)
    }

    /// Checks that [`Store::set_ref`] would accept this name, so that a stage can refuse it before the work.
    ///
    /// # Errors
    ///
    /// Fails on a bad name, and on one that differs from an existing one only in case.
    pub fn check_ref(&self, name: &str) -> Result<()> {
        check_ref(name)?;
        let dir = self.folder("refs")?;
        if dir.is_dir() { check_case(&dir, name) } else { Ok(()) }
    }

    /// Points the ref `name` at an artifact.
    ///
    /// # Errors
    ///
    /// Fails on a bad name, on one that differs from an existing one only in case, and when the file cannot be replaced.
    pub fn set_ref(&self, name: &str, artifact: &Artifact) -> Result<()> {
        check_ref(name)?;
        self.ensure()?;
        let dir = self.folder("refs")?;
        os::create_dir_all(&dir)?;
        check_case(&dir, name)?;
        let manifest = artifact.manifest();
        let text = format!("{} {} {}\n", manifest.stage, manifest.key, manifest.tree);
        Ok(atomic::write_file(&dir.join(name), text.as_bytes())?)
    }

    /// Reads the ref `name`, with or without a leading `refs/`; `None` if there is none.
    ///
    /// # Errors
    ///
    /// Fails when the ref is malformed or cannot be read.
    pub fn read_ref(&self, name: &str) -> Result<Option<Ref>> {
        let name = name.strip_prefix("refs/").unwrap_or(name);
        let path = self.root.join("refs").join(name);
        if check_ref(name).is_err() || is_missing(&path) || path.is_dir() {
            return Ok(None);
        }
        let malformed = || Error::MalformedRef { name: name.to_owned(), path: path.clone() };
        let bytes = match os::read_small(&path, STORE_BYTES) {
            Ok(bytes) => bytes,
            Err(_) if is_missing(&path) => return Ok(None),
            // Too long, or no file.
            Err(error) if error.kind() == ErrorKind::InvalidData => return Err(malformed()),
            Err(error) => return Err(error.into()),
        };
        parse_ref(&bytes).map(Some).ok_or_else(malformed)
    }

    /// Opens the artifact that a ref names and verifies it at the given level; `None` if there is no such ref.
    ///
    /// # Errors
    ///
    /// Fails when the artifact is not in the store or is damaged.
    pub fn open_ref(&self, name: &str, level: Level) -> Result<Option<Artifact>> {
        let Some(target) = self.read_ref(name)? else { return Ok(None) };
        let reason = || format!("names {} {}, which is not in the store", target.stage, target.key.short());
        let artifact = self
            .lookup_with(&target.stage, &target.key, "", level)?
            .ok_or_else(|| Error::Ref { name: name.to_owned(), reason: reason() })?;
        Ok(Some(artifact))
    }

    /// Moves a folder of this store into `.quarantine/` and returns its new path.
    ///
    /// # Errors
    ///
    /// Fails when the folder cannot be moved.
    pub fn quarantine(&self, path: &Path, stage: &str, key: &Key, reason: &str) -> Result<PathBuf> {
        let time = clock::format_compact(clock::now());
        self.move_below(".quarantine", path, &format!("{time}-{stage}-{}-{reason}", key.short()))
    }

    /// Moves an artifact into `.quarantine/` if it is damaged. Returns `None` if it is gone, or if another process has already replaced
    /// it.
    ///
    /// Callers hold the lock of the key. Where locks do nothing, another process may have replaced the artifact since it was
    /// looked at, so it is looked at again once it has been moved, and a sound one is moved back.
    ///
    /// # Errors
    ///
    /// Fails when the artifact cannot be read or is locked, which says nothing about its bytes, and when the folder cannot be moved.
    pub fn quarantine_damaged(&self, path: &Path, stage: &str, key: &Key) -> Result<Option<PathBuf>> {
        let identity = |path: &Path| path.symlink_metadata().ok().map(|found| (found.dev(), found.ino()));
        let before = identity(path);
        let looked = is_sound(path, key);
        // What appears after a removal was not looked at.
        if before.is_none() || identity(path) != before || looked? {
            return Ok(None);
        }
        let moved = match self.quarantine(path, stage, key, "damaged") {
            Err(Error::Io(error)) if error.kind() == ErrorKind::NotFound => return Ok(None),
            moved => moved?,
        };
        if identity(&moved) != before {
            return give_back(&moved, path);
        }
        let looked = is_sound(&moved, key);
        // What cannot be read now may be sound.
        if !matches!(looked, Ok(false)) && os::rename_exclusive(&moved, path)? {
            os::sync_dir(os::parent(path))?;
            return looked.map(|_| None);
        }
        Ok(Some(moved))
    }

    /// Moves something of this store into `folder`, and flushes that.
    fn move_below(&self, folder: &str, path: &Path, base: &str) -> Result<PathBuf> {
        // A read-only folder cannot be moved to another parent.
        os::make_writable(path);
        let target = self.rename_below(folder, path, base)?;
        os::sync_dir(os::parent(&target))?;
        os::sync_dir(os::parent(path))?;
        Ok(target)
    }

    /// Renames something of this store to a free name in `folder` that begins with `base`.
    pub(crate) fn rename_below(&self, folder: &str, path: &Path, base: &str) -> Result<PathBuf> {
        let dir = self.folder(folder)?;
        os::create_dir_all(&dir)?;
        for attempt in 0_u32.. {
            let suffix = if attempt == 0 { String::new() } else { format!("-{attempt}") };
            let target = dir.join(format!("{base}{suffix}"));
            if os::rename_exclusive(path, &target)? {
                return Ok(target);
            }
        }
        unreachable!("one of the names is free")
    }
}

/// Parses the line `STAGE KEY TREE`.
fn parse_ref(bytes: &[u8]) -> Option<Ref> {
    let mut words = str::from_utf8(bytes).ok()?.strip_suffix('\n')?.split(' ');
    let (stage, key, tree) = (words.next()?, words.next()?, words.next()?);
    check_stage(stage).ok()?;
    let complete = words.next().is_none();
    complete.then_some(Ref { stage: stage.to_owned(), key: key.parse().ok()?, tree: tree.parse().ok()? })
}

/// Checks that no other ref in the folder `dir` is the same file where the file system ignores case.
fn check_case(dir: &Path, name: &str) -> Result<()> {
    for entry in os::entries(dir)? {
        let Ok(existing) = entry.file_name().into_string() else { continue };
        if existing != name && existing.eq_ignore_ascii_case(name) {
            return Err(Error::RefCase { name: name.to_owned(), existing });
        }
    }
    Ok(())
}

/// Returns whether there is nothing at `path`; a link that leads nowhere is something.
fn is_missing(path: &Path) -> bool {
    path.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

/// Moves back what had taken `path` when something damaged there was to be moved away. Returns where it is if that fails because
/// the path is taken again, by something else.
fn give_back(moved: &Path, path: &Path) -> Result<Option<PathBuf>> {
    if os::rename_exclusive(moved, path)? {
        os::sync_dir(os::parent(path))?;
        return Ok(None);
    }
    let tree = |path| Some(open_if_there(path, Level::Hash).ok()??.tree());
    let is_copy = tree(moved).is_some_and(|found| Some(found) == tree(path));
    if !is_copy {
        return Ok(Some(moved.to_owned()));
    }
    os::remove_tree(moved)?;
    Ok(None)
}

/// Opens the artifact at `path`, which other processes may move away, or replace, at any moment; `None` if nothing is there.
///
/// # Errors
///
/// As [`Artifact::open_with`].
pub(crate) fn open_if_there(path: &Path, level: Level) -> Result<Option<Artifact>> {
    for _ in 1..LOOKS {
        match Artifact::open_with(path, level) {
            Err(_) if is_missing(path) => return Ok(None),
            // Nothing was there for a moment.
            Err(Error::NotAnArtifact { .. }) => {}
            opened => return opened.map(Some),
        }
    }
    Artifact::open_with(path, level).map(Some)
}

/// Returns whether the artifact with a key is at `path` and undamaged.
///
/// # Errors
///
/// Fails when that cannot be told.
fn is_sound(path: &Path, key: &Key) -> Result<bool> {
    if is_link(path) {
        return Ok(false);
    }
    match open_if_there(path, Level::Hash) {
        Ok(found) => Ok(found.is_some_and(|found| found.manifest().key == *key)),
        Err(error) if error.is_damage() => Ok(false),
        Err(error) => Err(error),
    }
}

/// Returns whether a path is a symlink: what it points to is not in the store, and may belong to someone else.
fn is_link(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.is_symlink())
}

/// Returns 16 hexadecimal digits that no other store is likely to have.
fn new_id() -> String {
    let text = format!("{} {} {:?}", os::boot_id(), std::process::id(), clock::now());
    FileHash::of(text.as_bytes()).short()
}

/// Checks the free space at any folder, as [`Store::check_space`] does.
pub(crate) fn check_space(path: &Path, planned_bytes: u64) -> Result<()> {
    let headroom =
        std::env::var("ASHLAR_MIN_FREE_BYTES").ok().and_then(|text| text.parse().ok()).unwrap_or(HEADROOM);
    let needed_bytes = planned_bytes.saturating_add(planned_bytes / 10).saturating_add(headroom);
    let free_bytes = os::free_bytes(path)?;
    if free_bytes < needed_bytes {
        return Err(Error::NoSpace { path: path.to_owned(), needed_bytes, free_bytes });
    }
    Ok(())
}
