//! `fuse.json`: what fusing the adapter into the base cost, and what each export of the fused model costs.

use serde::{Deserialize, Serialize};

use crate::files::Document;
use crate::stages;

/// Losses before and after fusing, on the validation split.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FusionCost {
    /// Loss with the adapter beside the base, in nats per target.
    pub adapter_loss: f64,
    /// Loss of the fused model, in nats per target.
    pub fused_loss: f64,
    /// Largest difference between two of their logits, on the first rows.
    pub max_logit_difference: f64,
    /// Number of targets.
    pub tokens: u64,
    /// Bytes of the weights of the fused model.
    #[serde(default)]
    pub model_bytes: u64,
    /// Other forms of the fused model: quantized for MLX, or a GGUF file.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exports: Vec<ExportCost>,
}

/// What an export of the fused model costs, measured on the written files with the validation split.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ExportCost {
    /// Path in the artifact, such as `quantized` or `gguf/model-q4_0.gguf`.
    pub path: String,
    /// Format of the weights, such as `q4_0`.
    pub format: String,
    /// Bytes of the weights.
    pub bytes: u64,
    /// Loss in nats per target.
    pub loss: f64,
    /// Mean Kullback-Leibler divergence of its next-token distribution from that of the fused model, in nats per target.
    pub kl_divergence: f64,
    /// Share of the targets at which both models find the same token most probable.
    pub same_top_token: f64,
}

impl Document for FusionCost {
    const FILE: &'static str = stages::FUSION_COST;
    const STAGE: &'static str = "fuse";

    fn check(&self) -> Result<(), String> {
        let wrong = |export: &&ExportCost| !(0.0..=1.0).contains(&export.same_top_token);
        match self.exports.iter().find(wrong) {
            Some(export) => Err(format!(
                "`same_top_token` of `{}` is {}, expected a share from 0 to 1",
                export.path, export.same_top_token
            )),
            None => Ok(()),
        }
    }
}
