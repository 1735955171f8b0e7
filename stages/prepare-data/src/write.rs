//! The second pass: encodes rows, writes them, and compares the splits.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use dataset::leak::Check;
use dataset::split::SplitName;
use dataset::{
    Encoded, Error, OnTooLong, Place, Record, Result, RowWriter, Shape, Split, SplitWriter, StoredRow,
    TextTokenizer, as_messages, encode, read_rows,
};
use rayon::prelude::*;

use crate::config::{Config, OnBadRow, OnLeak};
use crate::files::DataFile;
use crate::plan::{Destination, brief};
use crate::stats::{Counter, SplitStats, Stats};

/// Rows that are encoded at a time, in parallel; fewer if they are long.
const CHUNK_ROWS: usize = 512;
const CHUNK_BYTES: usize = 8 << 20;

/// Writes one split.
struct Sink {
    rows: RowWriter,
    tokens: SplitWriter,
    counter: Counter,
}

/// Encodes rows as they come and writes each to its split.
pub(crate) struct Writer<'a> {
    config: &'a Config,
    tokenizer: &'a TextTokenizer,
    sinks: BTreeMap<SplitName, Sink>,
    waiting: Vec<(Record, Destination, Place, &'a DataFile)>,
    waiting_bytes: usize,
    check: Check,
    checked: u64,
}

impl<'a> Writer<'a> {
    pub(crate) fn create(config: &'a Config, tokenizer: &'a TextTokenizer, out: &Path) -> Result<Self> {
        fs_err::create_dir_all(out.join("rows"))?;
        fs_err::create_dir_all(out.join("tokens"))?;
        let mut sinks = BTreeMap::new();
        for split in SplitName::ALL {
            let sink = Sink {
                rows: RowWriter::create(&out.join(format!("rows/{}.jsonl", split.as_str())))?,
                tokens: SplitWriter::create(&out.join(format!("tokens/{}.safetensors", split.as_str())))?,
                counter: Counter::default(),
            };
            sinks.insert(split, sink);
        }
        let check = Check::new(config.leak);
        Ok(Self { config, tokenizer, sinks, waiting: Vec::new(), waiting_bytes: 0, check, checked: 0 })
    }

    pub(crate) fn push(
        &mut self,
        record: Record,
        destination: Destination,
        file: &'a DataFile,
        stats: &mut Stats,
    ) -> Result<()> {
        let line = record.source.rsplit_once(':').and_then(|(_, line)| line.parse().ok()).unwrap_or(0);
        let place = Place { file: file.path.clone(), line, column: None };
        match destination {
            Destination::Nowhere => {}
            Destination::HeldOut => {
                self.checked += 1;
                self.check.add("held_out", &stored(record, &Encoded::default()));
            }
            Destination::Split(_) => {
                self.waiting_bytes += text_bytes(&record);
                self.waiting.push((record, destination, place, file));
                if self.waiting.len() >= CHUNK_ROWS || self.waiting_bytes >= CHUNK_BYTES {
                    self.flush(stats)?;
                }
            }
        }
        Ok(())
    }

    /// Encodes the waiting rows in parallel and writes them in their order.
    fn flush(&mut self, stats: &mut Stats) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        let (tokenizer, loss_on) = (self.tokenizer, self.config.loss_on);
        let encoded: Vec<Result<Encoded>> =
            waiting.par_iter().map(|(record, ..)| encode(tokenizer, record, loss_on)).collect();
        for ((record, destination, place, file), encoded) in waiting.into_iter().zip(encoded) {
            let Destination::Split(split) = destination else { continue };
            match encoded {
                Ok(encoded) => self.write(record, encoded, split, place)?,
                // A tokenizer without a chat template is no row's fault.
                Err(error @ (Error::File { .. } | Error::Io(_))) => return Err(error),
                Err(error) => {
                    let error = error.at_row(place);
                    if self.config.on_bad_row == OnBadRow::Error {
                        return Err(error);
                    }
                    stats.bad_rows.add(|| brief(&error, file));
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, record: Record, mut encoded: Encoded, split: SplitName, place: Place) -> Result<()> {
        let sink = self.sinks.get_mut(&split).expect("every split has a sink");
        let (length, most) = (encoded.tokens.len(), self.config.max_tokens);
        let example = || format!("{} ({}): {length} tokens", record.id, record.source);
        if length > most {
            match self.config.on_too_long {
                OnTooLong::Truncate => {
                    encoded.truncate(most);
                    sink.counter.stats.truncated.add(example);
                }
                OnTooLong::Drop => {
                    sink.counter.stats.too_long.add(example);
                    return Ok(());
                }
                OnTooLong::Error => {
                    return Err(Error::Row {
                        place,
                        reason: format!("the row has {length} tokens where `max_tokens` is {most}"),
                        hint: "raise `max_tokens`, or set `on_too_long` to `truncate` or `drop`".into(),
                    });
                }
            }
        }
        if encoded.trained_tokens() == 0 {
            sink.counter.stats.no_target.add(|| format!("{} ({})", record.id, record.source));
            return Ok(());
        }
        if !encoded.prompt_is_prefix {
            sink.counter.stats.prompt_not_prefix.add(|| format!("{} ({})", record.id, record.source));
        }
        sink.counter.add(encoded.tokens.len(), encoded.trained_tokens(), record.group.as_deref());
        sink.tokens.push(&encoded.tokens, &encoded.trained, record.weight, encoded.prompt_length)?;
        let row = stored(record, &encoded);
        if split != SplitName::Train {
            self.checked += 1;
            self.check.add(split.as_str(), &row);
        }
        sink.rows.push(&row)
    }

    /// Writes what is left; compares the splits; fills in `stats`.
    pub(crate) fn finish(mut self, out: &Path, stats: &mut Stats) -> Result<()> {
        self.flush(stats)?;
        for (split, sink) in self.sinks {
            sink.rows.finish()?;
            sink.tokens.finish()?;
            stats.splits.insert(split.as_str(), sink.counter.finish(split != SplitName::Train));
        }
        let rows = out.join("rows/train.jsonl");
        let mut report = self.check.run(|| read_rows(&rows))?;
        if self.config.on_leak == OnLeak::Drop && !report.train_rows.is_empty() {
            let train = drop_rows(out, &report.train_rows, stats)?;
            stats.splits.insert(SplitName::Train.as_str(), train);
            let left = self.check.run(|| read_rows(&rows))?;
            // What was found first stays listed; what remains has no single row that could be dropped.
            stats.leaks.remaining = left.leaks.len() as u64;
            report.leaks.splice(0..0, left.leaks);
        } else {
            stats.leaks.remaining = report.leaks.len() as u64;
        }
        stats.leaks.checked_rows = self.checked;
        stats.leaks.count = report.leaks.len() as u64;
        stats.leaks.rows = report.leaks.into_iter().take(100).collect();
        Ok(())
    }
}

/// Writes the training split again without some of its rows.
fn drop_rows(out: &Path, dropped: &BTreeSet<u64>, stats: &mut Stats) -> Result<SplitStats> {
    let (rows, tokens) = (out.join("rows/train.jsonl"), out.join("tokens/train.safetensors"));
    let (new_rows, new_tokens) = (out.join("rows/train.new"), out.join("tokens/train.new"));
    let (mut row_writer, mut token_writer) =
        (RowWriter::create(&new_rows)?, SplitWriter::create(&new_tokens)?);
    let mut counter = Counter::default();
    let split = Split::open(&tokens)?;
    for (index, row) in read_rows(&rows)?.enumerate() {
        let row = row?;
        if dropped.contains(&(index as u64)) {
            stats.leaks.dropped_train_rows.add(|| format!("{} ({})", row.id, row.source));
            continue;
        }
        let encoded = split.row(index);
        let trained_tokens = encoded.trained.iter().map(|&flag| usize::from(flag == 1)).sum();
        counter.add(encoded.tokens.len(), trained_tokens, row.group.as_deref());
        token_writer.push(encoded.tokens, encoded.trained, encoded.weight, encoded.prompt_length)?;
        row_writer.push(&row)?;
    }
    row_writer.finish()?;
    token_writer.finish()?;
    drop(split);
    fs_err::rename(new_rows, rows)?;
    fs_err::rename(new_tokens, tokens)?;
    let before = stats.splits.remove(SplitName::Train.as_str()).unwrap_or_default();
    let SplitStats { rows, tokens, trained_tokens, length, groups, .. } = counter.finish(false);
    Ok(SplitStats { rows, tokens, trained_tokens, length, groups, ..before })
}

/// Estimates how much text a record holds.
fn text_bytes(record: &Record) -> usize {
    let string = |message: &serde_json::Value| {
        message.get("content").and_then(|text| text.as_str()).map_or(64, str::len)
    };
    match &record.shape {
        Shape::Chat { messages, .. } => messages.iter().map(string).sum(),
        Shape::Completion { prompt, completion } => prompt.len() + completion.len(),
        Shape::Text(text) => text.len(),
    }
}

fn stored(record: Record, encoded: &Encoded) -> StoredRow {
    let mut row = StoredRow {
        auth_weight: record.auth_weight,
        group: record.group,
        id: record.id,
        prompt: encoded.prompt.clone(),
        prov_entropy: record.prov_entropy,
        reference: encoded.reference.clone(),
        source: record.source,
        weight: Some(record.weight).filter(|weight| weight.to_bits() != 1f32.to_bits()),
        ..StoredRow::default()
    };
    match record.shape {
        Shape::Chat { messages, tools } => (row.messages, row.tools) = (Some(messages), tools),
        Shape::Completion { prompt, completion } => row.messages = Some(as_messages(&prompt, &completion)),
        Shape::Text(text) => row.text = Some(text),
    }
    row
}
