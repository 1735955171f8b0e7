//! Running a sweep: which members run, for how long, and what came out.

mod halving;
mod parzen;

use metrics::{Better, Metric};
use outputs::{Choice, Document as _, RunRecord, SweepMember, SweepRecord, SweepRun, SweepScore};

use crate::error::Result;
use crate::make::Make;
use crate::member::{Member, Run, known};
use crate::pool::{Ending, Pool};
use crate::spec::{Search, Sweep};
use crate::value;

/// Target of make for runs that are scored on the test split.
const WHOLE: &str = "pipeline";
/// Target of make for runs that are only compared on the validation split.
const VALIDATED: &str = "select-best";

pub(crate) use halving::{kept, total_steps};

/// Runs a sweep to its end.
///
/// # Errors
///
/// Fails if the program was asked to stop. A failed run is part of the record.
pub(crate) fn drive(sweep: &Sweep, pool: &Pool) -> failure::Result<SweepRecord> {
    match &sweep.search {
        Search::Grid | Search::Random(_) => {
            let mut record = empty(sweep);
            let members = known(sweep)?;
            add_round(&mut record, sweep, pool, &Round { members: &members, steps: None, target: WHOLE })?;
            Ok(record)
        }
        Search::Halving { rungs, keep_one_in, .. } => halving::drive(sweep, pool, rungs, *keep_one_in),
        Search::Tpe { draws, startup, batch } => parzen::drive(sweep, pool, *draws, [*startup, *batch]),
    }
}

fn empty(sweep: &Sweep) -> SweepRecord {
    SweepRecord {
        name: sweep.name.clone(),
        search: sweep.search.name().to_owned(),
        varied: sweep.space.iter().map(|dimension| dimension.setting.clone()).collect(),
        ..SweepRecord::default()
    }
}

/// Members that run at the same time, to the same length.
#[derive(Debug, Clone, Copy)]
struct Round<'a> {
    members: &'a [Member],
    /// Length of the runs, if the sweep decides it.
    steps: Option<u64>,
    target: &'static str,
}

/// Runs members with all seeds and puts them into the record; a member that is there already is replaced.
fn add_round(record: &mut SweepRecord, sweep: &Sweep, pool: &Pool, round: &Round<'_>) -> failure::Result<()> {
    let runs: Vec<Vec<Run>> = round.members.iter().map(|member| member.runs(sweep, round.steps)).collect();
    let endings = pool.run(&runs.concat(), round.target)?;
    let mut endings = endings.into_iter();
    for (member, runs) in round.members.iter().zip(&runs) {
        let mut ended = Vec::new();
        for (run, ending) in runs.iter().zip(&mut endings) {
            record.trained_steps += newly_trained(&pool.make, run, ending)?;
            ended.push(outcome(&pool.make, run, ending, round.target)?);
        }
        let values = member.values.iter().map(|(name, value)| (name.clone(), value::text(value)));
        let made = SweepMember { name: member.name.clone(), values: values.collect(), runs: ended };
        match record.members.iter_mut().find(|known| known.name == made.name) {
            Some(known) => *known = made,
            None => record.members.push(made),
        }
    }
    Ok(())
}

/// Returns the steps that a run trained itself.
fn newly_trained(make: &Make, run: &Run, ending: Ending) -> Result<u64> {
    let trained = if ending == Ending::Finished { make.trained_steps(run)? } else { None };
    Ok(trained.map_or(0, |trained| trained.all.saturating_sub(trained.taken_over)))
}

fn outcome(make: &Make, run: &Run, ending: Ending, target: &str) -> Result<SweepRun> {
    if ending != Ending::Finished {
        return Ok(SweepRun { seed: run.seed, failed: true, ..SweepRun::default() });
    }
    let choice = make.choice(run)?;
    let report = if target == WHOLE { make.artifact(run, RunRecord::STAGE) } else { None };
    Ok(SweepRun {
        seed: run.seed,
        steps: make.trained_steps(run)?.map(|trained| trained.all),
        validation_loss: choice.as_ref().map(|choice| choice.loss),
        validation_score: choice.and_then(score),
        report: report.map(|path| path.to_string_lossy().into_owned()),
        failed: false,
    })
}

/// Returns the score that decided, if it was not the loss.
fn score(choice: Choice) -> Option<SweepScore> {
    let metric = choice.metric?;
    // Every other metric that can decide is better when higher.
    let higher_is_better = Metric::by_name(&metric).is_none_or(|metric| metric.better() == Better::Higher);
    Some(SweepScore { metric, value: choice.score?, higher_is_better })
}
