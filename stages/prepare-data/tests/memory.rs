//! Memory while a dataset is made. The only test of its program, because the peak is per process.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a failing helper fails its test")]

use std::io::{BufWriter, Write};

use failure::Result;
use prepare_data::{Config, find_files, run};

fn peak_kibibytes() -> u64 {
    let status = fs_err::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Makes a dataset of `rows` rows and returns the number of training rows.
fn make(rows: usize) -> Result<u64> {
    let data = tempfile::tempdir()?;
    let file = data.path().join("rows.csv");
    let mut writer = BufWriter::new(fs_err::File::create(&file)?);
    writer.write_all(b"text\n")?;
    for row in 0..rows {
        writeln!(writer, "he kanaka {row} ma ka hale o na akua {}", row * 7)?;
    }
    writer.flush()?;
    let config: Config = toml::from_str("max_rows = { validation = 100, test = 100 }").unwrap();
    let files = find_files(&[file], &config)?;
    let out = tempfile::tempdir()?;
    Ok(run(&testutil::golden("llama"), &files, &config, out.path())?.splits["train"].rows)
}

/// A row has about 100 bytes; between the passes, a few bytes of it are kept.
#[test]
fn memory_hardly_grows_with_the_rows() -> Result<()> {
    make(5_000)?;
    let before = peak_kibibytes();
    assert_eq!(make(100_000)?, 80_000);
    let more = peak_kibibytes() - before;
    assert!(more < 16 << 10, "{more} KiB more");
    Ok(())
}
