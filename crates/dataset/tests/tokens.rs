//! Token files: rows round-trip, and damaged files are refused.

use std::path::Path;

use dataset::{Error, Result, Split, SplitWriter};
use safetensors::{Dtype, SafeTensors};

fn write_small(path: &Path) -> Result<()> {
    let mut writer = SplitWriter::create(path)?;
    writer.push(&[5, 6, 7], &[0, 1, 1], 1.0, 1)?;
    writer.push(&[8], &[0], 0.5, 1)?;
    writer.push(&[9, 70_000], &[0, 1], 2.0, 0)?;
    writer.finish()
}

#[test]
fn rows_round_trip() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("train.safetensors");
    write_small(&path)?;
    let split = Split::open(&path)?;
    assert_eq!(split.len(), 3);
    let targets: Vec<usize> = (0..3).map(|row| split.row(row).target_count()).collect();
    assert_eq!(targets, [2, 0, 1]);
    let row = split.row(2);
    assert_eq!(
        (row.tokens, row.trained, row.weight, row.prompt_length),
        (&[9, 70_000][..], &[0, 1][..], 2.0, 0)
    );
    assert_eq!((split.row(1).weight, split.row_length(0)), (0.5, 3));
    assert_eq!(fs_err::read_dir(folder.path())?.count(), 1, "no temporary file remains");
    Ok(())
}

#[test]
fn any_safetensors_reader_can_read_the_file() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("x.safetensors");
    write_small(&path)?;
    let bytes = fs_err::read(&path)?;
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let tokens = file.tensor("tokens").unwrap();
    assert_eq!((tokens.dtype(), tokens.shape()), (Dtype::U32, &[6][..]));
    assert_eq!(file.tensor("trained").unwrap().data(), [0, 1, 1, 0, 0, 1]);
    assert_eq!(file.tensor("offsets").unwrap().data()[8..16], 3u64.to_le_bytes());
    Ok(())
}

#[test]
fn an_empty_split_has_a_file() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("x.safetensors");
    SplitWriter::create(&path)?.finish()?;
    let split = Split::open(&path)?;
    assert!(split.is_empty());
    Ok(())
}

#[test]
fn truncated_and_hostile_files_are_refused() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("x.safetensors");
    write_small(&path)?;
    let good = fs_err::read(&path)?;
    let reason_for_refusing = |bytes: &[u8], what: &str| {
        fs_err::write(&path, bytes).unwrap();
        match Split::open(&path) {
            Err(Error::Tokens { reason, .. }) => reason,
            other => panic!("{what}: {other:?}"),
        }
    };
    for length in 0..good.len() {
        reason_for_refusing(&good[..length], &format!("cut to {length}"));
    }
    reason_for_refusing(&[&good[..], b"\0"].concat(), "an extra byte");
    let length = u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
    let header = std::str::from_utf8(&good[8..8 + length]).unwrap();
    let with = |from: &str, to: &str| {
        assert!(header.contains(from), "{from} in {header}");
        let header = header.replacen(from, to, 1);
        let header =
            format!("{:width$}", header.trim_end(), width = header.trim_end().len().next_multiple_of(8));
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &good[8 + length..]].concat()
    };
    let max = u64::MAX.to_string();
    for (from, to) in [
        ("\"U32\"", "\"I32\""),
        ("\"shape\":[6]", "\"shape\":[7]"),
        ("\"shape\":[6]", "\"shape\":[6,1]"),
        ("\"shape\":[6]", &*format!("\"shape\":[{max}]")),
        ("\"shape\":[6]", "\"shape\":[-6]"),
        ("[0,32]", "[0,40]"),
        ("[32,56]", "[24,48]"),
        ("\"trained\"", "\"tokens\""),
        ("\"trained\"", "\"extra\""),
        ("{\"offsets\"", "{\"__metadata__\":{},\"offsets\""),
        ("{\"offsets\"", "[\"offsets\""),
    ] {
        reason_for_refusing(&with(from, to), to);
    }
    let mut flag = good.clone();
    let last = flag.len() - 2;
    flag[last] = 2;
    let reason = reason_for_refusing(&flag, "a flag");
    assert_eq!(reason, "row 2 has the flag 2 in `trained`, expected 0 or 1");
    let mut claims = good.clone();
    claims[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(reason_for_refusing(&claims, "header length").contains("claims"));
    let start = 8 + length;
    for (at, what) in [
        (start, "first offset"),
        (start + 8, "an offset too far"),
        (start + 24, "last offset"),
        (start + 32 + 24 + 3, "weight"),
    ] {
        let mut bytes = good.clone();
        bytes[at] = 0xFF;
        reason_for_refusing(&bytes, what);
    }
    Ok(())
}

proptest::proptest! {
    #[test]
    fn no_byte_of_the_file_makes_it_panic(at in 0usize..480, byte: u8) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.safetensors");
        write_small(&path).unwrap();
        let mut bytes = fs_err::read(&path).unwrap();
        let at = at % bytes.len();
        bytes[at] = byte;
        fs_err::write(&path, bytes).unwrap();
        if let Ok(split) = Split::open(&path) {
            assert!((0..split.len()).all(|row| split.row(row).tokens.len() <= 6));
        }
    }
}

#[test]
fn a_split_is_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Split>();
    shared::<dataset::TextTokenizer>();
}
