//! Writing one artifact outside a store (`--out`).
//!
//! The folder is written in place, because a sandbox may allow nothing beside it. A mark in it names the process that
//! writes, and is locked by it. Two processes that write to the same folder therefore wait for each other; the mark of a dead
//! process is taken over by renaming it, which one process can do.
//!
//! A user may name one of their own folders by mistake. A folder is therefore taken over only if it contains a mark of this program
//! and otherwise only files that this program writes.

mod mark;

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::lock::{self, Tried, Wait};
use crate::os;
use crate::reader::{Artifact, COMMIT, DATA, Level, MANIFEST, PROVENANCE, SUMS, TELEMETRY};
use crate::seal::{Draft, seal};
use mark::{Found, INCOMPLETE, LOOSE_MARK, Mark};

/// Files and folders of an artifact, other than marks.
const OURS: [&str; 6] = [COMMIT, SUMS, MANIFEST, PROVENANCE, DATA, TELEMETRY];

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
    /// A process is writing it or died while doing so. Holds the path of its mark.
    Marked(PathBuf),
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

    /// Returns whether `out` holds a finished artifact, sound or damaged.
    pub fn is_committed(out: &Path) -> bool {
        names(out).is_ok_and(|names| is_committed(&names))
    }

    /// Returns the first name in `out` that is not part of an artifact.
    pub fn foreign_name(out: &Path) -> Option<String> {
        foreign_name(out).ok().flatten()
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
    /// Fails and removes the folder when data is refused, when `before_commit` fails, or on an I/O error. [`Error::Occupied`] when
    /// the folder contains something that is not part of the artifact. The artifact is complete once that is moved away.
    pub fn seal(mut self, draft: &Draft, before_commit: &mut dyn FnMut() -> Result<()>) -> Result<Artifact> {
        let dir = self.dir.clone();
        // A crash before the mark is removed leaves a folder that readers refuse.
        seal(&dir, draft, before_commit)?;
        remove_loose_marks(&dir)?;
        os::remove_file(&dir.join(INCOMPLETE))?;
        self.sealed = true;
        os::sync_dir(&dir)?;
        Artifact::open_with(&dir, Level::Size).map_err(|error| match foreign_name(&dir) {
            Ok(Some(name)) => occupied(&dir, format!("holds `{name}`, which is not part of the artifact")),
            _ => error,
        })
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
        State::Empty => mark_empty(out),
        State::Marked(mark) => take_over(out, &mark),
    }
}

/// Returns the state of an output folder; fails if it holds something else than an unfinished artifact.
fn look(out: &Path) -> Result<State> {
    let names = names(out)?;
    if names.is_empty() {
        return Ok(State::Empty);
    }
    if is_committed(&names) {
        return Err(occupied(out, "already holds an artifact"));
    }
    match names.iter().find(|name| !is_ours(name)) {
        Some(name) => Err(not_empty(out, name)),
        None => Ok(State::Marked(out.join(marked(out, &names)?))),
    }
}

/// Returns the mark that decides for a folder with these names, none of which is foreign.
///
/// # Errors
///
/// Fails if the folder may not have been written by this program.
fn marked<'a>(out: &Path, names: &'a [String]) -> Result<&'a str> {
    // Before the marks: a process that has not written its mark yet has not put anything beside it.
    let content = first_content(out, names)?;
    let (mut whole, mut torn) = (Vec::new(), Vec::new());
    for name in names.iter().filter(|name| mark::is_name(name)) {
        match Found::at(&out.join(name))? {
            Found::Whole => whole.push(name),
            Found::Torn => torn.push(name),
            // A process is at work; taking over what is gone fails, and then all is looked at again.
            Found::Gone => return Ok(name),
            Found::Foreign => return Err(not_empty(out, name)),
        }
    }
    // No other mark can be put in place before the one there is taken.
    let in_place = whole.iter().chain(&torn).find(|name| **name == INCOMPLETE);
    match (content, in_place.or(whole.first()).or(torn.first())) {
        (Some(name), _) if whole.is_empty() => Err(not_empty(out, name)),
        (_, Some(mark)) => Ok(mark),
        (_, None) => Err(not_empty(out, &names[0])),
    }
}

/// Returns the sorted names in an output folder; none if the folder does not exist.
fn names(out: &Path) -> Result<Vec<String>> {
    let entries = match os::entries(out) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) if error.kind() == ErrorKind::NotADirectory => {
            return Err(occupied(out, "is not a folder"));
        }
        Err(error) => return Err(error.into()),
    };
    let name = |entry: &fs_err::DirEntry| entry.file_name().to_string_lossy().into_owned();
    let mut names: Vec<String> = entries.iter().map(name).collect();
    names.sort();
    Ok(names)
}

/// Returns whether an output folder with these names is finished: no process is writing it.
fn is_committed(names: &[String]) -> bool {
    !names.iter().any(|name| mark::is_name(name)) && names.iter().any(|name| name == COMMIT)
}

/// Returns whether this program writes a file or folder of this name into an output folder.
fn is_ours(name: &str) -> bool {
    mark::is_name(name) || OURS.contains(&name)
}

/// Returns the first name in the folder that is not part of an artifact.
fn foreign_name(out: &Path) -> Result<Option<String>> {
    Ok(names(out)?.into_iter().find(|name| !is_ours(name)))
}

/// Returns the first of `names` that is neither a mark nor an empty folder `data` or `telemetry`.
fn first_content<'a>(out: &Path, names: &'a [String]) -> Result<Option<&'a str>> {
    for name in names.iter().filter(|name| !mark::is_name(name)) {
        let is_empty = match os::entries(&out.join(name)) {
            Ok(entries) => entries.is_empty(),
            Err(error) if error.kind() == ErrorKind::NotADirectory => false,
            // It was removed in the meantime.
            Err(error) if error.kind() == ErrorKind::NotFound => true,
            Err(error) => return Err(error.into()),
        };
        if !is_empty {
            return Ok(Some(name));
        }
    }
    Ok(None)
}

fn occupied(out: &Path, reason: impl Into<String>) -> Error {
    Error::Occupied { path: out.to_owned(), reason: reason.into() }
}

fn not_empty(out: &Path, name: &str) -> Error {
    occupied(out, format!("is not empty: it holds `{name}`"))
}

/// Puts a locked mark into an empty folder; `None` if another process was faster.
fn mark_empty(out: &Path) -> Result<Option<File>> {
    let Some(mark) = mark(out)? else { return Ok(None) };
    // Whatever was put there in the meantime is not this program's to remove.
    let Some(name) = names(out)?.into_iter().find(|name| !mark::is_name(name)) else {
        return Ok(Some(mark));
    };
    os::remove_file(&out.join(INCOMPLETE))?;
    Err(not_empty(out, &name))
}

/// Puts a locked mark into an empty or missing folder; `None` if another process was faster.
fn mark(out: &Path) -> Result<Option<File>> {
    os::create_dir_all(out)?;
    let Some((file, loose)) = create_loose(out, &mark::text())? else { return Ok(None) };
    let is_free = lock::try_lock(&loose, &file)? != Tried::Busy;
    if is_free && os::rename_new(&loose, &out.join(INCOMPLETE))? {
        os::sync_dir(out)?;
        return Ok(Some(file));
    }
    os::remove_file(&loose)?;
    Ok(None)
}

/// Creates a mark that is not in place yet; `None` if the folder is gone, because another process failed and removed it.
fn create_loose(out: &Path, text: &str) -> Result<Option<(File, PathBuf)>> {
    let mut file = match os::create_temporary(out, LOOSE_MARK.as_ref()) {
        Ok(file) => file,
        Err(_) if !out.exists() => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    file.write_all(text.as_bytes()).map_err(|error| os::named(error, "write", file.path()))?;
    if !text.is_empty() {
        // Torn by a crash, it would not prove that what is beside it comes from this program.
        os::sync_temporary(&file)?;
    }
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
    let Some((_, claimed)) = create_loose(out, "")? else { return Ok(None) };
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
    tried != Tried::Locked || !lock::excludes(path)
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
