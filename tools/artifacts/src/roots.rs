//! Roots of gc: labels, pointers of pipelines, and kept runs.

use std::ffi::OsString;
use std::fs::Metadata;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use artifact::{Artifact, Key, Store, atomic};
use serde::{Deserialize, Serialize};

use crate::catalog::{list, names};
use crate::error::{Error, Result, bad_file};

/// Folder of the store with one file per kept artifact.
const KEPT: &str = ".kept";
/// Folder of pointers that is searched if none is named.
pub(crate) const BUILD: &str = "build";
/// Deepest folder below a pointer folder that is searched.
const POINTER_DEPTH: usize = 6;
/// How often a folder is listed again because pointers in it were replaced meanwhile.
const RELISTINGS: usize = 100;
/// Longest pointer, and longest record of a kept artifact.
const ROOT_BYTES: u64 = 1 << 20;

/// A file in which `make` notes the path of a stage's artifact.
#[derive(Debug, Clone)]
pub(crate) struct Pointer {
    /// The file, `STAGE.path`.
    pub(crate) file: PathBuf,
    /// The artifact.
    pub(crate) target: PathBuf,
}

impl Pointer {
    /// Returns whether the file has its final name.
    pub(crate) fn is_written(&self) -> bool {
        self.file.extension().is_some_and(|extension| extension == "path")
    }

    /// Returns whether the artifact is there.
    pub(crate) fn exists(&self) -> bool {
        self.target.join("COMMIT").is_file()
    }
}

/// An artifact that gc keeps, with everything it was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    /// Stage of the artifact.
    pub(crate) stage: String,
    /// Its key.
    pub(crate) key: Key,
    /// Why it is kept, in the user's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(crate) note: String,
}

impl Kept {
    /// Returns `STAGE/KEY16`.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.stage, self.key.short())
    }

    /// Returns whether both keep the same artifact.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (&self.stage, self.key) == (&other.stage, other.key)
    }
}

/// Lists the pointers (`*.path`) in and below folders, through links; without folders, those of [`BUILD`], which may be missing.
///
/// # Errors
///
/// Fails when one of `folders` is not there, which may be a mistyped name, when a folder cannot be listed, and when a pointer or a
/// link cannot be read.
pub(crate) fn pointers(folders: &[PathBuf]) -> Result<Vec<Pointer>> {
    let mut found = Vec::new();
    for folder in folders {
        if !look(folder)?.is_some_and(|metadata| metadata.is_dir()) {
            return Err(Error::NoPointers { folder: folder.clone() });
        }
    }
    let build = [PathBuf::from(BUILD)];
    for folder in if folders.is_empty() { &build } else { folders } {
        collect(folder, &mut Vec::new(), &mut found)?;
    }
    Ok(found)
}

/// Device and inode of a folder.
type Identity = (u64, u64);

/// Collects the pointers in a folder and below it; `above` are the folders in which it was found.
fn collect(folder: &Path, above: &mut Vec<Identity>, found: &mut Vec<Pointer>) -> Result<()> {
    let Some(metadata) = look(folder)? else { return Ok(()) };
    let identity = (metadata.dev(), metadata.ino());
    // A link to a folder above leads to nothing new.
    if above.contains(&identity) {
        return Ok(());
    }
    let mut here = read_folder(folder)?;
    // A pointer that is being replaced has two names, one after the other; list again until none of them vanishes.
    for _ in 0..RELISTINGS {
        if here.is_complete {
            break;
        }
        here = read_folder(folder)?;
    }
    found.extend(here.pointers);
    if above.len() < POINTER_DEPTH {
        above.push(identity);
        for below in here.folders {
            collect(&below, above, found)?;
        }
        above.pop();
    }
    Ok(())
}

/// What a folder of pointers holds.
struct Listing {
    pointers: Vec<Pointer>,
    folders: Vec<PathBuf>,
    /// Whether everything that was listed was still there to be read.
    is_complete: bool,
}

fn read_folder(folder: &Path) -> Result<Listing> {
    let mut listing = Listing { pointers: Vec::new(), folders: Vec::new(), is_complete: true };
    let entries = match list(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(listing),
        Err(error) => return Err(error.into()),
    };
    let mut paths: Vec<PathBuf> = entries.into_iter().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let Some(metadata) = look(&path)? else {
            listing.is_complete = false;
            continue;
        };
        if metadata.is_dir() {
            listing.folders.push(path);
        } else if is_pointer(&path) {
            match read_pointer(&path)? {
                Some(pointer) => listing.pointers.push(pointer),
                None => listing.is_complete = false,
            }
        }
    }
    Ok(listing)
}

/// Reads a pointer; `None` if it is gone meanwhile.
fn read_pointer(path: &Path) -> Result<Option<Pointer>> {
    let mut bytes = match files::read(path, ROOT_BYTES) {
        Ok(bytes) => bytes,
        Err(_) if path.symlink_metadata().is_err() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    if bytes.ends_with(b"\n") {
        bytes.pop();
    }
    Ok(Some(Pointer { file: path.to_owned(), target: OsString::from_vec(bytes).into() }))
}

/// Looks at a file or folder, through links; `None` if it is gone.
///
/// # Errors
///
/// Fails on a link that leads nowhere: what it should lead to may be a pointer.
fn look(path: &Path) -> Result<Option<Metadata>> {
    let error = match path.metadata() {
        Ok(metadata) => return Ok(Some(metadata)),
        Err(error) => error,
    };
    match path.read_link() {
        Ok(target) => {
            let reason = format!(
                "is a link to `{}`, which cannot be read ({error}): restore what it leads to, or delete the link",
                target.display()
            );
            Err(bad_file(path, reason))
        }
        Err(_) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(_) => Ok(Some(fs_err::metadata(path)?)),
    }
}

/// Returns whether a file is a pointer, `STAGE.path`, or one that is just being written, `STAGE.path.…` or `.STAGE.path.…`.
fn is_pointer(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.ends_with(".path") || name.contains(".path.")
}

/// Lists the kept artifacts.
///
/// # Errors
///
/// Fails on a file that cannot be read, since gc must not take it for nothing.
pub(crate) fn kept(store: &Store) -> Result<Vec<Kept>> {
    kept_files(store)?.into_iter().map(|(_, kept)| kept).collect()
}

/// Lists the files that keep artifacts, with what each says.
///
/// # Errors
///
/// Fails when their folder cannot be listed.
pub(crate) fn kept_files(store: &Store) -> Result<Vec<(PathBuf, Result<Kept>)>> {
    let dir = store.root().join(KEPT);
    let read = |path: PathBuf| {
        let kept = read_kept(&path);
        (path, kept)
    };
    Ok(names(&dir)?.into_iter().map(|name| read(dir.join(name))).collect())
}

fn read_kept(path: &Path) -> Result<Kept> {
    let bytes = files::read(path, ROOT_BYTES)?;
    serde_json::from_slice(&bytes).map_err(|error| {
        bad_file(path, format!("does not name a kept artifact: {error}: delete the file, and keep it again"))
    })
}

/// Keeps an artifact.
///
/// # Errors
///
/// Fails when the store cannot be written.
pub(crate) fn keep(store: &Store, artifact: &Artifact, note: &str) -> Result<Kept> {
    let manifest = artifact.manifest();
    let kept = Kept { stage: manifest.stage.clone(), key: manifest.key, note: note.to_owned() };
    fs_err::create_dir_all(store.root().join(KEPT))?;
    let text = format!("{}\n", serde_json::to_value(&kept).unwrap_or_default());
    atomic::write_file(&file(store, &kept), text.as_bytes())?;
    Ok(kept)
}

/// Stops keeping an artifact, which need not exist, whatever the names of the files that keep it; returns whether it was kept.
///
/// # Errors
///
/// Fails when the store cannot be written, and on a file that cannot be read, which may keep it.
pub(crate) fn release(store: &Store, stage: &str, key: Key) -> Result<bool> {
    let mut was_kept = false;
    for (path, kept) in kept_files(store)? {
        let kept = kept?;
        if kept.stage != stage || kept.key != key {
            continue;
        }
        match fs_err::remove_file(path) {
            Ok(()) => was_kept = true,
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(was_kept)
}

fn file(store: &Store, kept: &Kept) -> PathBuf {
    store.root().join(KEPT).join(format!("{}.{}", kept.stage, kept.key.short()))
}
