//! What rank 0 tells the other ranks of a run: the resume state that it loaded, and the losses of a split.

use mlx_rs::Array;
use outputs::RowLoss;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::ranks::Ranks;
use crate::resume_state::{ResumeState, RunCounters};
use crate::trainer::Trainer;

/// The numbers of a resume state, without its arrays.
#[derive(Serialize, Deserialize)]
struct Numbers {
    optimizer_steps: usize,
    counters: RunCounters,
}

/// Returns the resume state of rank 0 on every rank; `None` if it has none. The other ranks pass `None`.
///
/// # Errors
///
/// Fails when a rank is lost, or when the state does not fit the trainer.
pub(crate) fn resume_state(
    ranks: &Ranks,
    trainer: &Trainer,
    loaded: Option<ResumeState>,
) -> Result<Option<ResumeState>> {
    let numbers = loaded
        .as_ref()
        .map(|state| Numbers { optimizer_steps: state.optimizer_steps, counters: state.counters.clone() });
    let bytes = serde_json::to_vec(&numbers).expect("numbers and strings are always JSON");
    let numbers: Option<Numbers> = serde_json::from_slice(&ranks.from_first(&bytes)?).map_err(|error| {
        Error::Ranks { reason: format!("the resume state of rank 0 cannot be read: {error}") }
    })?;
    let Some(Numbers { optimizer_steps, counters }) = numbers else { return Ok(None) };
    if let Some(state) = &loaded {
        let fits = state.parameters.len() == trainer.parameters().len()
            && state.moments.len() == trainer.optimizer().moments().len();
        if !fits {
            return Err(Error::OtherShapes { what: "parameters" });
        }
    }
    let (parameters, moments) = match loaded {
        Some(state) => (state.parameters, state.moments),
        None => (trainer.parameters().to_vec(), trainer.optimizer().moments().to_vec()),
    };
    let share = |arrays: Vec<Array>| -> Result<Vec<Array>> {
        arrays.iter().map(|array| ranks.array_from_first(array)).collect()
    };
    let parameters = share(parameters)?;
    let moments = moments.into_iter().map(share).collect::<Result<_>>()?;
    Ok(Some(ResumeState { parameters, moments, optimizer_steps, counters }))
}

/// Joins the losses of rows that each rank has scored; a row that it has not scored has no targets.
///
/// # Errors
///
/// Fails when a rank is lost.
pub(crate) fn row_losses(ranks: &Ranks, rows: &[RowLoss]) -> Result<Vec<RowLoss>> {
    let halves = |number: u64| [number as u32, (number >> 32) as u32];
    let words: Vec<u32> = rows
        .iter()
        .flat_map(|row| {
            let bits = if row.tokens > 0 { row.loss.to_bits() } else { 0 };
            [halves(bits), halves(row.tokens)].concat()
        })
        .collect();
    let joined = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    let words = ranks.sum_words(&words)?;
    let row = |words: &[u32]| RowLoss {
        loss: f64::from_bits(joined(words[0], words[1])),
        tokens: joined(words[2], words[3]),
    };
    Ok(words.chunks_exact(4).map(row).collect())
}
