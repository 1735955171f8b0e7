//! Settings whose names the user or a chat template chooses, as the key of an artifact holds them.
//!
//! The names in a key are `[a-z0-9_]+`. A table with only such names is written as a table, any other as a list of pairs of a
//! name and its value. Both forms are read, since a settings file can be made from an artifact.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Writes a table whose values have fixed names inside.
///
/// # Errors
///
/// As the serializer.
pub fn serialize<S: Serializer, V: Serialize>(
    table: &BTreeMap<String, V>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    if table.keys().all(|name| is_key_name(name)) {
        return table.serialize(serializer);
    }
    serializer.collect_seq(table)
}

/// Reads a table, or a list of pairs.
///
/// # Errors
///
/// Fails when it is neither, or when a name is given twice.
pub fn deserialize<'de, D: Deserializer<'de>, V: Deserialize<'de>>(
    deserializer: D,
) -> Result<BTreeMap<String, V>, D::Error> {
    deserializer.deserialize_map(Table::<V, V>(PhantomData))
}

/// Returns whether a name can be part of a key.
fn is_key_name(name: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    !name.is_empty() && name.bytes().all(is_allowed)
}

/// Reads a table of `V`, whose pairs hold a `P`.
struct Table<V, P>(PhantomData<(V, P)>);

impl<'de, V: Deserialize<'de>, P: Deserialize<'de> + Into<V>> Visitor<'de> for Table<V, P> {
    type Value = BTreeMap<String, V>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table, or a list of pairs of a name and its value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
        let mut table = BTreeMap::new();
        while let Some((name, value)) = entries.next_entry()? {
            table.insert(name, value);
        }
        Ok(table)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut pairs: A) -> Result<Self::Value, A::Error> {
        let mut table = BTreeMap::new();
        while let Some((name, value)) = pairs.next_element::<(String, P)>()? {
            if table.contains_key(&name) {
                return Err(A::Error::custom(format_args!("the name `{name}` is given twice")));
            }
            table.insert(name, value.into());
        }
        Ok(table)
    }
}

/// Tables of any values. A pair holds the JSON text of its value, since the names inside are free too.
pub mod json {
    use serde_json::Value;

    use super::{
        BTreeMap, Deserialize, Deserializer, PhantomData, Serialize, Serializer, Table, is_key_name,
    };

    /// Writes a table.
    ///
    /// # Errors
    ///
    /// As the serializer.
    pub fn serialize<S: Serializer>(
        table: &BTreeMap<String, Value>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        if table.iter().all(|(name, value)| is_key_name(name) && has_key_names(value)) {
            return table.serialize(serializer);
        }
        serializer.collect_seq(table.iter().map(|(name, value)| (name, value.to_string())))
    }

    /// Reads a table, or a list of pairs of a name and JSON text.
    ///
    /// # Errors
    ///
    /// Fails when it is neither, when a name is given twice, and when a text is not JSON.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<String, Value>, D::Error> {
        deserializer.deserialize_map(Table::<Value, JsonText>(PhantomData))
    }

    fn has_key_names(value: &Value) -> bool {
        match value {
            Value::Array(items) => items.iter().all(has_key_names),
            Value::Object(fields) => {
                fields.iter().all(|(name, value)| is_key_name(name) && has_key_names(value))
            }
            _ => true,
        }
    }

    /// A value as JSON text.
    #[derive(Deserialize)]
    #[serde(try_from = "String")]
    struct JsonText(Value);

    impl TryFrom<String> for JsonText {
        type Error = serde_json::Error;

        fn try_from(text: String) -> Result<Self, serde_json::Error> {
            serde_json::from_str(&text).map(Self)
        }
    }

    impl From<JsonText> for Value {
        fn from(JsonText(value): JsonText) -> Self {
            value
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Component {
        files: Vec<String>,
    }

    #[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Config {
        #[serde(with = "super")]
        mixture: BTreeMap<String, Component>,
        #[serde(with = "super::json")]
        template_arguments: BTreeMap<String, Value>,
    }

    /// Returns the settings as they are written, and checks that they are read back.
    fn written(settings: &str) -> toml::Table {
        let config: Config = toml::from_str(settings).unwrap();
        let written = toml::Table::try_from(&config).unwrap();
        assert_eq!(written.clone().try_into::<Config>().unwrap(), config);
        written
    }

    #[test]
    fn names_that_fit_a_key_stay_a_table_and_others_become_pairs() {
        let fitting = written("[mixture.news]\nfiles = ['a']\n[template_arguments]\nenable_thinking = true");
        assert_eq!(fitting["mixture"]["news"]["files"][0].as_str(), Some("a"));
        assert_eq!(fitting["template_arguments"]["enable_thinking"].as_bool(), Some(true));
        let free = written("[mixture.Haw-1]\nfiles = ['a']\n[template_arguments]\nenableThinking = true");
        assert_eq!(free["mixture"].to_string(), "[[\"Haw-1\", { files = [\"a\"] }]]");
        assert_eq!(free["template_arguments"].to_string(), "[[\"enableThinking\", \"true\"]]");
        let inside = written("[template_arguments]\nstyle = { isShort = true, note = 'x' }");
        assert_eq!(inside["template_arguments"][0][0].as_str(), Some("style"));
        assert_eq!(inside["template_arguments"][0][1].as_str(), Some(r#"{"isShort":true,"note":"x"}"#));
    }

    #[test]
    fn a_list_must_hold_pairs_with_different_names() {
        for bad in [
            "mixture = 5",
            "mixture = [['a']]",
            "mixture = [['a', { files = [] }], ['a', { files = [] }]]",
            "mixture = [['a', { file = [] }]]",
            "template_arguments = [['a', 'not JSON']]",
            "mixture.a.file = []",
        ] {
            assert!(toml::from_str::<Config>(bad).is_err(), "{bad}");
        }
    }
}
