//! Pinning a model in its settings file: the commit, and the hash of every file.
//!
//! The file stays the user's: comments, order and everything else in it are kept, and it is only touched when
//! something changes.

use std::collections::BTreeMap;
use std::path::Path;

use toml_edit::{DocumentMut, Item, Table, value};

use crate::error::Error;

/// The table of the settings file.
const TABLE: &str = "import-model";

/// Writes `files` (name → SHA-256), and for a hub import `(id, commit)`, into the settings file `path`.
///
/// A file that does not exist is made. Returns whether anything changed.
///
/// # Errors
///
/// Fails when the file does not parse, names another repository, or cannot be written.
pub fn write(
    path: &Path,
    hub: Option<(&str, &str)>,
    files: &BTreeMap<String, String>,
) -> Result<bool, Error> {
    let before = if path.exists() { fs_err::read_to_string(path)? } else { String::new() };
    let after = pinned(path, &before, hub, files)?;
    if after == before {
        return Ok(false);
    }
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    fs_err::write(beside, after)?;
    fs_err::rename(beside, path)?;
    Ok(true)
}

fn pinned(
    path: &Path,
    before: &str,
    hub: Option<(&str, &str)>,
    files: &BTreeMap<String, String>,
) -> Result<String, Error> {
    let bad = |reason: String| Error::Settings {
        reason: format!("`{}`: {reason}", path.display()),
        hint: "give `--write-lock` the settings file of this model, such as one of `pipelines/models/`"
            .into(),
    };
    let mut document: DocumentMut =
        before.parse().map_err(|error| bad(format!("not valid TOML: {error}")))?;
    let table = document.entry(TABLE).or_insert_with(|| Item::Table(Table::new()));
    let table = table.as_table_mut().ok_or_else(|| bad(format!("`{TABLE}` is not a table")))?;
    if let Some((id, commit)) = hub {
        match table.get("id").and_then(Item::as_str) {
            Some(other) if other != id => return Err(bad(format!("it is about `{other}`, not `{id}`"))),
            Some(_) => {}
            None => set(table, "id", id),
        }
        set(table, "revision", commit);
    }
    let known = |table: &Table| -> Option<BTreeMap<String, String>> {
        let files = table.get("files").and_then(Item::as_table_like)?;
        files.iter().map(|(name, hash)| Some((name.to_owned(), hash.as_str()?.to_owned()))).collect()
    };
    if known(table).as_ref() != Some(files) {
        let mut hashes = Table::new();
        for (name, hash) in files {
            hashes.insert(name, value(hash));
        }
        table.remove("files"); // an inline table must not stay one: it would be one endless line
        table.insert("files", Item::Table(hashes));
    }
    Ok(document.to_string())
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
    use std::collections::BTreeMap;
    use std::path::Path;

    use super::pinned;

    fn files() -> BTreeMap<String, String> {
        [("config.json".into(), "a".repeat(64)), ("model.safetensors".into(), "b".repeat(64))].into()
    }

    fn pin(before: &str, id: &str) -> Result<String, crate::Error> {
        pinned(Path::new("preset.toml"), before, Some((id, "c0ffee")), &files())
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
    fn old_pins_are_replaced_whole() {
        let before = "[import-model]\nid = \"o/n\"\nrevision = \"old\"\nfiles = { \"gone.json\" = \"x\" }\n";
        let after = pin(before, "o/n").unwrap();
        assert!(!after.contains("gone.json") && after.contains("[import-model.files]"), "{after}");
    }

    #[test]
    fn the_preset_of_another_model_is_left_alone() {
        let error = pin("[import-model]\nid = \"o/n\"\n", "o/m").unwrap_err().to_string();
        assert!(error.contains("`preset.toml`: it is about `o/n`, not `o/m`"), "{error}");
        assert!(pin("import-model = 3\n", "o/m").unwrap_err().to_string().contains("not a table"));
        assert!(pin("[import-model", "o/m").unwrap_err().to_string().contains("not valid TOML"));
    }
}
