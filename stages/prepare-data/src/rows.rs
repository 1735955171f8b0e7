//! Reading the usable rows of all files, the same way in both passes.

use dataset::{Error, RawRow, Record, Result, RowProblem, RowReader};
use outputs::Stats;

use crate::config::{Config, OnBadRow};
use crate::files::DataFile;
use crate::mapping::{Mapped, Mapping};
use crate::stats::tally;

/// Calls `each` with every usable row and whether it is held out, in the order of the files.
///
/// Leaves out unusable rows and rows that fail a condition, and counts them in `stats`.
///
/// # Errors
///
/// Fails when a file cannot be read, a row is unusable and `on_bad_row` is `error`, or the settings name a field or hold out an
/// id that no row has. Returns the errors of `each`.
pub(crate) fn for_each_row<'f>(
    files: &'f [DataFile],
    config: &Config,
    stats: &mut Stats,
    mut each: impl FnMut(Box<Record>, bool, &'f DataFile) -> Result<()>,
) -> Result<()> {
    let mut unseen: Vec<&str> = Mapping::fields(config).collect();
    let mut unseen_ids = Mapping::held_out_ids(config);
    for file in files {
        let mapping = Mapping::new(config, file.component.as_deref());
        let mut reader = RowReader::open(&file.path)?;
        while let Some(row) = reader.next_row()? {
            stats.rows_read += 1;
            if let Ok(row) = &row {
                unseen.retain(|name| !row.fields.contains_key(*name));
                if let Some(id) = mapping.held_out_id(row) {
                    unseen_ids.remove(id);
                }
            }
            match row.and_then(|row: RawRow| mapping.map(row, &file.path)) {
                Ok(Mapped::Filtered) => stats.filtered_rows += 1,
                Ok(Mapped::Row(record)) => each(record, false, file)?,
                Ok(Mapped::HeldOut(record)) => each(record, true, file)?,
                Err(problem) => skip_or_fail(config, stats, problem, file)?,
            }
        }
    }
    if let Some(name) = unseen.first() {
        return Err(Error::Rows {
            reason: format!("the settings name the field `{name}`, which no row has"),
            hint: "correct the name in `where`, `hold_out`, `group_fields` or `columns`".into(),
        });
    }
    match unseen_ids.first() {
        None => Ok(()),
        Some(id) => Err(Error::Rows {
            reason: format!("the settings hold out the id `{id}`, which no row has"),
            hint: "correct the id in `hold_out.ids`, or remove it".into(),
        }),
    }
}

fn skip_or_fail(config: &Config, stats: &mut Stats, problem: RowProblem, file: &DataFile) -> Result<()> {
    let error = problem.in_file(&file.path);
    match config.on_bad_row {
        OnBadRow::Error => Err(error),
        OnBadRow::Skip => {
            tally(&mut stats.bad_rows, || one_line(&error, file));
            Ok(())
        }
    }
}

/// Describes an unusable row in one line, without the folder of the file, so that `stats.json` does not depend on it.
pub(crate) fn one_line(error: &Error, file: &DataFile) -> String {
    let text = error.to_string();
    let folder =
        file.path.parent().map(|folder| format!("{}/", failure::one_line(&folder.display().to_string())));
    let folder = folder.unwrap_or_default();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix(&folder).unwrap_or(line).to_owned()
}
