//! Paths in commands that people copy from hints.

use std::path::Path;

/// Returns the path as one word of a shell, in one line.
pub fn quoted(path: &Path) -> String {
    let name = path.display().to_string();
    if name.contains('\n') {
        let escaped = name.replace('\\', "\\\\").replace('\'', "\\'").replace('\n', "\\n");
        return format!("$'{escaped}'");
    }
    format!("'{}'", name.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_one_word_in_one_line() {
        assert_eq!(quoted(Path::new("it's $a")), "'it'\\''s $a'");
        assert_eq!(quoted(Path::new("it's\n\\a")), "$'it\\'s\\n\\\\a'");
    }
}
