//! Why two keys differ: the changed leaves of what was asked.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

/// One leaf of key material that is not the same.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// JSON pointer without the leading slash, such as `config/learning_rate`.
    pub pointer: String,
    /// The former value; `None` where there was none.
    pub old: Option<Value>,
    /// The present value; `None` where there is none.
    pub new: Option<Value>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |value: &Option<Value>| value.as_ref().map_or("(none)".to_owned(), shorten);
        write!(f, "{} {} → {}", self.pointer, show(&self.old), show(&self.new))
    }
}

/// Lists the leaves in which `new` differs from `old`, in order of their pointers.
pub fn changes(old: &Value, new: &Value) -> Vec<Change> {
    let (old, new) = (leaves(old), leaves(new));
    let pointers: std::collections::BTreeSet<_> = old.keys().chain(new.keys()).collect();
    pointers
        .into_iter()
        .filter(|pointer| !same(old.get(*pointer), new.get(*pointer)))
        .map(|pointer| Change {
            pointer: pointer.clone(),
            old: old.get(pointer).cloned(),
            new: new.get(pointer).cloned(),
        })
        .collect()
}

/// Compares by canonical form, in which `20` and `20.0` are the same.
fn same(old: Option<&Value>, new: Option<&Value>) -> bool {
    match (old, new) {
        (Some(old), Some(new)) => old == new || crate::canonical(old) == crate::canonical(new),
        _ => false,
    }
}

fn leaves(value: &Value) -> BTreeMap<String, Value> {
    fn collect(value: &Value, pointer: &str, leaves: &mut BTreeMap<String, Value>) {
        let join =
            |part: &str| if pointer.is_empty() { part.to_owned() } else { format!("{pointer}/{part}") };
        match value {
            Value::Object(fields) if !fields.is_empty() => {
                fields.iter().for_each(|(name, field)| collect(field, &join(name), leaves));
            }
            Value::Array(items) if !items.is_empty() => {
                let numbered = items.iter().enumerate();
                numbered.for_each(|(index, item)| collect(item, &join(&index.to_string()), leaves));
            }
            leaf => {
                leaves.insert(pointer.to_owned(), leaf.clone());
            }
        }
    }
    let mut found = BTreeMap::new();
    collect(value, "", &mut found);
    found
}

/// Prints a leaf for people: numbers as canonical JSON has them, long text cut.
fn shorten(value: &Value) -> String {
    let text = String::from_utf8(crate::canonical(value)).unwrap_or_default();
    if text.chars().count() <= 60 {
        return text;
    }
    let head: String = text.chars().take(57).collect();
    format!("{head}…")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn changed_added_and_removed_leaves_are_listed() {
        let old = json!({"config": {"a": 1, "b": [1, 2], "c": 20.0}, "stage": "x"});
        let new = json!({"config": {"a": 0.0002, "b": [1], "c": 20, "d": "t"}, "stage": "x"});
        let lines: Vec<String> = changes(&old, &new).iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["config/a 1 → 0.0002", "config/b/1 2 → (none)", "config/d (none) → \"t\""]);
        assert!(changes(&new, &new).is_empty());
    }
}
