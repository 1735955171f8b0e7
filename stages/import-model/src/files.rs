//! Small file helpers: bounded JSON, hashing, copying.

use std::io::Read;
use std::path::Path;

use serde::de::DeserializeOwned;
use sha2::{Digest, Sha256};

use crate::error::{Error, GET_AGAIN};

/// Reads a JSON file of at most `limit` bytes.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path, limit: u64) -> Result<T, Error> {
    let bad = |reason| Error::Json { path: path.into(), reason, hint: GET_AGAIN };
    let bytes = fs_err::metadata(path)?.len();
    if bytes > limit {
        return Err(bad(format!("{bytes} bytes, more than the {limit} that such a file can honestly have")));
    }
    serde_json::from_slice(&fs_err::read(path)?).map_err(|error| bad(format!("not valid JSON: {error}")))
}

/// Returns the SHA-256 of a file as 64 lower-case hex digits.
pub(crate) fn sha256_of(path: &Path) -> Result<String, Error> {
    let mut file = fs_err::File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            bytes => hasher.update(&buffer[..bytes]),
        }
    }
}

/// Returns bytes as lower-case hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]])
        .map(char::from)
        .collect()
}

/// Copies a file, sharing blocks where the file system can; never a hard link, since the source is not ours.
pub(crate) fn copy(from: &Path, to: &Path) -> Result<(), Error> {
    let before = fs_err::metadata(from)?.len();
    let from = fs_err::canonicalize(from)?; // a reflink of a symbolic link would copy the link
    reflink_copy::reflink_or_copy(&from, to).map_err(|error| {
        std::io::Error::new(
            error.kind(),
            format!("copying `{}` to `{}`: {error}", from.display(), to.display()),
        )
    })?;
    let after = fs_err::metadata(to)?.len();
    if before != after {
        let place = from.display().to_string();
        let reason = format!("changed while it was copied, from {before} to {after} bytes");
        return Err(Error::Layout {
            place,
            reason,
            hint: "run again when nothing writes to the folder".into(),
        });
    }
    Ok(())
}

/// Gives one of our own files a second name, so that a run that fails later still has it under the first.
pub(crate) fn link(from: &Path, to: &Path) -> Result<(), Error> {
    match fs_err::hard_link(from, to) {
        Ok(()) => Ok(()),
        Err(_) => copy(from, to), // not every file system has links
    }
}
