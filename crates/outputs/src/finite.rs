//! Looks for NaN and infinity in what is about to be written: JSON writers would turn them into null without a word.

use std::fmt::Display;

use serde::ser::{self, Serialize, Serializer};

/// Returns where `value` holds a number that is not finite, such as `models.base.loss`; `None` if all are.
pub(crate) fn first_not_finite<T: Serialize>(value: &T) -> Option<String> {
    value.serialize(Search).err().map(|found| found.0.join("."))
}

/// A place, from the outside to the inside.
#[derive(Debug, thiserror::Error)]
#[error("not finite")]
struct Found(Vec<String>);

impl Found {
    fn below(mut self, name: impl Display) -> Self {
        self.0.insert(0, name.to_string());
        self
    }
}

impl ser::Error for Found {
    fn custom<T: Display>(reason: T) -> Self {
        Self(vec![reason.to_string()])
    }
}

/// Serializer that writes nothing and fails at the first number that is not finite.
struct Search;

/// The same for the items of lists and maps.
#[derive(Default)]
struct Items {
    count: usize,
    key: String,
}

impl Items {
    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Found> {
        let number = self.count;
        self.count += 1;
        value.serialize(Search).map_err(|found| found.below(number))
    }

    fn field<T: Serialize + ?Sized>(name: &str, value: &T) -> Result<(), Found> {
        value.serialize(Search).map_err(|found| found.below(name))
    }
}

/// Accepts values of these types as they are.
macro_rules! accept {
    ($($name:ident: $kind:ty),*) => {
        $(fn $name(self, _value: $kind) -> Result<(), Found> { Ok(()) })*
    };
}

impl Serializer for Search {
    type Ok = ();
    type Error = Found;
    type SerializeSeq = Items;
    type SerializeTuple = Items;
    type SerializeTupleStruct = Items;
    type SerializeTupleVariant = Items;
    type SerializeMap = Items;
    type SerializeStruct = Items;
    type SerializeStructVariant = Items;

    accept!(
        serialize_bool: bool, serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64,
        serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64, serialize_char: char,
        serialize_str: &str, serialize_bytes: &[u8], serialize_unit_struct: &'static str
    );

    fn serialize_f32(self, number: f32) -> Result<(), Found> {
        self.serialize_f64(f64::from(number))
    }

    fn serialize_f64(self, number: f64) -> Result<(), Found> {
        if number.is_finite() { Ok(()) } else { Err(Found(Vec::new())) }
    }

    fn serialize_none(self) -> Result<(), Found> {
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Found> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Found> {
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, _: &'static str) -> Result<(), Found> {
        Ok(())
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Found> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Found> {
        Items::field(variant, value)
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Items, Found> {
        Ok(Items::default())
    }

    fn serialize_tuple(self, _: usize) -> Result<Items, Found> {
        Ok(Items::default())
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Items, Found> {
        Ok(Items::default())
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Items, Found> {
        Ok(Items::default())
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Items, Found> {
        Ok(Items::default())
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Items, Found> {
        Ok(Items::default())
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Items, Found> {
        Ok(Items::default())
    }
}

/// Implements traits whose items are known by their numbers.
macro_rules! numbered {
    ($($kind:ident: $item:ident),*) => {
        $(impl ser::$kind for Items {
            type Ok = ();
            type Error = Found;

            fn $item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Found> {
                self.item(value)
            }

            fn end(self) -> Result<(), Found> {
                Ok(())
            }
        })*
    };
}

/// Implements traits whose items are known by their names.
macro_rules! named {
    ($($kind:ident),*) => {
        $(impl ser::$kind for Items {
            type Ok = ();
            type Error = Found;

            fn serialize_field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Found> {
                Self::field(name, value)
            }

            fn end(self) -> Result<(), Found> {
                Ok(())
            }
        })*
    };
}

numbered!(
    SerializeSeq: serialize_element, SerializeTuple: serialize_element, SerializeTupleStruct: serialize_field,
    SerializeTupleVariant: serialize_field
);
named!(SerializeStruct, SerializeStructVariant);

impl ser::SerializeMap for Items {
    type Ok = ();
    type Error = Found;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Found> {
        let text = serde_json::to_string(key).unwrap_or_default();
        text.trim_matches('"').clone_into(&mut self.key);
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Found> {
        Self::field(&self.key, value)
    }

    fn end(self) -> Result<(), Found> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{ModelScores, Scores, TrainLine};

    #[test]
    fn numbers_that_are_not_finite_are_found_wherever_they_are() {
        for value in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let scores = |model: ModelScores| {
                let mut scores = Scores::default();
                scores.models.insert("base".to_owned(), model);
                first_not_finite(&scores)
            };
            let optional = ModelScores { loss: Some(value), ..ModelScores::default() };
            assert_eq!(scores(optional).as_deref(), Some("models.base.loss"));
            let text = BTreeMap::from([("bleu".to_owned(), value)]);
            let flattened = ModelScores { text, ..ModelScores::default() };
            assert_eq!(scores(flattened).as_deref(), Some("models.base.bleu"));
            let intervals = BTreeMap::from([("bleu".to_owned(), [0.5, value])]);
            let listed = ModelScores { intervals, ..ModelScores::default() };
            assert_eq!(scores(listed).as_deref(), Some("models.base.intervals.bleu.1"));
            let line = TrainLine { gradient_norm: value as f32, ..TrainLine::default() };
            assert_eq!(first_not_finite(&line).as_deref(), Some("gradient_norm"));
        }
        assert_eq!(first_not_finite(&Scores::default()), None);
    }
}
