//! A folder as a place for artifacts: it is a store itself, so stages can use it, and any tool can copy it.

use std::io;
use std::path::{Path, PathBuf};

use artifact::{Artifact, Published, Store};

use super::{Name, Remote, Sent, damage_of_copy, files, read_limited, too_long};
use crate::catalog::{Catalog, names, total};
use crate::error::{Error, Result};

/// A store in another folder, such as a mounted disk.
#[derive(Debug)]
pub(crate) struct Folder {
    store: Store,
}

impl Folder {
    /// Opens the folder, which need not exist.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        Ok(Self { store: Store::open(root)? })
    }

    fn path(&self, name: &Name) -> PathBuf {
        self.store.root().join(name.to_string())
    }

    /// Makes the error for a copy that is not what was sent, although that was sound.
    fn bad_copy(&self, error: artifact::Error, staging: &Path, name: &Name) -> Error {
        let place = self.path(name).display().to_string();
        match damage_of_copy(error, staging, &place) {
            Ok((place, reason)) => Error::Remote {
                place,
                problem: format!("was copied there, but the copy is damaged: {reason}"),
                hint: Some("check that disk, then run the same command again".to_owned()),
            },
            Err(error) => error.into(),
        }
    }
}

impl Remote for Folder {
    fn list(&self) -> Result<Vec<Name>> {
        let catalog = Catalog::open(self.store.root())?;
        let complete = catalog.entries.iter().filter(|entry| entry.path.join("COMMIT").is_file());
        let mut names: Vec<Name> = complete.filter_map(|entry| Name::parse(&entry.name())).collect();
        names.sort();
        Ok(names)
    }

    fn why_no_store(&self) -> Option<&'static str> {
        let root = self.store.root();
        if !root.is_dir() {
            Some("is not a folder")
        } else if !root.join("STORE").is_file() {
            Some("is a folder without artifacts")
        } else {
            None
        }
    }

    fn read(&self, name: &Name, file: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let path = self.path(name).join(file);
        match open_plain(&path) {
            Ok(opened) => read_limited(opened, limit, &path.display().to_string()).map(Some),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn telemetry(&self, name: &Name) -> Result<Vec<(String, u64)>> {
        let folder = self.path(name).join("telemetry");
        let with_size = |file: String| {
            let size = fs_err::symlink_metadata(folder.join(&file))?.len();
            Ok((file, size))
        };
        names(&folder)?.into_iter().map(with_size).collect()
    }

    fn download(&self, name: &Name, file: &str, bytes: u64, to: &Path) -> Result<()> {
        let path = self.path(name).join(file);
        if open_plain(&path)?.metadata()?.len() > bytes {
            return Err(too_long(&path.display().to_string(), bytes));
        }
        copy(&path, to)
    }

    fn send(&self, artifact: &Artifact, name: &Name) -> Result<Sent> {
        let manifest = artifact.manifest();
        if self.store.find(&manifest.stage, &manifest.key, &name.slug)?.is_some() {
            let there =
                self.store.lookup_with(&manifest.stage, &manifest.key, &name.slug, artifact::Level::Hash);
            match there {
                Ok(Some(there)) if there.tree() == artifact.tree() => {
                    // gc of that store must not remove it before what was made from it is there as well.
                    there.mark_used();
                    return Ok(Sent::Same);
                }
                Ok(Some(there)) => return Err(different(&there, artifact)),
                // A copy that is locked or cannot be read may be sound.
                Err(error) if !error.is_damage() => return Err(error.into()),
                // A damaged copy is replaced by `adopt`.
                Ok(None) | Err(_) => {}
            }
        }
        self.store.check_space(total(manifest.outputs.values().map(|output| output.bytes)))?;
        let staging = self.store.stage_new(&manifest.stage)?;
        for (file, _) in files(artifact)? {
            let to = staging.root().join(&file);
            fs_err::create_dir_all(to.parent().unwrap_or(&to))?;
            copy(&artifact.path().join(&file), &to)?;
        }
        let folder = staging.root().to_owned();
        match staging.adopt(&name.slug) {
            Ok(Published::New(_)) => Ok(Sent::New),
            Ok(Published::Same(_)) => Ok(Sent::Same),
            Ok(Published::Different { artifact: there, .. }) => Err(different(&there, artifact)),
            Err(error) => Err(self.bad_copy(error, &folder, name)),
        }
    }
}

/// Opens a regular file; never waits on a pipe.
fn open_plain(path: &Path) -> Result<fs_err::File> {
    let metadata = fs_err::symlink_metadata(path)?;
    if !metadata.is_file() {
        return Err(crate::error::bad_file(path, "is not a regular file"));
    }
    Ok(fs_err::File::open(path)?)
}

/// Copies a file, without copying its bytes where the file system can.
fn copy(from: &Path, to: &Path) -> Result<()> {
    match reflink_copy::reflink_or_copy(from, to) {
        Ok(_) => Ok(()),
        Err(source) => {
            let message = format!("failed to copy `{}` to `{}`: {source}", from.display(), to.display());
            Err(io::Error::new(source.kind(), crate::error::Named { message, source }).into())
        }
    }
}

fn different(there: &Artifact, here: &Artifact) -> Error {
    Error::Different {
        there: there.path().display().to_string(),
        here: here.path().to_owned(),
        trees: (there.tree(), here.tree()),
    }
}
