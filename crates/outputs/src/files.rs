//! Writing and reading: pretty JSON for one value, JSON lines for many.

use std::io::{self, BufRead as _, BufReader, BufWriter, Write as _};
use std::path::{Path, PathBuf};

use failure::{Failure, Kind};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::finite::first_not_finite;

/// Longest document that is read into memory, in bytes.
const MAX_BYTES: u64 = 4 << 30;

/// Why a file that a stage hands over cannot be written or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read or written; the message names it.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The file is not the JSON that its stage writes.
    #[error("`{}`{} is not what `{stage}` writes", path.display(), at_line(*line))]
    Json {
        /// The file.
        path: PathBuf,
        /// The stage that writes such files.
        stage: &'static str,
        /// Line, counted from 1, in a file of JSON lines.
        line: Option<usize>,
        /// Message of the parser, with line and column.
        source: serde_json::Error,
    },
    /// A number that was computed is NaN or infinite; nothing is written.
    #[error("`{place}` in `{}` would be NaN or infinite", path.display())]
    NotFinite {
        /// The file that would hold it.
        path: PathBuf,
        /// Its place, such as `models.base.loss`.
        place: String,
    },
    /// Values in the file contradict each other.
    #[error("`{}`: {reason}", path.display())]
    Contradiction {
        /// The file.
        path: PathBuf,
        /// The contradiction and its place in the file.
        reason: String,
    },
}

impl Failure for Error {
    fn kind(&self) -> Kind {
        match self {
            // A file that is missing in an artifact is the artifact's fault.
            Self::Io(error) if error.kind() == io::ErrorKind::NotFound => Kind::BadInput,
            Self::Io(error) => Kind::of_io(error),
            Self::Json { .. } | Self::NotFinite { .. } | Self::Contradiction { .. } => Kind::BadInput,
        }
    }
}

/// Result with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn at_line(line: Option<usize>) -> String {
    line.map(|line| format!(" line {line}")).unwrap_or_default()
}

fn check_finite<T: Serialize>(value: &T, path: &Path) -> Result<()> {
    match first_not_finite(value) {
        Some(place) => Err(Error::NotFinite { path: path.to_owned(), place }),
        None => Ok(()),
    }
}

/// One JSON value in a file: what one stage writes and others read.
pub trait Document: Serialize + DeserializeOwned {
    /// Name of the file.
    const FILE: &'static str;
    /// Name of the stage that writes it.
    const STAGE: &'static str;

    /// Checks that the values agree with each other.
    ///
    /// # Errors
    ///
    /// Returns the contradiction and its place in the file.
    fn check(&self) -> Result<(), String> {
        Ok(())
    }

    /// Writes the value as indented JSON to its file in `folder`.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be written, and when a number is not finite.
    fn write(&self, folder: &Path) -> Result<()> {
        check_finite(self, &folder.join(Self::FILE))?;
        let text = serde_json::to_string_pretty(self).map_err(io::Error::from)?;
        Ok(fs_err::write(folder.join(Self::FILE), text + "\n")?)
    }

    /// Reads and checks the value in the file `path`.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be read, has another form, or contradicts itself.
    fn read(path: &Path) -> Result<Self> {
        let bytes = ::files::read(path, MAX_BYTES)?;
        let parsed: Self = serde_json::from_slice(&bytes).map_err(|source| Error::Json {
            path: path.to_owned(),
            stage: Self::STAGE,
            line: None,
            source,
        })?;
        parsed.check().map_err(|reason| Error::Contradiction { path: path.to_owned(), reason })?;
        Ok(parsed)
    }

    /// Reads and checks the value in its file in `folder`; `None` if there is no such file.
    ///
    /// # Errors
    ///
    /// As [`Document::read`].
    fn read_if_present(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(Self::FILE);
        path.exists().then(|| Self::read(&path)).transpose()
    }
}

/// One line of a file of JSON lines.
pub trait Line: Serialize + DeserializeOwned {
    /// Name of the file.
    const FILE: &'static str;
    /// Name of the stage that writes it.
    const STAGE: &'static str;

    /// Returns the line with its line feed.
    fn to_line(&self) -> String {
        let mut line = serde_json::to_string(self).expect("names, texts and numbers are always JSON");
        line.push('\n');
        line
    }

    /// Writes all lines to their file in `folder`.
    ///
    /// # Errors
    ///
    /// Returns the error of an item, or fails when the file cannot be written or a number is not finite.
    fn write_all<E: From<Error>>(
        folder: &Path,
        lines: impl IntoIterator<Item = Result<Self, E>>,
    ) -> Result<(), E> {
        let io = |error: io::Error| E::from(error.into());
        let path = folder.join(Self::FILE);
        let mut file = BufWriter::new(fs_err::File::create(&path).map_err(io)?);
        for line in lines {
            let line = line?;
            check_finite(&line, &path)?;
            file.write_all(line.to_line().as_bytes()).map_err(io)?;
        }
        file.flush().map_err(io)
    }

    /// Reads the lines of the file `path`, one at a time; blank lines are skipped.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be opened; each item fails with its line number.
    fn read(path: &Path) -> Result<impl Iterator<Item = Result<Self>>> {
        let path = path.to_owned();
        let lines = (1..).zip(BufReader::new(::files::open(&path)?).lines());
        Ok(lines.filter_map(move |(number, line)| {
            let line = match line {
                Ok(line) if line.trim().is_empty() => return None,
                Ok(line) => line,
                Err(error) => return Some(Err(error.into())),
            };
            let parsed = serde_json::from_str(&line).or_else(|_| {
                // Parsed again below empty lines, so that the error names the line of the file.
                serde_json::from_str(&("\n".repeat(number - 1) + &line))
            });
            Some(parsed.map_err(|source| Error::Json {
                path: path.clone(),
                stage: Self::STAGE,
                line: Some(number),
                source,
            }))
        }))
    }
}
