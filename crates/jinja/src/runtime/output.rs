//! Results of a rendering besides its text, and the values that it watches.

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
