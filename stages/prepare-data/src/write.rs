//! The second pass: encodes rows, writes them, and checks the splits for leaks.

use std::collections::BTreeMap;
use std::path::Path;

use dataset::leak::{Check, Fingerprint, LISTED};
use dataset::split::SplitName;
use dataset::{
    Encoded, Error, OnTooLong, Place, Record, Result, RowWriter, Shape, Split, SplitWriter, StoredRow,
    TextTokenizer, as_messages, encode, read_rows,
};
use outputs::{SplitStats, Stats};
use rayon::prelude::*;

use crate::config::{Config, OnBadRow, OnLeak};
use crate::destinations::Destination;
use crate::files::DataFile;
use crate::mixture::ComponentRows;
use crate::rows::one_line;
use crate::stats::{SplitCounter, tally};

/// Number of rows that are encoded together, in parallel.
const BLOCK_ROWS: usize = 512;
/// Bytes of text after which fewer rows are encoded together.
const BLOCK_BYTES: usize = 8 << 20;

/// Writes one split.
struct Sink {
    rows: RowWriter,
    tokens: SplitWriter,
    counter: SplitCounter,
}

/// A row to encode.
struct Waiting<'a> {
    record: Record,
    route: Route<'a>,
}

/// Where a row comes from and goes to.
struct Route<'a> {
    file: &'a DataFile,
    place: Place,
    split: SplitName,
}

/// A row to write.
struct Ready {
    row: StoredRow,
    encoded: Encoded,
    fingerprint: Option<Fingerprint>,
}

/// Encodes rows and writes each to its split.
pub(crate) struct Writer<'a> {
    config: &'a Config,
    tokenizer: &'a TextTokenizer,
    sinks: BTreeMap<SplitName, Sink>,
    waiting: Vec<Waiting<'a>>,
    waiting_bytes: usize,
    /// `None` if all rows train.
    check: Option<Check>,
    component_rows: ComponentRows,
}

impl<'a> Writer<'a> {
    pub(crate) fn create(
        config: &'a Config,
        tokenizer: &'a TextTokenizer,
        destinations: &[Destination],
        out: &Path,
    ) -> Result<Self> {
        fs_err::create_dir_all(out.join(outputs::ROWS))?;
        fs_err::create_dir_all(out.join(outputs::TOKENS))?;
        let mut sinks = BTreeMap::new();
        for split in SplitName::ALL {
            let sink = Sink {
                rows: RowWriter::create(&out.join(format!("rows/{}.jsonl", split.as_str())))?,
                tokens: SplitWriter::create(&out.join(format!("tokens/{}.safetensors", split.as_str())))?,
                counter: SplitCounter::default(),
            };
            sinks.insert(split, sink);
        }
        let is_checked =
            |to: &Destination| !matches!(to, Destination::Split(SplitName::Train) | Destination::Nowhere);
        let needs_check = destinations.iter().any(is_checked);
        let check = needs_check.then(|| Check::new(config.leak, out)).transpose()?;
        let component_rows = ComponentRows::new(config);
        Ok(Self { config, tokenizer, sinks, waiting: Vec::new(), waiting_bytes: 0, check, component_rows })
    }

    /// Adds a row; it is written when enough rows are waiting.
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
                let place = Place { file: file.path.clone(), line: record.line, column: None };
                self.waiting_bytes += text_bytes(&record);
                self.waiting.push(Waiting { record, route: Route { file, place, split } });
                if self.waiting.len() >= BLOCK_ROWS || self.waiting_bytes >= BLOCK_BYTES {
                    self.flush(stats)?;
                }
            }
        }
        Ok(())
    }

    /// Encodes the waiting rows in parallel and writes them in order.
    fn flush(&mut self, stats: &mut Stats) -> Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        self.waiting_bytes = 0;
        let (tokenizer, settings) = (self.tokenizer, self.config.encode_settings());
        let leak = self.check.as_ref().map(|_| &self.config.leak);
        let encode_row = |Waiting { record, route }| {
            let ready = encode(tokenizer, &record, settings).map(|encoded| {
                let row = stored(record, &encoded);
                let fingerprint = leak.map(|settings| Check::fingerprint(settings, &row));
                Ready { row, encoded, fingerprint }
            });
            (ready, route)
        };
        let encoded: Vec<_> = waiting.into_par_iter().map(encode_row).collect();
        for (ready, route) in encoded {
            match ready {
                Ok(ready) => self.write(ready, route, stats)?,
                // Every row fails with a tokenizer that has no chat template.
                Err(error @ (Error::File { .. } | Error::Io(_))) => return Err(error),
                Err(error) => {
                    let error = error.at_row(route.place);
                    if self.config.on_bad_row == OnBadRow::Error {
                        return Err(error);
                    }
                    tally(&mut stats.bad_rows, || one_line(&error, route.file));
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, ready: Ready, route: Route<'_>, stats: &mut Stats) -> Result<()> {
        let Route { file, place, split } = route;
        let Ready { row, mut encoded, fingerprint } = ready;
        let sink = self.sinks.get_mut(&split).expect("every split has a sink");
        let (length, limit) = (encoded.tokens.len(), self.config.max_tokens);
        let example = || format!("{} ({}): {length} tokens", row.id, row.source);
        if length > limit {
            match self.config.on_too_long {
                OnTooLong::Truncate => {
                    encoded.truncate(limit);
                    tally(&mut sink.counter.stats.truncated, example);
                }
                OnTooLong::Drop => {
                    tally(&mut sink.counter.stats.too_long, example);
                    return Ok(());
                }
                OnTooLong::Error => {
                    return Err(Error::Row {
                        place,
                        reason: format!("the row has {length} tokens, but `max_tokens` is {limit}"),
                        hint: "raise `max_tokens`, or set `on_too_long` to `truncate` or `drop`".into(),
                    });
                }
            }
        }
        note_turns(&mut sink.counter.stats, &encoded, || format!("{} ({})", row.id, row.source));
        if encoded.target_count() == 0 {
            tally(&mut sink.counter.stats.no_target, || format!("{} ({})", row.id, row.source));
            return Ok(());
        }
        if !encoded.prompt_is_prefix {
            tally(&mut sink.counter.stats.prompt_not_prefix, || format!("{} ({})", row.id, row.source));
        }
        note_ends(stats, self.tokenizer, &encoded);
        sink.counter.add(encoded.tokens.len(), encoded.target_count(), row.group.as_deref());
        let weight = row.weight.unwrap_or(1.0);
        sink.tokens.push(&encoded.tokens, &encoded.trained, weight, encoded.prompt_length)?;
        match (&mut self.check, fingerprint, split) {
            (Some(check), Some(fingerprint), SplitName::Train) => check.add_train(&row, &fingerprint)?,
            (Some(check), Some(fingerprint), split) => check.add(split.as_str(), &row, &fingerprint)?,
            _ => {}
        }
        if split == SplitName::Train {
            self.component_rows.add(file.component.as_deref());
        }
        sink.rows.push(&row)
    }

    /// Writes the waiting rows, checks the splits for leaks and completes `stats`.
    pub(crate) fn finish(mut self, out: &Path, stats: &mut Stats) -> Result<()> {
        self.flush(stats)?;
        for (split, sink) in self.sinks {
            sink.rows.finish()?;
            sink.tokens.finish()?;
            stats.splits.insert(split.as_str().to_owned(), sink.counter.finish(split != SplitName::Train));
        }
        if let Some(mut check) = self.check {
            let mut findings = check.find_leaks(&[])?;
            stats.leaks.checked_rows = check.checked_rows();
            stats.leaks.remaining = findings.count;
            if self.config.on_leak == OnLeak::Drop && !findings.train_rows.is_empty() {
                let train = drop_rows(out, &findings.train_rows, &mut self.component_rows, stats)?;
                stats.splits.insert(SplitName::Train.as_str().to_owned(), train);
                // A leak that remains occurs only in several training rows together; it is listed before the others.
                let remaining = check.find_leaks(&findings.train_rows)?;
                stats.leaks.remaining = remaining.count;
                findings.count += remaining.count;
                findings.leaks.splice(0..0, remaining.leaks);
            }
            stats.leaks.count = findings.count;
            stats.leaks.rows = findings.leaks.into_iter().take(LISTED).collect();
        }
        self.component_rows.write(out, stats)
    }
}

/// Counts the turns of a row that are no targets.
fn note_turns(stats: &mut SplitStats, encoded: &Encoded, example: impl FnOnce() -> String) {
    stats.excluded_turns += encoded.turns.excluded as u64;
    if encoded.turns.rewritten > 0 {
        tally(&mut stats.rewritten_turns, example);
        stats.rewritten_turns.count += encoded.turns.rewritten as u64 - 1;
    }
}

/// Counts the ends of a row's turns, and the keys that the chat template leaves out.
fn note_ends(stats: &mut Stats, tokenizer: &TextTokenizer, encoded: &Encoded) {
    for &token in &encoded.turns.ends {
        let text = token.and_then(|token| tokenizer.control_text(token)).unwrap_or_default();
        let end = stats.turn_ends.entry(text.to_owned()).or_default();
        end.token = token;
        end.is_end_token = token.is_some_and(|token| tokenizer.eos().contains(&token));
        end.turns += 1;
    }
    for key in &encoded.turns.unread {
        *stats.unread_keys.entry(key.clone()).or_default() += 1;
    }
}

/// Rewrites the training split without the rows in `dropped`, which are sorted row numbers.
fn drop_rows(
    out: &Path,
    dropped: &[u32],
    component_rows: &mut ComponentRows,
    stats: &mut Stats,
) -> Result<SplitStats> {
    let (rows, tokens) = (out.join("rows/train.jsonl"), out.join("tokens/train.safetensors"));
    let (new_rows, new_tokens) = (out.join("rows/train.new"), out.join("tokens/train.new"));
    let (mut row_writer, mut token_writer) =
        (RowWriter::create(&new_rows)?, SplitWriter::create(&new_tokens)?);
    let mut counter = SplitCounter::default();
    let split = Split::open(&tokens)?;
    let mut dropped = dropped.iter().map(|&row| row as usize).peekable();
    let mut components = component_rows.component_of_rows();
    for (index, row) in read_rows(&rows)?.enumerate() {
        let (row, component) = (row?, components.next().flatten());
        if dropped.next_if_eq(&index).is_some() {
            tally(&mut stats.leaks.dropped_train_rows, || format!("{} ({})", row.id, row.source));
            component_rows.remove(component);
            continue;
        }
        let encoded = split.row(index);
        counter.add(encoded.tokens.len(), encoded.target_count(), row.group.as_deref());
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

/// Estimates the bytes of text in a record.
fn text_bytes(record: &Record) -> usize {
    let message_bytes = |message: &serde_json::Value| {
        message.get("content").and_then(|text| text.as_str()).map_or(64, str::len)
    };
    match &record.shape {
        Shape::Chat { messages, .. } => messages.iter().map(message_bytes).sum(),
        Shape::Completion { prompt, completion } => prompt.len() + completion.len(),
        Shape::Text(text) => text.len(),
    }
}

/// Returns the row as it is stored.
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
