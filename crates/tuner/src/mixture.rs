//! Parts of the training data mixed by weight: which rows an epoch draws.

use crate::error::{Error, Result};
use dataset::order::permutation;
use std::collections::BTreeMap;

/// Rows of one name, one after another in the training split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// How many rows it has.
    pub rows: usize,
}

/// Draws rows from parts so that each has its share.
///
/// Every epoch draws as many rows as there are. After any number of draws, over all epochs, the draws from a part are
/// within one row of its share of them (Tijdeman's chairman assignment, doi:10.1016/0012-365X(80)90269-1). Within a
/// part, rows come in passes: each row once, in an order of its own, before any comes again. With weights that are the
/// parts' own sizes, an epoch so has each row exactly once.
#[derive(Debug, Clone)]
pub struct Mixture {
    parts: Vec<Part>,
    /// Of all draws; they add up to 1.
    shares: Vec<f64>,
    seed: u64,
    /// How often each part was drawn before each epoch, as far as that is known.
    drawn: Vec<Vec<u64>>,
}

impl Mixture {
    /// Mixes `parts`, in the order of the split, by the weights of their names.
    ///
    /// # Errors
    ///
    /// Names a weight that is not above 0 or belongs to no part, and a part without weight or rows.
    pub fn new(parts: Vec<Part>, weights: &BTreeMap<String, f64>, seed: u64) -> Result<Self> {
        let names: Vec<&str> = parts.iter().map(|part| part.name.as_str()).collect();
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
        let mut of_parts = Vec::new();
        for part in &parts {
            let Some(weight) = weights.get(&part.name) else {
                return Err(Error::settings(
                    format!("`mixture` has no weight for the component `{}`", part.name),
                    "give every component of the dataset a weight",
                ));
            };
            if part.rows == 0 {
                return Err(Error::settings(
                    format!("the component `{}` of the mixture has no training rows", part.name),
                    "remove it, or see the dataset's `stats.json` for where its rows went",
                ));
            }
            of_parts.push(*weight);
        }
        // Weights so large that their sum overflows still have shares.
        let largest = of_parts.iter().copied().fold(0.0, f64::max);
        let total: f64 = of_parts.iter().map(|weight| weight / largest).sum();
        let shares = of_parts.iter().map(|weight| weight / largest / total).collect();
        let drawn = vec![vec![0; parts.len()]];
        Ok(Self { parts, shares, seed, drawn })
    }

    /// Rows in all parts.
    pub fn rows(&self) -> usize {
        self.parts.iter().map(|part| part.rows).sum()
    }

    /// The rows that `epoch` draws, in an order in which every stretch has its shares.
    pub fn rows_of(&mut self, epoch: u64) -> Vec<u32> {
        let draws = self.rows();
        while (self.drawn.len() as u64) <= epoch {
            let before = self.drawn.len() as u64 - 1;
            let mut drawn = self.drawn[before as usize].clone();
            self.deal(before, &mut drawn, |_, _| {});
            self.drawn.push(drawn);
        }
        let mut drawn = self.drawn[epoch as usize].clone();
        let mut passes: Vec<Option<(u64, Vec<u32>)>> = vec![None; self.parts.len()];
        let mut rows = Vec::with_capacity(draws);
        let starts: Vec<u32> = self
            .parts
            .iter()
            .scan(0, |next, part| Some(std::mem::replace(next, *next + part.rows as u32)))
            .collect();
        self.deal(epoch, &mut drawn, |part, draw| {
            let (size, name) = (self.parts[part].rows, &self.parts[part].name);
            let (pass, place) = (draw / size as u64, (draw % size as u64) as usize);
            if passes[part].as_ref().is_none_or(|(made, _)| *made != pass) {
                let order = permutation(self.seed, &format!("mixture {name}"), pass, size);
                passes[part] = Some((pass, order));
            }
            let order = &passes[part].as_ref().expect("made above").1;
            rows.push(starts[part] + order[place]);
        });
        rows
    }

    /// Deals out the draws of an epoch, and calls `each` with the part and how often it was drawn before.
    fn deal(&self, epoch: u64, drawn: &mut [u64], mut each: impl FnMut(usize, u64)) {
        let first = epoch * self.rows() as u64;
        for draw in first..first + self.rows() as u64 {
            let part = self.next(draw, drawn);
            each(part, drawn[part]);
            drawn[part] += 1;
        }
    }

    /// The part to draw from after `draws` draws: of those that lag behind enough, the one whose time is up first.
    fn next(&self, draws: u64, drawn: &[u64]) -> usize {
        let count = self.parts.len();
        if count == 1 {
            return 0;
        }
        let slack = 1.0 / (2 * count - 2) as f64;
        let mut chosen: Option<(f64, usize)> = None;
        for (part, (&share, &drawn)) in self.shares.iter().zip(drawn).enumerate() {
            let lag = share * (draws + 1) as f64 - drawn as f64;
            // Rounding grows with the number of draws.
            if lag < slack - 1e-6 - 1e-15 * draws as f64 {
                continue;
            }
            let time_left = (1.0 - slack - lag) / share;
            if chosen.is_none_or(|(least, _)| time_left < least) {
                chosen = Some((time_left, part));
            }
        }
        chosen.expect("lags add up to 1, so that one is at least 1 / parts").1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn mixture(parts: &[(usize, f64)], seed: u64) -> Mixture {
        let name = |index: usize| format!("part-{index}");
        let of = parts.iter().enumerate();
        let weights = of.clone().map(|(index, &(_, weight))| (name(index), weight)).collect();
        let parts = of.map(|(index, &(rows, _))| Part { name: name(index), rows }).collect();
        Mixture::new(parts, &weights, seed).expect("fine weights")
    }

    /// Which part a row is of.
    fn part_of(parts: &[(usize, f64)], row: u32) -> usize {
        let mut end = 0;
        let found = parts.iter().position(|&(rows, _)| {
            end += rows as u32;
            row < end
        });
        found.expect("a row of the split")
    }

    proptest! {
        #[test]
        fn after_any_number_of_draws_each_part_is_within_one_row_of_its_share(
            parts in proptest::collection::vec((1usize..40, 0.01f64..10.0), 1..7), seed: u64,
        ) {
            let mut mixture = mixture(&parts, seed);
            let total: f64 = parts.iter().map(|(_, weight)| weight).sum();
            let mut seen = vec![0u64; parts.len()];
            let mut draws = 0u64;
            for epoch in 0..4 {
                let rows = mixture.rows_of(epoch);
                prop_assert_eq!(rows.len(), mixture.rows());
                for row in rows {
                    seen[part_of(&parts, row)] += 1;
                    draws += 1;
                    for (&count, &(_, weight)) in seen.iter().zip(&parts) {
                        let share = draws as f64 * weight / total;
                        prop_assert!((count as f64 - share).abs() < 1.0, "{count} of {draws}, not {share}");
                    }
                }
            }
        }

        #[test]
        fn a_part_is_gone_through_before_any_of_its_rows_comes_again(
            parts in proptest::collection::vec((1usize..20, 0.05f64..5.0), 1..5), seed: u64,
        ) {
            let mut mixture = mixture(&parts, seed);
            let mut seen = vec![0u32; mixture.rows()];
            for epoch in 0..3 {
                for row in mixture.rows_of(epoch) {
                    let part = part_of(&parts, row);
                    let start: usize = parts[..part].iter().map(|(rows, _)| rows).sum();
                    let least = *seen[start..start + parts[part].0].iter().min().expect("a part has rows");
                    prop_assert_eq!(seen[row as usize], least);
                    seen[row as usize] += 1;
                }
            }
        }

        #[test]
        fn sizes_as_weights_give_each_row_once_an_epoch(
            sizes in proptest::collection::vec(1usize..30, 1..6), seed: u64,
        ) {
            let parts: Vec<(usize, f64)> = sizes.iter().map(|&size| (size, size as f64)).collect();
            let mut mixture = mixture(&parts, seed);
            for epoch in [2, 0, 1] {
                let mut rows = mixture.rows_of(epoch);
                rows.sort_unstable();
                prop_assert_eq!(rows, (0..mixture.rows() as u32).collect::<Vec<_>>());
            }
        }

        #[test]
        fn an_epoch_is_the_same_whichever_was_asked_for_before(
            parts in proptest::collection::vec((1usize..20, 0.05f64..5.0), 1..5), seed: u64,
        ) {
            let mut straight = mixture(&parts, seed);
            let all: Vec<_> = (0..4).map(|epoch| straight.rows_of(epoch)).collect();
            for epoch in [3, 1, 0, 2] {
                prop_assert_eq!(&mixture(&parts, seed).rows_of(epoch), &all[epoch as usize]);
                prop_assert_eq!(&straight.rows_of(epoch), &all[epoch as usize]);
            }
        }
    }

    #[test]
    fn what_is_wrong_with_a_mixture_is_named() {
        let refused = |parts: &[(&str, usize)], weights: &[(&str, f64)]| {
            let parts = parts.iter().map(|&(name, rows)| Part { name: name.to_owned(), rows }).collect();
            let weights = weights.iter().map(|&(name, weight)| (name.to_owned(), weight)).collect();
            Mixture::new(parts, &weights, 0).expect_err("it is wrong").to_string()
        };
        let both = [("news", 3), ("chat", 2)];
        for (weights, part) in [
            (&[("news", 1.0), ("chat", 0.0)][..], "`mixture.chat` is 0"),
            (&[("news", -1.0), ("chat", 1.0)], "`mixture.news` is -1"),
            (&[("news", f64::NAN), ("chat", 1.0)], "`mixture.news` is NaN"),
            (&[("news", 1.0), ("chats", 1.0)], "`mixture.chats` is not a component"),
            (&[("news", 1.0)], "no weight for the component `chat`"),
        ] {
            let error = refused(&both, weights);
            assert!(error.contains(part), "{error}");
        }
        assert!(
            refused(&[("news", 0)], &[("news", 1.0)]).contains("`news` of the mixture has no training rows")
        );
    }
}
