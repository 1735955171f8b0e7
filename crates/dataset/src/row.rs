//! A row of a data file before its fields have a meaning.

use serde_json::{Map, Value};

/// The named fields of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct RawRow {
    /// Line where the row begins, counted from 1.
    pub line: u64,
    /// Fields in the order of the file. Cells of a table are strings, empty cells are null.
    pub fields: Map<String, Value>,
}
