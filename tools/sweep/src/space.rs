//! Settings that vary, and the values that each can have.

use rand::{Rng, RngExt as _};
use toml::Value;

use crate::value;

/// A setting that varies.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Dimension {
    /// Name with its stage, such as `train.rank`.
    pub(crate) setting: String,
    /// Its values.
    pub(crate) domain: Domain,
}

/// Values of a setting.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Domain {
    /// A list.
    Choices(Vec<Value>),
    /// All numbers of an interval.
    Range(Range),
}

/// An interval of numbers, both ends included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Range {
    pub(crate) low: f64,
    pub(crate) high: f64,
    /// Whether equal factors, not equal differences, are equally likely.
    pub(crate) logarithmic: bool,
    /// Whether only whole numbers are values.
    pub(crate) integer: bool,
    /// Number of values in a grid.
    pub(crate) points: Option<usize>,
}

impl Domain {
    /// Returns the values for a grid; `None` for an interval without a number of points.
    pub(crate) fn grid(&self) -> Option<Vec<Value>> {
        match self {
            Self::Choices(values) => Some(values.clone()),
            Self::Range(range) => {
                let points = range.points?;
                let share = |at: usize| if points < 2 { 0.5 } else { at as f64 / (points - 1) as f64 };
                let mut values: Vec<Value> = (0..points).map(|at| range.at(share(at))).collect();
                values.dedup();
                Some(values)
            }
        }
    }

    /// Draws a value.
    pub(crate) fn draw(&self, random: &mut impl Rng) -> Value {
        self.at(random.random())
    }

    /// Returns the value at a place from 0 to below 1: the share of the choices or of the interval below it.
    pub(crate) fn at(&self, place: f64) -> Value {
        match self {
            Self::Choices(values) => {
                let at = (place * values.len() as f64) as usize;
                values[at.min(values.len() - 1)].clone()
            }
            Self::Range(range) if range.integer => range.whole(place),
            Self::Range(range) => range.at(place),
        }
    }
}

impl Range {
    /// Returns the value at `share` of the way, from 0 to 1, with three digits.
    fn at(self, share: f64) -> Value {
        let between = |low: f64, high: f64| low + share * (high - low);
        let value = if self.logarithmic {
            between(self.low.ln(), self.high.ln()).exp()
        } else {
            between(self.low, self.high)
        };
        if self.integer {
            return Value::Integer(value.round() as i64);
        }
        // In quotes, as in settings files; the ends are exact.
        let rounded: f64 = format!("{value:.2e}").parse().unwrap_or(value);
        let value = rounded.clamp(self.low, self.high);
        Value::String(if (1e-3..1e4).contains(&value.abs()) {
            value.to_string()
        } else {
            format!("{value:e}")
        })
    }

    /// Returns the whole number at a place from 0 to below 1; on a linear scale each is equally likely.
    fn whole(self, place: f64) -> Value {
        let (low, high) = (self.low - 0.5, self.high + 0.5);
        let value = if self.logarithmic {
            (low.max(0.5).ln() + place * (high.ln() - low.max(0.5).ln())).exp()
        } else {
            low + place * (high - low)
        };
        Value::Integer(value.round().clamp(self.low, self.high) as i64)
    }
}

/// Returns every combination of values; the last dimension varies fastest.
pub(crate) fn product(dimensions: &[(String, Vec<Value>)]) -> Vec<Vec<(String, Value)>> {
    dimensions.iter().fold(vec![Vec::new()], |combinations, (setting, values)| {
        combinations
            .iter()
            .flat_map(|before| {
                values.iter().map(|value| {
                    let mut longer = before.clone();
                    longer.push((setting.clone(), value.clone()));
                    longer
                })
            })
            .collect()
    })
}

/// Returns settings as words of `SET`.
pub(crate) fn words(settings: &[(String, Value)]) -> Vec<String> {
    settings.iter().map(|(setting, value)| format!("{setting}={}", value::text(value))).collect()
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;
    use rand::rngs::ChaCha8Rng;

    use super::*;

    const RATES: Range = Range { low: 1e-4, high: 1e-2, logarithmic: true, integer: false, points: Some(3) };

    #[test]
    fn a_grid_has_both_ends() {
        let texts: Vec<String> =
            Domain::Range(RATES).grid().expect("points").iter().map(value::text).collect();
        assert_eq!(texts, ["1e-4", "0.001", "0.01"]);
        let ranks = Range { low: 2.0, high: 32.0, integer: true, points: Some(5), ..RATES };
        let texts: Vec<String> =
            Domain::Range(ranks).grid().expect("points").iter().map(value::text).collect();
        assert_eq!(texts, ["2", "4", "8", "16", "32"]);
        assert_eq!(Domain::Range(Range { points: None, ..RATES }).grid(), None);
    }

    #[test]
    fn draws_stay_inside_and_reach_every_choice() {
        let mut random = ChaCha8Rng::seed_from_u64(0);
        for integer in [false, true] {
            let range = Range { low: 1.0, high: 3.0, logarithmic: false, integer, points: None };
            for _ in 0..200 {
                let drawn = value::number(&Domain::Range(range).draw(&mut random)).expect("a number");
                assert!((1.0..=3.0).contains(&drawn), "{drawn}");
            }
        }
        let choices = Domain::Choices((0..3).map(Value::Integer).collect());
        let drawn: std::collections::BTreeSet<String> =
            (0..60).map(|_| value::text(&choices.draw(&mut random))).collect();
        assert_eq!(drawn.len(), 3);
    }

    #[test]
    fn whole_numbers_of_an_interval_are_equally_likely() {
        let range = Range { low: 1.0, high: 4.0, logarithmic: false, integer: true, points: None };
        let found: Vec<String> =
            (0..8).map(|at| value::text(&Domain::Range(range).at((f64::from(at) + 0.5) / 8.0))).collect();
        assert_eq!(found, ["1", "1", "2", "2", "3", "3", "4", "4"]);
    }

    #[test]
    fn a_product_has_every_combination_once() {
        let of = |values: &[i64]| values.iter().copied().map(Value::Integer).collect::<Vec<_>>();
        let all = product(&[("a".to_owned(), of(&[1, 2])), ("b".to_owned(), of(&[3, 4, 5]))]);
        let texts: Vec<String> = all.iter().map(|settings| words(settings).join(" ")).collect();
        assert_eq!(texts, ["a=1 b=3", "a=1 b=4", "a=1 b=5", "a=2 b=3", "a=2 b=4", "a=2 b=5"]);
    }
}
