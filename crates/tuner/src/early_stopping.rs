//! Rules for stopping before the last step.

use serde::{Deserialize, Serialize};

/// Settings of early stopping; a rule with patience 0 is off. By default, only gradients that explode stop a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EarlyStopping {
    /// Consecutive validations without a loss that is lower than the best by `min_delta`.
    pub patience: usize,
    /// Smallest decrease of the validation loss that counts, in nats per target.
    pub min_delta: f64,
    /// Consecutive reports without a new minimum of the moving average of the training loss.
    pub plateau_patience: usize,
    /// Gradient norm above which a step counts as a spike.
    pub spike_threshold: f32,
    /// Consecutive spikes, after the warmup.
    pub spike_patience: usize,
}

impl Default for EarlyStopping {
    fn default() -> Self {
        Self { patience: 0, min_delta: 0.0, plateau_patience: 0, spike_threshold: 1000.0, spike_patience: 3 }
    }
}

/// State of the rules.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Counters {
    best_validation: Option<f64>,
    validations_without_gain: usize,
    moving_average: Option<f64>,
    best_average: Option<f64>,
    reports_without_gain: usize,
    spikes: usize,
}

/// Weight of the newest report in the moving average of the training loss.
const AVERAGE_WEIGHT: f64 = 0.2;

impl EarlyStopping {
    /// Counts a validation; returns the reason if the run should stop.
    pub(crate) fn on_validation(&self, counters: &mut Counters, loss: f64) -> Option<String> {
        if counters.best_validation.is_none_or(|best| loss < best - self.min_delta) {
            counters.best_validation = Some(loss);
            counters.validations_without_gain = 0;
            return None;
        }
        counters.validations_without_gain += 1;
        let count = counters.validations_without_gain;
        (self.patience > 0 && count >= self.patience)
            .then(|| format!("validation loss made no gain of {} in {count} validations", self.min_delta))
    }

    /// Returns how many validations in a row made no gain.
    pub(crate) fn validations_without_gain(counters: &Counters) -> usize {
        counters.validations_without_gain
    }

    /// Counts a report with the mean training loss since the last one; returns the reason if the run should stop.
    pub(crate) fn on_report(&self, counters: &mut Counters, loss: f64) -> Option<String> {
        let average = counters.moving_average.map_or(loss, |old| old + AVERAGE_WEIGHT * (loss - old));
        counters.moving_average = Some(average);
        if counters.best_average.is_none_or(|best| average < best) {
            counters.best_average = Some(average);
            counters.reports_without_gain = 0;
            return None;
        }
        counters.reports_without_gain += 1;
        let count = counters.reports_without_gain;
        (self.plateau_patience > 0 && count >= self.plateau_patience)
            .then(|| format!("the moving average of the training loss made no new low in {count} reports"))
    }

    /// Counts a step, unless it is in the warmup; returns the reason if the run should stop.
    pub(crate) fn on_step(&self, counters: &mut Counters, norm: f32, warming_up: bool) -> Option<String> {
        if warming_up || self.spike_threshold <= 0.0 || norm <= self.spike_threshold {
            counters.spikes = 0;
            return None;
        }
        counters.spikes += 1;
        let count = counters.spikes;
        (self.spike_patience > 0 && count >= self.spike_patience)
            .then(|| format!("gradient norm above {} in {count} steps in a row", self.spike_threshold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_counts_validations_without_a_sufficient_decrease() {
        let rule = EarlyStopping { patience: 2, min_delta: 0.1, ..Default::default() };
        let mut counters = Counters::default();
        let stops: Vec<bool> = [2.0, 1.5, 1.45, 1.3, 1.25, 1.25]
            .iter()
            .map(|&l| rule.on_validation(&mut counters, l).is_some())
            .collect();
        assert_eq!(stops, [false, false, false, false, false, true]);
    }

    #[test]
    fn a_noisy_but_falling_loss_is_not_a_plateau() {
        let rule = EarlyStopping { plateau_patience: 3, ..Default::default() };
        let mut counters = Counters::default();
        for report in 0..50 {
            let loss = 3.0 - 0.05 * f64::from(report) + if report % 2 == 0 { 0.05 } else { -0.05 };
            assert!(rule.on_report(&mut counters, loss).is_none(), "report {report}");
        }
        let stopped = (0..20).any(|_| rule.on_report(&mut counters, 2.0).is_some());
        assert!(stopped);
    }

    #[test]
    fn by_default_only_three_exploding_gradients_in_a_row_stop_a_run() {
        let rule = EarlyStopping::default();
        let mut counters = Counters::default();
        let norms = [999.0, 2e3, 2e3, 1.0, 2e3, 2e3, f32::INFINITY];
        let stops = norms.map(|norm| rule.on_step(&mut counters, norm, false).is_some());
        assert_eq!(stops, [false, false, false, false, false, false, true]);
        assert!((0..99).all(|_| rule.on_validation(&mut counters, 1.0).is_none()));
        assert!((0..99).all(|_| rule.on_report(&mut counters, 1.0).is_none()));
    }

    #[test]
    fn consecutive_spikes_after_the_warmup_count() {
        let rule = EarlyStopping { spike_threshold: 1.0, spike_patience: 2, ..Default::default() };
        let mut counters = Counters::default();
        assert!(rule.on_step(&mut counters, 9.0, true).is_none());
        assert!(rule.on_step(&mut counters, 9.0, false).is_none());
        assert!(rule.on_step(&mut counters, 0.5, false).is_none());
        assert!(rule.on_step(&mut counters, 9.0, false).is_none());
        assert!(rule.on_step(&mut counters, 9.0, false).is_some());
    }
}
