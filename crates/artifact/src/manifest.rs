//! `manifest.json`: the description of an artifact, identical on every run.

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::canonical::canonical;
use crate::digest::{FileHash, Key, TreeHash};
use crate::error::{Error, Result, damaged};
use crate::material::{self, InputContent, KeyMaterial};
use crate::tree::{Tree, TreeFile};

pub(crate) const SCHEMA: &str = "manifest-v1";

/// Content of `manifest.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of the format: `manifest-v1`.
    pub schema: String,
    /// The stage that made the artifact.
    pub stage: String,
    /// Version of the stage.
    pub stage_version: u32,
    /// Hash of `key_material`.
    pub key: Key,
    /// Hash of `key_material` without numerics.
    pub recipe_key: Key,
    /// Stage, settings and inputs by content; the key is its hash.
    pub key_material: KeyMaterial,
    /// Hash of all data.
    pub tree: TreeHash,
    /// Named outputs.
    pub outputs: BTreeMap<String, Output>,
    /// All data files, in byte order of their paths.
    pub files: Vec<File>,
    /// Origin of each input, by role. The key depends only on their content.
    pub inputs: BTreeMap<String, InputRecord>,
    /// Headline numbers by name, as decimal strings.
    pub metrics: BTreeMap<String, String>,
    /// Reproducibility of the bytes.
    pub determinism: Determinism,
    /// Fields of later versions, kept as they are.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// The schemas in a manifest.
#[derive(Deserialize)]
struct Schemas {
    schema: String,
    key_material: Option<MaterialSchema>,
}

/// The schema of key material.
#[derive(Deserialize)]
struct MaterialSchema {
    schema: String,
}

/// A named output: a folder below `data/`, or a file in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Hash of this output alone, with its name removed from the paths.
    pub tree: TreeHash,
    /// Number of files.
    pub files: u64,
    /// Total length in bytes.
    pub bytes: u64,
}

/// One data file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Path below `data/`.
    pub path: String,
    /// Length in bytes.
    pub size: u64,
    /// Hash of the bytes.
    pub sha256: FileHash,
    /// The named output that the file belongs to.
    pub role: String,
}

/// Origin of an input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputRecord {
    /// The stage that made the artifact; absent for a plain folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Key of the artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<Key>,
    /// Hash of the files that were used.
    pub tree: TreeHash,
    /// The named output that was used; absent if all outputs were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<String>,
}

/// Reproducibility of the bytes of an artifact.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Determinism {
    /// Where the same key produces the same bytes.
    pub claim: Claim,
    /// Whether interruptions leave no trace in the bytes.
    pub resumed_exactly: bool,
}

/// Where the same key produces the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Claim {
    /// On every machine.
    BitExact,
    /// On machines with the same `numerics`.
    Backend,
    /// Nowhere.
    None,
}

impl Manifest {
    /// Describes the files of a plain folder.
    pub fn of_bare_folder(tree: &Tree) -> Self {
        let zero = Key([0; 32]);
        Self {
            schema: SCHEMA.to_owned(),
            stage: String::new(),
            stage_version: 0,
            key: zero,
            recipe_key: zero,
            key_material: KeyMaterial::new("", 0, Value::Object(serde_json::Map::new())),
            tree: tree.hash(),
            outputs: outputs(tree),
            files: files(tree),
            inputs: BTreeMap::new(),
            metrics: BTreeMap::new(),
            determinism: Determinism { claim: Claim::None, resumed_exactly: true },
            other: BTreeMap::new(),
        }
    }

    /// Returns the tree that the manifest describes.
    ///
    /// # Errors
    ///
    /// Fails when the paths break the grammar; `place` is named in the error.
    pub fn tree(&self, place: &Path) -> Result<Tree> {
        let files = self.files.iter().map(|file| TreeFile {
            path: file.path.clone(),
            size_bytes: file.size,
            sha256: file.sha256,
        });
        Tree::from_files(place, files.collect())
    }

    /// Returns a metric.
    pub fn metric(&self, name: &str) -> Option<f64> {
        self.metrics.get(name)?.parse().ok()
    }

    /// Returns the bytes of `manifest.json`.
    pub fn to_bytes(&self) -> Vec<u8> {
        canonical(&serde_json::to_value(self).expect("a manifest is plain data"))
    }

    /// Checks that this version can read the `manifest.json` at `path`: of a later format, nothing else is known.
    ///
    /// # Errors
    ///
    /// Fails on an unknown schema, of the manifest or of its key material, and on bytes that are not JSON with a schema.
    pub fn check_schema(path: &Path, bytes: &[u8]) -> Result<()> {
        let json = |source| Error::Json { path: path.to_owned(), source };
        let found: Schemas = serde_json::from_slice(bytes).map_err(json)?;
        let material = found.key_material.map(|material| material.schema);
        for (found, expected) in [(Some(found.schema), SCHEMA), (material, material::SCHEMA)] {
            if let Some(found) = found.filter(|found| found != expected) {
                return Err(Error::UnknownSchema { path: path.to_owned(), found, expected });
            }
        }
        Ok(())
    }

    /// Parses the bytes of the `manifest.json` at `path`.
    ///
    /// # Errors
    ///
    /// Fails on an unknown schema, on bytes that are not canonical JSON (such as repeated names), on a stage or a key that does not
    /// match the key material, on an input that the key material does not have, and on a file whose role is not the output in its
    /// path.
    pub fn from_bytes(path: &Path, bytes: &[u8]) -> Result<Self> {
        let json = |source| Error::Json { path: path.to_owned(), source };
        Self::check_schema(path, bytes)?;
        let value: Value = serde_json::from_slice(bytes).map_err(json)?;
        if canonical(&value) != bytes {
            return Err(damaged(path, "it is not canonical JSON"));
        }
        let manifest: Self = serde_json::from_value(value).map_err(json)?;
        let material = &manifest.key_material;
        if (&manifest.stage, manifest.stage_version) != (&material.stage, material.stage_version) {
            return Err(damaged(path, "its stage does not match its key material"));
        }
        for (role, record) in &manifest.inputs {
            match material.inputs.get(role) {
                Some(InputContent::Tree(read)) if *read == record.tree => {}
                Some(InputContent::Manifest(_)) if record.key.is_some() => {}
                _ => {
                    return Err(damaged(path, format!("its input `{role}` does not match its key material")));
                }
            }
        }
        // Who verifies one output verifies the files with its role.
        if let Some(file) = manifest.files.iter().find(|file| file.role != role(&file.path)) {
            let reason = format!("the role of `{}` is `{}`", file.path, file.role);
            return Err(damaged(path, reason));
        }
        match manifest.key_material.key() {
            Ok(key) if key == manifest.key => Ok(manifest),
            Ok(_) => Err(damaged(path, "its key does not match its key material")),
            Err(error) => Err(damaged(path, error.to_string())),
        }
    }
}

pub(crate) fn outputs(tree: &Tree) -> BTreeMap<String, Output> {
    tree.outputs()
        .into_iter()
        .map(|(name, (files, bytes))| {
            let hash = tree.output(&name).expect("the name was taken from the tree");
            (name, Output { tree: hash, files, bytes })
        })
        .collect()
}

/// Returns the named output that a file belongs to.
fn role(path: &str) -> &str {
    path.split('/').next().unwrap_or(path)
}

pub(crate) fn files(tree: &Tree) -> Vec<File> {
    tree.files()
        .iter()
        .map(|file| File {
            path: file.path.clone(),
            size: file.size_bytes,
            sha256: file.sha256,
            role: role(&file.path).to_owned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn manifest() -> Manifest {
        let files = ["model/weights.bin", "stats.json"].map(|path| TreeFile {
            path: path.to_owned(),
            size_bytes: 1,
            sha256: FileHash::of(b"x"),
        });
        let tree = Tree::from_files(Path::new("data"), files.to_vec()).unwrap();
        let key_material = KeyMaterial::new("train", 3, json!({}));
        let key = key_material.key().unwrap();
        let stage = "train".to_owned();
        Manifest { stage, stage_version: 3, key, key_material, ..Manifest::of_bare_folder(&tree) }
    }

    fn refusal(change: impl FnOnce(&mut Manifest)) -> String {
        let mut manifest = manifest();
        change(&mut manifest);
        Manifest::from_bytes(Path::new("manifest.json"), &manifest.to_bytes()).unwrap_err().to_string()
    }

    #[test]
    fn what_a_manifest_says_twice_must_agree() {
        let sound = manifest();
        assert_eq!(Manifest::from_bytes(Path::new("manifest.json"), &sound.to_bytes()).unwrap(), sound);
        assert!(
            refusal(|it| it.files[0].role = "other".to_owned())
                .contains("the role of `model/weights.bin` is `other`")
        );
        assert!(refusal(|it| it.files[1].role = String::new()).contains("the role of `stats.json` is ``"));
        assert!(
            refusal(|it| it.stage = "fuse".to_owned()).contains("its stage does not match its key material")
        );
        assert!(refusal(|it| it.stage_version = 4).contains("its stage does not match its key material"));
        assert!(refusal(|it| it.key = Key([0; 32])).contains("its key does not match its key material"));
    }

    #[test]
    fn inputs_are_those_of_the_key_material() {
        let hash = |byte| TreeHash([byte; 32]);
        let record = |tree, key| InputRecord { stage: None, key, tree, output: None };
        let refused = |content: Option<InputContent>, record: InputRecord| {
            let mut manifest = manifest();
            manifest.key_material.inputs.extend(content.map(|content| ("rows".to_owned(), content)));
            manifest.key = manifest.key_material.key().unwrap();
            manifest.inputs.insert("rows".to_owned(), record);
            Manifest::from_bytes(Path::new("manifest.json"), &manifest.to_bytes()).is_err()
        };
        let (tree, history) = (InputContent::Tree(hash(1)), InputContent::Manifest(FileHash::of(b"x")));
        assert!(!refused(Some(tree), record(hash(1), None)));
        assert!(!refused(Some(history), record(hash(1), Some(Key([3; 32])))));
        assert!(refused(None, record(hash(1), None)));
        assert!(refused(Some(tree), record(hash(2), None)));
        assert!(refused(Some(history), record(hash(1), None)), "plain files have no history");
    }

    #[test]
    fn later_schemas_are_told_from_damage() {
        let text = String::from_utf8(manifest().to_bytes()).unwrap();
        let read =
            |text: &str| Manifest::from_bytes(Path::new("manifest.json"), text.as_bytes()).unwrap_err();
        for text in [
            text.replace("manifest-v1", "manifest-v2"),
            text.replace("\"key-v1\"", "\"key-v2\""),
            r#"{"schema":"manifest-v2","key_material":{"schema":"key-v2","new":1}}"#.to_owned(),
        ] {
            assert!(matches!(read(&text), Error::UnknownSchema { .. }), "{text}");
        }
        for text in ["{}", "[]", "", r#"{"schema":1}"#] {
            assert!(read(text).is_damage(), "{text}");
        }
    }
}
