//! Publishing into a store: an artifact appears under its name whole, or not at all.

use std::fs::File;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::atomic::dirs_bottom_up;
use crate::digest::TreeHash;
use crate::error::{Error, Result, damaged};
use crate::liveness::{Liveness, STAGING};
use crate::lock::{self, Tried};
use crate::manifest::Manifest;
use crate::memo::Memo;
use crate::reader::{Artifact, DATA, Level, TELEMETRY};
use crate::seal::{Draft, flush, seal};
use crate::store::{Store, open_if_there};
use crate::verify::{Fault, verify};
use crate::{names, os};

/// Number of times that other processes may remove or replace the same folder before this one gives up.
const ATTEMPTS: usize = 100;
/// Pause before another look at a folder that is gone for a moment.
const PAUSE: Duration = Duration::from_millis(10);

/// A folder beside the published artifacts in which a new one is prepared; removed on drop unless published.
#[derive(Debug)]
pub struct Staging {
    store: Store,
    dir: PathBuf,
    data: PathBuf,
    telemetry: PathBuf,
    published: bool,
    /// Locked while this process lives, so that others do not remove the folder.
    _in_use: File,
}

/// Outcome of publishing.
#[derive(Debug)]
pub enum Published {
    /// The artifact is new.
    New(Artifact),
    /// The same key was already published with the same bytes.
    Same(Artifact),
    /// The same key was already published with other bytes, so the stage is not deterministic. The first artifact stays.
    Different {
        /// The first artifact.
        artifact: Artifact,
        /// Where the new one was moved.
        quarantined: PathBuf,
        /// Tree hash of the new one.
        tree: TreeHash,
    },
}

impl Published {
    /// Returns the artifact that now has the name.
    pub fn artifact(&self) -> &Artifact {
        match self {
            Self::New(artifact) | Self::Same(artifact) | Self::Different { artifact, .. } => artifact,
        }
    }
}

impl Store {
    /// Creates an empty staging folder for a stage, after removing those of dead processes.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be written.
    pub fn stage_new(&self, stage: &str) -> Result<Staging> {
        self.ensure()?;
        let parent = self.stage_dir(stage)?;
        os::create_dir_all(&parent)?;
        let prefix = format!("{STAGING}{}-{}-", os::boot_id(), std::process::id());
        for _ in 0..ATTEMPTS {
            let dir = os::create_temporary_dir(&parent, &prefix)?.keep();
            // Another process may take the folder for an abandoned one until it is locked: then take another one.
            let Some((in_use, can_lock)) = claim(&dir)? else { continue };
            clear_abandoned(&parent, can_lock);
            let (data, telemetry) = (dir.join(DATA), dir.join(TELEMETRY));
            let created = os::create_dir(&data).and_then(|()| os::create_dir(&telemetry));
            let staging =
                Staging { store: self.clone(), dir, data, telemetry, published: false, _in_use: in_use };
            created?;
            return Ok(staging);
        }
        Err(Error::Occupied { path: parent, reason: "loses every new folder at once".to_owned() })
    }
}

/// Opens and locks a new staging folder; also returns whether locks work there. `None` if it is gone.
fn claim(dir: &Path) -> Result<Option<(File, bool)>> {
    let opened = match os::open_dir(dir) {
        Ok(opened) => opened,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // Shared, because the folder keeps its lock when it is renamed, and readers of the artifact take one too.
    let tried = lock::try_lock_shared(dir, &opened)?;
    let is_there = dir.symlink_metadata().is_ok();
    let can_lock = tried == Tried::Locked && lock::excludes(dir);
    Ok((tried != Tried::Busy && is_there).then_some((opened, can_lock)))
}

impl Staging {
    /// Returns the staging folder itself, to be filled with the files of an existing artifact before [`Staging::adopt`].
    pub fn root(&self) -> &Path {
        &self.dir
    }

    /// Returns the folder to fill with named outputs.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Returns the folder for files outside the tree hash.
    pub fn telemetry(&self) -> &Path {
        &self.telemetry
    }

    /// Checks and hashes the data, flushes everything to the disk, and renames the folder to its name in the store.
    ///
    /// `before_commit` is called after the data was read and may still refuse. After a crash at any moment, either the whole
    /// artifact has its name or nothing does; an unfinished staging folder is removed by a later run.
    ///
    /// # Errors
    ///
    /// Fails without publishing anything when data is refused, when `before_commit` fails, or on an I/O error.
    pub fn publish(self, draft: &Draft, before_commit: &mut dyn FnMut() -> Result<()>) -> Result<Published> {
        names::check_slug(&draft.slug)?;
        let manifest = seal(&self.dir, draft, before_commit)?;
        self.install(&manifest, &draft.slug)
    }

    /// Publishes an artifact that was copied into the staging folder whole, such as a downloaded one, as `KEY16-slug`.
    ///
    /// Verifies every byte first, and flushes everything to the disk.
    ///
    /// # Errors
    ///
    /// Fails without publishing anything when the folder is not a sound artifact of the stage, or on an I/O error.
    pub fn adopt(self, slug: &str) -> Result<Published> {
        names::check_slug(slug)?;
        if os::entries(&self.telemetry)?.is_empty() {
            fs_err::remove_dir(&self.telemetry)?;
        }
        let manifest = Artifact::open_with(&self.dir, Level::Size)?.manifest().clone();
        if let Some(problem) = verify(&self.dir, Level::Hash, &Memo::default()).problems.first() {
            let reason = format!("`{}` {}", problem.path, problem.reason);
            return Err(match problem.fault {
                // Nothing is known of its bytes.
                Fault::Unreadable => {
                    std::io::Error::other(format!("cannot read `{}`: {reason}", self.dir.display())).into()
                }
                _ => damaged(&self.dir, reason),
            });
        }
        let stage = self.dir.parent().and_then(Path::file_name).unwrap_or_default();
        if stage != manifest.stage.as_str() {
            let reason = format!("it is an artifact of `{}`", manifest.stage);
            return Err(Error::NotAnArtifact { path: self.dir.clone(), reason });
        }
        flush(&self.dir, &manifest)?;
        self.install(&manifest, slug)
    }

    /// Renames the sealed folder to its name in the store.
    fn install(mut self, manifest: &Manifest, slug: &str) -> Result<Published> {
        let key = manifest.key;
        let parent = self.store.stage_dir(&manifest.stage)?;
        let target = parent.join(format!("{}-{slug}", key.short()));
        for _ in 0..ATTEMPTS {
            if os::rename_exclusive(&self.dir, &target)? {
                self.published = true;
                os::sync_dir(&parent)?;
                return protect_folders(&target).map(Published::New);
            }
            if let Some(published) = self.yield_to(&target, manifest)? {
                return Ok(published);
            }
        }
        Err(Error::Occupied { path: target, reason: "could not be replaced".to_owned() })
    }

    /// Compares with the artifact that has the name; `None` if it is gone, or was damaged and is now in quarantine.
    fn yield_to(&mut self, target: &Path, manifest: &Manifest) -> Result<Option<Published>> {
        let (stage, key, tree) = (&manifest.stage, &manifest.key, manifest.tree);
        match open_if_there(target, Level::Hash) {
            Ok(None) => Ok(None),
            Ok(Some(artifact)) if artifact.manifest().key == *key && artifact.tree() == tree => {
                Ok(Some(Published::Same(artifact)))
            }
            Ok(Some(artifact)) => {
                let quarantined = self.store.quarantine(&self.dir, stage, key, "nondeterministic")?;
                self.published = true;
                Ok(Some(Published::Different { artifact, quarantined, tree }))
            }
            Err(error) if error.is_damage() => {
                if self.store.quarantine_damaged(target, stage, key)?.is_some() {
                    tracing::warn!("{error}; moved to quarantine");
                }
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = os::remove_tree(&self.dir)
        {
            tracing::warn!("cannot remove `{}`: {}", self.dir.display(), failure::describe(&error));
        }
    }
}

/// Makes the folders of a published artifact read-only and opens it.
///
/// A process that found a damaged artifact there may take this one for it; it looks again and moves it back.
fn protect_folders(target: &Path) -> Result<Artifact> {
    let protect = || -> Result<Artifact> {
        for dir in dirs_bottom_up(target)? {
            os::chmod_in(target, &dir, 0o555)?;
        }
        Artifact::open_with(target, Level::Size)
    };
    for _ in 1..ATTEMPTS {
        match protect() {
            Err(Error::Io(error)) if error.kind() == ErrorKind::NotFound => {}
            Err(Error::NotAnArtifact { .. }) => {}
            done => return done,
        }
        std::thread::sleep(PAUSE);
    }
    protect()
}

/// Removes the staging folders of dead processes and of other boots, which may not have reached the disk.
///
/// A folder is left alone while its process lives, or is locked. Where locks do nothing (`can_lock` is false), a folder of another
/// boot is left too: it may belong to another machine.
fn clear_abandoned(parent: &Path, can_lock: bool) {
    for entry in os::entries(parent).into_iter().flatten() {
        let path = entry.path();
        if !entry.file_name().as_encoded_bytes().starts_with(STAGING.as_bytes()) {
            continue;
        }
        match Liveness::of_staging(&path) {
            Liveness::Alive => continue,
            Liveness::Unknown if !can_lock => continue,
            Liveness::Unknown | Liveness::Dead => {}
        }
        // Links and the folders of other users are not ours to remove.
        let Ok(dir) = os::open_dir(&path) else { continue };
        if os::is_ours(&dir) && matches!(lock::try_lock(&path, &dir), Ok(Tried::Locked | Tried::Unsupported))
        {
            tracing::debug!("removing `{}`, left by a process that died", path.display());
            let _ = os::remove_tree(&path);
        }
    }
}
