//! Data files as people have them: each defect has a defined result with its place, and nothing panics.

#![expect(clippy::unwrap_used, reason = "a failing helper fails its test")]

use std::path::Path;

use dataset::leak::{Check, Settings};
use dataset::{MAX_ROW_BYTES, Record, Result, RowReader, Shape, StoredRow, TextTokenizer, as_messages};
use insta::assert_snapshot;
use outputs::LeakKind;

/// Reads a file: texts of rows and problems with them in the order of the file, or the error that ends the reading.
fn read(bytes: &[u8]) -> std::result::Result<Vec<String>, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("named.txt");
    fs_err::write(&path, bytes).unwrap();
    let without_folder = |text: String| text.replace(&format!("{}/", folder.path().display()), "");
    let report = |error: dataset::Error| without_folder(failure::Error::from(error).report());
    let mut reader = RowReader::open(&path).map_err(report)?;
    let mut rows = Vec::new();
    while let Some(row) = reader.next_row().map_err(report)? {
        let record = row.and_then(|row| Record::from_row(row, &path));
        rows.push(match record.map(|record| record.shape) {
            Ok(Shape::Text(text)) => text,
            Ok(Shape::Completion { prompt, completion }) => format!("{prompt}→{completion}"),
            Ok(Shape::Chat { messages, .. }) => format!("{} messages", messages.len()),
            Err(problem) => without_folder(problem.in_file(&path).to_string()),
        });
    }
    Ok(rows)
}

#[test]
fn the_content_decides_the_format_and_each_row_its_shape() {
    let mixed = "\u{FEFF}{\"text\":\"a\"}\r\n\r\n{\"prompt\":\"b\",\"completion\":\"c\"}\r\n  {\"messages\":[{\"role\":\"user\",\"content\":\"d\"}]}";
    assert_eq!(read(mixed.as_bytes()).unwrap(), ["a", "b→c", "1 messages"]);
    assert_eq!(read("\u{FEFF}prompt,completion\r\n\"x, y\",\"z\"\r\n".as_bytes()).unwrap(), ["x, y→z"]);
    assert_eq!(read(b"id\ttext\n1\thello, you\n").unwrap(), ["hello, you"]);
    assert_eq!(read(b"text\nonly one column\n").unwrap(), ["only one column"]);
}

#[test]
fn bad_rows_have_a_place_and_the_rows_around_them_are_read() {
    let bytes = b"{\"text\":\"a\"}\n{\"text\":\n{\"text\":\"\xFF\"}\n{\"text\":\"\\ud800\"}\n{\"text\":1e400}\n{\"text\":\"a\",\"text\":\"b\"}\n\
        {\"text\":\"a\\u0000\"}\n[1]\n{\"x\":1}\n{\"text\":\"last\"}";
    let expected = [
        "a",
        "named.txt:2:8: not JSON: EOF while parsing a value",
        "named.txt:3:10: not valid UTF-8",
        "named.txt:4:16: not JSON: unexpected end of hex escape",
        "named.txt:5:13: not JSON: number out of range",
        "named.txt:6:18: not JSON: the key `text` is given twice",
        "named.txt:7: `text` holds a NUL character",
        "named.txt:8: the row is not a JSON object",
        "named.txt:9: no known shape; the fields are `x`",
        "last",
    ];
    assert_eq!(read(bytes).unwrap(), expected);
}

#[test]
fn an_integer_that_would_be_rounded_is_refused_at_its_place() {
    let rows = read(b"{\"text\":\"a\",\"id\":100000000000000000000}\n{\"text\":\"b\"}\n").unwrap();
    assert_eq!(rows, ["named.txt:1:18: the integer 100000000000000000000 has more than 64 bits", "b"]);
}

#[test]
fn problems_of_a_table_have_the_line_of_the_file() {
    let declared = read(b"sep=;\nprompt;completion\na;b\nc\n").unwrap();
    assert_eq!(declared, ["a→b", "named.txt:4: 1 cells where the header names 2"]);
    let repeated = read(b"sep=;\na;a\n").unwrap_err();
    assert!(repeated.contains("named.txt:2: column 2") && repeated.contains("line 2 names"), "{repeated}");
    let continued = read(b"text,id\n\"a\nb\"x,1\n").unwrap();
    assert_eq!(continued, ["named.txt:3:3: text after a closing quote"]);
}

#[test]
fn deep_huge_and_carriage_return_lines_are_problems_of_their_line() {
    let deep = format!("{{\"text\":{}\n{{\"text\":\"ok\"}}\n", "[".repeat(10_000));
    let rows = read(deep.as_bytes()).unwrap();
    assert!(rows[0].contains("recursion limit exceeded"), "{}", rows[0]);
    assert_eq!(rows[1], "ok");
    let huge = format!("{{\"text\":\"{}\"}}\n{{\"text\":\"ok\"}}\n", "x".repeat(MAX_ROW_BYTES));
    assert_eq!(read(huge.as_bytes()).unwrap(), ["named.txt:1: the line is longer than 4 MiB", "ok"]);
    let refused = read(b"{\"text\":\"a\"}\r{\"text\":\"b\"}\r").unwrap_err();
    assert!(refused.contains("has lines that end in CR alone"), "{refused}");
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200), cut in 0usize..120) {
        let _ = read(&bytes);
        let mut row = b"{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"prompt\":\"\",\"weight\":\"1\",\"text\":\"x\"}\ntext,\"\n".to_vec();
        row.truncate(cut);
        row.extend(bytes);
        let _ = read(&row);
    }
}

#[test]
fn files_without_usable_rows_say_what_they_are() {
    let files = [
        &b""[..],
        b"\xEF\xBB\xBF \r\n\n",
        b"\x1F\x8B\x08\x00",
        b"\xFF\xFE{\0",
        b"PAR1",
        b"\0\0\0\0",
        b"[{\"text\":\"a\"},",
        b"a,,b\n1,2,3\n",
        b"a,b,a\n1,2,3\n",
        b"\xFF\xFFtext\n",
        b"text\n\"open\n",
    ];
    assert_snapshot!(files.map(|bytes| read(bytes).unwrap_err()).join("\n"), @r#"
    error: `named.txt`: holds no rows
    hint: an input file needs at least one row
    error: `named.txt`: holds no rows
    hint: an input file needs at least one row
    error: `named.txt`: is gzip-compressed
    hint: decompress it first: `gzip -dc 'named.txt' > 'named.unpacked.txt'`
    error: `named.txt`: is UTF-16 text
    hint: convert it to UTF-8: `iconv -f UTF-16 -t UTF-8 'named.txt' > 'named.utf8.txt'`
    error: `named.txt`: is a Parquet file, which is not read
    hint: export it as JSON lines, for example with pandas: `python3 -c "import pandas, sys; pandas.read_parquet(sys.argv[1]).to_json(sys.argv[2], orient='records', lines=True, force_ascii=False)" 'named.txt' 'named.jsonl'`
    error: `named.txt`: begins with a NUL byte
    hint: rows are UTF-8 text; check that the file is complete
    error: named.txt:1: the array is not closed: the file may be truncated
    hint: correct the JSON there; `python3 -m json.tool 'named.txt'` names the first mistake
    error: named.txt:1: column 2 of the header has no name
    hint: line 1 names the columns: give each a different name
    error: named.txt:1: column 3 of the header has the same name as another: `a`
    hint: line 1 names the columns: give each a different name
    error: named.txt:1:1: not valid UTF-8
    hint: save the file as UTF-8, for example with `iconv -f LATIN1 -t UTF-8 'named.txt' > NEW`
    error: named.txt:2: a quote that opens in line 2 is not closed
    hint: close the quote, or double it if it is text
    "#);
    let missing = failure::Error::from(RowReader::open(Path::new("/nowhere/x.jsonl")).err().unwrap());
    assert_snapshot!(missing.report(), @"
    error: failed to open file `/nowhere/x.jsonl`
      caused by: No such file or directory (os error 2)
    hint: check that `/nowhere/x.jsonl` is the right path
    ");
    assert!(TextTokenizer::open(Path::new("/nowhere")).is_err());
}

#[test]
fn benchmark_passage_7_lies_inside_training_row_657() -> Result<()> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pair = |file: &Path, line: usize, source: &str, target: &str| -> Result<StoredRow> {
        let mut reader = RowReader::open(file)?;
        let mut rows = Vec::new();
        while let Some(row) = reader.next_row()? {
            rows.push(row.unwrap());
        }
        let text = |name: &str| rows[line].fields[name].as_str().unwrap().to_owned();
        let messages = Some(as_messages(&text(source), &text(target)));
        Ok(StoredRow { id: format!("row {line}"), messages, ..StoredRow::default() })
    };
    let passage = pair(&here.join("../../data/haw-eng/kumubot_eval10.jsonl"), 7, "haw", "eng")?;
    let other = pair(&here.join("../../data/haw-eng/kumubot_eval10.jsonl"), 6, "haw", "eng")?;
    let train = pair(
        &here.join("tests/fixtures/kumubot_row_657.csv"),
        0,
        "L1 Hawaiian_Text",
        "Reference_Translation",
    )?;
    let (settings, folder) = (Settings::default(), tempfile::tempdir()?);
    let mut check = Check::new(settings, folder.path())?;
    for row in [&other, &passage] {
        check.add("test", row, &Check::fingerprint(&settings, row))?;
    }
    check.add_train(&train, &Check::fingerprint(&settings, &train))?;
    let findings = check.find_leaks(&[])?;
    assert_eq!((findings.count, findings.leaks.len()), (1, 1));
    assert_eq!((findings.leaks[0].kind, findings.leaks[0].row.as_str()), (LeakKind::Contained, "row 7"));
    assert_eq!(findings.train_rows, [0]);
    Ok(())
}
