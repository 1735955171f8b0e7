//! `losses.json`: the loss of every checkpoint on every row of the validation split.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::Error;

/// A checkpoint's loss may differ from the sum over its rows by so much, relatively: rounding, not contradiction.
const TOLERANCE: f64 = 1e-4;

/// What `losses.json` says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Losses {
    /// The split that was measured; only `validation` may choose.
    pub split: String,
    /// Number of rows.
    pub rows: u64,
    /// Number of counted tokens.
    pub tokens: u64,
    /// One for each checkpoint; step 0 is the base model.
    pub checkpoints: Vec<Checkpoint>,
}

/// The losses of one checkpoint.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Its step.
    pub step: u64,
    /// Nats per counted token over the whole split.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Counted tokens.
    pub tokens: u64,
    /// One for each row of the split.
    pub rows: Vec<Row>,
}

/// The loss of one row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The row's id.
    pub id: String,
    /// Sum over its tokens, in nats.
    #[serde(deserialize_with = "number")]
    pub loss: f64,
    /// Counted tokens.
    pub tokens: u64,
}

/// Reads a number; writers turn NaN and infinity into null, so that is what null means here.
fn number<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

impl Losses {
    /// Reads and checks a file.
    ///
    /// # Errors
    ///
    /// Fails on another form or split, on a loss that is not finite, on a step or row that is there twice, on
    /// checkpoints with different rows, and on sums that do not agree.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let bytes = fs_err::read(path)?;
        let losses: Self = serde_json::from_slice(&bytes)
            .map_err(|source| Error::Format { path: path.to_owned(), source })?;
        losses.check().map_err(|reason| Error::Losses { path: path.to_owned(), reason })?;
        Ok(losses)
    }

    fn check(&self) -> Result<(), String> {
        if self.split != "validation" {
            return Err(format!("it measures the split `{}`, only `validation` may choose", self.split));
        }
        let mut steps = BTreeSet::new();
        for checkpoint in &self.checkpoints {
            let step = checkpoint.step;
            if !steps.insert(step) {
                return Err(format!("step {step} is there twice"));
            }
            checkpoint.check(self.rows, self.tokens).map_err(|reason| format!("step {step}: {reason}"))?;
            let first = &self.checkpoints[0];
            let differs = |(a, b): (&Row, &Row)| (&a.id, a.tokens) != (&b.id, b.tokens);
            if let Some(index) = checkpoint.rows.iter().zip(&first.rows).position(differs) {
                let (mine, other) = (&checkpoint.rows[index].id, &first.rows[index].id);
                return Err(format!(
                    "row {} is `{mine}` for step {step} but `{other}` for step {}",
                    index + 1,
                    first.step
                ));
            }
        }
        Ok(())
    }
}

impl Checkpoint {
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
            return Err(format!("its rows count {counted} tokens, the whole split has {tokens}"));
        }
        let mut ids = BTreeSet::new();
        if let Some(row) = self.rows.iter().find(|row| !ids.insert(row.id.as_str())) {
            return Err(format!("row `{}` is there twice", row.id));
        }
        let mean = self.rows.iter().map(|row| row.loss).sum::<f64>() / counted.max(1) as f64;
        if (mean - self.loss).abs() > TOLERANCE * self.loss.abs().max(TOLERANCE) {
            return Err(format!("its loss is {}, that of its rows {mean}", self.loss));
        }
        Ok(())
    }
}
