//! Memory while token files are written and read. The only test of its program, because the peak is per process.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a failing helper fails its test")]

use dataset::{Result, Split, SplitWriter};

fn kibibytes(field: &str) -> u64 {
    let status = fs_err::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Writing 400,000 rows, a file of 86 MiB, and reading all of it twice, once out of order, takes far less memory.
#[test]
fn memory_does_not_grow_with_the_rows() -> Result<()> {
    const ROWS: usize = 400_000;
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("x.safetensors");
    let order = dataset::order::permutation(0, "test", 0, ROWS);
    let before = kibibytes("VmHWM");
    let mut writer = SplitWriter::create(&path)?;
    for row in 0..ROWS as u32 {
        writer.push(&[row; 42], &[1; 42], 1.0, 3)?;
    }
    writer.finish()?;
    let written = kibibytes("VmHWM");
    let split = Split::open(&path)?;
    assert_eq!(split.len(), ROWS);
    for index in order.into_iter().map(|index| index as usize).chain(0..ROWS) {
        let row = split.row(index);
        assert_eq!((row.tokens[41], row.target_count()), (index as u32, 42));
    }
    let read = kibibytes("VmHWM");
    assert!(fs_err::metadata(&path)?.len() > 85 << 20);
    assert!(written - before < 16 << 10, "writing took {} KiB more", written - before);
    assert!(read - written < 48 << 10, "reading took {} KiB more", read - written);
    Ok(())
}
