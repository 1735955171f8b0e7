//! Workspaces: the resume folder of each key, which survives a killed process.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::claim::{ATTEMPTS, Claimed};
use crate::digest::Key;
use crate::error::Result;
use crate::liveness::CLAIM;
use crate::store::Store;
use crate::{atomic, claim, clock, inside, names, os};

const OWNER: &str = "owner.json";
/// Longest file that names an owner.
const OWNER_BYTES: u64 = 64 << 10;
const STATE: &str = "ckpt";

/// The folder `.work/<stage>/<key16>/` of a store; the same key always has the same one.
#[derive(Debug, Clone)]
pub struct Workspace {
    dir: PathBuf,
    stage: String,
    key: Key,
}

impl Store {
    /// Returns the workspace of a key; nothing is created.
    ///
    /// # Errors
    ///
    /// Fails on a bad stage name, and when a folder on the way is a link.
    pub fn workspace(&self, stage: &str, key: &Key) -> Result<Workspace> {
        names::check_stage(stage)?;
        let dir = self.folder(".work")?.join(stage);
        inside::check(&dir)?;
        let dir = dir.join(key.short());
        Ok(Workspace { dir, stage: stage.to_owned(), key: *key })
    }
}

impl Workspace {
    /// Returns the folder for resume state.
    pub fn state_dir(&self) -> PathBuf {
        self.dir.join(STATE)
    }

    /// Returns whether an earlier process left something to resume from.
    pub fn has_state(&self) -> bool {
        self.belongs_here() && os::entries(&self.state_dir()).is_ok_and(|entries| !entries.is_empty())
    }

    /// Creates the folder and records the owner. Files of another key go to quarantine.
    ///
    /// # Errors
    ///
    /// Fails when the folder cannot be written.
    pub fn prepare(&self, store: &Store) -> Result<()> {
        if self.dir.exists() && !self.belongs_here() {
            store.quarantine(&self.dir, &self.stage, &self.key, "foreign-workspace")?;
        }
        if let Some(user) = self.other_user() {
            let state = self.state_dir();
            tracing::warn!("continuing what the user with the number {user} left in `{}`", state.display());
        }
        os::create_dir_all(&self.state_dir())?;
        let owner = json!({
            "schema": "workspace-v1", "stage": self.stage, "key": self.key, "pid": std::process::id(),
            "host": host_name(), "start": clock::format_utc(clock::now()),
        });
        Ok(atomic::write_file(&self.dir.join(OWNER), format!("{owner}\n").as_bytes())?)
    }

    /// Creates the folder and makes it that of this process, where no lock keeps others out; `false` if the process that works in
    /// it may be alive.
    ///
    /// # Errors
    ///
    /// Fails when the folder cannot be written.
    pub fn claim(&self, store: &Store) -> Result<bool> {
        for _ in 0..ATTEMPTS {
            os::create_dir_all(&self.dir)?;
            match claim::claim_folder(&self.dir)? {
                Claimed::Ours => return self.prepare(store).map(|()| true),
                Claimed::Theirs => return Ok(false),
                Claimed::Again => {}
            }
        }
        Ok(false)
    }

    /// Returns the file that names the process working in the folder, where no lock keeps others out.
    pub fn claim_path(&self) -> PathBuf {
        self.dir.join(CLAIM)
    }

    /// Gives up the claim of this process, if it has one; the resume state stays.
    ///
    /// # Errors
    ///
    /// Fails when the claim cannot be removed.
    pub fn release(&self) -> Result<()> {
        claim::release_folder(&self.dir)
    }

    /// Removes the workspace, once its artifact is published.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be removed.
    pub fn remove(&self) -> Result<()> {
        claim::remove_claimed_folder(&self.dir)
    }

    /// Describes the last owner for messages: ` (process 12 on host, since …)`, or nothing.
    pub(crate) fn owner(&self) -> String {
        let Some(owner) = read_owner(&self.dir) else { return String::new() };
        let text = |name: &str| owner.get(name).and_then(Value::as_str).unwrap_or("?").to_owned();
        let pid = owner.get("pid").map(ToString::to_string).unwrap_or_default();
        format!(" (process {pid} on {}, since {})", text("host"), text("start"))
    }

    /// Returns the user id of the resume state if it belongs to another user.
    fn other_user(&self) -> Option<u32> {
        let owner = self.state_dir().symlink_metadata().ok()?.uid();
        (owner != rustix::process::geteuid().as_raw() && self.has_state()).then_some(owner)
    }

    fn belongs_here(&self) -> bool {
        read_owner(&self.dir)
            .and_then(|owner| owner.get("key")?.as_str().map(|key| key == self.key.to_string()))
            .unwrap_or(true)
    }
}

fn read_owner(dir: &Path) -> Option<Value> {
    serde_json::from_slice(&os::read_small(&dir.join(OWNER), OWNER_BYTES).ok()?).ok()
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
