//! Where the answers to a file of prompts go.

use std::io::{self, BufWriter, Write};
use std::path::Path;

use stage::{Context as _, Result};

/// What the program was doing when stdout could not be written.
pub(crate) const TO_STDOUT: &str = "writing to stdout";

/// A file, a pipe or stdout.
pub(crate) struct Output {
    writer: BufWriter<Box<dyn Write>>,
    /// What is being done when it cannot be written.
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

    /// Writes lines, each as a whole, and hands them on.
    pub(crate) fn write_lines(&mut self, mut lines: impl Iterator<Item = String>) -> Result<()> {
        let write = |line: String| self.writer.write_all((line + "\n").as_bytes());
        let written = lines.try_for_each(write).and_then(|()| self.writer.flush());
        written.context(self.writing)
    }
}
