//! `changes.json`: which rows of the validation split improved and which got worse, by checkpoint.

use serde::{Deserialize, Serialize};

use crate::files::Document;
use crate::losses::{CheckpointLosses, Losses};
use crate::stages;

/// Smallest change of a row's loss that counts, in nats per target: below it is rounding.
const ROUNDING: f64 = 1e-6;

/// Changes against the base model.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Changes {
    /// Name of the split.
    pub split: String,
    /// One entry per checkpoint, without the base model.
    pub checkpoints: Vec<CheckpointChanges>,
}

/// Changes of one checkpoint.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CheckpointChanges {
    /// Step of the checkpoint.
    pub step: u64,
    /// Rows whose loss fell.
    pub improved: u64,
    /// Rows whose loss rose.
    pub worsened: u64,
    /// Rows whose loss stayed the same.
    pub unchanged: u64,
    /// Rows whose loss rose, the largest rise first.
    pub worsened_rows: Vec<RowChange>,
    /// Rows whose loss fell, the largest fall first.
    pub improved_rows: Vec<RowChange>,
}

/// Change of the loss of one row.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct RowChange {
    /// Id of the row.
    pub id: String,
    /// Loss of the base model in nats per target.
    pub base_loss: f64,
    /// Loss of the checkpoint in nats per target.
    pub loss: f64,
}

impl RowChange {
    /// Returns how much the loss rose, in nats per target.
    pub fn rise(&self) -> f64 {
        self.loss - self.base_loss
    }
}

impl Changes {
    /// Compares every checkpoint with the base model, step 0. Rows without targets are unchanged.
    pub fn new(losses: &Losses) -> Self {
        let base = losses.checkpoints.iter().find(|checkpoint| checkpoint.step == 0);
        let others = losses.checkpoints.iter().filter(|checkpoint| checkpoint.step != 0);
        let checkpoints = base.map(|base| {
            let changes = |checkpoint: &CheckpointLosses| {
                let rows = base.rows.iter().zip(&checkpoint.rows).filter(|(row, _)| row.tokens > 0);
                let rows = rows.map(|(base, row)| RowChange {
                    id: row.id.clone(),
                    base_loss: base.loss / base.tokens as f64,
                    loss: row.loss / row.tokens as f64,
                });
                CheckpointChanges::new(checkpoint.step, rows.collect(), checkpoint.rows.len())
            };
            others.map(changes).collect()
        });
        Self { split: losses.split.clone(), checkpoints: checkpoints.unwrap_or_default() }
    }
}

impl CheckpointChanges {
    fn new(step: u64, mut rows: Vec<RowChange>, all: usize) -> Self {
        rows.sort_by(|a, b| b.rise().total_cmp(&a.rise()));
        let worsened_rows: Vec<_> = rows.iter().filter(|row| row.rise() > ROUNDING).cloned().collect();
        let improved_rows: Vec<_> = rows.iter().rev().filter(|row| row.rise() < -ROUNDING).cloned().collect();
        Self {
            step,
            improved: improved_rows.len() as u64,
            worsened: worsened_rows.len() as u64,
            unchanged: (all - improved_rows.len() - worsened_rows.len()) as u64,
            worsened_rows,
            improved_rows,
        }
    }
}

impl Document for Changes {
    const FILE: &'static str = stages::CHANGES;
    const STAGE: &'static str = "validate";
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NamedRowLoss;

    #[test]
    fn rows_are_sorted_by_the_size_of_their_change() {
        let checkpoint = |step, losses: [f64; 5]| {
            let row = |(index, loss)| NamedRowLoss {
                id: format!("r{index}"),
                loss,
                tokens: if index == 4 { 0 } else { 2 },
                ..NamedRowLoss::default()
            };
            CheckpointLosses::new(step, losses.into_iter().enumerate().map(row).collect())
        };
        let checkpoints =
            vec![checkpoint(0, [4.0, 4.0, 4.0, 4.0, 0.0]), checkpoint(9, [5.0, 2.0, 4.0, 8.0, 0.0])];
        let losses = Losses { split: "validation".into(), rows: 5, tokens: 8, checkpoints };
        let changes = Changes::new(&losses);
        let [only] = &changes.checkpoints[..] else { panic!("{changes:?}") };
        assert_eq!((only.step, only.improved, only.worsened, only.unchanged), (9, 1, 2, 2));
        let ids = |rows: &[RowChange]| rows.iter().map(|row| row.id.clone()).collect::<Vec<_>>();
        assert_eq!(
            (ids(&only.worsened_rows), ids(&only.improved_rows)),
            (vec!["r3".into(), "r0".into()], vec!["r1".into()])
        );
        assert!((only.worsened_rows[0].rise() - 2.0).abs() < 1e-12);
    }
}
