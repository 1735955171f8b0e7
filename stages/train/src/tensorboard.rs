//! TensorBoard event files, made from the run's metrics and timings, so that all show the same numbers.
//!
//! A file is a sequence of records: length, checksum of the length, a protobuf `Event`, checksum of the event. Two kinds of
//! events are written: the version of the file, and scalars.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use fs_err::File;
use serde_json::Value;

/// File name with the prefix that TensorBoard looks for.
const FILE_NAME: &str = "events.out.tfevents.ashlar";

/// Fields of [`MetricsLine`](outputs::MetricsLine) and of the timings, and their tags in TensorBoard, which groups tags by
/// the text before `/`. Other fields keep their names.
const NAMES: &[(&str, &str)] = &[
    ("train_loss", "loss/train"),
    ("validation_loss", "loss/validation"),
    ("tokens_per_second", "speed/tokens_per_second"),
    ("active_bytes", "memory/active_bytes"),
    ("peak_bytes", "memory/peak_bytes"),
    ("resident_bytes", "memory/resident_bytes"),
];

/// Event file that follows files of JSON lines.
pub struct TensorBoard {
    path: PathBuf,
    file: Option<File>,
    sources: Vec<Source>,
}

/// A file of JSON lines, and how many bytes of it were read.
struct Source {
    path: PathBuf,
    read: u64,
}

impl TensorBoard {
    /// Makes an event file in `folder` that follows `sources` from their first line; writes nothing yet.
    pub fn new(folder: &Path, sources: impl IntoIterator<Item = PathBuf>) -> Self {
        let sources = sources.into_iter().map(|path| Source { path, read: 0 }).collect();
        Self { path: folder.join(FILE_NAME), file: None, sources }
    }

    /// Writes the new lines of the sources: each line as an event at its `step`, with a scalar per number.
    ///
    /// # Errors
    ///
    /// Fails when a file cannot be read or written.
    pub fn follow(&mut self) -> std::io::Result<()> {
        let mut records = Vec::new();
        if self.file.is_none() {
            self.file = Some(File::create(&self.path)?);
            records.extend(record(&version_event(wall_time())));
        }
        for source in &mut self.sources {
            for line in source.new_lines()? {
                let scalars = scalars(&line);
                if let (Some(step), false) = (line["step"].as_u64(), scalars.is_empty()) {
                    records.extend(record(&scalar_event(wall_time(), step, &scalars)));
                }
            }
        }
        let file = self.file.as_mut().expect("opened above");
        file.write_all(&records)
    }
}

impl Source {
    /// Returns the complete lines added since the last call. A missing file has no lines.
    fn new_lines(&mut self) -> std::io::Result<Vec<Value>> {
        let mut file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        file.seek(SeekFrom::Start(self.read))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        self.read += text.len() as u64;
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }
}

/// Returns tag and value of all numbers of a line except its step; numbers in tables are called `table/key`.
fn scalars(line: &Value) -> Vec<(String, f32)> {
    let mut found = Vec::new();
    for (key, value) in line.as_object().into_iter().flatten() {
        if let Some(number) = value.as_f64().filter(|_| key != "step") {
            let name = NAMES.iter().find(|(known, _)| known == key).map_or(key.as_str(), |(_, name)| name);
            found.push((name.to_owned(), number as f32));
        } else if value.is_object() {
            found.extend(scalars(value).into_iter().map(|(name, number)| (format!("{key}/{name}"), number)));
        }
    }
    found
}

#[expect(clippy::disallowed_methods, reason = "telemetry is outside every hash; TensorBoard wants the time")]
fn wall_time() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// `Event { wall_time = 1; file_version = 3 }`
fn version_event(wall_time: f64) -> Vec<u8> {
    let mut event = double(1, wall_time);
    event.extend(bytes(3, b"brain.Event:2"));
    event
}

/// `Event { wall_time = 1; step = 2; summary = 5 { value = 1 { tag = 1; simple_value = 2 } } }`
fn scalar_event(wall_time: f64, step: u64, scalars: &[(String, f32)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in scalars {
        let mut entry = bytes(1, tag.as_bytes());
        entry.extend(key(2, 5));
        entry.extend(value.to_le_bytes());
        summary.extend(bytes(1, &entry));
    }
    let mut event = double(1, wall_time);
    event.extend(key(2, 0));
    event.extend(varint(step));
    event.extend(bytes(5, &summary));
    event
}

/// Encodes a field's number and wire type: 0 for a varint, 1 for 8 bytes, 2 for length-prefixed bytes, 5 for 4 bytes.
fn key(field: u64, wire_type: u64) -> Vec<u8> {
    varint(field << 3 | wire_type)
}

fn double(field: u64, value: f64) -> Vec<u8> {
    [key(field, 1), value.to_le_bytes().to_vec()].concat()
}

fn bytes(field: u64, value: &[u8]) -> Vec<u8> {
    [key(field, 2), varint(value.len() as u64), value.to_vec()].concat()
}

/// Encodes seven bits per byte, the lowest first; all bytes but the last have the highest bit set.
fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

/// Frames an event as a record of the file.
fn record(event: &[u8]) -> Vec<u8> {
    let length = (event.len() as u64).to_le_bytes();
    let checksum = |data| masked(crc32c(data)).to_le_bytes();
    [&length[..], &checksum(&length), event, &checksum(event)].concat()
}

/// Masks a checksum as TensorFlow does, because the CRC of data that contains its own CRC is weak.
fn masked(checksum: u32) -> u32 {
    checksum.rotate_right(15).wrapping_add(0xA282_EAD8)
}

/// Computes the CRC-32C (Castagnoli's polynomial, reflected). A few hundred bytes per report do not need a table.
fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |checksum, &byte| {
        (0..8).fold(checksum ^ u32::from(byte), |rest: u32, _| {
            if rest & 1 == 1 { rest >> 1 ^ 0x82F6_3B78 } else { rest >> 1 }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the scalars of an event file: step, tag and value.
    fn read(path: &Path) -> Vec<(u64, String, f32)> {
        let file = fs_err::read(path).unwrap();
        let mut rest = &file[..];
        let mut found = Vec::new();
        while !rest.is_empty() {
            let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
            assert_eq!(rest[8..12], masked(crc32c(&rest[..8])).to_le_bytes());
            let event = &rest[12..12 + length];
            assert_eq!(rest[12 + length..16 + length], masked(crc32c(event)).to_le_bytes());
            rest = &rest[16 + length..];
            // After the wall time; the first event has a version instead of a step.
            let event = &event[9..];
            if event[0] == 0x1a {
                assert_eq!(&event[2..], b"brain.Event:2");
                continue;
            }
            let step = u64::from(event[1]);
            let mut summary = &event[4..];
            while !summary.is_empty() {
                let size = summary[1] as usize;
                let (entry, more) = summary[2..].split_at(size);
                let tag = &entry[2..2 + entry[1] as usize];
                let value = f32::from_le_bytes(entry[size - 4..].try_into().unwrap());
                found.push((step, String::from_utf8(tag.to_vec()).unwrap(), value));
                summary = more;
            }
        }
        found
    }

    #[test]
    fn checksums_equal_published_values() {
        // RFC 3720, appendix B.4, and the usual check value.
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xFF; 32]), 0x62A8_AB43);
    }

    #[test]
    fn records_equal_those_of_tensorboard() {
        // Written by the package `tensorboard` 2.21.0 with protobuf 7.36.2.
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
        let version = record(&version_event(1_700_000_000.5));
        assert_eq!(
            hex(&version),
            "1800000000000000a37f4b220900002040fc54d9411a0d627261696e2e4576656e743a322b353110"
        );
        let scalar = record(&scalar_event(1_700_000_000.5, 300, &[("loss/train".to_owned(), 2.5)]));
        assert_eq!(
            hex(&scalar),
            "2100000000000000017becf60900002040fc54d94110ac022a130a110a0a6c6f73732f747261696e150000204055ed1795"
        );
    }

    #[test]
    fn varints_have_the_minimal_length() {
        assert_eq!(varint(0), [0]);
        assert_eq!(varint(127), [0x7f]);
        assert_eq!(varint(300), [0xac, 0x02]);
    }

    #[test]
    fn every_number_of_a_line_becomes_a_scalar_at_its_step() {
        let folder = tempfile::tempdir().unwrap();
        let (metrics, timing) = (folder.path().join("metrics.jsonl"), folder.path().join("timing.jsonl"));
        let mut board = TensorBoard::new(folder.path(), [metrics.clone(), timing.clone()]);
        board.follow().unwrap();
        fs_err::write(&metrics, "{\"step\":10,\"train_loss\":2.5,\"epoch\":0.5}\n{\"step\":20,\"tra")
            .unwrap();
        fs_err::write(&timing, "{\"step\":10,\"tokens_per_second\":100.0,\"note\":\"x\"}\n").unwrap();
        board.follow().unwrap();
        let whole = "{\"step\":10,\"train_loss\":2.5,\"epoch\":0.5}\n{\"step\":20,\"train_loss\":2.25,\"norms\":{\"head\":1}}\n";
        fs_err::write(&metrics, whole).unwrap();
        board.follow().unwrap();
        board.follow().unwrap();
        let found = read(&folder.path().join("events.out.tfevents.ashlar"));
        let wanted = [
            (10, "loss/train", 2.5),
            (10, "epoch", 0.5),
            (10, "speed/tokens_per_second", 100.0),
            (20, "loss/train", 2.25),
            (20, "norms/head", 1.0),
        ];
        assert_eq!(found, wanted.map(|(step, tag, value)| (step, tag.to_owned(), value)));
    }
}
