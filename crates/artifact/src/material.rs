//! Key material: the input of the key hash. [`KeyMaterial`] is the only type that computes a [`Key`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::canonical::{canonical, check_domain};
use crate::digest::{FileHash, Key, TreeHash, sha256};
use crate::error::Result;

/// Everything that decides the bytes of an artifact.
///
/// Paths, times, names of machines, numbers of threads and log levels are never part of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeyMaterial {
    schema: Schema,
    /// The stage that is asked.
    pub stage: String,
    /// Version of the stage, raised when the same settings produce outputs of another meaning.
    pub stage_version: u32,
    /// All settings, defaults written out; options that are not set are left out.
    pub config: Value,
    /// The content of each input, by role.
    pub inputs: BTreeMap<String, InputContent>,
    /// Version of the numeric library, backend, device and dtype, for a stage that computes with floats.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub numerics: BTreeMap<String, String>,
    /// Step at which a segment stops; absent for a whole run.
    #[serde(rename = "part", default, skip_serializing_if = "Option::is_none")]
    pub segment: Option<String>,
    /// Fields of later versions: they count in the key.
    #[serde(flatten)]
    other: BTreeMap<String, Value>,
}

/// The version of the key's format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Schema {
    #[serde(rename = "key-v1")]
    V1,
}

/// Schema of key material.
pub(crate) const SCHEMA: &str = "key-v1";
/// Schema of a recipe key, so that it never equals a key.
const RECIPE_SCHEMA: &str = "key-v1-loose";

/// An input as a key knows it: by content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "sha256", rename_all = "lowercase", deny_unknown_fields)]
pub enum InputContent {
    /// The files that are read.
    #[serde(with = "digits")]
    Tree(TreeHash),
    /// The `manifest.json` of an artifact: its files, its settings and its history.
    Manifest(FileHash),
}

impl InputContent {
    /// Returns the first 12 hexadecimal digits of the hash.
    fn short(&self) -> String {
        let digits = match self {
            Self::Tree(hash) => hash.to_string(),
            Self::Manifest(hash) => hash.to_string(),
        };
        digits[..12].to_owned()
    }
}

impl std::fmt::Display for InputContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.short())
    }
}

/// A tree hash as plain hexadecimal digits: the type beside it says what it is a hash of.
mod digits {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::digest::{FileHash, TreeHash};

    pub(super) fn serialize<S: Serializer>(hash: &TreeHash, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(hash)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<TreeHash, D::Error> {
        FileHash::deserialize(deserializer).map(|hash| TreeHash(*hash.as_bytes()))
    }
}

impl KeyMaterial {
    /// Makes the material of a stage without inputs; add them with the public fields.
    pub fn new(stage: &str, stage_version: u32, config: Value) -> Self {
        Self {
            schema: Schema::V1,
            stage: stage.to_owned(),
            stage_version,
            config,
            inputs: BTreeMap::new(),
            numerics: BTreeMap::new(),
            segment: None,
            other: BTreeMap::new(),
        }
    }

    /// Returns the key: the SHA-256 of the canonical JSON of the material.
    ///
    /// # Errors
    ///
    /// [`Error::KeyDomain`](crate::Error::KeyDomain) names a value that cannot be part of a key: null, a name outside
    /// `[a-z0-9_]+`, or an integer beyond ±(2^53 − 1), which must be written as a decimal string.
    pub fn key(&self) -> Result<Key> {
        hash(&self.to_value())
    }

    /// Returns the key without numerics: the question, whichever machine answers it.
    ///
    /// # Errors
    ///
    /// As [`KeyMaterial::key`].
    pub fn recipe_key(&self) -> Result<Key> {
        let mut value = self.without_numerics().to_value();
        value["schema"] = RECIPE_SCHEMA.into();
        hash(&value)
    }

    /// Returns the material without numerics.
    #[must_use]
    pub fn without_numerics(&self) -> Self {
        Self { numerics: BTreeMap::new(), ..self.clone() }
    }

    /// Returns the material of the whole run that a segment belongs to.
    #[must_use]
    pub fn without_segment(&self) -> Self {
        Self { segment: None, ..self.clone() }
    }

    /// Returns the material without the top-level settings `names`.
    #[must_use]
    pub fn without_settings(&self, names: &[&str]) -> Self {
        let mut material = self.clone();
        if let Some(settings) = material.config.as_object_mut() {
            settings.retain(|name, _| !names.contains(&name.as_str()));
        }
        material
    }

    /// Returns the material as JSON.
    pub fn to_value(&self) -> Value {
        serde_json::to_value(self).expect("names, texts and JSON values are always JSON")
    }
}

fn hash(material: &Value) -> Result<Key> {
    check_domain(material)?;
    Ok(Key(sha256(&canonical(material))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const VECTOR_B: &str = concat!(
        r#"{"config":{"batch_size":4,"iters":200,"learning_rate":0.00001,"lora":{"dropout":0,"rank":8,"scale":20},"#,
        r#""seed":"42","weight_decay":0.1},"inputs":{"base_model":{"sha256":"#,
        r#""0000000000000000000000000000000000000000000000000000000000000000","type":"tree"},"dataset":{"sha256":"#,
        r#""53416f2131ca93f164c4df3c4bb97edc2f7e46a07f4ffb8eea061156dfec05cc","type":"tree"}},"#,
        r#""numerics":{"backend":"cpu","dtype":"bf16","mlx":"0.32.1"},"schema":"key-v1","stage":"train","#,
        r#""stage_version":3}"#
    );

    fn vector_b() -> KeyMaterial {
        let config = json!({
            "learning_rate": 1e-5, "batch_size": 4, "iters": 200, "weight_decay": 0.1, "seed": "42",
            "lora": {"rank": 8, "scale": 20.0, "dropout": 0.0},
        });
        let mut material = KeyMaterial::new("train", 3, config);
        let dataset = "53416f2131ca93f164c4df3c4bb97edc2f7e46a07f4ffb8eea061156dfec05cc".parse().unwrap();
        for (role, hash) in [("base_model", TreeHash([0; 32])), ("dataset", dataset)] {
            material.inputs.insert(role.to_owned(), InputContent::Tree(hash));
        }
        for (name, value) in [("mlx", "0.32.1"), ("backend", "cpu"), ("dtype", "bf16")] {
            material.numerics.insert(name.to_owned(), value.to_owned());
        }
        material
    }

    #[test]
    fn vector_b_has_its_known_key() {
        assert_eq!(String::from_utf8(canonical(&vector_b().to_value())).unwrap(), VECTOR_B);
        let key = vector_b().key().unwrap();
        assert_eq!(key.to_string(), "d6d0121c856b7b50ad509de6b316416bb4c915bf15a5df76e16cb1de83ea4c36");
        assert_eq!(key.short(), "d6d0121c856b7b50");
    }

    #[test]
    fn key_survives_writing_and_reading() {
        let mut material = vector_b();
        let again: KeyMaterial = serde_json::from_str(VECTOR_B).unwrap();
        assert_eq!(again.key().unwrap(), material.key().unwrap());
        material.inputs.insert("history".to_owned(), InputContent::Manifest(FileHash::of(b"x")));
        material.segment = Some("30".to_owned());
        let text = canonical(&material.to_value());
        assert!(String::from_utf8_lossy(&text).contains(r#""part":"30""#));
        let again: KeyMaterial = serde_json::from_slice(&text).unwrap();
        assert_eq!(again.key().unwrap(), material.key().unwrap());
    }

    #[test]
    fn recipe_ignores_numerics_only() {
        let mut other = vector_b();
        other.numerics.insert("mlx".to_owned(), "9".to_owned());
        assert_eq!(other.recipe_key().unwrap(), vector_b().recipe_key().unwrap());
        assert_ne!(other.key().unwrap(), vector_b().key().unwrap());
        assert_ne!(other.recipe_key().unwrap(), other.without_numerics().key().unwrap());
        other.config["iters"] = 201.into();
        assert_ne!(other.recipe_key().unwrap(), vector_b().recipe_key().unwrap());
    }

    #[test]
    fn fields_of_later_versions_are_kept_and_count() {
        let mut value = vector_b().to_value();
        value["later"] = json!({"x": 1});
        let material: KeyMaterial = serde_json::from_value(value.clone()).unwrap();
        assert_eq!(material.to_value(), value);
        assert_ne!(material.key().unwrap(), vector_b().key().unwrap());
        value["schema"] = "key-v2".into();
        assert!(serde_json::from_value::<KeyMaterial>(value).is_err());
    }

    #[test]
    fn every_field_is_checked_against_the_domain() {
        let mut material = vector_b();
        material.config["name"] = Value::Null;
        assert!(material.key().unwrap_err().to_string().starts_with("`config/name` cannot be part of a key"));
        let mut material = vector_b();
        material.inputs.insert("Base".to_owned(), InputContent::Tree(TreeHash([0; 32])));
        assert!(material.key().unwrap_err().to_string().starts_with("`inputs/Base` cannot be part of a key"));
    }

    #[test]
    fn material_without_some_fields() {
        let mut segment = vector_b();
        segment.segment = Some("30".to_owned());
        assert_eq!(segment.without_segment(), vector_b());
        let mut other = vector_b();
        other.config["iters"] = 7.into();
        assert_eq!(other.without_settings(&["iters"]), vector_b().without_settings(&["iters"]));
    }
}
