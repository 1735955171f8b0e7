//! Finding the data files: names in the settings, looked up in the given data.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use dataset::split::SplitName;
use dataset::{Error, Result};

use crate::config::{Config, SplitBy, SplitConfig};

/// A data file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFile {
    /// Path of the file.
    pub path: PathBuf,
    /// Split of its rows, if files decide.
    pub split: Option<SplitName>,
    /// Mixture component of its rows.
    pub component: Option<String>,
}

/// Finds the files that `config` names in `data`; see [`find_files`](crate::find_files).
pub(crate) fn find(data: &[PathBuf], config: &Config) -> Result<Vec<DataFile>> {
    for path in data {
        let opened = if path.is_dir() { fs_err::File::open(path) } else { ::files::open(path) };
        opened.map_err(|source| Error::Unreadable { path: path.clone(), source })?;
    }
    let lists = [
        (&config.source, None),
        (&config.train, Some(SplitName::Train)),
        (&config.validation, Some(SplitName::Validation)),
        (&config.test, Some(SplitName::Test)),
    ];
    let mut files = Vec::new();
    for (names, split) in lists {
        for name in names {
            files.push(DataFile {
                path: find_named(data, name)?,
                split,
                component: config.component_of(name),
            });
        }
    }
    if !config.lists_splits() {
        for name in config.mixture.values().flat_map(|component| &component.files) {
            let component = config.component_of(name);
            files.push(DataFile { path: find_named(data, name)?, split: None, component });
        }
    }
    files.sort_by(|a, b| a.component.cmp(&b.component));
    if files.is_empty() {
        files = listed(data, config)?;
    }
    if files.is_empty() {
        return Err(nothing_found(data));
    }
    refuse_twice(&files)?;
    Ok(files)
}

/// Fails if a file would be read twice.
fn refuse_twice(files: &[DataFile]) -> Result<()> {
    let mut seen = BTreeSet::new();
    match files.iter().find(|file| !seen.insert(identity(&file.path))) {
        None => Ok(()),
        Some(file) => Err(Error::File {
            path: file.path.clone(),
            reason: "the file is named twice, so its rows would be read twice".into(),
            hint: "name it once, in the settings or with `--data`".into(),
        }),
    }
}

/// Returns the path that is the same for all names of a file.
fn identity(path: &Path) -> PathBuf {
    fs_err::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

/// Returns all data files in `data`, with their splits if the settings or the names say so.
fn listed(data: &[PathBuf], config: &Config) -> Result<Vec<DataFile>> {
    let paths = list(data)?;
    let splits: Vec<Option<SplitName>> = paths.iter().map(|path| split_from_name(path)).collect();
    let by_file = match config.split.by {
        SplitBy::Files => true,
        SplitBy::Auto => decides(&paths, &splits, config),
        SplitBy::Group | SplitBy::Ratio => false,
    };
    let file = |(path, split): (PathBuf, Option<SplitName>)| {
        if by_file && split.is_none() {
            return Err(unnamed(&path));
        }
        Ok(DataFile { path, split: split.filter(|_| by_file), component: None })
    };
    paths.into_iter().zip(splits).map(file).collect()
}

/// Returns whether the names of the files decide their splits, and says so.
fn decides(paths: &[PathBuf], splits: &[Option<SplitName>], config: &Config) -> bool {
    let count = |wanted: SplitName| splits.iter().filter(|split| **split == Some(wanted)).count();
    let [train, validation, test] = SplitName::ALL.map(count);
    let name = |path: &PathBuf| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let other = splits.iter().position(Option::is_none);
    let problem = match other {
        _ if train + validation + test == 0 => return false,
        Some(other) => format!("some files are named like splits, but `{}` is not", name(&paths[other])),
        None if train == 0 => "the files are named like splits, but none like training".to_owned(),
        None if validation + test == 0 => return false,
        None => String::new(),
    };
    if !problem.is_empty() {
        tracing::warn!(
            "{problem}, so the rows of all files are divided at random; list the files in the settings `train`, \
             `validation` and `test` to keep them apart"
        );
        return false;
    }
    let named: Vec<String> = paths.iter().map(name).collect();
    let unused =
        if config.split == SplitConfig::default() { "" } else { ", and the shares in `split` are not used" };
    tracing::info!(
        "the files are the splits: {}{unused} (split.by = \"ratio\" would divide all rows at random)",
        named.join(", ")
    );
    true
}

/// Returns the error for data without a file that can be read, with what is there instead.
fn nothing_found(data: &[PathBuf]) -> Error {
    let places: Vec<String> = data.iter().map(|path| path.display().to_string()).collect();
    let places = places.join("`, `");
    let inside: Vec<PathBuf> = data.iter().flat_map(|path| entries(path)).collect();
    let other = inside.iter().find_map(|path| Some((path, dataset::needs_conversion(path)?)));
    if let Some((path, hint)) = other {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let reason = format!("no file in `{places}` can be read as it is; it has `{name}`");
        return Error::Rows { reason, hint };
    }
    let is_filled = |path: &&PathBuf| {
        path.is_dir() && list(std::slice::from_ref(*path)).is_ok_and(|files| !files.is_empty())
    };
    let hint = match inside.iter().find(is_filled) {
        Some(folder) => format!("folders inside are not searched: give `--data {}`", dataset::quoted(folder)),
        None => "give data files with `--data`, or name files of other endings with the setting `source`"
            .to_owned(),
    };
    Error::Rows { reason: format!("no `.jsonl`, `.json`, `.csv` or `.tsv` file in `{places}`"), hint }
}

/// Returns the entries of a folder that are not hidden, sorted; none if it cannot be read.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let entries = fs_err::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(|path| !is_hidden(path)).collect();
    paths.sort();
    paths
}

/// Returns whether other programs leave such files behind: hidden files, lock files of office programs and backups.
fn is_hidden(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(['.', '~', '#']) || name.ends_with('~') || name.eq_ignore_ascii_case("thumbs.db")
}

fn find_named(data: &[PathBuf], name: &str) -> Result<PathBuf> {
    let in_place = |path: &PathBuf| {
        let inside = path.join(name);
        if path.is_dir() {
            inside.is_file().then_some(inside)
        } else {
            path.ends_with(name).then(|| path.clone())
        }
    };
    let mut found: Vec<PathBuf> = data.iter().filter_map(in_place).collect();
    let mut seen = BTreeSet::new();
    found.retain(|path| seen.insert(identity(path)));
    let listed = |paths: &[PathBuf]| {
        let paths: Vec<String> = paths.iter().map(|path| path.display().to_string()).collect();
        paths.join("`, `")
    };
    match found.as_slice() {
        [path] => Ok(path.clone()),
        [] => Err(Error::Rows {
            reason: format!("the settings name the file `{name}`, which is not in `{}`", listed(data)),
            hint: "give its folder with `--data`, or correct the name in the settings".into(),
        }),
        several => Err(Error::Rows {
            reason: format!(
                "the settings name the file `{name}`, but there are several: `{}`",
                listed(several)
            ),
            hint: "give only one of them with `--data`, or rename one".into(),
        }),
    }
}

/// Lists the given files and the data files in the given folders.
fn list(data: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in data {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let unreadable = |source| Error::Unreadable { path: path.clone(), source };
        let mut inside = Vec::new();
        let mut passed_over = Vec::new();
        for entry in fs_err::read_dir(path).map_err(unreadable)? {
            let file = entry.map_err(unreadable)?.path();
            let name = || file.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if is_hidden(&file) {
                continue;
            }
            if file.is_dir() {
                if entries(&file).iter().any(|file| is_data(file)) {
                    passed_over.push(format!("{}/", name()));
                }
            } else if is_data(&file) {
                inside.push(file);
            } else if describes_data(&file) || dataset::needs_conversion(&file).is_some() {
                passed_over.push(name());
            }
        }
        passed_over.sort();
        if !inside.is_empty() && !passed_over.is_empty() {
            tracing::warn!("not read in `{}`: {}", path.display(), passed_over.join(", "));
        }
        inside.sort();
        files.append(&mut inside);
    }
    Ok(files)
}

/// Returns whether the path is a file with the name of a data file.
fn is_data(path: &Path) -> bool {
    path.is_file() && has_data_ending(path) && !describes_data(path)
}

/// Returns whether the file's name ends like that of a data file.
fn has_data_ending(path: &Path) -> bool {
    let ending = path.extension().map(|ending| ending.to_string_lossy().to_ascii_lowercase());
    matches!(ending.as_deref(), Some("jsonl" | "ndjson" | "json" | "csv" | "tsv"))
}

/// Returns whether other programs write such a file to describe the data beside it.
fn describes_data(path: &Path) -> bool {
    const NAMES: [&str; 6] = [
        "croissant.json",
        "dataset_dict.json",
        "dataset_info.json",
        "dataset_infos.json",
        "datapackage.json",
        "state.json",
    ];
    path.file_name().is_some_and(|name| NAMES.iter().any(|known| name == *known))
}

/// Returns the split named by a word of the file name: `train.jsonl`, `test_sft-00000-of-00002.jsonl`, `my-val.csv`; `None` if no
/// word or words of different splits occur.
fn split_from_name(path: &Path) -> Option<SplitName> {
    let stem = path.file_stem()?.to_str()?.to_ascii_lowercase();
    let words = stem.split(|letter: char| !letter.is_alphabetic());
    let mut named = words.filter_map(|word| match word {
        "train" | "training" => Some(SplitName::Train),
        "valid" | "validation" | "val" | "dev" | "eval" | "evaluation" => Some(SplitName::Validation),
        "test" | "holdout" | "heldout" => Some(SplitName::Test),
        _ => None,
    });
    let first = named.next()?;
    named.all(|other| other == first).then_some(first)
}

fn unnamed(path: &Path) -> Error {
    Error::File {
        path: path.to_owned(),
        reason: "the file's name does not say which split it is".into(),
        hint: "name the files of each split with the settings `train`, `validation` and `test`, or choose another \
               `split.by`"
            .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_splits_may_have_a_number() {
        let split = |name: &str| split_from_name(Path::new(name));
        for name in [
            "train.jsonl",
            "Train.CSV",
            "train_01.json",
            "train-00000-of-00002.jsonl",
            "training.tsv",
            "my-train.csv",
            "train_sft.jsonl",
        ] {
            assert_eq!(split(name), Some(SplitName::Train), "{name}");
        }
        for name in ["valid.jsonl", "validation.jsonl", "val.csv", "dev.json", "eval.jsonl", "my_eval2.csv"] {
            assert_eq!(split(name), Some(SplitName::Validation), "{name}");
        }
        for name in [
            "test.1.jsonl",
            "test_sft-00000-of-00001.jsonl",
            "my-test.csv",
            "test_set.jsonl",
            "holdout.jsonl",
        ] {
            assert_eq!(split(name), Some(SplitName::Test), "{name}");
        }
        for name in [
            "train_test.jsonl",
            "train-val.jsonl",
            "latest.jsonl",
            "testing.jsonl",
            "rows.jsonl",
            "trainer.csv",
        ] {
            assert_eq!(split(name), None, "{name}");
        }
    }

    #[test]
    fn a_name_with_several_files_and_a_file_with_several_names_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        for name in ["a/x.jsonl", "a/y.jsonl", "b/x.jsonl"] {
            fs_err::create_dir_all(place(name).parent().unwrap()).unwrap();
            fs_err::write(place(name), "{}").unwrap();
        }
        let found = |data: &[&str], settings: &str| {
            let data: Vec<PathBuf> = data.iter().map(|name| place(name)).collect();
            let files = find(&data, &toml::from_str(settings).unwrap()).map_err(|error| error.to_string())?;
            Ok::<usize, String>(files.len())
        };
        let ambiguous = "but there are several";
        for data in [["a", "b"], ["a/x.jsonl", "b/x.jsonl"], ["a", "b/x.jsonl"]] {
            let refused = found(&data, "source = ['x.jsonl']").unwrap_err();
            assert!(refused.contains(ambiguous), "{refused}");
        }
        assert_eq!(found(&["a", "b"], "source = ['y.jsonl']"), Ok(1));
        assert_eq!(found(&["a", "a", "a/x.jsonl"], "source = ['x.jsonl']"), Ok(1));
        for settings in ["source = ['x.jsonl', 'x.jsonl']", "train = ['x.jsonl']\ntest = ['./x.jsonl']"] {
            let refused = found(&["a"], settings).unwrap_err();
            assert!(refused.contains("named twice"), "{refused}");
        }
        assert!(found(&["a", "a/x.jsonl"], "").unwrap_err().contains("named twice"));
        assert_eq!(found(&["a", "b"], ""), Ok(3));
    }

    #[test]
    fn files_that_programs_leave_behind_are_hidden() {
        for name in [
            "._rows.jsonl",
            ".DS_Store",
            "Thumbs.db",
            "~$rows.csv",
            "#rows.jsonl#",
            "rows.jsonl~",
            ".~lock.rows.csv#",
        ] {
            assert!(is_hidden(Path::new(name)), "{name}");
        }
        assert!(!is_hidden(Path::new("rows.jsonl")));
    }
}
