//! Inputs that are not artifacts: plain files and folders, hashed by content.

use std::path::{Path, PathBuf};

use crate::digest::TreeHash;
use crate::error::{Result, tree_error};
use crate::hashing::hash_through_links;
use crate::memo::Memo;
use crate::os;
use crate::stamp::Witness;
use crate::tree::{Tree, TreeFile};

/// A plain file or folder used as an input.
///
/// Its hash is the `tree-v1` hash of its files. Hidden entries (with a leading dot) are ignored. A single file is a tree of one
/// file with its own name. Unlike in artifacts, any name is allowed: bytes that artifact paths do not allow are written `%XX`
/// for hashing. Symlinks to files are followed, because model caches consist of them; symlinks to folders are refused.
#[derive(Debug, Clone)]
pub struct Bare {
    tree: Tree,
    witness: Witness,
}

impl Bare {
    /// Lists and hashes the file or folder `path`.
    ///
    /// # Errors
    ///
    /// Fails when the path is missing or unreadable, holds no file, or holds anything else than files and folders.
    pub fn scan(path: &Path) -> Result<Self> {
        Self::scan_with(path, &Memo::default())
    }

    /// Lists and hashes as [`Bare::scan`] does, but takes the hashes of unchanged large files from `memo`.
    ///
    /// # Errors
    ///
    /// As [`Bare::scan`].
    pub fn scan_with(path: &Path, memo: &Memo) -> Result<Self> {
        let mut witness = Witness::default();
        let metadata = fs_err::metadata(path)?;
        let found = if metadata.is_dir() {
            let found = list(path)?;
            witness.add_folder(path.to_owned(), places(&found), list_places);
            found
        } else if metadata.is_file() {
            let name = path.file_name().unwrap_or(path.as_os_str());
            vec![(encode(name), path.to_owned())]
        } else {
            return Err(tree_error(path, "it is neither a file nor a folder"));
        };
        if found.is_empty() {
            return Err(tree_error(path, "it contains no file"));
        }
        let size = |place: &PathBuf| Ok((place.clone(), fs_err::metadata(place)?.len()));
        let jobs: Vec<(PathBuf, u64)> = found.iter().map(|(_, place)| size(place)).collect::<Result<_>>()?;
        let mut files = Vec::new();
        for ((name, place), hashed) in found.into_iter().zip(hash_through_links(&jobs, memo)?) {
            files.push(TreeFile { path: name, size_bytes: hashed.stamp.size, sha256: hashed.sha256 });
            witness.add_hashed(place, &hashed);
        }
        Ok(Self { tree: Tree::of_sorted(files), witness })
    }

    /// Returns the files with their hashes.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Returns the hash of all files.
    pub fn hash(&self) -> TreeHash {
        self.tree.hash()
    }

    /// Returns the witness of the files, to notice later changes.
    pub fn witness(&self) -> &Witness {
        &self.witness
    }
}

/// Lists the files below a folder with their encoded names, sorted by these.
fn list(folder: &Path) -> Result<Vec<(String, PathBuf)>> {
    let mut found = Vec::new();
    walk(folder, "", 1, &mut found)?;
    found.sort();
    Ok(found)
}

/// Returns the sorted paths of listed files.
fn places(found: &[(String, PathBuf)]) -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = found.iter().map(|(_, place)| place.clone()).collect();
    places.sort();
    places
}

/// Lists the files below a folder, sorted.
pub(crate) fn list_places(folder: &Path) -> Result<Vec<PathBuf>> {
    Ok(places(&list(folder)?))
}

fn walk(dir: &Path, prefix: &str, depth: usize, found: &mut Vec<(String, PathBuf)>) -> Result<()> {
    if depth > 16 {
        return Err(tree_error(dir, "folders are nested deeper than 16"));
    }
    for entry in os::entries(dir)? {
        let (name, path) = (entry.file_name(), entry.path());
        if name.as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let name = format!("{prefix}{}", encode(&name));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            walk(&path, &format!("{name}/"), depth + 1, found)?;
        } else if kind.is_file() || kind.is_symlink() && fs_err::metadata(&path)?.is_file() {
            found.push((name, path));
        } else if kind.is_symlink() {
            return Err(tree_error(&path, "it is a symlink to something other than a file"));
        } else {
            return Err(tree_error(&path, "it is neither a file nor a folder"));
        }
    }
    Ok(())
}

fn encode(name: &std::ffi::OsStr) -> String {
    use std::fmt::Write as _;
    let mut text = String::new();
    for &byte in name.as_encoded_bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-') {
            text.push(char::from(byte));
        } else {
            write!(text, "%{byte:02X}").expect("writing to a string succeeds");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn plain_folder_hashes_as_an_artifact_would() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::create_dir(dir.path().join("a")).unwrap();
        fs_err::write(dir.path().join("a/b.txt"), "b").unwrap();
        fs_err::write(dir.path().join("c.txt"), "c").unwrap();
        assert_eq!(Bare::scan(dir.path()).unwrap().hash(), Tree::scan(dir.path()).unwrap().hash());
        fs_err::write(dir.path().join(".hidden"), "x").unwrap();
        let with_hidden = Bare::scan(dir.path()).unwrap();
        fs_err::remove_file(dir.path().join(".hidden")).unwrap();
        assert_eq!(with_hidden.hash(), Tree::scan(dir.path()).unwrap().hash());
    }

    #[test]
    fn links_to_files_count_by_content_and_links_to_folders_are_refused() {
        let (real, farm) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs_err::write(real.path().join("blob"), "b").unwrap();
        symlink(real.path().join("blob"), farm.path().join("config.json")).unwrap();
        let linked = Bare::scan(farm.path()).unwrap().hash();
        fs_err::remove_file(farm.path().join("config.json")).unwrap();
        fs_err::write(farm.path().join("config.json"), "b").unwrap();
        assert_eq!(Bare::scan(farm.path()).unwrap().hash(), linked);
        symlink(real.path(), farm.path().join("all")).unwrap();
        assert!(Bare::scan(farm.path()).unwrap_err().to_string().contains("symlink"));
    }

    #[test]
    fn odd_names_have_different_hashes() {
        let dir = tempfile::tempdir().unwrap();
        let hash_of = |name: &str| {
            let path = dir.path().join(name);
            fs_err::write(&path, "x").unwrap();
            Bare::scan(&path).unwrap().hash()
        };
        let names = ["ʻōlelo.txt", "my data.csv", "my%20data.csv", "a\nb", "plain.csv"];
        let hashes: std::collections::BTreeSet<_> = names.iter().map(|name| hash_of(name)).collect();
        assert_eq!(hashes.len(), names.len());
        assert!(Bare::scan(dir.path()).is_ok());
    }

    #[test]
    fn pipe_is_refused_without_waiting() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        assert!(Bare::scan(&pipe).is_err());
        assert!(Bare::scan(dir.path()).is_err());
        assert!(Tree::scan(dir.path()).is_err());
    }

    #[test]
    fn witness_notices_writes_but_not_modes() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs_err::write(&path, "a").unwrap();
        let bare = Bare::scan(&path).unwrap();
        assert_eq!(bare.witness().changed(), None);
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o400)).unwrap();
        assert_eq!(bare.witness().changed(), None);
        fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs_err::write(&path, "b").unwrap();
        assert_eq!(bare.witness().changed(), Some(path.clone()));
        fs_err::remove_file(&path).unwrap();
        assert_eq!(bare.witness().changed(), Some(path));
    }

    #[test]
    fn witness_notices_a_write_that_leaves_no_trace_in_the_times() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        fs_err::write(&path, "a").unwrap();
        let mut bare = Bare::scan(&path).unwrap();
        fs_err::write(&path, "b").unwrap();
        // As if the second write had come within the same tick of the file system's clock.
        bare.witness = Witness::default();
        bare.witness.add(path.clone(), bare.tree.files()[0].sha256).unwrap();
        assert_eq!(bare.witness().changed(), Some(path));
    }

    #[test]
    fn witness_notices_files_that_appear_or_vanish() {
        let dir = tempfile::tempdir().unwrap();
        fs_err::create_dir(dir.path().join("sub")).unwrap();
        for name in ["a", "sub/b"] {
            fs_err::write(dir.path().join(name), name).unwrap();
        }
        let bare = Bare::scan(dir.path()).unwrap();
        fs_err::write(dir.path().join(".hidden"), "x").unwrap();
        assert_eq!(bare.witness().changed(), None);
        let new = dir.path().join("sub/chat_template.jinja");
        fs_err::write(&new, "x").unwrap();
        assert_eq!(bare.witness().changed(), Some(new.clone()));
        fs_err::remove_file(&new).unwrap();
        assert_eq!(bare.witness().changed(), None);
        fs_err::remove_file(dir.path().join("sub/b")).unwrap();
        assert_eq!(bare.witness().changed(), Some(dir.path().join("sub/b")));
    }
}
