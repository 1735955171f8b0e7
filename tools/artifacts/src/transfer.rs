//! `push` and `pull`: copies artifacts, and what they were made from, to another place and back.
//!
//! Nothing becomes visible before it is complete: a push writes `COMMIT` last, and a pull verifies every byte in a staging folder
//! before the artifact gets its name.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use artifact::{Artifact, Key, Level, Manifest, Published, Store};
use serde_json::json;

use crate::args::{Pull, Push};
use crate::catalog::{Catalog, read_manifest};
use crate::error::{Error, Result, bad_file};
use crate::locate::{digits, locate};
use crate::remote::{self, DESCRIPTION_BYTES, Name, Remote, Sent};
use crate::text;

/// The files that describe an artifact.
const DESCRIPTIONS: [&str; 4] = ["COMMIT", "SHA256SUMS", "manifest.json", "provenance.json"];
/// Most bytes of one file in `telemetry/`, whose size no manifest limits.
const TELEMETRY_BYTES: u64 = 1 << 30;

/// Counts what was copied.
#[derive(Default)]
struct Tally {
    copied: Vec<String>,
    bytes: u64,
    present: usize,
}

/// Copies artifacts of the store to another place.
pub(crate) fn push(catalog: &Catalog, options: &Push) -> Result<()> {
    let remote = remote::open(&options.remote)?;
    let mut paths = Vec::new();
    if options.artifacts.is_empty() {
        paths.extend(catalog.entries.iter().map(|entry| entry.path.clone()));
    }
    for name in &options.artifacts {
        with_ancestors(catalog, locate(catalog, name)?, !options.no_lineage, &mut paths)?;
    }
    let mut tally = Tally::default();
    for path in paths {
        let name = Name::of_folder(&path).ok_or_else(|| bad_file(&path, "is not named STAGE/KEY-SLUG"))?;
        // Damage must not spread.
        let artifact = Artifact::open_with(&path, Level::Hash)?;
        tracing::info!("pushing {name}");
        match remote.send(&artifact, &name)? {
            Sent::New => {
                tally.bytes += artifact.manifest().outputs.values().map(|output| output.bytes).sum::<u64>();
                tally.copied.push(name.to_string());
            }
            Sent::Same => tally.present += 1,
        }
    }
    tally.report("pushed", options.format.json)
}

/// Collects an artifact after those it was made from, as far as they are in the store.
fn with_ancestors(catalog: &Catalog, path: PathBuf, lineage: bool, paths: &mut Vec<PathBuf>) -> Result<()> {
    if paths.contains(&path) {
        return Ok(());
    }
    if lineage {
        for record in read_manifest(&path)?.inputs.values() {
            let (Some(stage), Some(key)) = (&record.stage, &record.key) else { continue };
            if let Some(input) = catalog.store.find(stage, key, "")? {
                with_ancestors(catalog, input, true, paths)?;
            } else {
                tracing::warn!("{stage}/{} is not in the store and is left out", key.short());
            }
        }
    }
    if !paths.contains(&path) {
        paths.push(path);
    }
    Ok(())
}

/// Copies artifacts from another place into the store.
pub(crate) fn pull(catalog: &Catalog, options: &Pull) -> Result<()> {
    let remote = remote::open(&options.remote)?;
    let available = remote.list()?;
    let wanted: Vec<Name> = if options.artifacts.is_empty() {
        available.clone()
    } else {
        let find = |name: &String| select(&available, name, &options.remote);
        options.artifacts.iter().map(find).collect::<Result<_>>()?
    };
    let mut puller = Puller {
        store: &catalog.store,
        remote: remote.as_ref(),
        available: &available,
        lineage: !options.no_lineage,
        seen: BTreeSet::new(),
        tally: Tally::default(),
    };
    for name in &wanted {
        puller.pull(name)?;
    }
    puller.tally.report("pulled", options.format.json)
}

/// Finds the artifact that a word names: `STAGE/KEY` or the first digits of a key.
fn select(available: &[Name], word: &str, place: &str) -> Result<Name> {
    let (stage, rest) = word.rsplit_once('/').map_or((None, word), |(stage, rest)| (Some(stage), rest));
    let digits = digits(rest).unwrap_or_default();
    let fits = |name: &&Name| {
        stage.is_none_or(|stage| name.stage == stage) && !digits.is_empty() && name.key.starts_with(digits)
    };
    let found: Vec<&Name> = available.iter().filter(fits).collect();
    match found.as_slice() {
        [one] => Ok((*one).clone()),
        [] => Err(Error::Remote {
            place: place.to_owned(),
            problem: format!("holds no artifact `{word}`"),
            hint: Some(
                "give STAGE/KEY or the first digits of a key; without one, everything is pulled".to_owned(),
            ),
        }),
        several => Err(Error::Ambiguous {
            name: word.to_owned(),
            found: several.iter().map(ToString::to_string).collect(),
        }),
    }
}

/// Pulls artifacts, those they were made from first.
struct Puller<'a> {
    store: &'a Store,
    remote: &'a dyn Remote,
    available: &'a [Name],
    lineage: bool,
    seen: BTreeSet<Name>,
    tally: Tally,
}

impl Puller<'_> {
    fn pull(&mut self, name: &Name) -> Result<()> {
        if !self.seen.insert(name.clone()) {
            return Ok(());
        }
        let manifest = self.manifest(name)?;
        if self.lineage {
            for record in manifest.inputs.values() {
                let (Some(stage), Some(key)) = (&record.stage, &record.key) else { continue };
                let origin = |other: &&Name| other.stage == *stage && other.key == key.short();
                if let Some(origin) = self.available.iter().find(origin) {
                    self.pull(origin)?;
                } else if self.store.find(stage, key, "")?.is_none() {
                    tracing::warn!(
                        "{stage}/{} is neither there nor in the store and is left out",
                        key.short()
                    );
                }
            }
        }
        if let Some(path) = self.store.find(&manifest.stage, &manifest.key, &name.slug)? {
            if is_sound(&path, &manifest.key) {
                self.tally.present += 1;
                return Ok(());
            }
            tracing::warn!("`{}` is damaged and is pulled again", text::escape(&path.display().to_string()));
        }
        self.copy(name, &manifest)
    }

    fn manifest(&self, name: &Name) -> Result<Manifest> {
        let bytes = self.description(name, "manifest.json")?;
        let manifest = Manifest::from_bytes(Path::new(&format!("{name}/manifest.json")), &bytes)?;
        if manifest.stage != name.stage || manifest.key.short() != name.key {
            return Err(bad_file(name.to_string(), "is named like another artifact"));
        }
        Ok(manifest)
    }

    fn description(&self, name: &Name, file: &str) -> Result<Vec<u8>> {
        let found = self.remote.read(name, file, DESCRIPTION_BYTES)?;
        found.ok_or_else(|| bad_file(format!("{name}/{file}"), "is missing"))
    }

    /// Copies an artifact into a staging folder, verifies it, and gives it its name.
    fn copy(&mut self, name: &Name, manifest: &Manifest) -> Result<()> {
        // Also checks that no path leaves the folder.
        let tree = manifest.tree(Path::new(&name.to_string()))?;
        let bytes = manifest.outputs.values().map(|output| output.bytes).sum();
        self.store.check_space(bytes)?;
        tracing::info!("pulling {name} ({})", text::bytes(bytes));
        let staging = self.store.stage_new(&name.stage)?;
        for file in DESCRIPTIONS {
            fs_err::write(staging.root().join(file), self.description(name, file)?)?;
        }
        for file in tree.files() {
            if let Some(signal) = crate::signal::stopped() {
                return Err(Error::Stopped { signal });
            }
            let to = staging.data().join(&file.path);
            fs_err::create_dir_all(to.parent().unwrap_or(&to))?;
            self.remote.download(name, &format!("data/{}", file.path), file.size_bytes, &to)?;
        }
        for file in self.remote.telemetry(name)? {
            if file.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
                && !file.starts_with('.')
            {
                let to = staging.telemetry().join(&file);
                self.remote.download(name, &format!("telemetry/{file}"), TELEMETRY_BYTES, &to)?;
            }
        }
        match staging.adopt(&name.slug)? {
            Published::New(_) => {
                self.tally.copied.push(name.to_string());
                self.tally.bytes += bytes;
            }
            Published::Same(_) => self.tally.present += 1,
            Published::Different { artifact, tree, .. } => {
                return Err(Error::Different {
                    there: name.to_string(),
                    here: artifact.path().to_owned(),
                    trees: (tree, artifact.tree()),
                });
            }
        }
        Ok(())
    }
}

fn is_sound(path: &Path, key: &Key) -> bool {
    Artifact::open_with(path, Level::Hash).is_ok_and(|artifact| artifact.manifest().key == *key)
}

impl Tally {
    fn report(&self, verb: &str, as_json: bool) -> Result<()> {
        if as_json {
            let value = json!({verb: self.copied, "bytes": self.bytes, "present": self.present});
            return Ok(text::print_json(&value)?);
        }
        let copied = text::count(self.copied.len(), "artifact");
        let line = format!("{verb} {copied} ({}); {} already there\n", text::bytes(self.bytes), self.present);
        Ok(text::print(&line)?)
    }
}
