//! The command line of a stage, from the manifest of its artifact.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use artifact::{Artifact, InputRecord, Manifest};
use serde_json::Value;

use super::plain::Plain;
use super::plan::origin;
use crate::catalog::Catalog;
use crate::error::{Error, Result, bad_file};

/// What was made in place of an artifact.
#[derive(Debug, Clone)]
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
    /// What follows it in a script.
    pub(super) variable: Option<Variable>,
}

/// A shell variable in an argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Variable {
    /// Its name.
    pub(super) name: String,
    /// Text after its value: nothing, or a path that begins with a slash.
    pub(super) after: OsString,
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

    /// Makes an argument of a text and the path in a shell variable, or a path `below` that one.
    pub(super) fn variable(before: &str, name: &str, below: &Path) -> Self {
        let mut after = OsString::new();
        if !below.as_os_str().is_empty() {
            after.push("/");
            after.push(below);
        }
        Self { text: before.into(), variable: Some(Variable { name: name.to_owned(), after }) }
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
/// `plain` has the places of plain inputs. `made` maps artifacts to those that were made in their place; others are taken from
/// the store.
///
/// # Errors
///
/// Fails when an input is not known.
pub(super) fn inputs(
    catalog: &Catalog,
    artifact: &Artifact,
    plain: &BTreeMap<String, Plain>,
    made: &[(PathBuf, Made)],
) -> Result<Vec<Word>> {
    let manifest = artifact.manifest();
    let mut roles: Vec<(&String, &InputRecord)> = manifest.inputs.iter().collect();
    roles.sort_by_key(|(role, _)| order(role));
    let mut flags: Vec<(String, Word)> = Vec::new();
    for (role, record) in roles {
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
        let (place, below) = place(catalog, role, record, plain, made)?;
        let value = match place {
            Made::Path(path) if below.as_os_str().is_empty() => Word::path(&prefix, &path),
            Made::Path(path) => Word::path(&prefix, &path.join(below)),
            Made::Variable(name) => Word::variable(&prefix, &name, &below),
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

/// Returns the flags that are neither inputs nor settings.
pub(super) fn other_flags(manifest: &Manifest) -> Vec<Word> {
    let mut flags = Vec::new();
    if let Some(stop_at) = &manifest.key_material.segment {
        flags.extend([Word::text("--stop-at"), Word::text(stop_at)]);
    }
    // The verdict is in the artifact, whose bytes are compared; a failed gate must not end that.
    if manifest.stage == "evaluate" {
        flags.extend([Word::text("--gate"), Word::text("note")]);
    }
    flags
}

/// Returns by what roles are sorted: the text before their number, then the number, because the stages number inputs in the order
/// in which they are given.
fn order(role: &str) -> (&str, usize, &str) {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    let mut start = 0;
    for part in role.split('_') {
        let number = part.parse().ok().filter(|_| is_number(part));
        if let Some(number) = number {
            let kind = &role[..start];
            // Data files are numbered together, whatever split comes before.
            return (if kind.ends_with("data_") { "data_" } else { kind }, number, role);
        }
        start += part.len() + 1;
    }
    (role, 0, role)
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
        ("evaluate", "guard" | "guard_rows" | "guard_tokenizer") => "--guard",
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

/// Returns where an input is: an artifact and a path below it, which is empty for all of it, or the path of plain files.
fn place(
    catalog: &Catalog,
    role: &str,
    record: &InputRecord,
    plain: &BTreeMap<String, Plain>,
    made: &[(PathBuf, Made)],
) -> Result<(Made, PathBuf)> {
    let (path, below) = match (origin(record), plain.get(role)) {
        (Some((stage, key)), _) => {
            let found = catalog.store.find(stage, key, "")?;
            let name = || format!("{stage}/{}", key.short());
            let missing = || Error::NotFound { name: name(), store: catalog.store.root().to_owned() };
            (found.ok_or_else(missing)?, PathBuf::new())
        }
        (None, Some(Plain::Given(path))) => return Ok((Made::Path(path.clone()), PathBuf::new())),
        (None, Some(Plain::Inside { artifact, below })) => (artifact.clone(), below.clone()),
        (None, None) => return Err(Error::NoFiles { role: role.to_owned(), tree: record.tree }),
    };
    let again = made.iter().find(|(old, _)| *old == path).map(|(_, again)| again.clone());
    Ok((again.unwrap_or(Made::Path(path)), below))
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
            ("evaluate", "guard_rows", Some("--guard ")),
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
    fn numbered_inputs_are_in_the_order_of_their_numbers() {
        let sorted = |roles: &[&'static str]| {
            let mut roles = roles.to_vec();
            roles.sort_by_key(|role| order(role));
            roles
        };
        for expected in [
            &["model_0_base", "model_1_x", "model_2_llama_3", "model_9_x", "model_10_a", "model_100_a"][..],
            &["adapters_2_b", "adapters_10_a", "dataset", "model_0_7", "predictions_2_a", "predictions_11_a"],
            // Sorted by the components of a mixture, not by split.
            &["validation_data_0", "train_data_1", "data_2", "train_data_10", "test_data_11"],
        ] {
            let mut by_text = expected.to_vec();
            by_text.sort_unstable();
            assert_eq!(sorted(&by_text), expected);
        }
    }

    #[test]
    fn segments_and_gates_have_their_flags() {
        let words = |manifest: &Manifest| -> Vec<String> {
            other_flags(manifest).iter().map(|word| word.text.to_string_lossy().into_owned()).collect()
        };
        let mut manifest = manifest("train", json!({}));
        assert!(words(&manifest).is_empty());
        manifest.key_material.segment = Some("1/2".to_owned());
        assert_eq!(words(&manifest), ["--stop-at", "1/2"]);
        assert_eq!(words(&self::manifest("evaluate", json!({}))), ["--gate", "note"]);
    }

    #[test]
    fn names_that_are_no_plain_names_stay_on_their_line() {
        assert_eq!(toml_key("learning_rate"), "learning_rate");
        assert_eq!(toml_key("x\nEND\ntouch y"), r#""x\nEND\ntouch y""#);
        assert_eq!(toml_value(&json!({"a b": "c\nEND"})), r#"{ "a b" = "c\nEND" }"#);
    }

    fn manifest(stage: &str, config: Value) -> Manifest {
        let file = TreeFile { path: "x".to_owned(), size_bytes: 1, sha256: FileHash::of(b"x") };
        let tree = Tree::from_files(Path::new("data"), vec![file]).unwrap();
        let mut manifest = Manifest::of_bare_folder(&tree);
        manifest.stage = stage.to_owned();
        manifest.key_material.config = config;
        manifest
    }

    #[test]
    fn an_import_from_the_hub_asks_for_the_commit() {
        let manifest = manifest("import-model", json!({"commit": "c0ffee", "id": "org/name"}));
        let expected = "[import-model]\nrevision = \"c0ffee\"\nid = \"org/name\"\n";
        assert_eq!(settings_file(&manifest), expected);
    }

    #[test]
    fn settings_are_written_as_toml() {
        let value = json!({"a": [1, 0.5, "x\"y"], "b": {"c": true}, "d": 1e-8});
        assert_eq!(toml_value(&value), r#"{ a = [1, 0.5, "x\"y"], b = { c = true }, d = 1e-8 }"#);
    }
}
