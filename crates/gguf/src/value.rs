//! Values of metadata entries.

/// Value of a metadata entry.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// An integer of any width and sign.
    Integer(i128),
    /// A float of any width.
    Float(f64),
    /// A truth value.
    Bool(bool),
    /// A text.
    Text(String),
    /// Integers of any width and sign.
    Integers(Vec<i64>),
    /// Floats of any width.
    Floats(Vec<f32>),
    /// Truth values.
    Bools(Vec<bool>),
    /// Texts.
    Texts(Vec<String>),
}

impl Value {
    /// Returns the type of the value, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Integer(_) => "an integer",
            Self::Float(_) => "a float",
            Self::Bool(_) => "a truth value",
            Self::Text(_) => "a text",
            Self::Integers(_) => "a list of integers",
            Self::Floats(_) => "a list of floats",
            Self::Bools(_) => "a list of truth values",
            Self::Texts(_) => "a list of texts",
        }
    }
}

/// Type of a scalar or of the elements of a list, with its number in the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Unsigned(usize),
    Signed(usize),
    Float(usize),
    Bool,
    Text,
    List,
}

impl Kind {
    /// Returns the type of a number in the format.
    pub(crate) fn of(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Unsigned(1),
            1 => Self::Signed(1),
            2 => Self::Unsigned(2),
            3 => Self::Signed(2),
            4 => Self::Unsigned(4),
            5 => Self::Signed(4),
            6 => Self::Float(4),
            7 => Self::Bool,
            8 => Self::Text,
            9 => Self::List,
            10 => Self::Unsigned(8),
            11 => Self::Signed(8),
            12 => Self::Float(8),
            _ => return None,
        })
    }

    /// Returns the smallest number of bytes that a value takes in the file.
    pub(crate) fn least_bytes(self) -> u64 {
        match self {
            Self::Unsigned(bytes) | Self::Signed(bytes) | Self::Float(bytes) => bytes as u64,
            Self::Bool => 1,
            Self::Text => 8,
            Self::List => 12,
        }
    }
}
