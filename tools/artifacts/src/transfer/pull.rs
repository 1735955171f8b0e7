//! `pull`: reads every manifest first, so that artifacts that contradict each other are refused before anything is copied.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::rc::Rc;

use artifact::{Artifact, FileHash, Key, Level, Manifest, Published, Staging, Store};
use serde_json::Value;

use super::Tally;
use crate::args::Pull;
use crate::catalog::{Catalog, read_hashed_manifest, total};
use crate::error::{Error, Result, bad_file};
use crate::fits::fits;
use crate::locate::{begins_with, digits};
use crate::remote::{
    self, COMMIT, DESCRIPTION_BYTES, MANIFEST, Name, PROVENANCE, Remote, SUMS, damage_of_copy,
};
use crate::text;

/// The files that describe an artifact.
const DESCRIPTIONS: [&str; 4] = [COMMIT, SUMS, MANIFEST, PROVENANCE];
/// Most bytes of the files in `telemetry/`, whose sizes no manifest limits.
const TELEMETRY_BYTES: u64 = 1 << 30;
/// Most files in `telemetry/`.
const TELEMETRY_FILES: usize = 1000;

/// Copies artifacts from another place into the store.
pub(crate) fn pull(catalog: &Catalog, options: &Pull) -> Result<()> {
    pull_from(remote::open(&options.remote)?.as_ref(), catalog, options)
}

fn pull_from(remote: &dyn Remote, catalog: &Catalog, options: &Pull) -> Result<()> {
    let available = remote.list()?;
    if available.is_empty()
        && let Some(problem) = remote.why_no_store()
    {
        return Err(Error::NotThere {
            place: options.remote.clone(),
            problem: problem.to_owned(),
            hint: "check the address; `artifacts push` fills an empty place",
        });
    }
    let source = Source { remote, address: options.remote.trim_end_matches('/') };
    let wanted: Vec<Name> = if options.artifacts.is_empty() {
        available.clone()
    } else {
        let find = |name: &String| select(&source, &available, name);
        options.artifacts.iter().map(find).collect::<Result<_>>()?
    };
    let mut selection = Selection {
        source: &source,
        store: &catalog.store,
        available: &available,
        lineage: !options.no_lineage,
        found: BTreeMap::new(),
        missing: BTreeSet::new(),
        order: Vec::new(),
    };
    for name in &wanted {
        crate::signal::check()?;
        selection.add(name)?;
    }
    let mut tally = Tally::default();
    let last_consumers = last_consumers(&selection.order);
    // Stay open until everything made from them is in the store, so that gc does not remove them meanwhile.
    let mut held = BTreeMap::new();
    for (at, (name, described)) in selection.order.iter().enumerate() {
        crate::signal::check()?;
        hold_origins(&catalog.store, &described.manifest, &mut held)?;
        let artifact = match find_sound(&catalog.store, &source, name, &described.manifest)? {
            Some(here) => {
                tally.present += 1;
                here
            }
            None => copy(&catalog.store, &source, name, described, &mut tally)?,
        };
        artifact.mark_used();
        held.insert(described.manifest.key, artifact);
        held.retain(|key, _| last_consumers.get(key).is_some_and(|last| *last > at));
    }
    tally.report("pulled", options.format.json)
}

/// Returns for each input the place of the last artifact in `order` that was made from it.
fn last_consumers(order: &[(Name, Rc<Described>)]) -> BTreeMap<Key, usize> {
    let consumers = order.iter().enumerate();
    let keys = |(at, (_, described)): (usize, &(Name, Rc<Described>))| {
        let keys: Vec<Key> = described.manifest.inputs.values().filter_map(|record| record.key).collect();
        keys.into_iter().map(move |key| (key, at))
    };
    consumers.flat_map(keys).collect()
}

/// Opens the artifacts of the store from which one was made that is about to be pulled.
fn hold_origins(store: &Store, consumer: &Manifest, held: &mut BTreeMap<Key, Artifact>) -> Result<()> {
    for record in consumer.inputs.values() {
        let (Some(stage), Some(key)) = (&record.stage, &record.key) else { continue };
        if held.contains_key(key) {
            continue;
        }
        let Some(path) = store.find(stage, key, "")? else { continue };
        // A damaged one is reported by `verify`.
        if let Some(origin) = readable(Artifact::open_with(&path, Level::Size).map_err(Error::from))? {
            origin.mark_used();
            held.insert(*key, origin);
        }
    }
    Ok(())
}

/// Finds the artifact that a word names: `STAGE/KEY` or the first digits of a key.
fn select(source: &Source<'_>, available: &[Name], word: &str) -> Result<Name> {
    let (stage, rest) = word.rsplit_once('/').map_or((None, word), |(stage, rest)| (Some(stage), rest));
    let digits = digits(rest).unwrap_or_default();
    let full = |name: &Name| source.describe(name).ok().map(|described| described.manifest.key);
    let fits = |name: &&Name| {
        stage.is_none_or(|stage| name.stage == stage)
            && !digits.is_empty()
            && begins_with(&name.key, digits, || full(name))
    };
    let found: Vec<&Name> = available.iter().filter(fits).collect();
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(Error::NotThere {
            place: source.address.to_owned(),
            problem: format!("holds no artifact `{word}`"),
            hint: "give STAGE/KEY or at least the first 4 digits of a key; without one, everything is pulled",
        }),
        several => Err(Error::Ambiguous {
            name: word.to_owned(),
            found: several.iter().map(ToString::to_string).collect(),
        }),
    }
}

/// The place that artifacts are pulled from.
struct Source<'a> {
    remote: &'a dyn Remote,
    address: &'a str,
}

/// What the manifest of an artifact says.
struct Described {
    manifest: Manifest,
    /// Hash of the file.
    hash: FileHash,
}

impl Source<'_> {
    /// Returns where an artifact is, for messages.
    fn place(&self, name: &Name) -> String {
        format!("{}/{name}", self.address)
    }

    /// Reads a file that describes an artifact.
    fn description(&self, name: &Name, file: &str) -> Result<Vec<u8>> {
        let found = self.remote.read(name, file, DESCRIPTION_BYTES)?;
        found.ok_or_else(|| bad_file(format!("{}/{file}", self.place(name)), "is missing"))
    }

    /// Reads all files that describe an artifact, by their names.
    fn descriptions(&self, name: &Name, described: &Described) -> Result<BTreeMap<&'static str, Vec<u8>>> {
        let mut descriptions = BTreeMap::new();
        for file in DESCRIPTIONS {
            let bytes = self.description(name, file)?;
            if file == MANIFEST && FileHash::of(&bytes) != described.hash {
                return Err(Error::Remote {
                    place: self.place(name),
                    problem: "was replaced while it was pulled".to_owned(),
                    hint: Some("run the same command again".to_owned()),
                });
            }
            descriptions.insert(file, bytes);
        }
        Ok(descriptions)
    }

    /// Lists the files in `telemetry/` that `provenance.json` names, with their sizes in bytes; none if they are too many or too
    /// large, since an artifact is complete without them.
    fn telemetry(&self, name: &Name, provenance: &[u8]) -> Result<Vec<(String, u64)>> {
        // A damaged file is found when the artifact is verified.
        let provenance: Value = serde_json::from_slice(provenance).unwrap_or_default();
        let names = artifact::telemetry_names(&provenance);
        let mut files = self.remote.telemetry(name)?;
        files.retain(|(file, _)| names.contains(file.as_str()) && is_plain(file));
        let bytes = total(files.iter().map(|(_, size)| *size));
        if files.len() <= TELEMETRY_FILES && bytes <= TELEMETRY_BYTES {
            return Ok(files);
        }
        let (number, bytes) = (text::count(files.len(), "file"), text::bytes(bytes));
        tracing::warn!("{name}: its telemetry is left out: {number} ({bytes}) are too much");
        Ok(Vec::new())
    }

    fn describe(&self, name: &Name) -> Result<Described> {
        let bytes = self.description(name, MANIFEST)?;
        let place = format!("{}/{MANIFEST}", self.place(name));
        let manifest = Manifest::from_bytes(Path::new(&place), &bytes)?;
        if manifest.stage != name.stage || manifest.key.short() != name.key {
            return Err(bad_file(self.place(name), "is named like another artifact"));
        }
        Ok(Described { manifest, hash: FileHash::of(&bytes) })
    }
}

/// Returns whether a name is that of a visible file in its folder.
fn is_plain(file: &str) -> bool {
    file.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) && !file.starts_with('.')
}

/// The artifacts to pull.
struct Selection<'a> {
    source: &'a Source<'a>,
    store: &'a Store,
    available: &'a [Name],
    lineage: bool,
    /// Every artifact that was looked at.
    found: BTreeMap<Name, Rc<Described>>,
    /// The origins that are nowhere.
    missing: BTreeSet<Key>,
    /// The artifacts to pull, those first that others were made from.
    order: Vec<(Name, Rc<Described>)>,
}

impl Selection<'_> {
    /// Adds an artifact after those it was made from, unless it was added before.
    fn add(&mut self, name: &Name) -> Result<Rc<Described>> {
        if let Some(described) = self.found.get(name) {
            return Ok(Rc::clone(described));
        }
        let described = Rc::new(self.source.describe(name)?);
        self.found.insert(name.clone(), Rc::clone(&described));
        for (role, record) in &described.manifest.inputs {
            if let (Some(stage), Some(key)) = (&record.stage, &record.key) {
                self.add_origin(name, &described.manifest, role, (stage, key))?;
            }
        }
        self.order.push((name.clone(), Rc::clone(&described)));
        Ok(described)
    }

    /// Adds the artifact of an input. Fails if `consumer` was made from other bytes than it has in the remote or the store.
    fn add_origin(
        &mut self,
        name: &Name,
        consumer: &Manifest,
        role: &str,
        (stage, key): (&str, &Key),
    ) -> Result<()> {
        let is_origin = |other: &&Name| other.stage == stage && other.key == key.short();
        let available = self.available;
        if let Some(there) = available.iter().find(is_origin).filter(|_| self.lineage) {
            let origin = self.add(there)?;
            if !fits(consumer, role, &origin.manifest, origin.hash) {
                return Err(self.contradiction(name, role, self.source.place(there)));
            }
        } else if let Some(here) = self.store.find(stage, key, "")? {
            // A damaged one is reported by `verify`.
            let Some((origin, hash)) = readable(read_hashed_manifest(&here))? else { return Ok(()) };
            if !fits(consumer, role, &origin, hash) {
                return Err(self.contradiction(name, role, here.display().to_string()));
            }
        } else if self.lineage && self.missing.insert(*key) {
            tracing::warn!("{stage}/{} is neither there nor in the store and is left out", key.short());
        }
        Ok(())
    }

    fn contradiction(&self, name: &Name, role: &str, origin: String) -> Error {
        Error::Contradiction { consumer: self.source.place(name), origin, role: role.to_owned() }
    }
}

/// Returns `None` if the artifact is damaged or missing.
fn readable<T>(read: Result<T>) -> Result<Option<T>> {
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_damage() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens the artifact of the store if it is there, sound and with the same bytes.
fn find_sound(
    store: &Store,
    source: &Source<'_>,
    name: &Name,
    manifest: &Manifest,
) -> Result<Option<Artifact>> {
    let Some(path) = store.find(&manifest.stage, &manifest.key, &name.slug)? else { return Ok(None) };
    match Artifact::open_with(&path, Level::Hash) {
        Ok(here) if here.manifest().key == manifest.key => {
            if here.tree() == manifest.tree {
                return Ok(Some(here));
            }
            return Err(Error::Different {
                there: source.place(name),
                trees: (manifest.tree, here.tree()),
                here: path,
            });
        }
        // One that is locked or cannot be read may be sound.
        Err(error) if !error.is_damage() => return Err(error.into()),
        // Removed by gc since it was found.
        Err(_) if path.symlink_metadata().is_err() => {}
        Ok(_) | Err(_) => {
            tracing::warn!("`{}` is damaged and is pulled again", text::escape(&path.display().to_string()));
        }
    }
    Ok(None)
}

/// Copies an artifact into a staging folder, verifies it, gives it its name and returns it opened.
fn copy(
    store: &Store,
    source: &Source<'_>,
    name: &Name,
    described: &Described,
    tally: &mut Tally,
) -> Result<Artifact> {
    let bytes = total(described.manifest.outputs.values().map(|output| output.bytes));
    let descriptions = source.descriptions(name, described)?;
    let telemetry = source.telemetry(name, &descriptions[PROVENANCE])?;
    store.check_space(telemetry.iter().map(|(_, size)| *size).fold(bytes, u64::saturating_add))?;
    tracing::info!("pulling {name} ({})", text::bytes(bytes));
    let staging = store.stage_new(&name.stage)?;
    for (file, bytes) in descriptions {
        fs_err::write(staging.root().join(file), bytes)?;
    }
    download(source, name, described, &telemetry, &staging)?;
    let folder = staging.root().to_owned();
    let adopted = staging.adopt(&name.slug).map_err(|error| {
        match damage_of_copy(error, &folder, &source.place(name)) {
            Ok((place, reason)) => Error::DamagedThere { place, reason },
            Err(error) => error.into(),
        }
    });
    match adopted? {
        Published::New(artifact) => {
            tally.add(name, bytes);
            Ok(artifact)
        }
        Published::Same(artifact) => {
            tally.present += 1;
            Ok(artifact)
        }
        Published::Different { artifact, tree, .. } => Err(Error::Different {
            there: source.place(name),
            here: artifact.path().to_owned(),
            trees: (tree, artifact.tree()),
        }),
    }
}

/// Copies the data of an artifact, and the files in `telemetry/` with these names and sizes, into a staging folder.
fn download(
    source: &Source<'_>,
    name: &Name,
    described: &Described,
    telemetry: &[(String, u64)],
    staging: &Staging,
) -> Result<()> {
    // Also checks that no path leaves the folder.
    let tree = described.manifest.tree(Path::new(&source.place(name)))?;
    for file in tree.files() {
        crate::signal::check()?;
        let to = staging.data().join(&file.path);
        fs_err::create_dir_all(to.parent().unwrap_or(&to))?;
        source.remote.download(name, &format!("data/{}", file.path), file.size_bytes, &to)?;
    }
    for (file, size) in telemetry {
        let to = staging.telemetry().join(file);
        source.remote.download(name, &format!("telemetry/{file}"), *size, &to)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::path::PathBuf;
    use std::time::Duration;

    use artifact::{Condemnation, faults};
    use clap::Parser as _;
    use serde_json::json;

    use super::*;
    use crate::args::{Args, Command};
    use crate::sample;

    /// Publishes an artifact of a stage, made from another one; returns its folder.
    fn publish(store: &Store, stage: &str, origin: Option<&Path>) -> PathBuf {
        let origin = origin.map(|path| Artifact::open(path).unwrap());
        sample::publish(store, stage, json!({}), origin.as_ref()).path().to_owned()
    }

    /// Pulls an artifact whose origin is in the store and old, and perhaps at the other place as well. Returns how often gc could
    /// have taken the origin while the artifact was copied, and how often it tried.
    fn taken(origin_is_away: bool) -> (usize, usize) {
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str| Store::open(&folder.path().join(name)).unwrap();
        let (away, here) = (open("away"), open("here"));
        let model = publish(&away, "import-model", None);
        publish(&away, "train", Some(&model));
        if !origin_is_away {
            testutil::files::remove(&model);
        }
        let origin = publish(&here, "import-model", None);
        let old = artifact::now() - Duration::from_hours(100 * 24);
        let times = std::fs::FileTimes::new().set_modified(old);
        fs_err::File::open(&origin).unwrap().file().set_times(times).unwrap();

        let words = ["artifacts", "pull", away.root().to_str().unwrap()];
        let Command::Pull(options) = Args::try_parse_from(words).unwrap().command else {
            unreachable!("a pull was asked for")
        };
        let catalog = Catalog::open(here.root()).unwrap();
        let lock = here.lock_collection().unwrap();
        let taken = Rc::new(RefCell::new((0, 0)));
        let counts = Rc::clone(&taken);
        let observer = move |_: &str, path: &Path| {
            if path.starts_with(here.root().join("train")) {
                let used = fs_err::metadata(&origin).unwrap().modified().unwrap();
                let condemned = here.condemn(&lock, &origin, used).unwrap();
                counts.borrow_mut().0 += usize::from(matches!(condemned, Condemnation::Ready(_)));
                counts.borrow_mut().1 += 1;
            }
        };
        faults::observe(observer, || pull(&catalog, &options)).unwrap();
        *taken.borrow()
    }

    #[test]
    fn gc_cannot_take_an_origin_that_is_there_before_what_was_made_from_it_is_pulled() {
        for origin_is_away in [true, false] {
            let (taken, tried) = taken(origin_is_away);
            assert!(taken == 0 && tried > 5, "{origin_is_away}: {taken} of {tried}");
        }
    }
}
