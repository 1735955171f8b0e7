//! Search with tree-structured Parzen estimators: settings that were good are likelier to be tried near again.

use failure::{Error, Result};
use outputs::SweepRecord;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use tpe::TpeOptimizer;

use super::{Round, WHOLE, add_round, empty};
use crate::member::Member;
use crate::pool::Pool;
use crate::space::{Dimension, Domain};
use crate::spec::{Draws, Sweep};

/// Proposals before a space counts as exhausted.
const ATTEMPTS: usize = 200;

/// A member with its places in the spaces of the estimators.
#[derive(Debug)]
struct Proposal {
    member: Member,
    places: Vec<f64>,
}

/// Proposes members. The same results lead to the same proposals, so a sweep that is run again finds its members in the store.
struct Proposer<'a> {
    space: &'a [Dimension],
    optimizers: Vec<TpeOptimizer>,
    random: ChaCha8Rng,
    /// Number of members that are drawn.
    startup: usize,
    proposed: Vec<String>,
}

impl<'a> Proposer<'a> {
    fn new(space: &'a [Dimension], seed: u64, startup: usize) -> Result<Self> {
        let optimizer = |dimension: &Dimension| {
            let (estimator, range) = match &dimension.domain {
                Domain::Choices(values) => (tpe::histogram_estimator(), tpe::categorical_range(values.len())),
                Domain::Range(_) => (tpe::parzen_estimator(), tpe::range(0.0, 1.0)),
            };
            Ok(TpeOptimizer::new(estimator, range.map_err(refused)?))
        };
        let optimizers = space.iter().map(optimizer).collect::<Result<_>>()?;
        Ok(Self { space, optimizers, random: ChaCha8Rng::seed_from_u64(seed), startup, proposed: Vec::new() })
    }

    /// Proposes a member that was not proposed before; `None` if there seems to be none left.
    fn propose(&mut self) -> Result<Option<Proposal>> {
        for attempt in 0..ATTEMPTS {
            // The estimators may know only one answer; draws then find what is left.
            let is_drawn = self.proposed.len() < self.startup || attempt >= ATTEMPTS / 2;
            let mut places = Vec::new();
            for (dimension, optimizer) in self.space.iter().zip(&mut self.optimizers) {
                places.push(if is_drawn {
                    self.random.random::<f64>() * width(dimension)
                } else {
                    optimizer.ask(&mut self.random).map_err(refused)?
                });
            }
            let values = self.space.iter().zip(&places);
            let values = values.map(|(dimension, place)| {
                (dimension.setting.clone(), dimension.domain.at(place / width(dimension)))
            });
            let member = Member::new(values.collect());
            if !self.proposed.contains(&member.name) {
                self.proposed.push(member.name.clone());
                return Ok(Some(Proposal { member, places }));
            }
        }
        Ok(None)
    }

    /// Learns the loss of a member, or another number of which lower ones are better; infinite if it failed.
    fn learn(&mut self, proposal: &Proposal, loss: f64) -> Result<()> {
        for (optimizer, place) in self.optimizers.iter_mut().zip(&proposal.places) {
            optimizer.tell(*place, loss).map_err(refused)?;
        }
        Ok(())
    }
}

/// Returns the width of the space of an estimator: the number of choices, or 1.
fn width(dimension: &Dimension) -> f64 {
    match &dimension.domain {
        Domain::Choices(values) => values.len() as f64,
        Domain::Range(_) => 1.0,
    }
}

fn refused(error: impl std::fmt::Debug) -> Error {
    Error::failed(format!("the search refused a value: {error:?}"))
}

pub(super) fn drive(
    sweep: &Sweep,
    pool: &Pool,
    draws: Draws,
    [startup, batch]: [usize; 2],
) -> Result<SweepRecord> {
    let mut record = empty(sweep);
    let mut proposer = Proposer::new(&sweep.space, draws.seed, startup)?;
    while record.members.len() < draws.members {
        let known = record.members.len();
        // Draws need no results, so they are one batch.
        let wanted = if known < startup { startup - known } else { batch };
        let wanted = wanted.min(draws.members - known);
        let proposals =
            (0..wanted).map_while(|_| proposer.propose().transpose()).collect::<Result<Vec<_>>>()?;
        if proposals.is_empty() {
            tracing::info!("all {known} combinations were tried");
            break;
        }
        let members: Vec<Member> = proposals.iter().map(|proposal| proposal.member.clone()).collect();
        add_round(&mut record, sweep, pool, &Round { members: &members, steps: None, target: WHOLE })?;
        for (proposal, member) in proposals.iter().zip(&record.members[known..]) {
            proposer.learn(proposal, record.cost(member).unwrap_or(f64::INFINITY))?;
        }
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use toml::Value;

    use super::*;
    use crate::space::Range;
    use crate::value::number;

    fn space() -> Vec<Dimension> {
        let rates = Range { low: 1e-6, high: 1.0, logarithmic: true, integer: false, points: None };
        let ranks = (0..6).map(|power| Value::Integer(1 << power)).collect();
        vec![
            Dimension { setting: "train.learning_rate".to_owned(), domain: Domain::Range(rates) },
            Dimension { setting: "train.rank".to_owned(), domain: Domain::Choices(ranks) },
        ]
    }

    /// Lowest at a rate of 1e-3 and a rank of 8.
    fn loss(member: &Member) -> f64 {
        let of = |at: usize| number(&member.values[at].1).expect("a number");
        (of(0).log10() + 3.0).powi(2) + (of(1).log2() - 3.0).powi(2) * 0.2
    }

    /// Returns the members of a search and their losses.
    fn search(seed: u64, startup: usize, members: usize) -> Result<Vec<(String, f64)>> {
        let space = space();
        let mut proposer = Proposer::new(&space, seed, startup)?;
        let mut found = Vec::new();
        while found.len() < members {
            let Some(proposal) = proposer.propose()? else { break };
            let loss = loss(&proposal.member);
            proposer.learn(&proposal, loss)?;
            found.push((proposal.member.name, loss));
        }
        Ok(found)
    }

    #[test]
    fn the_search_finds_better_members_than_draws_and_repeats_none() -> Result<()> {
        let mean_of_last = |found: &[(String, f64)]| -> f64 {
            found[20..].iter().map(|(_, loss)| loss).sum::<f64>() / (found.len() - 20) as f64
        };
        let (mut searched, mut drawn) = (0.0, 0.0);
        for seed in 0..5 {
            let found = search(seed, 10, 40)?;
            assert_eq!(found, search(seed, 10, 40)?, "the same seed proposes the same members");
            let names: std::collections::BTreeSet<&String> = found.iter().map(|(name, _)| name).collect();
            assert_eq!(names.len(), 40);
            searched += mean_of_last(&found);
            drawn += mean_of_last(&search(seed, 40, 40)?);
        }
        assert!(searched < 0.5 * drawn, "{searched} of the search, {drawn} of draws");
        Ok(())
    }

    #[test]
    fn a_small_space_is_exhausted() -> Result<()> {
        let mut space = space();
        space.remove(0);
        let mut proposer = Proposer::new(&space, 0, 2)?;
        let mut count = 0;
        while let Some(proposal) = proposer.propose()? {
            proposer.learn(&proposal, f64::INFINITY)?;
            count += 1;
        }
        assert!((5..=6).contains(&count), "{count} of 6 combinations");
        Ok(())
    }
}
