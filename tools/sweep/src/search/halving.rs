//! Successive halving: short runs of all members, longer ones of the best.
//!
//! A longer run has the settings of the shorter one except its length, so `train` resumes from the artifact of the shorter one.

use outputs::SweepRecord;

use super::{Round, VALIDATED, WHOLE, add_round, empty};
use crate::member::{Member, known};
use crate::pool::Pool;
use crate::spec::Sweep;

/// Returns how many of `members` advance to the next rung, at least one.
pub(crate) fn kept(members: usize, keep_one_in: usize) -> usize {
    members.div_ceil(keep_one_in).max(1)
}

/// Returns the steps of all rungs together for one seed, when each run resumes from the one before.
pub(crate) fn total_steps(members: usize, rungs: &[u64], keep_one_in: usize) -> u64 {
    let (mut total, mut running, mut before) = (0, members, 0);
    for rung in rungs {
        total += running as u64 * (rung - before);
        before = *rung;
        running = kept(running, keep_one_in);
    }
    total
}

pub(super) fn drive(
    sweep: &Sweep,
    pool: &Pool,
    rungs: &[u64],
    keep_one_in: usize,
) -> failure::Result<SweepRecord> {
    let mut record = empty(sweep);
    let mut members = known(sweep)?;
    let longest = rungs.last().copied().unwrap_or(0);
    record.full_steps = Some((members.len() * sweep.seeds.len().max(1)) as u64 * longest);
    for (at, steps) in rungs.iter().enumerate() {
        let target = if at + 1 == rungs.len() { WHOLE } else { VALIDATED };
        tracing::info!("rung {} of {}: {} members, {steps} steps", at + 1, rungs.len(), members.len());
        add_round(&mut record, sweep, pool, &Round { members: &members, steps: Some(*steps), target })?;
        if at > 0 {
            warn_of_restarts(sweep, pool, &members, *steps)?;
        }
        let wanted = kept(members.len(), keep_one_in);
        members = best(&record, members);
        members.truncate(wanted);
    }
    Ok(record)
}

/// Returns the members that have a score, the best first.
fn best(record: &SweepRecord, members: Vec<Member>) -> Vec<Member> {
    let cost = |member: &Member| record.cost(record.members.iter().find(|known| known.name == member.name)?);
    let mut scored: Vec<(f64, Member)> =
        members.into_iter().filter_map(|member| Some((cost(&member)?, member))).collect();
    scored.sort_by(|a, b| a.0.total_cmp(&b.0));
    scored.into_iter().map(|(_, member)| member).collect()
}

/// Warns of runs that trained from the start although there is a shorter one.
fn warn_of_restarts(sweep: &Sweep, pool: &Pool, members: &[Member], steps: u64) -> failure::Result<()> {
    for run in members.iter().flat_map(|member| member.runs(sweep, Some(steps))) {
        if pool
            .make
            .trained_steps(&run)?
            .is_some_and(|trained| trained.all == steps && trained.taken_over == 0)
        {
            tracing::warn!(
                "{} trained its {steps} steps from the start: `make plan SET=…` says why it could not resume from the shorter run",
                run.name
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_members_are_trained_to_the_end() {
        assert_eq!([1, 2, 3, 4, 12, 13].map(|members| kept(members, 3)), [1, 1, 1, 2, 4, 5]);
        // 12 × 10, 4 × 10, 2 × 20 instead of 12 × 40.
        assert_eq!(total_steps(12, &[10, 20, 40], 3), 200);
    }
}
