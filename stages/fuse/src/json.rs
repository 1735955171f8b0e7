//! Reading JSON files of unknown form.

use std::path::Path;

use failure::{Context as _, Error, Kind, Result};
use serde_json::Value;

/// Reads a JSON file that a user or another tool wrote.
pub(crate) fn read_json(path: &Path) -> Result<Value> {
    let bytes = files::read(path, 256 << 20)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::wrap(Kind::BadInput, error))
        .with_context(|| format!("reading `{}`", path.display()))
}
