//! Size of a JSON value, measured without storing it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

/// Size of a JSON value, and its value if it is a number.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Extent {
    /// Number of values, including keys and the value itself.
    pub(super) values: usize,
    /// Total length of its texts in bytes.
    pub(super) bytes: usize,
    /// Length of its longest text in bytes.
    pub(super) longest: usize,
    pub(super) number: Option<f64>,
    pub(super) is_list: bool,
}

impl Extent {
    fn number(number: f64) -> Self {
        Self { values: 1, number: Some(number), ..Self::default() }
    }

    /// Adds the size of a nested value.
    pub(super) fn add(&mut self, inner: Self) {
        self.values += inner.values;
        self.bytes += inner.bytes;
        self.longest = self.longest.max(inner.longest);
    }
}

impl<'de> Deserialize<'de> for Extent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ExtentVisitor)
    }
}

struct ExtentVisitor;

impl<'de> Visitor<'de> for ExtentVisitor {
    type Value = Extent;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Extent, E> {
        Ok(Extent { values: 1, ..Extent::default() })
    }

    fn visit_bool<E>(self, _: bool) -> Result<Extent, E> {
        Ok(Extent { values: 1, ..Extent::default() })
    }

    fn visit_i64<E>(self, number: i64) -> Result<Extent, E> {
        Ok(Extent::number(number as f64))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Extent, E> {
        Ok(Extent::number(number as f64))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Extent, E> {
        Ok(Extent::number(number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Extent, E> {
        Ok(Extent { values: 1, bytes: text.len(), longest: text.len(), ..Extent::default() })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Extent, A::Error> {
        let mut list = Extent { values: 1, is_list: true, ..Extent::default() };
        while let Some(item) = items.next_element()? {
            list.add(item);
        }
        Ok(list)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Extent, A::Error> {
        let mut map = Extent { values: 1, ..Extent::default() };
        while let Some((key, value)) = entries.next_entry::<Extent, Extent>()? {
            map.add(key);
            map.add(value);
        }
        Ok(map)
    }
}
