//! Which files are read: names in the settings, found in the data that was given.

use std::path::{Path, PathBuf};

use dataset::split::SplitName;
use dataset::{Error, Result};

use crate::config::{Config, SplitBy};

/// A data file and the split that its rows go to, if the file decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFile {
    /// The file.
    pub path: PathBuf,
    /// Its split, with `split.by = "files"`.
    pub split: Option<SplitName>,
    /// The part of the mixture that it belongs to.
    pub part: Option<String>,
}

/// Finds the files that `config` names in `data`, a list of files and folders.
///
/// A name is looked up in each folder, and compared with the last part of each file's path. If the settings name no
/// file, all files are taken: the given ones, and those of given folders that end in `.jsonl`, `.json`, `.csv`,
/// `.tsv`; with `split.by = "files"` their names tell the split (`train`, `valid` or `validation`, `test`). The files of
/// a mixture come part by part, in the order of the parts' names.
///
/// # Errors
///
/// Fails when a file is named or given but not there, or none is found.
pub fn find(data: &[PathBuf], config: &Config) -> Result<Vec<DataFile>> {
    for path in data {
        fs_err::metadata(path).map_err(|source| Error::Unreadable { path: path.clone(), source })?;
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
            files.push(DataFile { path: named(data, name)?, split, part: config.part_of(name) });
        }
    }
    if config.split.by != SplitBy::Files {
        for name in config.mixture.values().flat_map(|part| &part.files) {
            files.push(DataFile { path: named(data, name)?, split: None, part: config.part_of(name) });
        }
    }
    files.sort_by(|a, b| a.part.cmp(&b.part));
    if files.is_empty() {
        for path in all(data)? {
            let split = if config.split.by == SplitBy::Files { Some(told_by_name(&path)?) } else { None };
            files.push(DataFile { path, split, part: None });
        }
    }
    if files.is_empty() {
        return Err(Error::Rows {
            reason: "no data file was found".into(),
            hint: "give files with `--data`, or name them with the setting `source`".into(),
        });
    }
    Ok(files)
}

fn named(data: &[PathBuf], name: &str) -> Result<PathBuf> {
    let found = data.iter().find_map(|path| {
        let inside = path.join(name);
        if path.is_dir() {
            inside.is_file().then_some(inside)
        } else {
            path.ends_with(name).then(|| path.clone())
        }
    });
    found.ok_or_else(|| {
        let places: Vec<String> = data.iter().map(|path| path.display().to_string()).collect();
        Error::Rows {
            reason: format!("the settings name the file `{name}`, which is not in `{}`", places.join("`, `")),
            hint: "give its folder with `--data`, or correct the name in the settings".into(),
        }
    })
}

fn all(data: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in data {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let unreadable = |source| Error::Unreadable { path: path.clone(), source };
        let mut inside = Vec::new();
        for entry in fs_err::read_dir(path).map_err(unreadable)? {
            let file = entry.map_err(unreadable)?.path();
            let known = file.extension().and_then(|extension| extension.to_str());
            if matches!(known, Some("jsonl" | "json" | "csv" | "tsv")) && file.is_file() {
                inside.push(file);
            }
        }
        inside.sort();
        files.append(&mut inside);
    }
    Ok(files)
}

fn told_by_name(path: &Path) -> Result<SplitName> {
    match path.file_stem().and_then(|stem| stem.to_str()) {
        Some("train") => Ok(SplitName::Train),
        Some("valid" | "validation" | "dev") => Ok(SplitName::Validation),
        Some("test") => Ok(SplitName::Test),
        _ => Err(Error::File {
            path: path.to_owned(),
            reason: "its name tells no split".into(),
            hint:
                "name files with the settings `train`, `validation` and `test`, or choose another `split.by`"
                    .into(),
        }),
    }
}
