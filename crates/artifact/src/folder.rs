//! Writing one artifact outside a store (`--out`).
//!
//! The folder is written in place, because a sandbox may allow nothing beside it. A mark in it names the process that
//! writes, and is locked by it. Two processes that write to the same folder therefore wait for each other; the mark of a dead
//! process is taken over by renaming it, which one process can do.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::lock::{self, Tried, Wait};
use crate::reader::{Artifact, COMMIT, DATA, Level, MANIFEST, PROVENANCE, SUMS, TELEMETRY};
use crate::seal::{Draft, seal};
use crate::{network, os};

/// Marks a folder that is being written; a later run may empty it once its process is dead.
const INCOMPLETE: &str = "INCOMPLETE";
/// Beginning of the name of a mark that is not in place yet, or is being taken over.
const LOOSE_MARK: &str = ".INCOMPLETE-";
/// Longest mark that is read, in bytes.
const MARK_BYTES: u64 = 4096;

/// A folder that is becoming an artifact; removed on drop unless sealed.
#[derive(Debug)]
pub struct Folder {
    dir: PathBuf,
    data: PathBuf,
    telemetry: PathBuf,
    sealed: bool,
    /// The locked mark.
    _mark: File,
}

/// State of an output folder.
enum State {
    /// It is missing or has no entry.
    Empty,
    /// It has the mark of a process.
    Marked,
    /// A process died, or is, between two marks.
    Loose(PathBuf),
}

impl Folder {
    /// Starts an artifact in `out`, which must be missing, empty, or left behind by a killed run; does not wait.
    ///
    /// # Errors
    ///
    /// As [`Folder::begin_with`].
    pub fn begin(out: &Path) -> Result<Self> {
        Self::begin_with(out, Wait::AtMost(Duration::ZERO), &mut |_| {}, &|| false)
    }

    /// Starts an artifact in `out`, which must be missing, empty, or left behind by a killed run.
    ///
    /// Waits for another process that writes to it; `waiting` is called once with its description, and `stop` is polled.
    ///
    /// # Errors
    ///
    /// [`Error::Occupied`] when the folder contains anything else, also what another process has just written.
    /// [`Error::Locked`] when the wait is over, [`Error::Stopped`] when `stop` returned `true`.
    pub fn begin_with(
        out: &Path,
        wait: Wait,
        waiting: &mut dyn FnMut(&str),
        stop: &dyn Fn() -> bool,
    ) -> Result<Self> {
        let what = out.display().to_string();
        let taken = std::cell::RefCell::new(None);
        let tried = || {
            let mark = take(out)?;
            let is_taken = mark.is_some();
            *taken.borrow_mut() = mark;
            Ok(if is_taken { Tried::Locked } else { Tried::Busy })
        };
        let holder = || Mark::read(&out.join(INCOMPLETE)).map(|mark| mark.describe()).unwrap_or_default();
        lock::wait_for(&tried, wait, &what, &holder, waiting, stop)?;
        let mark = taken.into_inner().expect("the wait ends when the folder is taken");
        let (data, telemetry) = (out.join(DATA), out.join(TELEMETRY));
        let folder = Self { dir: out.to_owned(), data, telemetry, sealed: false, _mark: mark };
        folder.clear()?;
        os::create_dir(&folder.data)?;
        os::create_dir(&folder.telemetry)?;
        Ok(folder)
    }

    /// Returns the folder to fill with named outputs.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Returns the folder for files outside the tree hash.
    pub fn telemetry(&self) -> &Path {
        &self.telemetry
    }

    /// Removes the telemetry folder, for artifacts that must be identical on every run.
    ///
    /// # Errors
    ///
    /// Fails when it cannot be removed.
    pub fn drop_telemetry(&self) -> Result<()> {
        Ok(os::remove_tree(&self.telemetry)?)
    }

    /// Checks, hashes and flushes the data and makes the folder an artifact.
    ///
    /// # Errors
    ///
    /// Fails and removes the folder when data is refused, when `before_commit` fails, or on an I/O error.
    pub fn seal(mut self, draft: &Draft, before_commit: &mut dyn FnMut() -> Result<()>) -> Result<Artifact> {
        let dir = self.dir.clone();
        // A crash before the mark is removed leaves a folder that readers refuse.
        seal(&dir, draft, before_commit)?;
        remove_loose_marks(&dir)?;
        os::remove_file(&dir.join(INCOMPLETE))?;
        self.sealed = true;
        os::sync_dir(&dir)?;
        Artifact::open_with(&dir, Level::Size)
    }

    /// Removes everything but the mark.
    fn clear(&self) -> Result<()> {
        for name in [DATA, TELEMETRY] {
            os::remove_tree(&self.dir.join(name))?;
        }
        for name in [COMMIT, SUMS, MANIFEST, PROVENANCE] {
            os::remove_file(&self.dir.join(name))?;
        }
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.sealed {
            let cleared = self.clear().and_then(|()| Ok(os::remove_file(&self.dir.join(INCOMPLETE))?));
            if let Err(error) = cleared {
                tracing::warn!("cannot empty `{}`: {}", self.dir.display(), failure::describe(&error));
            }
            let _ = fs_err::remove_dir(&self.dir);
        }
    }
}

/// Tries to make `out` a folder of this process; returns its locked mark, or `None` if another process writes to it.
fn take(out: &Path) -> Result<Option<File>> {
    match look(out)? {
        State::Empty => mark(out),
        State::Marked => take_over(out, &out.join(INCOMPLETE)),
        State::Loose(path) => take_over(out, &path),
    }
}

/// Returns the state of an output folder; fails if it holds something else than an unfinished artifact.
fn look(out: &Path) -> Result<State> {
    let entries = match os::entries(out) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(State::Empty),
        Err(error) => return Err(error.into()),
    };
    let name = |entry: &fs_err::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let names: Vec<String> = entries.iter().map(name).collect();
    if names.iter().any(|name| name == INCOMPLETE) {
        return Ok(State::Marked);
    }
    let ours = [COMMIT, SUMS, MANIFEST, PROVENANCE, DATA, TELEMETRY];
    let loose = names.iter().find(|name| name.starts_with(LOOSE_MARK));
    match loose {
        Some(name)
            if names.iter().all(|name| name.starts_with(LOOSE_MARK) || ours.contains(&name.as_str())) =>
        {
            Ok(State::Loose(out.join(name)))
        }
        _ if names.is_empty() => Ok(State::Empty),
        _ => {
            let is_artifact = names.iter().any(|name| name == COMMIT);
            let reason = if is_artifact { "already holds an artifact" } else { "is not empty" };
            Err(Error::Occupied { path: out.to_owned(), reason: reason.to_owned() })
        }
    }
}

/// Puts a locked mark into an empty or missing folder; `None` if another process was faster.
fn mark(out: &Path) -> Result<Option<File>> {
    os::create_dir_all(out)?;
    let text = format!("this folder is being written\n{} {}\n", os::boot_id(), std::process::id());
    let Some((file, loose)) = create_loose(out, text.as_bytes())? else { return Ok(None) };
    let is_free = lock::try_lock(&loose, &file)? != Tried::Busy;
    if is_free && os::rename_new(&loose, &out.join(INCOMPLETE))? {
        os::sync_dir(out)?;
        return Ok(Some(file));
    }
    os::remove_file(&loose)?;
    Ok(None)
}

/// Creates a mark that is not in place yet; `None` if the folder is gone, because another process failed and removed it.
fn create_loose(out: &Path, text: &[u8]) -> Result<Option<(File, PathBuf)>> {
    let mut file = match os::create_temporary(out, LOOSE_MARK.as_ref()) {
        Ok(file) => file,
        Err(_) if !out.exists() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // Not flushed: a torn mark names no process, so it counts as that of a dead one.
    file.write_all(text).map_err(|error| os::named(error, "write", file.path()))?;
    let kept = file.keep().map_err(|error| os::named(error.error, "keep", out))?;
    Ok(Some(kept))
}

/// Removes the marks of processes that were killed while they looked whether the folder is free.
fn remove_loose_marks(out: &Path) -> Result<()> {
    for entry in os::entries(out)? {
        if entry.file_name().to_string_lossy().starts_with(LOOSE_MARK) {
            os::remove_file(&entry.path())?;
        }
    }
    Ok(())
}

/// Takes over the folder of a dead process: the process that can rename the old mark wins. `None` if the process that wrote the
/// mark may be alive, or if another one was faster.
fn take_over(out: &Path, old: &Path) -> Result<Option<File>> {
    let file = match os::open_existing(old) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let writer = Mark::read_from(&file);
    if writer.is_this_boot() && os::process_is_alive(writer.pid) {
        return Ok(None);
    }
    let tried = lock::try_lock(old, &file)?;
    let may_live = tried == Tried::Busy || !writer.is_this_boot() && may_live_elsewhere(old, tried);
    if may_live || !os::is_at(&file, old) {
        return Ok(None);
    }
    let Some((_, claimed)) = create_loose(out, b"")? else { return Ok(None) };
    if !os::rename_over(old, &claimed)? {
        os::remove_file(&claimed)?;
        return Ok(None);
    }
    // Without locks, a faster process may have put its own mark there since this one looked: it goes back.
    if !os::is_at(&file, &claimed) {
        os::rename_new(&claimed, old)?;
        return Ok(None);
    }
    let taken = mark(out)?;
    // Without a new mark, the old one has to stay, so that the folder can be taken over again.
    if taken.is_some() {
        os::remove_file(&claimed)?;
    }
    Ok(taken)
}

/// Returns whether the process that wrote a mark may still be alive. If it ran before a reboot, in another container or on
/// another machine, its number proves nothing and only the lock does; `tried` is the result of trying to lock the mark.
fn may_live_elsewhere(path: &Path, tried: Tried) -> bool {
    tried != Tried::Locked || !lock::excludes(path) || network::is_network(path)
}

/// The process that writes to a folder.
struct Mark {
    boot: String,
    pid: i32,
}

impl Mark {
    fn read(path: &Path) -> Option<Self> {
        Some(Self::read_from(&os::open_file(path).ok()?))
    }

    /// Reads a mark; one that is torn or cannot be read names no process.
    fn read_from(file: &File) -> Self {
        let mut text = String::new();
        let _ = file.take(MARK_BYTES).read_to_string(&mut text);
        let (boot, pid) = text.lines().nth(1).unwrap_or_default().split_once(' ').unwrap_or_default();
        Self { boot: boot.to_owned(), pid: pid.parse().unwrap_or(0) }
    }

    /// Returns whether the process number can be looked up. A mark without one was torn by a crash, or is older.
    fn is_this_boot(&self) -> bool {
        self.boot == os::boot_id() || self.boot.is_empty()
    }

    fn describe(&self) -> String {
        format!(" (process {})", self.pid)
    }
}

/// Writes an artifact at `out`; `fill` is called with the empty `data` folder.
///
/// # Errors
///
/// As [`Folder::begin`] and [`Folder::seal`], or what `fill` returns.
pub fn write_folder(out: &Path, draft: &Draft, fill: impl FnOnce(&Path) -> Result<()>) -> Result<Artifact> {
    let folder = Folder::begin(out)?;
    fill(folder.data())?;
    folder.seal(draft, &mut || Ok(()))
}
