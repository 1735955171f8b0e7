//! Files that are not rows of text: what they are, and a command that makes them readable.

use std::path::Path;

use crate::error::{Error, Result};
use crate::shell::quoted;

/// A kind of file that is not read, by its first bytes.
struct Foreign {
    magic: &'static [u8],
    reason: &'static str,
    remedy: Remedy,
}

/// Remedy that makes a file readable.
#[derive(Clone, Copy)]
enum Remedy {
    /// A command that writes the content of a compressed file to stdout, and the ending that it adds to names.
    Unpack { command: &'static str, ending: &'static str },
    /// A function of pandas that reads the file.
    Pandas(&'static str),
    /// The name of its encoding.
    Recode(&'static str),
    /// A command that unpacks an archive.
    Archive(&'static str),
    /// Something else, in words.
    Words(&'static str),
}

const FOREIGN: &[Foreign] = &[
    foreign(b"\x1F\x8B", "is gzip-compressed", Remedy::Unpack { command: "gzip -dc", ending: "gz" }),
    foreign(b"\x28\xB5\x2F\xFD", "is zstd-compressed", Remedy::Unpack { command: "zstd -dc", ending: "zst" }),
    foreign(b"BZh", "is bzip2-compressed", Remedy::Unpack { command: "bzip2 -dc", ending: "bz2" }),
    foreign(b"\xFD7zXZ\0", "is xz-compressed", Remedy::Unpack { command: "xz -dc", ending: "xz" }),
    foreign(
        b"PK\x03\x04",
        "is a zip archive or an Excel workbook",
        Remedy::Words("unpack an archive with `unzip`; save a workbook as CSV (UTF-8)"),
    ),
    foreign(b"PAR1", "is a Parquet file, which is not read", Remedy::Pandas("read_parquet")),
    foreign(b"ARROW1", "is an Arrow file, which is not read", Remedy::Pandas("read_feather")),
    foreign(b"\xFF\xFE\0\0", "is UTF-32 text", Remedy::Recode("UTF-32")),
    foreign(b"\0\0\xFE\xFF", "is UTF-32 text", Remedy::Recode("UTF-32")),
    foreign(b"{\0\0\0", "is UTF-32 text", Remedy::Recode("UTF-32LE")),
    foreign(b"[\0\0\0", "is UTF-32 text", Remedy::Recode("UTF-32LE")),
    foreign(b"\0\0\0{", "is UTF-32 text", Remedy::Recode("UTF-32BE")),
    foreign(b"\0\0\0[", "is UTF-32 text", Remedy::Recode("UTF-32BE")),
    foreign(b"\xFF\xFE", "is UTF-16 text", Remedy::Recode("UTF-16")),
    foreign(b"\xFE\xFF", "is UTF-16 text", Remedy::Recode("UTF-16")),
    foreign(b"{\0", "is UTF-16 text", Remedy::Recode("UTF-16LE")),
    foreign(b"[\0", "is UTF-16 text", Remedy::Recode("UTF-16LE")),
    foreign(b"\0{", "is UTF-16 text", Remedy::Recode("UTF-16BE")),
    foreign(b"\0[", "is UTF-16 text", Remedy::Recode("UTF-16BE")),
    foreign(
        b"\0",
        "begins with a NUL byte",
        Remedy::Words("rows are UTF-8 text; check that the file is complete"),
    ),
];

const fn foreign(magic: &'static [u8], reason: &'static str, remedy: Remedy) -> Foreign {
    Foreign { magic, reason, remedy }
}

/// Fails if a file with the first bytes `start` holds no rows of text.
///
/// # Errors
///
/// Names what the file is and how to make it readable.
pub(crate) fn refuse(path: &Path, start: &[u8]) -> Result<()> {
    if tensors::is_lfs_pointer(start) {
        return Err(lfs_pointer(path));
    }
    if let Some(found) = FOREIGN.iter().find(|foreign| start.starts_with(foreign.magic)) {
        return Err(file_error(path, found.reason, &found.remedy.hint(path)));
    }
    if start.contains(&b'\r') && !start.contains(&b'\n') && start.trim_ascii_end().contains(&b'\r') {
        let (file, copy) = (quoted(path), quoted(&renamed(path, "lines")));
        let hint = format!("convert the file with `tr '\\r' '\\n' < {file} > {copy}`");
        return Err(file_error(path, "has lines that end in CR alone", &hint));
    }
    Ok(())
}

/// Returns the error for a Git LFS pointer.
pub(crate) fn lfs_pointer(path: &Path) -> Error {
    file_error(path, &format!("is {}", tensors::LFS_POINTER), &tensors::lfs_hint(path))
}

/// Returns the hint for text that is not UTF-8.
pub(crate) fn recode_hint(path: &Path, encoding: &str) -> String {
    let (file, copy) = (quoted(path), quoted(&renamed(path, "utf8")));
    format!("convert it to UTF-8: `iconv -f {encoding} -t UTF-8 {file} > {copy}`")
}

pub(crate) fn file_error(path: &Path, reason: &str, hint: &str) -> Error {
    Error::File { path: path.to_owned(), reason: reason.to_owned(), hint: hint.to_owned() }
}

/// Returns `name` with its ending, if a data file with that ending needs another program; used to explain a folder.
pub fn needs_conversion(path: &Path) -> Option<String> {
    let ending = path.extension()?.to_str()?.to_ascii_lowercase();
    let remedy = match ending.as_str() {
        "parquet" => Remedy::Pandas("read_parquet"),
        "arrow" | "feather" => Remedy::Pandas("read_feather"),
        _ if is_compressed_tar(path) => Remedy::Archive("tar -xf"),
        "gz" => Remedy::Unpack { command: "gzip -dc", ending: "gz" },
        "zst" => Remedy::Unpack { command: "zstd -dc", ending: "zst" },
        "bz2" => Remedy::Unpack { command: "bzip2 -dc", ending: "bz2" },
        "xz" => Remedy::Unpack { command: "xz -dc", ending: "xz" },
        "zip" => Remedy::Archive("unzip"),
        "tar" | "tgz" => Remedy::Archive("tar -xf"),
        "xlsx" | "xls" | "ods" => Remedy::Words("save the workbook as CSV (UTF-8)"),
        _ => return None,
    };
    Some(remedy.hint(path))
}

impl Remedy {
    fn hint(self, path: &Path) -> String {
        let file = quoted(path);
        match self {
            Self::Unpack { command, ending } => {
                let inner = path.extension().filter(|found| found.eq_ignore_ascii_case(ending));
                let copy = inner.map_or_else(|| renamed(path, "unpacked"), |_| path.with_extension(""));
                format!("decompress it first: `{command} {file} > {}`", quoted(&copy))
            }
            Self::Archive(command) => format!("unpack the archive with `{command} {file}`"),
            Self::Pandas(function) => {
                let copy = path.with_extension("jsonl");
                let copy = if copy == path { renamed(path, "unpacked") } else { copy };
                format!(
                    "export it as JSON lines, for example with pandas: `python3 -c \"import pandas, sys; \
                     pandas.{function}(sys.argv[1]).to_json(sys.argv[2], orient='records', lines=True, force_ascii=False)\" \
                     {file} {}`",
                    quoted(&copy)
                )
            }
            Self::Recode(encoding) => recode_hint(path, encoding),
            Self::Words(words) => words.to_owned(),
        }
    }
}

/// Returns the path with a word before its ending: `rows.jsonl` becomes `rows.WORD.jsonl`.
fn renamed(path: &Path, word: &str) -> std::path::PathBuf {
    match path.extension() {
        Some(ending) => path.with_extension(format!("{word}.{}", ending.to_string_lossy())),
        None => path.with_extension(word),
    }
}

/// Returns whether the name is that of a compressed archive of files, such as `rows.tar.gz`.
fn is_compressed_tar(path: &Path) -> bool {
    path.file_stem().is_some_and(|stem| {
        Path::new(stem).extension().is_some_and(|inner| inner.eq_ignore_ascii_case("tar"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hints_name_the_very_file() {
        let hint = |name: &str| needs_conversion(Path::new(name)).unwrap();
        assert_eq!(
            hint("d/rows.jsonl.gz"),
            "decompress it first: `gzip -dc 'd/rows.jsonl.gz' > 'd/rows.jsonl'`"
        );
        assert_eq!(hint("it's.zst"), "decompress it first: `zstd -dc 'it'\\''s.zst' > 'it'\\''s'`");
        let parquet = hint("a $HOME.PARQUET");
        assert!(parquet.contains("pandas.read_parquet(sys.argv[1]).to_json(sys.argv[2]"), "{parquet}");
        assert!(parquet.ends_with("\" 'a $HOME.PARQUET' 'a $HOME.jsonl'`"), "{parquet}");
        assert_eq!(hint("a.tar.gz"), "unpack the archive with `tar -xf 'a.tar.gz'`");
        assert_eq!(hint("a.zip"), "unpack the archive with `unzip 'a.zip'`");
        let error = refuse(Path::new("rows.jsonl"), b"PAR1").unwrap_err();
        assert!(failure::Error::from(error).report().ends_with("'rows.jsonl' 'rows.unpacked.jsonl'`"));
        assert_eq!(needs_conversion(Path::new("rows.jsonl")), None);
        let error = refuse(Path::new("rows"), b"\x1F\x8B\x08").unwrap_err();
        assert!(failure::Error::from(error).report().contains("`gzip -dc 'rows' > 'rows.unpacked'`"));
    }

    #[test]
    fn a_carriage_return_inside_crlf_or_text_is_no_line_ending() {
        assert!(refuse(Path::new("a"), b"a,b\r\n1,2\r\n").is_ok());
        assert!(refuse(Path::new("a"), b"a,b\r1,2\r").is_err());
    }

    #[test]
    fn utf_32_is_not_called_utf_16() {
        for (start, encoding) in [
            (&b"\xFF\xFE\0\0{\0\0\0"[..], "UTF-32"),
            (b"\0\0\xFE\xFF\0\0\0a", "UTF-32"),
            (b"{\0\0\0\"\0\0\0", "UTF-32LE"),
            (b"\0\0\0[", "UTF-32BE"),
            (b"\xFF\xFE{\0", "UTF-16"),
            (b"{\0\"\0", "UTF-16LE"),
            (b"\0[\0{", "UTF-16BE"),
        ] {
            let error = failure::Error::from(refuse(Path::new("rows"), start).unwrap_err()).report();
            assert!(error.contains(&format!("is {} text", &encoding[..6])), "{error}");
            assert!(error.contains(&format!("`iconv -f {encoding} -t UTF-8 'rows'")), "{error}");
        }
    }
}
