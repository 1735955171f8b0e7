//! The distrust loss, which depends on how far the source of a row is trusted.
//!
//! A row with authority w and provenance entropy H has the loss L = alpha · (ln(1 − w + 1e-8) + H)². As published, it is
//! added to the cross-entropy; but it does not depend on the model, so its gradient is zero. The mode `reweight` derives
//! the weight of a row from it instead.

use std::ops::RangeInclusive;

use dataset::AUTHORITIES;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Values of the scale alpha of the distrust loss.
pub const DISTRUST_ALPHAS: RangeInclusive<f64> = 2.3..=3.0;

/// Use of the distrust loss.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DistrustMode {
    /// Not used.
    #[default]
    Off,
    /// Logged as `distrust_loss`, times lambda; does not change training.
    Additive,
    /// The weight of a row is multiplied by 1 + lambda · (L / mean(L) − 1), at least 0.
    Reweight,
}

/// Returns the distrust loss of one row.
///
/// # Errors
///
/// Fails when `authority` is not in [`AUTHORITIES`], `entropy` (in bits) is negative, or `alpha` is not in [`DISTRUST_ALPHAS`].
pub fn distrust_loss(authority: f64, entropy: f64, alpha: f64) -> Result<f64> {
    if !AUTHORITIES.contains(&authority) {
        return Err(Error::OutOfRange { name: "auth_weight", value: authority, range: "0 to 0.99" });
    }
    if !dataset::is_entropy(entropy) {
        return Err(Error::OutOfRange { name: "prov_entropy", value: entropy, range: "0 or more" });
    }
    if !DISTRUST_ALPHAS.contains(&alpha) {
        return Err(Error::OutOfRange { name: "distrust_alpha", value: alpha, range: "2.3 to 3" });
    }
    let distance = (1.0 - authority + 1e-8).ln() + entropy;
    Ok(alpha * distance * distance)
}

/// Distrust losses of the training rows, and how they are used.
#[derive(Debug, Clone)]
pub struct Distrust {
    mode: DistrustMode,
    lambda: f64,
    losses: Vec<f64>,
    factors: Vec<f32>,
}

impl Distrust {
    /// Takes the losses of all rows; a row without a loss gets the mean of the others.
    ///
    /// # Errors
    ///
    /// Fails when all rows are without a loss.
    pub fn new(mode: DistrustMode, lambda: f64, losses: &[Option<f64>]) -> Result<Self> {
        let known: Vec<f64> = losses.iter().copied().flatten().collect();
        if known.is_empty() {
            return Err(Error::settings(
                "no row of the training split has `auth_weight` and `prov_entropy`",
                "set distrust = \"off\"",
            ));
        }
        let mean = known.iter().sum::<f64>() / known.len() as f64;
        let losses: Vec<f64> = losses.iter().map(|loss| loss.unwrap_or(mean)).collect();
        let share = |loss: f64| if mean > 0.0 { loss / mean } else { 1.0 };
        let factors =
            losses.iter().map(|&loss| (1.0 + lambda * (share(loss) - 1.0)).max(0.0) as f32).collect();
        Ok(Self { mode, lambda, losses, factors })
    }

    /// Returns the factor of each row's weight; `None` if the mode does not change weights.
    pub fn factors(&self) -> Option<&[f32]> {
        (self.mode == DistrustMode::Reweight).then_some(&self.factors[..])
    }

    /// Returns lambda times the mean loss of `rows`, in additive mode.
    pub fn added(&self, rows: &[u32]) -> Option<f64> {
        let sum: f64 = rows.iter().map(|&row| self.losses[row as usize]).sum();
        (self.mode == DistrustMode::Additive).then(|| self.lambda * sum / rows.len().max(1) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, wanted: f64, within: f64) {
        assert!((found - wanted).abs() <= within, "{found}, expected {wanted}");
    }

    #[test]
    fn losses_are_the_published_ones() -> Result<()> {
        let known = [
            (0.05, 7.5, 149.804_726),
            (0.05, 7.0, 130.368_218),
            (0.02, 8.9, 212.897_160),
            (0.90, 1.0, 4.581_165),
            (0.90, 0.2, 11.936_332),
            (0.95, 0.5, 16.817_432),
            (0.50, 5.0, 50.082_250),
            (0.50, 3.0, 14.368_239),
            (0.10, 5.0, 64.685_239),
            (0.00, 0.0, 2.7e-16),
            (0.99, 0.0, 57.260_475),
            (0.99, 5.0, 0.420_907),
            (0.00, 10.0, 270.000_001),
            (0.90, std::f64::consts::LN_10, 0.0),
        ];
        for (authority, entropy, wanted) in known {
            near(distrust_loss(authority, entropy, 2.7)?, wanted, 1e-6);
        }
        near(distrust_loss(0.05, 7.5, 2.3)?, 127.611_433, 1e-6);
        near(distrust_loss(0.5, 5.0, 3.0)?, 55.646_944, 1e-6);
        let ratio = distrust_loss(0.05, 7.5, 2.7)? / distrust_loss(0.9, 1.0, 2.7)?;
        near(ratio, 32.7001, 1e-4);
        Ok(())
    }

    #[test]
    fn numbers_out_of_range_are_errors() {
        for (authority, entropy, alpha) in
            [(1.0, 1.0, 2.7), (-0.1, 1.0, 2.7), (f64::NAN, 1.0, 2.7), (0.5, -1.0, 2.7), (0.5, 1.0, 2.0)]
        {
            assert!(distrust_loss(authority, entropy, alpha).is_err(), "{authority} {entropy} {alpha}");
        }
    }

    #[test]
    fn additive_adds_lambda_times_the_mean_and_leaves_weights_alone() -> Result<()> {
        let losses = [Some(distrust_loss(0.5, 5.0, 2.7)?), Some(distrust_loss(0.9, 1.0, 2.7)?), None];
        let distrust = Distrust::new(DistrustMode::Additive, 0.6, &losses)?;
        // Cross-entropy 2.5 and one row.
        near(2.5 + distrust.added(&[0]).unwrap_or_default(), 32.549_350, 1e-6);
        near(distrust.added(&[0, 1]).unwrap_or_default(), 0.6 * (50.082_250 + 4.581_165) / 2.0, 1e-6);
        assert!(distrust.factors().is_none());
        Ok(())
    }

    #[test]
    fn reweight_follows_the_loss_and_is_plain_at_lambda_zero_or_a_constant_loss() -> Result<()> {
        let losses = [Some(30.0), Some(10.0), Some(80.0), None];
        let plain = Distrust::new(DistrustMode::Reweight, 0.0, &losses)?;
        assert_eq!(plain.factors(), Some(&[1.0; 4][..]));
        let constant = Distrust::new(DistrustMode::Reweight, 0.6, &[Some(9.0), Some(9.0)])?;
        assert_eq!(constant.factors(), Some(&[1.0; 2][..]));
        let reweighted = Distrust::new(DistrustMode::Reweight, 0.6, &losses)?;
        let factors = reweighted.factors().unwrap_or_default();
        for (&factor, wanted) in factors.iter().zip([0.85, 0.55, 1.6, 1.0]) {
            near(f64::from(factor), wanted, 1e-6);
        }
        // Never below zero.
        let strong = Distrust::new(DistrustMode::Reweight, 3.0, &losses)?;
        assert_eq!(strong.factors().map(|factors| factors[1]), Some(0.0));
        assert!(Distrust::new(DistrustMode::Reweight, 0.6, &[None]).is_err());
        Ok(())
    }
}
