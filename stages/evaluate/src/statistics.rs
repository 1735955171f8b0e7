//! Intervals of all scores, comparisons of all pairs, and subgroups.

use std::collections::BTreeMap;

use failure::Result;
use indexmap::IndexMap;
use metrics::Counts;
use metrics::resample::{Distribution, Units, distributions, tally};
use outputs::{Comparison, Difference, Direction, MetricInfo, Verdict};

use crate::config::{Config, Unit};
use crate::parts::Part;

/// One score: counts of every system on the same rows.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) info: MetricInfo,
    /// Indices of the counted rows.
    pub(crate) rows: Vec<usize>,
    /// Counts by system; `None` for a system without this score.
    pub(crate) systems: Vec<Option<Counts>>,
    /// Counts by name of the floor.
    pub(crate) floors: BTreeMap<String, Counts>,
}

impl Column {
    /// Returns the column of those of its rows that are in `chosen`; `None` without any.
    fn select(&self, chosen: &[usize]) -> Option<Self> {
        let positions: Vec<usize> =
            (0..self.rows.len()).filter(|&at| chosen.binary_search(&self.rows[at]).is_ok()).collect();
        let select = |counts: &Counts| counts.select(&positions);
        (!positions.is_empty()).then(|| Self {
            name: self.name.clone(),
            info: self.info.clone(),
            rows: positions.iter().map(|&at| self.rows[at]).collect(),
            systems: self.systems.iter().map(|counts| counts.as_ref().map(select)).collect(),
            floors: BTreeMap::new(),
        })
    }
}

/// A value with the ends of its interval.
type Estimate = (f64, [f64; 2]);

/// Everything that the draws tell.
#[derive(Debug, Default)]
pub(crate) struct Summary {
    /// Scores with their intervals, by system and metric.
    pub(crate) systems: Vec<IndexMap<String, Estimate>>,
    /// Scores with their intervals, by floor and metric.
    pub(crate) floors: BTreeMap<String, BTreeMap<String, Estimate>>,
    /// Differences by pair of systems (the later and the earlier index) and metric.
    pub(crate) pairs: BTreeMap<[usize; 2], IndexMap<String, Difference>>,
}

/// Pairs of systems that are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pairs {
    /// Every pair.
    All,
    /// Every other system with the first.
    WithFirst,
}

/// Returns the units of rows: groups, if the settings and the rows allow it.
pub(crate) fn units(rows: &[usize], groups: &[Option<String>], unit: Unit) -> Units {
    let names = rows.iter().map(|&row| groups[row].as_deref());
    match unit {
        Unit::Row => Units::rows(rows.len()),
        Unit::Group => Units::groups(names),
        Unit::Auto => Units::auto(names),
    }
}

/// Draws the rows and summarizes every column.
pub(crate) fn summarize(
    columns: &[Column],
    systems: usize,
    groups: &[Option<String>],
    pairs: Pairs,
    config: &Config,
) -> Result<Summary> {
    let mut summary = Summary { systems: vec![IndexMap::new(); systems], ..Summary::default() };
    for column in columns {
        let units = units(&column.rows, groups, config.unit);
        let given: Vec<&Counts> = column.systems.iter().flatten().chain(column.floors.values()).collect();
        let mut drawn = distributions(&units, &given, &config.bootstrap())?.into_iter();
        let of_systems: Vec<Option<Distribution>> =
            column.systems.iter().map(|counts| counts.as_ref().and_then(|_| drawn.next())).collect();
        let estimate = |distribution: &Distribution| {
            let interval = distribution.interval(config.confidence);
            (interval.value, [interval.low, interval.high])
        };
        for (system, distribution) in of_systems.iter().enumerate() {
            if let Some(distribution) = distribution {
                summary.systems[system].insert(column.name.clone(), estimate(distribution));
            }
        }
        for (floor, distribution) in column.floors.keys().zip(drawn) {
            let scores = summary.floors.entry(floor.clone()).or_default();
            scores.insert(column.name.clone(), estimate(&distribution));
        }
        for (later, earlier) in pairs.of(systems) {
            if let (Some(left), Some(right)) = (&of_systems[later], &of_systems[earlier]) {
                let interval = left.minus(right).interval(config.confidence);
                let counts = |system: usize| column.systems[system].as_ref().expect("it was drawn");
                let rows = [counts(later), counts(earlier)].map(Counts::row_scores);
                let mut difference = difference(interval, rows, column.info.better);
                if units.len() < 2 {
                    difference.verdict = difference.verdict.map(|_| Verdict::WithinNoise);
                }
                let found = summary.pairs.entry([later, earlier]).or_default();
                found.insert(column.name.clone(), difference);
            }
        }
    }
    Ok(summary)
}

impl Pairs {
    /// Lists the pairs, the later system first.
    fn of(self, systems: usize) -> impl Iterator<Item = (usize, usize)> {
        let all =
            (0..systems).flat_map(move |earlier| (earlier + 1..systems).map(move |later| (later, earlier)));
        all.filter(move |(_, earlier)| self == Self::All || *earlier == 0)
    }
}

/// Makes a difference of an interval and the scores of the rows of both systems.
pub(crate) fn difference(
    interval: metrics::bootstrap::Interval,
    rows: [&[f64]; 2],
    better: Direction,
) -> Difference {
    let counted = tally(rows[0], rows[1], better != Direction::Lower);
    Difference {
        value: interval.value,
        low: interval.low,
        high: interval.high,
        wins: counted.wins,
        ties: counted.ties,
        losses: counted.losses,
        verdict: verdict(interval.low, interval.high, better),
    }
}

fn verdict(low: f64, high: f64, better: Direction) -> Option<Verdict> {
    let (rises, falls) = match better {
        Direction::Higher => (Verdict::Better, Verdict::Worse),
        Direction::Lower => (Verdict::Worse, Verdict::Better),
        Direction::Neither => return None,
    };
    Some(if low > 0.0 {
        rises
    } else if high < 0.0 {
        falls
    } else {
        Verdict::WithinNoise
    })
}

impl Summary {
    /// Returns the comparisons with the names of the systems; `identical` tells whether a pair is.
    pub(crate) fn comparisons(
        &self,
        names: &[&str],
        identical: impl Fn(usize, usize) -> bool,
    ) -> Vec<Comparison> {
        let mut pairs: Vec<_> = self.pairs.iter().collect();
        pairs.sort_by_key(|([later, earlier], _)| [*earlier, *later]);
        let comparison =
            |(&[later, earlier], metrics): (&[usize; 2], &IndexMap<String, Difference>)| Comparison {
                model: names[later].to_owned(),
                against: names[earlier].to_owned(),
                identical: identical(later, earlier),
                metrics: metrics.clone(),
            };
        pairs.into_iter().map(comparison).collect()
    }
}

/// Returns the columns of a part.
pub(crate) fn columns_of(columns: &[Column], part: &Part) -> Vec<Column> {
    columns.iter().filter_map(|column| column.select(&part.rows)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(systems: &[&[f64]]) -> Column {
        let rows = systems[0].len();
        Column {
            name: "similarity".to_owned(),
            info: MetricInfo::default(),
            rows: (0..rows).collect(),
            systems: systems.iter().map(|scores| Some(Counts::of_scores(scores))).collect(),
            floors: BTreeMap::new(),
        }
    }

    #[test]
    fn every_pair_is_compared_and_the_first_comes_first() {
        let columns = [column(&[&[0.1, 0.2, 0.3], &[0.2, 0.3, 0.4], &[0.1, 0.2, 0.3]])];
        let config = Config::default();
        let summary = summarize(&columns, 3, &[None, None, None], Pairs::All, &config).unwrap();
        let comparisons = summary.comparisons(&["a", "b", "c"], |later, earlier| (later, earlier) == (2, 0));
        let names: Vec<_> =
            comparisons.iter().map(|pair| (pair.model.as_str(), pair.against.as_str())).collect();
        assert_eq!(names, [("b", "a"), ("c", "a"), ("c", "b")]);
        let gain = comparisons[0].metrics["similarity"];
        assert_eq!((gain.wins, gain.verdict), (3, Some(Verdict::Better)));
        assert_eq!(comparisons[1].metrics["similarity"].verdict, Some(Verdict::WithinNoise));
        assert_eq!(comparisons[2].metrics["similarity"].verdict, Some(Verdict::Worse));
        assert!(comparisons[1].identical && !comparisons[0].identical);
    }

    #[test]
    fn one_row_proves_nothing() {
        let columns = [column(&[&[0.1], &[0.9]])];
        let summary = summarize(&columns, 2, &[None], Pairs::WithFirst, &Config::default()).unwrap();
        assert_eq!(summary.pairs[&[1, 0]]["similarity"].verdict, Some(Verdict::WithinNoise));
    }

    #[test]
    fn groups_are_drawn_if_there_are_enough() {
        let names = |count: usize| -> Vec<Option<String>> {
            (0..20).map(|row| Some(format!("g{}", row % count))).collect()
        };
        let rows: Vec<usize> = (0..20).collect();
        assert_eq!(units(&rows, &names(5), Unit::Auto).len(), 5);
        assert_eq!(units(&rows, &names(4), Unit::Auto).len(), 20);
        assert_eq!(units(&rows, &names(4), Unit::Group).len(), 4);
        assert_eq!(units(&rows, &names(5), Unit::Row).len(), 20);
    }

    #[test]
    fn parts_have_the_scores_of_their_rows() {
        let part = Part { by: "story".to_owned(), value: "x".to_owned(), rows: vec![0, 2, 3] };
        let columns = columns_of(&[column(&[&[1.0, 9.0, 2.0, 3.0]])], &part);
        assert!((columns[0].systems[0].as_ref().unwrap().score() - 2.0).abs() < 1e-12);
    }
}
