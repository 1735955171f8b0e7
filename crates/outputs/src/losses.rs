//! `losses.json`: the loss of every checkpoint on every row of a split.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::files::Document;
use crate::stages;

/// Largest relative distance of a checkpoint's loss from the mean over its rows: rounding, not contradiction.
const TOLERANCE: f64 = 1e-4;

/// Losses of checkpoints, written by validate. Readers that need less memory can choose another type for rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Losses<Row = NamedRowLoss> {
    /// Name of the split.
    pub split: String,
    /// Number of rows in the split.
    pub rows: u64,
    /// Number of targets in the split.
    pub tokens: u64,
    /// One entry per checkpoint; step 0 is the base model.
    pub checkpoints: Vec<CheckpointLosses<Row>>,
}

/// Losses of one checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CheckpointLosses<Row = NamedRowLoss> {
    /// Step of the checkpoint.
    pub step: u64,
    /// Mean loss in nats per target over the whole split.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// e to the loss.
    #[serde(deserialize_with = "number")]
    pub perplexity: f64,
    /// Number of targets.
    pub tokens: u64,
    /// One entry per row of the split, in its order.
    pub rows: Vec<Row>,
}

/// Loss of one row.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct RowLoss {
    /// Sum over the row's targets, in nats.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Number of targets.
    pub tokens: u64,
}

/// Loss of the row with an id.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct NamedRowLoss {
    /// Group of the row, whose rows are drawn together; absent for a row on its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Id of the row.
    pub id: String,
    /// Sum over the row's targets, in nats.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Number of targets.
    pub tokens: u64,
}

/// Reads a number; JSON writers turn NaN and infinity into null, so null means "not finite" here.
fn number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

impl CheckpointLosses {
    /// Sums up the rows of one checkpoint.
    pub fn new(step: u64, rows: Vec<NamedRowLoss>) -> Self {
        let tokens = rows.iter().map(|row| row.tokens).sum();
        let loss = rows.iter().map(|row| row.loss).sum::<f64>() / tokens as f64;
        Self { step, loss, perplexity: loss.exp(), tokens, rows }
    }

    fn check(&self, rows: u64, tokens: u64) -> Result<(), String> {
        if let Some(row) = self.rows.iter().find(|row| !row.loss.is_finite()) {
            return Err(format!("the loss of row `{}` is not finite", row.id));
        }
        if !self.loss.is_finite() {
            return Err("its loss is not finite".to_owned());
        }
        if self.rows.is_empty() {
            return Err("it has no rows".to_owned());
        }
        if self.rows.len() as u64 != rows {
            return Err(format!("it has {} rows, the whole split has {rows}", self.rows.len()));
        }
        let counted: u64 = self.rows.iter().map(|row| row.tokens).sum();
        if counted != self.tokens || counted != tokens {
            return Err(format!("its rows have {counted} targets, the whole split has {tokens}"));
        }
        let mut ids = BTreeSet::new();
        if let Some(row) = self.rows.iter().find(|row| !ids.insert(row.id.as_str())) {
            return Err(format!("row `{}` occurs twice", row.id));
        }
        let mean = self.rows.iter().map(|row| row.loss).sum::<f64>() / counted.max(1) as f64;
        if (mean - self.loss).abs() > TOLERANCE * self.loss.abs().max(TOLERANCE) {
            return Err(format!("its loss is {}, but the mean over its rows is {mean}", self.loss));
        }
        Ok(())
    }
}

impl Document for Losses {
    const FILE: &'static str = stages::LOSSES;
    const STAGE: &'static str = "validate";

    fn check(&self) -> Result<(), String> {
        let mut steps = BTreeSet::new();
        for checkpoint in &self.checkpoints {
            let step = checkpoint.step;
            if !steps.insert(step) {
                return Err(format!("step {step} occurs twice"));
            }
            checkpoint.check(self.rows, self.tokens).map_err(|reason| format!("step {step}: {reason}"))?;
            let first = &self.checkpoints[0];
            for ((number, row), expected) in (1..).zip(&checkpoint.rows).zip(&first.rows) {
                if row.id != expected.id {
                    let (id, other) = (&row.id, &expected.id);
                    return Err(format!(
                        "row {number} is `{id}` for step {step} but `{other}` for step {}",
                        first.step
                    ));
                }
                if row.tokens != expected.tokens {
                    let (id, tokens, other) = (&row.id, row.tokens, expected.tokens);
                    return Err(format!(
                        "row `{id}` has {tokens} targets for step {step} but {other} for step {}",
                        first.step
                    ));
                }
            }
        }
        Ok(())
    }
}
