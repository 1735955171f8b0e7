//! Answers of an endpoint as they arrive, kept in the folder for the resume state until the artifact is published.
//!
//! They cost time and money, so a run that fails later must not lose them: the next run of the same key asks only for the others.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use failure::{Context, Result};
use fs_err::File;

use crate::answers::Answer;
use crate::kept_lines::Line;

/// The file with the kept answers of one endpoint.
#[derive(Debug)]
pub(crate) struct KeptAnswers {
    file: File,
}

impl KeptAnswers {
    /// Opens the file of the endpoint `name` in `folder`; also returns the answers in it, by index of the row.
    ///
    /// A line that an interrupted run did not finish is left out.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be read or written.
    pub(crate) fn open(folder: &Path, name: &str) -> Result<(Self, BTreeMap<usize, Answer>)> {
        let path = folder.join(format!("answers-{name}.jsonl"));
        let text = if path.exists() { fs_err::read_to_string(&path)? } else { String::new() };
        let lines = text.lines().map_while(|line| serde_json::from_str::<Line>(line).ok());
        let answers: BTreeMap<usize, Answer> = lines.map(Line::into_answer).collect();
        // Written anew, so that the next line does not continue an unfinished one.
        let mut kept = Self { file: File::create(&path)? };
        for (&row, answer) in &answers {
            kept.push(row, answer)?;
        }
        Ok((kept, answers))
    }

    /// Adds the answer to a row; failures are not kept, so that they are asked for again.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be written.
    pub(crate) fn push(&mut self, row: usize, answer: &Answer) -> Result<()> {
        let Ok(text) = &answer.text else { return Ok(()) };
        let line = Line { row, text: text.clone(), is_unfinished: answer.is_unfinished };
        let line = serde_json::to_string(&line).expect("texts and numbers are always JSON");
        self.file.write_all(format!("{line}\n").as_bytes()).context("keeping an answer")
    }
}

impl Line {
    fn into_answer(self) -> (usize, Answer) {
        (self.row, Answer { text: Ok(self.text), is_unfinished: self.is_unfinished })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kept_lines::is_any_kept;

    #[test]
    fn answers_come_back_without_failures_and_unfinished_lines() -> Result<()> {
        let folder = tempfile::tempdir()?;
        let (mut kept, none) = KeptAnswers::open(folder.path(), "a")?;
        assert!(none.is_empty());
        assert!(!is_any_kept(folder.path()), "an empty file has none");
        let cut_off = Answer { is_unfinished: true, ..Answer::new("Aloha\nkākou") };
        kept.push(3, &cut_off)?;
        kept.push(5, &Answer::failed("no route"))?;
        kept.push(7, &Answer::new("e"))?;
        let path = folder.path().join("answers-a.jsonl");
        let text = fs_err::read_to_string(&path)?;
        fs_err::write(&path, text + "{\"row\":8,\"te")?;
        let expected = BTreeMap::from([(3, cut_off), (7, Answer::new("e"))]);
        for _ in 0..2 {
            assert_eq!(KeptAnswers::open(folder.path(), "a")?.1, expected);
        }
        assert!(KeptAnswers::open(folder.path(), "b")?.1.is_empty());
        assert!(is_any_kept(folder.path()));
        Ok(())
    }
}
