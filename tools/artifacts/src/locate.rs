//! Finding the artifact that a word on the command line names.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};

use artifact::Key;

use crate::catalog::{Catalog, Entry, read_summary};
use crate::error::{Error, Result};

/// Fewest digits by which a key may be named.
const MIN_DIGITS: usize = 4;

/// Finds an artifact by its folder, a file with its path (as `make` writes), a label, `STAGE/KEY`, the first digits of its key (at least [`MIN_DIGITS`]),
/// or a stage, which means the artifact of that stage that was made or used last.
///
/// # Errors
///
/// Fails unless exactly one artifact has the name.
pub(crate) fn locate(catalog: &Catalog, name: &str) -> Result<PathBuf> {
    let path = Path::new(name);
    if path.join("COMMIT").symlink_metadata().is_ok() {
        return Ok(path.to_owned());
    }
    if let Some(target) = pointer(path) {
        return Ok(target);
    }
    if let Some(target) = catalog.store.read_ref(name)? {
        let found = catalog.store.find(&target.stage, &target.key, "")?;
        return found.ok_or_else(|| missing(catalog, name));
    }
    let matching = matching(catalog, name);
    match matching.as_slice() {
        [one] => Ok(one.path.clone()),
        [] => newest(catalog, name).map(|entry| entry.path.clone()).ok_or_else(|| missing(catalog, name)),
        several => {
            let found = several.iter().map(|entry| entry.name()).collect();
            Err(Error::Ambiguous { name: name.to_owned(), found })
        }
    }
}

/// Returns the artifact whose path is the only line of a file.
fn pointer(path: &Path) -> Option<PathBuf> {
    /// Longer files hold something else.
    const LONGEST: u64 = 8192;
    let mut bytes = files::read(path, LONGEST).ok()?;
    if bytes.ends_with(b"\n") {
        bytes.pop();
    }
    let target = PathBuf::from(OsString::from_vec(bytes));
    target.join("COMMIT").is_file().then_some(target)
}

/// Returns the artifacts whose key begins with the digits in `name`, or in the part after `STAGE/`.
fn matching<'a>(catalog: &'a Catalog, name: &str) -> Vec<&'a Entry> {
    let (stage, rest) = match name.trim_end_matches('/').rsplit_once('/') {
        Some((stage, rest)) => (Some(stage.rsplit('/').next().unwrap_or(stage)), rest),
        None => (None, name),
    };
    let Some(digits) = digits(rest) else { return Vec::new() };
    let of_stage = |entry: &&Entry| stage.is_none_or(|stage| entry.stage == stage);
    let full = |entry: &Entry| read_summary(&entry.path).ok().map(|summary| summary.key);
    let has_key = |entry: &&Entry| begins_with(&entry.key, digits, || full(entry));
    catalog.entries.iter().filter(of_stage).filter(has_key).collect()
}

/// Returns whether a key that begins with `short` begins with `digits`; `full` finds the whole key if these are more.
pub(crate) fn begins_with(short: &str, digits: &str, full: impl FnOnce() -> Option<Key>) -> bool {
    if digits.len() <= short.len() {
        return short.starts_with(digits);
    }
    digits.starts_with(short) && full().is_some_and(|key| key.to_string().starts_with(digits))
}

/// Returns the first digits of a key in `KEY` or `KEY-SLUG`; `None` if they are too few, or no digits.
pub(crate) fn digits(word: &str) -> Option<&str> {
    let digits = word.split('-').next().unwrap_or(word);
    let are_digits = digits.len() >= MIN_DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    are_digits.then_some(digits)
}

fn newest<'a>(catalog: &'a Catalog, stage: &str) -> Option<&'a Entry> {
    catalog.entries.iter().filter(|entry| entry.stage == stage).max_by_key(|entry| entry.last_use)
}

fn missing(catalog: &Catalog, name: &str) -> Error {
    Error::NotFound { name: name.to_owned(), store: catalog.store.root().to_owned() }
}
