//! Mixtures: drawing the rows of an epoch from components of the training split by weight.

use std::collections::BTreeMap;

use dataset::MixtureComponent;
use dataset::order::permutation;

use crate::error::{Error, Result};

/// Draws rows from components in proportion to their weights.
///
/// Each epoch draws as many rows as the split has. After any number of draws, over all epochs, the number of draws from a
/// component differs by less than one from its share (Tijdeman's chairman assignment, doi:10.1016/0012-365X(80)90269-1).
/// The rows of a component are drawn in passes: each row once, in random order, before any row is drawn again. If the
/// weights are the sizes of the components, each epoch therefore has each row exactly once.
#[derive(Debug, Clone)]
pub struct Mixture {
    components: Vec<MixtureComponent>,
    /// Share of each component in all draws; the sum is 1.
    shares: Vec<f64>,
    seed: u64,
    /// Draws from each component before each epoch, for the epochs reached so far.
    drawn: Vec<Vec<u64>>,
}

impl Mixture {
    /// Makes a mixture of `components`, in the order of the split, with weights by name.
    ///
    /// # Errors
    ///
    /// Fails when a weight is not above 0 or has an unknown name, and when a component is without weight or rows.
    pub fn new(
        components: Vec<MixtureComponent>,
        weights: &BTreeMap<String, f64>,
        seed: u64,
    ) -> Result<Self> {
        let names: Vec<&str> = components.iter().map(|component| component.name.as_str()).collect();
        for (name, weight) in weights {
            if !(*weight > 0.0 && weight.is_finite()) {
                return Err(Error::settings(
                    format!("`mixture.{name}` is {weight}, but a weight must be above 0"),
                    "give it a positive number, or remove the component from the dataset's `mixture`",
                ));
            }
            if !names.contains(&name.as_str()) {
                return Err(Error::settings(
                    format!(
                        "`mixture.{name}` is not a component of the dataset, which has `{}`",
                        names.join("`, `")
                    ),
                    "use the names in prepare-data's `mixture`",
                ));
            }
        }
        let mut ordered_weights = Vec::new();
        for component in &components {
            let Some(weight) = weights.get(&component.name) else {
                return Err(Error::settings(
                    format!("`mixture` has no weight for the component `{}`", component.name),
                    "give every component of the dataset a weight",
                ));
            };
            if component.rows == 0 {
                return Err(Error::settings(
                    format!("the component `{}` of the mixture has no training rows", component.name),
                    "remove it, or see the dataset's `stats.json` for where its rows went",
                ));
            }
            ordered_weights.push(*weight);
        }
        // Divided by the largest first, so that the sum of very large weights does not overflow.
        let largest = ordered_weights.iter().copied().fold(0.0, f64::max);
        let total: f64 = ordered_weights.iter().map(|weight| weight / largest).sum();
        let shares = ordered_weights.iter().map(|weight| weight / largest / total).collect();
        let drawn = vec![vec![0; components.len()]];
        Ok(Self { components, shares, seed, drawn })
    }

    /// Returns the number of rows of all components.
    pub fn rows(&self) -> usize {
        self.components.iter().map(|component| component.rows).sum()
    }

    /// Returns the rows that `epoch` draws; every stretch of them has the right shares.
    pub fn rows_of(&mut self, epoch: u64) -> Vec<u32> {
        let draws = self.rows();
        while (self.drawn.len() as u64) <= epoch {
            let before = self.drawn.len() as u64 - 1;
            let mut drawn = self.drawn[before as usize].clone();
            self.deal(before, &mut drawn, |_, _| {});
            self.drawn.push(drawn);
        }
        let mut drawn = self.drawn[epoch as usize].clone();
        let mut passes: Vec<Option<(u64, Vec<u32>)>> = vec![None; self.components.len()];
        let mut rows = Vec::with_capacity(draws);
        let starts: Vec<u32> = self
            .components
            .iter()
            .scan(0, |next, component| Some(std::mem::replace(next, *next + component.rows as u32)))
            .collect();
        self.deal(epoch, &mut drawn, |index, draw| {
            let (size, name) = (self.components[index].rows, &self.components[index].name);
            let (pass, place) = (draw / size as u64, (draw % size as u64) as usize);
            if passes[index].as_ref().is_none_or(|(made, _)| *made != pass) {
                let order = permutation(self.seed, &format!("mixture {name}"), pass, size);
                passes[index] = Some((pass, order));
            }
            let order = &passes[index].as_ref().expect("made above").1;
            rows.push(starts[index] + order[place]);
        });
        rows
    }

    /// Deals out the draws of an epoch; calls `each` with the component's index and the number of its earlier draws.
    fn deal(&self, epoch: u64, drawn: &mut [u64], mut each: impl FnMut(usize, u64)) {
        let first = epoch * self.rows() as u64;
        for draw in first..first + self.rows() as u64 {
            let index = self.next(draw, drawn);
            each(index, drawn[index]);
            drawn[index] += 1;
        }
    }

    /// Returns the component to draw from after `draws` draws: of those that lag far enough behind their share, the one with
    /// the earliest deadline.
    fn next(&self, draws: u64, drawn: &[u64]) -> usize {
        let count = self.components.len();
        if count == 1 {
            return 0;
        }
        let slack = 1.0 / (2 * count - 2) as f64;
        let mut chosen: Option<(f64, usize)> = None;
        for (index, (&share, &drawn)) in self.shares.iter().zip(drawn).enumerate() {
            let lag = share * (draws + 1) as f64 - drawn as f64;
            // Rounding errors grow with the number of draws.
            if lag < slack - 1e-6 - 1e-15 * draws as f64 {
                continue;
            }
            let time_left = (1.0 - slack - lag) / share;
            if chosen.is_none_or(|(least, _)| time_left < least) {
                chosen = Some((time_left, index));
            }
        }
        chosen.expect("lags add up to 1, so one of them is at least 1 / count").1
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mixture(components: &[(usize, f64)], seed: u64) -> Mixture {
        let name = |index: usize| format!("component-{index}");
        let numbered = components.iter().enumerate();
        let weights = numbered.clone().map(|(index, &(_, weight))| (name(index), weight)).collect();
        let components =
            numbered.map(|(index, &(rows, _))| MixtureComponent { name: name(index), rows }).collect();
        Mixture::new(components, &weights, seed).expect("the weights are valid")
    }

    /// Returns the index of the component that a row belongs to.
    fn component_of(components: &[(usize, f64)], row: u32) -> usize {
        let mut end = 0;
        let found = components.iter().position(|&(rows, _)| {
            end += rows as u32;
            row < end
        });
        found.expect("a row of the split")
    }

    proptest! {
        #[test]
        fn after_any_number_of_draws_each_component_is_within_one_row_of_its_share(
            components in proptest::collection::vec((1usize..40, 0.01f64..10.0), 1..7), seed: u64,
        ) {
            let mut mixture = mixture(&components, seed);
            let total: f64 = components.iter().map(|(_, weight)| weight).sum();
            let mut seen = vec![0u64; components.len()];
            let mut draws = 0u64;
            for epoch in 0..4 {
                let rows = mixture.rows_of(epoch);
                prop_assert_eq!(rows.len(), mixture.rows());
                for row in rows {
                    seen[component_of(&components, row)] += 1;
                    draws += 1;
                    for (&count, &(_, weight)) in seen.iter().zip(&components) {
                        let share = draws as f64 * weight / total;
                        prop_assert!((count as f64 - share).abs() < 1.0, "{count} of {draws}, not {share}");
                    }
                }
            }
        }

        #[test]
        fn all_rows_of_a_component_are_drawn_before_any_is_drawn_again(
            components in proptest::collection::vec((1usize..20, 0.05f64..5.0), 1..5), seed: u64,
        ) {
            let mut mixture = mixture(&components, seed);
            let mut seen = vec![0u32; mixture.rows()];
            for epoch in 0..3 {
                for row in mixture.rows_of(epoch) {
                    let index = component_of(&components, row);
                    let start: usize = components[..index].iter().map(|(rows, _)| rows).sum();
                    let least = *seen[start..start + components[index].0].iter().min().expect("a component has rows");
                    prop_assert_eq!(seen[row as usize], least);
                    seen[row as usize] += 1;
                }
            }
        }

        #[test]
        fn sizes_as_weights_draw_each_row_once_per_epoch(
            sizes in proptest::collection::vec(1usize..30, 1..6), seed: u64,
        ) {
            let components: Vec<(usize, f64)> = sizes.iter().map(|&size| (size, size as f64)).collect();
            let mut mixture = mixture(&components, seed);
            for epoch in [2, 0, 1] {
                let mut rows = mixture.rows_of(epoch);
                rows.sort_unstable();
                prop_assert_eq!(rows, (0..mixture.rows() as u32).collect::<Vec<_>>());
            }
        }

        #[test]
        fn an_epoch_does_not_depend_on_which_was_requested_before(
            components in proptest::collection::vec((1usize..20, 0.05f64..5.0), 1..5), seed: u64,
        ) {
            let mut straight = mixture(&components, seed);
            let all: Vec<_> = (0..4).map(|epoch| straight.rows_of(epoch)).collect();
            for epoch in [3, 1, 0, 2] {
                prop_assert_eq!(&mixture(&components, seed).rows_of(epoch), &all[epoch as usize]);
                prop_assert_eq!(&straight.rows_of(epoch), &all[epoch as usize]);
            }
        }
    }

    #[test]
    fn errors_name_the_component() {
        let refused = |components: &[(&str, usize)], weights: &[(&str, f64)]| {
            let components = components
                .iter()
                .map(|&(name, rows)| MixtureComponent { name: name.to_owned(), rows })
                .collect();
            let weights = weights.iter().map(|&(name, weight)| (name.to_owned(), weight)).collect();
            Mixture::new(components, &weights, 0).expect_err("the mixture is invalid").to_string()
        };
        let both = [("news", 3), ("chat", 2)];
        for (weights, message) in [
            (&[("news", 1.0), ("chat", 0.0)][..], "`mixture.chat` is 0"),
            (&[("news", -1.0), ("chat", 1.0)], "`mixture.news` is -1"),
            (&[("news", f64::NAN), ("chat", 1.0)], "`mixture.news` is NaN"),
            (&[("news", 1.0), ("chats", 1.0)], "`mixture.chats` is not a component"),
            (&[("news", 1.0)], "no weight for the component `chat`"),
        ] {
            let error = refused(&both, weights);
            assert!(error.contains(message), "{error}");
        }
        assert!(
            refused(&[("news", 0)], &[("news", 1.0)]).contains("`news` of the mixture has no training rows")
        );
    }
}
