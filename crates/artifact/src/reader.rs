//! Opening artifacts, with verification.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::digest::{FileHash, TreeHash};
use crate::error::{Error, Result, damaged};
use crate::hashing::{hash_and_remember, hash_or_recall};
use crate::hold::Hold;
use crate::manifest::{self, File, Manifest};
use crate::memo::Memo;
use crate::os;
use crate::stamp::Witness;
use crate::tree::Tree;

pub(crate) const COMMIT: &str = "COMMIT";
pub(crate) const SUMS: &str = "SHA256SUMS";
pub(crate) const MANIFEST: &str = "manifest.json";
pub(crate) const PROVENANCE: &str = "provenance.json";
pub(crate) const DATA: &str = "data";
pub(crate) const TELEMETRY: &str = "telemetry";

/// Number of attempts to open an artifact that other processes keep replacing.
pub(crate) const LOOKS: usize = 20;

/// Thoroughness with which data files are verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Level {
    /// The set of files and their sizes.
    Size,
    /// Also the bytes of all files. A large file is read when it is first used after it was written or copied; later its
    /// hash is remembered, until its identity, size or times change.
    #[default]
    Auto,
    /// The bytes of all files, whatever is remembered.
    Hash,
}

/// A published artifact, opened for reading.
#[derive(Debug, Clone)]
pub struct Artifact {
    path: PathBuf,
    manifest: Manifest,
    manifest_hash: FileHash,
    /// Keeps gc away while the artifact is open.
    hold: Hold,
}

impl Artifact {
    /// Opens and verifies the artifact in the folder `path` ([`Level::Auto`]).
    ///
    /// # Errors
    ///
    /// Fails when there is no artifact, when its format is unknown, and when any file is missing, added, replaced by a symlink
    /// or changed.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, Level::Auto)
    }

    /// Opens and verifies an artifact at the given level.
    ///
    /// # Errors
    ///
    /// As [`Artifact::open`].
    pub fn open_with(path: &Path, level: Level) -> Result<Self> {
        for _ in 1..LOOKS {
            if let Some(opened) = Self::look(path, level)? {
                return Ok(opened);
            }
        }
        let hold = Self::begin(path)?;
        Self::read(path, level, hold)
    }

    /// Opens the artifact at `path`. Returns `None` if that failed and another process has moved or replaced the folder in the
    /// meantime: the files that were read may then come from two folders.
    fn look(path: &Path, level: Level) -> Result<Option<Self>> {
        let hold = Self::begin(path)?;
        match Self::read(path, level, hold.clone()) {
            Err(_) if !hold.is_at(path) => Ok(None),
            opened => opened.map(Some),
        }
    }

    fn begin(path: &Path) -> Result<Hold> {
        match why_no_artifact(path)? {
            Some(reason) => Err(Error::NotAnArtifact { path: path.to_owned(), reason: reason.to_owned() }),
            None => Hold::take(path),
        }
    }

    fn read(path: &Path, level: Level, hold: Hold) -> Result<Self> {
        let (manifest, manifest_hash) = read_committed(path)?;
        let artifact = Self { path: path.to_owned(), manifest, manifest_hash, hold };
        artifact.check_top_level()?;
        artifact.verify(level)?;
        Ok(artifact)
    }

    /// Returns the folder of the artifact, as given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Returns the hash of `manifest.json`.
    pub fn manifest_hash(&self) -> FileHash {
        self.manifest_hash
    }

    /// Records that the artifact is used now, so that gc keeps it for its grace period.
    ///
    /// The time is that of the folder; a store that cannot be written stays as it is.
    pub fn mark_used(&self) {
        self.hold.touch();
    }

    /// Returns the hash of all data.
    pub fn tree(&self) -> TreeHash {
        self.manifest.tree
    }

    /// Returns the folder with all outputs.
    pub fn data_dir(&self) -> PathBuf {
        self.path.join(DATA)
    }

    /// Returns the folder (or file) of a named output.
    pub fn output_dir(&self, name: &str) -> Option<PathBuf> {
        self.manifest.outputs.contains_key(name).then(|| self.path.join(DATA).join(name))
    }

    /// Reads `provenance.json`.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be read.
    pub fn provenance(&self) -> Result<Value> {
        let path = self.path.join(PROVENANCE);
        serde_json::from_slice(&os::read(&path)?).map_err(|source| Error::Json { path, source })
    }

    /// Verifies the data files again, at the given level.
    ///
    /// # Errors
    ///
    /// Fails at the first file that is missing, added, of another kind or size, or (if hashed) changed.
    pub fn verify(&self, level: Level) -> Result<()> {
        self.verify_sizes()?;
        self.verify_bytes(level, |_| true)
    }

    /// Verifies the names and sizes of all files, and the bytes of one output (of all outputs if `name` is empty) at [`Level::Auto`].
    /// Returns a witness that detects later changes.
    ///
    /// # Errors
    ///
    /// As [`Artifact::verify`].
    pub fn verify_output(&self, name: &str) -> Result<Witness> {
        let wanted = |file: &File| name.is_empty() || file.role == name;
        let data = self.data_dir();
        let mut witness = Witness::default();
        for file in self.manifest.files.iter().filter(|file| wanted(file)) {
            witness.add(data.join(&file.path), file.sha256)?;
        }
        let mut places: Vec<_> = self.manifest.files.iter().map(|file| data.join(&file.path)).collect();
        places.sort();
        witness.add_folder(data, places, |data| {
            let mut places: Vec<_> = Tree::list(data)?.into_iter().map(|(path, _)| data.join(path)).collect();
            places.sort();
            Ok(places)
        });
        self.verify_sizes()?;
        self.verify_bytes(Level::Auto, wanted)?;
        Ok(witness)
    }

    fn verify_bytes(&self, level: Level, wanted: impl Fn(&File) -> bool) -> Result<()> {
        let files: Vec<_> = self.manifest.files.iter().filter(|file| wanted(file)).collect();
        let data = self.data_dir();
        let jobs: Vec<_> = files.iter().map(|file| (data.join(&file.path), file.size)).collect();
        let hashes = match level {
            Level::Size => return Ok(()),
            Level::Auto => hash_or_recall(&jobs, &Memo::beside(&self.path)),
            Level::Hash => hash_and_remember(&jobs, &Memo::beside(&self.path)),
        };
        for (file, hashed) in files.iter().zip(hashes) {
            if file.sha256 != hashed?.sha256 {
                return Err(damaged(&self.path, format!("the bytes of `data/{}` have changed", file.path)));
            }
        }
        Ok(())
    }

    fn verify_sizes(&self) -> Result<()> {
        let found = Tree::list(&self.data_dir()).map_err(|error| match error {
            Error::Tree { path, reason } => damaged(&self.path, format!("`{}`: {reason}", path.display())),
            Error::Io(error) if error.kind() == ErrorKind::NotFound => {
                damaged(&self.path, "`data` is missing")
            }
            other => other,
        })?;
        let mut found = found.iter().peekable();
        for file in &self.manifest.files {
            match found.peek() {
                Some((path, size)) if *path == file.path => {
                    if *size != file.size {
                        let reason =
                            format!("`data/{path}` has {size} bytes, the manifest says {}", file.size);
                        return Err(damaged(&self.path, reason));
                    }
                    found.next();
                }
                Some((path, _)) if *path < file.path => break,
                _ => return Err(damaged(&self.path, format!("`data/{}` is missing", file.path))),
            }
        }
        match found.next() {
            Some((path, _)) => Err(damaged(&self.path, format!("`data/{path}` is not in the manifest"))),
            None => Ok(()),
        }
    }

    fn check_top_level(&self) -> Result<()> {
        match misplaced(&self.path)?.into_iter().next() {
            Some((name, reason)) => Err(damaged(&self.path, format!("`{name}` {reason}"))),
            None => Ok(()),
        }
    }
}

/// Lists what is in the folder of an artifact but does not belong there, or is of the wrong kind, with the reason.
pub(crate) fn misplaced(dir: &Path) -> Result<Vec<(String, &'static str)>> {
    let mut found = Vec::new();
    for entry in os::entries(dir)? {
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        let reason = match name.to_str() {
            Some(COMMIT | SUMS | MANIFEST | PROVENANCE) if kind.is_file() => continue,
            Some(DATA | TELEMETRY) if kind.is_dir() => continue,
            Some(COMMIT | SUMS | MANIFEST | PROVENANCE | DATA | TELEMETRY) => "is of the wrong kind",
            _ => "does not belong there",
        };
        found.push((name.display().to_string(), reason));
    }
    found.sort();
    Ok(found)
}

/// Returns why a path is not an artifact at all; `None` if it may be one.
pub(crate) fn why_no_artifact(path: &Path) -> Result<Option<&'static str>> {
    let look = |path: &Path, follow: bool| {
        let metadata = if follow { fs_err::metadata(path) } else { fs_err::symlink_metadata(path) };
        match metadata {
            Ok(metadata) => Ok(Some(metadata)),
            // Anything else, such as a denied access, does not mean that it is not there.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(Error::Io(error)),
        }
    };
    Ok(match look(path, true)? {
        None => Some("it does not exist"),
        Some(metadata) if !metadata.is_dir() => Some("it is not a folder"),
        Some(_) if look(&path.join(COMMIT), false)?.is_none() => Some("it has no file `COMMIT`"),
        Some(_) => None,
    })
}

/// Reads `COMMIT` and the three files whose hashes it lists.
pub(crate) fn read_committed(dir: &Path) -> Result<(Manifest, FileHash)> {
    let read = |name: &str| -> Result<Vec<u8>> {
        let path = dir.join(name);
        match path.symlink_metadata() {
            Ok(metadata) if metadata.is_file() => os::read(&path).map_err(|error| match error.kind() {
                ErrorKind::InvalidData => damaged(dir, format!("`{name}` is too long")),
                _ => Error::Io(error),
            }),
            Ok(_) => Err(damaged(dir, format!("`{name}` is not a regular file"))),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Err(damaged(dir, format!("`{name}` is missing")))
            }
            Err(error) => Err(os::named(error, "look at", &path).into()),
        }
    };
    let names = [SUMS, MANIFEST, PROVENANCE];
    let contents = [read(SUMS)?, read(MANIFEST)?, read(PROVENANCE)?];
    let hashes = [0, 1, 2].map(|index| FileHash::of(&contents[index]));
    let commit = read(COMMIT)?;
    for (line, (name, hash)) in commit.split_inclusive(|byte| *byte == b'\n').zip(names.iter().zip(&hashes)) {
        if line != format!("{hash}  {name}\n").as_bytes() {
            return Err(damaged(dir, format!("`{name}` does not match `COMMIT`")));
        }
    }
    if commit != commit_text(&hashes).as_bytes() {
        return Err(damaged(dir, "`COMMIT` does not have its three lines"));
    }
    let manifest = Manifest::from_bytes(&dir.join(MANIFEST), &contents[1])?;
    let tree = manifest.tree(&dir.join(DATA))?;
    if tree.sums().as_bytes() != contents[0] || tree.hash() != manifest.tree {
        return Err(damaged(dir, "`manifest.json` and `SHA256SUMS` disagree"));
    }
    if manifest::outputs(&tree) != manifest.outputs {
        return Err(damaged(dir, "the outputs in `manifest.json` do not match its files"));
    }
    Ok((manifest, hashes[1]))
}

/// Returns the text of `COMMIT` for the hashes of `SHA256SUMS`, `manifest.json` and `provenance.json`.
pub(crate) fn commit_text(hashes: &[FileHash; 3]) -> String {
    format!("{}  {SUMS}\n{}  {MANIFEST}\n{}  {PROVENANCE}\n", hashes[0], hashes[1], hashes[2])
}
