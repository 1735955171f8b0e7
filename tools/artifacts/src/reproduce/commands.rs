//! The command line of a stage, from the manifest of its artifact.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use artifact::{Artifact, InputRecord, Manifest, TreeHash};
use serde_json::Value;

use crate::catalog::Catalog;
use crate::error::{Error, Result, bad_file};

/// An artifact to make again.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) path: PathBuf,
}

/// What was made in place of an artifact.
#[derive(Debug)]
pub(super) enum Made {
    /// The artifact with this path.
    Path(PathBuf),
    /// An artifact whose path a shell variable will hold.
    Variable(String),
}

/// An argument of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Word {
    /// Text, taken literally.
    pub(super) text: OsString,
    /// Name of the shell variable whose value follows.
    pub(super) variable: Option<String>,
}

impl Word {
    /// Makes an argument that is plain text.
    pub(super) fn text(text: &str) -> Self {
        Self { text: text.into(), variable: None }
    }

    /// Makes an argument of a text with a path after it.
    pub(super) fn path(before: &str, path: &Path) -> Self {
        let mut text = OsString::from(before);
        text.push(path);
        Self { text, variable: None }
    }
}

/// Returns a settings file with every setting of an artifact.
pub(super) fn settings_file(manifest: &Manifest) -> String {
    let mut text = format!("[{}]\n", manifest.stage);
    for (name, value) in manifest.key_material.config.as_object().into_iter().flatten() {
        let name = match (manifest.stage.as_str(), name.as_str()) {
            // Found from the revision; a commit is one.
            ("import-model", "commit") => "revision",
            (_, name) => name,
        };
        writeln!(text, "{} = {}", toml_key(name), toml_value(value)).expect("writing to a string succeeds");
    }
    text
}

/// Writes the name of a setting; any other text than a plain name stands in quotes, on one line.
fn toml_key(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
    if !name.is_empty() && name.bytes().all(is_plain) { name.to_owned() } else { toml_value(&name.into()) }
}

/// Writes a JSON value as TOML, tables inline.
fn toml_value(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields: Vec<String> = fields
                .iter()
                .map(|(name, field)| format!("{} = {}", toml_key(name), toml_value(field)))
                .collect();
            format!("{{ {} }}", fields.join(", "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(toml_value).collect::<Vec<_>>().join(", ")),
        // TOML has JSON's escapes, but wants DEL escaped as well.
        Value::String(text) => Value::from(text.as_str()).to_string().replace('\u{7f}', "\\u007f"),
        other => other.to_string(),
    }
}

/// Returns the flags for the inputs of an artifact.
///
/// `made` maps artifacts to those that were made in their place; others are taken from the store. `find` finds plain files.
///
/// # Errors
///
/// Fails when an input is not known, or when nobody said where plain files are.
pub(super) fn inputs(
    catalog: &Catalog,
    artifact: &Artifact,
    made: &[(PathBuf, Made)],
    find: &dyn Fn(&TreeHash) -> Option<PathBuf>,
) -> Result<Vec<Word>> {
    let manifest = artifact.manifest();
    let mut flags: Vec<(String, Word)> = Vec::new();
    for (role, record) in &manifest.inputs {
        // It comes with the model beside which `fuse` wrote it.
        if manifest.stage == "evaluate" && record.output.as_deref() == Some(outputs::QUANTIZED) {
            continue;
        }
        let Some((flag, prefix)) = flag(&manifest.stage, role, record) else {
            return Err(bad_file(
                artifact.path(),
                format!("has an input `{role}` that `reproduce` does not know"),
            ));
        };
        let value = match place(catalog, role, record, made, find)? {
            Made::Path(path) => Word::path(&prefix, &path),
            Made::Variable(name) => Word { text: prefix.into(), variable: Some(name) },
        };
        if !flags.contains(&(flag.clone(), value.clone())) {
            flags.push((flag, value));
        }
    }
    let hub = |name: &str| {
        manifest.key_material.config.get(name).and_then(Value::as_str).is_some_and(|id| !id.is_empty())
    };
    if manifest.stage == "import-model" && manifest.inputs.is_empty() && !hub("id") {
        return Err(bad_file(artifact.path(), "records neither a folder nor a repository"));
    }
    Ok(flags.into_iter().flat_map(|(flag, value)| [Word::text(&flag), value]).collect())
}

/// Returns the flag for an input, and what goes before its path.
fn flag(stage: &str, role: &str, record: &InputRecord) -> Option<(String, String)> {
    let from = record.stage.as_deref();
    let flag = match (stage, role) {
        ("import-model", "source") => "--model-dir",
        ("prepare-data", "tokenizer") => "--tokenizer",
        ("prepare-data", role) if role.starts_with("data_") || role.contains("_data_") => "--data",
        ("report", role) => return Some((format!("--{}", role.replace('_', "-")), String::new())),
        ("evaluate", role) if named(role).is_some() => return named(role),
        ("evaluate", "checkpoints") => "--checkpoints",
        ("evaluate", "scores") => "--scores",
        ("evaluate", "guard" | "guard_tokenizer") => "--guard",
        ("evaluate" | "validate", "encoder") => "--encoder",
        ("select-best", "train") | ("validate", "checkpoints") => "--train",
        ("select-best", "validate" | "answers") => "--validate",
        ("train", "losses") => "--losses",
        (_, "adapters") => "--adapters",
        (_, "model" | "origin") => "--model",
        _ if from == Some("prepare-data") => "--dataset",
        _ => return None,
    };
    Some((flag.to_owned(), String::new()))
}

/// Returns the flag and the prefix of an input of evaluate with a name of its own, `KIND_NUMBER_NAME`.
fn named(role: &str) -> Option<(String, String)> {
    let mut parts = role.splitn(3, '_');
    let (kind, number, name) = (parts.next()?, parts.next()?, parts.next()?);
    let is_known = matches!(kind, "model" | "adapters" | "predictions") && number.parse::<usize>().is_ok();
    is_known.then(|| (format!("--{kind}"), format!("{name}=")))
}

fn place(
    catalog: &Catalog,
    role: &str,
    record: &InputRecord,
    made: &[(PathBuf, Made)],
    find: &dyn Fn(&TreeHash) -> Option<PathBuf>,
) -> Result<Made> {
    let (Some(stage), Some(key)) = (&record.stage, &record.key) else {
        let found = find(&record.tree).map(Made::Path);
        return found.ok_or_else(|| Error::NoFiles { role: role.to_owned(), tree: record.tree });
    };
    let Some(path) = catalog.store.find(stage, key, "")? else {
        let name = format!("{stage}/{}", key.short());
        return Err(Error::NotFound { name, store: catalog.store.root().to_owned() });
    };
    Ok(match made.iter().find(|(old, _)| *old == path) {
        Some((_, Made::Path(new))) => Made::Path(new.clone()),
        Some((_, Made::Variable(name))) => Made::Variable(name.clone()),
        None => Made::Path(path),
    })
}

#[cfg(test)]
mod tests {
    use artifact::{FileHash, Tree, TreeFile};
    use serde_json::json;

    use super::*;

    #[test]
    fn every_input_of_evaluate_has_a_flag() {
        let record = InputRecord {
            stage: None,
            key: None,
            tree: "0".repeat(64).parse().expect("64 digits"),
            output: None,
        };
        let flag = |stage: &str, role: &str| {
            flag(stage, role, &record).map(|(flag, prefix)| format!("{flag} {prefix}"))
        };
        for (stage, role, expected) in [
            ("evaluate", "model_0_base", Some("--model base=")),
            ("evaluate", "adapters_1_a_b", Some("--adapters a_b=")),
            ("evaluate", "predictions_12_gpt", Some("--predictions gpt=")),
            ("evaluate", "checkpoints", Some("--checkpoints ")),
            ("evaluate", "encoder", Some("--encoder ")),
            ("evaluate", "scores", Some("--scores ")),
            ("evaluate", "guard", Some("--guard ")),
            ("evaluate", "other", None),
            ("validate", "encoder", Some("--encoder ")),
            ("select-best", "answers", Some("--validate ")),
            ("prepare-data", "data_0", Some("--data ")),
            ("prepare-data", "validation_data_3", Some("--data ")),
        ] {
            assert_eq!(flag(stage, role).as_deref(), expected, "{stage} {role}");
        }
    }

    #[test]
    fn names_that_are_no_plain_names_stay_on_their_line() {
        assert_eq!(toml_key("learning_rate"), "learning_rate");
        assert_eq!(toml_key("x\nEND\ntouch y"), r#""x\nEND\ntouch y""#);
        assert_eq!(toml_value(&json!({"a b": "c\nEND"})), r#"{ "a b" = "c\nEND" }"#);
    }

    #[test]
    fn an_import_from_the_hub_asks_for_the_commit() {
        let file = TreeFile { path: "x".to_owned(), size_bytes: 1, sha256: FileHash::of(b"x") };
        let tree = Tree::from_files(Path::new("data"), vec![file]).unwrap();
        let mut manifest = Manifest::of_bare_folder(&tree);
        manifest.stage = "import-model".to_owned();
        manifest.key_material.config = json!({"commit": "c0ffee", "id": "org/name"});
        let expected = "[import-model]\nrevision = \"c0ffee\"\nid = \"org/name\"\n";
        assert_eq!(settings_file(&manifest), expected);
    }

    #[test]
    fn settings_are_written_as_toml() {
        let value = json!({"a": [1, 0.5, "x\"y"], "b": {"c": true}, "d": 1e-8});
        assert_eq!(toml_value(&value), r#"{ a = [1, 0.5, "x\"y"], b = { c = true }, d = 1e-8 }"#);
    }
}
