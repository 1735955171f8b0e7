//! What can go wrong with data, each with its place and a remedy.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A place in a data file, printed as `file:line` or `file:line:column`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// File as the user named it.
    pub file: PathBuf,
    /// Line, counted from 1.
    pub line: u64,
    /// Column in bytes, counted from 1, where it is known.
    pub column: Option<u64>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)?;
        self.column.map_or(Ok(()), |column| write!(f, ":{column}"))
    }
}

/// Why one row cannot be used; the file it came from is added where it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowProblem {
    /// Line, counted from 1.
    pub line: u64,
    /// Column in bytes, counted from 1, where it is known.
    pub column: Option<u64>,
    /// What is wrong.
    pub reason: String,
    /// What to do about it.
    pub hint: String,
}

impl RowProblem {
    pub(crate) fn new(line: u64, reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { line, column: None, reason: reason.into(), hint: hint.into() }
    }

    pub(crate) fn at_column(mut self, column: u64) -> Self {
        self.column = Some(column);
        self
    }

    /// Turns the problem into an error that names `file`.
    pub fn in_file(self, file: &Path) -> Error {
        Error::Row {
            place: Place { file: file.to_owned(), line: self.line, column: self.column },
            reason: self.reason,
            hint: self.hint,
        }
    }
}

/// Everything this crate reports.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A row of a data file cannot be used.
    #[error("{place}: {reason}\nhint: {hint}")]
    Row {
        /// Where it is.
        place: Place,
        /// What is wrong.
        reason: String,
        /// What to do about it.
        hint: String,
    },
    /// A data file as a whole cannot be used.
    #[error("`{}`: {reason}\nhint: {hint}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
        /// What to do about it.
        hint: String,
    },
    /// A data or tokenizer file cannot be opened or read.
    #[error("{cause}\nhint: check that `{}` is the right path and that you may read it", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said; it names the file.
        cause: io::Error,
    },
    /// A chat template does not parse, or refuses a conversation.
    #[error("chat template `{name}` line {line}: {reason}\nhint: {hint}")]
    Template {
        /// File, and template name where a file holds several.
        name: String,
        /// Line in the template, counted from 1.
        line: usize,
        /// What the engine or the template itself said.
        reason: String,
        /// What to do about it.
        hint: String,
    },
    /// The tokenizer cannot be loaded or fails on a text.
    #[error("tokenizer `{}`: {reason}", path.display())]
    Tokenizer {
        /// Tokenizer folder or file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A token file is truncated, hostile or not ours.
    #[error("token file `{}`: {reason}\nhint: make the dataset again with `prepare-data`", path.display())]
    Tokens {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The settings ask for something that the rows do not give.
    #[error("{reason}\nhint: {hint}")]
    Rows {
        /// What is wrong.
        reason: String,
        /// What to do about it.
        hint: String,
    },
    /// The output cannot be written.
    #[error("cannot write the dataset")]
    Io(#[from] io::Error),
}

impl Error {
    /// Tells whether the input is at fault, rather than this machine.
    pub fn is_bad_input(&self) -> bool {
        !matches!(self, Self::Io(_))
    }

    /// Puts `place` in front of a template's or tokenizer's complaint about one row.
    #[must_use]
    pub fn at_row(self, place: Place) -> Self {
        match self {
            Self::Template { name, line, reason, hint } => {
                Self::Row { place, reason: format!("chat template `{name}` line {line}: {reason}"), hint }
            }
            Self::Tokenizer { path, reason } => Self::Row {
                place,
                reason: format!("tokenizer `{}`: {reason}", path.display()),
                hint: "check the text of this row against the tokenizer".into(),
            },
            other => other,
        }
    }

    pub(crate) fn tokens(path: &Path, reason: impl Into<String>) -> Self {
        Self::Tokens { path: path.to_owned(), reason: reason.into() }
    }
}
