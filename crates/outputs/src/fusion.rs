//! `fuse.json`: what fusing the adapter into the base cost.

use serde::{Deserialize, Serialize};

use crate::files::Document;
use crate::stages;

/// Losses before and after fusing, on the validation split.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct FusionCost {
    /// Loss with the adapter beside the base, in nats per target.
    pub adapter_loss: f64,
    /// Loss of the fused model, in nats per target.
    pub fused_loss: f64,
    /// Largest difference between two of their logits, on the first rows.
    pub max_logit_difference: f64,
    /// Number of targets.
    pub tokens: u64,
}

impl Document for FusionCost {
    const FILE: &'static str = stages::FUSION_COST;
    const STAGE: &'static str = "fuse";
}
