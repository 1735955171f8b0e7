//! The shape of settings: which names a settings struct knows, at every level.
//!
//! Serde hands the names of a struct's fields to the deserializer. [`Shape::of`] is such a deserializer: it asks for one
//! field after the other, notes the requested type, and never builds a value.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::ops::Range;

use serde::de::value::{Error, StrDeserializer};
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IntoDeserializer, MapAccess, SeqAccess,
    Visitor,
};
use serde::forward_to_deserialize_any;
use toml::Spanned;
use toml::de::DeValue;

/// Names and types that a setting accepts.
#[derive(Debug, PartialEq)]
pub(crate) enum Shape {
    /// Table with known names.
    Struct(BTreeMap<&'static str, Shape>),
    /// Table with any names.
    Map(Box<Shape>),
    /// List of values.
    List(Box<Shape>),
    /// Floating-point number.
    Fraction,
    /// Whole number.
    Integer,
    /// Any other value.
    Other,
}

/// Something noteworthy in a settings file, with its position in the text.
#[derive(Debug)]
pub(crate) enum Finding<'a> {
    /// A name that the settings do not have.
    Unknown { name: String, known: Vec<&'a str>, span: Range<usize> },
    /// A string where a number is expected, which reads as one: a finite fraction, or an integer beyond [`EXACT`].
    QuotedNumber { text: String, span: Range<usize> },
}

/// The least integer that JSON does not hold exactly. Keys, and so the settings files of `artifacts reproduce`, hold integers from
/// there on as strings.
pub(crate) const EXACT: u64 = 1 << 53;

impl Shape {
    /// Returns the shape of `T`.
    pub(crate) fn of<T: DeserializeOwned>() -> Self {
        Self::below::<T>(&mut Vec::new())
    }

    fn below<T: DeserializeOwned>(path: &mut Vec<Step>) -> Self {
        let found = Cell::new(Requested::Other);
        // Always fails: the probe ends where the path does.
        let _ = T::deserialize(Probe { path, found: &found });
        let mut step = |step| {
            path.push(step);
            let shape = Self::below::<T>(path);
            path.pop();
            shape
        };
        match found.get() {
            Requested::Struct(names) => {
                Self::Struct(names.iter().map(|name| (*name, step(Step::Field(name)))).collect())
            }
            Requested::Map => Self::Map(Box::new(step(Step::Entry))),
            Requested::List => Self::List(Box::new(step(Step::Item))),
            Requested::Fraction => Self::Fraction,
            Requested::Integer => Self::Integer,
            Requested::Other => Self::Other,
        }
    }

    /// Returns the names at the top, if there is a fixed list of them.
    pub(crate) fn names(&self) -> Vec<&str> {
        match self {
            Self::Struct(fields) => fields.keys().copied().collect(),
            _ => Vec::new(),
        }
    }

    /// Follows a path of names.
    ///
    /// # Errors
    ///
    /// Returns the first unknown name, with the names that are known at its level.
    pub(crate) fn follow<'a>(&self, path: &[&'a str]) -> Result<&Self, (&'a str, Vec<&str>)> {
        path.iter().try_fold(self, |shape, name| match shape {
            Self::Struct(fields) => fields.get(*name).ok_or_else(|| (*name, shape.names())),
            Self::Map(below) => Ok(&**below),
            _ => Ok(&Self::Other),
        })
    }

    /// Lists the findings in `value` in the order of the text.
    pub(crate) fn findings<'a>(&'a self, value: &Spanned<DeValue<'_>>) -> Vec<Finding<'a>> {
        let mut findings = Vec::new();
        self.collect(value, &mut findings);
        findings.sort_by_key(|finding| match finding {
            Finding::Unknown { span, .. } | Finding::QuotedNumber { span, .. } => span.start,
        });
        findings
    }

    fn collect<'a>(&'a self, value: &Spanned<DeValue<'_>>, findings: &mut Vec<Finding<'a>>) {
        match (self, value.get_ref()) {
            (Self::Struct(fields), DeValue::Table(table)) => {
                for (name, value) in table {
                    match fields.get(&**name.get_ref()) {
                        Some(shape) => shape.collect(value, findings),
                        None => findings.push(Finding::Unknown {
                            name: name.get_ref().to_string(),
                            known: self.names(),
                            span: name.span(),
                        }),
                    }
                }
            }
            (Self::Map(shape), DeValue::Table(table)) => {
                table.iter().for_each(|(_, value)| shape.collect(value, findings));
            }
            (Self::List(shape), DeValue::Array(items)) => {
                items.iter().for_each(|item| shape.collect(item, findings));
            }
            (Self::Fraction, DeValue::String(text)) => {
                let number = text.parse::<f64>().ok().filter(|number| number.is_finite());
                let text = number.map(|number| format!("{number:?}"));
                findings.extend(text.map(|text| Finding::QuotedNumber { text, span: value.span() }));
            }
            (Self::Integer, DeValue::String(text)) => {
                let number = text.parse::<i64>().ok().filter(|number| number.unsigned_abs() >= EXACT);
                let text = number.map(|number| number.to_string());
                findings.extend(text.map(|text| Finding::QuotedNumber { text, span: value.span() }));
            }
            _ => {}
        }
    }
}

/// One level on the way to the setting that is probed.
#[derive(Debug, Clone, Copy)]
enum Step {
    Field(&'static str),
    Entry,
    Item,
}

/// Type that a setting requests from the deserializer.
#[derive(Debug, Clone, Copy)]
enum Requested {
    Struct(&'static [&'static str]),
    Map,
    List,
    Fraction,
    Integer,
    Other,
}

/// Deserializer that follows a path, notes what is requested at its end, and fails.
#[derive(Clone, Copy)]
struct Probe<'a> {
    path: &'a [Step],
    found: &'a Cell<Requested>,
}

impl Probe<'_> {
    fn note(self, requested: Requested) -> Error {
        self.found.set(if self.path.is_empty() { requested } else { Requested::Other });
        Error::custom("only the shape is of interest")
    }
}

macro_rules! integers {
    ($($name:ident)*) => {
        $(fn $name<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
            Err(self.note(Requested::Integer))
        })*
    };
}

impl<'de> Deserializer<'de> for Probe<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(self.note(Requested::Other))
    }

    fn deserialize_f32<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(self.note(Requested::Fraction))
    }

    fn deserialize_f64<V: Visitor<'de>>(self, _visitor: V) -> Result<V::Value, Error> {
        Err(self.note(Requested::Fraction))
    }

    integers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match self.path.split_first() {
            Some((Step::Field(name), path)) => {
                visitor.visit_map(Single { name, probe: Some(Probe { path, ..self }) })
            }
            _ => Err(self.note(Requested::Struct(fields))),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.path.split_first() {
            Some((Step::Entry, path)) => {
                visitor.visit_map(Single { name: "name", probe: Some(Probe { path, ..self }) })
            }
            _ => Err(self.note(Requested::Map)),
        }
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.path.split_first() {
            Some((Step::Item, path)) => {
                visitor.visit_seq(Single { name: "", probe: Some(Probe { path, ..self }) })
            }
            _ => Err(self.note(Requested::List)),
        }
    }

    forward_to_deserialize_any! {
        bool char str string bytes byte_buf unit unit_struct tuple
        tuple_struct enum identifier ignored_any
    }
}

/// A table or list with a single entry, whose value is probed.
struct Single<'a> {
    name: &'static str,
    probe: Option<Probe<'a>>,
}

impl Single<'_> {
    fn value<'de, S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let probe = self.probe.take().ok_or_else(|| Error::custom("there is one entry"))?;
        seed.deserialize(probe)
    }
}

impl<'de> MapAccess<'de> for Single<'_> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let name: StrDeserializer<'_, Error> = self.name.into_deserializer();
        if self.probe.is_some() { seed.deserialize(name).map(Some) } else { Ok(None) }
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        self.value(seed)
    }
}

impl<'de> SeqAccess<'de> for Single<'_> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        self.value(seed).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Default, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Settings {
        rate: f64,
        limit: Option<f64>,
        title: Option<String>,
        nested: Option<Nested>,
        parts: BTreeMap<String, Nested>,
        list: Vec<Nested>,
        choice: Choice,
        value: Option<Value>,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only the shape is of interest")]
    struct Nested {
        rank: u64,
        #[serde(rename = "share-of")]
        share: f64,
    }

    #[derive(Default, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Choice {
        #[default]
        One,
    }

    #[derive(Deserialize)]
    #[serde(untagged)]
    #[expect(dead_code, reason = "only the shape is of interest")]
    enum Value {
        Number(f64),
        Text(String),
    }

    #[test]
    fn every_level_is_found_with_optional_fields() {
        let nested =
            || Shape::Struct(BTreeMap::from([("rank", Shape::Integer), ("share-of", Shape::Fraction)]));
        let expected = BTreeMap::from([
            ("rate", Shape::Fraction),
            ("limit", Shape::Fraction),
            ("title", Shape::Other),
            ("nested", nested()),
            ("parts", Shape::Map(Box::new(nested()))),
            ("list", Shape::List(Box::new(nested()))),
            ("choice", Shape::Other),
            ("value", Shape::Other),
        ]);
        assert_eq!(Shape::of::<Settings>(), Shape::Struct(expected));
    }

    #[test]
    fn paths_are_followed_to_the_first_unknown_name() {
        let shape = Shape::of::<Settings>();
        assert_eq!(shape.follow(&["parts", "any", "share-of"]), Ok(&Shape::Fraction));
        assert_eq!(shape.follow(&["title", "x"]), Ok(&Shape::Other));
        assert_eq!(shape.follow(&["parts", "any", "rang"]), Err(("rang", vec!["rank", "share-of"])));
    }
}
