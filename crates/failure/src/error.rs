//! The error that carries kind, hint and context to the edge of a program.

use std::error::Error as StdError;
use std::fmt;
use std::io;

use crate::chain::{causes, messages};
use crate::kind::Kind;
use crate::printable::message;
use crate::system;

/// An error that knows its kind and what to do about it.
///
/// `Display` says what is wrong and where; it never contains the hint.
pub trait Failure: StdError {
    /// Returns the kind of failure.
    fn kind(&self) -> Kind {
        Kind::Failed
    }

    /// Returns one thing to do about it.
    fn hint(&self) -> Option<String> {
        None
    }
}

impl Failure for io::Error {
    fn kind(&self) -> Kind {
        Kind::of_io(self)
    }
}

/// Any failure, with the context it collected.
///
/// `?` makes one of every [`Failure`] and reads kind and hint at that moment, so neither is lost on the way up. An I/O error
/// among the causes that means "no space" or "disk failure" takes precedence over the kind.
pub struct Error {
    kind: Kind,
    message: String,
    hint: Option<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Makes an error of any kind from a message.
    pub fn new(kind: Kind, message: impl fmt::Display) -> Self {
        Self { kind, message: message.to_string(), hint: None, source: None }
    }

    /// Makes an error of kind [`Kind::Failed`].
    pub fn failed(message: impl fmt::Display) -> Self {
        Self::new(Kind::Failed, message)
    }

    /// Makes an error about the command line or the settings (exit 2).
    pub fn usage(message: impl fmt::Display) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// Makes an error about the content of an input (exit 65).
    pub fn bad_input(message: impl fmt::Display) -> Self {
        Self::new(Kind::BadInput, message)
    }

    /// Wraps an error of a crate that does not know [`Failure`].
    pub fn wrap(kind: Kind, error: impl StdError + Send + Sync + 'static) -> Self {
        Self::of(kind, None, error)
    }

    fn of(kind: Kind, hint: Option<String>, error: impl StdError + Send + Sync + 'static) -> Self {
        let kind = system::kind(&error).unwrap_or(kind);
        Self { kind, message: String::new(), hint, source: Some(Box::new(error)) }
    }

    /// Returns the error with a hint, which replaces the one it has.
    #[must_use]
    pub fn hinted(mut self, hint: impl fmt::Display) -> Self {
        self.hint = Some(hint.to_string());
        self
    }

    /// Returns the error with `message` around it.
    #[must_use]
    pub fn context(self, message: impl fmt::Display) -> Self {
        Self { kind: self.kind, message: message.to_string(), hint: None, source: Some(Box::new(self)) }
    }

    /// Returns the kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the messages from the outermost to the cause, hints left out.
    pub fn messages(&self) -> Vec<String> {
        messages(self)
    }

    /// Returns the hints, outermost first. Without any, returns the remedy for an operating-system failure, or the default hint of
    /// the kind.
    pub fn hints(&self) -> Vec<String> {
        let own = causes(self).filter_map(|cause| cause.downcast_ref::<Self>()?.hint.clone());
        let mut hints: Vec<String> = own.collect();
        hints.dedup();
        if hints.is_empty() {
            hints.extend(system::remedy(self).or(self.kind.default_hint()).map(str::to_owned));
        }
        hints
    }

    /// Formats the error for a person, without control characters: `error:`, its causes, then `hint:` lines. Further lines of a message are indented.
    pub fn report(&self) -> String {
        let messages = self.messages();
        let leads = std::iter::once("error: ").chain(std::iter::repeat("  caused by: "));
        let mut lines: Vec<String> =
            leads.zip(&messages).map(|(lead, text)| format!("{lead}{}", message(text))).collect();
        lines.extend(self.hints().iter().map(|hint| format!("hint: {}", message(hint))));
        lines.join("\n")
    }
}

impl<E: Failure + Send + Sync + 'static> From<E> for Error {
    fn from(error: E) -> Self {
        Self::of(error.kind(), error.hint(), error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some(source) if self.message.is_empty() => source.fmt(f),
            _ => f.write_str(&self.message),
        }
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.report())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        let source = self.source.as_deref()?;
        Some(source)
    }
}

/// Adds context to results and options.
pub trait Context<T> {
    /// Puts `message` around an error; for an option, makes it the error.
    fn context(self, message: impl fmt::Display) -> Result<T>;

    /// As [`Context::context`], with a message that is only made when needed.
    fn with_context<M: fmt::Display>(self, message: impl FnOnce() -> M) -> Result<T>;

    /// Adds a hint to an error; for an option, there must be a message first, so call it after `context`.
    fn hint(self, hint: impl fmt::Display) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for Result<T, E> {
    fn context(self, message: impl fmt::Display) -> Result<T> {
        self.map_err(|error| error.into().context(message))
    }

    fn with_context<M: fmt::Display>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|error| error.into().context(message()))
    }

    fn hint(self, hint: impl fmt::Display) -> Result<T> {
        self.map_err(|error| error.into().hinted(hint))
    }
}

/// Turns an absent value into an error.
pub trait Required<T> {
    /// Fails with `message` if there is no value.
    fn required(self, message: impl fmt::Display) -> Result<T>;
}

impl<T> Required<T> for Option<T> {
    fn required(self, message: impl fmt::Display) -> Result<T> {
        self.ok_or_else(|| Error::failed(message))
    }
}
