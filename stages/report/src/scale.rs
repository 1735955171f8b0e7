//! Axes: from values to places, with marks at round numbers.

use crate::number;

/// A linear axis between two places of a drawing.
#[derive(Debug, Clone)]
pub(crate) struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    step: f64,
}

impl Scale {
    /// Spans `low` to `high`, widened to round numbers where `rounded`, over the places `from` to `to`.
    ///
    /// `marks` is about how many marks there shall be.
    pub(crate) fn new(range: (f64, f64), rounded: bool, places: (f64, f64), marks: usize) -> Self {
        let (mut low, mut high) = range;
        if high - low < f64::EPSILON * high.abs().max(1.0) {
            // One value only: give it room on both sides.
            let room = if low == 0.0 { 1.0 } else { low.abs() * 0.1 };
            (low, high) = (low - room, high + room);
        }
        let step = round_step((high - low) / marks.max(1) as f64);
        if rounded {
            (low, high) = ((low / step).floor() * step, (high / step).ceil() * step);
        }
        Self { low, high, from: places.0, to: places.1, step }
    }

    /// Returns the place of `value`.
    pub(crate) fn place(&self, value: f64) -> f64 {
        self.from + (value - self.low) / (self.high - self.low) * (self.to - self.from)
    }

    /// Returns the round numbers on the axis.
    pub(crate) fn marks(&self) -> Vec<f64> {
        let first = (self.low / self.step - 1e-9).ceil() as i64;
        let last = (self.high / self.step + 1e-9).floor() as i64;
        (first..=last).map(|mark| mark as f64 * self.step).collect()
    }

    /// Returns the power of ten to take out of the marks: 0 unless they would be long to print.
    pub(crate) fn exponent(&self) -> i32 {
        let size = self.low.abs().max(self.high.abs());
        if size > 0.0 && !(0.02..1e5).contains(&size) { size.log10().floor() as i32 } else { 0 }
    }

    /// Prints a mark with as many decimals as the step needs, after taking out `10^exponent`.
    pub(crate) fn print(&self, mark: f64, exponent: i32) -> String {
        let step = self.step / 10f64.powi(exponent);
        let decimals = (-(step * 1.000_001).log10().floor()).max(0.0) as usize;
        number::fixed(mark / 10f64.powi(exponent), decimals)
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

    #[test]
    fn marks_are_round_and_cover_the_values() {
        let scale = Scale::new((1.93, 4.41), true, (0.0, 100.0), 5);
        let marks: Vec<String> = scale.marks().into_iter().map(|mark| scale.print(mark, 0)).collect();
        assert_eq!(marks, ["1.5", "2.0", "2.5", "3.0", "3.5", "4.0", "4.5"]);
        assert!((scale.place(3.0) - 50.0).abs() < 1e-9);
    }

    #[test]
    fn small_values_take_their_power_of_ten_out() {
        let scale = Scale::new((0.0, 2e-4), true, (0.0, 100.0), 4);
        assert_eq!(scale.exponent(), -4);
        let marks: Vec<String> = scale.marks().into_iter().map(|mark| scale.print(mark, -4)).collect();
        assert_eq!(marks, ["0.0", "0.5", "1.0", "1.5", "2.0"]);
    }

    #[test]
    fn a_single_value_gets_room() {
        for value in [0.0, 3.5, -2.0] {
            let scale = Scale::new((value, value), true, (0.0, 100.0), 4);
            assert!((1.0..99.0).contains(&scale.place(value)), "{value}");
        }
    }
}
