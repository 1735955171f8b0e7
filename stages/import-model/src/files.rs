//! Reading bounded JSON, hashing and copying files.

use std::path::Path;

use artifact::FileHash;
use serde::de::DeserializeOwned;

use crate::error::{Error, GET_AGAIN};

/// Reads a JSON file that later stages read whole, too: of at most [`MAX_JSON_BYTES`](::files::MAX_JSON_BYTES).
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    read_json_up_to(path, ::files::MAX_JSON_BYTES)
}

/// Reads a JSON file of at most `limit` bytes.
pub(crate) fn read_json_up_to<T: DeserializeOwned>(path: &Path, limit: u64) -> Result<T, Error> {
    let malformed = |reason| Error::Json { path: path.into(), reason, hint: GET_AGAIN };
    let bytes = fs_err::metadata(path)?.len();
    if bytes > limit {
        return Err(malformed(too_large(bytes, limit)));
    }
    serde_json::from_slice(&::files::read(path, limit)?)
        .map_err(|error| malformed(format!("not valid JSON: {error}")))
}

/// Returns the message for a file above its limit.
pub(crate) fn too_large(bytes: u64, limit: u64) -> String {
    format!("the file has {bytes} bytes, more than the limit of {limit}")
}

/// Returns the SHA-256 of a file as 64 lower-case hex digits.
pub(crate) fn sha256_of(path: &Path) -> Result<String, Error> {
    Ok(FileHash::of_reader(&mut ::files::open(path)?)?.to_string())
}

/// Copies a file, sharing blocks where the file system can. Never makes a hard link, since the source belongs to the user.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let before = fs_err::metadata(from)?.len();
    let from = fs_err::canonicalize(from)?; // a reflink of a symbolic link would copy the link
    reflink_copy::reflink_or_copy(&from, to).map_err(|source| Error::Copy {
        from: from.clone(),
        to: to.to_owned(),
        source,
    })?;
    let after = fs_err::metadata(to)?.len();
    if before != after {
        return Err(Error::Layout {
            place: from.display().to_string(),
            reason: format!("the file changed during the copy, from {before} to {after} bytes"),
            hint: "run the same command again when no other program writes to the folder".into(),
        });
    }
    Ok(())
}
