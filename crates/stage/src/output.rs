//! The line on stdout, and the list of files that differ.

use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use artifact::Artifact;
use failure::{Context, Result};
use serde_json::Value;

/// Context of an error from writing to stdout.
pub const TO_STDOUT: &str = "writing to stdout";

/// Prints a path and a line feed to stdout, byte for byte, whether or not the path is UTF-8. Ignores a closed pipe.
///
/// # Errors
///
/// Fails when stdout cannot be written.
pub fn print_path(path: &Path) -> Result<()> {
    print_bytes(&[path.as_os_str().as_bytes(), b"\n"].concat())
}

/// Returns a path as a JSON string.
///
/// JSON holds Unicode only, so bytes that are not UTF-8 become U+FFFD (`Path` itself fails to serialize, and `json!` panics).
/// Scripts that need such a path read what [`print_path`] prints.
pub fn json_path(path: &Path) -> Value {
    path.to_string_lossy().into()
}

/// Prints one line to stdout and ignores a closed pipe.
pub(crate) fn print_line(line: &str) -> Result<()> {
    print_bytes(format!("{line}\n").as_bytes())
}

/// Writes to stdout. Ignores a closed pipe.
pub(crate) fn print_bytes(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context(TO_STDOUT),
    }
}

/// Names the first three files that differ between an artifact and a rejected one.
pub(crate) fn differing_files(kept: &Artifact, rejected: &Path) -> String {
    let Ok(rejected) = Artifact::open_with(rejected, artifact::Level::Size) else { return String::new() };
    let (old, new) = (&kept.manifest().files, &rejected.manifest().files);
    let mut names: Vec<&str> =
        new.iter().filter(|file| !old.contains(file)).map(|file| file.path.as_str()).collect();
    names.extend(old.iter().filter(|file| !new.iter().any(|n| n.path == file.path)).map(|f| f.path.as_str()));
    let more = names.len().saturating_sub(3);
    let shown: Vec<String> = names.iter().take(3).map(|name| format!("`{name}`")).collect();
    let tail = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("different: {}{tail}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn every_path_is_a_json_string() {
        for (path, expected) in [(&b"a/\xca\xbbo"[..], "a/ʻo"), (b"g\xff", "g\u{fffd}"), (b"", "")] {
            assert_eq!(json_path(Path::new(OsStr::from_bytes(path))), expected);
        }
    }
}
