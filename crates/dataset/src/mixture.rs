//! `mixture.json`: the mixture components of the training split, stored beside the tokens.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, REMAKE, Result};

/// The mixture components of the training split. The rows of a component follow one another.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MixtureComponents {
    /// Components in the order of their rows.
    #[serde(rename = "parts")]
    pub components: Vec<MixtureComponent>,
}

/// One component of a mixture; in JSON a list of name and rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(String, usize)", into = "(String, usize)")]
pub struct MixtureComponent {
    /// Name in the settings.
    pub name: String,
    /// Number of training rows.
    pub rows: usize,
}

impl From<(String, usize)> for MixtureComponent {
    fn from((name, rows): (String, usize)) -> Self {
        Self { name, rows }
    }
}

impl From<MixtureComponent> for (String, usize) {
    fn from(component: MixtureComponent) -> Self {
        (component.name, component.rows)
    }
}

impl MixtureComponents {
    fn path(tokens: &Path) -> PathBuf {
        tokens.join("mixture.json")
    }

    /// Writes the components to the folder of the token files.
    ///
    /// # Errors
    ///
    /// Fails when the file cannot be written.
    pub fn write(&self, tokens: &Path) -> Result<()> {
        let text = serde_json::to_string(self).map_err(std::io::Error::from)?;
        Ok(fs_err::write(Self::path(tokens), text + "\n")?)
    }

    /// Reads the components from the folder of the token files; `None` if the dataset is not a mixture.
    ///
    /// # Errors
    ///
    /// Fails when the file is not valid or its rows do not add up to `rows`, the rows of the training split.
    pub fn read(tokens: &Path, rows: usize) -> Result<Option<Self>> {
        let path = Self::path(tokens);
        if !path.exists() {
            return Ok(None);
        }
        let invalid = |reason: String| Error::File { path: path.clone(), reason, hint: REMAKE.into() };
        let text = files::read_text(&path, files::MAX_JSON_BYTES).map_err(Error::unreadable(&path))?;
        let mixture: Self = serde_json::from_str(&text).map_err(|error| invalid(error.to_string()))?;
        let total =
            mixture.components.iter().try_fold(0usize, |sum, component| sum.checked_add(component.rows));
        if total != Some(rows) {
            return Err(invalid(format!(
                "the rows of its mixture components do not add up to the {rows} rows of the training split"
            )));
        }
        Ok(Some(mixture))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_round_trip_and_must_cover_the_split() -> Result<()> {
        let folder = tempfile::tempdir()?;
        assert_eq!(MixtureComponents::read(folder.path(), 5)?, None);
        let components = [("b".to_owned(), 3).into(), ("a".to_owned(), 2).into()].into();
        let mixture = MixtureComponents { components };
        mixture.write(folder.path())?;
        let path = folder.path().join("mixture.json");
        assert_eq!(fs_err::read_to_string(&path)?, "{\"parts\":[[\"b\",3],[\"a\",2]]}\n");
        assert_eq!(MixtureComponents::read(folder.path(), 5)?, Some(mixture));
        assert!(MixtureComponents::read(folder.path(), 6).unwrap_err().to_string().contains("6 rows"));
        for bad in ["{", "{\"parts\":[[\"a\",-5]]}", "{\"parts\":[],\"more\":1}"] {
            fs_err::write(&path, bad)?;
            assert!(MixtureComponents::read(folder.path(), 0).is_err(), "{bad}");
        }
        Ok(())
    }
}
