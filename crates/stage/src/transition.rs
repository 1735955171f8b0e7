//! TRANSITION: for `select-best`, which still uses `anyhow`.

use failure::{Error, Kind};

/// Blames the input for an error, unless it has a kind already.
#[doc(hidden)]
pub fn bad_input(error: impl Into<anyhow::Error>) -> anyhow::Error {
    let error = Error::from(error.into());
    if error.kind() == Kind::Failed { Error::wrap(Kind::BadInput, error).into() } else { error.into() }
}
