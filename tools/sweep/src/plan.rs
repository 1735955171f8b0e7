//! `--plan`: members, shared work, time and memory, before anything runs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use artifact::Store;
use outputs::STAGES;

use crate::error::Result;
use crate::history::{Times, times};
use crate::make::{Make, StagePlan};
use crate::member::{Member, Run, known};
use crate::pool::{Pool, parallel};
use crate::search::{kept, total_steps};
use crate::space::{Domain, words};
use crate::spec::{Search, Sweep};

/// A run and what its stages would do.
struct Planned {
    run: Run,
    stages: Vec<StagePlan>,
}

impl Planned {
    fn stage(&self, name: &str) -> Option<&StagePlan> {
        self.stages.iter().find(|stage| stage.stage == name)
    }

    /// Returns what happens first, in words.
    fn state(&self) -> String {
        match self.stages.last() {
            Some(last) if last.stage == "report" && last.is_up_to_date() => "up to date".to_owned(),
            Some(last) if last.action == "resume" => format!("would resume {}", last.stage),
            Some(last) if last.is_up_to_date() => "would run".to_owned(),
            Some(last) => format!("would run from {}", last.stage),
            None => "would run".to_owned(),
        }
    }

    /// Returns the settings that decide the artifact of a stage: those of it and of all stages before it.
    fn settings_until(&self, stage: usize) -> Vec<String> {
        let until = &STAGES[..=stage];
        let belongs = |setting: &str| until.iter().any(|stage| setting.split('.').next() == Some(stage.name));
        words(&self.run.settings).into_iter().filter(|word| belongs(word)).collect()
    }
}

/// Returns the runs of members that come first.
fn first_runs(sweep: &Sweep, members: &[Member]) -> Vec<Run> {
    let steps = match &sweep.search {
        Search::Halving { rungs, .. } => rungs.first().copied(),
        _ => None,
    };
    members.iter().flat_map(|member| member.runs(sweep, steps)).collect()
}

/// Fails if the settings of every run are refused, for example because a name is misspelled. If only some runs have wrong values, those
/// runs fail later and the others go on.
pub(crate) fn check_settings(sweep: &Sweep, make: &Make) -> Result<()> {
    let Ok(members) = known(sweep) else { return Ok(()) };
    let mut refused = Ok(());
    for run in first_runs(sweep, &members) {
        match make.check_settings(&run) {
            Ok(()) => return Ok(()),
            Err(error) => refused = refused.and(Err(error)),
        }
    }
    refused
}

/// Returns the plan as text.
pub(crate) fn describe(sweep: &Sweep, pool: &Pool) -> Result<String> {
    let mut text =
        format!("sweep {}: {} with {}, {}\n", sweep.name, sweep.pipeline, sweep.model, chosen(sweep));
    for dimension in &sweep.space {
        let _ = writeln!(text, "  {}: {}", dimension.setting, values(&dimension.domain));
    }
    let Ok(members) = known(sweep) else {
        text += "The members after the first are proposed from results, so they cannot be listed.\n";
        return Ok(text);
    };
    let runs = first_runs(sweep, &members);
    let plans = parallel(pool.jobs(), &runs, |run| pool.make.plan(run));
    let planned: Vec<Planned> = runs
        .into_iter()
        .zip(plans)
        .map(|(run, stages)| Ok(Planned { run, stages: stages? }))
        .collect::<Result<_>>()?;
    let longest = planned.iter().map(|planned| planned.run.name.len()).max().unwrap_or(0);
    text += "\nmembers:\n";
    for planned in &planned {
        let _ = writeln!(text, "  {:longest$}  {}", planned.run.name, planned.state());
    }
    let work = Work::new(sweep, pool, &planned);
    text += &work.describe(planned.len());
    text += &rungs(sweep, members.len());
    text += &work.time(pool);
    text += &memory(pool, &planned);
    Ok(text)
}

fn chosen(sweep: &Sweep) -> String {
    let seeds = match sweep.seeds.len() {
        0 | 1 => String::new(),
        count => format!(" with {count} seeds each"),
    };
    let members = known(sweep).map_or(0, |members| members.len());
    match &sweep.search {
        Search::Grid => format!("a grid of {members} members{seeds}"),
        Search::Random(_) => format!("{members} members drawn at random{seeds}"),
        Search::Halving { rungs, .. } => {
            format!("successive halving of {members} members in {} rungs{seeds}", rungs.len())
        }
        Search::Tpe { draws, startup, .. } => {
            format!(
                "{} members{seeds}, the first {} drawn at random",
                draws.members,
                startup.min(&draws.members)
            )
        }
    }
}

fn values(domain: &Domain) -> String {
    match (domain, domain.grid()) {
        (_, Some(values)) => values.iter().map(crate::value::text).collect::<Vec<_>>().join(", "),
        (Domain::Range(range), None) => {
            let scale = if range.logarithmic { ", logarithmic" } else { "" };
            let kind = if range.integer { "whole numbers " } else { "" };
            format!("{kind}from {:?} to {:?}{scale}", range.low, range.high)
        }
        (Domain::Choices(_), None) => unreachable!("choices are a grid"),
    }
}

/// Work of one stage for all runs.
struct StageWork {
    name: &'static str,
    /// Artifacts that the runs need.
    artifacts: usize,
    /// Artifacts that would be made.
    missing: usize,
    times: Times,
    /// Expected time of one artifact in seconds, if the store has similar ones.
    seconds: Option<f64>,
}

struct Work(Vec<StageWork>);

impl Work {
    fn new(sweep: &Sweep, pool: &Pool, planned: &[Planned]) -> Self {
        let store = Store::open(&pool.make.store).ok();
        let model =
            planned.iter().find_map(|planned| planned.stage("import-model")).map(|stage| stage.key.clone());
        let work = STAGES.iter().enumerate().map(|(at, stage)| {
            let mut groups: BTreeMap<Vec<String>, bool> = BTreeMap::new();
            for planned in planned {
                let is_made = planned.stage(stage.name).is_some_and(StagePlan::is_up_to_date);
                *groups.entry(planned.settings_until(at)).or_default() |= is_made;
            }
            let times =
                store.as_ref().map(|store| times(store, stage.name, model.as_deref())).unwrap_or_default();
            StageWork {
                name: stage.name,
                artifacts: groups.len(),
                missing: groups.values().filter(|is_made| !**is_made).count(),
                times,
                seconds: expected(sweep, stage.name, planned, times),
            }
        });
        Self(work.collect())
    }

    fn describe(&self, runs: usize) -> String {
        let mut text = format!("\nshared work of {runs} runs:\n");
        for stage in &self.0 {
            let missing = match stage.missing {
                0 => "up to date".to_owned(),
                missing => format!("{missing} to make"),
            };
            let count = if stage.artifacts == 1 {
                "once for all".to_owned()
            } else {
                format!("{} times", stage.artifacts)
            };
            let _ = writeln!(text, "  {:13} {count:13} {missing}", stage.name);
        }
        text
    }

    fn time(&self, pool: &Pool) -> String {
        let waiting = self.0.iter().filter(|stage| stage.missing > 0);
        if waiting.clone().count() == 0 {
            return "\ntime: nothing would run\n".to_owned();
        }
        let total: Option<f64> =
            waiting.clone().map(|stage| Some(stage.seconds? * stage.missing as f64)).sum();
        let Some(total) = total else {
            let unknown: Vec<&str> =
                waiting.filter(|stage| stage.seconds.is_none()).map(|stage| stage.name).collect();
            return format!(
                "\ntime: not known, because the store has no run of {} with this model\n",
                unknown.join(", ")
            );
        };
        let earlier = waiting.map(|stage| stage.times.artifacts).min().unwrap_or(0);
        let jobs = pool.jobs();
        format!(
            "\ntime: about {} for one run after the other, no less than {} with {jobs} at a time (from {earlier} or more artifacts of each stage)\n",
            duration(total),
            duration(total / jobs as f64),
        )
    }
}

/// Returns the expected time of a stage in seconds; train takes as long as its steps.
fn expected(sweep: &Sweep, stage: &str, planned: &[Planned], times: Times) -> Option<f64> {
    if times.artifacts == 0 {
        return None;
    }
    let steps: Vec<f64> = planned.iter().filter_map(steps_of).collect();
    match times.seconds_per_step {
        Some(each) if stage == "train" && !steps.is_empty() => {
            let mean = steps.iter().sum::<f64>() / steps.len() as f64;
            Some(each * halving_steps(sweep).unwrap_or(mean))
        }
        _ => Some(times.seconds),
    }
}

/// Returns the steps of a run, if its settings name them.
fn steps_of(planned: &Planned) -> Option<f64> {
    let steps = planned.stage("train")?.settings["steps"].as_f64()?;
    (steps > 0.0).then_some(steps)
}

/// Returns the mean steps of a member of successive halving.
fn halving_steps(sweep: &Sweep) -> Option<f64> {
    let Search::Halving { rungs, keep_one_in, .. } = &sweep.search else { return None };
    let members = known(sweep).ok()?.len();
    Some(total_steps(members, rungs, *keep_one_in) as f64 / members as f64)
}

fn rungs(sweep: &Sweep, members: usize) -> String {
    let Search::Halving { rungs, keep_one_in, .. } = &sweep.search else { return String::new() };
    let mut text = "\nrungs:\n".to_owned();
    let mut running = members;
    for steps in rungs {
        let _ = writeln!(text, "  {running:4} members to step {steps}");
        running = kept(running, *keep_one_in);
    }
    let seeds = sweep.seeds.len().max(1) as u64;
    let all = members as u64 * rungs.last().copied().unwrap_or(0) * seeds;
    let total = total_steps(members, rungs, *keep_one_in) * seeds;
    let _ = writeln!(
        text,
        "  {total} steps instead of {all} of a grid ({:.0} %)",
        100.0 * total as f64 / all.max(1) as f64
    );
    text
}

fn memory(pool: &Pool, planned: &[Planned]) -> String {
    let trains = || planned.iter().filter_map(|planned| planned.stage("train"));
    let needed = trains().filter_map(|train| train.memory).max();
    let budget = pool.budget(trains().find_map(|train| train.memory_limit));
    let (Some(needed), Some(budget)) = (needed, budget) else {
        return "memory: known once prepare-data has run\n".to_owned();
    };
    let fitting = budget.fitting(needed).min(pool.jobs() as u64);
    format!(
        "memory: train needs up to {:.2} GB; {fitting} at a time fit into {:.1} GB and the cores\n",
        needed as f64 / 1e9,
        budget.total() as f64 / 1e9
    )
}

/// Formats seconds in at most two units.
fn duration(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, _) => format!("{seconds:.1} s"),
        (0, minutes, seconds) => format!("{minutes} min {seconds} s"),
        (hours, minutes, _) => format!("{hours} h {minutes} min"),
    }
}
