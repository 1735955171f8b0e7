//! Differences of the test loss between members and the best one: which are beyond noise.
//!
//! Two kinds of noise can fake a difference: other test rows, and other seeds. A paired test over rows and Welch's test over
//! seeds each give a p-value, and the larger one counts; it is then corrected for the number of members.

use std::collections::BTreeMap;

use artifact::{Key, Store};
use chart::markup::{Element, element};
use metrics::significance::{holm, sign_flip, welch};
use outputs::{Line as _, Prediction};

use super::{Sweep, title};
use crate::compare::runs::Run;
use crate::number;
use crate::parts::{Section, notes, number_cell, number_column, pill, row_head, table, words_column};

/// Draws of signs.
const DRAWS: usize = 20_000;
/// Seed of the draws.
const SEED: u64 = 1;
/// Highest corrected p-value of a difference beyond noise.
const LIMIT: f64 = 0.05;

/// Summed loss and targets of one row, over the seeds of a member.
#[derive(Debug, Clone, Copy, Default)]
struct RowSum {
    nats: f64,
    tokens: f64,
}

/// Rows of a member by group and id; a row without a group is a group of its own.
type Rows = BTreeMap<(String, String), RowSum>;

/// Test losses of a member.
struct Losses {
    /// Index of the member.
    member: usize,
    /// Sums over its runs; `None` if the store lacks the answers of a run.
    rows: Option<Rows>,
    /// Mean loss of each run in nats per target.
    of_runs: Vec<f64>,
}

/// A member against the best one.
struct Pair {
    member: usize,
    /// Mean test loss minus that of the best member.
    difference: f64,
    over_rows: Option<f64>,
    over_seeds: Option<f64>,
    /// Corrected p-value; `None` if nothing was tested.
    corrected: Option<f64>,
}

/// All members against the best one.
pub(super) struct Differences {
    best: usize,
    pairs: Vec<Pair>,
}

impl Differences {
    /// Compares the members that have reports; `None` if fewer than two have.
    pub(super) fn new(sweep: &Sweep, store: Option<&Store>) -> Option<Self> {
        let best = sweep.best()?;
        let all: Vec<Losses> =
            (0..sweep.record.members.len()).filter_map(|member| Losses::read(sweep, member, store)).collect();
        let reference = all.iter().find(|losses| losses.member == best)?;
        let others = all.iter().filter(|losses| losses.member != best);
        let mut pairs: Vec<Pair> = others.map(|other| Pair::new(reference, other)).collect();
        let tested: Vec<usize> = (0..pairs.len()).filter(|at| pairs[*at].uncorrected().is_some()).collect();
        let values: Vec<f64> = tested.iter().filter_map(|at| pairs[*at].uncorrected()).collect();
        for (at, corrected) in tested.into_iter().zip(holm(&values)) {
            pairs[at].corrected = Some(corrected);
        }
        pairs.sort_by(|a, b| a.difference.total_cmp(&b.difference));
        (!pairs.is_empty()).then_some(Self { best, pairs })
    }

    /// Returns in one sentence how many members differ.
    pub(super) fn sentence(&self) -> String {
        let count =
            |verdict: Verdict| self.pairs.iter().filter(|pair| pair.verdict() == verdict).count() as u64;
        let mut parts = Vec::new();
        for (verdict, text) in [
            (Verdict::Worse, "worse beyond noise"),
            (Verdict::Better, "better beyond noise"),
            (Verdict::WithinNoise, "within noise"),
            (Verdict::Unknown, "not compared"),
        ] {
            if count(verdict) > 0 {
                parts.push(format!("{} {text}", number::count(count(verdict))));
            }
        }
        let others = number::counted(self.pairs.len() as u64, "other member");
        format!("Of {others} on the test split: {}.", parts.join(", "))
    }

    /// Returns the section.
    pub(super) fn section(&self, sweep: &Sweep) -> Section {
        let columns = [
            words_column("Member"),
            number_column("Test loss against the best"),
            number_column("p over rows"),
            number_column("p over seeds"),
            number_column("p corrected"),
            words_column("Verdict"),
        ];
        let rows = self.pairs.iter().map(|pair| {
            let p = |value: Option<f64>| number_cell(value.map_or("–".to_owned(), probability));
            vec![
                row_head(&title(&sweep.record.members[pair.member])),
                number_cell(number::signed(pair.difference, 4)),
                p(pair.over_rows),
                p(pair.over_seeds),
                p(pair.corrected),
                element("td").child(pair.verdict().pill()),
            ]
        });
        let about = format!(
            "Mean loss on the test split minus that of {}, in nats per token.",
            title(&sweep.record.members[self.best])
        );
        Section::new("differences", "Differences beyond noise")
            .about(about)
            .add(table("Differences", &columns, rows))
            .add(notes(self.explained()))
    }

    fn explained(&self) -> Vec<String> {
        let mut notes = vec![
            "Over rows: signs of the paired differences of rows, or of groups of rows, are flipped at random. Over seeds: Welch's t-test between the runs of two members. The larger p counts, because a difference must be beyond both kinds of noise."
                .to_owned(),
            format!(
                "Corrected for {} by Holm's method: the chance that one or more of these verdicts is false is at most {}.",
                number::counted(self.pairs.len() as u64, "comparison"),
                number::percent_of(LIMIT)
            ),
        ];
        if self.pairs.iter().any(|pair| pair.over_seeds.is_none()) {
            notes.push(
                "Where there is no p over seeds, a member has a single run, and a verdict holds for these seeds only: give the sweep two or more `seeds` to test them."
                    .to_owned(),
            );
        }
        if self.pairs.iter().any(|pair| pair.over_rows.is_none()) {
            notes.push(
                "Where there is no p over rows, the store does not have the losses of the rows of a run."
                    .to_owned(),
            );
        }
        notes
    }
}

impl Losses {
    /// Reads the losses of a member; `None` if it has no report with a loss.
    fn read(sweep: &Sweep, member: usize, store: Option<&Store>) -> Option<Self> {
        let runs = sweep.runs_of(member);
        let of_runs: Option<Vec<f64>> = runs.iter().map(|run| test_loss(run)).collect();
        let of_runs = of_runs.filter(|losses| !losses.is_empty())?;
        let mut sums = Some(Rows::new());
        for run in runs {
            let rows = store.and_then(|store| rows_of(store, run));
            sums = sums.zip(rows).map(|(sums, rows)| added(sums, rows));
        }
        Some(Self { member, rows: sums.filter(|rows| !rows.is_empty()), of_runs })
    }

    fn mean(&self) -> f64 {
        self.of_runs.iter().sum::<f64>() / self.of_runs.len() as f64
    }
}

fn test_loss(run: &Run) -> Option<f64> {
    let model = run.record.tuned.as_ref()?;
    Some(run.record.scores.get("loss")?.models.get(model)?.value)
}

/// Reads the loss of every row from the artifact of evaluate.
fn rows_of(store: &Store, run: &Run) -> Option<Rows> {
    let model = run.record.tuned.as_ref()?;
    let key: Key = run.record.keys.get("evaluate")?.parse().ok()?;
    let artifact = store.find("evaluate", &key, "").ok()??;
    let mut rows = Rows::new();
    for line in Prediction::read(&artifact.join("data").join(Prediction::FILE)).ok()? {
        let line = line.ok()?;
        let Some(loss) = line.losses.get(model) else { continue };
        let group = line.group.clone().unwrap_or_else(|| format!("row {}", line.id));
        rows.insert((group, line.id), RowSum { nats: loss.loss, tokens: loss.tokens as f64 });
    }
    Some(rows)
}

fn added(mut sums: Rows, rows: Rows) -> Rows {
    for (row, loss) in rows {
        let sum = sums.entry(row).or_default();
        sum.nats += loss.nats;
        sum.tokens += loss.tokens;
    }
    sums
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Better,
    Worse,
    WithinNoise,
    Unknown,
}

impl Verdict {
    fn pill(self) -> Element {
        match self {
            Self::Better => pill("better", "better"),
            Self::Worse => pill("worse", "worse"),
            Self::WithinNoise => pill("level", "within noise"),
            Self::Unknown => pill("level", "not compared"),
        }
    }
}

impl Pair {
    fn new(best: &Losses, other: &Losses) -> Self {
        let rows = best.rows.as_ref().zip(other.rows.as_ref());
        Self {
            member: other.member,
            difference: other.mean() - best.mean(),
            over_rows: rows.and_then(|(best, other)| over_rows(best, other)),
            over_seeds: welch(&other.of_runs, &best.of_runs),
            corrected: None,
        }
    }

    fn uncorrected(&self) -> Option<f64> {
        self.over_rows.into_iter().chain(self.over_seeds).reduce(f64::max)
    }

    fn verdict(&self) -> Verdict {
        match self.corrected {
            None => Verdict::Unknown,
            Some(p) if p > LIMIT => Verdict::WithinNoise,
            Some(_) if self.difference > 0.0 => Verdict::Worse,
            Some(_) => Verdict::Better,
        }
    }
}

/// Returns the p-value over the rows; `None` if the members were not scored on the same rows.
///
/// A row counts with its targets: the differences of a group are sums of nats, each relative to the targets of the seeds.
fn over_rows(best: &Rows, other: &Rows) -> Option<f64> {
    if !best.keys().eq(other.keys()) {
        return None;
    }
    let tokens = |rows: &Rows| rows.values().map(|row| row.tokens).sum::<f64>();
    let (of_best, of_other) = (tokens(best), tokens(other));
    if of_best <= 0.0 || of_other <= 0.0 {
        return None;
    }
    let mut groups: BTreeMap<&str, f64> = BTreeMap::new();
    for (((group, _), best), other) in best.iter().zip(other.values()) {
        *groups.entry(group).or_default() += other.nats / of_other - best.nats / of_best;
    }
    let differences: Vec<f64> = groups.into_values().collect();
    Some(sign_flip(&differences, DRAWS, SEED))
}

/// Prints a p-value.
fn probability(value: f64) -> String {
    if value < 1e-3 { "< 0.001".to_owned() } else { number::fixed(value, 3) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn losses(member: usize, shift: f64, seeds: &[f64]) -> Losses {
        let rows = (0..40u32).map(|row| {
            let noise = f64::from(row * 37 % 11) / 10.0;
            let name = (format!("story {}", row / 2), format!("row {row}"));
            (name, RowSum { nats: 20.0 + noise + shift * (1.0 + noise), tokens: 10.0 })
        });
        Losses { member, rows: Some(rows.collect()), of_runs: seeds.to_vec() }
    }

    #[test]
    fn a_difference_must_be_beyond_the_noise_of_rows_and_of_seeds() {
        let best = losses(0, 0.0, &[2.0, 2.01, 2.02]);
        let clear = Pair::new(&best, &losses(1, 0.5, &[2.1, 2.11, 2.12]));
        assert!(clear.uncorrected().is_some_and(|p| p < 0.01), "{:?}", clear.uncorrected());
        let of_few_seeds = Pair::new(&best, &losses(1, 0.5, &[2.0, 2.3, 1.9]));
        assert!(of_few_seeds.over_rows.is_some_and(|p| p < 0.01));
        assert!(of_few_seeds.uncorrected().is_some_and(|p| p > 0.2));
        let one_seed = Pair::new(&best, &losses(1, 0.5, &[2.1]));
        assert_eq!((one_seed.over_seeds, one_seed.uncorrected()), (None, one_seed.over_rows));
        let same = Pair::new(&best, &losses(1, 0.0, &[2.0, 2.01, 2.02]));
        assert!(same.uncorrected().is_some_and(|p| p > 0.99));
    }

    #[test]
    fn other_rows_are_not_compared() {
        let best = losses(0, 0.0, &[2.0]);
        let mut other = losses(1, 0.5, &[2.1]);
        if let Some(rows) = &mut other.rows {
            rows.pop_first();
        }
        let pair = Pair::new(&best, &other);
        assert_eq!((pair.uncorrected(), pair.verdict()), (None, Verdict::Unknown));
    }
}
