//! Turns data files into a dataset: rows put into splits, rendered, tokenized, checked for leaks.
//!
//! Two passes over the files: the first decides where each row goes, the second writes. Between them there are a few
//! bytes a row; the rows themselves are never all in memory. The bytes written depend on the files, the tokenizer and
//! the settings, not on the number of threads.
//!
//! This crate leaves formats, templates and token files to the crate `dataset`, and publishing to the crate `stage`.
//!
//! ```no_run
//! # fn main() -> dataset::Result<()> {
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
mod files;
mod mapping;
mod parts;
mod plan;
mod stats;
mod write;

use std::path::Path;

use dataset::split::SplitName;
use dataset::{Date, Error, Result, TextTokenizer};

pub use config::{
    Condition, Config, HoldOut, HoldOutTo, MaxRows, OnBadRow, OnLeak, Part, Scalar, SplitBy, SplitConfig,
};
pub use files::{DataFile, find as find_files};
pub use stats::{LeakReport, Lengths, SplitStats, Stats, Tally};

use plan::Destination;
use write::Writer;

/// Makes the dataset of `files` in the folder `out`: `rows/`, `tokens/`, `tokenizer/` and `stats.json`.
///
/// # Errors
///
/// Fails when a file or row cannot be used, a split that was asked for is empty, or validation or test rows occur in
/// training rows and `on_leak` is `error`.
///
/// # Panics
///
/// When [`Config::problems`] has any.
pub fn run(tokenizer: &Path, files: &[DataFile], config: &Config, out: &Path) -> Result<Stats> {
    let date = Date::parse(&config.template_date);
    let text_tokenizer = TextTokenizer::open_with_date(tokenizer, date)?;
    let mut stats = Stats::default();
    let destinations = plan::destinations(files, config, &mut stats)?;
    let mut writer = Writer::create(config, &text_tokenizer, &destinations, out)?;
    let mut next = destinations.into_iter();
    let mut repeated = Stats::default();
    plan::for_each_row(files, config, &mut repeated, |record, _, file| {
        let destination = next.next().unwrap_or(Destination::Nowhere);
        writer.push(*record, destination, file, &mut stats)
    })?;
    writer.finish(out, &mut stats)?;
    copy_tokenizer(tokenizer, &out.join("tokenizer"))?;
    let text = serde_json::to_string_pretty(&stats).map_err(std::io::Error::from)?;
    fs_err::write(out.join("stats.json"), text + "\n")?;
    refuse_empty(config, files, &stats)?;
    refuse_leaks(config, &stats)?;
    Ok(stats)
}

/// The files that make a tokenizer; a folder given as one may hold a whole model.
const TOKENIZER_FILES: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "config.json",
    "ids.json",
    "additional_chat_templates",
];

fn copy_tokenizer(from: &Path, to: &Path) -> Result<()> {
    fs_err::create_dir_all(to)?;
    for name in TOKENIZER_FILES.map(|name| from.join(name)).iter().filter(|path| path.exists()) {
        let target = to.join(name.file_name().expect("it was joined above"));
        if !name.is_dir() {
            fs_err::write(target, fs_err::read(name)?)?;
            continue;
        }
        fs_err::create_dir_all(&target)?;
        for entry in fs_err::read_dir(name)? {
            let entry = entry?;
            fs_err::write(target.join(entry.file_name()), fs_err::read(entry.path())?)?;
        }
    }
    Ok(())
}

fn refuse_empty(config: &Config, files: &[DataFile], stats: &Stats) -> Result<()> {
    for split in SplitName::ALL {
        let wanted = match (config.split.by, split) {
            (_, SplitName::Train) => true,
            (SplitBy::Files, _) => files.iter().any(|file| file.split == Some(split)),
            (_, SplitName::Validation) => config.split.validation > 0.0,
            (_, SplitName::Test) => config.split.test > 0.0 || config.hold_out.to == HoldOutTo::Test,
        };
        let found = &stats.splits[split.as_str()];
        if wanted && found.rows == 0 {
            let reason = format!(
                "the split `{}` is empty: {} rows read, {} unusable, {} filtered out, {} held out; in this split {} too \
                 long, {} without a target",
                split.as_str(),
                stats.rows_read,
                stats.bad_rows.count,
                stats.filtered_rows,
                stats.held_out_rows,
                found.too_long.count,
                found.no_target.count,
            );
            let hint = "give more rows, loosen `where` or `max_tokens`, or set the share in `split` to 0";
            return Err(Error::Rows { reason, hint: hint.into() });
        }
    }
    Ok(())
}

fn refuse_leaks(config: &Config, stats: &Stats) -> Result<()> {
    if config.on_leak == OnLeak::Allow || stats.leaks.remaining == 0 {
        return Ok(());
    }
    let mut reason = format!(
        "{} of {} rows kept from training occur in it",
        stats.leaks.remaining, stats.leaks.checked_rows
    );
    for leak in stats.leaks.rows.iter().take(10.min(stats.leaks.remaining as usize)) {
        let kind = serde_json::to_value(leak.kind).map_err(std::io::Error::from)?;
        let train = match (&leak.train_row, &leak.train_source) {
            (Some(id), Some(source)) => format!("training row `{id}` ({source})"),
            _ => "training rows taken together".to_owned(),
        };
        let line = format!(
            "\n{} row `{}` ({}): {} {:.0} % with {train}",
            leak.split,
            leak.row,
            leak.source,
            kind.as_str().unwrap_or_default(),
            leak.overlap * 100.0
        );
        reason.push_str(&line);
    }
    let hint = "hold such rows out with `hold_out.ids`, split by a group that they share, or set `on_leak` to `drop` or `allow`";
    Err(Error::Rows { reason, hint: hint.into() })
}
