//! Which training rows belong to which part of a mixture, as written beside the tokens.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, REMAKE, Result};

/// The parts of the training split, whose rows follow one another, with how many rows each has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixtureParts {
    /// Name and rows of each part.
    pub parts: Vec<(String, usize)>,
}

impl MixtureParts {
    fn path(tokens: &Path) -> PathBuf {
        tokens.join("mixture.json")
    }

    /// Writes them into the folder of the token files.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be written.
    pub fn write(&self, tokens: &Path) -> Result<()> {
        let text = serde_json::to_string(self).map_err(std::io::Error::from)?;
        Ok(fs_err::write(Self::path(tokens), text + "\n")?)
    }

    /// Reads them from the folder of the token files of a training split with `rows` rows; none where it has no parts.
    ///
    /// # Errors
    ///
    /// Fails when the file is not as it was written.
    pub fn read(tokens: &Path, rows: usize) -> Result<Option<Self>> {
        let path = Self::path(tokens);
        if !path.exists() {
            return Ok(None);
        }
        let refused = |reason: String| Error::File { path: path.clone(), reason, hint: REMAKE.into() };
        let text = fs_err::read_to_string(&path).map_err(Error::unreadable(&path))?;
        let found: Self = serde_json::from_str(&text).map_err(|error| refused(error.to_string()))?;
        let total = found.parts.iter().try_fold(0usize, |sum, (_, rows)| sum.checked_add(*rows));
        if total != Some(rows) {
            return Err(refused(format!("its parts do not have the {rows} rows of the training split")));
        }
        Ok(Some(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_and_must_cover_the_split() -> Result<()> {
        let folder = tempfile::tempdir()?;
        assert_eq!(MixtureParts::read(folder.path(), 5)?, None);
        let parts = MixtureParts { parts: vec![("b".into(), 3), ("a".into(), 2)] };
        parts.write(folder.path())?;
        assert_eq!(MixtureParts::read(folder.path(), 5)?, Some(parts));
        assert!(MixtureParts::read(folder.path(), 6).unwrap_err().to_string().contains("6 rows"));
        let path = folder.path().join("mixture.json");
        for bad in ["{", "{\"parts\":[[\"a\",-5]]}", "{\"parts\":[],\"more\":1}"] {
            fs_err::write(&path, bad)?;
            assert!(MixtureParts::read(folder.path(), 0).is_err(), "{bad}");
        }
        Ok(())
    }
}
