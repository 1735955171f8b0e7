//! TRANSITION: what stages that still use `anyhow` need; goes away with the last of them.

use failure::{Error, Kind};

/// Blames the input for an error, unless it has a kind already.
#[doc(hidden)]
pub fn bad_input(error: impl Into<anyhow::Error>) -> anyhow::Error {
    let error = Error::from(error.into());
    if error.kind() == Kind::Failed { Error::wrap(Kind::BadInput, error).into() } else { error.into() }
}

/// Blames the input if any of the causes is one that `blames_input`.
#[doc(hidden)]
pub fn bad_input_if(
    error: anyhow::Error,
    blames_input: fn(&(dyn std::error::Error + 'static)) -> bool,
) -> anyhow::Error {
    if error.chain().any(blames_input) { bad_input(error) } else { error }
}

/// Adds a hint.
#[doc(hidden)]
pub fn hint(error: impl Into<anyhow::Error>, hint: impl std::fmt::Display) -> anyhow::Error {
    Error::from(error.into()).hinted(hint).into()
}

/// Makes an error about the command line or the settings.
#[doc(hidden)]
pub fn usage(message: impl std::fmt::Display) -> anyhow::Error {
    Error::usage(message).into()
}

/// Returns the exit code for an error.
#[doc(hidden)]
pub fn exit_code(error: &anyhow::Error) -> u8 {
    let known = error.chain().find_map(|cause| cause.downcast_ref::<Error>());
    let io = || error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>()).map(Kind::of_io);
    known.map(Error::kind).or_else(io).unwrap_or(Kind::Failed).exit_code()
}

/// Formats an error.
#[doc(hidden)]
pub fn format_error(error: &anyhow::Error) -> String {
    let mut messages: Vec<String> = error.chain().map(ToString::to_string).collect();
    messages.dedup();
    let known = error.chain().find_map(|cause| cause.downcast_ref::<Error>());
    let hints = known.map(Error::hints).unwrap_or_default();
    let hints: Vec<String> = hints.iter().map(|hint| format!("hint: {hint}")).collect();
    format!("error: {}\n{}", messages.join("\n  caused by: "), hints.join("\n"))
}
