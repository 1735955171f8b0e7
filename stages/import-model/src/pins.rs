//! Pins: the SHA-256 of every file of a model, in its settings file.
//!
//! Pins describe the files as the source has them, before a conversion. They are compared with what is published before a
//! cache hit is believed, and with what was found before an import writes anything.

use std::collections::BTreeMap;
use std::path::Path;

use artifact::Artifact;
use toml_edit::{DocumentMut, Item, Table, value};

use crate::error::Error;
use crate::files::read_json;
use crate::layout;

/// SHA-256 of files as 64 lower-case hex digits, by name.
pub type Hashes = BTreeMap<String, String>;

/// The table of a settings file.
const TABLE: &str = "import-model";
/// File in an artifact's `telemetry/` with the hashes of the source files, where a conversion changed them.
const SOURCE_RECORD: &str = "source.json";
/// Hint for a model that differs from its pins.
const UNPIN: &str = "if the change is intended, remove `files` from the model's settings, import, and pin again with \
                     `--write-lock`";

/// Hashes of a model's source files, as far as they are known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFiles {
    /// Folder, repository or artifact, for messages.
    place: String,
    hashes: Hashes,
    /// Whether the hashes of converted files are missing.
    copied_only: bool,
}

impl SourceFiles {
    /// Makes the complete list of the files in `place`.
    pub fn new(place: String, hashes: Hashes) -> Self {
        Self { place, hashes, copied_only: false }
    }

    /// Returns the source files of the model in `artifact`.
    ///
    /// # Errors
    ///
    /// Fails when the record of the source files is damaged.
    pub fn of_artifact(artifact: &Artifact, is_converted: bool) -> Result<Self, Error> {
        let place = artifact.path().join("data/model").display().to_string();
        let record = artifact.path().join("telemetry").join(SOURCE_RECORD);
        if is_converted && record.is_file() {
            return Ok(Self::new(place, read_json(&record)?));
        }
        let files = artifact.manifest().files.iter();
        let mut hashes: Hashes = files
            .filter_map(|file| Some((file.path.strip_prefix("model/")?.to_owned(), file.sha256.to_string())))
            .collect();
        hashes.retain(|name, _| !is_converted || !layout::is_converted(name));
        Ok(Self { place, hashes, copied_only: is_converted })
    }

    /// Records the hashes in the folder `telemetry` of an artifact, so that a later process can compare them with pins.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be written.
    pub fn record(&self, telemetry: &Path) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(&self.hashes).expect("names and hashes are always JSON");
        Ok(fs_err::write(telemetry.join(SOURCE_RECORD), text + "\n")?)
    }

    /// Compares the files with the pins. Files whose hashes are not known cause a warning.
    ///
    /// # Errors
    ///
    /// As [`compare`].
    pub fn compare(&self, pins: &Hashes) -> Result<(), Error> {
        if !self.copied_only {
            return compare(&self.place, &self.hashes, pins);
        }
        tracing::warn!(
            "`{}` has no record of its source: only files that were not converted are compared with the pins",
            self.place
        );
        let mut pins = pins.clone();
        pins.retain(|name, _| !layout::is_converted(name));
        compare(&self.place, &self.hashes, &pins)
    }
}

/// Pins `files` in the settings file `path`, with the commit of a hub import.
///
/// # Errors
///
/// Fails when the hashes of the source files are not all known, or when the settings file is not valid TOML, is about another
/// repository, or cannot be written.
pub fn write_lock(
    path: &Path,
    revision: Option<Revision<'_>>,
    files: Option<SourceFiles>,
) -> Result<(), Error> {
    let files =
        files.filter(|files| !files.copied_only).ok_or_else(|| Error::NoRecord { path: path.into() })?;
    if write(path, revision, &files.hashes)? {
        tracing::info!("pinned {} files in `{}`", files.hashes.len(), path.display());
    }
    Ok(())
}

/// Compares the hashes of a model's files with the pins: the same names, the same bytes. `place` is for messages.
///
/// # Errors
///
/// Names the first file that is missing or differs.
pub fn compare(place: &str, files: &Hashes, pins: &Hashes) -> Result<(), Error> {
    for (name, expected) in pins {
        let actual = files
            .get(name)
            .ok_or_else(|| mismatch(place, format!("`{name}` is pinned in the settings but is not there")))?;
        if actual != expected {
            return Err(differs(format!("{place}/{name}"), expected, actual));
        }
    }
    match files.keys().find(|name| !pins.contains_key(*name)) {
        Some(name) => {
            Err(mismatch(place, format!("`{name}` is part of the model but is not pinned in the settings")))
        }
        None => Ok(()),
    }
}

/// Returns the error for a model whose set of files differs from the pinned one.
pub(crate) fn mismatch(place: &str, reason: String) -> Error {
    Error::Layout { place: place.into(), reason, hint: UNPIN.into() }
}

/// Returns the error for a file whose hash differs from its pin.
pub(crate) fn differs(place: String, expected: &str, actual: &str) -> Error {
    Error::Hash {
        place,
        expected: expected.into(),
        actual: actual.into(),
        promised_by: PINNED,
        hint: UNPIN.into(),
    }
}

/// Origin of a hash in error messages.
pub(crate) const PINNED: &str = "pinned in the settings";

/// Repository and commit of a model on the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revision<'a> {
    /// `ORG/NAME`.
    pub id: &'a str,
    /// The commit.
    pub commit: &'a str,
}

/// Writes the pins, and for a hub import its commit, into the settings file `path`.
///
/// Comments, order and everything else in the file stay. A missing file is created. Returns whether anything changed.
///
/// # Errors
///
/// Fails when the file is not valid TOML, is about another repository, or cannot be written.
fn write(path: &Path, revision: Option<Revision<'_>>, files: &Hashes) -> Result<bool, Error> {
    let before =
        if path.exists() { ::files::read_text(path, ::files::MAX_JSON_BYTES)? } else { String::new() };
    let after = pinned(path, &before, revision, files)?;
    if after == before {
        return Ok(false);
    }
    artifact::atomic::write_file(path, after.as_bytes())?;
    Ok(true)
}

/// Returns the text `before` of a settings file with the pins in it.
fn pinned(
    path: &Path,
    before: &str,
    revision: Option<Revision<'_>>,
    files: &Hashes,
) -> Result<String, Error> {
    let unusable = |reason: String| Error::Settings {
        reason: format!("`{}`: {reason}", path.display()),
        hint: "give `--write-lock` the settings file of this model, such as one of `pipelines/models/`"
            .into(),
    };
    let mut document: DocumentMut =
        before.parse().map_err(|error| unusable(format!("not valid TOML: {error}")))?;
    let table = document.entry(TABLE).or_insert_with(|| Item::Table(Table::new()));
    let table = table.as_table_mut().ok_or_else(|| unusable(format!("`{TABLE}` is not a table")))?;
    if let Some(Revision { id, commit }) = revision {
        match table.get("id").and_then(Item::as_str) {
            Some(other) if other != id => {
                return Err(unusable(format!("the file is about `{other}`, not `{id}`")));
            }
            Some(_) => {}
            None => set(table, "id", id),
        }
        set(table, "revision", commit);
    }
    if pins_in(table).as_ref() != Some(files) {
        let mut hashes = Table::new();
        for (name, hash) in files {
            hashes.insert(name, value(hash));
        }
        table.remove("files"); // an inline table would stay inline: one very long line
        table.insert("files", Item::Table(hashes));
    }
    Ok(document.to_string())
}

/// Returns the pins in a table, if all are texts.
fn pins_in(table: &Table) -> Option<Hashes> {
    let files = table.get("files").and_then(Item::as_table_like)?;
    files.iter().map(|(name, hash)| Some((name.to_owned(), hash.as_str()?.to_owned()))).collect()
}

/// Sets a text, keeping the comments around the old one.
fn set(table: &mut Table, key: &str, text: &str) {
    match table.get_mut(key).and_then(Item::as_value_mut) {
        Some(old) => {
            let decor = old.decor().clone();
            *old = text.into();
            *old.decor_mut() = decor;
        }
        None => {
            table.insert(key, value(text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files() -> Hashes {
        let hash = |digit: &str| digit.repeat(64);
        BTreeMap::from([("config.json".into(), hash("a")), ("model.safetensors".into(), hash("b"))])
    }

    fn pin(before: &str, id: &str) -> Result<String, Error> {
        pinned(Path::new("preset.toml"), before, Some(Revision { id, commit: "c0ffee" }), &files())
    }

    #[test]
    fn comments_and_other_tables_stay() {
        let before = "# Licence: theirs.\n[import-model]\nid = \"org/name\"\nrevision = \"main\" # moves\n\n\
                      # Small enough.\n[train]\nbatch_size = 2\n";
        let after = pin(before, "org/name").unwrap();
        assert!(
            after.starts_with(
                "# Licence: theirs.\n[import-model]\nid = \"org/name\"\nrevision = \"c0ffee\" # moves\n"
            ),
            "{after}"
        );
        assert!(after.contains("[import-model.files]\n\"config.json\" = \"aaaa"), "{after}");
        assert!(after.ends_with("# Small enough.\n[train]\nbatch_size = 2\n"), "{after}");
        assert_eq!(pin(&after, "org/name").unwrap(), after, "pinning again changes nothing");
    }

    #[test]
    fn an_empty_file_becomes_a_preset() {
        let after = pin("", "org/name").unwrap();
        assert!(after.starts_with("[import-model]\nid = \"org/name\"\nrevision = \"c0ffee\"\n"), "{after}");
    }

    #[test]
    fn links_that_someone_planted_are_not_followed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (preset, victim) = (folder.path().join("p.toml"), folder.path().join("victim"));
        fs_err::write(&victim, "mine").expect("it can be written");
        for name in ["p.toml.new", "p.toml.tmp", ".p.toml", ".p.toml.new", "p.toml~"] {
            fs_err::os::unix::fs::symlink(&victim, folder.path().join(name)).expect("a link");
        }
        let files = Hashes::from([("config.json".to_owned(), "0".repeat(64))]);
        assert!(write(&preset, None, &files).expect("it is written"));
        assert_eq!(fs_err::read_to_string(&victim).expect("it is there"), "mine");
        assert!(fs_err::symlink_metadata(&preset).expect("it is there").is_file());
    }

    #[test]
    fn old_pins_are_replaced_whole() {
        let before = "[import-model]\nid = \"o/n\"\nrevision = \"old\"\nfiles = { \"gone.json\" = \"x\" }\n";
        let after = pin(before, "o/n").unwrap();
        assert!(!after.contains("gone.json") && after.contains("[import-model.files]"), "{after}");
    }

    #[test]
    fn the_preset_of_another_model_is_left_alone() {
        let error = pin("[import-model]\nid = \"o/n\"\n", "o/m").unwrap_err().to_string();
        assert!(error.contains("`preset.toml`: the file is about `o/n`, not `o/m`"), "{error}");
        assert!(pin("import-model = 3\n", "o/m").unwrap_err().to_string().contains("not a table"));
        assert!(pin("[import-model", "o/m").unwrap_err().to_string().contains("not valid TOML"));
    }

    #[test]
    fn pins_name_the_first_difference() {
        let mut other = files();
        other.insert("model.safetensors".into(), "c".repeat(64));
        let error = compare("folder", &files(), &other).unwrap_err().to_string();
        assert!(error.starts_with("`folder/model.safetensors`: sha256 is `bbbb"), "{error}");
        other.remove("model.safetensors");
        let error = compare("folder", &files(), &other).unwrap_err().to_string();
        assert!(error.contains("`model.safetensors` is part of the model but is not pinned"), "{error}");
        let error = compare("folder", &other, &files()).unwrap_err().to_string();
        assert!(error.contains("`model.safetensors` is pinned in the settings but is not there"), "{error}");
    }

    #[test]
    fn without_a_record_only_copied_files_are_compared() {
        let tokenizer = Hashes::from([("tokenizer.json".into(), "d".repeat(64))]);
        let published =
            SourceFiles { place: "artifact".into(), hashes: tokenizer.clone(), copied_only: true };
        assert!(published.compare(&files()).is_err(), "the tokenizer is not pinned");
        let mut pins = files();
        pins.extend(tokenizer);
        assert!(published.compare(&pins).is_ok());
        pins.insert("tokenizer.json".into(), "e".repeat(64));
        assert!(published.compare(&pins).is_err(), "the tokenizer differs");
    }
}
