//! The files to upload: those of an output, with a complete card.

use std::path::Path;

use artifact::{Artifact, Level};
use outputs::{Document as _, Scores};
use tempfile::TempDir;

use crate::card;
use crate::error::Error;
use crate::files::{LocalFile, local_files, unusable};
use crate::part::Part;

/// The card, which the hub shows.
const CARD: &str = "README.md";

/// Files to upload.
#[derive(Debug)]
pub struct Contents {
    /// The files.
    pub files: Vec<LocalFile>,
    /// Folder of a card that was completed; it lives until the files are uploaded.
    _scratch: Option<TempDir>,
}

/// Verifies every byte of the artifact `path` and lists the files of its output `part`. The card is completed: with the scores
/// in `scores`, an artifact of `evaluate`, and adapters of `select-best`, which have no card, get one that names `datasets`.
/// `name` is what the card calls the model.
///
/// # Errors
///
/// Fails if `path` is not an artifact, if it is damaged, if it lacks the output or a card, and if `scores` are those of other
/// models.
pub fn contents(
    path: &Path,
    part: Part,
    datasets: &[String],
    scores: Option<&Path>,
    name: &str,
) -> Result<Contents, Error> {
    let artifact = Artifact::open_with(path, Level::Hash).map_err(Error::Artifact)?;
    let mut files = local_files(&artifact, part)?;
    let old = files.iter().position(|file| file.name == CARD);
    let mut text = match old {
        Some(index) => read(&files[index])?,
        None if part == Part::Adapters => card::of_adapters(&files, datasets)?,
        None => {
            let reason = format!("`{}` has no card `{CARD}`", part.output());
            return unusable(path, reason, "give the artifact of `fuse`, which writes the card");
        }
    };
    if let Some(scores) = scores {
        text = scored(&artifact, part, scores, name, &text)?;
    } else if old.is_some() {
        return Ok(Contents { files, _scratch: None });
    }
    let scratch = tempfile::tempdir()?;
    let card = LocalFile::write(scratch.path(), CARD, &text)?;
    match old {
        Some(index) => files[index] = card,
        None => files.push(card),
    }
    Ok(Contents { files, _scratch: Some(scratch) })
}

fn read(file: &LocalFile) -> Result<String, Error> {
    String::from_utf8(file.read()?).or_else(|_| {
        let hint = "run `fuse` again, which writes the card";
        unusable(&file.path, "is not valid UTF-8".to_owned(), hint)
    })
}

/// Returns the card with the scores of an output in the artifact `path` of `evaluate`.
fn scored(artifact: &Artifact, part: Part, path: &Path, name: &str, text: &str) -> Result<String, Error> {
    let evaluated = Artifact::open_with(path, Level::Hash).map_err(Error::Artifact)?;
    let manifest = evaluated.manifest();
    if !manifest.outputs.contains_key(outputs::SCORES) {
        let reason = format!("an artifact of `{}` without scores", manifest.stage);
        return unusable(path, reason, "give the artifact of `evaluate`");
    }
    let output = part.scored_output();
    let tree = artifact.manifest().outputs.get(output).map(|output| output.tree);
    let same = manifest.inputs.iter().find(|(_, record)| Some(record.tree) == tree);
    // Roles are `model_INDEX_NAME` and `adapters_INDEX_NAME`.
    let Some(subject) = same.and_then(|(role, _)| role.splitn(3, '_').nth(2)) else {
        let reason = format!("has no scores of `{output}` in `{}`", artifact.path().display());
        let hint = "give the artifact of `evaluate` that scored it, or leave out `--scores`";
        return unusable(path, reason, hint);
    };
    let scores = Scores::read(&evaluated.data_dir().join(outputs::SCORES))?;
    Ok(card::with_scores(text, name, subject, &scores))
}
