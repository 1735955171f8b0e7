//! Errors of templates, with the line they occur on.

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Longest message, in bytes.
const MAX_MESSAGE_BYTES: usize = 2000;

/// Kind of an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The source does not parse.
    Syntax,
    /// The template called `raise_exception`.
    Raised,
    /// A name, attribute, filter or test does not exist.
    Undefined,
    /// The template calls a function that is missing from the context; the message is its name.
    MissingFunction,
    /// An operation does not support its operands.
    Type,
    /// The template works too long or writes too much.
    Limit,
}

/// An error of a template.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct Error {
    /// Line in the template, counted from 1.
    pub line: usize,
    /// Kind of the error.
    pub kind: ErrorKind,
    /// The problem, in the words of Python where it has some.
    pub message: String,
}

impl Error {
    /// Creates an error; the interpreter fills in the line.
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { line: 0, kind, message: shortened(message.into()) }
    }

    pub(crate) fn of_type(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Type, message)
    }

    pub(crate) fn undefined(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Undefined, message)
    }

    pub(crate) fn syntax(line: usize, message: impl Into<String>) -> Self {
        Self { line, kind: ErrorKind::Syntax, message: shortened(message.into()) }
    }

    /// Sets the line unless it is known.
    pub(crate) fn at(mut self, line: usize) -> Self {
        if self.line == 0 {
            self.line = line;
        }
        self
    }
}

/// Cuts a message that quotes too much of a template.
fn shortened(mut message: String) -> String {
    if message.len() > MAX_MESSAGE_BYTES {
        message.truncate(message.floor_char_boundary(MAX_MESSAGE_BYTES));
        message.push('…');
    }
    message
}
