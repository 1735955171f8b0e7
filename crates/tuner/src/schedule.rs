//! Learning rates as a function of the step, and of nothing else.

use serde::{Deserialize, Serialize};

/// The shape of a schedule after its warmup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleName {
    /// The peak, all the way.
    Constant,
    /// A straight line from the peak to the minimum.
    Linear,
    /// Half a cosine from the peak to the minimum.
    Cosine,
    /// Half a cosine again and again, every `cycle_steps`.
    CosineRestarts,
    /// A triangle between minimum and peak, `cycle_steps` wide.
    Cyclic,
}

impl ScheduleName {
    /// Whether the rate at a step depends on the length of the run.
    pub fn depends_on_length(self) -> bool {
        matches!(self, Self::Linear | Self::Cosine)
    }
}

/// A schedule with its numbers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ScheduleSettings {
    /// The shape.
    pub name: ScheduleName,
    /// The highest rate.
    pub peak: f64,
    /// The lowest rate after the warmup.
    pub minimum: f64,
    /// Steps over which the rate rises from zero to the peak.
    pub warmup_steps: usize,
    /// Steps of a cycle, for the shapes that have one.
    pub cycle_steps: usize,
    /// Steps of the run.
    pub steps: usize,
}

impl ScheduleSettings {
    /// The learning rate of `step`, counted from 0. The first step of a warmup already has a share of the peak.
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
    fn every_shape_passes_its_landmarks() {
        near(schedule(ScheduleName::Constant).rate(23), 1.0);
        near(schedule(ScheduleName::Linear).rate(14), 0.55);
        near(schedule(ScheduleName::Cosine).rate(14), 0.55);
        near(schedule(ScheduleName::Cosine).rate(100), 0.1);
        near(schedule(ScheduleName::CosineRestarts).rate(14), 1.0);
        near(schedule(ScheduleName::CosineRestarts).rate(9), 0.55);
        near(schedule(ScheduleName::Cyclic).rate(9), 0.1);
        near(schedule(ScheduleName::Cyclic).rate(14), 1.0);
    }

    /// mlx-lm's `cosine_decay(init, steps, end)` and `linear_schedule(init, end, steps)`, which begin after its warmup.
    #[test]
    fn decays_are_those_of_mlx_lm() {
        for steps in 5..60 {
            for step in 4..70 {
                let (init, end, decay_steps) = (1.0, 0.1, f64::from(steps - 4));
                let s = f64::from(step - 4).min(decay_steps);
                let cosine =
                    end + 0.5 * (1.0 + (s / decay_steps * std::f64::consts::PI).cos()) * (init - end);
                let linear = s * ((end - init) / decay_steps) + init;
                let of = |name| ScheduleSettings { steps: steps as usize, ..schedule(name) };
                near(of(ScheduleName::Cosine).rate(step as usize), cosine);
                near(of(ScheduleName::Linear).rate(step as usize), linear);
            }
        }
    }

    /// mlx-lm's warmup, `linear_schedule(0, peak, warmup)`, spends its first step at a rate of zero; this one does not.
    #[test]
    fn a_warmup_is_that_of_mlx_lm_one_step_longer_without_its_first() {
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
    fn cycles_come_again_and_stay_between_their_bounds() {
        for name in [ScheduleName::CosineRestarts, ScheduleName::Cyclic] {
            let schedule = schedule(name);
            for step in 4..200 {
                near(schedule.rate(step), schedule.rate(step + 10));
                assert!((0.1..=1.0).contains(&schedule.rate(step)), "{name:?} {step}");
            }
        }
        // A triangle has the same slope all the way; a cosine falls through each cycle.
        let cyclic = schedule(ScheduleName::Cyclic);
        near(cyclic.rate(5) - cyclic.rate(4), -(cyclic.rate(10) - cyclic.rate(9)));
        let restarts = schedule(ScheduleName::CosineRestarts);
        assert!((4..13).all(|step| restarts.rate(step + 1) < restarts.rate(step)));
    }
}
