//! The command line of a stage, from the manifest of its artifact.

use std::fmt::Write as _;
use std::path::PathBuf;

use artifact::{Artifact, InputRecord, Manifest, TreeHash};
use serde_json::Value;

use crate::catalog::Catalog;
use crate::error::{Error, Result, bad_file};

/// An artifact to make again.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) path: PathBuf,
}

/// Returns a settings file with every setting of an artifact.
pub(super) fn settings_file(manifest: &Manifest) -> String {
    let mut text = format!("[{}]\n", manifest.stage);
    for (name, value) in manifest.key_material.config.as_object().into_iter().flatten() {
        writeln!(text, "{name} = {}", toml_value(value)).expect("writing to a string succeeds");
    }
    text
}

/// Writes a JSON value as TOML, tables inline.
fn toml_value(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|(name, field)| format!("{name} = {}", toml_value(field))).collect();
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
    made: &[(PathBuf, PathBuf)],
    find: &dyn Fn(&TreeHash) -> Option<PathBuf>,
) -> Result<Vec<String>> {
    let manifest = artifact.manifest();
    let mut flags: Vec<(String, String)> = Vec::new();
    for (role, record) in &manifest.inputs {
        let Some((flag, prefix)) = flag(&manifest.stage, role, record) else {
            return Err(bad_file(
                artifact.path(),
                format!("has an input `{role}` that `reproduce` does not know"),
            ));
        };
        let place = place(catalog, role, record, made, find)?;
        let value = format!("{prefix}{}", place.display());
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
    Ok(flags.into_iter().flat_map(|(flag, value)| [flag, value]).collect())
}

/// Returns the flag for an input, and what goes before its path.
fn flag(stage: &str, role: &str, record: &InputRecord) -> Option<(String, String)> {
    let from = record.stage.as_deref();
    let flag = match (stage, role) {
        ("import-model", "source") => "--model-dir",
        ("prepare-data", "tokenizer") => "--tokenizer",
        ("prepare-data", role) if role.starts_with("data_") => "--data",
        ("report", role) => return Some((format!("--{}", role.replace('_', "-")), String::new())),
        ("evaluate", role) if role.starts_with("model_") => {
            let name = role.splitn(3, '_').nth(2)?;
            return Some(("--model".to_owned(), format!("{name}=")));
        }
        ("select-best", "train") | ("validate", "checkpoints") => "--train",
        ("select-best", "validate") => "--validate",
        ("train", "losses") => "--losses",
        (_, "adapters") => "--adapters",
        (_, "model" | "origin") => "--model",
        _ if from == Some("prepare-data") => "--dataset",
        _ => return None,
    };
    Some((flag.to_owned(), String::new()))
}

fn place(
    catalog: &Catalog,
    role: &str,
    record: &InputRecord,
    made: &[(PathBuf, PathBuf)],
    find: &dyn Fn(&TreeHash) -> Option<PathBuf>,
) -> Result<PathBuf> {
    let (Some(stage), Some(key)) = (&record.stage, &record.key) else {
        return find(&record.tree).ok_or_else(|| Error::NoFiles { role: role.to_owned(), tree: record.tree });
    };
    let Some(path) = catalog.store.find(stage, key, "")? else {
        let name = format!("{stage}/{}", key.short());
        return Err(Error::NotFound { name, store: catalog.store.root().to_owned() });
    };
    Ok(made.iter().find(|(old, _)| *old == path).map_or(path, |(_, new)| new.clone()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_are_written_as_toml() {
        let value = json!({"a": [1, 0.5, "x\"y"], "b": {"c": true}, "d": 1e-8});
        assert_eq!(toml_value(&value), r#"{ a = [1, 0.5, "x\"y"], b = { c = true }, d = 1e-8 }"#);
    }
}
