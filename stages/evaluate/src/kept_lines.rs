//! The lines in which answers of an endpoint are kept.

use std::io::{BufRead as _, BufReader};
use std::path::Path;

use fs_err::File;
use serde::{Deserialize, Serialize};

/// One kept answer.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Line {
    /// Index of the row in the split.
    pub(crate) row: usize,
    pub(crate) text: String,
    pub(crate) is_unfinished: bool,
}

/// Returns whether a folder has an answer that an earlier run received.
pub(crate) fn is_any_kept(folder: &Path) -> bool {
    let has_answer = |path: &Path| {
        let first = File::open(path).ok().and_then(|file| BufReader::new(file).lines().next()?.ok());
        first.is_some_and(|line| serde_json::from_str::<Line>(&line).is_ok())
    };
    let files = fs_err::read_dir(folder).into_iter().flatten().flatten();
    files.into_iter().any(|entry| {
        let name = entry.file_name();
        let is_kept = name.to_str().is_some_and(|name| name.starts_with("answers-"));
        is_kept && has_answer(&entry.path())
    })
}
