//! Finding the data files: names in the settings, looked up in the given data.

use std::path::{Path, PathBuf};

use dataset::split::SplitName;
use dataset::{Error, Result};

use crate::config::{Config, SplitBy};

/// A data file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataFile {
    /// Path of the file.
    pub path: PathBuf,
    /// Split of its rows, with `split.by = "files"`.
    pub split: Option<SplitName>,
    /// Mixture component of its rows.
    pub component: Option<String>,
}

/// Finds the files that `config` names in `data`; see [`find_files`](crate::find_files).
pub(crate) fn find(data: &[PathBuf], config: &Config) -> Result<Vec<DataFile>> {
    for path in data {
        fs_err::File::open(path).map_err(|source| Error::Unreadable { path: path.clone(), source })?;
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
    if config.split.by != SplitBy::Files {
        for name in config.mixture.values().flat_map(|component| &component.files) {
            let component = config.component_of(name);
            files.push(DataFile { path: find_named(data, name)?, split: None, component });
        }
    }
    files.sort_by(|a, b| a.component.cmp(&b.component));
    if files.is_empty() {
        for path in list(data)? {
            let split = if config.split.by == SplitBy::Files { Some(split_from_name(&path)?) } else { None };
            files.push(DataFile { path, split, component: None });
        }
    }
    if files.is_empty() {
        let places: Vec<String> = data.iter().map(|path| path.display().to_string()).collect();
        return Err(Error::Rows {
            reason: format!("no `.jsonl`, `.json`, `.csv` or `.tsv` file in `{}`", places.join("`, `")),
            hint: "give data files with `--data`, or name files of other endings with the setting `source`"
                .into(),
        });
    }
    Ok(files)
}

fn find_named(data: &[PathBuf], name: &str) -> Result<PathBuf> {
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
        for entry in fs_err::read_dir(path).map_err(unreadable)? {
            let file = entry.map_err(unreadable)?.path();
            let extension = file.extension().and_then(|extension| extension.to_str());
            if matches!(extension, Some("jsonl" | "json" | "csv" | "tsv")) && file.is_file() {
                inside.push(file);
            }
        }
        inside.sort();
        files.append(&mut inside);
    }
    Ok(files)
}

fn split_from_name(path: &Path) -> Result<SplitName> {
    match path.file_stem().and_then(|stem| stem.to_str()) {
        Some("train") => Ok(SplitName::Train),
        Some("valid" | "validation" | "dev") => Ok(SplitName::Validation),
        Some("test") => Ok(SplitName::Test),
        _ => Err(Error::File {
            path: path.to_owned(),
            reason: "the file's name does not say which split it is".into(),
            hint: "name the files of each split with the settings `train`, `validation` and `test`, or choose another \
                   `split.by`"
                .into(),
        }),
    }
}
