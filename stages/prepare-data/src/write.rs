//! The second pass: encodes rows, writes them, and compares the splits.

use std::collections::BTreeMap;
use std::path::Path;

use dataset::leak::{Check, Fingerprint, LISTED};
use dataset::split::SplitName;
use dataset::{
    Encoded, Error, OnTooLong, Place, Record, Result, RowWriter, Shape, Split, SplitWriter, StoredRow,
    TextTokenizer, as_messages, encode, read_rows,
};
use rayon::prelude::*;

use crate::config::{Config, OnBadRow, OnLeak};
use crate::files::DataFile;
use crate::parts::Parts;
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

/// A row that waits to be encoded.
struct Waiting<'a> {
    record: Record,
    split: SplitName,
    place: Place,
    file: &'a DataFile,
}

/// A row ready to be written.
struct Ready {
    row: StoredRow,
    encoded: Encoded,
    print: Option<Fingerprint>,
}

/// Encodes rows as they come and writes each to its split.
pub(crate) struct Writer<'a> {
    config: &'a Config,
    tokenizer: &'a TextTokenizer,
    sinks: BTreeMap<SplitName, Sink>,
    waiting: Vec<Waiting<'a>>,
    waiting_bytes: usize,
    /// Only if there is anything that must not be in training.
    check: Option<Check>,
    parts: Parts,
}

impl<'a> Writer<'a> {
    pub(crate) fn create(
        config: &'a Config,
        tokenizer: &'a TextTokenizer,
        destinations: &[Destination],
        out: &Path,
    ) -> Result<Self> {
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
        let trains =
            |to: &Destination| matches!(to, Destination::Split(SplitName::Train) | Destination::Nowhere);
        let check = if destinations.iter().all(trains) { None } else { Some(Check::new(config.leak, out)?) };
        let parts = Parts::new(config);
        Ok(Self { config, tokenizer, sinks, waiting: Vec::new(), waiting_bytes: 0, check, parts })
    }

    pub(crate) fn push(
        &mut self,
        record: Record,
        destination: Destination,
        file: &'a DataFile,
        stats: &mut Stats,
    ) -> Result<()> {
        match destination {
            Destination::Nowhere => {}
            Destination::HeldOut => {
                let row = stored(record, &Encoded::default());
                if let Some(check) = &mut self.check {
                    check.add("held_out", &row, &Check::fingerprint(&self.config.leak, &row))?;
                }
            }
            Destination::Split(split) => {
                let line =
                    record.source.rsplit_once(':').and_then(|(_, line)| line.parse().ok()).unwrap_or(0);
                let place = Place { file: file.path.clone(), line, column: None };
                self.waiting_bytes += text_bytes(&record);
                self.waiting.push(Waiting { record, split, place, file });
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
        let leak = self.check.as_ref().map(|_| &self.config.leak);
        let make = |Waiting { record, split, place, file }| {
            let ready = encode(tokenizer, &record, loss_on).map(|encoded| {
                let row = stored(record, &encoded);
                let print = leak.map(|settings| Check::fingerprint(settings, &row));
                Ready { row, encoded, print }
            });
            (ready, split, place, file)
        };
        let made: Vec<_> = waiting.into_par_iter().map(make).collect();
        for (ready, split, place, file) in made {
            match ready {
                Ok(ready) => self.write(ready, split, place, file)?,
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

    fn write(&mut self, ready: Ready, split: SplitName, place: Place, file: &DataFile) -> Result<()> {
        let Ready { row, mut encoded, print } = ready;
        let sink = self.sinks.get_mut(&split).expect("every split has a sink");
        let (length, most) = (encoded.tokens.len(), self.config.max_tokens);
        let example = || format!("{} ({}): {length} tokens", row.id, row.source);
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
            sink.counter.stats.no_target.add(|| format!("{} ({})", row.id, row.source));
            return Ok(());
        }
        if !encoded.prompt_is_prefix {
            sink.counter.stats.prompt_not_prefix.add(|| format!("{} ({})", row.id, row.source));
        }
        sink.counter.add(encoded.tokens.len(), encoded.trained_tokens(), row.group.as_deref());
        let weight = row.weight.unwrap_or(1.0);
        sink.tokens.push(&encoded.tokens, &encoded.trained, weight, encoded.prompt_length)?;
        match (&mut self.check, print, split) {
            (Some(check), Some(print), SplitName::Train) => check.add_train(&row, &print)?,
            (Some(check), Some(print), split) => check.add(split.as_str(), &row, &print)?,
            _ => {}
        }
        if split == SplitName::Train {
            self.parts.count(file.part.as_deref());
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
        if let Some(mut check) = self.check {
            let mut report = check.run(&[])?;
            stats.leaks.checked_rows = check.tested_rows();
            stats.leaks.remaining = report.count;
            if self.config.on_leak == OnLeak::Drop && !report.train_rows.is_empty() {
                let train = drop_rows(out, &report.train_rows, &mut self.parts, stats)?;
                stats.splits.insert(SplitName::Train.as_str(), train);
                let left = check.run(&report.train_rows)?;
                // What was found first stays listed; what remains has no single row that could be dropped.
                stats.leaks.remaining = left.count;
                report.count += left.count;
                report.leaks.splice(0..0, left.leaks);
            }
            stats.leaks.count = report.count;
            stats.leaks.rows = report.leaks.into_iter().take(LISTED).collect();
        }
        self.parts.write(out, stats)
    }
}

/// Writes the training split again without some of its rows, given by their sorted numbers.
fn drop_rows(out: &Path, dropped: &[u32], parts: &mut Parts, stats: &mut Stats) -> Result<SplitStats> {
    let (rows, tokens) = (out.join("rows/train.jsonl"), out.join("tokens/train.safetensors"));
    let (new_rows, new_tokens) = (out.join("rows/train.new"), out.join("tokens/train.new"));
    let (mut row_writer, mut token_writer) =
        (RowWriter::create(&new_rows)?, SplitWriter::create(&new_tokens)?);
    let mut counter = Counter::default();
    let split = Split::open(&tokens)?;
    let mut dropped = dropped.iter().map(|&row| row as usize).peekable();
    let mut part_of = parts.of_rows();
    for (index, row) in read_rows(&rows)?.enumerate() {
        let (row, part) = (row?, part_of.next().flatten());
        if dropped.next_if_eq(&index).is_some() {
            stats.leaks.dropped_train_rows.add(|| format!("{} ({})", row.id, row.source));
            parts.discount(part);
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
