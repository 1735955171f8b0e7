//! Paths in commands that people copy from hints.

use std::path::Path;

/// Returns the path as one word of a shell.
pub fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', "'\\''"))
}
