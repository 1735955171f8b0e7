//! Publishing: all of an artifact appears under its name at once, or nothing does.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::atomic::dirs_bottom_up;
use crate::digest::{Key, TreeHash};
use crate::error::{Error, Result};
use crate::os;
use crate::reader::{Artifact, DATA, Level, TELEMETRY};
use crate::seal::{Draft, seal};
use crate::store::{self, Store};

/// A folder beside the published ones in which an artifact is prepared; removed on drop unless published.
#[derive(Debug)]
pub struct Staging {
    store: Store,
    dir: PathBuf,
    data: PathBuf,
    telemetry: PathBuf,
    published: bool,
    /// Held for as long as this process lives, so that others can tell that the folder is in use.
    _in_use: File,
}

/// How publishing ended.
#[derive(Debug)]
pub enum Published {
    /// The artifact is new.
    New(Artifact),
    /// Someone else published the same key with the same bytes.
    Same(Artifact),
    /// Someone else published the same key with other bytes: the stage is not deterministic. Theirs stays.
    Different {
        /// The artifact that was there first.
        artifact: Artifact,
        /// Where ours went.
        quarantined: PathBuf,
        /// What ours was.
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
    /// Creates an empty staging folder for a stage, after clearing away what dead processes left.
    ///
    /// # Errors
    ///
    /// Fails when the store cannot be written.
    pub fn stage_new(&self, stage: &str) -> Result<Staging> {
        self.ensure()?;
        let parent = self.stage_dir(stage)?;
        os::create_dir_all(&parent)?;
        clear_abandoned(&parent);
        loop {
            let prefix = format!(".tmp-{}-{}-", os::boot_id(), std::process::id());
            let dir = os::create_temporary_dir(&parent, &prefix)?.keep();
            let in_use = File::from(
                rustix::fs::open(
                    &dir,
                    rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC,
                    rustix::fs::Mode::empty(),
                )
                .map_err(std::io::Error::from)?,
            );
            let locked = in_use.try_lock();
            // Someone clearing up may have been faster than our lock: then take another name.
            if matches!(locked, Err(std::fs::TryLockError::WouldBlock)) || !dir.exists() {
                continue;
            }
            let (data, telemetry) = (dir.join(DATA), dir.join(TELEMETRY));
            os::create_dir(&data)?;
            os::create_dir(&telemetry)?;
            let store = self.clone();
            return Ok(Staging { store, dir, data, telemetry, published: false, _in_use: in_use });
        }
    }
}

impl Staging {
    /// Returns the folder to fill with named outputs.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Returns the folder for files outside the tree hash.
    pub fn telemetry(&self) -> &Path {
        &self.telemetry
    }

    /// Checks, hashes, flushes and renames; `before_commit` may still refuse after the data was read.
    ///
    /// # Errors
    ///
    /// Fails without publishing anything when data is refused, when `before_commit` fails, or on any I/O error.
    pub fn publish(
        mut self,
        draft: &Draft,
        before_commit: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Published> {
        store::check_slug(&draft.slug)?;
        let manifest = seal(&self.dir, draft, before_commit)?;
        let key = manifest.key;
        let parent = self.store.stage_dir(draft.stage())?;
        let target = parent.join(format!("{}-{}", key.short(), draft.slug));
        for _ in 0..3 {
            if os::rename_exclusive(&self.dir, &target)? {
                self.published = true;
                os::sync_dir(&parent)?;
                for dir in dirs_bottom_up(&target)? {
                    os::chmod(&dir, 0o555)?;
                }
                return Artifact::open_with(&target, Level::Size).map(Published::New);
            }
            if let Some(published) = self.yield_to(&target, draft, &key, manifest.tree)? {
                return Ok(published);
            }
        }
        Err(Error::Occupied { path: target, reason: "could not be replaced".to_owned() })
    }

    /// Compares with the artifact that was there first; `None` when that was damaged and is now out of the way.
    fn yield_to(
        &mut self,
        target: &Path,
        draft: &Draft,
        key: &Key,
        tree: TreeHash,
    ) -> Result<Option<Published>> {
        match Artifact::open_with(target, Level::Hash) {
            Ok(artifact) if artifact.manifest().key == *key && artifact.tree() == tree => {
                Ok(Some(Published::Same(artifact)))
            }
            Ok(artifact) => {
                let quarantined = self.store.quarantine(&self.dir, draft.stage(), key, "nondeterministic")?;
                self.published = true;
                Ok(Some(Published::Different { artifact, quarantined, tree }))
            }
            Err(Error::Io(error)) => Err(Error::Io(error)),
            Err(error) => {
                tracing::warn!("{error}; moved to quarantine");
                self.store.quarantine(target, draft.stage(), key, "damaged")?;
                Ok(None)
            }
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = os::remove_tree(&self.dir)
        {
            tracing::warn!("cannot remove `{}`: {error}", self.dir.display());
        }
    }
}

/// Removes staging folders whose process is gone; those of another boot may not even have reached the disk.
fn clear_abandoned(parent: &Path) {
    let network = os::is_network(parent);
    for entry in fs_err::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix(".tmp-")) else { continue };
        let mut parts = rest.split('-');
        let boot = parts.next().unwrap_or_default();
        let pid: i32 = parts.next().and_then(|pid| pid.parse().ok()).unwrap_or(0);
        // On a network file system another boot may be another machine, and locks may do nothing.
        if network && (boot != os::boot_id() || os::process_is_alive(pid)) {
            continue;
        }
        let path = entry.path();
        let Ok(dir) = fs_err::File::open(&path) else { continue };
        if dir.into_file().try_lock().is_ok() {
            tracing::debug!("removing `{}`, left by a process that died", path.display());
            let _ = os::remove_tree(&path);
        }
    }
}
