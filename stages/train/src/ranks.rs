//! Several processes (ranks) that share a run: rank 0 runs the stage, and the others compute their part of every step.

use std::rc::Rc;

use failure::{Error, Kind, Result};
use stage::Run;
use tuner::Ranks;

use crate::config::Config;

/// Largest number of slices of an unfinished run that is looked for.
const MOST_SLICES: usize = 256;

/// Joins the ranks that the environment describes; `None` for a process on its own.
///
/// # Errors
///
/// Fails when the environment is wrong, or when a rank does not come.
pub(crate) fn join() -> Result<Option<Rc<Ranks>>> {
    let ranks = Ranks::join(|ending| stage::end_now(ending.code, &ending.reason))?;
    Ok(ranks.map(|ranks| {
        stage::speak_as_rank(ranks.rank());
        tracing::info!("rank 0 of {}", ranks.size());
        Rc::new(ranks)
    }))
}

/// Decides into how many slices micro-batches are cut, if the settings leave it to the run.
///
/// There are enough for all ranks. The number decides the bytes, so a run that was begun on another number of ranks keeps its
/// own.
///
/// # Errors
///
/// Fails when a rank is lost.
pub(crate) fn choose_slices(run: &mut Run<Config>, ranks: Option<&Ranks>, shares_layers: bool) -> Result<()> {
    if run.config().slices > 0 {
        return Ok(());
    }
    let size = ranks.filter(|_| !shares_layers).map_or(1, Ranks::size);
    let mut slices = 1;
    if ranks.is_none_or(Ranks::is_first) {
        slices = slices_of(run, size)?;
    }
    if let Some(ranks) = ranks {
        let bytes = ranks.from_first(&(slices as u64).to_le_bytes())?;
        slices = bytes.iter().rev().fold(0, |number, &byte| number << 8 | usize::from(byte));
    }
    run.adjust(|config| config.slices = slices)
}

/// Returns the number of slices for `size` ranks, or that of an unfinished run.
fn slices_of(run: &Run<Config>, size: usize) -> Result<usize> {
    let config = run.config();
    let needed = size.div_ceil(config.accumulation).min(config.batch_size);
    let with = |slices: usize| Config { slices, ..config.clone() };
    if run.is_begun(&with(needed))? {
        return Ok(needed);
    }
    for slices in (1..=config.batch_size.min(MOST_SLICES)).filter(|&slices| slices != needed) {
        if run.is_unfinished(&with(slices))? {
            tracing::info!(
                "continuing a run that was begun with slices = {slices}, on another number of ranks"
            );
            return Ok(slices);
        }
    }
    Ok(needed)
}

/// Warns about ranks that have nothing to do.
pub(crate) fn warn_about_idle(ranks: &Ranks, config: &Config) {
    let parts = config.accumulation.saturating_mul(config.slices.clamp(1, config.batch_size));
    if parts < ranks.size() {
        tracing::warn!(
            "a step has {parts} parts for {} ranks, so some do nothing; raise `batch_size`, `accumulation` or `slices`",
            ranks.size()
        );
    }
}

/// Ends the run on all ranks: tells the others the outcome of rank 0, or takes it over.
///
/// # Errors
///
/// Returns the error of this rank, or the exit code of rank 0.
pub(crate) fn end(ranks: &Ranks, outcome: Result<()>) -> Result<()> {
    let code = outcome.as_ref().map_or_else(|error| error.kind().exit_code(), |()| 0);
    // All ranks know of these endings.
    let is_expected = outcome
        .as_ref()
        .map_or_else(|error| matches!(error.kind(), Kind::Interrupted { .. } | Kind::Status(_)), |()| true);
    if !ranks.is_first() {
        if let Some(code) = ranks.ended().filter(|_| !is_expected) {
            return status(code);
        }
        if is_expected {
            return status(ranks.wait_for_end()?);
        }
    } else if is_expected {
        ranks.end(code);
        return outcome;
    }
    if let Err(error) = &outcome {
        ranks.fail(code, &format!("rank {} failed: {}", ranks.rank(), error.messages().join(": ")));
    }
    outcome
}

/// Returns the exit code of rank 0 as the outcome of this rank.
pub(crate) fn status(code: u8) -> Result<()> {
    if code == 0 { Ok(()) } else { Err(Error::new(Kind::Status(code), "")) }
}
