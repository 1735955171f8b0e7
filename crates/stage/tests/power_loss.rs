//! Power loss at every moment: what was not flushed may be lost, torn or reordered.
//!
//! The model records each operation of publishing on a real folder. After every operation it knows two file systems: the one
//! that programs see, and the one that is surely on the disk (bytes of flushed files, entries of flushed folders). A crash leaves
//! any mixture: for each entry and each file the old or the new state, and for a file that was not flushed also a part of its
//! bytes or zeros. From each such state the store must open, show whole artifacts only, and finish the work again. Dropping any
//! single flush from the record must break this, or the flush is not needed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::SystemTime;

use artifact::{Artifact, Draft, Folder, KeyMaterial, Level, Store, faults};
use serde_json::json;

/// Inode and time of creation, since the numbers of removed files are used again.
type Node = (u64, u128);

fn node_of(metadata: &std::fs::Metadata) -> Node {
    let created = metadata.created().ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    (metadata.ino(), created.unwrap_or_default().as_nanos())
}

/// Contents of a file or folder.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Content {
    File(Vec<u8>),
    Folder(BTreeMap<String, Node>),
}

/// All files and folders below a root, by inode.
#[derive(Debug, Clone, Default)]
struct Snapshot {
    root: Node,
    nodes: BTreeMap<Node, Content>,
}

impl Snapshot {
    fn of(root: &Path) -> Self {
        let mut snapshot = Self { root: node_of(&fs_err::metadata(root).unwrap()), nodes: BTreeMap::new() };
        snapshot.read(root);
        snapshot
    }

    fn read(&mut self, path: &Path) -> Node {
        let metadata = fs_err::symlink_metadata(path).unwrap();
        let content = if metadata.is_dir() {
            let entries = fs_err::read_dir(path).unwrap().map(|entry| entry.unwrap());
            let named =
                entries.map(|entry| (entry.file_name().into_string().unwrap(), self.read(&entry.path())));
            Content::Folder(named.collect())
        } else {
            Content::File(fs_err::read(path).unwrap())
        };
        self.nodes.insert(node_of(&metadata), content);
        node_of(&metadata)
    }
}

/// A flush, with what it made durable.
#[derive(Debug, Clone)]
struct Flush {
    node: Node,
    content: Content,
}

/// One operation: what programs see afterwards, and what it flushed.
#[derive(Debug, Clone)]
struct Step {
    name: String,
    seen: Snapshot,
    flush: Option<Flush>,
}

/// Runs `work` in `root` and records its operations.
fn record<T>(root: &Path, work: impl FnOnce() -> T) -> (Vec<Step>, T) {
    let steps = Rc::new(RefCell::new(Vec::new()));
    let (recorded, folder) = (steps.clone(), root.to_owned());
    let observer = move |operation: &str, path: &Path| {
        let seen = Snapshot::of(&folder);
        let flush = operation.starts_with("sync").then(|| {
            let node = node_of(&fs_err::metadata(path).unwrap());
            Flush {
                node,
                content: seen.nodes.get(&node).cloned().unwrap_or(Content::Folder(BTreeMap::new())),
            }
        });
        let name = format!("{operation} {}", path.strip_prefix(&folder).unwrap_or(path).display());
        recorded.borrow_mut().push(Step { name, seen, flush });
    };
    let result = faults::observe(observer, work);
    (steps.take(), result)
}

/// A source of choices: first what was durable everywhere, then what programs saw, then random mixtures.
struct Chooser {
    /// Whether the present state had a choice at all.
    had_choice: bool,
    random: u64,
    states: usize,
}

/// Largest number of states per moment.
const STATES: usize = 16;

impl Chooser {
    fn new(seed: u64) -> Self {
        Self { had_choice: false, random: seed | 1, states: 0 }
    }

    /// Chooses one of `count` alternatives. The first is what programs saw, the last what was durable.
    fn choose(&mut self, count: usize) -> usize {
        self.had_choice = true;
        match self.states {
            0 => count - 1,
            1 => 0,
            _ => {
                self.random ^= self.random << 13;
                self.random ^= self.random >> 7;
                self.random ^= self.random << 17;
                (self.random >> 33) as usize % count
            }
        }
    }

    /// Goes on to another state; `false` after the last.
    fn next(&mut self) -> bool {
        self.states += 1;
        std::mem::take(&mut self.had_choice) && self.states < STATES
    }
}

/// Writes one possible state of the disk after a crash at `step` into the empty folder `to`. `durable` is what was flushed.
fn crash(step: &Step, durable: &BTreeMap<Node, Content>, chooser: &mut Chooser, to: &Path) {
    let root = step.seen.root;
    write_folder(root, &step.seen.nodes, durable, chooser, to);
}

fn write_folder(
    node: Node,
    seen: &BTreeMap<Node, Content>,
    durable: &BTreeMap<Node, Content>,
    chooser: &mut Chooser,
    to: &Path,
) {
    let entries = |nodes: &BTreeMap<Node, Content>| match nodes.get(&node) {
        Some(Content::Folder(entries)) => Some(entries.clone()),
        _ => None,
    };
    let old = entries(durable).unwrap_or_default();
    // A removed folder is what it was.
    let new = entries(seen).unwrap_or_else(|| old.clone());
    let names: BTreeSet<&String> = new.keys().chain(old.keys()).collect();
    for name in names {
        let (new, old) = (new.get(name), old.get(name));
        let entry = if new == old || chooser.choose(2) == 0 { new } else { old };
        let Some(&child) = entry else { continue };
        let path = to.join(name);
        let is_folder =
            [seen, durable].iter().any(|nodes| matches!(nodes.get(&child), Some(Content::Folder(_))));
        if is_folder {
            fs_err::create_dir(&path).unwrap();
            write_folder(child, seen, durable, chooser, &path);
        } else {
            fs_err::write(&path, bytes_after_crash(seen.get(&child), durable.get(&child), chooser)).unwrap();
        }
    }
}

/// Returns possible bytes of a file: the new ones, a part of them, zeros of their length, nothing, or the flushed ones.
fn bytes_after_crash(seen: Option<&Content>, durable: Option<&Content>, chooser: &mut Chooser) -> Vec<u8> {
    let bytes = |content: Option<&Content>| match content {
        Some(Content::File(bytes)) => Some(bytes.clone()),
        _ => None,
    };
    let (new, old) = (bytes(seen), bytes(durable));
    // A removed file is what it was.
    let Some(new) = new.filter(|new| Some(new) != old.as_ref()) else { return old.unwrap_or_default() };
    let mut alternatives = vec![new.clone(), new[..new.len() / 2].to_vec(), vec![0; new.len()]];
    alternatives.push(old.unwrap_or_default());
    let chosen = chooser.choose(alternatives.len());
    alternatives.swap_remove(chosen)
}

/// What must hold in a state after a crash. `reported` says whether the work had reported success.
type Check = fn(root: &Path, reported: bool) -> Result<(), String>;

/// Returns what was durable after each operation, with the flush number `dropped` left out.
fn durable_states(start: &Snapshot, steps: &[Step], dropped: Option<usize>) -> Vec<BTreeMap<Node, Content>> {
    let mut durable = start.nodes.clone();
    let mut flushes = 0;
    let mut states = Vec::new();
    for step in steps {
        if let Some(flush) = &step.flush {
            if dropped != Some(flushes) {
                durable.insert(flush.node, flush.content.clone());
            }
            flushes += 1;
        }
        states.push(durable.clone());
    }
    states
}

/// Makes a folder in memory where there is one, since thousands are made.
fn quick_folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

/// Tries the states after every operation, the last one first, with the flush number `dropped` left out; returns the first
/// violation.
fn violation(start: &Snapshot, steps: &[Step], dropped: Option<usize>, check: Check) -> Option<String> {
    let durable = durable_states(start, steps, dropped);
    for (index, step) in steps.iter().enumerate().rev() {
        let reported = index + 1 == steps.len();
        let mut chooser = Chooser::new(index as u64 * 7919 + 1);
        loop {
            let after = quick_folder();
            crash(step, &durable[index], &mut chooser, after.path());
            if let Err(reason) = check(after.path(), reported) {
                return Some(format!("after operation {index} ({}): {reason}", step.name));
            }
            if !chooser.next() {
                break;
            }
        }
    }
    None
}

/// Checks a scenario: no violation with all flushes, and one without any single flush.
fn prove(root: &Path, start: &Snapshot, steps: &[Step], check: Check) {
    assert_eq!(violation(start, steps, None, check), None);
    let flushes: Vec<&Step> = steps.iter().filter(|step| step.flush.is_some()).collect();
    assert!(!flushes.is_empty(), "`{}` flushes nothing", root.display());
    let needless: Vec<&str> = flushes
        .iter()
        .enumerate()
        .filter(|(number, _)| violation(start, steps, Some(*number), check).is_none())
        .map(|(_, step)| step.name.as_str())
        .collect();
    assert!(needless.is_empty(), "no test fails without these flushes: {needless:#?}");
}

fn draft() -> Draft {
    Draft::new("x", KeyMaterial::new("demo", 1, json!({"a": 1})))
}

fn fill(data: &Path) {
    fs_err::create_dir(data.join("model")).unwrap();
    fs_err::write(data.join("model/weights.bin"), [7; 600]).unwrap();
    fs_err::write(data.join("stats.json"), "{\"rows\":1}\n").unwrap();
}

fn publish(root: &Path) -> artifact::Result<PathBuf> {
    let store = Store::open(&root.join("artifacts"))?;
    let staging = store.stage_new("demo")?;
    fill(staging.data());
    fs_err::write(staging.telemetry().join("timing.jsonl"), "{\"step\":1}\n")?;
    Ok(staging.publish(&draft(), &mut || Ok(()))?.artifact().path().to_owned())
}

/// Returns whether the artifact is there; fails if it is there and is not whole, telemetry included.
fn whole(path: &Path) -> Result<bool, String> {
    if path.symlink_metadata().is_err() {
        return Ok(false);
    }
    let found = artifact::verify(path, Level::Hash, &artifact::Memo::default());
    let telemetry = path.join("telemetry/timing.jsonl").exists();
    if !found.is_sound() || !telemetry {
        return Err(format!("`{}` is visible but not whole: {:?}", path.display(), found.problems));
    }
    Ok(true)
}

#[test]
fn published_artifact_survives_power_loss() {
    let root = tempfile::tempdir().unwrap();
    let start = Snapshot::of(root.path());
    let (steps, path) = record(root.path(), || publish(root.path()).unwrap());
    assert!(steps.len() > 20, "{} operations", steps.len());
    assert!(path.starts_with(root.path()));
    prove(root.path(), &start, &steps, |root, reported| {
        let key = draft().key().unwrap().short();
        let path = root.join("artifacts/demo").join(format!("{key}-x"));
        if !whole(&path)? && reported {
            return Err("a reported artifact is gone".to_owned());
        }
        let again = publish(root).map_err(|error| format!("cannot run again: {error}"))?;
        Artifact::open_with(&again, Level::Hash).map(drop).map_err(|error| error.to_string())
    });
}

#[test]
fn folder_outside_a_store_survives_power_loss() {
    let write = |root: &Path| -> artifact::Result<()> {
        let folder = Folder::begin(&root.join("a/out"))?;
        fill(folder.data());
        folder.drop_telemetry()?;
        folder.seal(&draft(), &mut || Ok(())).map(drop)
    };
    let root = tempfile::tempdir().unwrap();
    let start = Snapshot::of(root.path());
    let (steps, ()) = record(root.path(), || write(root.path()).unwrap());
    prove(root.path(), &start, &steps, |root, reported| {
        let out = root.join("a/out");
        // The process is gone after the crash, but its number may be in use.
        for mark in fs_err::read_dir(&out).into_iter().flatten().flatten() {
            if mark.file_name().to_string_lossy().contains("INCOMPLETE") {
                let text = fs_err::read_to_string(mark.path()).unwrap();
                let alive = format!(" {}\n", std::process::id());
                fs_err::write(mark.path(), text.replace(&alive, " 2147483632\n")).unwrap();
            }
        }
        let sound = Artifact::open_with(&out, Level::Hash);
        if sound.is_ok() {
            return Ok(());
        }
        if reported {
            return Err(format!("a reported artifact is not whole: {}", sound.unwrap_err()));
        }
        let folder = Folder::begin(&out).map_err(|error| format!("cannot run again: {error}"))?;
        fill(folder.data());
        folder.seal(&draft(), &mut || Ok(())).map(drop).map_err(|error| error.to_string())
    });
}

#[test]
fn replaced_file_survives_power_loss() {
    let root = tempfile::tempdir().unwrap();
    fs_err::write(root.path().join("ref"), "old").unwrap();
    let start = Snapshot::of(root.path());
    let write = || artifact::atomic::write_file(&root.path().join("ref"), b"new").unwrap();
    let (steps, ()) = record(root.path(), write);
    prove(root.path(), &start, &steps, |root, reported| {
        let text = fs_err::read_to_string(root.join("ref")).map_err(|error| error.to_string())?;
        let is_whole = text == "new" || text == "old" && !reported;
        if is_whole { Ok(()) } else { Err(format!("the file is `{text}`")) }
    });
}

#[test]
fn moved_file_survives_power_loss() {
    let root = tempfile::tempdir().unwrap();
    let start = Snapshot::of(root.path());
    let (steps, ()) = record(root.path(), || {
        fs_err::write(root.path().join("a.part"), [5; 600]).unwrap();
        artifact::atomic::move_file(&root.path().join("a.part"), &root.path().join("a")).unwrap();
    });
    prove(root.path(), &start, &steps, |root, reported| match fs_err::read(root.join("a")) {
        Ok(bytes) if bytes == [5; 600] => Ok(()),
        Ok(_) => Err("the file has its name, but not all of its bytes".to_owned()),
        Err(_) if reported => Err("the file is gone".to_owned()),
        Err(_) => Ok(()),
    });
}

/// As the trainer saves a resume state.
#[test]
fn replaced_folder_survives_power_loss() {
    let root = tempfile::tempdir().unwrap();
    let start = Snapshot::of(root.path());
    let (steps, ()) = record(root.path(), || {
        artifact::atomic::write_folder(&root.path().join("state"), |new| {
            fs_err::create_dir(new.join("7"))?;
            fs_err::write(new.join("7/moments"), [1; 600])
        })
        .unwrap();
    });
    prove(root.path(), &start, &steps, |root, reported| {
        let state = root.join("state");
        if state.exists() && fs_err::read(state.join("7/moments")).ok() != Some(vec![1; 600]) {
            return Err("the folder is visible but not whole".to_owned());
        }
        if reported && !state.exists() { Err("the folder is gone".to_owned()) } else { Ok(()) }
    });
}

#[test]
fn ref_survives_power_loss() {
    let root = tempfile::tempdir().unwrap();
    let artifact = Artifact::open(&publish(root.path()).unwrap()).unwrap();
    let start = Snapshot::of(root.path());
    let store = Store::open(&root.path().join("artifacts")).unwrap();
    let (steps, ()) = record(root.path(), || store.set_ref("best", &artifact).unwrap());
    prove(root.path(), &start, &steps, |root, reported| {
        let store = Store::open(&root.join("artifacts")).map_err(|error| error.to_string())?;
        let named = store.read_ref("best").map_err(|error| error.to_string())?;
        if reported && named.is_none() { Err("a reported ref is gone".to_owned()) } else { Ok(()) }
    });
}

#[test]
fn quarantine_survives_power_loss() {
    let root = tempfile::tempdir().unwrap();
    let path = publish(root.path()).unwrap();
    let start = Snapshot::of(root.path());
    let store = Store::open(&root.path().join("artifacts")).unwrap();
    let key = draft().key().unwrap();
    let (steps, _) = record(root.path(), || store.quarantine(&path, "demo", &key, "damaged").unwrap());
    prove(root.path(), &start, &steps, |root, reported| {
        let store = Store::open(&root.join("artifacts")).map_err(|error| error.to_string())?;
        let key = draft().key().unwrap();
        let present = store.find("demo", &key, "x").map_err(|error| error.to_string())?;
        let quarantined = fs_err::read_dir(root.join("artifacts/.quarantine")).map_or(0, Iterator::count);
        match (reported, present, quarantined) {
            (true, Some(_), _) => Err("a quarantined artifact is back".to_owned()),
            (true, None, 0) => Err("a quarantined artifact is gone".to_owned()),
            _ => Ok(()),
        }
    });
}
