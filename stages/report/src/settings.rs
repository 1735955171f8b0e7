//! Settings of a stage as dotted names, with their defaults where they differ.

use artifact::Manifest;
use serde_json::Value;

use crate::error::Error;
use crate::source::config_defaults;

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Setting {
    /// Dotted name, such as `lora.rank`.
    pub(crate) name: String,
    pub(crate) value: String,
    /// The default, if the value differs from it.
    pub(crate) default: Option<String>,
}

/// Returns all settings of a stage by name.
pub(crate) fn settings(manifest: &Manifest) -> Vec<Setting> {
    let mut settings = Vec::new();
    flatten("", &manifest.key_material.config, Some(config_defaults(manifest)), &mut settings);
    settings
}

/// Returns settings as dotted names with their values as text.
pub(crate) fn flat(config: &Value) -> Vec<(String, String)> {
    let mut settings = Vec::new();
    flatten("", config, None, &mut settings);
    settings.into_iter().map(|setting| (setting.name, setting.value)).collect()
}

/// Returns whether the manifest has the default settings.
pub(crate) fn knows_defaults(manifest: &Manifest) -> bool {
    config_defaults(manifest).is_object()
}

/// Returns the settings of all stages as one TOML file that the stages read back.
pub(crate) fn toml(stages: &[Manifest]) -> Result<String, Error> {
    let mut text = String::new();
    for manifest in stages {
        let config = &manifest.key_material.config;
        if config.as_object().is_none_or(serde_json::Map::is_empty) {
            continue;
        }
        let table = serde_json::json!({ manifest.stage.as_str(): config });
        let table = toml::to_string(&table)
            .map_err(|source| Error::Settings { stage: manifest.stage.clone(), source })?;
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&table);
    }
    Ok(text)
}

fn flatten(name: &str, value: &Value, default: Option<&Value>, settings: &mut Vec<Setting>) {
    if let Some(members) = value.as_object().filter(|members| !members.is_empty()) {
        for (member, value) in members {
            let name = if name.is_empty() { member.clone() } else { format!("{name}.{member}") };
            let default = default.filter(|default| default.is_object()).map(|default| &default[member]);
            flatten(&name, value, default, settings);
        }
    } else if !name.is_empty() {
        let differs = default.is_some_and(|default| !same(default, value));
        let default = default.filter(|_| differs).map(print);
        settings.push(Setting { name: name.to_owned(), value: print(value), default });
    }
}

/// Compares numbers by value, because canonical JSON writes `20.0` as `20`.
fn same(left: &Value, right: &Value) -> bool {
    match (left.as_f64(), right.as_f64()) {
        (Some(left), Some(right)) => left.total_cmp(&right).is_eq(),
        _ => left == right,
    }
}

fn print(value: &Value) -> String {
    match value {
        Value::Null => "not set".to_owned(),
        Value::String(text) if text.is_empty() => "empty".to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.is_empty() => "none".to_owned(),
        Value::Array(items) => items.iter().map(print).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_carries_its_default() {
        let config = serde_json::json!({"rate": 2e-4, "lora": {"rank": 8, "scale": 20}, "keys": ["a", "b"], "note": ""});
        let defaults =
            serde_json::json!({"rate": 1e-5, "lora": {"rank": 8, "scale": 20.0}, "keys": [], "note": ""});
        let mut found = Vec::new();
        flatten("", &config, Some(&defaults), &mut found);
        let found: Vec<_> =
            found.iter().map(|s| (s.name.as_str(), s.value.as_str(), s.default.as_deref())).collect();
        assert_eq!(
            found,
            [
                ("rate", "0.0002", Some("0.00001")),
                ("lora.rank", "8", None),
                ("lora.scale", "20", None),
                ("keys", "a, b", Some("none")),
                ("note", "empty", None),
            ]
        );
    }
}
