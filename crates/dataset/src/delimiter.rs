//! The character that separates the cells of a table.

/// Delimiters that are looked for, in this order when several fit.
const CANDIDATES: [u8; 4] = *b"\t,;|";

/// Start of the line with which spreadsheets name the delimiter.
const DECLARATION: &[u8] = b"sep=";

/// A delimiter, and the bytes of a line in front of the header that names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delimiter {
    pub(crate) byte: u8,
    /// Number of bytes before the header.
    pub(crate) declaration: usize,
}

/// Finds the delimiter of the table that begins with `start`.
///
/// A line `sep=;` in front of the header decides. Otherwise it is the first of tab, comma, semicolon and bar that divides
/// the header into several cells and every complete row of `start` into as many; without one, the first that divides the
/// header; without any, the comma, since a table may have a single column.
pub(crate) fn find(start: &[u8]) -> Delimiter {
    if let Some(rest) = start.strip_prefix(DECLARATION)
        && let [byte @ (b',' | b';' | b'\t' | b'|'), ending @ ..] = rest
    {
        let newline = [&b"\r\n"[..], b"\n"].into_iter().find(|newline| ending.starts_with(newline));
        if let Some(newline) = newline {
            return Delimiter { byte: *byte, declaration: DECLARATION.len() + 1 + newline.len() };
        }
    }
    let shapes = CANDIDATES.map(|byte| (byte, Cells::count(start, byte)));
    let divides = |(_, cells): &&(u8, Cells)| cells.header > 1;
    let consistent = shapes.iter().filter(divides).find(|(_, cells)| cells.are_equal);
    let found = consistent.or_else(|| shapes.iter().find(divides)).map_or(b',', |(byte, _)| *byte);
    Delimiter { byte: found, declaration: 0 }
}

/// Numbers of cells in the first rows of a table.
struct Cells {
    header: usize,
    /// Whether every complete row has as many cells as the header.
    are_equal: bool,
}

impl Cells {
    fn count(start: &[u8], delimiter: u8) -> Self {
        let (mut header, mut are_equal) = (None, true);
        let (mut cells, mut quoted, mut blank) = (1, false, true);
        for &byte in start {
            match byte {
                b'"' => quoted = !quoted,
                b'\n' if !quoted => {
                    if !blank {
                        are_equal &= *header.get_or_insert(cells) == cells;
                    }
                    (cells, blank) = (1, true);
                    continue;
                }
                _ if byte == delimiter && !quoted => cells += 1,
                _ => {}
            }
            blank &= byte.is_ascii_whitespace();
        }
        // A row that is cut off at the end of `start` is not complete, unless it is the only one.
        Self { header: header.unwrap_or(cells), are_equal }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delimiter(text: &str) -> (char, usize) {
        let Delimiter { byte, declaration } = find(text.as_bytes());
        (char::from(byte), declaration)
    }

    #[test]
    fn the_header_and_the_rows_decide() {
        for (text, expected) in [
            ("prompt,completion\na,b\n", ','),
            ("prompt;completion\na, b;c\n", ';'),
            ("\"a;b\";c\n1;2\n", ';'),
            ("a\tb\n1,5\t2;3\n", '\t'),
            ("a|b\n1|2\n", '|'),
            ("text\nhello, world\n", ','),
            ("text\none; two\n", ','),
            ("a,b;c\n1;2\n", ';'),
            ("a,b;c,d\n1,2;2,3\n", ','),
            ("id;text, long\n1;x\n2;y, z\n", ';'),
            ("a;b\n\"x\ny\";2\n", ';'),
            ("a;b", ';'),
        ] {
            assert_eq!(delimiter(text), (expected, 0), "{text:?}");
        }
    }

    #[test]
    fn a_declared_delimiter_is_used_and_left_out() {
        assert_eq!(delimiter("sep=;\r\na;b\r\n"), (';', 7));
        assert_eq!(delimiter("sep=,\na;b\n"), (',', 6));
        assert_eq!(delimiter("sep=x,b\n1,2\n"), (',', 0));
    }
}
