//! The commands as a shell script.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
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
    let words: Vec<Vec<u8>> = arguments.iter().map(shell_word).collect();
    let folder = settings.parent().unwrap_or(Path::new("."));
    let (folder, settings, program) =
        (quote(folder.as_os_str()), quote(settings.as_os_str()), quote(program.as_os_str()));
    let words = words.join(&b' ');
    let text: [&[u8]; 13] = [
        b"mkdir -p ",
        &folder,
        b" && cat >",
        &settings,
        b" <<'END'\n",
        content.as_bytes(),
        b"END\n",
        variable.as_bytes(),
        b"=$(",
        &program,
        b" ",
        &words,
        b")\n",
    ];
    Ok(text::print_bytes(&text.concat())?)
}

/// Writes an argument for the shell; a variable holds the path of an artifact that an earlier command made.
fn shell_word(word: &Word) -> Vec<u8> {
    let quoted = |text: &OsStr| if text.is_empty() { Vec::new() } else { quote(text) };
    match &word.variable {
        None => quote(&word.text),
        Some(variable) => {
            let name = format!("\"${}\"", variable.name);
            [quoted(&word.text), name.into_bytes(), quoted(&variable.after)].concat()
        }
    }
}

/// Returns the name of a shell variable for the path of a step's artifact; several steps can run one stage.
pub(super) fn variable(stage: &str, number: usize) -> String {
    format!("{}_{}", stage.replace('-', "_").to_uppercase(), number + 1)
}

/// Quotes a word for the shell; its bytes need not be UTF-8.
fn quote(word: &OsStr) -> Vec<u8> {
    let word = word.as_bytes();
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-./=:,+@%".contains(byte);
    if !word.is_empty() && word.iter().all(plain) {
        return word.to_owned();
    }
    let parts: Vec<&[u8]> = word.split(|byte| *byte == b'\'').collect();
    [b"'", parts.join(&b"'\\''"[..]).as_slice(), b"'"].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_around_the_variable() {
        let shell_word = |word: &Word| String::from_utf8(super::shell_word(word)).unwrap();
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

    #[test]
    fn bytes_of_a_path_stay_as_they_are() {
        let word = Word::path("data=", Path::new(OsStr::from_bytes(b"g\xff'\xfe")));
        assert_eq!(super::shell_word(&word), b"'data=g\xff'\\''\xfe'");
    }
}
