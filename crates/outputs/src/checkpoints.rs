//! `checkpoints`: a folder per step, named by the step in seven digits.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::files::{Error, Result};
use crate::stages::ADAPTERS;

/// Returns the name of the folder of a step: the step with at least seven digits, so that names sort as steps do.
pub fn checkpoint_name(step: u64) -> String {
    format!("{step:07}")
}

/// Returns the folders with the adapters of a training run, by step; `folder` is its output `checkpoints`.
///
/// # Errors
///
/// Fails when the folder cannot be read, or holds something other than folders named after steps.
pub fn checkpoint_adapters(folder: &Path) -> Result<BTreeMap<u64, PathBuf>> {
    let mut found = BTreeMap::new();
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let step = name.parse().ok().filter(|step| checkpoint_name(*step) == name);
        let Some(step) = step.filter(|_| path.is_dir()) else {
            let reason = "it is not a folder named after a step in seven digits".to_owned();
            return Err(Error::Contradiction { path, reason });
        };
        found.insert(step, path.join(ADAPTERS));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_are_listed_by_step() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["0000120", "0000030", "12345678"] {
            fs_err::create_dir(folder.path().join(name)).unwrap();
        }
        let found = checkpoint_adapters(folder.path()).unwrap();
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), [30, 120, 12_345_678]);
        assert_eq!(found[&30], folder.path().join("0000030/adapters"));
    }

    #[test]
    fn other_names_are_refused() {
        for name in ["5", "+0000005", "00000005", "last", "0000005.tmp"] {
            let folder = tempfile::tempdir().unwrap();
            fs_err::create_dir(folder.path().join(name)).unwrap();
            let error = checkpoint_adapters(folder.path()).unwrap_err().to_string();
            assert!(error.contains(name) && error.ends_with("named after a step in seven digits"), "{error}");
        }
        let folder = tempfile::tempdir().unwrap();
        fs_err::write(folder.path().join("0000005"), "").unwrap();
        assert!(checkpoint_adapters(folder.path()).is_err(), "a file is not a checkpoint");
    }
}
