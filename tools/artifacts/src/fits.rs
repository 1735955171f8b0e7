//! Whether an artifact was made from another one, byte for byte.
//!
//! Artifacts with the same key can have different bytes: a stage may be nondeterministic, and a store may contain artifacts from several
//! machines.

use artifact::{FileHash, InputContent, Manifest, TreeHash};

/// Returns whether `origin` is the artifact that `consumer` read as `role`: it has the recorded stage, key and bytes. If the key of
/// `consumer` contains the manifest of the input, `origin_manifest`, the hash of the origin's `manifest.json`, must also match.
///
/// Returns `false` if `consumer` has no input `role`.
pub(crate) fn fits(consumer: &Manifest, role: &str, origin: &Manifest, origin_manifest: FileHash) -> bool {
    let Some(record) = consumer.inputs.get(role) else { return false };
    let is_named = record.stage.as_ref().is_none_or(|stage| *stage == origin.stage)
        && record.key.is_none_or(|key| key == origin.key);
    let tree = tree_of(origin, record.output.as_deref());
    let has_content = match consumer.key_material.inputs.get(role) {
        Some(InputContent::Tree(read)) => tree == Some(*read),
        Some(InputContent::Manifest(read)) => origin_manifest == *read,
        None => true,
    };
    is_named && tree == Some(record.tree) && has_content
}

/// Returns the hash of an output, or of all data without a name; `None` if there is no such output.
fn tree_of(manifest: &Manifest, output: Option<&str>) -> Option<TreeHash> {
    match output {
        None => Some(manifest.tree),
        Some(name) => manifest.outputs.get(name).map(|output| output.tree),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::str::FromStr as _;

    use artifact::{InputRecord, Key, KeyMaterial, Tree, TreeFile};
    use serde_json::json;

    use super::*;

    /// Describes a training run with two outputs, of which `model` has these bytes.
    fn origin(model: &[u8]) -> Manifest {
        let file = |path: &str, bytes: &[u8]| TreeFile {
            path: path.to_owned(),
            size_bytes: bytes.len() as u64,
            sha256: FileHash::of(bytes),
        };
        let files = vec![file("log/steps.jsonl", b"{}\n"), file("model/weights.bin", model)];
        let tree = Tree::from_files(Path::new("data"), files).unwrap();
        let key_material = KeyMaterial::new("train", 1, json!({}));
        let key = key_material.key().unwrap();
        Manifest { stage: "train".to_owned(), key, key_material, ..Manifest::of_bare_folder(&tree) }
    }

    fn hash(manifest: &Manifest) -> FileHash {
        FileHash::of(&manifest.to_bytes())
    }

    /// Describes what was made from an output of `origin` (all of it if `None`), as role `input`.
    fn consumer(origin: &Manifest, output: Option<&str>, by_manifest: bool) -> Manifest {
        let tree = tree_of(origin, output).unwrap();
        let mut made = self::origin(b"made from it");
        let content =
            if by_manifest { InputContent::Manifest(hash(origin)) } else { InputContent::Tree(tree) };
        made.key_material.inputs.insert("input".to_owned(), content);
        let (stage, key) = (Some(origin.stage.clone()), Some(origin.key));
        let record = InputRecord { stage, key, tree, output: output.map(str::to_owned) };
        made.inputs.insert("input".to_owned(), record);
        made
    }

    #[test]
    fn the_bytes_that_were_read_count() {
        let (read, other) = (origin(b"1"), origin(b"2"));
        assert_eq!(read.key, other.key);
        for (output, other_fits) in [(None, false), (Some("model"), false), (Some("log"), true)] {
            let made = consumer(&read, output, false);
            assert!(fits(&made, "input", &read, hash(&read)), "{output:?}");
            assert_eq!(fits(&made, "input", &other, hash(&other)), other_fits, "{output:?}");
        }
        let without_model = consumer(&read, Some("model"), false);
        let mut lacking = read.clone();
        lacking.outputs.remove("model");
        assert!(!fits(&without_model, "input", &lacking, hash(&lacking)));
    }

    #[test]
    fn the_history_counts_where_the_key_has_it() {
        let read = origin(b"1");
        let other = Manifest { metrics: [("loss".to_owned(), "1".to_owned())].into(), ..read.clone() };
        assert_eq!(read.tree, other.tree);
        for (by_manifest, other_fits) in [(true, false), (false, true)] {
            let made = consumer(&read, None, by_manifest);
            assert!(fits(&made, "input", &read, hash(&read)));
            assert_eq!(fits(&made, "input", &other, hash(&other)), other_fits);
        }
    }

    #[test]
    fn the_record_and_the_key_must_both_name_it() {
        let (read, other) = (origin(b"1"), origin(b"2"));
        let mut made = consumer(&read, None, false);
        made.inputs.get_mut("input").unwrap().tree = other.tree;
        for found in [&read, &other] {
            assert!(!fits(&made, "input", found, hash(found)), "the record was changed, the key was not");
        }
        let made = consumer(&read, None, false);
        assert!(!fits(&made, "other", &read, hash(&read)));
        let elsewhere = Manifest { stage: "fuse".to_owned(), ..read.clone() };
        assert!(!fits(&made, "input", &elsewhere, hash(&read)));
        let another = Manifest { key: Key::from_str(&"0".repeat(64)).unwrap(), ..read.clone() };
        assert!(!fits(&made, "input", &another, hash(&read)));
    }

    #[test]
    fn plain_files_have_neither_stage_nor_key() {
        let read = origin(b"1");
        let mut made = consumer(&read, None, false);
        let record = made.inputs.get_mut("input").unwrap();
        (record.stage, record.key) = (None, None);
        assert!(fits(&made, "input", &read, hash(&read)));
        let other = origin(b"2");
        assert!(!fits(&made, "input", &other, hash(&other)));
    }
}
