//! Why two keys differ: the changed values of their material.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

use crate::canonical::{canonical, join};
use crate::material::{InputContent, KeyMaterial};

/// Longest value that is shown whole, in characters.
const SHOWN_CHARACTERS: usize = 60;

/// A difference between two key materials. The old or the new value is `None` where there is none.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// An input has other content.
    Input {
        /// Role of the input.
        role: String,
        /// Former content.
        old: Option<InputContent>,
        /// Present content.
        new: Option<InputContent>,
    },
    /// Another value, usually a setting.
    Value {
        /// JSON pointer without the leading slash, such as `config/learning_rate`.
        pointer: String,
        /// Former value.
        old: Option<Value>,
        /// Present value.
        new: Option<Value>,
    },
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let none = || "(none)".to_owned();
        match self {
            Self::Input { role, old, new } => {
                let show = |content: &Option<InputContent>| content.map_or_else(none, |c| c.to_string());
                write!(f, "inputs/{role} {} → {}", show(old), show(new))
            }
            Self::Value { pointer, old, new } => {
                let show = |value: &Option<Value>| value.as_ref().map_or_else(none, shorten);
                write!(f, "{pointer} {} → {}", show(old), show(new))
            }
        }
    }
}

/// Lists the inputs and values in which `new` differs from `old`, in order of their JSON pointers.
pub fn changes(old: &KeyMaterial, new: &KeyMaterial) -> Vec<Change> {
    let mut found = BTreeMap::new();
    for role in old.inputs.keys().chain(new.inputs.keys()).collect::<BTreeSet<_>>() {
        let (old, new) = (old.inputs.get(role).copied(), new.inputs.get(role).copied());
        if old != new {
            found.insert(format!("inputs/{role}"), Change::Input { role: role.clone(), old, new });
        }
    }
    let (old, new) = (leaves(old), leaves(new));
    for pointer in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
        let (old, new) = (old.get(pointer), new.get(pointer));
        if !same(old, new) {
            let change = Change::Value { pointer: pointer.clone(), old: old.cloned(), new: new.cloned() };
            found.insert(pointer.clone(), change);
        }
    }
    found.into_values().collect()
}

/// Compares by canonical form, in which `20` and `20.0` are the same.
fn same(old: Option<&Value>, new: Option<&Value>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => old == new || canonical(old) == canonical(new),
        _ => false,
    }
}

/// Returns the values below all fields but `inputs`, by their pointers; an empty object or array is a value.
fn leaves(material: &KeyMaterial) -> BTreeMap<String, Value> {
    let mut value = material.to_value();
    if let Some(fields) = value.as_object_mut() {
        fields.remove("inputs");
    }
    let mut leaves = BTreeMap::new();
    collect_leaves(&value, "", &mut leaves);
    leaves
}

fn collect_leaves(value: &Value, pointer: &str, leaves: &mut BTreeMap<String, Value>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, field) in fields {
                collect_leaves(field, &join(pointer, name), leaves);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for (index, item) in items.iter().enumerate() {
                collect_leaves(item, &join(pointer, &index.to_string()), leaves);
            }
        }
        leaf => {
            leaves.insert(pointer.to_owned(), leaf.clone());
        }
    }
}

/// Prints a value as canonical JSON, cut if it is long.
fn shorten(value: &Value) -> String {
    let text = String::from_utf8(canonical(value)).unwrap_or_default();
    if text.chars().count() <= SHOWN_CHARACTERS {
        return text;
    }
    let head: String = text.chars().take(SHOWN_CHARACTERS - 3).collect();
    format!("{head}…")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::digest::{FileHash, TreeHash};

    #[test]
    fn changed_added_and_removed_values_are_listed() {
        let mut old = KeyMaterial::new("x", 1, json!({"a": 1, "b": [1, 2], "c": 20.0}));
        let mut new = KeyMaterial::new("x", 1, json!({"a": 0.0002, "b": [1], "c": 20, "d": "t"}));
        old.inputs.insert("data".to_owned(), InputContent::Tree(TreeHash([0; 32])));
        new.inputs.insert("data".to_owned(), InputContent::Tree(TreeHash([17; 32])));
        new.inputs.insert("train".to_owned(), InputContent::Manifest(FileHash([34; 32])));
        let lines: Vec<String> = changes(&old, &new).iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                "config/a 1 → 0.0002",
                "config/b/1 2 → (none)",
                "config/d (none) → \"t\"",
                "inputs/data 000000000000 → 111111111111",
                "inputs/train (none) → 222222222222",
            ]
        );
        assert!(changes(&new, &new).is_empty());
    }
}
