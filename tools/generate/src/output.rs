//! Destination of the answers to a file of prompts.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use stage::{Context as _, Result, TO_STDOUT};

/// A file, a pipe or stdout.
pub(crate) struct Output {
    writer: BufWriter<Box<dyn Write>>,
    /// Context of an error from writing.
    writing: &'static str,
}

impl Output {
    /// Opens and empties the file, or stdout if there is none.
    pub(crate) fn open(path: Option<&Path>) -> Result<Self> {
        let (writer, writing): (Box<dyn Write>, _) = match path.filter(|path| !stage::is_stdout(path)) {
            Some(path) => {
                (Box::new(stage::create_file(path).context("opening the output")?), "writing the answers")
            }
            None => (Box::new(io::stdout()), TO_STDOUT),
        };
        Ok(Self { writer: BufWriter::new(writer), writing })
    }

    /// Writes whole lines and flushes.
    pub(crate) fn write_lines(&mut self, mut lines: impl Iterator<Item = String>) -> Result<()> {
        let write = |line: String| self.writer.write_all((line + "\n").as_bytes());
        let written = lines.try_for_each(write).and_then(|()| self.writer.flush());
        written.context(self.writing)
    }
}
