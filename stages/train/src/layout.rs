//! The files of a run: copying them from the work folder to the outputs, and from the outputs of another run.

use std::path::Path;

use artifact::atomic;
use failure::{Context, Result};
use outputs::{ADAPTERS, CHECKPOINTS, ChatSettings, Document as _, METRICS, STATE, Summary};

/// Copies the checkpoints, the metrics and the newest resume state from `work` to `out`, and writes the summary. Each
/// checkpoint gets the chat settings of the dataset in `tokens`, if there are any.
///
/// Fails if the metrics or the checkpoints are not those that the resume state knows.
pub(crate) fn write_outputs(work: &Path, out: &Path, summary: &Summary, tokens: &Path) -> Result<()> {
    fs_err::create_dir_all(out)?;
    if work.join(CHECKPOINTS).exists() {
        copy_tree(&work.join(CHECKPOINTS), &out.join(CHECKPOINTS), artifact::hand_over_file)?;
        let settings = tokens.join(ChatSettings::FILE);
        if settings.is_file() {
            let settings = ChatSettings::read(&settings)?;
            for entry in fs_err::read_dir(out.join(CHECKPOINTS))? {
                let adapters = entry?.path().join(ADAPTERS);
                // A file that is there may be linked or read-only.
                match fs_err::remove_file(adapters.join(ChatSettings::FILE)) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
                    _ => settings.write(&adapters)?,
                }
            }
        }
    }
    let newest = tuner::step_name(summary.steps as usize);
    copy_tree(&work.join(STATE).join(newest), &out.join(STATE), artifact::hand_over_file)?;
    reflink_copy::reflink_or_copy(work.join(METRICS), out.join(METRICS))?;
    tuner::check_outputs(out)
        .context("another process has changed files of this run")
        .hint("run the same command again, and only once at a time")?;
    Ok(summary.write(out)?)
}

/// Copies the outputs of another run, in `data`, into `work`, to resume from them after `steps` steps.
///
/// `state/` is renamed into place last, after `check`, so an interrupted copy is ignored, and so is one that `check` refuses.
pub(crate) fn adopt_outputs(
    data: &Path,
    steps: usize,
    work: &Path,
    check: &dyn Fn() -> Result<()>,
) -> Result<()> {
    let checkpoints = work.join(CHECKPOINTS);
    if checkpoints.exists() {
        fs_err::remove_dir_all(&checkpoints)?;
    }
    // A segment may end before the first checkpoint.
    if data.join(CHECKPOINTS).exists() {
        copy_tree(&data.join(CHECKPOINTS), &checkpoints, copy_file)?;
    }
    // Not `copy`, which would keep the file read-only: more lines will be appended.
    fs_err::write(work.join(METRICS), fs_err::read(data.join(METRICS))?)?;
    atomic::write_folder(&work.join(STATE), |unfinished| {
        copy_tree(&data.join(STATE), &unfinished.join(tuner::step_name(steps)), copy_file)?;
        check()
    })
}

/// Copies a file of another run. Never a link: the run appends to the copy.
fn copy_file(from: &Path, to: &Path) -> std::io::Result<()> {
    reflink_copy::reflink_or_copy(from, to).map(drop)
}

/// Copies a folder without the entries whose names begin with a dot.
fn copy_tree(from: &Path, to: &Path, copy: fn(&Path, &Path) -> std::io::Result<()>) -> Result<()> {
    fs_err::create_dir_all(to)?;
    for entry in fs_err::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name.to_string_lossy().starts_with('.') {
            continue;
        }
        let (source, target) = (entry.path(), to.join(&name));
        if entry.file_type()?.is_dir() {
            copy_tree(&source, &target, copy)?;
        } else {
            copy(&source, &target).with_context(|| format!("copying `{}`", source.display()))?;
        }
    }
    Ok(())
}
