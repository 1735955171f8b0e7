//! `gc`: removes artifacts that nothing needs, and what killed runs left.
//!
//! What to keep is decided in [`plan`]; removing is done by the crate `artifact`, which never takes an artifact from a process
//! that has it open, and none that was used since it was listed.

mod plan;
mod sweep;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use artifact::{CollectionLock, Condemnation, Discarded, Key, Store};
use serde_json::{Value, json};
use stage::json_path;

use crate::args::Gc;
use crate::catalog::{Catalog, Entry, Item, total};
use crate::error::{Error, Result};
use crate::leftovers::{self, Kind, Leftover};
use crate::roots::{self, Pointer};
use crate::text::{self, Align, Table};

use plan::{Node, Reason};

/// A time in the future that is not yet suspicious.
const SKEW: Duration = Duration::from_mins(5);
/// A store that nobody has used for longer may mean that the clock is ahead.
const LONG_UNUSED: Duration = Duration::from_hours(400 * 24);
/// Artifacts that are removed together.
const BATCH: usize = 50;

/// Everything that gc decided.
struct Decision {
    /// The artifacts as they were read.
    items: Vec<Item>,
    /// Artifacts to remove, in order: what was made from an artifact goes before it.
    remove: Vec<Item>,
    /// Leftovers to remove.
    leftovers: Vec<Leftover>,
    /// Why artifacts stay.
    kept: BTreeMap<Key, Reason>,
    /// Artifacts that cannot be read.
    unreadable: Vec<PathBuf>,
    /// Total size of what stays, in bytes.
    kept_bytes: u64,
    /// Number of pointers of pipelines.
    pointers: usize,
}

/// Outcome of a collection.
#[derive(Default)]
struct Outcome {
    removed: BTreeSet<PathBuf>,
    bytes: u64,
    /// Items that were spared at the last moment, with the reason.
    spared: Vec<(PathBuf, &'static str)>,
    /// Artifacts that could not be removed when their turn came: what they were made from stays as well.
    in_use: BTreeSet<Key>,
}

impl Outcome {
    fn remove(&mut self, path: &Path, bytes: u64) {
        self.removed.insert(path.to_owned());
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn spare(&mut self, item: &Item, reason: Discarded) {
        self.in_use.insert(item.summary.key);
        self.spared.push((item.entry.path.clone(), why_spared(reason)));
    }

    /// Notes what is left of a plan that ended early.
    fn spare_rest(&mut self, decision: &Decision) {
        let artifacts = decision.remove.iter().map(|item| &item.entry.path);
        let leftovers = decision.leftovers.iter().map(|leftover| &leftover.path);
        let spared: BTreeSet<PathBuf> = self.spared.iter().map(|(path, _)| path.clone()).collect();
        let rest = artifacts
            .chain(leftovers)
            .filter(|path| !self.removed.contains(*path) && !spared.contains(*path));
        self.spared.extend(rest.map(|path| (path.clone(), "not reached")));
    }
}

/// Collects, or shows what would be collected.
pub(crate) fn run(catalog: &Catalog, options: &Gc) -> Result<()> {
    let lock = if options.delete && catalog.store.root().is_dir() {
        Some(catalog.store.lock_collection()?)
    } else {
        None
    };
    let now = artifact::now();
    if !options.trust_clock {
        check_clock(catalog, now)?;
    }
    let decision = decide(catalog, options, now)?;
    let (outcome, collected) = match &lock {
        Some(lock) => collect(catalog, options, lock, &decision),
        None => (Outcome::default(), Ok(())),
    };
    report(catalog, options, &decision, &outcome, now)?;
    collected
}

/// Refuses to compare times with a clock that is behind the store, or far ahead of it.
fn check_clock(catalog: &Catalog, now: SystemTime) -> Result<()> {
    let Some(newest) = catalog.entries.iter().max_by_key(|entry| entry.last_use) else { return Ok(()) };
    let used = artifact::format_utc(newest.last_use);
    let reason = if newest.last_use > now + SKEW {
        "is behind the store"
    } else if now.duration_since(newest.last_use).is_ok_and(|unused| unused > LONG_UNUSED) {
        "is more than a year ahead of the store"
    } else {
        return Ok(());
    };
    Err(Error::Clock { now: artifact::format_utc(now), reason, name: newest.name(), used })
}

fn decide(catalog: &Catalog, options: &Gc, now: SystemTime) -> Result<Decision> {
    let (items, unreadable) = catalog.items();
    let (kept, order) = divide(catalog, options, now, (&items, &unreadable), &BTreeSet::new())?;
    let by_key: BTreeMap<Key, &Item> = items.iter().map(|item| (item.summary.key, item)).collect();
    let remove: Vec<Item> = order.iter().map(|key| by_key[key].clone()).collect();
    let kept_bytes = total(kept.keys().map(|key| by_key[key].summary.bytes()));
    let mut leftovers = leftovers::find(catalog.store.root())?;
    leftovers.retain(|leftover| sweep::is_garbage(&catalog.store, leftover, now, options.grace));
    let unreadable = unreadable.into_iter().map(|(entry, _)| entry.path).collect();
    let pointers = find_pointers(options)?.len();
    Ok(Decision { items, remove, leftovers, kept, unreadable, kept_bytes, pointers })
}

/// Returns why artifacts stay, those in `in_use` among them, and the others in the order in which to remove them.
fn divide(
    catalog: &Catalog,
    options: &Gc,
    now: SystemTime,
    (items, unreadable): (&[Item], &[(Entry, Error)]),
    in_use: &BTreeSet<Key>,
) -> Result<(BTreeMap<Key, Reason>, Vec<Key>)> {
    let found = find_roots(catalog, options)?;
    check_origins(unreadable, &found, now, options.grace)?;
    let mut roots: BTreeMap<Key, Reason> = in_use.iter().map(|key| (*key, Reason::Recent)).collect();
    for item in items {
        let reasons = found.iter().filter(|root| root.names(&item.entry)).map(|root| root.reason);
        roots.extend(reasons.min().map(|reason| (item.summary.key, reason)));
    }
    let nodes: Vec<Node> = items
        .iter()
        .map(|item| Node {
            key: item.summary.key,
            last_use: item.entry.last_use,
            inputs: item.summary.inputs.values().filter_map(|record| record.key).collect(),
        })
        .collect();
    Ok(plan::plan(&nodes, roots, now, options.grace))
}

/// An artifact that stays whatever its age, as it is named outside it.
struct Root {
    stage: String,
    /// Name of its folder, or the digits with which that begins.
    folder: String,
    reason: Reason,
}

impl Root {
    fn names(&self, entry: &Entry) -> bool {
        self.stage == entry.stage && self.folder.starts_with(&entry.key)
    }
}

/// Finds the pointers of pipelines. Removes nothing where the folder with them seems to be missing.
fn find_pointers(options: &Gc) -> Result<Vec<Pointer>> {
    if options.no_pointers {
        return Ok(Vec::new());
    }
    if options.delete && is_folder_missing(options) {
        return Err(Error::NoPointers { folder: roots::BUILD.into() });
    }
    roots::pointers(&options.pointers.pointers)
}

/// Returns whether no folder of pointers is named, and the usual one does not exist.
fn is_folder_missing(options: &Gc) -> bool {
    options.pointers.pointers.is_empty() && Path::new(roots::BUILD).symlink_metadata().is_err()
}

/// Finds the roots.
fn find_roots(catalog: &Catalog, options: &Gc) -> Result<Vec<Root>> {
    let mut roots = Vec::new();
    for pointer in find_pointers(options)? {
        // A pointer is relative to the folder in which make ran, so only the name counts.
        let name = |path: Option<&std::path::Path>| {
            path.and_then(|path| path.file_name()).unwrap_or_default().to_string_lossy().into_owned()
        };
        let (folder, stage) = (name(Some(&pointer.target)), name(pointer.target.parent()));
        roots.push(Root { stage, folder, reason: Reason::Pointer });
    }
    for kept in roots::kept(&catalog.store)? {
        roots.push(Root { stage: kept.stage, folder: kept.key.short(), reason: Reason::Kept });
    }
    for name in crate::catalog::names(&catalog.store.root().join("refs"))? {
        // A label that cannot be read could be that of any artifact.
        if let Some(target) = catalog.store.read_ref(&name)? {
            roots.push(Root { stage: target.stage, folder: target.key.short(), reason: Reason::Label });
        }
    }
    Ok(roots)
}

/// Refuses to collect if an artifact that stays cannot be read: what it was made from is not known, and would be removed.
fn check_origins(
    unreadable: &[(Entry, Error)],
    roots: &[Root],
    now: SystemTime,
    grace: Duration,
) -> Result<()> {
    for (entry, error) in unreadable {
        let is_young = now.duration_since(entry.last_use).map_or(true, |age| age < grace);
        let stays = is_young || roots.iter().any(|root| root.names(entry));
        // A damaged artifact that nobody keeps is of no use; one that cannot be read now may be sound.
        if stays || !error.is_damage() {
            return Err(Error::UnknownOrigin {
                path: entry.path.clone(),
                kind: failure::Failure::kind(error),
                reason: failure::describe(error),
            });
        }
    }
    Ok(())
}

/// Removes what was decided. Says what was removed also if something fails, and deletes what is in the trash by then.
fn collect(
    catalog: &Catalog,
    options: &Gc,
    lock: &CollectionLock,
    decision: &Decision,
) -> (Outcome, Result<()>) {
    let mut outcome = Outcome::default();
    let collected = remove_artifacts(&catalog.store, options, lock, decision, &mut outcome)
        .and_then(|()| remove_leftovers(&catalog.store, lock, decision, &mut outcome));
    let emptied = empty_trash(&catalog.store, lock, decision, &mut outcome);
    let collected = collected.and(emptied);
    if collected.is_err() {
        outcome.spare_rest(decision);
    }
    (outcome, collected)
}

fn remove_artifacts(
    store: &Store,
    options: &Gc,
    lock: &CollectionLock,
    decision: &Decision,
    outcome: &mut Outcome,
) -> Result<()> {
    for batch in decision.remove.chunks(BATCH) {
        crate::signal::check()?;
        collect_batch(store, options, lock, (batch, &decision.items), outcome)?;
        store.empty_trash(lock)?;
    }
    Ok(())
}

fn remove_leftovers(
    store: &Store,
    lock: &CollectionLock,
    decision: &Decision,
    outcome: &mut Outcome,
) -> Result<()> {
    for leftover in decision.leftovers.iter().filter(|leftover| leftover.kind != Kind::Trash) {
        crate::signal::check()?;
        match sweep::discard(store, lock, leftover)? {
            Some(reason) => outcome.spared.push((leftover.path.clone(), reason)),
            None => outcome.remove(&leftover.path, leftover.bytes),
        }
    }
    Ok(())
}

fn empty_trash(
    store: &Store,
    lock: &CollectionLock,
    decision: &Decision,
    outcome: &mut Outcome,
) -> Result<()> {
    let left = store.empty_trash(lock)?;
    for leftover in decision.leftovers.iter().filter(|leftover| leftover.kind == Kind::Trash) {
        if !left.contains(&leftover.path) {
            outcome.remove(&leftover.path, leftover.bytes);
        }
    }
    outcome.spared.extend(left.into_iter().map(|path| (path, why_spared(Discarded::Denied))));
    Ok(())
}

/// Removes artifacts, except those that something needs by now; `known` are the artifacts as they were read before.
///
/// A stage keeps its artifact open until its label or pointer is written, and so does `artifacts keep`. So once an artifact is
/// locked here, every reference to it can be seen, and no new one appears. A reference to what was made from it may still be on
/// its way, from a program that has that open: then both stay.
fn collect_batch(
    store: &Store,
    options: &Gc,
    lock: &CollectionLock,
    (batch, known): (&[Item], &[Item]),
    outcome: &mut Outcome,
) -> Result<()> {
    let mut condemned = Vec::new();
    for item in batch {
        match store.condemn(lock, &item.entry.path, item.entry.last_use)? {
            Condemnation::Ready(ready) => condemned.push((item, ready)),
            Condemnation::Spared(reason) => outcome.spare(item, reason),
        }
    }
    let catalog = Catalog::open(store.root())?;
    let (items, unreadable) = catalog.items_beside(known);
    let now = artifact::now();
    let needed = |in_use: &BTreeSet<Key>| divide(&catalog, options, now, (&items, &unreadable), in_use);
    let (mut kept, _) = needed(&outcome.in_use)?;
    // Nothing is flushed before all of them are renamed, since readers wait for the locks.
    for (item, ready) in condemned {
        if kept.contains_key(&item.summary.key) {
            outcome.spared.push((item.entry.path.clone(), "needed by something new, or in use"));
            continue;
        }
        match store.remove(lock, ready)? {
            Discarded::Moved => outcome.remove(&item.entry.path, item.summary.bytes()),
            reason => {
                outcome.spare(item, reason);
                (kept, _) = needed(&outcome.in_use)?;
            }
        }
    }
    Ok(())
}

fn why_spared(reason: Discarded) -> &'static str {
    match reason {
        Discarded::InUse => "in use",
        Discarded::MayBeInUse => {
            "perhaps in use by another machine, as locks may not work here; delete it by hand if it is not"
        }
        Discarded::Denied => "belongs to another user, or is in a folder that this user cannot change",
        Discarded::Changed | Discarded::Moved => "used a moment ago, or gone",
    }
}

fn report(
    catalog: &Catalog,
    options: &Gc,
    decision: &Decision,
    outcome: &Outcome,
    now: SystemTime,
) -> Result<()> {
    if options.format.json {
        return Ok(text::print_json(&to_json(catalog, options, decision, outcome))?);
    }
    let columns = [("what", Align::Left), ("size", Align::Right), ("used", Align::Left)];
    let mut table = Table::new(&columns);
    for item in &decision.remove {
        table.row([
            item.entry.name(),
            text::bytes(item.summary.bytes()),
            text::age(item.entry.last_use, now),
        ]);
    }
    for leftover in &decision.leftovers {
        let path = leftover.path.strip_prefix(catalog.store.root()).unwrap_or(&leftover.path);
        table.row([
            path.display().to_string(),
            text::bytes(leftover.bytes),
            text::age(leftover.modified, now),
        ]);
    }
    let mut output = if table.is_empty() { String::new() } else { format!("{}\n", table.text()) };
    for (path, reason) in &outcome.spared {
        output.push_str(&text::escape(&format!("spared `{}`: {reason}", path.display())));
        output.push('\n');
    }
    for path in &decision.unreadable {
        let line =
            format!("left alone, since it cannot be read: `{}` (see `artifacts verify`)", path.display());
        output.push_str(&text::escape(&line));
        output.push('\n');
    }
    let planned = decision.remove.iter().map(|item| item.summary.bytes());
    let planned = total(planned.chain(decision.leftovers.iter().map(|leftover| leftover.bytes)));
    let number = decision.remove.len() + decision.leftovers.len();
    let done = if options.delete {
        format!("removed {} ({})", text::count(outcome.removed.len(), "item"), text::bytes(outcome.bytes))
    } else {
        format!("would remove {} ({})", text::count(number, "item"), text::bytes(planned))
    };
    writeln!(output, "{done}; {}", kept_text(decision, options.grace)).expect("writing to a string succeeds");
    if decision.pointers == 0 && !options.no_pointers {
        output.push_str(&text::escape(&no_pointers(options)));
        output.push('\n');
    }
    if !options.delete && number > 0 {
        output.push_str("this was a dry run: remove them with --delete\n");
    }
    Ok(text::print(&output)?)
}

/// Says that no pipeline points at anything, and where that was looked for.
fn no_pointers(options: &Gc) -> String {
    if is_folder_missing(options) {
        return format!(
            "no pointers of pipelines: there is no folder `{}`, so --delete needs --pointers DIR or --no-pointers",
            roots::BUILD
        );
    }
    let folders: Vec<String> =
        options.pointers.pointers.iter().map(|folder| format!("`{}`", folder.display())).collect();
    let folders = if folders.is_empty() { format!("`{}`", roots::BUILD) } else { folders.join(", ") };
    format!("no pointers of pipelines in {folders}")
}

fn kept_text(decision: &Decision, grace: Duration) -> String {
    let mut by_reason = BTreeMap::<Reason, usize>::new();
    for reason in decision.kept.values() {
        *by_reason.entry(*reason).or_default() += 1;
    }
    let parts: Vec<String> =
        by_reason.iter().map(|(reason, number)| format!("{number} {}", reason.describe(grace))).collect();
    let list = if parts.is_empty() { String::new() } else { format!(": {}", parts.join(", ")) };
    format!(
        "keeps {} ({}){list}",
        text::count(decision.kept.len(), "artifact"),
        text::bytes(decision.kept_bytes)
    )
}

fn to_json(catalog: &Catalog, options: &Gc, decision: &Decision, outcome: &Outcome) -> Value {
    let artifacts = decision.remove.iter().map(|item| {
        json!({"kind": "artifact", "path": json_path(&item.entry.path), "stage": item.entry.stage, "key": item.summary.key,
               "bytes": item.summary.bytes(), "last_use": artifact::format_utc(item.entry.last_use)})
    });
    let leftovers = decision.leftovers.iter().map(|leftover| {
        json!({"kind": leftover.kind.name(), "path": json_path(&leftover.path), "bytes": leftover.bytes,
               "last_use": artifact::format_utc(leftover.modified)})
    });
    let kept: Vec<Value> =
        decision.kept.iter().map(|(key, reason)| json!({"key": key, "reason": reason.name()})).collect();
    let spared: Vec<Value> = outcome
        .spared
        .iter()
        .map(|(path, reason)| json!({"path": json_path(path), "reason": reason}))
        .collect();
    let unreadable: Vec<Value> = decision.unreadable.iter().map(|path| json_path(path)).collect();
    json!({
        "store": json_path(catalog.store.root()), "dry_run": !options.delete,
        "remove": artifacts.chain(leftovers).collect::<Vec<_>>(), "keep": kept, "spared": spared,
        "unreadable": unreadable, "pointers": decision.pointers,
        "removed": outcome.removed.len(), "removed_bytes": outcome.bytes,
    })
}

#[cfg(test)]
mod tests {
    use artifact::{Artifact, Level};
    use clap::Parser as _;

    use super::*;
    use crate::args::{Args, Command};
    use crate::sample;

    /// Publishes an artifact as [`sample::publish`], and sets its last use back by 100 days.
    fn publish(store: &Store, stage: &str, config: Value, origin: Option<&Artifact>) -> Artifact {
        let artifact = sample::publish(store, stage, config, origin);
        let old = artifact::now() - Duration::from_hours(100 * 24);
        let times = std::fs::FileTimes::new().set_modified(old);
        fs_err::File::open(artifact.path()).unwrap().file().set_times(times).unwrap();
        artifact
    }

    /// Makes a chain of three artifacts that nothing refers to, and returns their folders, the last one first.
    fn chain(store: &Store) -> Vec<PathBuf> {
        let model = publish(store, "import-model", json!({}), None);
        let train = publish(store, "train", json!({}), Some(&model));
        let report = publish(store, "report", json!({}), Some(&train));
        [report, train, model].map(|artifact| artifact.path().to_owned()).to_vec()
    }

    /// Collects in a new store, after `between`, which gets the folders of [`chain`], has run since gc decided.
    fn collected<T>(between: impl Fn(&Store, &[PathBuf]) -> T) -> (tempfile::TempDir, Vec<PathBuf>, Outcome) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("artifacts")).unwrap();
        let paths = chain(&store);
        let catalog = Catalog::open(store.root()).unwrap();
        let args = Args::try_parse_from(["artifacts", "gc", "--delete", "--no-pointers"]).unwrap();
        let Command::Gc(options) = args.command else { unreachable!("gc was asked for") };
        let lock = store.lock_collection().unwrap();
        let decision = decide(&catalog, &options, artifact::now()).unwrap();
        assert_eq!(decision.remove.len(), 3);
        let during = between(&store, &paths);
        let (outcome, collected) = collect(&catalog, &options, &lock, &decision);
        collected.unwrap();
        drop(during);
        (folder, paths, outcome)
    }

    #[test]
    fn what_nothing_refers_to_goes() {
        let (_folder, paths, outcome) = collected(|_, _| ());
        assert_eq!((outcome.removed.len(), outcome.spared.len()), (3, 0));
        assert!(paths.iter().all(|path| !path.exists()));
    }

    #[test]
    fn a_reference_written_since_gc_decided_counts() {
        let open = |path: &PathBuf| Artifact::open_with(path, Level::Size).unwrap();
        let kept = collected(|store, paths| drop(crate::roots::keep(store, &open(&paths[0]), "").unwrap()));
        let labelled = collected(|store, paths| store.set_ref("best", &open(&paths[0])).unwrap());
        for (_folder, paths, outcome) in [kept, labelled] {
            assert_eq!((outcome.removed.len(), outcome.spared.len()), (0, 3));
            assert!(paths.iter().all(|path| path.exists()));
        }
    }

    #[test]
    fn an_open_artifact_keeps_what_it_was_made_from() {
        // `keep` has opened the report, and is about to write that it is kept.
        let (_folder, paths, outcome) =
            collected(|_, paths| Artifact::open_with(&paths[0], Level::Size).unwrap());
        assert_eq!(outcome.removed.len(), 0, "{:?}", outcome.spared);
        assert!(paths.iter().all(|path| path.exists()));
        let (_folder, paths, outcome) =
            collected(|_, paths| Artifact::open_with(&paths[1], Level::Size).unwrap());
        assert_eq!(outcome.removed.len(), 1, "{:?}", outcome.spared);
        assert!(!paths[0].exists() && paths[1].exists() && paths[2].exists());
    }
}
