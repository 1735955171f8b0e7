//! Resumable download of one file.
//!
//! Bytes are written to `NAME.part`, which outlives the process. It is renamed to `NAME` after its length and hash have been
//! checked, so `NAME` is always complete, and the next process resumes at the length of `NAME.part`.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use hub::{Client, Entry, Progress, Response, hex, without_query};
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::hub::cache::verify_listed;

type Failed = hub::AttemptError<Error>;

/// Maximum size of a file whose size the hub does not list, in bytes.
const MAX_UNLISTED_BYTES: u64 = 64 << 20;

/// A file that is complete.
pub(super) struct Downloaded {
    pub(super) path: PathBuf,
    /// Whether bytes of an earlier process were used.
    pub(super) resumed: bool,
}

/// Returns the largest size that a file may have whose size the hub does not list, if files of its name have at most `limit` bytes.
pub(super) fn unlisted_bytes(limit: u64) -> u64 {
    limit.min(MAX_UNLISTED_BYTES)
}

/// Downloads `path` of the hub to `target`, unless `target` exists. A file whose size the hub does not list may have up to
/// `limit` bytes.
pub(super) fn file(
    client: &Client<'_>,
    path: &str,
    entry: &Entry,
    limit: u64,
    target: &Path,
) -> Result<Downloaded, Error> {
    if target.is_file() {
        // An earlier process downloaded it, but it may have been damaged since.
        match verify_listed(target, entry) {
            Ok(()) => return Ok(Downloaded { path: target.into(), resumed: true }),
            Err(error @ (Error::Hash { .. } | Error::GitHash { .. })) => {
                tracing::warn!("downloading again: {error}");
                fs_err::remove_file(target)?;
            }
            Err(error) => return Err(error),
        }
    }
    let mut part = PartialFile::open(target, entry, unlisted_bytes(limit))?;
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    client.watch().begin(&name, entry.bytes, part.bytes);
    let url = client.url(path);
    let result = client.retrying(&url, |progress| one_attempt(client, &url, &mut part, progress));
    client.watch().end();
    result?;
    part.finish(target)
}

/// Requests the missing bytes and writes them; succeeds when the file is complete and has the expected hash.
fn one_attempt(
    client: &Client<'_>,
    url: &str,
    part: &mut PartialFile,
    progress: &mut Progress,
) -> Result<(), Failed> {
    let started_at = part.bytes;
    if !part.is_full() {
        let response = client.get::<Error>(url, part.bytes)?;
        if part.expected.sha256.is_none() {
            part.expected.sha256.clone_from(&response.linked_sha256);
        }
        part.accept(&response)?;
        copy_body(client, response, part, progress)?;
    }
    part.check_length()?;
    let Some(wrong) = part.wrong_hash()? else { return Ok(()) };
    part.restart()?;
    part.mismatches += 1;
    if started_at > 0 && part.mismatches == 1 {
        // The bytes of an earlier process may be damaged: download the file again from the start.
        return Err(Failed::retry(format!(
            "`{}` does not match its hash after resuming",
            without_query(url)
        )));
    }
    fs_err::remove_file(&part.path).map_err(Error::from)?;
    let place = without_query(url).into();
    let promised_by = part.expected.promised_by;
    let hint = "the download was discarded; run the same command again, and if it fails again, do not use this source".into();
    let WrongHash { expected, actual, is_git } = wrong;
    Err(Failed::Fatal(if is_git {
        Error::GitHash { place, expected, actual, promised_by, hint }
    } else {
        Error::Hash { place, expected, actual, promised_by, hint }
    }))
}

/// A hash that is not the listed one.
struct WrongHash {
    expected: String,
    actual: String,
    /// Whether it is git's hash rather than SHA-256.
    is_git: bool,
}

fn copy_body(
    client: &Client<'_>,
    response: Response,
    part: &mut PartialFile,
    progress: &mut Progress,
) -> Result<(), Failed> {
    let mut reader = response.reader();
    let mut buffer = vec![0; 1 << 18];
    loop {
        if let Some(signal) = client.watch().stop() {
            return Err(Error::from(hub::Error::Interrupted { signal }).into());
        }
        let bytes = match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(Failed::retry(format!("the connection broke: {error}"))),
        };
        part.append(&buffer[..bytes])?;
        if part.bytes > part.furthest {
            // Only new bytes count as progress; otherwise a server that always starts over would be retried forever.
            progress.received(part.bytes - part.furthest);
            part.furthest = part.bytes;
        }
        client.watch().advance(bytes as u64);
    }
}

/// A file that is not complete yet.
struct PartialFile {
    file: fs_err::File,
    path: PathBuf,
    bytes: u64,
    hasher: Sha256,
    expected: Entry,
    /// Maximum number of bytes if the hub lists none.
    limit: u64,
    /// Largest number of bytes so far, across restarts.
    furthest: u64,
    /// Number of times that the hash was wrong.
    mismatches: u32,
    /// Whether it begins with bytes of an earlier process.
    resumed: bool,
}

impl PartialFile {
    /// Opens the file that an earlier process left, or an empty one.
    ///
    /// Starts over when the expected hash is unknown, because the file on the hub may have changed.
    fn open(target: &Path, entry: &Entry, limit: u64) -> Result<Self, Error> {
        let mut path = target.as_os_str().to_owned();
        path.push(".part");
        let path = PathBuf::from(path);
        let file =
            fs_err::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path)?;
        let mut part = Self {
            file,
            path,
            bytes: 0,
            hasher: Sha256::new(),
            expected: entry.clone(),
            limit,
            furthest: 0,
            mismatches: 0,
            resumed: false,
        };
        let present = part.file.metadata()?.len();
        if entry.sha256.is_none() || entry.bytes.is_some_and(|bytes| present > bytes) {
            part.restart()?;
        } else {
            part.read_back()?;
            part.resumed = part.bytes > 0;
        }
        Ok(part)
    }

    /// Hashes the bytes that are present.
    fn read_back(&mut self) -> Result<(), Error> {
        let mut buffer = vec![0; 1 << 20];
        loop {
            match self.file.read(&mut buffer)? {
                0 => return Ok(()),
                bytes => {
                    self.hasher.update(&buffer[..bytes]);
                    self.bytes += bytes as u64;
                }
            }
        }
    }

    fn restart(&mut self) -> Result<(), Error> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        (self.bytes, self.hasher, self.resumed) = (0, Sha256::new(), false);
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Failed> {
        let after = self.bytes + bytes.len() as u64;
        if self.expected.bytes.is_none() && after > self.limit {
            self.restart()?;
            return Err(Error::from(hub::Error::Refused {
                reason: format!(
                    "the hub lists no size for `{}` and sent more than {} MiB",
                    self.path.with_extension("").display(),
                    self.limit >> 20
                ),
                hint: hub::Refusal::CHECK_ENDPOINT.into(),
            })
            .into());
        }
        if let Some(expected) = self.expected.bytes.filter(|expected| after > *expected) {
            self.restart()?;
            return Err(Failed::retry(format!("the hub sent more than the {expected} bytes that it lists")));
        }
        self.file.write_all(bytes).map_err(Error::from)?;
        self.hasher.update(bytes);
        self.bytes = after;
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.expected.bytes == Some(self.bytes) && self.bytes > 0
    }

    /// Prepares the file for the body of `response`.
    fn accept(&mut self, response: &Response) -> Result<(), Failed> {
        match response.status() {
            200 => self.restart()?, // the whole file, although only a range was requested
            206 => {
                let start = response.header("content-range").and_then(|text| {
                    text.trim().strip_prefix("bytes ")?.split('-').next()?.trim().parse::<u64>().ok()
                });
                if start != Some(self.bytes) {
                    self.restart()?;
                    return Err(Failed::retry("the hub sent another byte range than requested".into()));
                }
            }
            _ => {
                self.restart()?;
                return Err(Failed::retry("the hub does not have the requested byte range".into()));
            }
        }
        Ok(())
    }

    fn check_length(&mut self) -> Result<(), Failed> {
        match self.expected.bytes {
            Some(expected) if expected != self.bytes => {
                let bytes = self.bytes;
                if self.expected.sha256.is_none() {
                    self.restart()?;
                }
                Err(Failed::retry(format!("the connection closed after {bytes} of {expected} bytes")))
            }
            _ => Ok(()),
        }
    }

    /// Compares the complete file with the listed hash, if there is one: SHA-256 of a large file, git's hash of a small one.
    fn wrong_hash(&mut self) -> Result<Option<WrongHash>, Error> {
        let (expected, actual, is_git) = match (&self.expected.sha256, &self.expected.git_oid) {
            (Some(expected), _) => (expected, hex(&self.hasher.clone().finalize()), false),
            (None, Some(expected)) => {
                self.file.seek(SeekFrom::Start(0))?;
                let actual = hub::git_oid(&mut self.file, self.bytes)?;
                self.file.seek(SeekFrom::Start(self.bytes))?;
                (expected, actual, true)
            }
            (None, None) => return Ok(None),
        };
        Ok((actual != *expected).then(|| WrongHash { expected: expected.clone(), actual, is_git }))
    }

    fn finish(self, target: &Path) -> Result<Downloaded, Error> {
        drop(self.file);
        artifact::atomic::move_file(&self.path, target)?;
        Ok(Downloaded { path: target.into(), resumed: self.resumed })
    }
}
