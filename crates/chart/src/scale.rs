//! Axes: from values to positions in a drawing, with ticks at round numbers.

use crate::number;
use crate::series::Range;

/// Pixels of an axis: positions of its lowest and its highest value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pixels {
    pub(crate) from: f64,
    pub(crate) to: f64,
}

/// Map of an axis from values to pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Linear, from the lowest to the highest value.
    Linear,
    /// Linear, extended to the next round number on both sides.
    Rounded,
    /// Logarithmic, with a tick per power of ten; values are positive.
    Logarithmic,
}

/// An axis of a drawing.
#[derive(Debug, Clone)]
pub(crate) struct Scale {
    /// Range of the values; of their decimal logarithms on a logarithmic axis.
    range: Range,
    pixels: Pixels,
    step: f64,
    logarithmic: bool,
}

impl Scale {
    /// Makes an axis over `range` with about `ticks` ticks.
    pub(crate) fn new(range: Range, kind: Kind, pixels: Pixels, ticks: usize) -> Self {
        let logarithmic = kind == Kind::Logarithmic;
        let Range { mut low, mut high } = range;
        if logarithmic {
            (low, high) = (low.max(f64::MIN_POSITIVE).log10(), high.max(f64::MIN_POSITIVE).log10());
        }
        if high - low < f64::EPSILON * high.abs().max(1.0) {
            // A single value gets room on both sides.
            let room = if low == 0.0 { 1.0 } else { low.abs() * 0.1 };
            (low, high) = (low - room, high + room);
        }
        let step = if logarithmic { 1.0 } else { round_step((high - low) / ticks.max(1) as f64) };
        if kind == Kind::Rounded {
            (low, high) = ((low / step).floor() * step, (high / step).ceil() * step);
        }
        Self { range: Range { low, high }, pixels, step, logarithmic }
    }

    /// Returns the position of `value`.
    pub(crate) fn position(&self, value: f64) -> f64 {
        let value = if self.logarithmic { value.max(f64::MIN_POSITIVE).log10() } else { value };
        let Range { low, high } = self.range;
        self.pixels.from + (value - low) / (high - low) * (self.pixels.to - self.pixels.from)
    }

    /// Returns the values that get a tick.
    pub(crate) fn ticks(&self) -> Vec<f64> {
        let first = (self.range.low / self.step - 1e-9).ceil() as i64;
        let last = (self.range.high / self.step + 1e-9).floor() as i64;
        let tick = |number: i64| {
            if self.logarithmic { 10f64.powi(number as i32) } else { number as f64 * self.step }
        };
        (first..=last).map(tick).collect()
    }

    /// Returns the power of ten to divide the ticks by before printing: 0 unless they would be long.
    pub(crate) fn exponent(&self) -> i32 {
        let size = self.range.low.abs().max(self.range.high.abs());
        let is_short = self.logarithmic || size <= 0.0 || (0.02..1e5).contains(&size);
        if is_short { 0 } else { size.log10().floor() as i32 }
    }

    /// Prints a tick divided by `10^exponent`, with as many decimals as the step needs.
    pub(crate) fn print(&self, tick: f64, exponent: i32) -> String {
        if self.logarithmic {
            return format!("10{}", number::superscript(&tick.log10().round().to_string()));
        }
        let step = self.step / 10f64.powi(exponent);
        let decimals = (-(step * 1.000_001).log10().floor()).max(0.0) as usize;
        number::fixed(tick / 10f64.powi(exponent), decimals)
    }
}

/// Rounds up to 1, 2 or 5 times a power of ten.
fn round_step(step: f64) -> f64 {
    let power = 10f64.powf(step.log10().floor());
    let factor = step / power;
    let round = [1.0, 2.0, 5.0, 10.0].into_iter().find(|round| factor <= round * 1.000_001);
    round.unwrap_or(10.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIXELS: Pixels = Pixels { from: 0.0, to: 100.0 };

    fn printed(scale: &Scale) -> Vec<String> {
        scale.ticks().into_iter().map(|tick| scale.print(tick, scale.exponent())).collect()
    }

    #[test]
    fn ticks_are_round_and_cover_the_values() {
        let scale = Scale::new(Range { low: 1.93, high: 4.41 }, Kind::Rounded, PIXELS, 5);
        assert_eq!(printed(&scale), ["1.5", "2.0", "2.5", "3.0", "3.5", "4.0", "4.5"]);
        assert!((scale.position(3.0) - 50.0).abs() < 1e-9);
    }

    #[test]
    fn steps_are_1_2_or_5_times_a_power_of_ten() {
        let steps = [0.03, 0.1, 1.2, 7.0].map(|step| format!("{:.2}", round_step(step)));
        assert_eq!(steps, ["0.05", "0.10", "2.00", "10.00"]);
    }

    #[test]
    fn small_values_are_printed_without_their_power_of_ten() {
        let scale = Scale::new(Range { low: 0.0, high: 2e-4 }, Kind::Rounded, PIXELS, 4);
        assert_eq!(scale.exponent(), -4);
        assert_eq!(printed(&scale), ["0.0", "0.5", "1.0", "1.5", "2.0"]);
    }

    #[test]
    fn powers_of_ten_are_equally_far_apart_on_a_logarithmic_axis() {
        let scale = Scale::new(Range { low: 3e-7, high: 1e-2 }, Kind::Logarithmic, PIXELS, 4);
        assert_eq!(printed(&scale), ["10⁻⁶", "10⁻⁵", "10⁻⁴", "10⁻³", "10⁻²"]);
        let positions: Vec<f64> = scale.ticks().into_iter().map(|tick| scale.position(tick)).collect();
        assert!((positions[1] - positions[0] - (positions[4] - positions[3])).abs() < 1e-9);
        assert!((positions[4] - 100.0).abs() < 1e-9);
    }

    #[test]
    fn a_single_value_gets_room() {
        for value in [0.0, 3.5, -2.0] {
            let scale = Scale::new(Range { low: value, high: value }, Kind::Rounded, PIXELS, 4);
            assert!((1.0..99.0).contains(&scale.position(value)), "{value}");
        }
    }
}
