//! The second pass: encodes rows, writes them, and checks the splits for leaks.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use dataset::leak::{Check, Fingerprint};
use dataset::split::SplitName;
use dataset::text::Changes;
use dataset::{
    ControlTokens, Encoded, Error, OnSpecial, OnTooLong, Place, Record, Result, RowWriter, Shape,
    SplitWriter, StoredRow, TextTokenizer, TurnEnd, as_messages, encode,
};
use outputs::{SplitStats, Stats, ValidationLeaks};
use rayon::prelude::*;
use serde_json::Value;

use crate::config::{Config, OnBadRow, OnLeak};
use crate::destinations::Destination;
use crate::files::DataFile;
use crate::leaks::Cleaning;
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

/// Source and destination of a row.
struct Route<'a> {
    file: &'a DataFile,
    place: Place,
    split: SplitName,
}

/// A row to write.
struct Ready {
    row: StoredRow,
    /// Hash of its content.
    content: u64,
    encoded: Encoded,
    fingerprint: Option<Fingerprint>,
    changes: Changes,
    /// The control token that its text spells out.
    special: Option<String>,
}

/// Encodes rows and writes each to its split.
pub(crate) struct Writer<'a> {
    config: &'a Config,
    tokenizer: &'a TextTokenizer,
    sinks: BTreeMap<SplitName, Sink>,
    waiting: Vec<Waiting<'a>>,
    waiting_bytes: usize,
    control_tokens: ControlTokens,
    /// Compares validation, test and held-out rows with training rows; `None` if all rows train.
    check: Option<Check>,
    /// Compares test and held-out rows with validation rows; `None` without either.
    validation_check: Option<Check>,
    ids: HashSet<u64>,
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
        let validates = destinations.contains(&Destination::Split(SplitName::Validation));
        let tests = destinations
            .iter()
            .any(|to| matches!(to, Destination::Split(SplitName::Test) | Destination::HeldOut));
        let check = |needed: bool| needed.then(|| Check::new(config.leak, out)).transpose();
        Ok(Self {
            config,
            tokenizer,
            sinks,
            waiting: Vec::new(),
            waiting_bytes: 0,
            control_tokens: ControlTokens::new(tokenizer),
            check: check(validates || tests)?,
            validation_check: check(validates && tests)?,
            ids: HashSet::new(),
            component_rows: ComponentRows::new(config),
        })
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
                let fingerprint = Check::fingerprint(&self.config.leak, &row);
                for check in [&mut self.check, &mut self.validation_check].into_iter().flatten() {
                    check.add("held_out", &row, &fingerprint)?;
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
        let this = &*self;
        let encode_row = |Waiting { record, route }| match this.ready(record, &route.place) {
            // It depends on the machine, so it never decides which rows there are.
            Err(error @ Error::EndlessTokenizer { .. }) => Err(error.at_row(route.place)),
            ready => Ok((ready, route)),
        };
        threads::start();
        let encoded: Vec<_> = waiting.into_par_iter().map(encode_row).collect::<Result<_>>()?;
        for (ready, route) in encoded {
            match ready {
                Ok(ready) => {
                    count_changes(&ready, stats);
                    if !self.ids.insert(ready.row.id_hash()) {
                        tally(&mut stats.duplicate_ids, || {
                            format!("{} ({})", ready.row.id, ready.row.source)
                        });
                    }
                    self.write(ready, route, stats)?;
                }
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

    /// Encodes a row. Any thread may do this.
    fn ready(&self, mut record: Record, place: &Place) -> Result<Ready> {
        let special = self.control_tokens.find(&record).map(str::to_owned);
        match (&special, self.config.on_special) {
            (Some(token), OnSpecial::Error) => {
                return Err(Error::Row {
                    place: place.clone(),
                    reason: format!("the text spells out the control token `{token}`"),
                    hint: "remove it, or set `on_special` to `escape` or `allow`".into(),
                });
            }
            (Some(_), OnSpecial::Escape) => self.control_tokens.escape(&mut record),
            _ => {}
        }
        let encoded = encode(self.tokenizer, &record, self.config.encode_settings())?;
        let changes = record.changes;
        let row = stored(record, &encoded);
        let fingerprint = self.check.as_ref().map(|_| Check::fingerprint(&self.config.leak, &row));
        Ok(Ready { content: row.content_hash(), row, encoded, fingerprint, changes, special })
    }

    fn write(&mut self, ready: Ready, route: Route<'_>, stats: &mut Stats) -> Result<()> {
        let Route { file, place, split } = route;
        let Ready { row, content, mut encoded, fingerprint, .. } = ready;
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
        sink.counter.add(&row, content, encoded.tokens.len(), encoded.target_count());
        let weight = row.weight.unwrap_or(1.0);
        sink.tokens.push(&encoded.tokens, &encoded.trained, weight, encoded.prompt_length)?;
        if let Some(fingerprint) = fingerprint {
            for (check, learned) in
                [(&mut self.check, SplitName::Train), (&mut self.validation_check, SplitName::Validation)]
            {
                match check {
                    Some(check) if split == learned => check.add_train(&row, &fingerprint)?,
                    Some(check) if split > learned => check.add(split.as_str(), &row, &fingerprint)?,
                    _ => {}
                }
            }
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
        let drop = self.config.on_leak == OnLeak::Drop;
        if let Some(check) = self.validation_check {
            let cleaning = Cleaning { out, split: SplitName::Validation, drop };
            let found = cleaning.resolve(check, stats, None)?;
            if let Some(check) = &mut self.check {
                check.leave_out(SplitName::Validation.as_str(), &found.dropped_rows)?;
            }
            stats.leaks.in_validation = ValidationLeaks {
                checked_rows: found.checked_rows,
                count: found.count,
                rows: found.rows,
                remaining: found.remaining,
                dropped_rows: found.dropped,
            };
        }
        if let Some(check) = self.check {
            let cleaning = Cleaning { out, split: SplitName::Train, drop };
            let found = cleaning.resolve(check, stats, Some(&mut self.component_rows))?;
            let leaks = &mut stats.leaks;
            (leaks.checked_rows, leaks.count, leaks.remaining) =
                (found.checked_rows, found.count, found.remaining);
            (leaks.rows, leaks.dropped_train_rows) = (found.rows, found.dropped);
        }
        self.component_rows.write(out, stats)
    }
}

/// Counts the turns of a row that are excluded from the targets.
fn note_turns(stats: &mut SplitStats, encoded: &Encoded, example: impl FnOnce() -> String) {
    stats.excluded_turns += encoded.turns.excluded as u64;
    if encoded.turns.rewritten > 0 {
        tally(&mut stats.rewritten_turns, example);
        stats.rewritten_turns.count += encoded.turns.rewritten as u64 - 1;
    }
}

/// Counts the ends of a row's turns, and the keys that the chat template leaves out.
fn note_ends(stats: &mut Stats, tokenizer: &TextTokenizer, encoded: &Encoded) {
    for &TurnEnd { token, .. } in &encoded.turns.ends {
        let text = token.and_then(|token| tokenizer.control_text(token)).unwrap_or_default();
        let end = stats.turn_ends.entry(text.to_owned()).or_default();
        end.token = token;
        end.is_end_token = token.is_some_and(|token| tokenizer.eos().contains(&token));
        end.turns += 1;
    }
    for role in &encoded.turns.unwritten {
        *stats.unwritten_roles.entry(role.clone()).or_default() += 1;
    }
    for key in &encoded.turns.unread {
        *stats.unread_keys.entry(key.clone()).or_default() += 1;
    }
}

/// Counts a row whose text was changed or spells out a control token.
fn count_changes(ready: &Ready, stats: &mut Stats) {
    let Ready { row, changes, special, .. } = ready;
    let place = || format!("{} ({})", row.id, row.source);
    if changes.normalized {
        tally(&mut stats.normalized_rows, place);
    }
    if changes.trimmed {
        tally(&mut stats.trimmed_rows, place);
    }
    if let Some(token) = special {
        tally(&mut stats.special_tokens, || format!("{}: {token}", place()));
    }
}

/// Returns the bytes of text in a record.
fn text_bytes(record: &Record) -> usize {
    match &record.shape {
        Shape::Chat { messages, tools } => messages.iter().chain(tools).map(json_bytes).sum(),
        Shape::Completion { prompt, completion } => prompt.len() + completion.len(),
        Shape::Text(text) => text.len(),
    }
}

/// Returns the bytes of all strings in a value, and of the keys.
fn json_bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(json_bytes).sum(),
        Value::Object(fields) => fields.iter().map(|(key, value)| key.len() + json_bytes(value)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => size_of::<Value>(),
    }
}

/// Returns the row as it is stored.
fn stored(record: Record, encoded: &Encoded) -> StoredRow {
    let mut row = StoredRow {
        asked_message: encoded.asked_message,
        auth_weight: record.auth_weight,
        columns: record.columns,
        group: record.group,
        id: record.id,
        input: record.input,
        prompt: encoded.prompt.clone(),
        prov_entropy: record.prov_entropy,
        reference: encoded.reference.clone(),
        source: record.source,
        weight: Some(record.weight).filter(|weight| weight.to_bits() != 1f32.to_bits()),
        ..StoredRow::default()
    };
    match record.shape {
        Shape::Chat { messages, tools } => (row.messages, row.tools) = (Some(messages), tools),
        Shape::Completion { prompt, completion } => {
            let messages = as_messages(&prompt, &completion);
            row.asked_message = Some(messages.len() - 1);
            row.messages = Some(messages);
        }
        Shape::Text(text) => row.text = Some(text),
    }
    row
}

#[cfg(test)]
mod tests {
    use dataset::RawRow;
    use serde_json::json;

    use super::*;

    #[test]
    fn every_text_of_a_chat_counts_for_the_memory_of_a_block() {
        let long = "x".repeat(1000);
        let message = |more: Value| {
            let mut message = json!({"role": "assistant", "content": "a"});
            message.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"messages": [message]})
        };
        let mut rows = vec![
            message(json!({"content": [{"type": "text", "text": long}]})),
            message(json!({"reasoning_content": long})),
            message(json!({"tool_calls": [{"name": "f", "arguments": {"a": [long]}}]})),
            message(json!({})),
        ];
        rows[3]["tools"] = json!([{"name": "f", "description": long}]);
        for row in rows {
            let row = RawRow { line: 1, fields: row.as_object().unwrap().clone() };
            let record = Record::from_row(row, Path::new("x")).unwrap();
            assert!(text_bytes(&record) >= 1000, "{record:?}");
        }
    }
}
