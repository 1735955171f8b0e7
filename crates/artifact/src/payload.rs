//! Checks of data files before they are published.

use std::io::{self, BufRead as _, BufReader, Read as _};
use std::path::Path;

use serde::de::IgnoredAny;

use crate::error::{Error, Refused, Result};
use crate::os;
use crate::tree::Tree;

const BUFFER_BYTES: usize = 1 << 20;

/// Decides whether a data file may be published: returns the reason if it may not.
///
/// The reason completes a sentence about the file, such as "has NaN or infinity in tensor `x`".
pub type FileCheck = fn(&Path) -> io::Result<Option<String>>;

/// Checks every file of a tree with `check_file`, and that `.json` and `.jsonl` files are JSON.
///
/// # Errors
///
/// [`Error::Payload`] names all files that must not be published.
pub(crate) fn check(data: &Path, tree: &Tree, check_file: FileCheck) -> Result<()> {
    let mut refused = Vec::new();
    for file in tree.files() {
        let path = data.join(&file.path);
        let result = match Path::new(&file.path).extension().and_then(|extension| extension.to_str()) {
            Some("json") => check_json(&path),
            Some("jsonl") => check_jsonl(&path),
            _ => Ok(()),
        };
        let result = result.and_then(|()| match check_file(&path)? {
            None => Ok(()),
            Some(reason) => Err(Problem::Content(reason)),
        });
        match result {
            Ok(()) => {}
            Err(Problem::Content(reason)) => refused.push((file.path.clone(), reason)),
            Err(Problem::Io(error)) => return Err(os::named(error, "read", &path).into()),
        }
    }
    if refused.is_empty() { Ok(()) } else { Err(Error::Payload(Refused(refused))) }
}

enum Problem {
    Io(io::Error),
    Content(String),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn check_json(path: &Path) -> Result<(), Problem> {
    let bytes = read(path)?;
    serde_json::from_slice::<IgnoredAny>(&bytes)
        .map(|_| ())
        .map_err(|error| Problem::Content(format!("is not JSON: {error}")))
}

/// Reads line by line, because a file of rows may be larger than memory.
fn check_jsonl(path: &Path) -> Result<(), Problem> {
    let mut file = BufReader::with_capacity(BUFFER_BYTES, os::open_file(path)?);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if file.read_until(b'\n', &mut line)? == 0 {
            break;
        }
        if !line.ends_with(b"\n") {
            return Err(Problem::Content(format!("ends in the middle of line {number}")));
        }
        serde_json::from_slice::<IgnoredAny>(&line)
            .map_err(|error| Problem::Content(format!("is not JSON at line {number}: {error}")))?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    os::open_file(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refused_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::write(dir.path().join("a.json"), "{\"x\":}").unwrap();
        fs_err::write(dir.path().join("b.jsonl"), "{}\n{\"x\"\n").unwrap();
        fs_err::write(dir.path().join("c.jsonl"), "{}\n{}").unwrap();
        fs_err::write(dir.path().join("d.jsonl"), "{}\n").unwrap();
        fs_err::write(dir.path().join("e.bin"), "x").unwrap();
        let tree = Tree::scan(dir.path()).unwrap();
        let error =
            check(dir.path(), &tree, |path| Ok(path.ends_with("e.bin").then(|| "is not welcome".to_owned())))
                .unwrap_err()
                .to_string();
        assert_eq!(
            error,
            "refused to publish: `a.json` is not JSON: expected value at line 1 column 6; \
             `b.jsonl` is not JSON at line 2: EOF while parsing an object at line 2 column 0; \
             `c.jsonl` ends in the middle of line 2; `e.bin` is not welcome"
        );
    }

    #[test]
    fn failing_check_is_an_io_error() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::write(dir.path().join("a"), "x").unwrap();
        let tree = Tree::scan(dir.path()).unwrap();
        let error = check(dir.path(), &tree, |_| Err(io::Error::other("gone"))).unwrap_err();
        assert!(matches!(error, Error::Io(_)), "{error}");
    }
}
