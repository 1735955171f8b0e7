//! Folders named on the command line, which need not exist.

use std::io::ErrorKind;
use std::path::Path;

use failure::{Error, Result};

/// Creates the folder that `flag` names, with its parents, unless it exists.
///
/// # Errors
///
/// Fails if the path or one of its parents is not a folder (exit 2), and if it cannot be created.
pub fn make_folder(flag: &str, path: &Path) -> Result<()> {
    check(flag, path)?;
    Ok(fs_err::create_dir_all(path)?)
}

/// Fails if the path that `flag` names, or one of its parents, exists and is not a folder (exit 2).
pub(crate) fn check(flag: &str, path: &Path) -> Result<()> {
    let refused = |path: &Path, what: &str| {
        let error = Error::usage(format!("`{}` {what}", path.display()));
        Err(error.hinted(format!("choose another path for `{flag}`")))
    };
    for place in path.ancestors().filter(|place| !place.as_os_str().is_empty()) {
        match fs_err::metadata(place) {
            Ok(found) if found.is_dir() => return Ok(()),
            Ok(_) => return refused(place, "is not a folder"),
            Err(error) if error.kind() == ErrorKind::NotFound && place.is_symlink() => {
                return refused(place, "is a symbolic link to something that does not exist");
            }
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            // Whoever uses the folder says what is wrong, such as a denied access.
            Err(_) => return Ok(()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_links_to_nothing_are_refused_wherever_they_are_in_the_path() {
        let home = tempfile::tempdir().unwrap();
        let path = |name: &str| home.path().join(name);
        fs_err::write(path("file"), "mine").unwrap();
        fs_err::os::unix::fs::symlink(home.path(), path("link")).unwrap();
        fs_err::os::unix::fs::symlink("nothing", path("dangling")).unwrap();
        for name in ["", "new", "new/below", "link", "link/new/below"] {
            check("--out", &path(name)).unwrap();
        }
        check("--out", Path::new("surely-not-there")).unwrap();
        for (name, place) in [("file", "file"), ("file/a/b", "file"), ("link/file/a", "link/file")] {
            let error = check("--store", &path(name)).unwrap_err();
            let expected = format!(
                "error: `{}` is not a folder\nhint: choose another path for `--store`",
                path(place).display()
            );
            assert_eq!((error.report(), error.kind().exit_code()), (expected, 2));
        }
        let error = check("--out", &path("dangling/a")).unwrap_err().to_string();
        assert!(error.ends_with("/dangling` is a symbolic link to something that does not exist"), "{error}");
    }

    #[test]
    fn a_folder_is_made_with_its_parents() {
        let home = tempfile::tempdir().unwrap();
        make_folder("--out", &home.path().join("a/b")).unwrap();
        make_folder("--out", &home.path().join("a/b")).unwrap();
        assert!(home.path().join("a/b").is_dir());
    }
}
