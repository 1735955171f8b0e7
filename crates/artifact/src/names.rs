//! Names of stages, slugs and refs.

use crate::error::{Error, Result};
use crate::tree;

/// Checks the name of a stage: `[a-z][a-z0-9-]{0,39}`, not `refs`.
///
/// # Errors
///
/// [`Error::BadName`] for other names.
pub fn check_stage(name: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if name.is_empty()
        || name.len() > 40
        || !name.as_bytes()[0].is_ascii_lowercase()
        || !name.bytes().all(plain)
        || name == "refs"
    {
        let reason = "expected [a-z][a-z0-9-]{0,39}, not `refs`";
        return Err(Error::BadName { name: name.to_owned(), what: "stage name", reason });
    }
    Ok(())
}

/// Checks the readable end of an artifact's name: `[a-z0-9.-]{1,40}`.
///
/// # Errors
///
/// [`Error::BadName`] for other slugs.
pub fn check_slug(slug: &str) -> Result<()> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-');
    if slug.is_empty() || slug.len() > 40 || !slug.bytes().all(plain) {
        let reason = "expected [a-z0-9.-]{1,40}";
        return Err(Error::BadName { name: slug.to_owned(), what: "slug", reason });
    }
    Ok(())
}

/// Checks the name of a ref.
///
/// # Errors
///
/// [`Error::BadName`] for other names.
pub(crate) fn check_ref(name: &str) -> Result<()> {
    let reason = "expected at most 128 letters, digits, `.`, `_` and `-`, not beginning with a dot";
    tree::check_component(name).map_err(|_| Error::BadName {
        name: name.to_owned(),
        what: "ref name",
        reason,
    })
}
