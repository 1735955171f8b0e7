//! Errors about data, each with its place and a hint.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use failure::{Failure, Kind};

use crate::message::MessageProblem;
use crate::shell::quoted;

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Hint for files that `prepare-data` wrote and that were changed since.
pub(crate) const REMAKE: &str = "make the dataset again with `prepare-data`";

/// Hint for a tokenizer that does not finish.
const ENDLESS: &str = "check the regular expressions in `tokenizer.json`, or divide the text";

/// Stands for the file in the hints of rows, whose reader does not know its name.
pub(crate) const THE_FILE: &str = "{file}";

/// A place in a data file, printed as `file:line` or `file:line:column`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// File as the user named it.
    pub file: PathBuf,
    /// Line, counted from 1.
    pub line: u64,
    /// Column in bytes, counted from 1, if known.
    pub column: Option<u64>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", failure::one_line(&self.file.display().to_string()), self.line)?;
        self.column.map_or(Ok(()), |column| write!(f, ":{column}"))
    }
}

/// Why a row cannot be used. The reader of the file adds its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowProblem {
    /// Line, counted from 1.
    pub line: u64,
    /// Column in bytes, counted from 1, if known.
    pub column: Option<u64>,
    /// The problem. `stats.json` lists the reasons of skipped rows, so their wording is part of a dataset's bytes.
    pub reason: String,
    /// A remedy.
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

    /// Turns the problem into an error that names `file`, also where the hint says [`THE_FILE`].
    pub fn in_file(self, file: &Path) -> Error {
        Error::Row {
            place: Place { file: file.to_owned(), line: self.line, column: self.column },
            reason: self.reason,
            hint: self.hint.replace(THE_FILE, &quoted(file)),
        }
    }
}

/// A problem with a field; the caller adds the line.
pub(crate) struct FieldProblem {
    /// The problem.
    pub(crate) reason: String,
    /// A remedy.
    pub(crate) hint: String,
}

impl FieldProblem {
    pub(crate) fn new(reason: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { reason: reason.into(), hint: hint.into() }
    }
}

/// An error about data files, datasets, tokenizers or chat templates.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A row of a data file cannot be used.
    #[error("{place}: {reason}")]
    Row {
        /// Place of the row.
        place: Place,
        /// The problem.
        reason: String,
        /// A remedy.
        hint: String,
    },
    /// A data file as a whole cannot be used.
    #[error("`{}`: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The problem.
        reason: String,
        /// A remedy.
        hint: String,
    },
    /// A data or tokenizer file cannot be opened or read.
    #[error("{source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Error of the system, which names the file.
        source: io::Error,
    },
    /// A chat template does not parse or refuses a conversation.
    #[error("chat template `{name}` line {line}: {reason}")]
    Template {
        /// File, with the template's name if the file holds several.
        name: String,
        /// Line in the template, counted from 1.
        line: usize,
        /// Message of the template engine or of the template.
        reason: String,
        /// A remedy.
        hint: String,
    },
    /// A message of a chat cannot be used.
    #[error("{reason}")]
    Message {
        /// The problem.
        reason: String,
        /// A remedy.
        hint: String,
    },
    /// The tokenizer cannot be loaded or fails on a text.
    #[error("tokenizer `{}`: {reason}", path.display())]
    Tokenizer {
        /// Folder or file of the tokenizer.
        path: PathBuf,
        /// The problem.
        reason: String,
    },
    /// The tokenizer takes so long for a text that it is given up. The same row may succeed on a faster machine, so it must not be
    /// left out as a bad row.
    #[error("tokenizer `{}`: it does not finish: a text takes more than {seconds} seconds", path.display())]
    EndlessTokenizer {
        /// Folder of the tokenizer.
        path: PathBuf,
        /// The limit.
        seconds: u64,
    },
    /// A token file is truncated or was not written by `prepare-data`.
    #[error("token file `{}`: {reason}", path.display())]
    Tokens {
        /// The file.
        path: PathBuf,
        /// The problem.
        reason: String,
    },
    /// The rows do not provide what the settings ask for.
    #[error("{reason}")]
    Rows {
        /// The problem.
        reason: String,
        /// A remedy.
        hint: String,
    },
    /// The dataset cannot be written.
    #[error("cannot write the dataset")]
    Io(#[from] io::Error),
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Io(error) => Kind::of_io(error),
            _ => Kind::BadInput,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Row { hint, .. }
            | Self::File { hint, .. }
            | Self::Template { hint, .. }
            | Self::Message { hint, .. }
            | Self::Rows { hint, .. } => Some(hint.clone()),
            Self::Unreadable { path, source } => unreadable_hint(path, source),
            Self::Tokenizer { .. } => {
                Some("check the tokenizer folder; `tokenizer.json` must be a Hugging Face tokenizer".into())
            }
            Self::EndlessTokenizer { .. } => Some(ENDLESS.into()),
            Self::Tokens { .. } => Some(REMAKE.into()),
            Self::Io(_) => None,
        }
    }
}

impl From<MessageProblem> for Error {
    fn from(problem: MessageProblem) -> Self {
        Self::Message { reason: problem.reason, hint: problem.hint.to_owned() }
    }
}

/// Returns the hint for a file that cannot be read; none where the system lacks something, for which `failure` has hints.
fn unreadable_hint(path: &Path, error: &io::Error) -> Option<String> {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => Some(format!("check that `{path}` is the right path")),
        io::ErrorKind::PermissionDenied => Some(format!("make the file readable: `chmod u+r '{path}'`")),
        _ if failure::remedy(error).is_some() => None,
        _ => Some(format!("check that `{path}` is a readable file")),
    }
}

impl Error {
    /// Returns an error of a template or tokenizer as an error about the row at `place`.
    #[must_use]
    pub fn at_row(self, place: Place) -> Self {
        match self {
            Self::Template { name, line, reason, hint } => {
                Self::Row { place, reason: format!("chat template `{name}` line {line}: {reason}"), hint }
            }
            Self::Message { reason, hint } => Self::Row { place, reason, hint },
            Self::Tokenizer { path, reason } => Self::Row {
                place,
                reason: format!("tokenizer `{}`: {reason}", path.display()),
                hint: "the tokenizer cannot encode this text: correct the row or use another tokenizer"
                    .into(),
            },
            Self::EndlessTokenizer { .. } => {
                Self::Row { place, reason: self.to_string(), hint: ENDLESS.into() }
            }
            other => other,
        }
    }

    pub(crate) fn tokens(path: &Path, reason: impl Into<String>) -> Self {
        Self::Tokens { path: path.to_owned(), reason: reason.into() }
    }

    pub(crate) fn unreadable(path: &Path) -> impl Fn(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Unreadable { path: path.clone(), source }
    }
}
