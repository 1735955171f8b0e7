//! Similarity of meaning to the references, of answers and of the floors.

use std::path::Path;

use failure::{Context, Result};
use mlx_ext::Backend;
use models::LoadOptions;
use tuner::TextEncoder;

use crate::config::Config;
use crate::rows::Rows;
use crate::scores::{ScoredAnswers, Similarities, floor_answers};

/// Scores the answers and the floors with the encoder in `folder`. A row without an answer scores 0.
///
/// # Errors
///
/// Fails when the encoder cannot be loaded or run.
pub(crate) fn measure(
    folder: &Path,
    backend: &Backend,
    rows: &Rows,
    scored: &ScoredAnswers,
    config: &Config,
) -> Result<Similarities> {
    let floors = floor_answers(rows, config.seed);
    let references = rows.references();
    let answers = scored.0.iter().flatten().filter_map(|row| row.text.as_deref());
    let texts = references.iter().copied().chain(floors.values().flatten().copied()).chain(answers);
    let encoder =
        TextEncoder::open(folder, &LoadOptions::on(backend, config.dtype)).context("opening the encoder")?;
    let vectors = encoder.vectors(texts, config.encoder_batch_size)?;
    let of = |rows: &[crate::answers::Scored]| {
        vectors.cosines(rows.iter().map(|row| row.text.as_deref()).zip(references.iter().copied()))
    };
    let floors = floors.iter().map(|(name, answers)| {
        let pairs = answers.iter().map(|answer| Some(*answer)).zip(references.iter().copied());
        (name.clone(), vectors.cosines(pairs))
    });
    Ok(Similarities { systems: scored.0.iter().map(|rows| of(rows)).collect(), floors: floors.collect() })
}
