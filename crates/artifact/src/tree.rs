//! The `tree-v1` hash of the files in a folder, which coreutils can check.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use crate::digest::{FileHash, TreeHash, sha256};
use crate::error::{Result, tree_error};
use crate::hashing::hash_files;
use crate::os;

const MAX_FILES: usize = 100_000;
const MAX_DEPTH: usize = 16;
const MAX_PATH: usize = 512;
const MAX_COMPONENT: usize = 128;

/// One file of a tree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct TreeFile {
    /// Path below the root of the tree, with `/` between its components.
    pub path: String,
    /// Length in bytes.
    pub size_bytes: u64,
    /// Hash of its bytes.
    pub sha256: FileHash,
}

/// The files of a folder with their hashes, in byte order of their paths.
///
/// Modes, owners and times are not part of the hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    files: Vec<TreeFile>,
}

impl Tree {
    /// Lists and hashes all files below `dir`.
    ///
    /// # Errors
    ///
    /// Fails on symlinks, special files, empty folders, names outside the grammar and unreadable files.
    pub fn scan(dir: &Path) -> Result<Self> {
        let listed = Self::list(dir)?;
        let jobs: Vec<(PathBuf, u64)> = listed.iter().map(|(path, size)| (dir.join(path), *size)).collect();
        let hashes = hash_files(&jobs)?;
        let files = listed
            .into_iter()
            .zip(hashes)
            .map(|((path, size_bytes), sha256)| TreeFile { path, size_bytes, sha256 })
            .collect();
        Ok(Self { files })
    }

    /// Lists the files below `dir` with their sizes, in byte order of their paths, without reading them.
    ///
    /// # Errors
    ///
    /// As [`Tree::scan`].
    pub fn list(dir: &Path) -> Result<Vec<(String, u64)>> {
        let mut files = Vec::new();
        walk(dir, "", 1, &mut files)?;
        files.sort();
        check_paths(dir, files.iter().map(|(path, _)| path.as_str()))?;
        Ok(files)
    }

    /// Builds a tree from files whose hashes are known.
    ///
    /// # Errors
    ///
    /// Fails when the paths break the grammar or clash; `place` is named in the error.
    pub fn from_files(place: &Path, mut files: Vec<TreeFile>) -> Result<Self> {
        files.sort();
        for file in &files {
            for component in file.path.split('/') {
                check_component(component).map_err(|reason| tree_error(place.join(&file.path), reason))?;
            }
        }
        check_paths(place, files.iter().map(|file| file.path.as_str()))?;
        Ok(Self { files })
    }

    /// Builds a tree from sorted files whose names need not keep the grammar of artifacts.
    pub(crate) fn of_sorted(files: Vec<TreeFile>) -> Self {
        Self { files }
    }

    /// Returns the files in byte order of their paths.
    pub fn files(&self) -> &[TreeFile] {
        &self.files
    }

    /// Returns the text of `SHA256SUMS`, as `sha256sum` prints it.
    pub fn sums(&self) -> String {
        sums(self.files.iter().map(|file| (file.path.as_str(), &file.sha256)))
    }

    /// Returns the hash of the whole tree.
    pub fn hash(&self) -> TreeHash {
        TreeHash(sha256(self.sums().as_bytes()))
    }

    /// Returns the hash of a named output: a top-level folder, or a file directly below the root.
    pub fn output(&self, name: &str) -> Option<TreeHash> {
        let below =
            |path: &'_ str| path.strip_prefix(name).and_then(|rest| rest.strip_prefix('/')).map(str::len);
        let mut lines = self
            .files
            .iter()
            .filter_map(|file| {
                let length = if file.path == name { name.len() } else { below(&file.path)? };
                Some((&file.path[file.path.len() - length..], &file.sha256))
            })
            .peekable();
        lines.peek()?;
        Some(TreeHash(sha256(sums(lines).as_bytes())))
    }

    /// Returns the names of the outputs with number of files and bytes.
    pub fn outputs(&self) -> BTreeMap<String, (u64, u64)> {
        let mut outputs = BTreeMap::new();
        for file in &self.files {
            let name = file.path.split('/').next().unwrap_or(&file.path);
            let (files, bytes): &mut (u64, u64) = outputs.entry(name.to_owned()).or_default();
            *files += 1;
            *bytes = bytes.saturating_add(file.size_bytes);
        }
        outputs
    }
}

fn sums<'a>(lines: impl Iterator<Item = (&'a str, &'a FileHash)>) -> String {
    let mut text = String::new();
    for (path, hash) in lines {
        writeln!(text, "{hash}  {path}").expect("writing to a string succeeds");
    }
    text
}

fn walk(dir: &Path, prefix: &str, depth: usize, files: &mut Vec<(String, u64)>) -> Result<()> {
    if depth > MAX_DEPTH {
        return Err(tree_error(dir, format!("folders are nested deeper than {MAX_DEPTH}")));
    }
    let mut empty = true;
    for entry in os::entries(dir)? {
        empty = false;
        let path = entry.path();
        let name = entry.file_name();
        let name = name.to_str().ok_or_else(|| tree_error(&path, "its name is not UTF-8"))?;
        check_component(name).map_err(|reason| tree_error(&path, reason))?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            walk(&path, &format!("{prefix}{name}/"), depth + 1, files)?;
        } else if kind.is_file() {
            files.push((format!("{prefix}{name}"), entry.metadata()?.len()));
        } else if kind.is_symlink() {
            return Err(tree_error(&path, "it is a symlink"));
        } else {
            return Err(tree_error(&path, "it is neither a file nor a folder"));
        }
        if files.len() > MAX_FILES {
            return Err(tree_error(dir, format!("it contains more than {MAX_FILES} files")));
        }
    }
    if empty {
        return Err(tree_error(dir, "the folder is empty"));
    }
    Ok(())
}

/// Checks one component of a path: `[A-Za-z0-9_][A-Za-z0-9._-]{0,127}`, not ending in a dot.
pub(crate) fn check_component(name: &str) -> Result<(), String> {
    let bytes = name.as_bytes();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    if bytes.is_empty() || bytes.len() > MAX_COMPONENT {
        return Err(format!("the name `{name}` must have 1 to {MAX_COMPONENT} characters"));
    }
    if !plain(&bytes[0]) {
        return Err(format!("the name `{name}` must begin with a letter, a digit or `_`"));
    }
    if !bytes.iter().all(|byte| plain(byte) || matches!(byte, b'.' | b'-')) {
        return Err(format!("the name `{name}` may contain only ASCII letters, digits, `.`, `_` and `-`"));
    }
    if bytes.ends_with(b".") {
        return Err(format!("the name `{name}` must not end in a dot"));
    }
    Ok(())
}

/// Checks all paths together: length, depth, number, and clashes on file systems that ignore case.
fn check_paths<'a>(place: &Path, paths: impl Iterator<Item = &'a str>) -> Result<()> {
    // Lower-cased path of every file and folder → as spelled, and whether it is a file.
    let mut seen: BTreeMap<String, (&str, bool)> = BTreeMap::new();
    let mut count = 0;
    for path in paths {
        count += 1;
        if path.len() > MAX_PATH {
            return Err(tree_error(place.join(path), format!("its path is longer than {MAX_PATH} bytes")));
        }
        let ends = path.match_indices('/').map(|(at, _)| at).chain([path.len()]);
        for (depth, end) in ends.enumerate() {
            if depth >= MAX_DEPTH {
                return Err(tree_error(
                    place.join(path),
                    format!("folders are nested deeper than {MAX_DEPTH}"),
                ));
            }
            let (prefix, is_file) = (&path[..end], end == path.len());
            match seen.insert(prefix.to_ascii_lowercase(), (prefix, is_file)) {
                Some((other, other_is_file)) if other != prefix || is_file || other_is_file => {
                    return Err(tree_error(place.join(path), format!("its path clashes with `{other}`")));
                }
                _ => {}
            }
        }
    }
    match count {
        0 => Err(tree_error(place, "it contains no file")),
        1..=MAX_FILES => Ok(()),
        _ => Err(tree_error(place, format!("it contains more than {MAX_FILES} files"))),
    }
}
