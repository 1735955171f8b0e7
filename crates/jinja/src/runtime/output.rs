//! Results of a rendering besides its text, and the values that it watches.

use std::collections::HashMap;
use std::ops::Range;

use crate::runtime::value::Value;

/// Values that a rendering looks out for, by identity.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// Items of loops whose text is recorded in [`Output::spans`].
    pub items: Vec<Value>,
    /// Values whose printing is recorded in [`Output::printed`].
    pub printed: Vec<Value>,
}

/// Watched values, found by their identity.
pub(crate) struct Watched<'w> {
    pub(crate) values: &'w [Value],
    containers: HashMap<usize, usize>,
    /// Whether values without an address are among them, which are searched one by one.
    has_others: bool,
}

impl<'w> Watched<'w> {
    pub(crate) fn new(values: &'w [Value]) -> Self {
        let mut containers = HashMap::new();
        for (at, value) in values.iter().enumerate() {
            if let Some(address) = value.address() {
                containers.entry(address).or_insert(at);
            }
        }
        let has_others = values.iter().any(|value| value.address().is_none());
        Self { values, containers, has_others }
    }

    /// Returns the work of [`Self::position`] as bytes compared.
    pub(crate) fn search_bytes(&self) -> usize {
        if self.has_others { self.values.len() * 4 } else { 0 }
    }

    /// Returns the number of the watched value that is the same object as `value`.
    pub(crate) fn position(&self, value: &Value) -> Option<usize> {
        match value.address() {
            Some(address) => self.containers.get(&address).copied(),
            None if self.has_others => self.values.iter().position(|watched| watched.is_same(value)),
            None => None,
        }
    }
}

/// A rendered template.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// The text.
    pub text: String,
    /// Text that was written while a loop visited a watched item, in the order of the text.
    pub spans: Vec<Span>,
    /// Byte ranges of `generation` blocks; `None` if the template has none.
    pub generation: Option<Vec<Range<usize>>>,
    /// Watched values that were printed in the notation of a language.
    pub printed: Vec<Printed>,
}

/// Text that a loop wrote while it visited a watched item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Number of the item in [`Watch::items`].
    pub item: usize,
    /// Byte range of the text.
    pub range: Range<usize>,
}

/// A watched value that was printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Printed {
    /// Number of the value in [`Watch::printed`].
    pub value: usize,
    /// The notation it was printed in.
    pub notation: Notation,
    /// Line of the template.
    pub line: usize,
}

/// Notation of a printed value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notation {
    /// A container as Python prints it.
    Python,
    /// Anything as JSON.
    Json,
}
