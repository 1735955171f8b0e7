//! The distrust losses of the training rows.

use failure::{Context, Required, Result};
use tuner::{Distrust, DistrustMode};

use crate::config::Config;
use crate::inputs::Inputs;

/// Reads the distrust losses of the training rows, if the settings use them.
///
/// # Errors
///
/// Fails when the rows cannot be read, when one is out of range, and when none has a loss.
pub(crate) fn of_rows(inputs: &Inputs<'_>, config: &Config) -> Result<Option<Distrust>> {
    if config.distrust == DistrustMode::Off {
        return Ok(None);
    }
    let rows = inputs.rows.required("the distrust loss needs the dataset's `rows`")?.join("train.jsonl");
    let mut losses = Vec::new();
    for row in dataset::read_rows(&rows)? {
        let row = row?;
        let loss = match (row.auth_weight, row.prov_entropy) {
            (Some(authority), Some(entropy)) => {
                let loss = tuner::distrust_loss(authority, entropy, config.distrust_alpha);
                Some(loss.with_context(|| format!("row `{}` from {}", row.id, row.source))?)
            }
            _ => None,
        };
        losses.push(loss);
    }
    if config.distrust == DistrustMode::Additive {
        tracing::info!(
            "distrust = \"additive\" only logs `distrust_loss`: that loss does not depend on the model, so it cannot \
             change a gradient; \"reweight\" can"
        );
    }
    Ok(Some(Distrust::new(config.distrust, config.distrust_lambda, &losses)?))
}
