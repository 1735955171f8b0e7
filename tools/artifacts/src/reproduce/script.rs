//! The commands as a shell script.

use std::ffi::OsStr;
use std::path::Path;

use super::commands::Word;
use crate::error::Result;
use crate::text;

/// First line of the script: it ends with the first command that fails.
pub(super) const BEGINNING: &str = "set -eu\n";

/// Prints one step: `content` is written to the file `settings`, and the path of the artifact is put into a variable.
pub(super) fn print_step(
    program: &Path,
    settings: &Path,
    content: &str,
    variable: &str,
    arguments: &[Word],
) -> Result<()> {
    let words: Vec<String> = arguments.iter().map(shell_word).collect();
    let folder = settings.parent().unwrap_or(Path::new("."));
    let text = format!(
        "mkdir -p {} && cat >{} <<'END'\n{content}END\n{variable}=$({} {})\n",
        quote(&folder.display().to_string()),
        quote(&settings.display().to_string()),
        quote(&program.display().to_string()),
        words.join(" ")
    );
    Ok(text::print(&text)?)
}

/// Writes an argument for the shell; a variable holds the path of an artifact that an earlier command made.
fn shell_word(word: &Word) -> String {
    let quoted = |text: &OsStr| if text.is_empty() { String::new() } else { quote(&text.to_string_lossy()) };
    match &word.variable {
        None => quote(&word.text.to_string_lossy()),
        Some(variable) => {
            format!("{}\"${}\"{}", quoted(&word.text), variable.name, quoted(&variable.after))
        }
    }
}

/// Returns the name of a shell variable for the path of a step's artifact; several steps can run one stage.
pub(super) fn variable(stage: &str, number: usize) -> String {
    format!("{}_{}", stage.replace('-', "_").to_uppercase(), number + 1)
}

/// Quotes a word for the shell.
fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_around_the_variable() {
        assert_eq!(shell_word(&Word::text("--model")), "--model");
        assert_eq!(shell_word(&Word::text("")), "''");
        assert_eq!(shell_word(&Word::path("a=", Path::new("my model"))), "'a=my model'");
        for (before, below, expected) in [
            ("", "", "\"$FUSE_6\""),
            ("fused=", "", "fused=\"$FUSE_6\""),
            ("fused=", "data/model", "fused=\"$FUSE_6\"/data/model"),
            ("", "data/it's", "\"$FUSE_6\"'/data/it'\\''s'"),
        ] {
            assert_eq!(shell_word(&Word::variable(before, "FUSE_6", Path::new(below))), expected);
        }
        assert_eq!(variable("import-model", 0), "IMPORT_MODEL_1");
    }
}
