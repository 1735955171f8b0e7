//! Learning rates as a pure function of the step.

use serde::{Deserialize, Serialize};

/// Shape of a schedule after its warmup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleName {
    /// The peak rate throughout.
    Constant,
    /// A straight line from the peak to the minimum.
    Linear,
    /// Half a cosine period from the peak to the minimum.
    Cosine,
    /// Half a cosine period, restarted every `cycle_steps` steps.
    CosineRestarts,
    /// A triangle wave between peak and minimum with a period of `cycle_steps`.
    Cyclic,
}

impl ScheduleName {
    /// Returns whether the rate at a step depends on the length of the run.
    pub fn depends_on_length(self) -> bool {
        matches!(self, Self::Linear | Self::Cosine)
    }
}

/// Settings of a schedule.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScheduleSettings {
    /// Shape after the warmup.
    pub name: ScheduleName,
    /// Highest rate.
    pub peak: f64,
    /// Lowest rate after the warmup.
    pub minimum: f64,
    /// Steps over which the rate rises from zero to the peak.
    pub warmup_steps: usize,
    /// Steps per cycle, for periodic shapes.
    pub cycle_steps: usize,
    /// Steps of the run.
    pub steps: usize,
}

impl Default for ScheduleSettings {
    fn default() -> Self {
        Self {
            name: ScheduleName::Cosine,
            peak: 1e-4,
            minimum: 0.0,
            warmup_steps: 10,
            cycle_steps: 100,
            steps: 1,
        }
    }
}

impl ScheduleSettings {
    /// Returns the learning rate of `step`, counted from 0; the first step of a warmup is above zero.
    pub fn rate(&self, step: usize) -> f64 {
        if step < self.warmup_steps {
            return self.peak * (step + 1) as f64 / (self.warmup_steps + 1) as f64;
        }
        let after = (step - self.warmup_steps) as f64;
        let rest = self.steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let cycle = self.cycle_steps.max(1) as f64;
        match self.name {
            ScheduleName::Constant => self.peak,
            ScheduleName::Linear => self.between(1.0 - (after / rest).min(1.0)),
            ScheduleName::Cosine => self.half_cosine((after / rest).min(1.0)),
            ScheduleName::CosineRestarts => self.half_cosine((after % cycle) / cycle),
            ScheduleName::Cyclic => self.between((2.0 * ((after % cycle) / cycle) - 1.0).abs()),
        }
    }

    fn half_cosine(&self, share: f64) -> f64 {
        self.between(0.5 * (1.0 + (std::f64::consts::PI * share).cos()))
    }

    fn between(&self, height: f64) -> f64 {
        self.minimum + (self.peak - self.minimum) * height
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(name: ScheduleName) -> ScheduleSettings {
        ScheduleSettings { name, peak: 1.0, minimum: 0.1, warmup_steps: 4, cycle_steps: 10, steps: 24 }
    }

    fn near(found: f64, wanted: f64) {
        assert!((found - wanted).abs() < 1e-12, "{found}, expected {wanted}");
    }

    #[test]
    fn warmup_rises_to_the_peak_and_starts_above_zero() {
        for name in [ScheduleName::Constant, ScheduleName::Cosine, ScheduleName::Cyclic] {
            let rates: Vec<f64> = (0..5).map(|step| schedule(name).rate(step)).collect();
            near(rates[0], 0.2);
            near(rates[3], 0.8);
            near(rates[4], 1.0);
        }
    }

    #[test]
    fn shapes_have_known_values() {
        near(schedule(ScheduleName::Constant).rate(23), 1.0);
        near(schedule(ScheduleName::Linear).rate(14), 0.55);
        near(schedule(ScheduleName::Cosine).rate(14), 0.55);
        near(schedule(ScheduleName::Cosine).rate(100), 0.1);
        near(schedule(ScheduleName::CosineRestarts).rate(14), 1.0);
        near(schedule(ScheduleName::CosineRestarts).rate(9), 0.55);
        near(schedule(ScheduleName::Cyclic).rate(9), 0.1);
        near(schedule(ScheduleName::Cyclic).rate(14), 1.0);
    }

    /// mlx-lm's `cosine_decay(init, steps, end)` and `linear_schedule(init, end, steps)`, which start after its warmup.
    #[test]
    fn decays_equal_those_of_mlx_lm() {
        for steps in 5..60 {
            for step in 4..70 {
                let (init, end, decay_steps) = (1.0, 0.1, f64::from(steps - 4));
                let s = f64::from(step - 4).min(decay_steps);
                let cosine =
                    end + 0.5 * (1.0 + (s / decay_steps * std::f64::consts::PI).cos()) * (init - end);
                let linear = s * ((end - init) / decay_steps) + init;
                let with_steps = |name| ScheduleSettings { steps: steps as usize, ..schedule(name) };
                near(with_steps(ScheduleName::Cosine).rate(step as usize), cosine);
                near(with_steps(ScheduleName::Linear).rate(step as usize), linear);
            }
        }
    }

    /// mlx-lm's warmup, `linear_schedule(0, peak, warmup)`, takes its first step at a rate of zero; ours does not.
    #[test]
    fn a_warmup_equals_one_of_mlx_lm_that_is_a_step_longer_without_its_first_step() {
        for warmup_steps in 1..20 {
            for name in [ScheduleName::Constant, ScheduleName::CosineRestarts, ScheduleName::Cyclic] {
                let ours = ScheduleSettings { warmup_steps, ..schedule(name) };
                for step in 0..warmup_steps {
                    near(ours.rate(step), (step + 1) as f64 * (1.0 / (warmup_steps + 1) as f64));
                }
                near(ours.rate(warmup_steps), 1.0);
            }
        }
    }

    #[test]
    fn cycles_repeat_and_stay_within_their_bounds() {
        for name in [ScheduleName::CosineRestarts, ScheduleName::Cyclic] {
            let schedule = schedule(name);
            for step in 4..200 {
                near(schedule.rate(step), schedule.rate(step + 10));
                assert!((0.1..=1.0).contains(&schedule.rate(step)), "{name:?} {step}");
            }
        }
        // A triangle rises as fast as it falls; a cosine with restarts only falls within a cycle.
        let cyclic = schedule(ScheduleName::Cyclic);
        near(cyclic.rate(5) - cyclic.rate(4), -(cyclic.rate(10) - cyclic.rate(9)));
        let restarts = schedule(ScheduleName::CosineRestarts);
        assert!((4..13).all(|step| restarts.rate(step + 1) < restarts.rate(step)));
    }
}
