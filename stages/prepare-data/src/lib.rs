//! Turns data files into a dataset: assigns rows to splits, renders and tokenizes them, and checks them for leaks.
//!
//! The files are read twice: the first pass decides where each row goes, the second writes. In between, a few bytes per
//! row are kept; the rows are never all in memory. The bytes written depend on the files, the tokenizer and the settings,
//! not on the number of threads.
//!
//! The crate `dataset` reads formats, renders templates and writes token files; the crate `stage` publishes.
//!
//! ```no_run
//! # fn main() -> failure::Result<()> {
//! use std::path::{Path, PathBuf};
//!
//! let config = prepare_data::Config { system: "Translate.".into(), ..Default::default() };
//! let files = prepare_data::find_files(&[PathBuf::from("pairs.csv")], &config)?;
//! let stats = prepare_data::run(Path::new("tokenizer"), &files, &config, Path::new("out"))?;
//! println!("{} training rows", stats.splits["train"].rows);
//! # Ok(())
//! # }
//! ```

mod config;
mod destinations;
mod files;
mod leaks;
mod losses;
mod mapping;
mod mixture;
mod notices;
mod rows;
mod stats;
mod template;
mod write;

use std::path::{Path, PathBuf};

use dataset::split::SplitName;
use dataset::{Date, Error, TemplateSettings, TextTokenizer};
use failure::Result;
use outputs::{ChatSettings, Document, Leak, LeakKind, LeakStats, Stats};

use crate::destinations::{Destination, destinations};
use crate::rows::for_each_row;
use crate::write::Writer;

pub use crate::config::{
    Component, Condition, Config, HoldOut, HoldOutTo, MaxRows, OnBadRow, OnLeak, Scalar, SplitBy, SplitConfig,
};
pub use crate::files::DataFile;
pub use crate::notices::notices;

/// Bytes of rows and tokens per byte of data: the text with its parts, and four bytes for a token of a few letters.
pub const WRITTEN_PER_BYTE: u64 = 4;

/// Number of leaks in the error about them.
const LISTED_LEAKS: u64 = 10;

/// Finds the files that `config` names in `data`, a list of files and folders.
///
/// A name is looked up in each folder and compared with the end of each file's path. If the settings name no file, all
/// files are used: the given ones, and those in the given folders that end in `.jsonl`, `.ndjson`, `.json`, `.csv` or
/// `.tsv`, except hidden ones. With `split.by = "files"` their names decide the split (`train`, `valid`, `validation`, `val`
/// or `dev`, `test`, perhaps with a number as in `train-00000-of-00002`); so they do with `auto`, if every file is named
/// like that and there is a file besides those of `train`. The files of a mixture are sorted by the names of its components.
///
/// # Errors
///
/// Fails when a named or given file does not exist, or when there are no files (bad input).
pub fn find_files(data: &[PathBuf], config: &Config) -> Result<Vec<DataFile>> {
    Ok(files::find(data, config)?)
}

/// Makes the dataset of `files` in the folder `out`: `rows/`, `tokens/`, `tokenizer/` and `stats.json`.
///
/// # Errors
///
/// Fails when a file or row cannot be used, when a split that the settings ask for is empty, and when validation or test
/// rows occur in training rows and `on_leak` is `error`.
///
/// # Panics
///
/// Panics if [`Config::problems`] returns any.
pub fn run(tokenizer: &Path, files: &[DataFile], config: &Config, out: &Path) -> Result<Stats> {
    let settings = TemplateSettings {
        date: Date::parse(&config.template_date),
        arguments: config.template_arguments.clone().into_iter().collect(),
    };
    let text_tokenizer = TextTokenizer::open_with(tokenizer, &settings)?;
    let mut stats = Stats::default();
    let destinations = destinations(files, config, &mut stats)?;
    let mut writer = Writer::create(config, &text_tokenizer, &destinations, out)?;
    let mut destinations = destinations.into_iter();
    // The first pass has counted the rows.
    let mut uncounted = Stats::default();
    for_each_row(files, config, &mut uncounted, |record, _, file| {
        let destination = destinations.next().unwrap_or(Destination::Nowhere);
        writer.push(*record, destination, file, &mut stats)
    })?;
    writer.finish(out, &mut stats)?;
    copy_tokenizer(tokenizer, &out.join(outputs::TOKENIZER))?;
    write_chat_settings(text_tokenizer.chat_settings(), config, &stats, out)?;
    stats.write(out)?;
    losses::warn(config, &stats);
    refuse_empty(config, files, &stats)?;
    refuse_leaks(config, &stats)?;
    Ok(stats)
}

/// Longest file of a tokenizer folder, in bytes.
const MAX_TOKENIZER_BYTES: u64 = 256 << 20;

fn copy_tokenizer(from: &Path, to: &Path) -> dataset::Result<()> {
    for file in dataset::tokenizer_files(from)? {
        let copy = to.join(&file);
        fs_err::create_dir_all(copy.parent().unwrap_or(to))?;
        fs_err::write(copy, ::files::read(&from.join(file), MAX_TOKENIZER_BYTES)?)?;
    }
    Ok(())
}

/// Writes what later stages must follow: beside the tokenizer for evaluate, and beside the tokens for train and fuse. It
/// includes what the tokenizer's folder has settled before, since the rows are rendered with that too.
fn write_chat_settings(settled: &ChatSettings, config: &Config, stats: &Stats, out: &Path) -> Result<()> {
    let mut settings = settled.clone();
    settings.end_tokens.extend(notices::new_end_tokens(stats));
    settings.end_tokens.sort_unstable();
    settings.end_tokens.dedup();
    settings.template_arguments.extend(config.template_arguments.clone());
    if !config.template_date.is_empty() {
        settings.template_date.clone_from(&config.template_date);
    }
    if !settings.is_empty() {
        settings.write(&out.join(outputs::TOKENIZER))?;
        settings.write(&out.join(outputs::TOKENS))?;
    }
    Ok(())
}

/// Fails if a split that the settings ask for has no rows.
fn refuse_empty(config: &Config, files: &[DataFile], stats: &Stats) -> dataset::Result<()> {
    let by_file = files.iter().any(|file| file.split.is_some());
    for split in SplitName::ALL {
        let wanted = match (by_file, split) {
            (_, SplitName::Train) => true,
            (true, _) => files.iter().any(|file| file.split == Some(split)),
            (_, SplitName::Validation) => config.split.validation > 0.0,
            (_, SplitName::Test) => config.split.test > 0.0 || config.hold_out.to == HoldOutTo::Test,
        };
        let found = &stats.splits[split.as_str()];
        if wanted && found.rows == 0 {
            let counts = [
                (stats.bad_rows.count, "unusable"),
                (stats.filtered_rows, "filtered out"),
                (stats.held_out_rows, "held out"),
                (found.too_long.count, "too long for this split"),
                (found.no_target.count, "in this split without a target"),
                (found.rewritten_turns.count, "turns rewritten by the chat template"),
            ];
            let counts = counts.into_iter().filter(|&(count, _)| count > 0);
            let mut causes = vec![format!("{} rows read", stats.rows_read)];
            causes.extend(counts.map(|(count, what)| format!("{count} {what}")));
            let reason = format!("the split `{}` is empty: {}", split.as_str(), causes.join(", "));
            let hint = match split {
                _ if found.no_target.count > 0 && found.rewritten_turns.count > 0 => {
                    "the chat template does not write these answers as the model would have to, for example without \
                     reasoning: use another template, or set `on_rewritten_turn = \"train\"`"
                        .to_owned()
                }
                _ if found.no_target.count > 0 => {
                    "only messages with the role `assistant` are targets: give the answers that role, or raise \
                     `max_tokens` if the rows are cut before them"
                        .to_owned()
                }
                SplitName::Train => "give more rows, or loosen `where` or `max_tokens`".to_owned(),
                _ => format!(
                    "give more rows, loosen `where` or `max_tokens`, or set `split.{}` to 0",
                    split.as_str()
                ),
            };
            return Err(Error::Rows { reason, hint });
        }
    }
    Ok(())
}

/// Fails if validation, test or held-out rows occur in training rows, or test or held-out rows in validation rows, unless
/// the settings allow it.
fn refuse_leaks(config: &Config, stats: &Stats) -> dataset::Result<()> {
    let LeakStats { remaining, checked_rows, rows, in_validation, .. } = &stats.leaks;
    if config.on_leak == OnLeak::Allow || remaining + in_validation.remaining == 0 {
        return Ok(());
    }
    let mut lines = Vec::new();
    if *remaining > 0 {
        lines.push(format!(
            "{remaining} of {checked_rows} validation, test and held-out rows occur in training rows:"
        ));
        lines.extend(describe_leaks(rows, *remaining, "training"));
    }
    if in_validation.remaining > 0 {
        lines.push(format!(
            "{} of {} test and held-out rows occur in validation rows:",
            in_validation.remaining, in_validation.checked_rows
        ));
        lines.extend(describe_leaks(&in_validation.rows, in_validation.remaining, "validation"));
    }
    let rows = match (*remaining, in_validation.remaining) {
        (0, _) => "validation rows",
        (_, 0) => "training rows",
        _ => "training and validation rows",
    };
    let hint = match config.on_leak {
        OnLeak::Drop => {
            "only several rows together hold these texts: raise `leak.overlap`, or set `on_leak = \"allow\"`"
                .to_owned()
        }
        _ => format!(
            "set `on_leak = \"drop\"` to leave those {rows} out, or split by a group that such rows share"
        ),
    };
    Err(Error::Rows { reason: lines.join("\n"), hint })
}

/// Describes the first of `count` leaks into the rows of a split.
fn describe_leaks(leaks: &[Leak], count: u64, into: &str) -> Vec<String> {
    let listed = leaks.iter().take(count.min(LISTED_LEAKS) as usize);
    let mut lines: Vec<String> = listed.map(|leak| describe_leak(leak, into)).collect();
    if count > LISTED_LEAKS {
        lines.push("…".to_owned());
    }
    lines
}

/// Describes a leak into a row of the split `into` in one line.
fn describe_leak(leak: &Leak, into: &str) -> String {
    let Leak { row, split, .. } = leak;
    let source = failure::one_line(&leak.source);
    let percent = leak.overlap * 100.0;
    let train = match (&leak.train_row, &leak.train_source) {
        (Some(id), Some(source)) => format!("{into} row `{id}` ({})", failure::one_line(source)),
        _ => format!("several {into} rows together"),
    };
    let how = match leak.kind {
        LeakKind::Exact => format!("equals {train}"),
        LeakKind::Contained => format!("contains or is part of {train}"),
        LeakKind::Side => format!("has the same prompt or answer as {train}"),
        LeakKind::Overlap => format!("shares {percent:.0}% of its text with {train}"),
    };
    format!("{split} row `{row}` ({source}) {how}")
}
