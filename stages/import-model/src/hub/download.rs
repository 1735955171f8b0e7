//! One file, in as many pieces as the network makes of it.
//!
//! Bytes go to `NAME.part`, which outlives the process; `NAME` appears by a rename, after length and hash are right.
//! So whatever is called `NAME` is complete, and a next run goes on from the length of `NAME.part`.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use hub::{Client, Entry, Progress, Response, without_query};

use crate::error::Error;
use crate::files::hex;

type Failed = hub::AttemptError<Error>;

/// Downloads `path` of the hub to `target`, unless it is there already.
pub(super) fn file(client: &Client<'_>, path: &str, entry: &Entry, target: &Path) -> Result<PathBuf, Error> {
    if target.is_file() {
        return Ok(target.into());
    }
    let mut part = Part::open(target, entry)?;
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    client.watch().begin(&name, entry.bytes, part.bytes);
    let url = client.url(path);
    let result = client.retrying(&url, |progress| one_attempt(client, &url, &mut part, progress));
    client.watch().end();
    result?;
    part.finish(target)
}

/// Asks for what is still missing and writes it; succeeds when the file is whole and right.
fn one_attempt(
    client: &Client<'_>,
    url: &str,
    part: &mut Part,
    progress: &mut Progress,
) -> Result<(), Failed> {
    let started_at = part.bytes;
    if !part.is_full() {
        let response = client.get::<Error>(url, part.bytes)?;
        if part.expected.sha256.is_none() {
            part.expected.sha256.clone_from(&response.linked_sha256);
        }
        if part.accept(&response)? {
            copy_body(client, response, part, progress)?;
        }
    }
    part.check_length()?;
    let Some(expected) = part.expected.sha256.clone() else { return Ok(()) };
    let actual = hex(&part.hasher.clone().finalize());
    if actual == expected {
        return Ok(());
    }
    part.restart()?;
    part.mismatches += 1;
    if started_at > 0 && part.mismatches == 1 {
        // What was there before may be to blame: once more, from the start.
        return Err(Failed::retry(format!(
            "`{}` does not match its hash after resuming",
            without_query(url)
        )));
    }
    fs_err::remove_file(&part.path).map_err(Error::from)?;
    Err(Failed::Fatal(Error::Hash {
        place: without_query(url).into(),
        expected,
        actual,
        promised_by: part.expected.promised_by,
        hint: "the download was thrown away; try again, and if it stays so, do not use this source".into(),
    }))
}

fn copy_body(
    client: &Client<'_>,
    response: Response,
    part: &mut Part,
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
            part.furthest = part.bytes; // only new ground counts, else a server that starts over keeps us for ever
            progress.made();
        }
        client.watch().advance(bytes as u64);
    }
}

/// A file that is not whole yet.
struct Part {
    file: fs_err::File,
    path: PathBuf,
    bytes: u64,
    hasher: Sha256,
    expected: Entry,
    /// The most bytes there ever were.
    furthest: u64,
    /// How often the hash was wrong.
    mismatches: u32,
}

impl Part {
    /// Opens what an earlier run left, or an empty file.
    ///
    /// Without a hash to check the result there is nothing to go on from: the file might have changed.
    fn open(target: &Path, entry: &Entry) -> Result<Self, Error> {
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
            furthest: 0,
            mismatches: 0,
        };
        let there = part.file.metadata()?.len();
        if entry.sha256.is_none() || entry.bytes.is_some_and(|bytes| there > bytes) {
            part.restart()?;
        } else {
            part.read_back()?;
        }
        Ok(part)
    }

    /// Hashes what is there.
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
        (self.bytes, self.hasher) = (0, Sha256::new());
        Ok(())
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), Failed> {
        let after = self.bytes + bytes.len() as u64;
        if let Some(expected) = self.expected.bytes.filter(|expected| after > *expected) {
            self.restart()?;
            return Err(Failed::retry(format!("the hub sends more than the {expected} bytes it listed")));
        }
        self.file.write_all(bytes).map_err(Error::from)?;
        self.hasher.update(bytes);
        self.bytes = after;
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.expected.bytes == Some(self.bytes) && self.bytes > 0
    }

    /// Decides where the body of `response` belongs; false when there is none to read.
    fn accept(&mut self, response: &Response) -> Result<bool, Failed> {
        match response.status() {
            200 => self.restart()?, // the whole file, whatever we asked for
            206 => {
                let start = response.header("content-range").and_then(|text| {
                    text.trim().strip_prefix("bytes ")?.split('-').next()?.trim().parse::<u64>().ok()
                });
                if start != Some(self.bytes) {
                    self.restart()?;
                    return Err(Failed::retry("the hub sent another range than asked for".into()));
                }
            }
            _ => {
                self.restart()?;
                return Err(Failed::retry("the hub has no such range".into()));
            }
        }
        Ok(true)
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

    fn finish(self, target: &Path) -> Result<PathBuf, Error> {
        self.file.sync_all()?;
        drop(self.file);
        fs_err::rename(&self.path, target)?;
        Ok(target.into())
    }
}
